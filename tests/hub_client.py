"""Points the libraries of this process at a Hub on loopback."""

import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import evaluate
import pytest
from conftest import forget_remote_code
from hub_server import HubServer
from huggingface_hub import HfFileSystem, close_session, constants, file_download, hf_api
from huggingface_hub.utils import _http
from transformers import dynamic_module_utils
from transformers.utils import hub as transformers_hub


def point_at(server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points this process at a Hub: most settings were read from the environment when the libraries were imported."""
    settings = server.settings(home)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    url, cache, modules = server.url, settings["HF_HUB_CACHE"], settings["HF_MODULES_CACHE"]
    hub = {"ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}"}
    hub |= {"HF_HUB_CACHE": cache, "HF_HOME": str(home), "HF_TOKEN_PATH": str(home / "token")}
    hub |= {"HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"}}
    hub |= {"AGENT_HARNESSES_PATH": str(home / "agents.json")}
    switches = {"HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_TELEMETRY": True}
    data = {"HF_ENDPOINT": url, "HUB_DATASETS_URL": url + "/datasets/{repo_id}/resolve/{revision}/{path}"}
    data |= {"HF_DATASETS_CACHE": home / "datasets", "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads"}
    data |= {"EXTRACTED_DATASETS_PATH": home / "datasets" / "extracted", "HF_HUB_OFFLINE": False}
    metric = {"HF_ENDPOINT": url, "HUB_EVALUATE_URL": url + "/spaces/{path}/resolve/{revision}/{name}"}
    metric |= {"DOWNLOADED_EVALUATE_PATH": home / "evaluate" / "downloads", "HF_METRICS_CACHE": home / "metrics"}
    places = [(constants, hub | switches), (datasets.config, data), (evaluate.config, metric)]
    places += [(place, {"HF_MODULES_CACHE": modules}) for place in (transformers_hub, dynamic_module_utils)]
    for place, values in places:
        for name, value in values.items():
            monkeypatch.setattr(place, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    monkeypatch.setattr(transformers_hub, "_hf_api", None)  # made anew at its first use
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for place in (_http, file_download):
        monkeypatch.setattr(place, "time", impatient)
    forget_remote_code(monkeypatch)
    HfFileSystem.clear_instance_cache()
    close_session()
