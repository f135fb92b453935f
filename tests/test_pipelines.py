"""transformers' pipelines on our models, without torchvision: masks and labels are the stock ones."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from datasets import load_dataset
from hub_server import HubServer
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForMaskGeneration,
    AutoProcessor,
    SamModel,
    ViTForImageClassification,
    pipeline,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil, _post_process_for_mask_generation
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf import (
    ElasticSpace,
    OfbViTConfig,
    OfbViTForImageClassification,
    SuperSamImageProcessor,
    SuperSamModel,
    SuperSamProcessor,
)
from supersam_hf.hub import export
from supersam_hf.models.supersam.image_processing_supersam import non_maximum_suppression


# Lower than the defaults: a small or random model is never that sure, and without masks nothing is compared.
LOOSE = {"points_per_crop": 6, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.6}
# Of a random model all the masks count; its logits lie around 0, so at 0 each of them would fill the image.
EVERYTHING = {"points_per_crop": 4, "pred_iou_thresh": -1e9, "stability_score_thresh": 0.0, "mask_threshold": 8.0}


def brute_force_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> Any:
    """`torchvision.ops.batched_nms` by its definition, in numpy's single precision, a pair of boxes at a time."""
    corners, classes = boxes.numpy().astype(np.float32), idxs.tolist()
    order = sorted(range(len(corners)), key=lambda i: (-scores[i].item(), i))
    kept: list[int] = []
    for i in order:
        rivals = [j for j in kept if classes[j] == classes[i]]
        if not any(pair_iou(corners[j], corners[i]) > iou_threshold for j in rivals):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long)


def pair_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), np.float32(0))
    height = max(min(a[3], b[3]) - max(a[1], b[1]), np.float32(0))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    with np.errstate(invalid="ignore"):
        return float(width * height / (areas[0] + areas[1] - width * height))


class StockProcessor(SamImageProcessorPil):
    """Stock SAM's processor with the brute force in the place of torchvision's function."""

    def post_process_for_mask_generation(self, *args: Any) -> Any:
        boxes = ModuleType("torchvision.ops.boxes")
        boxes.batched_nms = brute_force_nms  # type: ignore[attr-defined]
        names = ("torchvision", "torchvision.ops")
        with patch.dict(sys.modules, {**{name: ModuleType(name) for name in names}, boxes.__name__: boxes}):
            return _post_process_for_mask_generation(*args)


def stock_generator(model: Any, processor: SuperSamProcessor) -> Any:
    stock = StockProcessor(**processor.image_processor.to_dict())
    return pipeline("mask-generation", model=model.eval(), image_processor=stock)


def compare(ours: Any, stock: Any, images: list[Image.Image], **options: Any) -> int:
    """The number of masks, which must be equal in every pixel, score, box and code."""
    compared = 0
    for image in images:
        one, other = (g(image, output_rle_mask=True, output_bboxes_mask=True, **options) for g in (ours, stock))
        assert one.keys() == other.keys()
        assert len(one["masks"]) == len(other["masks"])
        for mask, expected in zip(one["masks"], other["masks"]):
            assert mask.shape == (image.height, image.width)
            assert mask.dtype == expected.dtype == bool
            assert np.array_equal(mask, expected)
        assert torch.equal(one["scores"], other["scores"])
        assert torch.equal(one["bounding_boxes"], other["bounding_boxes"])
        assert one["rle_mask"] == other["rle_mask"]
        compared += len(one["masks"])
    return compared


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Blobs in several shapes and modes."""
    generator = np.random.default_rng(seed)
    sizes, modes = [(64, 64), (90, 50), (40, 70)], ["RGB", "L", "RGBA"]
    made = []
    for i in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        made.append(coarse.resize(sizes[i % 3]).convert(modes[i % 3]))
    return made


# Non-maximum suppression


def random_boxes(count: int, generator: torch.Generator, integer: bool) -> torch.Tensor:
    side = 12 if integer else 100
    points = torch.rand(count, 2, 2, generator=generator) * side
    points = points.floor() if integer else points
    return torch.cat([points.amin(1), points.amax(1)], dim=1)


@pytest.mark.parametrize("integer", [True, False], ids=["ties and boxes without area", "any"])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
def test_suppression_is_the_brute_force(threshold: float, integer: bool) -> None:
    generator = torch.Generator().manual_seed(int(10 * threshold))
    for count in (0, 1, 2, 30, 60):
        boxes = random_boxes(count, generator, integer)
        scores = torch.rand(count, generator=generator)
        scores = (scores * 5).floor() / 5 if integer else scores
        expected = brute_force_nms(boxes, scores, torch.zeros(count), threshold)
        assert torch.equal(non_maximum_suppression(boxes, scores, threshold), expected)


def test_a_box_at_the_threshold_stays_as_in_double_precision() -> None:
    """A tenth in single precision is more than a tenth in double, which torchvision compares with."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 5.0, 1.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert non_maximum_suppression(boxes, scores, 0.1).tolist() == [0]
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [0, 1, 2]
    assert non_maximum_suppression(boxes, scores, 0.49).tolist() == [0, 1]


def test_thousands_of_boxes_take_a_moment() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(5000, generator, integer=False), torch.rand(5000, generator=generator)
    kept = non_maximum_suppression(boxes, scores, 0.7)
    assert scores[kept].diff().max() <= 0
    again = non_maximum_suppression(boxes[kept], scores[kept], 0.7)
    assert again.tolist() == list(range(len(kept))), "what is kept suppresses nothing of what is kept"


def test_half_precision_scores_are_taken() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0], [9.0, 9.0, 12.0, 12.0]])
    assert non_maximum_suppression(boxes, torch.tensor([0.5, 0.75, 0.25]).bfloat16(), 0.7).tolist() == [1, 2]


# Mask generation


@pytest.fixture(scope="module")
def vivid(stock: SamModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SAM, saved by stock transformers, with a decoder so strong that every point has a mask of its own."""
    model = copy.deepcopy(stock)
    with torch.no_grad():
        for name, parameter in model.mask_decoder.named_parameters():
            if "norm" not in name:
                parameter.mul_(4)
    folder = tmp_path_factory.mktemp("sam") / "stock"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam_folder(vivid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That SAM whole, as it is exported."""
    return export(SuperSamModel.from_pretrained(vivid), tmp_path_factory.mktemp("sam") / "full")


@pytest.fixture(scope="module")
def subnet_folder(vivid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subnet of it, with a width of its own in each layer."""
    model = SuperSamModel.from_pretrained(vivid)
    space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2), attention_windows=(24,))
    subnet = space.subnet((2,), {1: 48, 3: 144, 4: 96, 5: 60}, {1: 8, 3: 16, 4: 8, 5: 16})
    return export(model.extract(subnet), tmp_path_factory.mktemp("sam") / "subnet")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"points_per_batch": 5},
        {"points_per_batch": None},
        {"crops_n_layers": 1},
        {"crops_n_layers": 2, "points_per_crop": 1, "points_per_batch": 3, "crop_overlap_ratio": 0.2},
        {"crops_n_layers": 1, "crops_nms_thresh": 0.2},
        {"stability_score_offset": 0.5, "stability_score_thresh": 0.2},
        {"pred_iou_thresh": 0.0, "mask_threshold": 12.0},
    ],
    ids=str,
)
def test_masks_of_a_random_sam_are_the_stock_ones(sam_folder: Path, vivid: Path, options: dict[str, Any]) -> None:
    ours = pipeline("mask-generation", model=str(sam_folder))
    assert (type(ours.model), type(ours.image_processor)) == (SuperSamModel, SuperSamImageProcessor)
    theirs = stock_generator(SamModel.from_pretrained(vivid), SuperSamProcessor.from_pretrained(sam_folder))
    assert compare(ours, theirs, pictures(3), **{**EVERYTHING, **options}) >= 10


def test_crops_find_what_the_whole_image_does_not(sam_folder: Path) -> None:
    """Masks from crops come back in the whole image's place and size."""
    generate = pipeline("mask-generation", model=str(sam_folder))
    image = pictures(1)[0].resize((256, 192))  # crops wide enough that boxes lie 20 px inside them
    whole, crops = (generate(image, crops_n_layers=n, **EVERYTHING)["masks"] for n in (0, 1))
    assert {mask.shape for mask in crops} == {(192, 256)}
    assert len(crops) > len(whole)


@pytest.mark.parametrize("crops", [0, 1])
def test_masks_of_a_subnet_are_those_of_the_stock_processor(subnet_folder: Path, crops: int) -> None:
    ours = pipeline("mask-generation", model=str(subnet_folder))
    model = SuperSamModel.from_pretrained(subnet_folder)
    assert model.config.vision_config.is_heterogeneous
    theirs = stock_generator(model, SuperSamProcessor.from_pretrained(subnet_folder))
    assert compare(ours, theirs, pictures(3), crops_n_layers=crops, **EVERYTHING) >= 10


def test_no_mask_is_an_empty_list(sam_folder: Path) -> None:
    made = pipeline("mask-generation", model=str(sam_folder))(pictures(1)[0], points_per_crop=2, pred_iou_thresh=1e9)
    assert made["masks"] == []
    assert made["scores"].shape == (0,)


def test_a_subnet_is_picked_by_the_pipeline_itself(sam_folder: Path) -> None:
    generate = pipeline("mask-generation", model=str(sam_folder), model_kwargs={"subnet": "smallest"})
    assert generate.model.config.subnet_name == "smallest"


def test_auto_classes_resolve(sam_folder: Path, subnet_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in (sam_folder, subnet_folder):
        assert isinstance(AutoModelForMaskGeneration.from_pretrained(folder), SuperSamModel)
        assert isinstance(AutoImageProcessor.from_pretrained(folder), SuperSamImageProcessor)
        assert isinstance(AutoProcessor.from_pretrained(folder), SuperSamProcessor)
        pipeline("mask-generation", model=str(folder))
    assert "not supported" not in caplog.text


# Image classification


@pytest.fixture(scope="module")
def found_folder(tmp_path_factory: pytest.TempPathFactory, vit_folder: Path) -> Path:
    """A ViT with widths of its own in each layer."""
    from conftest import TINY_VIT, randomised

    widths = {0: {"num_attention_heads": 2, "intermediate_size": 40}, 2: {"head_dim": 12, "intermediate_size": 80}}
    config = OfbViTForImageClassification.config_class(**TINY_VIT, per_layer_config=widths)
    model = randomised(OfbViTForImageClassification(config))
    processor = AutoImageProcessor.from_pretrained(vit_folder)
    return export(model, tmp_path_factory.mktemp("vit") / "found", processor=processor)


def test_labels_of_a_random_classifier_are_the_stock_ones(vit_folder: Path, tmp_path: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(vit_folder)
    folder = export(OfbViTForImageClassification.from_pretrained(vit_folder), tmp_path / "vit", processor=processor)
    ours = pipeline("image-classification", model=str(folder), top_k=5)
    assert isinstance(ours.model, OfbViTForImageClassification)
    theirs = pipeline(
        "image-classification",
        model=ViTForImageClassification.from_pretrained(vit_folder).eval(),
        image_processor=ViTImageProcessorPil.from_pretrained(vit_folder),
        top_k=5,
    )
    images = [image.convert("RGB") for image in pictures(3)]
    assert ours(images) == theirs(images)


def test_labels_of_a_found_network_are_its_own(found_folder: Path) -> None:
    ours = pipeline("image-classification", model=str(found_folder), top_k=1)
    model = OfbViTForImageClassification.from_pretrained(found_folder).eval()
    processor = ViTImageProcessorPil.from_pretrained(found_folder)
    for image in (picture.convert("RGB") for picture in pictures(3)):
        with torch.no_grad():
            logits = model(**processor(image, return_tensors="pt")).logits
        assert ours(image)[0]["label"] == model.config.id2label[logits.argmax().item()]


# Without the package


REMOTE = """
import json
import sys

from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, pipeline

sam, vit, options, *images = sys.argv[1:]
trust = {"trust_remote_code": True}
generate = pipeline("mask-generation", model=sam, **trust)
classify = pipeline("image-classification", model=vit, top_k=1, **trust)
options = json.loads(options)
pictures = [Image.open(image).convert("RGB") for image in images]
masks = [generate(picture, output_rle_mask=True, **options)["rle_mask"] for picture in pictures]
labels = [classify(picture)[0]["label"] for picture in pictures]
kinds = [type(auto.from_pretrained(sam, **trust)).__name__ for auto in (AutoModel, AutoProcessor, AutoImageProcessor)]
assert "supersam_hf" not in sys.modules
assert "torchvision" not in sys.modules
print(json.dumps({"masks": masks, "labels": labels, "kinds": kinds}))
"""


def test_pipelines_run_as_remote_code_without_the_package(
    subnet_folder: Path, found_folder: Path, bare_python: str, hub: HubServer, tmp_path: Path
) -> None:
    images = []
    for i, picture in enumerate(pictures(2)):
        images.append(tmp_path / f"{i}.png")
        picture.convert("RGB").save(images[-1])
    command = [bare_python, "-c", REMOTE, subnet_folder, found_folder, json.dumps(EVERYTHING), *images]
    done = subprocess.run(command, capture_output=True, text=True, env=hub.env(tmp_path / "home"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not supported" not in done.stderr
    made = json.loads(done.stdout.strip().splitlines()[-1])
    generate = pipeline("mask-generation", model=str(subnet_folder))
    classify = pipeline("image-classification", model=str(found_folder), top_k=1)
    opened = [Image.open(image).convert("RGB") for image in images]
    assert made["masks"] == [generate(i, output_rle_mask=True, **EVERYTHING)["rle_mask"] for i in opened]
    assert made["labels"] == [classify(image)[0]["label"] for image in opened]
    assert made["kinds"] == ["SuperSamModel", "SuperSamProcessor", "SuperSamImageProcessor"]


# Real checkpoints on real images


def parquet_images(path: Path, count: int) -> list[Image.Image]:
    rows = load_dataset("parquet", data_files=str(path), split=f"train[:{count}]")
    return [row["image"].convert("RGB") for row in rows]


@pytest.fixture(scope="module")
def nuclei(shared: Path) -> list[Image.Image]:
    return parquet_images(shared / "data" / "dsb2018" / "val.parquet", 10)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("which", ["full", "uniform", "uneven"])
def test_masks_of_ten_real_images_are_the_stock_ones(
    shared: Path, nuclei: list[Image.Image], tmp_path: Path, which: str
) -> None:
    """Against stock `SamModel`s where there is one; a subnet of uneven widths against itself in the stock pipeline."""
    source = shared / "weights" / "sam-tiny-256"
    processor, model = SuperSamProcessor.from_pretrained(source), SuperSamModel.from_pretrained(source)
    space = model.elastic_space
    narrow = {i: 576 if i % 2 else 768 for i in space.elastic_layers}
    cut = {"full": space.largest(), "uniform": space.subnet((9,)), "uneven": space.subnet((9,), narrow)}
    ours = model if which == "full" else model.extract(cut[which])
    stock = {"full": lambda: SamModel.from_pretrained(source), "uniform": ours.to_sam, "uneven": lambda: ours}
    folder = export(ours, tmp_path / which, processor=processor)
    generate = pipeline("mask-generation", model=str(folder))
    compared = compare(generate, stock_generator(stock[which](), processor), nuclei, **LOOSE)
    print(f"{which}: {compared} masks of {len(nuclei)} images, all equal")
    assert compared >= 20


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[Image.Image]:
    return parquet_images(shared / "data" / "tiny_imagenet" / "val.parquet", 10)


@pytest.fixture
def deit(shared: Path) -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(shared / "weights" / "deit-tiny-patch16-224").eval()


def classifiers(model: Any, stock: Any, folder: Path, source: Path) -> tuple[Any, Any]:
    """The pipeline of our model's exported folder, and the stock model's."""
    processor = AutoImageProcessor.from_pretrained(source)
    ours = pipeline("image-classification", model=str(export(model, folder, processor=processor)), top_k=5)
    return ours, pipeline("image-classification", model=stock, image_processor=processor, top_k=5)


@pytest.mark.shared
def test_labels_of_ten_real_images_are_the_stock_ones(
    shared: Path, photographs: list[Image.Image], deit: ViTForImageClassification, tmp_path: Path
) -> None:
    source = shared / "weights" / "deit-tiny-patch16-224"
    model = OfbViTForImageClassification.from_pretrained(source)
    ours, theirs = classifiers(model, deit, tmp_path / "deit", source)
    assert ours(photographs) == theirs(photographs)


@pytest.mark.shared
def test_labels_of_a_smaller_network_are_those_of_the_stock_model_with_the_rest_zeroed(
    shared: Path, photographs: list[Image.Image], deit: ViTForImageClassification, tmp_path: Path
) -> None:
    source = shared / "weights" / "deit-tiny-patch16-224"
    widths = {i: 768 - 32 * (i % 4) for i in range(12)}
    data = OfbViTForImageClassification.from_pretrained(source).config.to_dict()
    per_layer = {i: {"intermediate_size": width} for i, width in widths.items()}
    model = OfbViTForImageClassification(OfbViTConfig.from_dict({**data, "per_layer_config": per_layer}))
    state = deit.state_dict()
    for i, width in widths.items():
        name = f"vit.layers.{i}.mlp"
        state[f"{name}.fc2.weight"][:, width:] = 0  # of the stock model too
        for part in ("fc1.weight", "fc1.bias"):
            state[f"{name}.{part}"] = state[f"{name}.{part}"][:width]
        state[f"{name}.fc2.weight"] = state[f"{name}.fc2.weight"][:, :width]
    model.load_state_dict(state)
    ours, theirs = classifiers(model, deit, tmp_path / "found", source)
    for one, other in zip(ours(photographs), theirs(photographs)):
        assert [guess["label"] for guess in one] == [guess["label"] for guess in other]
        assert [guess["score"] for guess in one] == pytest.approx([guess["score"] for guess in other], rel=1e-4)
