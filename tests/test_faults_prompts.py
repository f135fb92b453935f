"""Prompts that make no batch, and checkpoints that are no state dict: said so, before anything is computed or run."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import SamConfig, SamModel

from supersam_hf import SuperSamProcessor
from supersam_hf_cli import main


BOX, POINT = [1.0, 2.0, 30.0, 40.0], [5.0, 6.0]
UNEVEN: dict[str, tuple[int, dict[str, Any], str]] = {
    "boxes": (2, {"input_boxes": [[BOX], [BOX, BOX]]}, r"`input_boxes` has uneven numbers of boxes: \[1, 2\]"),
    "objects": (
        2,
        {"input_points": [[[POINT]], [[POINT], [POINT]]]},
        r"`input_points` has uneven numbers of objects: \[1, 2\]",
    ),
    "points": (
        1,
        {"input_points": [[[POINT], [POINT, POINT]]]},
        r"`input_points` has uneven numbers of points: \[1, 2\]",
    ),
    "coordinates": (1, {"input_boxes": [[BOX, BOX[:3]]]}, r"uneven numbers of coordinates: \[4, 3\]"),
    "box of three": (1, {"input_boxes": [[BOX[:3]]]}, "`input_boxes` has 3 coordinates each; give 4: x1, y1, x2, y2"),
    "point of three": (1, {"input_points": [[[BOX[:3]]]]}, "`input_points` has 3 coordinates each; give 2: x and y"),
    "no box": (1, {"input_boxes": [[]]}, "`input_boxes` has no boxes"),
    "labels": (
        1,
        {"input_points": [[[POINT, POINT]]], "input_labels": [[[1]]]},
        r"`input_labels` is of \(1, 1, 1\) .images, objects, points., `input_points` of \(1, 1, 2\)",
    ),
    "boxes and points": (
        1,
        {"input_points": [[[POINT], [POINT]]], "input_boxes": [[BOX]]},
        r"`input_boxes` is of \(1, 1\) .*`input_points` of \(1, 2\)",
    ),
    "too few": (2, {"input_boxes": [[BOX]]}, r"`input_boxes` is of 1 image\(s\), but `images` of 2"),
    "too many": (1, {"input_points": [[[POINT]], [[POINT]]]}, r"`input_points` is of 2 image\(s\), but `images` of 1"),
    "tensor": (2, {"input_boxes": torch.tensor([[BOX]])}, r"`input_boxes` is of 1 image\(s\), but `images` of 2"),
}


@pytest.fixture(scope="module")
def processor() -> SuperSamProcessor:
    return SuperSamProcessor.for_config(SamConfig(vision_config={"image_size": 64}))


@pytest.mark.parametrize("case", UNEVEN)
def test_uneven_prompts_are_named(case: str, processor: SuperSamProcessor) -> None:
    images, prompts, message = UNEVEN[case]
    with pytest.raises(ValueError, match=message):
        processor([Image.new("RGB", (64, 48))] * images, **prompts, return_tensors="pt")


def test_even_prompts_are_prepared_as_ever(processor: SuperSamProcessor) -> None:
    images = [Image.new("RGB", (64, 48))] * 2
    made = processor(images, input_boxes=[[BOX, BOX]] * 2, input_points=[[[POINT], [POINT]]] * 2, return_tensors="pt")
    assert made["input_boxes"].shape == (2, 2, 4)
    assert made["input_points"].shape == (2, 2, 1, 2)
    # transformers' form without objects
    one = processor(images[0], input_points=[[POINT, POINT]], return_tensors="pt")
    assert one["input_points"].shape == (1, 1, 2, 2)
    padded = processor(images, input_points=[[POINT], [POINT, POINT]], input_labels=[[1], [1, 0]], return_tensors="pt")
    assert padded["input_points"].shape == (2, 1, 2, 2)


class Touch:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("case", ["module", "code", "tensor", "list", "old format", "folder", "cut off"])
def test_convert_loads_tensors_alone(
    case: str, stock: SamModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, canary = tmp_path / "sam.pth", tmp_path / "canary"
    if case == "folder":
        file.mkdir()
    elif case == "old format":
        file.write_bytes(pickle.dumps({"a": Touch(canary)}))
    else:
        held = {"module": stock, "code": {"a": Touch(canary)}, "tensor": torch.ones(2), "list": [1], "cut off": {}}
        torch.save(held[case], file)
    if case == "cut off":
        file.write_bytes(file.read_bytes()[:100])
    assert main(["convert", str(file), str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    wanted = {"module": "no plain state dict", "code": "no plain state dict", "tensor": "holds a Tensor"}
    wanted |= {"list": "holds a list", "folder": "no file"}
    assert wanted.get(case, "written by `torch.save`") in told
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
