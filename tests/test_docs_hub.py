"""The Python of README's and docs/hub.md's Hub parts, run against a Hub on loopback with what tiny runs left."""

import re
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from PIL import Image

from supersam_hf import SuperSamModel
from supersam_hf_cli import main


ROOT = Path(__file__).parents[1]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run(block: str, names: dict[str, Any], **replaced: str) -> dict[str, Any]:
    """Executes a block with these names in place of the page's."""
    for old, new in replaced.items():
        assert old in block, old
        block = block.replace(old, new)
    exec(compile(block, "docs", "exec"), names)
    return names


def pushed(run_folder: Path, repo_id: str, name: str) -> None:
    assert main(["push", str(run_folder), repo_id, "--name", name]) == 0


def test_the_readmes_hub_part_runs(hub: HubServer, supersam_run: Path) -> None:
    pushed(supersam_run, "loopback/sam-shapes", "subnet")
    pushed(supersam_run, "loopback/supersam-shapes", "supernet")
    block = python_blocks("README.md")[2].replace("me/", "loopback/")
    names = run(block, {}, **{"pareto-2": "pareto-0", "max_params=0.7": "max_params=1.0"})
    assert isinstance(names["small"], SuperSamModel)
    assert names["small"].config.subnet_name.startswith("pareto-")


def test_the_hub_pages_sam_parts_run(
    hub: HubServer, supersam_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    supernet = SuperSamModel.from_pretrained(supersam_run / "supernet")
    space = supernet.elastic_space
    exports, loads, fronts, pipelines, adapters, _ = (
        b.replace("org/", "loopback/") for b in python_blocks("docs/hub.md")
    )
    names = run(exports, {"model": supernet.extract(space.smallest())})
    assert names["commit"].pr_url is None
    assert hub.repos["models", "loopback/sam-small"].private
    assert hub.repos["models", "loopback/sam-small"].pulls == {}  # nothing had changed

    pushed(supersam_run, "loopback/sam-nuclei", "subnet")
    pushed(supersam_run, "loopback/supersam-nuclei", "supernet")
    assert main(["push", str(supersam_run), "loopback/sam-nuclei-stock", "--name", "largest", "--stock"]) == 0
    names = run(loads, {})
    names = run(
        fronts, names, **{"pareto-2": "pareto-0", "max_params=0.6, max_macs=0.5": "max_params=1.0, max_macs=1.0"}
    )
    assert names["small"].config.subnet_name.startswith("pareto-")

    Image.new("RGB", (40, 30), (90, 120, 0)).save("cells.png")
    masks_only = pipelines.split("labels =")[0]
    names = run(masks_only, {}, **{"points_per_batch=64": "points_per_batch=64, pred_iou_thresh=0.0"})
    assert isinstance(names["masks"], list)

    names = run(adapters, {}, **{"runs/nuclei/reordered": str(supersam_run / "supernet")})
    assert isinstance(names["merged"], SuperSamModel)
    assert (tmp_path / "small-adapter" / "adapter_model.safetensors").is_file()


def test_the_hub_pages_classifier_parts_run(
    hub: HubServer, ofb_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supersam_hf.data import shape_classes

    monkeypatch.chdir(tmp_path)
    pushed(ofb_run, "loopback/deit-tiny-half", "finetuned")
    blocks = [block.replace("org/", "loopback/") for block in python_blocks("docs/hub.md")]
    Image.new("RGB", (32, 32), (90, 120, 0)).save("cat.png")
    imports, _, labels = blocks[3].partition("masks =")
    classify = imports + labels[labels.index("labels =") :].replace("labels = pipeline(", "pipe = pipeline(")
    names = run(classify, {}, **{'("cat.png")': ""})
    assert len(names["pipe"]("cat.png")) > 1
    names["dataset"] = shape_classes(8, image_size=32, seed=1)
    assert 0 <= run(blocks[5], names)["results"]["top5"] <= 1
