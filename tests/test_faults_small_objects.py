"""Objects that fall between the pixels of a model's input stay objects, and predicting nothing scores 0."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import randomised, tiny_config
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, build_loader, canonical_features, encode_masks
from supersam_hf.data.targets import area_averaged_masks, nearest_masks
from supersam_hf.evaluation import SubnetEvaluator, Targets, box_baseline, evaluate
from supersam_hf.metrics import load_instance_miou, mask_iou


# Images of 20 times the model's side.
SIDE, INPUT = 1280, 64
OBJECT = 6


def spots(number: int, seed: int = 0) -> list[np.ndarray]:
    """Squares of 6 px: most lie between the middles of the input's pixels, which are 20 px wide."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((number, SIDE, SIDE), dtype=bool)
    for mask, (y, x) in zip(masks, rng.integers(0, SIDE - OBJECT, (number, 2))):
        mask[y : y + OBJECT, x : x + OBJECT] = True
    return list(masks)


def prompted(training: bool, **arguments: Any) -> PromptDataset:
    images = [Image.new("RGB", (SIDE, SIDE), (number, 90, 200)) for number in range(2)]
    columns = {"image": images, "image_id": ["a", "b"], "objects": [encode_masks(spots(6, seed)) for seed in range(2)]}
    dataset = datasets.Dataset.from_dict(columns, features=canonical_features())
    processor = SuperSamProcessor.for_config(tiny_config()).image_processor
    return PromptDataset(dataset, processor, DataArguments(max_objects=6, **arguments), training=training)


@pytest.fixture(scope="module")
def loader() -> DataLoader:
    return build_loader(prompted(training=False), 2)


@pytest.fixture(scope="module")
def blind() -> SuperSamModel:
    """A SAM whose masks are empty whatever it sees: its hypernetworks give zeros."""
    model = randomised(SuperSamModel(SuperSamModel.config_class.from_dict(tiny_config().to_dict())))
    with torch.no_grad():
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.zero_()
            head.proj_out.bias.zero_()
    return model


def test_a_model_that_predicts_nothing_scores_nothing(loader: DataLoader, blind: SuperSamModel) -> None:
    result = evaluate(blind, loader)
    assert (result.miou, result.miou_oracle, result.miou_predicted, result.num_objects) == (0.0, 0.0, 0.0, 12)


def test_nor_does_a_subnet_in_the_search(loader: DataLoader, blind: SuperSamModel) -> None:
    space = ElasticSpace.for_config(blind.config, mlp_windows=(48, 96))
    assert SubnetEvaluator(blind, loader, space=space).mious([space.smallest(), space.largest()]) == [0.0, 0.0]


def test_every_object_has_a_pixel_in_evaluation_and_a_cell_in_training(loader: DataLoader) -> None:
    batch = next(iter(loader))
    assert batch["object_mask"].sum() == 12
    assert batch["masks"].any(dim=(-2, -1)).all()
    assert (batch["masks"].sum((-2, -1)) <= 4).all(), "at most the four pixels that a square of 6 px can touch"
    sample = prompted(training=True)[0]
    assert sample["low_res_masks"].any(-1).any(-1).all()


def test_a_model_that_fills_the_box_still_scores(loader: DataLoader) -> None:
    assert 0 < box_baseline(loader) < 0.6


@pytest.mark.parametrize("valid", [(64, 64), (64, 50), (9, 64)])
def test_a_mask_between_pixels_keeps_those_that_it_covers_most(valid: tuple[int, int]) -> None:
    """By brute force over source pixels: each belongs to the input pixel that it lies in."""
    rows, columns = np.arange(SIDE) * valid[0] // SIDE, np.arange(SIDE) * valid[1] // SIDE
    masks = np.stack(spots(8, seed=3))
    for mask, found in zip(masks, nearest_masks(masks, valid, INPUT)):
        covered = np.zeros((INPUT, INPUT))
        y, x = np.nonzero(mask)
        np.add.at(covered, (rows[y], columns[x]), 1)
        assert found.any()
        assert not found[valid[0] :].any()
        assert not found[:, valid[1] :].any()
        # source pixels on an edge between input pixels are shared out exactly there, and whole here
        assert covered[found.astype(bool)].min() >= covered.max() - 2 * OBJECT


def test_a_line_between_pixels_stays_a_line() -> None:
    mask = np.zeros((1, 640, 640), dtype=bool)
    mask[0, 32, 100:500] = True
    found = nearest_masks(mask, (64, 64), 64)[0]
    assert np.argwhere(found).tolist() == [[3, x] for x in range(10, 50)]


def test_what_nearest_pixels_show_is_left_as_it_is() -> None:
    masks = np.random.default_rng(0).random((3, 128, 128)) > 0.5
    assert np.array_equal(nearest_masks(masks, (64, 64), 64), masks[:, 1::2, 1::2])
    assert area_averaged_masks(masks, (64, 64), 4, 16).any(axis=(1, 2)).all()


# Metrics


def test_the_iou_with_an_empty_mask_is_nothing() -> None:
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    assert [float(mask_iou(a, b)) for a, b in ((empty, empty), (full, empty), (empty, full))] == [0.0, 0.0, 0.0]
    batch = {"masks": torch.zeros(1, 1, 4, 4), "object_mask": torch.ones(1, 1, dtype=torch.bool)}
    targets = Targets.of({**batch, "valid_size": torch.tensor([[4, 4]])})
    assert targets.ious(torch.tensor([-1.0, 1.0])[None, :, None, None].expand(1, 2, 4, 4)).tolist() == [[0.0, 0.0]]


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


EMPTY, FULL = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
NOTHING = {"masks": [rle(EMPTY)], "scores": [0.5]}


def test_the_metric_leaves_out_what_has_no_pixel_and_counts_it() -> None:
    found = load_instance_miou().compute(
        predictions=[NOTHING, NOTHING, {"masks": [rle(FULL)], "scores": [0.5]}],
        references=[rle(EMPTY), rle(FULL), rle(FULL)],
    )
    assert (found["miou_single"], found["num_objects"], found["num_empty"]) == (0.5, 2, 1)
    nothing = load_instance_miou().compute(predictions=[NOTHING] * 2, references=[rle(EMPTY), rle(FULL)])
    assert (nothing["miou_oracle"], nothing["miou_predicted"], nothing["miou_single"]) == (0.0, 0.0, 0.0)


def test_the_metric_says_that_there_is_no_object() -> None:
    with pytest.raises(ValueError, match="None of the 2 references has a pixel"):
        load_instance_miou().compute(predictions=[NOTHING] * 2, references=[rle(EMPTY)] * 2)


def test_a_score_that_is_no_number_picks_no_mask() -> None:
    prediction = {"masks": [rle(FULL), rle(EMPTY)], "scores": [float("nan"), 0.5]}
    with pytest.raises(ValueError, match="Object 0 has the score nan"):
        load_instance_miou().compute(predictions=[prediction], references=[rle(FULL)])
