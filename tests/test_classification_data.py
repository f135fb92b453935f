"""Labelled images, labels by name and accuracy, against transformers' own processing, brute force and real data."""

import io
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf.classification import evaluate_classifier
from supersam_hf.data import (
    ImageClassificationArguments,
    ImageDataset,
    build_loader,
    load_classification,
    match_labels,
    shape_classes,
)
from supersam_hf.data.augment import random_erasing, random_resized_crop
from supersam_hf.data.classification import evenly_over_classes
from supersam_hf.metrics import load_topk_accuracy


SIDE = 24


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def processor(side: int = SIDE) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.4] * 3, image_std=[0.3] * 3)


def arguments(**values: object) -> ImageClassificationArguments:
    return ImageClassificationArguments(**{"shapes_train_images": 20, "shapes_eval_images": 10, **values})


def samples(training: bool = True, **values: object) -> ImageDataset:
    args = arguments(**values)
    dataset = load_classification(args, "train" if training else "eval")
    return ImageDataset(dataset, processor(), args, training=training)


def picture(rng: np.random.Generator, width: int = 20, height: int = 16) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def table(images: list[Image.Image], labels: list[int], num_classes: int = 2) -> datasets.Dataset:
    names = datasets.ClassLabel(names=[f"class {i}" for i in range(num_classes)])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


# sources -------------------------------------------------------------------------------------------------------------


def test_shapes_are_balanced_and_the_same_for_the_same_seed_only() -> None:
    first, longer, other = shape_classes(20), shape_classes(23), shape_classes(20, seed=1)
    assert np.bincount(first["label"]).tolist() == [2] * 10
    same = [np.array_equal(first[i]["image"], longer[i]["image"]) for i in range(20)]
    differ = [np.array_equal(first[i]["image"], other[i]["image"]) for i in range(20)]
    assert all(same)
    assert not any(differ)
    args = arguments()
    train, held_out = load_classification(args, "train"), load_classification(args, "eval")
    assert not np.array_equal(train[0]["image"], held_out[0]["image"])


def test_a_subset_takes_the_first_images_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [50, 3, 20])
    rows = evenly_over_classes(labels, 12)
    assert np.bincount(labels[rows]).tolist() == [5, 3, 4]
    assert rows.tolist() == [*range(5), *range(50, 53), *range(53, 57)]
    assert evenly_over_classes(labels, 1000).tolist() == list(range(73))
    shuffled = np.random.default_rng(0).permutation(labels)
    for count in (1, 2, 3, 10, 40):
        counts = np.bincount(shuffled[evenly_over_classes(shuffled, count)], minlength=3)
        assert counts.sum() == count
        # A class has fewer than another only where it has no more.
        assert all(a >= b - 1 or a == (labels == i).sum() for i, a in enumerate(counts) for b in counts)


def write_folders(root: Path, classes: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(rng).save(root / name / f"{i}.png")


def test_folders_of_one_class_each(tmp_path: Path) -> None:
    # A class may be called as a split, and a split may lack a class.
    write_folders(tmp_path / "train", {"cat": 3, "test": 4, "dog": 2})
    write_folders(tmp_path / "val", {"dog": 2, "test": 1})
    args = arguments(source=str(tmp_path))
    train, held_out = load_classification(args, "train"), load_classification(args, "eval")
    assert train.features["label"].names == held_out.features["label"].names == ["cat", "dog", "test"]
    assert np.bincount(train["label"]).tolist() == [3, 2, 4]
    assert np.bincount(held_out["label"]).tolist() == [0, 2, 1]
    row = held_out[0]
    name = held_out.features["label"].int2str(row["label"])
    files = [np.asarray(Image.open(file)) for file in (tmp_path / "val" / name).iterdir()]
    assert any(np.array_equal(np.asarray(row["image"]), file) for file in files)


def test_one_folder_is_cut_into_parts_that_show_every_class(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 20, "b": 20})
    args = arguments(source=str(tmp_path), train_split="train[:75%]", eval_split="train[75%:]")
    train, held_out = load_classification(args, "train"), load_classification(args, "eval")
    assert (len(train), len(held_out)) == (30, 10)
    assert set(train["label"]) == set(held_out["label"]) == {0, 1}
    with pytest.raises(ValueError, match=r"no split 'validation'.*train\[:90%\].*\['train'\]"):
        load_classification(arguments(source=str(tmp_path)), "eval")
    (tmp_path / "b").rename(tmp_path.parent / f"{tmp_path.name}_b")
    with pytest.raises(ValueError, match="only one folder of images"):
        load_classification(args, "train")


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    two = datasets.ClassLabel(names=["x", "y"])
    features = {"img": datasets.Image(), "fine": two, "coarse": two, "plain": datasets.Value("int64")}
    features |= {"word": datasets.Value("string")}
    columns = {"img": [picture(rng) for _ in range(3)], "fine": [0, 1, 1], "coarse": [1, 0, 0], "plain": [2, 0, 1]}
    columns |= {"word": ["up", "down", "up"]}
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.to_parquet(tmp_path / "train.parquet")
    source = str(tmp_path)
    with pytest.raises(ValueError, match=r"2 columns of kind ClassLabel \['fine', 'coarse'\].*data.label_column"):
        load_classification(arguments(source=source), "train")
    with pytest.raises(ValueError, match="data.image_column.*'nope'.*'img'"):
        load_classification(arguments(source=source, image_column="nope", label_column="fine"), "train")
    loaded = load_classification(arguments(source=source, label_column="coarse"), "train")
    assert loaded.column_names == ["image", "label"]
    assert loaded["label"][:] == [1, 0, 0]
    with pytest.raises(ValueError, match="data.label_names"):
        load_classification(arguments(source=source, label_column="plain"), "train")
    named = {"source": source, "label_names": ["down", "left", "up"]}
    for column, expected in (("plain", [2, 0, 1]), ("word", [2, 0, 2])):
        loaded = load_classification(arguments(label_column=column, **named), "train")
        assert loaded["label"][:] == expected
        assert loaded.features["label"].names == named["label_names"]
    with pytest.raises(ValueError, match="does not name every label"):
        load_classification(arguments(source=source, label_column="word", label_names=["up", "left"]), "train")


@pytest.mark.parametrize("label", [-1, None])
def test_hidden_labels_are_refused(label: int | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table([picture(rng) for _ in range(3)], [0, label, 1]).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"1 of 3 labels.*row 1.*data.eval_split"):
        load_classification(arguments(source=str(tmp_path / "saved"), eval_split="train"), "eval")


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_scale": 0.0},
        {"random_erasing": 1.5},
        {"rand_augment_magnitude": 10},
        {"max_train_images": 0},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        ImageClassificationArguments(**wrong)


@pytest.mark.shared
def test_cifar_and_tiny_imagenet(shared: Path) -> None:
    cifar = arguments(source=str(shared / "data/cifar10"), eval_split="test", max_train_images=25, max_eval_images=20)
    train, held_out = load_classification(cifar, "train"), load_classification(cifar, "eval")
    assert sorted(np.bincount(train["label"])) == [2] * 5 + [3] * 5
    assert np.bincount(held_out["label"]).tolist() == [2] * 10
    assert train.features["label"].names[3] == "cat"
    tiny = load_classification(arguments(source=str(shared / "data/tiny_imagenet"), max_eval_images=400), "eval")
    assert np.bincount(tiny["label"]).tolist() == [2] * 200


# samples -------------------------------------------------------------------------------------------------------------


def test_evaluation_samples_are_the_processor_s_own() -> None:
    rng = np.random.default_rng(0)
    images = [picture(rng, 31, 20), picture(rng, 20, 40).convert("L"), picture(rng).convert("P")]
    data = table(images, [0, 1, 1])
    cropping = DeiTImageProcessorPil(size={"height": 32, "width": 32}, crop_size={"height": SIDE, "width": SIDE})
    shortest = DeiTImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": SIDE, "width": SIDE})
    for image_processor in (processor(), cropping, shortest):
        dataset = ImageDataset(data, image_processor, arguments(), training=False)
        for i, image in enumerate(images):
            expected = image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
            assert torch.equal(dataset[3, i]["pixel_values"], expected)
            assert expected.shape == (3, SIDE, SIDE)
            assert dataset[i]["labels"] == data[i]["label"]


def test_processors_of_other_than_squares_are_refused() -> None:
    data = table([picture(np.random.default_rng(0))], [0])
    wide = ViTImageProcessorPil(size={"height": 24, "width": 32})
    loose = DeiTImageProcessorPil(size={"shortest_edge": 24}, do_center_crop=False)
    for image_processor in (wide, loose):
        with pytest.raises(ValueError, match="squares of one size"):
            ImageDataset(data, image_processor, arguments(), training=False)


def test_training_samples_depend_on_seed_epoch_and_index_alone() -> None:
    changes = {"rand_augment": True, "color_jitter": 0.4, "random_erasing": 0.5}
    dataset, again, other = samples(**changes), samples(**changes), samples(seed=1, **changes)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [dataset[2, i]["pixel_values"] for i in range(6)]
    assert torch.equal(torch.get_rng_state(), state)  # kornia's draws leave torch's own generator alone
    torch.manual_seed(1)
    backwards = [again[2, i]["pixel_values"] for i in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, backwards))
    assert not any(torch.equal(a, dataset[3, i]["pixel_values"]) for i, a in enumerate(first))
    assert not any(torch.equal(a, other[2, i]["pixel_values"]) for i, a in enumerate(first))


def test_batches_are_the_same_with_any_number_of_workers() -> None:
    batches = []
    for num_workers in (0, 2):
        loader = build_loader(samples(rand_augment=True), 8, num_workers=num_workers, seed=3)
        loader.batch_sampler.begin(4)
        batches.append(list(loader))
    assert [len(batch["labels"]) for batch in batches[0]] == [8, 8, 4]
    for left, right in zip(*batches):
        assert torch.equal(left["pixel_values"], right["pixel_values"])
        assert torch.equal(left["labels"], right["labels"])


def test_crops_keep_to_scale_and_ratio() -> None:
    # Pixels hold their own place, so that a crop tells where it was taken.
    width, height, side = 120, 80, 64
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    rng, nearest = np.random.default_rng(0), Image.Resampling.NEAREST
    areas, ratios = [], []
    for _ in range(200):
        pixels = np.asarray(random_resized_crop(image, side, 0.25, nearest, rng)).astype(int)
        assert pixels.shape == (side, side, 3)
        w, h = np.ptp(pixels[..., 0]) * side / (side - 1), np.ptp(pixels[..., 1]) * side / (side - 1)
        areas.append(w * h / (width * height))
        ratios.append(w / h)
    assert 0.22 < min(areas) < 0.35
    assert 0.75 < max(areas) <= 1
    assert 0.7 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.42


def test_without_random_changes_training_samples_are_the_evaluation_samples() -> None:
    args = arguments(min_scale=1.0, flip=False)
    data = table([picture(np.random.default_rng(0), 30, 30)], [1])
    train, held_out = (ImageDataset(data, processor(), args, training=training) for training in (True, False))
    assert torch.allclose(train[5, 0]["pixel_values"], held_out[0]["pixel_values"], atol=1e-6)
    flipped = ImageDataset(data, processor(), arguments(min_scale=1.0), training=True)
    mirrored = [torch.equal(flipped[i, 0]["pixel_values"], train[0]["pixel_values"].flip(-1)) for i in range(40)]
    assert 10 < sum(mirrored) < 30


def test_erasing_changes_one_rectangle() -> None:
    rng, image = np.random.default_rng(0), torch.full((3, 40, 40), 9.0)
    for _ in range(50):
        rows, columns = np.nonzero((random_erasing(image, rng) != 9).all(0).numpy())
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert area == len(rows)
        assert 0.015 < area / 1600 < 0.36
    assert (image == 9).all()
    plain, erasing = samples(), samples(random_erasing=0.25)
    changed = [not torch.equal(plain[e, 0]["pixel_values"], erasing[e, 0]["pixel_values"]) for e in range(80)]
    assert 8 <= sum(changed) <= 32  # 20 expected, three standard deviations


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": 3, "b": 3})
    broken = tmp_path / "a" / "1.png"
    content = broken.read_bytes()
    args = arguments(source=str(tmp_path))
    for damage in (content[: len(content) // 2], b"no image", content[:60] + b"\0" * (len(content) - 60)):
        broken.write_bytes(damage)
        dataset = ImageDataset(load_classification(args, "train"), processor(), args, training=True)
        with pytest.raises(ValueError, match=r"row \d \(.*a/1\.png\) of the training data cannot be read"):
            _ = [dataset[i] for i in range(6)]
    buffer = io.BytesIO()
    picture(np.random.default_rng(0)).save(buffer, format="PNG")
    cells = [{"bytes": data, "path": None} for data in (buffer.getvalue(), buffer.getvalue()[:80])]
    dataset = ImageDataset(table(cells, [0, 1]), processor(), args, training=False)
    assert dataset[0]["pixel_values"].shape == (3, SIDE, SIDE)
    with pytest.raises(ValueError, match="row 1 of the evaluation data"):
        dataset[1]


def test_missing_kornia_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(ValueError, match=r"pip install supersam-hf\[augment\]"):
        samples(rand_augment=True)
    samples(training=False, rand_augment=True)[0]


def test_rand_augment_gets_stronger_with_its_magnitude_and_goes_both_ways() -> None:
    pytest.importorskip("kornia")
    from kornia.augmentation.auto import RandAugment

    from supersam_hf.data.augment import rand_augment_policy

    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16) * 0.6 + 0.2
    changes: dict[int, dict[str, list[float]]] = {}
    for magnitude in (2, 9):
        for operation in rand_augment_policy(magnitude):
            changed = RandAugment(1, 3 * magnitude, policy=[operation])(image) - image
            values = changes.setdefault(magnitude, {}).setdefault(operation[0][0], [])
            values.append(float(changed.mean() if operation[0][0] == "brightness" else changed.abs().mean()))
    for name in ("solarize", "color", "contrast", "sharpness"):
        assert min(changes[9][name]) > max(changes[2][name]), name
    brighter, darker = changes[9]["brightness"]
    assert brighter > 0.2
    assert darker < -0.2


def test_rand_augment_shears_as_deit_does() -> None:
    from supersam_hf.data.augment import SHARED_OPERATIONS, ColorAugmentation

    augmentation = ColorAugmentation(arguments(rand_augment=True))
    assert len(augmentation.operations) == 1
    shear = dict(operation[0][::2] for operation in SHARED_OPERATIONS)["shear_x"]
    # timm shears by 0.3 at full strength; kornia takes 180 times the magnitude as degrees.
    assert np.tan(np.radians(180 * shear)) == pytest.approx(0.3, abs=0.005)
    rng = np.random.default_rng(0)
    image = picture(rng, SIDE, SIDE)
    changed = [np.abs(np.asarray(augmentation(image, rng)).astype(int) - np.asarray(image)).mean() for _ in range(20)]
    assert np.mean(np.array(changed) > 1) > 0.7


# labels --------------------------------------------------------------------------------------------------------------

IMAGENET = ["tench, Tinca tinca", "crane", "Great White Shark", "crane", "maillot", "maillot, tank suit", "hen"]


def test_labels_are_matched_by_synonym_in_any_case() -> None:
    assert match_labels(["Hen", "tinca TINCA", "great white shark"], IMAGENET) == [6, 0, 2]
    assert match_labels(["tench, Tinca", "maillot", "maillot, tank suit"], IMAGENET) == [0, 4, 5]
    # the very same list
    assert match_labels([name.upper() for name in IMAGENET], IMAGENET) == list(range(7))
    assert match_labels(["maillot"], IMAGENET) == [4]
    assert match_labels(["cardigan", "Cardigan"], ["Cardigan", "cardigan"]) == [1, 0]  # a garment and a dog
    assert match_labels(["a", "b"], ["x", "y"], "same-order") == [0, 1]
    with pytest.raises(ValueError, match="as many classes as the checkpoint has labels, 7; the dataset has 2"):
        match_labels(["a", "b"], IMAGENET, "same-order")


@pytest.mark.parametrize(
    "names, message",
    [
        (["hen", "crane"], r"'crane' could be 1 \('crane'\), 3 \('crane'\).*indices.*label_mapping"),
        (["white shark"], r"'white shark' is none \(near it: 'Great White Shark'\)"),
        (["zebra"], r"'zebra' is none \(near it: nothing\)"),
        (["tench", "tinca tinca"], "'tench' and 'tinca tinca' are both label 0"),
    ],
)
def test_doubtful_labels_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_labels(names, IMAGENET)


def test_labels_are_matched_by_a_mapping(tmp_path: Path) -> None:
    mapping = {"digger": 3, "shark": "great white shark"}
    file = tmp_path / "mapping.json"
    file.write_text(json.dumps(mapping))
    for given in (mapping, file, str(file)):
        assert match_labels(["hen", "shark", "digger"], IMAGENET, given) == [6, 2, 3]
    with pytest.raises(ValueError, match="label 7 to 'hen'.*0 to 6"):
        match_labels(["hen"], IMAGENET, {"hen": 7})
    with pytest.raises(ValueError, match=r"1\.5 to 'hen'"):
        match_labels(["hen"], IMAGENET, {"hen": 1.5})
    file.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        match_labels(["hen"], IMAGENET, file)
    with pytest.raises(ValueError, match="no file"):
        match_labels(["hen"], IMAGENET, tmp_path / "none.json")


@pytest.mark.shared
def test_wordnet_ids_are_matched_by_the_imagenet_table(shared: Path) -> None:
    file = shared / "data/tiny_imagenet/imagenet1k_labels.json"
    content = json.loads(file.read_text())
    config = json.loads((shared / "weights/deit-tiny-patch16-224/config.json").read_text())
    names = [config["id2label"][str(i)] for i in range(1000)]
    dataset = load_classification(arguments(source=str(shared / "data/tiny_imagenet")), "eval")
    ids = dataset.features["label"].names
    labels = match_labels(ids, names, file)
    assert [content[str(label)]["wnid"] for label in labels] == ids
    # A checkpoint that kept these labels only knows them by name.
    assert match_labels(ids, [content[str(label)]["name"] for label in labels], file) == list(range(200))
    with pytest.raises(ValueError, match="n01443537"):
        match_labels(ids, names)


# accuracy ------------------------------------------------------------------------------------------------------------


def tiny_vit(num_labels: int) -> ViTForImageClassification:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(image_size=SIDE, patch_size=8, num_labels=num_labels, **shape))


def test_accuracy_is_that_of_counting_by_hand() -> None:
    model, dataset = tiny_vit(10).train(), samples(training=False)
    result = evaluate_classifier(model, build_loader(dataset, 4))
    assert model.training
    logits = torch.cat([model.eval()(sample["pixel_values"][None]).logits for sample in dataset]).detach()
    labels = torch.stack([sample["labels"] for sample in dataset])
    places = [sorted(range(10), key=lambda c: -row[c]).index(label) for row, label in zip(logits, labels)]
    assert result.num_images == 10
    assert result.top1 == pytest.approx(np.mean([place < 1 for place in places]))
    assert result.top5 == pytest.approx(np.mean([place < 5 for place in places]))
    assert result.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    metric = load_topk_accuracy().compute(predictions=logits.tolist(), references=labels.tolist())
    assert metric == {"top1": pytest.approx(result.top1), "top5": pytest.approx(result.top5), "num_examples": 10}


def test_five_labels_have_no_top_5() -> None:
    rng = np.random.default_rng(0)
    data = table([picture(rng) for _ in range(6)], [0, 1, 2, 3, 4, 0], num_classes=5)
    dataset = ImageDataset(data, processor(), arguments(), training=False)
    assert evaluate_classifier(tiny_vit(5), build_loader(dataset, 4)).top5 is None
    with pytest.raises(ValueError, match="7 labels and the data 5"):
        evaluate_classifier(tiny_vit(7), build_loader(dataset, 4))


def test_the_metric_counts_ties_once_and_refuses_bad_input() -> None:
    metric = load_topk_accuracy()
    even = metric.compute(predictions=[[0.0] * 4] * 4, references=[0, 1, 2, 3], k=(1, 2, 4))
    assert even == {"top1": 0.25, "top2": 0.5, "top4": 1.0, "num_examples": 4}
    with pytest.raises(ValueError, match="between 1 and the 4 labels"):
        metric.compute(predictions=[[0.0] * 4], references=[0])
    with pytest.raises(ValueError, match="0 to 3"):
        metric.compute(predictions=[[0.0] * 4], references=[4], k=(1,))
    with pytest.raises(ValueError, match="one score a label"):
        metric.compute(predictions=[[0.0] * 4, [0.0] * 3], references=[0, 1], k=(1,))
