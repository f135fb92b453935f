"""Exported models against PyTorch's and stock transformers'; the command, and what it refuses."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import fresh
import pytest
import torch
from conftest import tiny_classifier
from PIL import Image
from transformers import SamModel

from supersam_hf import OfbViTForImageClassification, Subnet, SuperSamModel
from supersam_hf_cli import main


pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from supersam_hf.deploy import (  # noqa: E402
    DeploymentError,
    OnnxClassifier,
    OnnxSam,
    check_outputs,
    export_onnx,
    prompt_tokens,
    quantize_model,
    quantize_onnx,
)


PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
POINTS = torch.tensor([[[[9.0, 12.0], [40.0, 33.0]], [[50.0, 20.0], [0.0, 0.0]]]])  # (1, 2, 2, 2)
LABELS = torch.tensor([[[1, 0], [1, -10]]])
BOXES = torch.tensor([[[5.0, 6.0, 30.0, 40.0], [10.0, 20.0, 60.0, 50.0]]])


def uneven(supernet: SuperSamModel) -> Subnet:
    """A middle layer removed, no two of the others alike."""
    vision = supernet.config.vision_config
    kept = tuple(i for i in range(vision.num_hidden_layers) if i != 1)
    mlp_dims, head_dims = vision.layer_widths
    widths = tuple(mlp_dims[i] - 4 * n for n, i in enumerate(kept, start=1))
    return Subnet(kept, widths, tuple(head_dims[i] for i in kept))


def distance(wanted: torch.Tensor, got: torch.Tensor) -> float:
    assert wanted.shape == got.shape
    return float((wanted - got).abs().max() / wanted.abs().max())


@pytest.fixture(scope="module")
def sam_folder(stock_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uneven subnet, as ONNX in fp32 and int8."""
    folder = tmp_path_factory.mktemp("onnx_sam")
    supernet = SuperSamModel.from_pretrained(stock_folder).eval()
    quantize_onnx(export_onnx(supernet.extract(uneven(supernet)), folder))
    return folder


@pytest.fixture(scope="module")
def deployed(sam_folder: Path) -> OnnxSam:
    return OnnxSam(sam_folder)


@pytest.mark.parametrize(
    "prompts",
    [
        {"input_points": POINTS, "input_labels": LABELS},
        {"input_points": POINTS[:, :1, :1]},
        {"input_boxes": BOXES},
        {"input_points": POINTS, "input_labels": LABELS, "input_boxes": BOXES},
    ],
    ids=["points", "one-point", "boxes", "both"],
)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_the_two_files_give_the_subnets_masks(
    deployed: OnnxSam, supernet: SuperSamModel, prompts: dict[str, torch.Tensor], batch: int
) -> None:
    """Against the supernet running that subnet: neither the extraction nor the export is taken on trust."""
    images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    prompts = {name: value.repeat(batch, *[1] * (value.ndim - 1)) for name, value in prompts.items()}
    for multimask in (False, True):
        wanted = supernet(images, subnet=uneven(supernet), multimask_output=multimask, **prompts)
        got = deployed(images, multimask_output=multimask, **prompts)
        assert distance(wanted.pred_masks, got.pred_masks) < 1e-4
        assert distance(wanted.iou_scores, got.iou_scores) < 1e-4


def test_an_embedding_serves_many_prompts(deployed: OnnxSam) -> None:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    embeddings = deployed.get_image_embeddings(images)
    for i in range(2):
        alone = deployed(image_embeddings=embeddings, input_boxes=BOXES[:, i : i + 1])
        together = deployed(images, input_boxes=BOXES)
        assert distance(together.pred_masks[:, i : i + 1], alone.pred_masks) < 1e-5


def test_prompts_with_and_without_a_box_go_in_one_call(deployed: OnnxSam) -> None:
    """What stock SAM cannot do: the box's corners and the point that stands for none are labels of each prompt."""
    embeddings = deployed.get_image_embeddings(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)))
    parts = [prompt_tokens(None, None, BOXES[:, :1]), prompt_tokens(POINTS[:, :1, :1], None, None)]
    points, labels = (torch.cat([part[i] for part in parts], 1) for i in range(2))
    inputs = {"image_embeddings": embeddings, "input_points": points, "input_labels": labels}
    masks = torch.from_numpy(deployed.decoder.run(["pred_masks"], {k: v.numpy() for k, v in inputs.items()})[0])
    box = deployed(image_embeddings=embeddings, input_boxes=BOXES[:, :1]).pred_masks
    point = deployed(image_embeddings=embeddings, input_points=POINTS[:, :1, :1]).pred_masks
    assert distance(box, masks[:, :1, 1:]) < 1e-5
    assert distance(point, masks[:, 1:, 1:]) < 1e-5


def test_files_have_the_names_and_axes_that_sam_users_expect(deployed: OnnxSam) -> None:
    told = {i.name: i.shape for s in (deployed.encoder, deployed.decoder) for i in (*s.get_inputs(), *s.get_outputs())}
    assert told["pixel_values"] == ["batch", 3, 64, 64]
    assert told["input_points"] == ["batch", "prompts", "points", 2]
    assert told["input_labels"] == ["batch", "prompts", "points"]
    assert told["pred_masks"][:2] == told["iou_scores"][:2] == ["batch", "prompts"]
    assert set(told) == {
        *("pixel_values", "image_embeddings", "input_points", "input_labels", "pred_masks", "iou_scores")
    }


def test_int8_files_hold_int8_weights_and_are_close(sam_folder: Path, supernet: SuperSamModel) -> None:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = supernet(images, subnet=uneven(supernet), input_boxes=BOXES).pred_masks
    apart = distance(wanted, OnnxSam(sam_folder, int8=True)(images, input_boxes=BOXES).pred_masks)
    assert 1e-4 < apart < 0.2  # rounded, and no more than that
    graph = onnx.load(sam_folder / "vision_encoder_int8.onnx").graph
    weights = {tensor.data_type: 0 for tensor in graph.initializer}
    for tensor in graph.initializer:
        weights[tensor.data_type] += math.prod(tensor.dims)
    layers = supernet.extract(uneven(supernet)).vision_encoder.layers
    expected = sum(module.weight.numel() for module in layers.modules() if isinstance(module, torch.nn.Linear))
    assert weights[onnx.TensorProto.INT8] >= expected  # and the zero points


def test_the_decoder_computes_its_masks_once(sam_folder: Path) -> None:
    """Two layers of three attentions, and a last one: not again for the single mask beside the three."""
    graph = onnx.load(sam_folder / "prompt_encoder_mask_decoder.onnx").graph
    assert sum(node.op_type == "Softmax" for node in graph.node) == 7
    # and with int8, no linear layer's weight is left in fp32
    graph = onnx.load(sam_folder / "prompt_encoder_mask_decoder_int8.onnx").graph
    constant = {tensor.name for tensor in graph.initializer}
    assert not [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in constant]


def cut_classifier(folder: Path) -> OfbViTForImageClassification:
    """A DeiT with two heads, whose second layer has lost MLP units, first in the weights themselves."""
    tiny_classifier("deit_two_heads").save_pretrained(folder)
    whole = OfbViTForImageClassification.from_pretrained(folder)
    config = whole.config.to_dict()
    config["per_layer_config"] = {1: {"intermediate_size": 40}}
    cut = OfbViTForImageClassification(type(whole.config)(**config))
    state = whole.state_dict()
    name = "vit.layers.1.mlp."
    state |= {f"{name}fc1.weight": state[f"{name}fc1.weight"][:40], f"{name}fc1.bias": state[f"{name}fc1.bias"][:40]}
    state[f"{name}fc2.weight"] = state[f"{name}fc2.weight"][:, :40]
    cut.load_state_dict(state)
    return cut.eval()


def test_a_cut_classifier_gives_its_logits(tmp_path: Path) -> None:
    model = cut_classifier(tmp_path / "deit")
    export_onnx(model, tmp_path / "onnx")
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            wanted = model(images).logits
        assert distance(wanted, OnnxClassifier(tmp_path / "onnx")(images).logits) < 1e-4


def test_int8_weights_load_back_bit_for_bit(supernet: SuperSamModel, inputs: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    small = supernet.extract(uneven(supernet))
    quantized = quantize_model(small)
    quantized.save_pretrained(tmp_path / "int8")
    small.save_pretrained(tmp_path / "fp32")
    loaded = SuperSamModel.from_pretrained(tmp_path / "int8").eval()
    with torch.no_grad():
        wanted, ours, theirs = (model(**inputs).pred_masks for model in (small, quantized, loaded))
    assert torch.equal(ours, theirs)
    assert 1e-5 < distance(wanted, ours) < 0.1
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("int8", "fp32")}
    assert size["int8"] < size["fp32"]
    assert not list((tmp_path / "int8").glob("*.bin"))
    with pytest.raises(ValueError, match="already"):
        quantize_model(loaded)


def test_what_computes_something_else_is_refused(
    deployed: OnnxSam, supernet: SuperSamModel, inputs: dict[str, Any]
) -> None:
    small = supernet.extract(uneven(supernet))
    assert max(check_outputs(small, deployed, [inputs]).values()) < 1e-4
    with torch.no_grad():
        small.vision_encoder.layers[0].mlp.lin2.bias += 0.5
    with pytest.raises(DeploymentError, match="pred_masks by"):
        check_outputs(small, deployed, [inputs])


def test_the_command_writes_checks_and_tells(
    stock_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["export", str(stock_folder), "--output_dir", str(tmp_path / "onnx"), "--subnet", "smallest"]
    argv += ["--data.max_eval_images", "2", "--rounds", "1", "--quantize", "int8"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "onnx" / "export.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["PyTorch", "ONNX Runtime", "ONNX Runtime, int8"]
    assert all(row["name"] in printed for row in rows)
    assert rows[1]["difference"] < 1e-4
    assert not list(tmp_path.glob("*.tmp"))
    # The smallest subnet of the stock checkpoint, in transformers' own class, is what was written.
    supernet = SuperSamModel.from_pretrained(stock_folder, subnet="smallest")
    smallest = supernet.to_sam() if len(set(supernet.config.vision_config.layer_widths[0])) == 1 else supernet
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = smallest.eval()(images, input_boxes=BOXES).pred_masks
    assert distance(wanted, OnnxSam(tmp_path / "onnx")(images, input_boxes=BOXES).pred_masks) < 1e-4
    # ... and the page's Python runs on it.
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    Image.new("RGB", (240, 200), (90, 30, 60)).save(tmp_path / "cells.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert names["masks"].shape == (1, 1, 1, 16, 16)


def test_the_command_runs_by_itself_on_a_classifier(vit_folder: Path, tmp_path: Path) -> None:
    script = "import sys; from supersam_hf_cli import main; sys.exit(main(sys.argv[1:]))"
    out = tmp_path / "out"
    words = ("export", vit_folder, "--output_dir", out, "--rounds", 1, "--data.max_eval_images", 2)
    assert "| ONNX Runtime |" in fresh.run("-c", script, *words, check=True).stdout
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "export.json", "model.onnx", "preprocessor_config.json")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "tflite"], "`--format` must be one of ['onnx', 'safetensors'], got 'tflite'"),
        (["--quantize", "int4"], "`--quantize` must be one of ['int8'], got 'int4'"),
        (["--opset", "9"], "`--opset` must be 17 to 20, got 9"),
        (["--format", "safetensors"], "needs `--quantize int8`"),
        (["--data.max_eval_images", "0"], "`data.max_eval_images` must be a whole number from 1"),
        (["--subnet", "pareto-1"], "pareto"),
    ],
)
def test_bad_options_are_named(
    stock_folder: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", str(stock_folder), "--output_dir", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_and_other_models_are_refused(
    stock_folder: Path, vit_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", str(stock_folder), "--output_dir", str(stock_folder)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["export", str(vit_folder), "--output_dir", str(tmp_path / "a"), "--subnet", "largest"]) == 2
    assert "`--subnet` picks from a SAM supernet" in capsys.readouterr().err
    (tmp_path / "sam2").mkdir()
    (tmp_path / "sam2" / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    assert main(["export", str(tmp_path / "sam2"), "--output_dir", str(tmp_path / "a")]) == 2
    assert "'sam2'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="got SamModel"):
        export_onnx(SamModel.from_pretrained(stock_folder), tmp_path / "b")


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [
        ("onnxruntime", [], "supersam-hf[onnx]"),
        ("torchao", ["--format", "safetensors", "--quantize", "int8"], "supersam-hf[int8]"),
    ],
)
def test_a_missing_extra_is_named(
    stock_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    module: str,
    options: list[str],
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python's own mark of a module that cannot be imported
    assert main(["export", str(stock_folder), "--output_dir", str(tmp_path / "out"), *options]) == 2
    assert f"`pip install {extra}`" in capsys.readouterr().err
