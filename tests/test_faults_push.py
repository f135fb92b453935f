"""What a push sends: what an export writes and what is named, and nothing else that lies in a folder or is linked."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from supersam_hf import SuperSamModel
from supersam_hf.hub import export, push
from supersam_hf_cli import main


if TYPE_CHECKING:
    from hub_server import HubServer

REPO = "loopback/sam"
PRIVATE = {"id_rsa": "-----BEGIN", "notes.txt": "dear diary", ".env": "TOKEN=hf_", "passport.png": "png"}


@pytest.fixture(scope="module")
def exported(stock_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = SuperSamModel.from_pretrained(stock_folder)
    figure = tmp_path_factory.mktemp("figure") / "widths.png"
    Image.new("RGB", (4, 4)).save(figure)
    card = "---\ntags: [a]\n---\n# A model\n\n![Widths](widths.png)\n"
    return export(model, tmp_path_factory.mktemp("exported") / "sam", card=card, figures={"widths.png": figure})


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """An export in which somebody keeps other files."""
    here = shutil.copytree(exported, tmp_path / "model")
    for name, text in PRIVATE.items():
        (here / name).write_text(text)
    (here / "keys").mkdir()
    (here / "keys" / "deploy").write_text("secret")
    return here


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    here = tmp_path / "adapter"
    here.mkdir()
    (here / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": REPO}))
    save_file({"a": torch.ones(2)}, here / "adapter_model.safetensors")
    (here / "id_rsa").write_text("secret")
    return here


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    here = tmp_path / "prepared"
    (here / "data").mkdir(parents=True)
    rows = datasets.Dataset.from_dict({"label": [0, 1]})
    rows.to_parquet(here / "data" / "train-00000-of-00001.parquet")
    (here / "README.md").write_text("---\nlicense: mit\n---\n# Shapes\n")
    (here / "id_rsa").write_text("secret")
    (here / "data" / "patients.csv").write_text("name")
    return here


def sent(hub: "HubServer", kind: str = "models") -> set[str]:
    return set(hub.repos[kind, REPO].files()) - {".gitattributes"}


def test_of_a_model_folder_what_an_export_writes_is_sent(
    hub: "HubServer", exported: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push(folder, REPO)
    assert sent(hub) == {path.name for path in exported.iterdir()}
    assert "widths.png" in sent(hub)
    (told,) = [message for message in caplog.messages if message.startswith("not sent of")]
    assert all(name in told for name in (*PRIVATE, "keys/ (1 file)"))
    assert "config.json" not in told


def test_a_folder_exported_on_the_way_sends_no_more(hub: "HubServer", stock_folder: Path, folder: Path) -> None:
    saved = folder.parent / "saved"
    SuperSamModel.from_pretrained(stock_folder).save_pretrained(saved)
    (saved / "passport.png").write_bytes(b"png")
    push(saved, REPO)
    assert "passport.png" not in sent(hub)
    assert "modeling_supersam.py" in sent(hub)


def test_what_is_named_is_sent_as_well(hub: "HubServer", folder: Path) -> None:
    push(folder, REPO, include=["notes.txt", "keys/deploy"])
    assert {"notes.txt", "keys/deploy"} < sent(hub)
    assert not {"id_rsa", ".env", "passport.png"} & sent(hub)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".env", "hidden files are not published"),
        ("keys/../.env", "give paths within"),
        ("../model/notes.txt", "give paths within"),
        ("/etc/hostname", "give paths within"),
        ("keys", "no such file; folders are sent file by file"),
        ("missing.txt", "no such file"),
        ("link.txt", "link.txt of .* is a link to .*secret, which lies elsewhere"),
    ],
)
def test_what_cannot_be_named_is_refused(hub: "HubServer", folder: Path, name: str, message: str) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "link.txt").symlink_to(folder.parent / "secret")
    with pytest.raises(ValueError, match=message):
        push(folder, REPO, include=[name])
    assert hub.requests == []


@pytest.mark.parametrize("name", ["README.md", "search.json", "widths.png", "model.safetensors", "config.json"])
def test_a_link_out_of_the_folder_is_refused(hub: "HubServer", folder: Path, name: str) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(ValueError, match=f"{name} of .* is a link to .*secret, which lies elsewhere"):
        push(folder, REPO)
    assert hub.requests == []


def test_a_link_within_the_folder_is_a_file(hub: "HubServer", folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    push(folder, REPO)
    assert hub.repos["models", REPO].files()["model.safetensors"] == (folder / "weights").read_bytes()
    assert "weights" not in sent(hub)


def test_an_index_that_names_weights_elsewhere_is_refused(hub: "HubServer", folder: Path) -> None:
    index = {"weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names \['../other.safetensors'\], which are no shards"):
        push(folder, REPO)
    assert hub.requests == []


def test_of_an_adapter_its_two_files_are_sent(hub: "HubServer", adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (adapter / "linked").symlink_to(tmp_path / "secret")
    push(adapter, REPO)
    assert sent(hub) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}


def test_an_adapter_whose_base_is_a_folder_sends_no_more(hub: "HubServer", adapter: Path, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    push(adapter, REPO)
    assert sent(hub) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}


def test_of_a_dataset_its_parquet_files_are_sent(
    hub: "HubServer", dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from supersam_hf.hub.push_dataset import push_dataset

    push_dataset(dataset, REPO, own_part=("<!-- a -->", "<!-- b -->"))
    assert sent(hub, "datasets") == {"README.md", "data/train-00000-of-00001.parquet"}
    assert "data/ (1 file), id_rsa" in caplog.text
    push_dataset(dataset, REPO, own_part=("<!-- a -->", "<!-- b -->"), include=["data/patients.csv"])
    assert "data/patients.csv" in sent(hub, "datasets")


def test_a_dataset_in_linked_folders_is_refused(hub: "HubServer", dataset: Path) -> None:
    from supersam_hf.hub.push_dataset import push_dataset

    (dataset / "data").rename(dataset.parent / "elsewhere")
    (dataset / "data").symlink_to(dataset.parent / "elsewhere")
    with pytest.raises(ValueError, match=r"data/train-00000-of-00001.parquet of .* lies elsewhere"):
        push_dataset(dataset, REPO, own_part=("<!-- a -->", "<!-- b -->"))
    assert hub.requests == []


def test_a_dry_run_lists_what_is_sent_and_what_stays(
    hub: "HubServer", folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["push", str(folder), REPO, "--dry_run", "--include", "notes.txt"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.endswith(" notes.txt")]
    (stays,) = [line for line in told if line.startswith("not sent of")]
    assert "id_rsa" in stays
    assert "notes.txt" not in stays
    assert hub.requests == []


def test_prepare_lists_what_it_would_send(
    hub: "HubServer", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "raw"
    for split in ("cat", "dog"):
        (source / split).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(source / split / "a.png")
    arguments = ["prepare", str(source), "--output_dir", str(tmp_path / "out"), "--push", REPO]
    assert main([*arguments, "--dry_run"]) == 0
    (tmp_path / "out" / "id_rsa").write_text("secret")
    assert main([*arguments, "--dry_run"]) == 0
    told = capsys.readouterr().err
    assert told.count(" data/train-00000-of-00001.parquet") == 2
    assert "not sent of" in told
    assert "id_rsa" in told
    assert hub.requests == []
    assert main(["prepare", str(source), "--output_dir", str(tmp_path / "o"), "--dry_run"]) == 2
    assert "name its repository by `--push`" in capsys.readouterr().err


def test_of_a_run_no_linked_file_is_read(hub: "HubServer", supersam_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(supersam_run, tmp_path / "run")
    (tmp_path / "secret").write_bytes((run / "pareto.png").read_bytes())
    (run / "pareto.png").unlink()
    (run / "pareto.png").symlink_to(tmp_path / "secret")
    assert main(["push", str(run), REPO, "--name", "supernet"]) == 2
    assert ("models", REPO) not in hub.repos


def test_what_is_named_of_a_run_goes_along(hub: "HubServer", supersam_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(supersam_run, tmp_path / "run")
    (run / "notes.txt").write_text("for all")
    (run / "id_rsa").write_text("secret")
    assert main(["push", str(run), REPO, "--include", "notes.txt"]) == 0
    assert "notes.txt" in sent(hub)
    assert "id_rsa" not in sent(hub)
