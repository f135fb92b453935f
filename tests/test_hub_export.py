"""Exported folders, loaded by the package, as remote code without it, and as stock transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import forget_remote_code, randomised
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, SamModel, dynamic_module_utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from supersam_hf import (
    OfbViTConfig,
    OfbViTForImageClassification,
    OfbViTForSemanticSegmentation,
    OfbViTModel,
    Subnet,
    SuperSamModel,
)
from supersam_hf.hub import export
from supersam_hf.hub.contents import prepared
from supersam_hf.hub.folder import is_ours


# Runs in a fresh process: does each job, and saves what the models give.
JOBS = """
import json, sys
import numpy as np
import torch, transformers
from safetensors.torch import load_file, save_file
jobs, results = json.loads(sys.argv[1]), sys.argv[2]
if "package" in sys.argv:
    import supersam_hf
image = (np.arange(40 * 60 * 3) % 251).astype("uint8").reshape(40, 60, 3)
outputs, told = {}, []
for number, job in enumerate(jobs):
    options = {"trust_remote_code": True} if job["trust"] else {}
    try:
        loaded = getattr(transformers, job["class"]).from_pretrained(job["folder"], **options)
    except ValueError as error:
        told.append(str(error))
        continue
    told.append(type(loaded).__name__)
    if "save" in job:
        loaded.save_pretrained(job["save"])
    if "Model" in job["class"]:
        with torch.no_grad():
            found = loaded.eval()(**load_file(job["inputs"]))
    else:
        found = loaded(images=image, return_tensors="pt")
    for key, value in found.items():
        if key in ("pred_masks", "iou_scores", "logits", "last_hidden_state", "pixel_values"):
            outputs[f"{number} {key}"] = value.detach().contiguous()
save_file(outputs, results)
print()  # after a prompt of transformers'
print(json.dumps(told))
"""
CLASSIFIER = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
SEGMENTER_CODE = {"attention_ofb_vit.py", "configuration_ofb_vit.py", "modeling_ofb_vit.py", "segmentation_ofb_vit.py"}
SAM = {"config.json", "model.safetensors", "processor_config.json", "README.md"}
SAM_CODE = {
    "attention_supersam.py",
    "configuration_supersam.py",
    "elastic_supersam.py",
    "extraction_supersam.py",
    "image_processing_supersam.py",
    "layers_supersam.py",
    "modeling_supersam.py",
    "pareto_supersam.py",
    "rgb_supersam.py",
}


class Loads:
    """A list of loads, done in one fresh process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, []

    def add(self, model: Path, name: str, trust: bool = True, **options: str) -> None:
        self.jobs.append({"folder": str(model), "class": name, "trust": trust, **options})

    def run(self, python: str, *arguments: str) -> list[tuple[str, dict[str, torch.Tensor]]]:
        """For each, the class that was loaded, or the error, and its outputs."""
        results = self.folder / "results.safetensors"
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(self.folder / "home")}
        command = [python, "-c", JOBS, json.dumps(self.jobs), str(results), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=self.folder, input="")
        assert done.returncode == 0, done.stderr
        outputs: list[dict[str, torch.Tensor]] = [{} for _ in self.jobs]
        for key, value in load_file(results).items():
            number, name = key.split()
            outputs[int(number)][name] = value
        return list(zip(json.loads(done.stdout.splitlines()[-1]), outputs))


@pytest.fixture(scope="module")
def sam(stock_folder: Path) -> SuperSamModel:
    return SuperSamModel.from_pretrained(stock_folder).eval()


@pytest.fixture(scope="module")
def depth_only(sam: SuperSamModel) -> SuperSamModel:
    return sam.extract(Subnet((0, 1, 3, 4), (192,) * 4, (16,) * 4))


@pytest.fixture(scope="module")
def uneven(sam: SuperSamModel) -> SuperSamModel:
    return sam.extract(Subnet((0, 1, 4, 5), (192, 48, 96, 96), (16, 16, 8, 16)))


def searched_classifier() -> OfbViTForImageClassification:
    widths = {0: {"num_attention_heads": 2, "head_dim": 12, "intermediate_size": 40}, 2: {"intermediate_size": 56}}
    config = OfbViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_labels=5,
        query_pre_attn_scalar=16,
        per_layer_config=widths,
    )
    return randomised(OfbViTForImageClassification(config))


def segmenter_on(classifier: Path, tmp_path: Path) -> OfbViTForSemanticSegmentation:
    """With a head whose norms have seen images."""
    model = OfbViTForSemanticSegmentation.from_pretrained(classifier, num_labels=3, segmentation_channels=8)
    model.train()(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    return model.eval()


@pytest.fixture(scope="module")
def classifier() -> OfbViTForImageClassification:
    return searched_classifier()


@pytest.fixture
def image_processor(vit_folder: Path) -> Any:
    return AutoImageProcessor.from_pretrained(vit_folder)


@pytest.fixture
def sam_inputs(inputs: dict[str, torch.Tensor], tmp_path: Path) -> str:
    save_file(inputs, tmp_path / "sam.safetensors")
    return str(tmp_path / "sam.safetensors")


def outputs_of(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return dict(model(**inputs).items())


def assert_same(found: dict[str, torch.Tensor], model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Bit for bit what the model gives in this process."""
    expected = outputs_of(model, inputs)
    assert found
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_sam_folder_holds_what_it_needs_and_no_more(uneven: SuperSamModel, tmp_path: Path) -> None:
    figure = tmp_path / "drawn.png"
    figure.write_bytes(b"png")
    folder = export(uneven, tmp_path / "out", search={"seed": 0}, pareto={"points": []}, figures={"a.png": figure})
    records = {"search.json", "pareto.json", "a.png"}
    assert names(folder) == SAM | SAM_CODE | records
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForMaskGeneration"}
    processor = json.loads((folder / "processor_config.json").read_text())
    assert set(processor["auto_map"]) == {"AutoProcessor", "AutoImageProcessor"}
    for reference in {*auto_map.values(), *processor["auto_map"].values()}:
        module, name = reference.split(".")
        assert f"class {name}" in (folder / f"{module}.py").read_text()
    assert json.loads((folder / "search.json").read_text()) == {"seed": 0}
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "mask-generation"
    assert uneven.config.to_dict().get("auto_map") is None
    assert names(tmp_path) == {"out", "drawn.png"}


def test_without_the_package(
    uneven: SuperSamModel,
    depth_only: SuperSamModel,
    classifier: Any,
    image_processor: Any,
    inputs: dict[str, torch.Tensor],
    sam_inputs: str,
    bare_python: str,
    tmp_path: Path,
) -> None:
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    save_file(pixels, tmp_path / "pixels.safetensors")
    sam, vit = {"inputs": sam_inputs}, {"inputs": str(tmp_path / "pixels.safetensors")}
    folder, depth = export(uneven, tmp_path / "org-name.v1"), export(depth_only, tmp_path / "depth")
    found = export(classifier, tmp_path / "found", processor=image_processor)
    segmenter = segmenter_on(found, tmp_path)
    segmented = export(segmenter, tmp_path / "segmented", processor=image_processor)
    assert names(segmented) == CLASSIFIER | SEGMENTER_CODE
    stock = export(depth_only, tmp_path / "stock", stock=True)
    again, third = tmp_path / "again", tmp_path / "third"

    loads = Loads(tmp_path)
    loads.add(folder, "AutoModelForMaskGeneration", trust=False)
    loads.add(folder, "AutoProcessor", trust=False)
    loads.add(folder, "AutoModelForMaskGeneration", save=str(again), **sam)
    loads.add(folder, "AutoModel", save=str(third), **sam)
    loads.add(folder, "AutoProcessor", save=str(again))
    loads.add(folder, "AutoImageProcessor")
    for saved in (again, third):  # from the remote classes: with their code
        loads.add(saved, "AutoModelForMaskGeneration", **sam)
        loads.add(saved, "AutoModel", **sam)
    loads.add(again, "AutoProcessor")
    loads.add(again, "AutoImageProcessor")
    loads.add(depth, "SamModel", trust=False, **sam)
    loads.add(stock, "AutoModelForMaskGeneration", trust=False, **sam)
    loads.add(stock, "AutoProcessor", trust=False)
    loads.add(found, "AutoModelForImageClassification", **vit)
    loads.add(found, "AutoModel", **vit)
    loads.add(found, "AutoImageProcessor", trust=False)
    loads.add(segmented, "AutoModelForSemanticSegmentation", save=str(tmp_path / "resaved"), **vit)
    loads.add(segmented, "AutoModel", **vit)
    loads.add(tmp_path / "resaved", "AutoModelForSemanticSegmentation", **vit)
    results = loads.run(bare_python)

    told = [name for name, _ in results]
    assert all("contains custom code which must be executed" in text for text in told[:2])
    processors = ["SuperSamProcessor", "SuperSamImageProcessor"]
    assert told[2:12] == ["SuperSamModel"] * 2 + processors + ["SuperSamModel"] * 4 + processors
    assert told[12:15] == ["SamModel", "SamModel", "SamProcessor"]
    assert told[15:18] == ["OfbViTForImageClassification", "OfbViTModel", "ViTImageProcessorPil"]
    assert told[18:] == ["OfbViTForSemanticSegmentation", "OfbViTModel", "OfbViTForSemanticSegmentation"]
    outputs = [output for _, output in results]
    for output in (*outputs[2:4], *outputs[6:10]):
        assert_same(output, uneven, inputs)
    for output in outputs[12:14]:
        assert_same(output, depth_only, inputs)
    assert_same(outputs[15], classifier, pixels)
    assert_same(outputs[16], classifier.vit, pixels)
    for output in (outputs[18], outputs[20]):
        assert_same(output, segmenter, pixels)
    assert torch.equal(outputs[19]["last_hidden_state"], outputs[16]["last_hidden_state"])
    prepared = [outputs[i]["pixel_values"] for i in (4, 5, 10, 11, 14)]
    assert all(torch.equal(prepared[0], other) for other in prepared[1:])


def test_with_the_package(
    uneven: SuperSamModel,
    classifier: Any,
    image_processor: Any,
    inputs: dict[str, torch.Tensor],
    sam_inputs: str,
    tmp_path: Path,
) -> None:
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    save_file(pixels, tmp_path / "pixels.safetensors")
    folder = export(uneven, tmp_path / "org-name.v1")
    found = export(classifier, tmp_path / "found", processor=image_processor)
    loads = Loads(tmp_path)
    for name in ("AutoModelForMaskGeneration", "AutoModel"):
        loads.add(folder, name, trust=False, inputs=sam_inputs)
    for name in ("AutoModelForImageClassification", "AutoModel"):
        loads.add(found, name, trust=False, inputs=str(tmp_path / "pixels.safetensors"))
    for name in ("AutoProcessor", "AutoImageProcessor"):
        loads.add(folder, name, trust=False)
    results = loads.run(sys.executable, "package")
    assert [name for name, _ in results] == [
        *("SuperSamModel", "SuperSamModel", "OfbViTForImageClassification", "OfbViTModel"),
        *("SuperSamProcessor", "SuperSamImageProcessor"),
    ]
    outputs = [output for _, output in results]
    for output, model in zip(outputs, (uneven, uneven, classifier, classifier.vit)):
        assert_same(output, model, inputs if model is uneven else pixels)
    assert_same(outputs_of(SuperSamModel.from_pretrained(folder), inputs), uneven, inputs)
    assert_same(outputs_of(OfbViTForImageClassification.from_pretrained(found), pixels), classifier, pixels)


def test_a_model_of_remote_code_is_exported_with_it(
    uneven: SuperSamModel, inputs: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    forget_remote_code(monkeypatch)
    folder = export(uneven, tmp_path / "out")
    remote = get_class_from_dynamic_module("modeling_supersam.SuperSamModel", str(folder))
    assert remote is not SuperSamModel
    again = export(remote.from_pretrained(folder), tmp_path / "again")
    assert names(again) == names(folder)
    for name in SAM_CODE:
        assert (again / name).read_text() == (folder / name).read_text(), name
    for name in ("processor_config.json", "config.json"):
        assert json.loads((again / name).read_text()) == json.loads((folder / name).read_text()), name
    assert_same(outputs_of(SuperSamModel.from_pretrained(again), inputs), uneven, inputs)


def test_an_uneven_subnet_is_no_stock_sam(uneven: SuperSamModel, tmp_path: Path) -> None:
    folder = export(uneven, tmp_path / "out")
    with pytest.raises((RuntimeError, AttributeError, ValueError)):
        SamModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="one `mlp_dim`"):
        export(uneven, tmp_path / "stock", stock=True)
    assert not (tmp_path / "stock").exists()


def test_stock_export_holds_no_code(depth_only: SuperSamModel, tmp_path: Path) -> None:
    folder = export(depth_only, tmp_path / "out", stock=True)
    assert names(folder) == SAM
    assert json.loads((folder / "config.json").read_text())["model_type"] == "sam"
    processor = json.loads((folder / "processor_config.json").read_text())
    kinds = (processor["processor_class"], processor["image_processor"]["image_processor_type"])
    assert kinds == ("SamProcessor", "SamImageProcessor")
    assert "auto_map" not in str(processor)
    assert "trust_remote_code" not in (folder / "README.md").read_text()


def test_weights_are_split_where_asked(uneven: SuperSamModel, tmp_path: Path) -> None:
    folder = export(uneven, tmp_path / "out", max_shard_size="200KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    assert shards == {name for name in names(folder) if name.endswith(".safetensors")}
    state = SuperSamModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in uneven.state_dict().items())


def test_a_model_folder_is_replaced_whole(uneven: SuperSamModel, depth_only: SuperSamModel, tmp_path: Path) -> None:
    folder = export(uneven, tmp_path / "out", pareto={"points": []}, max_shard_size="200KB")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TypeError, match="not JSON serializable"):
        export(depth_only, folder, search={"seed": object()})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    export(depth_only, folder)
    assert names(folder) == SAM | SAM_CODE


def test_other_folders_are_left_as_they_are(uneven: SuperSamModel, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than a model"):
        export(uneven, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds something else than a model"):
        export(uneven, tmp_path)
    assert names(tmp_path) == {"notes.txt", "config.json"}


@pytest.mark.parametrize("name", [".git/HEAD", "notes.txt", "demo_supersam.py", "more/config.json"])
def test_what_lies_beside_a_model_is_left_as_it_is(uneven: SuperSamModel, name: str, tmp_path: Path) -> None:
    folder = export(uneven, tmp_path / "out", search={"seed": 0})
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds .*{name.split('/')[0]}.* beside a model"):
        export(uneven, folder)
    assert (folder / name).read_text() == "mine"


def test_the_current_directory_is_not_replaced(
    uneven: SuperSamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is the current directory"):
        export(uneven, ".")
    assert names(export(uneven, "out")) == SAM | SAM_CODE


def test_all_code_of_an_export_is_known_and_needed(
    uneven: SuperSamModel, classifier: Any, image_processor: Any, tmp_path: Path
) -> None:
    for model, processor in ((uneven, None), (classifier, image_processor)):
        folder = export(model, tmp_path / model.config.model_type, processor=processor)
        assert prepared(folder, tmp_path / "unused", {}) == folder
        for path in sorted(folder.glob("*.py")):
            assert is_ours(path.name)
            code = path.read_bytes()
            path.unlink()
            again = tmp_path / f"without-{path.stem}"
            assert prepared(folder, again, {}) == again
            assert (again / path.name).read_bytes() == code
            path.write_bytes(code)


def test_the_short_card_loads_what_it_is_beside(uneven: SuperSamModel, tmp_path: Path) -> None:
    card = (export(uneven, tmp_path / "out") / "README.md").read_text()
    assert 'from_pretrained(".", trust_remote_code=True)' in card
    card = (export(uneven, tmp_path / "named", repo_id="me/sam", revision="v1") / "README.md").read_text()
    assert 'from_pretrained("me/sam", revision="v1", trust_remote_code=True)' in card


def test_bad_input_is_refused_before_any_work(
    uneven: SuperSamModel, classifier: Any, image_processor: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(TypeError, match=r"must be one of.*got a NoneType"):
        export(None, out)
    with pytest.raises(ValueError, match=r"must be one of.*got a OfbViTModel"):
        export(OfbViTModel(classifier.config), out)
    with pytest.raises(ValueError, match="`processor` must be given for a classifier"):
        export(classifier, out)
    with pytest.raises(ValueError, match="no other model can"):
        export(classifier, out, processor=image_processor, stock=True)
    with pytest.raises(ValueError, match="there is no file"):
        export(uneven, out, figures={"a.png": tmp_path / "missing.png"})
    with pytest.raises(ValueError, match="named as image files"):
        export(uneven, out, figures={"../a.png": tmp_path / "a.png"})
    assert not out.exists()


def test_a_model_that_carries_an_adapter_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = searched_classifier()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["fc1"]))
    with pytest.raises(TypeError, match=r"must be one of.*got a PeftModel"):
        export(wrapped, tmp_path / "out")
    with pytest.raises(ValueError, match="carries an adapter"):
        export(model, tmp_path / "out", processor=object())
