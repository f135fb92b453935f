"""Semantic segmentation: SETR heads on whole and pruned backbones, windows, metrics, data, training."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import randomised
from huggingface_hub import ModelCard
from matplotlib.colors import to_rgb
from PIL import Image
from test_bimask_surgery import decide, masked_vit, tiny_vit
from transformers import pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf import OfbViTForSemanticSegmentation, count_macs
from supersam_hf.bimask.extract import deploy
from supersam_hf.bimask.prune import cut_to_live
from supersam_hf.commands.segment import parser
from supersam_hf.data.label_maps import FOREGROUND, load_label_maps
from supersam_hf.data.loader import build_loader
from supersam_hf.data.semantic import SemanticDataset
from supersam_hf.data.semantic_arguments import SemanticArguments
from supersam_hf.models.ofb_vit import OfbViTForImageClassification
from supersam_hf.plots import OBJECT_COLORS
from supersam_hf.plots.segmentation import coloured, plot_segmentation
from supersam_hf.segmentation import confusion, evaluate_segmenter, predict, result_of
from supersam_hf.segmenter_recipe import SegmenterRecipe
from supersam_hf.training.segment import SegmenterArguments, synchronised, train_segmenter
from supersam_hf_cli import main


RECIPES = Path(__file__).parent.parent / "recipes" / "segmentation"
HEADS = ["naive", "pup", "mla"]
WHOLE: dict[str, Any] = {"train_split": "all", "eval_split": "all"}


def found_classifier() -> OfbViTForImageClassification:
    masked = masked_vit()
    decide(masked, ("mlp", "attention", "embedding"), torch.Generator().manual_seed(3))
    cut_to_live(masked)
    return deploy(masked).eval()


def segmenter(folder: Path, head: str = "naive", labels: int = 3, **values: Any) -> OfbViTForSemanticSegmentation:
    """On the backbone of a classifier that lies there."""
    values = {"segmentation_head": head, "segmentation_channels": 16, "num_labels": labels, **values}
    return OfbViTForSemanticSegmentation.from_pretrained(folder, **values).eval()


def pixels(height: int = 32, width: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pruned", [False, True])
def test_the_backbone_is_the_classifiers(head: str, pruned: bool, tmp_path: Path) -> None:
    classifier = found_classifier() if pruned else tiny_vit(distillation_token=True, distillation_head=True)
    classifier.save_pretrained(tmp_path)
    model = segmenter(tmp_path, head)
    for name, tensor in classifier.vit.state_dict().items():
        assert torch.equal(model.vit.state_dict()[name], tensor), name
    with torch.no_grad():
        out = model(pixels(), output_hidden_states=True)
        assert torch.equal(out.hidden_states[2], classifier.vit(pixels(), output_hidden_states=True).hidden_states[2])
    assert out.logits.shape == (2, 3, 32, 32)
    model.save_pretrained(tmp_path / "again")
    again = OfbViTForSemanticSegmentation.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        assert torch.equal(again(pixels()).logits, out.logits)


def test_heads_that_are_saved_may_not_be_missing(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path / "vit")
    segmenter(tmp_path / "vit").save_pretrained(tmp_path / "naive")
    with pytest.raises(ValueError, match="lacks weights of OfbViTForSemanticSegmentation"):
        OfbViTForSemanticSegmentation.from_pretrained(tmp_path / "naive", segmentation_head="pup")


def test_naive_is_two_convolutions_at_the_patches(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    model = randomised(segmenter(tmp_path, use_auxiliary_head=False)).eval()
    with torch.no_grad():
        tokens = model.vit(pixels()).last_hidden_state[:, 1:]  # (2, 16, 64)
        convolution, norm, _ = model.segmentation_head.convolution
        hidden = tokens @ convolution.weight[:, :, 0, 0].T
        hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        head = model.segmentation_head.classifier
        logits = hidden.relu() @ head.weight[:, :, 0, 0].T + head.bias
        grid = logits.transpose(1, 2).reshape(2, 3, 4, 4)
        expected = F.interpolate(grid, size=(32, 32), mode="bilinear")
        torch.testing.assert_close(model(pixels()).logits, expected, rtol=1e-4, atol=1e-4)


def test_pup_and_mla_see_at_finer_resolution_than_the_patches(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    grids = {}
    for head in HEADS:
        model = segmenter(tmp_path, head)
        with torch.no_grad():
            maps = [torch.randn(1, 64, 4, 4) for _ in model.config.read_layers]
            grids[head] = tuple(model.segmentation_head(maps).shape[-2:])
    assert grids == {"naive": (4, 4), "pup": (64, 64), "mla": (16, 16)}
    assert segmenter(tmp_path, "mla").config.read_layers == [0, 1, 2]
    with pytest.raises(ValueError, match="'segmentation_head' expected one of"):
        segmenter(tmp_path, "upernet")
    with pytest.raises(ValueError, match="`segmentation_layers` must be layers 0 to 2"):
        segmenter(tmp_path, "mla", segmentation_layers=[1, 3])


def test_the_loss_is_the_mean_over_labelled_pixels_and_auxiliary_heads(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    labels = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(1))
    labels[:, :10] = 255
    plain, weighted = (segmenter(tmp_path, auxiliary_loss_weight=weight) for weight in (0.0, 0.5))
    weighted.load_state_dict(plain.state_dict())
    with torch.no_grad():
        out = plain(pixels(), labels=labels)
        held = out.logits.log_softmax(1).gather(1, labels.clamp(max=2)[:, None])[:, 0][labels != 255]
        assert out.loss.item() == pytest.approx(-held.mean().item(), rel=1e-5)
        assert len(plain.auxiliary_heads) == 2
        states = plain.vit(pixels(), output_hidden_states=True).hidden_states
        extra = 0.0
        for head, layer in zip(plain.auxiliary_heads, plain.config.auxiliary_layers):
            logits = head([states[layer + 1][:, 1:].transpose(1, 2).reshape(2, -1, 4, 4)])
            logits = F.interpolate(logits, size=(32, 32), mode="bilinear")
            extra += F.cross_entropy(logits, labels, ignore_index=255).item()
        assert weighted(pixels(), labels=labels).loss.item() == pytest.approx(out.loss.item() + 0.5 * extra, rel=1e-5)


def test_metrics_against_loops() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, (3, 9, 7)), rng.integers(0, 5, (3, 9, 7))
    labels[rng.random(labels.shape) < 0.2] = 255
    found = result_of(confusion(torch.from_numpy(labels), torch.from_numpy(predicted), 6), 3)
    ious, accuracies = [], []
    for c in range(5):
        of_label, of_prediction = labels == c, (predicted == c) & (labels != 255)
        ious.append((of_label & of_prediction).sum() / (of_label | of_prediction).sum())
        if of_label.sum():
            accuracies.append((of_label & of_prediction).sum() / of_label.sum())
    assert found.class_ious[:5] == pytest.approx(ious)
    assert found.class_ious[5] is None
    assert found.miou == pytest.approx(np.mean(ious))
    assert found.macc == pytest.approx(np.mean(accuracies))
    assert found.aacc == pytest.approx((labels == predicted).sum() / (labels != 255).sum())
    with pytest.raises(ValueError, match="no labelled pixel"):
        result_of(torch.zeros(2, 2), 1)


def test_windows_are_averaged_where_they_overlap(tmp_path: Path) -> None:
    tiny_vit().save_pretrained(tmp_path)
    model = segmenter(tmp_path)
    one, wide = pixels(), pixels(40, 75, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(predict(model, one), model(one).logits)
        found = predict(model, wide, stride=0.5)
        total, count = torch.zeros(1, 3, 40, 75), torch.zeros(40, 75)
        for top in (0, 8):
            for left in (0, 16, 32, 43):
                window = wide[..., top : top + 32, left : left + 32]
                total[..., top : top + 32, left : left + 32] += model(window).logits
                count[top : top + 32, left : left + 32] += 1
        torch.testing.assert_close(found, total / count)
        assert predict(model, pixels(20, 33)).shape == (2, 3, 20, 33)
    with pytest.raises(ValueError, match="`stride` must be in"):
        predict(model, one, stride=0)


def written(folder: Path, count: int = 6, size: tuple[int, int] = (40, 52)) -> Path:
    """Images whose colour tells the label of each pixel: 0, 100 or 200."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        labels = np.zeros(size, dtype=np.uint8)
        for c in (1, 2):
            y, x = rng.integers(0, 20, 2)
            labels[y : y + 16, x : x + 20] = c
        Image.fromarray(np.repeat(100 * labels[..., None], 3, axis=2)).save(folder / "images" / f"{i}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")
    return folder


def processor(side: int = 32) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def colours(sample: dict[str, torch.Tensor]) -> torch.Tensor:
    return ((sample["pixel_values"][0] * 0.5 + 0.5) * 255).round().long()


def test_images_and_labels_are_augmented_alike(tmp_path: Path) -> None:
    args = SemanticArguments(source=str(written(tmp_path)), **WHOLE)
    labelled = load_label_maps(args, "train")
    assert labelled.label_names == ["0", "1", "2"]
    dataset = SemanticDataset(labelled, processor(), args, training=True)
    shown, padded = set(), 0
    for key in [(epoch, index) for epoch in range(4) for index in range(len(dataset))]:
        sample = dataset[key]
        held = sample["labels"] != 255
        assert sample["pixel_values"].shape == (3, 32, 32)
        assert (colours(sample)[~held] == 0).all()
        right = (colours(sample) - 100 * sample["labels"]).abs()[held] < 50
        assert right.float().mean() > 0.85  # but for borders, where colours are mixed
        shown.add(float(sample["labels"].float().mean()))
        padded += bool((~held).any())
    assert len(shown) > 20
    assert 0 < padded < 24
    assert dataset[1, 2]["labels"].equal(dataset[1, 2]["labels"])
    whole = SemanticDataset(labelled, processor(), args, training=False)[2]
    assert whole["labels"].shape == (40, 52)
    assert torch.equal(colours(whole), 100 * whole["labels"])


def test_cityscapes(tmp_path: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "ulm")):
        images, maps = tmp_path / "leftImg8bit" / split / city, tmp_path / "gtFine" / split / city
        images.mkdir(parents=True)
        maps.mkdir(parents=True)
        Image.new("RGB", (8, 4)).save(images / f"{city}_0_1_leftImg8bit.png")
        ids = np.array([[0, 7, 8, 33, 26, 24, 30, 11]] * 4, dtype=np.uint8)
        Image.fromarray(ids).save(maps / f"{city}_0_1_gtFine_labelIds.png")
    labelled = load_label_maps(SemanticArguments(source=str(tmp_path)), "eval")
    assert (len(labelled.rows), len(labelled.label_names), labelled.label_names[13]) == (1, 19, "car")
    assert labelled.rows.read(0)["labels"][0].tolist() == [255, 0, 1, 18, 13, 11, 255, 2]
    next((tmp_path / "gtFine" / "val").rglob("*.png")).unlink()
    with pytest.raises(ValueError, match="1 of 1 images have no label map, the first .*ulm_0_1_gtFine_labelIds.png"):
        load_label_maps(SemanticArguments(source=str(tmp_path)), "eval")


@pytest.mark.shared
def test_ade20k_scenes(shared: Path) -> None:
    args = SemanticArguments(source=str(shared / "data" / "ade20k_sample" / "sampleData"), **WHOLE)
    labelled = load_label_maps(args, "train")
    assert (len(labelled.rows), len(labelled.label_names)) == (3, 150)
    for index in range(3):
        row = labelled.rows.read(index)
        stored = np.asarray(Image.open(labelled.rows.pairs[index][1])).astype(int)
        assert np.array_equal(row["labels"][stored > 0], stored[stored > 0] - 1)
        assert (row["labels"][stored == 0] == 255).all()


def test_broken_images_are_named(tmp_path: Path) -> None:
    Image.new("L", (3, 3)).save(written(tmp_path) / "labels" / "1.png")
    args, skipping = (SemanticArguments(source=str(tmp_path), on_error=what, **WHOLE) for what in ("raise", "skip"))
    dataset = SemanticDataset(load_label_maps(args, "train"), processor(), args, training=True)
    with pytest.raises(ValueError, match="1.png"):
        dataset[1]
    sample = SemanticDataset(load_label_maps(args, "train"), processor(), skipping, training=True)[1]
    assert sample["labels"].min() < 3
    with pytest.raises(ValueError, match="There is no .*a source may have.*train_split all"):
        load_label_maps(SemanticArguments(source=str(tmp_path), format="label_maps"), "train")


def test_a_split_is_the_folder_of_its_name(tmp_path: Path) -> None:
    for split, count in (("training", 3), ("val", 2)):
        whole = written(tmp_path / split, count)
        for part in ("images", "labels"):
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
            (whole / part).rename(tmp_path / "data" / part / split)
    source = str(tmp_path / "data")
    counts = [len(load_label_maps(SemanticArguments(source=source), part).rows) for part in ("train", "eval")]
    assert counts == [3, 2]
    with pytest.raises(ValueError, match="There is no .*images/test with .*labels/test"):
        load_label_maps(SemanticArguments(source=source, eval_split="test"), "eval")


def test_a_segmenter_learns_and_goes_on_where_it_was(tmp_path: Path) -> None:
    scales = {"min_scale": 0.8, "max_scale": 1.2}
    args = SemanticArguments(source=str(written(tmp_path / "data", 12)), batch_size=4, **scales, **WHOLE)
    torch.manual_seed(0)
    OfbViTForImageClassification(tiny_vit().config).save_pretrained(tmp_path / "vit")
    training = SemanticDataset(load_label_maps(args, "train"), processor(), args, training=True)
    evaluation = SemanticDataset(load_label_maps(args, "eval"), processor(), args, training=False)
    values = {"learning_rate": 3e-3, "layer_decay": 1.0, "drop_path_rate": 0.0, "warmup_steps": 0, "save_steps": 100}
    torch.manual_seed(1)
    model = segmenter(tmp_path / "vit", "pup")
    before = evaluate_segmenter(model, build_loader(evaluation, 1))
    steps = SegmenterArguments(max_steps=300, **values)
    model = train_segmenter(model, build_loader(training, 4), steps, tmp_path / "run")
    after = evaluate_segmenter(model, build_loader(evaluation, 1))
    assert after.miou > max(0.7, before.miou + 0.2)
    assert (after.num_images, len(after.class_ious)) == (12, 3)
    torch.manual_seed(1)
    again = train_segmenter(segmenter(tmp_path / "vit", "pup"), build_loader(training, 4), steps, tmp_path / "run")
    weights = [m.segmentation_head.classifier.weight for m in (model, again)]
    assert torch.equal(*weights)
    with pytest.raises(ValueError, match="`num_labels=3`"):
        evaluate_segmenter(segmenter(tmp_path / "vit", labels=4), build_loader(evaluation, 1))


def test_batch_norms_of_several_gpus(tmp_path: Path) -> None:
    """The same weights and outputs; the norms themselves need GPUs."""
    tiny_vit().save_pretrained(tmp_path)
    model, pixel_values = segmenter(tmp_path, "mla"), pixels()
    with torch.no_grad():
        before, keys = model(pixel_values).logits, list(model.state_dict())
    on_cpus = synchronised(model, SimpleNamespace(num_processes=2, device=torch.device("cpu")))
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in on_cpus.modules())
    model = synchronised(model, SimpleNamespace(num_processes=2, device=torch.device("cuda")))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    with torch.no_grad():
        assert torch.equal(model(pixel_values).logits, before)
    assert list(model.state_dict()) == keys


def test_a_picture_of_labels_and_predictions(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [2, 2, 0]])
    colors = coloured(labels, ["background", "cell", "wall"])
    assert (colors[labels == 0] == 0).all()
    assert colors[labels == 1][0, :3] == pytest.approx(to_rgb(OBJECT_COLORS[0]))
    assert colors[labels == 2][0, :3] == pytest.approx(to_rgb(OBJECT_COLORS[1]))
    assert len({tuple(color) for color in colors[labels == 255].tolist()}) == 1
    assert coloured(labels, ["road", "sky", "car"])[0, 0, 3] > 0
    with pytest.raises(ValueError, match="`samples` is empty"):
        plot_segmentation([], ["a"], tmp_path / "a.png")


def test_objects_are_foreground() -> None:
    """Any source of objects: here generated scenes."""
    labelled = load_label_maps(SemanticArguments(source="shapes", max_train_images=3), "train")
    assert (len(labelled.rows), labelled.label_names) == (3, FOREGROUND)
    row = labelled.rows.read(0)
    assert set(np.unique(row["labels"])) == {0, 1}
    assert row["labels"].shape == (row["image"].height, row["image"].width)


REMOTE = """
import json
import sys

import numpy as np
from PIL import Image
from transformers import pipeline

segment = pipeline("image-segmentation", model=sys.argv[1], trust_remote_code=True)
found = segment(Image.open(sys.argv[2]))
assert "supersam_hf" not in sys.modules
print(json.dumps({one["label"]: int((np.asarray(one["mask"]) > 0).sum()) for one in found}))
"""


def test_a_run_by_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture, bare_python: str) -> None:
    """Trained, evaluated and timed; run again it is evaluated alone; another model needs another folder."""
    tiny_vit().save_pretrained(tmp_path / "vit")
    processor().save_pretrained(tmp_path / "vit")
    argv = ["segment", "--model.name", str(tmp_path / "vit"), "--data.source", str(written(tmp_path / "data"))]
    argv += ["--output_dir", str(tmp_path / "run"), "--train.max_steps", "4", "--model.segmentation_channels", "8"]
    argv += ["--data.train_split", "all", "--data.eval_split", "all"]
    argv += ["--data.batch_size", "2", "--train.eval_steps", "2", "--train.warmup_steps", "0", "--repeats", "1"]
    assert main([*argv, "--dry_run"]) == 0
    assert "4 steps of 2 images" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(argv) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["num_images"], results["label_names"]) == (6, ["0", "1", "2"])
    assert results["backbone_macs"] == count_macs(tiny_vit().config) - 64 * 7
    model = OfbViTForSemanticSegmentation.from_pretrained(tmp_path / "run" / "segmenter")
    assert results["parameters"] == sum(p.numel() for p in model.parameters())
    logged = [json.loads(line) for line in (tmp_path / "run" / "train" / "log.jsonl").read_text().splitlines()]
    assert [line["miou"] for line in logged if "miou" in line][-1] == pytest.approx(results["miou"])
    changed = (tmp_path / "run" / "segmenter" / "model.safetensors").stat().st_mtime_ns
    assert main(argv) == 0
    assert (tmp_path / "run" / "segmenter" / "model.safetensors").stat().st_mtime_ns == changed
    capsys.readouterr()
    published = tmp_path / "published"
    push = ["push", str(tmp_path / "run"), "me/x", "--dry_run", "--output_dir", str(published)]
    assert main(push) == 0
    card = ModelCard(capsys.readouterr().out)
    assert (card.data.pipeline_tag, card.data.datasets) == ("image-segmentation", None)
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["mean_iou"] == pytest.approx(results["miou"], abs=1e-4)
    assert values["accuracy"] == pytest.approx(results["aacc"], abs=1e-4)
    assert f"{results['parameters']:,}" in card.text
    assert str(tmp_path) not in card.content
    assert 'pipeline("image-segmentation", model="me/x", revision="weights-' in card.text
    assert (published / "segmentation_ofb_vit.py").is_file()
    again = OfbViTForSemanticSegmentation.from_pretrained(published)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    segment = pipeline("image-segmentation", model=str(published))
    found = segment(Image.open(next((tmp_path / "data" / "images").glob("*.png"))))
    assert {one["label"] for one in found} <= {"0", "1", "2"}
    covered = np.stack([np.asarray(one["mask"]) > 0 for one in found])
    assert covered.shape[1:] == (40, 52)
    assert (covered.sum(0) == 1).all()
    assert "ofb" not in card.data.tags  # nothing was searched here
    image = next((tmp_path / "data" / "images").glob("*.png"))
    done = subprocess.run([bare_python, "-c", REMOTE, published, image], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    areas = {one["label"]: int((np.asarray(one["mask"]) > 0).sum()) for one in segment(Image.open(image))}
    assert json.loads(done.stdout.splitlines()[-1]) == areas
    other = ["--train.max_steps", "5", "--data.flip", "false"]
    assert main([*argv, *other]) == 2
    assert "was made with other values of `data.flip`, `train.max_steps`" in capsys.readouterr().err
    assert main(["segment", "--data.source", "x"]) == 2
    assert "`model.name` is missing" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_fills_a_run(path: Path) -> None:
    own = parser()
    values = vars(own.instantiate(own.parse_args(["--config", str(path)])))
    values.pop("config")
    values.pop("dry_run")
    assert SegmenterRecipe(**values).output_dir == f"runs/{path.stem}"
