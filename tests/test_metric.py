"""`instance_miou` and `mask_iou` against pycocotools and each other."""

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from supersam_hf.metrics import load_instance_miou, mask_iou


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def prediction(masks: list[np.ndarray], scores: list[float]) -> dict[str, Any]:
    return {"masks": [rle(m) for m in masks], "scores": scores}


def test_metric_tensors_and_pycocotools_agree() -> None:
    rng = np.random.default_rng(0)
    predicted, true = rng.random((30, 3, 20, 31)) > 0.4, rng.random((30, 20, 31)) > 0.6
    scores = rng.random((30, 3))
    ious = np.stack([coco_mask.iou([rle(m) for m in p], [rle(t)], [0])[:, 0] for p, t in zip(predicted, true)])
    on_tensors = mask_iou(torch.from_numpy(predicted), torch.from_numpy(true)[:, None])
    assert on_tensors.numpy() == pytest.approx(ious, abs=1e-6)

    predictions = [prediction(list(p), s.tolist()) for p, s in zip(predicted, scores)]
    result = load_instance_miou().compute(predictions=predictions, references=[rle(t) for t in true])
    assert result["miou_oracle"] == pytest.approx(ious.max(1).mean())
    assert result["miou_predicted"] == pytest.approx(ious[np.arange(30), scores.argmax(1)].mean())
    assert result["miou_single"] == pytest.approx(ious[:, 0].mean())
    assert result["num_objects"] == 30


def test_an_empty_mask_misses() -> None:
    empty, full = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    pairs, expected = [(empty, full), (full, full)], [0.0, 1.0]
    assert [float(mask_iou(torch.from_numpy(a), torch.from_numpy(b))) for a, b in pairs] == expected
    metric = load_instance_miou()
    for (predicted, true), iou in zip(pairs, expected):
        result = metric.compute(predictions=[prediction([predicted], [0.5])], references=[rle(true)])
        assert result["miou_single"] == iou


def test_batches_added_one_by_one_give_the_whole() -> None:
    left, right = np.zeros((2, 4, 6), dtype=bool)
    left[:, :3], right[:, 3:] = True, True
    metric = load_instance_miou()
    metric.add_batch(predictions=[prediction([left, right], [0.1, 0.9])], references=[rle(left)])
    metric.add_batch(predictions=[prediction([left], [0.3])], references=[rle(left)])
    means = {"miou_oracle": 1.0, "miou_predicted": 0.5, "miou_single": 1.0}
    assert metric.compute() == {**means, "num_objects": 2, "num_empty": 0}


def test_bad_input_is_refused() -> None:
    mask = np.ones((4, 4), dtype=bool)
    metric = load_instance_miou()
    with pytest.raises(ValueError, match="1 masks and 2 scores"):
        metric.compute(predictions=[prediction([mask], [0.1, 0.2])], references=[rle(mask)])
    with pytest.raises(ValueError, match=r"\[4, 4\].*\[5, 4\]"):
        load_instance_miou().compute(
            predictions=[prediction([mask], [0.1])], references=[rle(np.ones((5, 4), dtype=bool))]
        )
    with pytest.raises(ValueError, match="boolean"):
        mask_iou(torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool))
