"""Sources of files: every layout against what pycocotools, json, Pillow and scipy read of the same files."""

import io
import json
import multiprocessing
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.ndimage import label
from test_data import processor

from supersam_hf.commands.preview import drawn_samples
from supersam_hf.data import DataArguments, PromptDataset, decode_masks, load_source, open_source
from supersam_hf.data.layouts import find_layout
from supersam_hf.data.ranges import RowRange, sliced
from supersam_hf.data.segmentations import check_run_lengths
from supersam_hf.data.skipped import SkipLog
from supersam_hf.data.source import Shard, Source, UnreadableError
from supersam_hf_cli import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def arguments(source: Path, **values: Any) -> DataArguments:
    return DataArguments(source=str(source), **values)


def rows_of(source: Source) -> list[dict[str, Any]]:
    return [source.read(shard, row) for shard, rows in enumerate(source.shards) for row in range(rows.rows)]


def both(args: DataArguments, part: str = "train") -> list[dict[str, Any]]:
    """The examples of a source, after a check that reading them one by one and converting them all is the same."""
    dataset = load_source(args, part)  # type: ignore[arg-type]
    source = pickle.loads(pickle.dumps(open_source(args, part)))  # type: ignore[arg-type]
    read = rows_of(source)
    assert [(r["image_id"], r["objects"]) for r in read] == [(r["image_id"], r["objects"]) for r in dataset]
    assert len(source) == len(dataset)
    return read


def pixels(example: dict[str, Any]) -> np.ndarray:
    cell = example["image"]
    return np.asarray(Image.open(cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])))


# Images of noise, so that no two are alike, with masks of blobs.


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    """Boolean (height, width): rectangles, some of them touching."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    for top, left in zip(rng.integers(0, height - 8, 6), rng.integers(0, width - 8, 6)):
        mask[top : top + rng.integers(3, 9), left : left + rng.integers(3, 9)] = True
    return mask


def noise(seed: int, height: int, width: int, channels: int = 3) -> Image.Image:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def sa1b_pair(number: int, height: int = 30, width: int = 40) -> tuple[bytes, bytes]:
    """Image and annotations as SA-1B stores them: an object for each connected blob."""
    image = io.BytesIO()
    noise(number, height, width).save(image, format="JPEG")
    parts, count = label(blobs(number, height, width))
    annotations = [{"id": n, "segmentation": rle(parts == n)} for n in range(1, count + 1)]
    facts = {"image_id": number, "width": width, "height": height, "file_name": f"sa_{number}.jpg"}
    return image.getvalue(), json.dumps({"image": facts, "annotations": annotations}).encode()


def write_sa1b(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        for suffix, content in zip((".jpg", ".json"), sa1b_pair(number)):
            (folder / f"sa_{number}{suffix}").write_bytes(content)


def write_tar(file: Path, numbers: range) -> None:
    with tarfile.open(file, "w") as tar:
        for number in numbers:
            for suffix, content in zip((".jpg", ".json"), sa1b_pair(number)):
                member = tarfile.TarInfo(f"./sa_{number}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_stack(folder: Path, name: str, pages: int, height: int = 50, width: int = 70) -> None:
    images = [noise(seed, height, width, channels=1) for seed in range(pages)]
    masks = [Image.fromarray(np.uint8(255 * blobs(seed, height, width))) for seed in range(pages)]
    images[0].save(folder / f"{name}.tif", save_all=True, append_images=images[1:])
    masks[0].save(folder / f"{name}_groundtruth.tif", save_all=True, append_images=masks[1:])


# SA-1B ---------------------------------------------------------------------------------------------------------------


def test_folders_and_tars_of_sa1b_are_the_same_examples(tmp_path: Path) -> None:
    write_sa1b(tmp_path / "flat", range(7))
    write_sa1b(tmp_path / "deep" / "sa_000", range(4))
    write_sa1b(tmp_path / "deep" / "sa_001", range(4, 7))
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "sa_000.tar", range(4))
    write_tar(tmp_path / "tars" / "sa_001.tar", range(4, 7))
    assert {find_layout(tmp_path / name) for name in ("flat", "deep", "tars")} == {"sa1b"}
    flat, deep, tars = (both(arguments(tmp_path / name)) for name in ("flat", "deep", "tars"))
    for number, examples in enumerate(zip(flat, deep, tars)):
        parts, count = label(blobs(number, 30, 40))
        for example in examples:
            assert example["image_id"] == f"sa_{number}"
            assert np.array_equal(pixels(example), np.asarray(Image.open(tmp_path / "flat" / f"sa_{number}.jpg")))
            assert np.array_equal(decode_masks(example["objects"]), np.stack([parts == n + 1 for n in range(count)]))
    source = open_source(arguments(tmp_path / "tars"), "train")
    assert [shard.rows for shard in source.shards] == [4, 3]
    single = open_source(arguments(tmp_path / "tars" / "sa_001.tar"), "train")
    assert [example["image_id"] for example in rows_of(single)] == ["sa_4", "sa_5", "sa_6"]


def test_a_tar_is_indexed_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sa_000.tar"
    write_tar(file, range(3))
    assert len(open_source(arguments(tmp_path), "train")) == 3
    opened = []
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: opened.append(args) or tarfile.TarFile(args[0]))
    assert len(rows_of(open_source(arguments(tmp_path), "train"))) == 3
    assert not opened
    file.unlink()
    monkeypatch.undo()
    write_tar(file, range(5))
    assert len(open_source(arguments(tmp_path), "train")) == 5


def test_slices_are_the_same_rows_converted_and_read(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for number, numbers in enumerate((range(3), range(3, 4), range(4, 9))):
        write_tar(tmp_path / "tars" / f"{number}.tar", numbers)
    args = arguments(tmp_path / "tars", train_split="train[:5]", eval_split="train[5:8]")
    assert [example["image_id"] for example in both(args)] == [f"sa_{n}" for n in range(5)]
    assert [example["image_id"] for example in both(args, "eval")] == [f"sa_{n}" for n in range(5, 8)]
    args = arguments(tmp_path / "tars", train_split="train[-5:]", max_train_images=2)
    assert [example["image_id"] for example in both(args)] == ["sa_4", "sa_5"]


class Numbers(Source):
    """Shards of the numbers from 0 on."""

    def __init__(self, counts: list[int]) -> None:
        self.shards = [Shard(str(number), count) for number, count in enumerate(counts)]
        self.begins = np.cumsum([0, *counts])

    def read(self, shard: int, row: int) -> dict[str, Any]:
        assert 0 <= row < self.shards[shard].rows
        return {"number": int(self.begins[shard]) + row}


@pytest.mark.parametrize("start, stop", [(0, 11), (0, 3), (2, 3), (3, 8), (4, 99), (11, 11), (8, 2)])
def test_a_range_of_rows_is_the_slice_of_all_of_them(start: int, stop: int) -> None:
    part = RowRange(Numbers([3, 0, 1, 5, 2]), start, stop)
    assert [row["number"] for row in rows_of(part)] == list(range(11))[start:stop]
    assert all(shard.rows for shard in part.shards)
    again = sliced(part, "[1:]", 2)
    assert [row["number"] for row in rows_of(again)] == list(range(11))[start:stop][1:3]


# ADE20K --------------------------------------------------------------------------------------------------------------


def class_map(seed: int) -> np.ndarray:
    """uint8 (40, 60): 0 = other, classes 3, 150 and 255."""
    return np.random.default_rng(seed).choice([0, 3, 150, 255], (5, 6)).astype(np.uint8).repeat(8, 0).repeat(10, 1)


def objects_of(ids: np.ndarray) -> list[np.ndarray]:
    """A mask for each id above 0, in the order of the ids."""
    return [ids == value for value in np.unique(ids) if value]


def test_scene_parsing_is_one_mask_a_class(tmp_path: Path) -> None:
    for number, split in enumerate(("training", "validation")):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        noise(number, 40, 60).save(tmp_path / "images" / split / f"ADE_{number}.jpg")
        Image.fromarray(class_map(number)).save(tmp_path / "annotations" / split / f"ADE_{number}.png")
    assert find_layout(tmp_path) == "ade20k"
    for number, part in enumerate(("train", "eval")):
        (example,) = both(arguments(tmp_path), part)
        assert example["image_id"] == f"ADE_{number}"
        assert np.array_equal(decode_masks(example["objects"]), objects_of(class_map(number)))


def instance_ids() -> tuple[np.ndarray, np.ndarray]:
    """Classes and instances, (40, 60): two of one class, one whose number another class has too, and none."""
    classes, numbers = np.zeros((2, 40, 60), dtype=np.uint8)
    classes[:20, :20], numbers[:20, :20] = 2, 1
    classes[:20, 30:], numbers[:20, 30:] = 2, 2
    classes[25:, :50], numbers[25:, :50] = 7, 1
    return classes, numbers


def test_instances_of_the_challenge(tmp_path: Path) -> None:
    classes, numbers = instance_ids()
    for kind in ("images", "annotations_instance"):
        (tmp_path / kind / "validation").mkdir(parents=True)
    noise(0, 40, 60).save(tmp_path / "images" / "validation" / "ADE_0.jpg")
    map_ = Image.fromarray(np.stack([classes, numbers, np.zeros_like(classes)], axis=-1))
    map_.save(tmp_path / "annotations_instance" / "validation" / "ADE_0.png")
    assert find_layout(tmp_path) == "ade20k_instances"
    (example,) = both(arguments(tmp_path), "eval")
    assert np.array_equal(decode_masks(example["objects"]), objects_of(classes.astype(int) * 9 + numbers))


def test_instances_of_the_full_release(tmp_path: Path) -> None:
    classes, numbers = instance_ids()
    folder = tmp_path / "images" / "training" / "urban" / "street"
    folder.mkdir(parents=True)
    noise(0, 40, 60).save(folder / "ADE_0.jpg")
    # Class 3 * 256 + 2 or 7: red holds ten times the high byte, and a number of its own below that.
    high = np.where(classes > 0, 10 * 3 + 4, 0).astype(np.uint8)
    map_ = Image.fromarray(np.stack([high, classes, numbers], axis=-1))
    map_.save(folder / "ADE_0_seg.png")
    map_.save(folder / "ADE_0_parts_1.png")
    assert find_layout(tmp_path) == "ade20k_instances"
    (example,) = both(arguments(tmp_path))
    assert np.array_equal(decode_masks(example["objects"]), objects_of(classes.astype(int) * 9 + numbers))


@pytest.mark.parametrize("above", ["images/ADE", "images", "ADE", "."])
def test_splits_of_the_full_release_are_not_mixed(tmp_path: Path, above: str) -> None:
    classes, numbers = instance_ids()
    map_ = Image.fromarray(np.stack([np.where(classes > 0, 10, 0).astype(np.uint8), classes, numbers], axis=-1))
    for number, split in enumerate(("training", "validation")):
        folder = tmp_path / above / split / "urban" / "street"
        folder.mkdir(parents=True)
        noise(number, 40, 60).save(folder / f"ADE_{number}.jpg")
        map_.save(folder / f"ADE_{number}_seg.png")
    assert find_layout(tmp_path) == "ade20k_instances"
    for number, part in enumerate(("train", "eval")):
        assert [example["image_id"] for example in both(arguments(tmp_path), part)] == [f"ADE_{number}"]
    street = tmp_path / above / "training" / "urban"
    assert len(both(arguments(street))) == 1
    with pytest.raises(ValueError, match=r"no split 'validation' .*train\[:90%\].* \['train'\]"):
        open_source(arguments(street), "eval")


# stacks and patches --------------------------------------------------------------------------------------------------


def test_stacks_are_cut_into_patches_whose_objects_are_connected(tmp_path: Path) -> None:
    write_stack(tmp_path, "training", 3)
    write_stack(tmp_path, "testing", 2)
    assert find_layout(tmp_path) == "stacks"
    args = arguments(tmp_path, patch_size=16, eval_split="test")
    examples = both(args)
    assert len(examples) == 3 * 3 * 4  # of 50 x 70 px
    assert len(open_source(args, "eval")) == 2 * 3 * 4
    for number, example in enumerate(examples):
        page, patch = divmod(number, 12)
        top, left = 16 * (patch // 4), 16 * (patch % 4)
        part = np.s_[top : top + 16, left : left + 16]
        assert np.array_equal(pixels(example), np.asarray(noise(page, 50, 70, channels=1))[part])
        parts, count = label(blobs(page, 50, 70)[part], structure=np.ones((3, 3)))
        masks = {mask.tobytes() for mask in decode_masks(example["objects"])}
        assert masks == {(parts == n).tobytes() for n in range(1, count + 1)}


def test_all_objects_of_a_patch_as_one(tmp_path: Path) -> None:
    write_stack(tmp_path, "training", 2)
    whole = both(arguments(tmp_path, merge_objects=True))
    assert [decode_masks(example["objects"]).shape[0] for example in whole] == [1, 1]
    for number, example in enumerate(both(arguments(tmp_path, patch_size=16, merge_objects=True))):
        page, patch = divmod(number, 12)
        top, left = 16 * (patch // 4), 16 * (patch % 4)
        expected = blobs(page, 50, 70)[top : top + 16, left : left + 16]
        masks = decode_masks(example["objects"])
        assert len(masks) == int(expected.any())
        assert not len(masks) or np.array_equal(masks[0], expected)


def test_an_image_smaller_than_a_patch_is_one(tmp_path: Path) -> None:
    write_stack(tmp_path, "training", 1)
    sizes = [pixels(example).shape for example in both(arguments(tmp_path, patch_size=60))]
    assert sizes == [(50, 60)]
    (example,) = both(arguments(tmp_path, patch_size=100))
    assert pixels(example).shape == (50, 70)


def test_patches_of_16_bits_keep_the_range_of_their_image(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    Image.fromarray(values).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / "masks" / "a.png")
    patches = [pixels(example) for example in both(arguments(tmp_path, patch_size=4))]
    assert patches[0].min() == 0
    assert patches[3].max() == 255
    assert patches[0].max() < 128


def test_generated_shapes_are_cut_as_well() -> None:
    args = DataArguments(shapes_train_images=2, shapes_image_size=64, patch_size=32)
    whole = load_source(DataArguments(shapes_train_images=2, shapes_image_size=64), "train")
    patches = load_source(args, "train")
    assert len(patches) == 8
    area = [sum(sum(row["objects"]["area"]) for row in rows) for rows in (whole, patches)]
    assert area[0] == area[1]


# what cannot be read -------------------------------------------------------------------------------------------------


def truncate(file: Path, share: float = 0.5) -> None:
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


def without_masks(file: Path) -> None:
    file.write_text(json.dumps({"image": {"file_name": "sa_1.jpg"}}))


def other_size(file: Path) -> None:
    content = json.loads(sa1b_pair(1, height=31)[1])
    file.write_text(json.dumps(content))


def wrong_sum(file: Path) -> None:
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": rle(np.ones((30, 41), bool))["counts"]}
    file.write_text(json.dumps(content))


def plain_counts(file: Path) -> None:
    """Run lengths that are not compressed, and too few of them."""
    file.write_text(json.dumps({"annotations": [{"segmentation": {"size": [30, 40], "counts": [600, 500]}}]}))


def too_deep(file: Path) -> None:
    file.write_text("[" * 100_000)


def no_json_object(file: Path) -> None:
    file.write_text("null")


def read_all(args: DataArguments) -> None:
    """Reads the pixels too, each when it is its turn."""
    data = PromptDataset(load_source(args, "train"), processor(), args, training=False)
    for index in range(len(data)):
        data[index]


@pytest.mark.parametrize(
    "name, spoil, said",
    [
        ("sa_1.jpg", truncate, "truncated|cannot be read"),
        ("sa_1.json", without_masks, "has no 'annotations'"),
        ("sa_1.json", other_size, "31 x 40.*30 x 40"),
        ("sa_1.json", wrong_sum, "add up to 1230 px"),
        ("sa_1.json", plain_counts, "add up to 1100 px, not to its size. Replace"),
        ("sa_1.json", too_deep, "recursion"),
        ("sa_1.json", no_json_object, "NoneType"),
        ("sa_1.json", truncate, "cannot be read"),
        ("sa_1.json", Path.unlink, "No such file"),
        ("sa_1.jpg", Path.unlink, "No such file"),
    ],
)
def test_broken_files_of_sa1b_are_named_or_skipped_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, spoil: Callable[[Path], None], said: str
) -> None:
    write_sa1b(tmp_path / "data", range(4))
    spoil(tmp_path / "data" / name)
    with pytest.raises(UnreadableError, match=rf"sa_1\.jpg.*({said})"):
        read_all(arguments(tmp_path / "data", min_area=1))
    log = SkipLog(tmp_path / "skipped.jsonl")
    kept = load_source(arguments(tmp_path / "data", on_error="skip"), "train", log)
    assert kept["image_id"] == ["sa_0", "sa_2", "sa_3"]
    assert "1 of 4 train examples" in caplog.text
    assert list(log.read()) == [str(tmp_path / "data" / "sa_1.jpg")]
    # From the cache it is the same, and the list is not written twice.
    load_source(arguments(tmp_path / "data", on_error="skip"), "train", SkipLog(log.path))
    assert len(log.path.read_text().splitlines()) == 1


def test_a_tar_that_is_cut_off_gives_what_is_whole(tmp_path: Path) -> None:
    write_tar(tmp_path / "sa_000.tar", range(6))
    truncate(tmp_path / "sa_000.tar", 0.6)
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:  # one of them, with a long name
        for suffix, content in zip((".jpg", ".json"), sa1b_pair(9)):
            member = tarfile.TarInfo(f"sa_{'9' * 80}{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "sa_001.tar").write_bytes(b"")
    with pytest.raises(UnreadableError, match=r"sa_00.\.tar.*cut off"):
        load_source(arguments(tmp_path), "train")
    log = SkipLog(tmp_path / "skipped.jsonl")
    kept = load_source(arguments(tmp_path, on_error="skip"), "train", log)
    assert 3 <= len(kept) <= 5
    assert kept["image_id"] == [*(f"sa_{n}" for n in range(len(kept) - 1)), f"sa_{'9' * 80}"]
    assert str(tmp_path / "sa_001.tar") in log.read()


def second_header(file: Path) -> int:
    """Where the second pair of a tar begins."""
    with tarfile.open(file) as tar:
        return tar.getmembers()[2].offset


@pytest.mark.parametrize("damage", [b"\xff" * 512, bytes(1024), b"cut", b"cut in the header", b"cut in the image"])
def test_what_lies_behind_damage_in_a_tar_is_missed_once(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "sa_000.tar"
    write_tar(file, range(4))
    start, content = second_header(file), file.read_bytes()
    if damage.startswith(b"cut"):
        ends = {b"cut": 0, b"cut in the header": 100, b"cut in the image": 600}
        file.write_bytes(content[: start + ends[damage]])
    else:
        file.write_bytes(content[:start] + damage + content[start + len(damage) :])
    log = SkipLog(tmp_path / "skipped.jsonl")
    assert load_source(arguments(tmp_path, on_error="skip"), "train", log)["image_id"] == ["sa_0"]
    assert log.count() == 1
    with pytest.raises(UnreadableError, match=r"sa_000\.tar.* (is cut off|damaged)"):
        load_source(arguments(tmp_path), "train")


POLYGON = [[1, 1, 8, 1, 8, 8, 1, 8]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}, "it has no 'height'"),
        ({"images": [{"id": 1, "height": 9, "width": 9}], "annotations": []}, "it has no 'file_name'"),
        ({"images": [], "annotations": [{"segmentation": POLYGON}]}, "it has no 'image_id'"),
        ({"images": [], "annotations": [{"image_id": 1, "bbox": []}]}, "without `segmentation`"),
        ({"images": [], "annotations": [7]}, "'int' object"),
        ({"images": []}, "it has no 'annotations'"),
        ('{"images": [', "Expecting value"),
    ],
)
def test_malformed_annotations_of_coco_are_named(tmp_path: Path, content: Any, said: str) -> None:
    for folder in ("annotations", "train2017"):
        (tmp_path / folder).mkdir()
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(ValueError, match=f"instances_train2017.json is not of COCO's form: .*{said}"):
        load_source(arguments(tmp_path), "train")


@pytest.mark.parametrize("runs", [[5, 5], [50, 1150], {"short": [5, 5]}, {"long": [700, 900]}])
def test_run_lengths_of_coco_must_add_up(tmp_path: Path, runs: Any) -> None:
    for folder in ("annotations", "train2017"):
        (tmp_path / folder).mkdir()
    noise(0, 30, 40).save(tmp_path / "train2017" / "1.jpg")
    counts = next(iter(runs.values())) if isinstance(runs, dict) else runs
    mask: dict[str, Any] = {"size": [30, 40], "counts": counts}
    if isinstance(runs, dict):
        mask["counts"] = coco_mask.frPyObjects(mask, 30, 40)["counts"].decode()
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 30, "width": 40}],
        "annotations": [{"image_id": 1, "segmentation": mask}],
    }
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    if sum(counts) == 1200:
        assert both(arguments(tmp_path))[0]["objects"]["area"] == [1150]
        return
    with pytest.raises(UnreadableError, match=f"1.jpg.*add up to {sum(counts)} px"):
        open_source(arguments(tmp_path), "train").read(0, 0)


def test_stacks_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_stack(tmp_path, "training", 3)
    (tmp_path / "empty1.tif").write_bytes(b"")
    (tmp_path / "empty1_groundtruth.tif").write_bytes(b"")
    args = arguments(tmp_path, train_split="empty")
    with pytest.raises(UnreadableError, match=r"empty1\.tif"):
        load_source(args, "train")
    with pytest.raises(ValueError, match="None of the 1 train examples"):
        load_source(arguments(tmp_path, train_split="empty", on_error="skip"), "train")
    Image.fromarray(np.zeros((50, 70), dtype=np.uint8)).save(tmp_path / "training_groundtruth.tif")
    with pytest.raises(UnreadableError, match=r"training\.tif, page 0.*has 1 pages, the stack 3"):
        load_source(arguments(tmp_path, patch_size=16), "train")


def test_a_broken_page_of_patches_is_one_row(tmp_path: Path) -> None:
    write_sa1b(tmp_path, range(3))
    (tmp_path / "sa_1.jpg").write_bytes(b"no image")
    kept = load_source(arguments(tmp_path, patch_size=15, on_error="skip"), "train")
    assert len(kept) == 2 * 4


def test_broken_rows_of_tables_are_skipped(tmp_path: Path) -> None:
    ids = [np.uint8(blobs(seed, 20, 20)) for seed in range(3)]
    content = io.BytesIO()
    noise(0, 20, 20).save(content, format="JPEG")
    cells = [content.getvalue(), content.getvalue()[:400], content.getvalue()]
    features = datasets.Features({"image": datasets.Image(), "instances": datasets.Image()})
    table = {"image": [{"bytes": c, "path": None} for c in cells], "instances": [Image.fromarray(i) for i in ids]}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train.parquet")
    log = SkipLog(tmp_path / "skipped.jsonl")
    kept = load_source(arguments(tmp_path / "train.parquet", on_error="skip"), "train", log)
    assert kept["image_id"] == ["0", "2"]
    assert list(log.read()) == [f"{tmp_path / 'train.parquet'}, row 1"]


def test_a_folder_that_is_gone_is_no_broken_example(tmp_path: Path) -> None:
    write_sa1b(tmp_path / "data", range(2))
    source = open_source(arguments(tmp_path / "data"), "train")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="data is gone"):
        source.read(0, 0)


def write_skipped(path: Path, writer: int) -> None:
    log = SkipLog(path)
    for number in range(200):
        log.add(f"file {number}", "broken " * 50)
        assert log.add(f"file {number} of {writer}", "broken")
        assert not log.add(f"file {number}", "broken")


def test_several_writers_of_a_skip_log_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "skipped.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_skipped, args=(path, writer)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    log = SkipLog(path)
    names = {f"file {n}" for n in range(200)} | {f"file {n} of {writer}" for n in range(200) for writer in range(4)}
    assert set(log.read()) == names
    assert log.count() == 1000
    assert not log.add("file 3", "broken")


def test_files_and_rows_are_part_of_a_fingerprint(tmp_path: Path) -> None:
    """The first file, and their number, are the same."""
    write_sa1b(tmp_path, range(4))
    source = open_source(arguments(tmp_path), "train")
    whole, first = source.fingerprint(), RowRange(source, 0, 2).fingerprint()
    assert RowRange(source, 0, 2).fingerprint() == first
    assert RowRange(RowRange(source, 2, 4), 0, 2).fingerprint() != first
    patches = open_source(arguments(tmp_path, patch_size=10), "train").fingerprint()
    for suffix in (".jpg", ".json"):
        (tmp_path / f"sa_2{suffix}").rename(tmp_path / f"sa_9{suffix}")
    assert open_source(arguments(tmp_path), "train").fingerprint() != whole
    assert open_source(arguments(tmp_path, patch_size=10), "train").fingerprint() != patches


def test_run_lengths_are_checked_as_pycocotools_writes_them() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 3), (40, 50), (300, 500)):
        for density in (0, 0.01, 0.5, 1):
            mask = rng.random((height, width)) < density
            check_run_lengths(rle(mask), "a")
            with pytest.raises(ValueError, match=f"'a' add up to {mask.size} px"):
                check_run_lengths({**rle(mask), "size": [height, width + 1]}, "a")
    for counts in ("", "Q", "\x01", "o" * 40 + "0"):
        with pytest.raises(ValueError, match="not in compressed run lengths"):
            check_run_lengths({"size": [2, 2], "counts": counts}, "a")


# looked at -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_preview_shows_prompts_on_their_objects(tmp_path: Path, split: str) -> None:
    write_sa1b(tmp_path, range(9))
    args = arguments(tmp_path, prompt="point", max_objects=12, min_area=1, eval_split="train")
    samples = drawn_samples(args, split, num_images=4, image_size=64)
    assert len({sample["name"] for sample in samples}) == 4
    for sample in samples:
        _, count = label(blobs(int(sample["name"][3:]), 30, 40))
        assert len(sample["truth"]) == count
        assert sorted(set(sample["objects"])) == list(range(count))
        assert len(sample["objects"]) == (12 if split == "train" else count)
        for number, (x, y) in zip(sample["objects"], sample["points"]):
            rows, columns = np.nonzero(sample["truth"][number])
            # Cells of 4 px in training: the point is of the whole mask.
            assert np.min(np.hypot(rows - y, columns - x)) <= 6


def test_preview_writes_its_figure_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_stack(tmp_path, "training", 2)
    argv = ["preview", "--data.source", str(tmp_path), "--data.patch_size", "16", "--image_size", "64"]
    assert main([*argv, "--num_images", "5", "--output", str(tmp_path / "a.png")]) == 0
    assert np.asarray(Image.open(tmp_path / "a.png").convert("L")).std() > 10
    write_stack(tmp_path, "broken", 2)
    truncate(tmp_path / "broken.tif", 0.7)
    broken = ["--data.train_split", "broken", "--output", str(tmp_path / "b.png")]
    assert main([*argv, *broken]) == 2
    assert main([*argv, *broken, "--data.on_error", "skip"]) == 0
    assert "left out: " in capsys.readouterr().err
    assert main([*argv, "--data.min_area", "1000"]) == 2
    assert "shows an object of `data.min_area`" in capsys.readouterr().err
    assert main([*argv, "--split", "eval"]) == 2
    assert "no split 'validation'" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["sa1b", "stacks"])
def test_prepared_files_are_the_source_itself(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if layout == "sa1b":
        write_tar(source / "sa_000.tar", range(5))
    else:
        write_stack(source, "training", 2)
    patches = ["--data.patch_size", "10"]
    assert main(["prepare", str(source), "--output_dir", str(tmp_path / "prepared"), *patches]) == 0
    stored = datasets.load_dataset("parquet", data_dir=str(tmp_path / "prepared" / "data"), split="train")
    expected = rows_of(open_source(arguments(source, patch_size=10), "train"))
    assert [row["objects"] for row in stored] == [row["objects"] for row in expected]
    assert all(np.array_equal(np.asarray(one["image"]), pixels(other)) for one, other in zip(stored, expected))


# real files ----------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("split, name", [("train", "train2017"), ("eval", "val2017")])
def test_coco_is_what_its_own_tools_read(shared: Path, split: str, name: str) -> None:
    found = {example["image_id"]: example for example in both(arguments(shared / "data" / "coco"), split)}
    coco = COCO(str(shared / "data" / "coco" / "annotations" / f"instances_{name}.json"))
    assert set(found) == {str(image) for image in coco.getImgIds()}
    for image, example in found.items():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=int(image), iscrowd=False))
        masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
        masks = [mask for mask in masks if mask.any()]
        assert len(masks) == len(example["objects"]["area"])
        assert all(np.array_equal(one, other) for one, other in zip(masks, decode_masks(example["objects"])))


@pytest.mark.shared
def test_sa1b_is_what_its_json_says(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "sa1b_layout"
    files = sorted(folder.glob("sa_*.json"))
    for number in range(3):  # unequal tars
        with tarfile.open(tmp_path / f"sa_{number:06d}.tar", "w") as tar:
            for file in files[[0, 7, 27, None][number] : [0, 7, 27, None][number + 1]]:
                tar.add(file.with_suffix(".jpg"), arcname=file.with_suffix(".jpg").name)
                tar.add(file, arcname=file.name)
    for source in (folder, tmp_path):
        found = {example["image_id"]: example["objects"] for example in both(arguments(source))}
        assert sorted(found) == sorted(file.stem for file in files)
        for file in files:
            annotations = json.loads(file.read_text())["annotations"]
            assert found[file.stem]["area"] == [annotation["area"] for annotation in annotations]
            masks = [coco_mask.decode(annotation["segmentation"]) for annotation in annotations]
            assert np.array_equal(decode_masks(found[file.stem]), np.stack(masks).astype(bool))


@pytest.mark.shared
def test_ade20k_is_the_classes_of_its_maps(shared: Path) -> None:
    folder = shared / "data" / "ade20k_sample" / "sampleData"
    examples = both(arguments(folder))
    assert len(examples) == 3
    for example in examples:
        classes = np.asarray(Image.open(folder / "annotations" / f"{example['image_id']}.png"))
        assert np.array_equal(decode_masks(example["objects"]), objects_of(classes))


@pytest.mark.shared
def test_slices_of_mitochondria_become_224_patches(shared: Path) -> None:
    folder = shared / "data" / "drosophila_mitochondria"
    args = arguments(folder, patch_size=256, min_area=100, merge_objects=True, prompt="box", max_objects=1)
    patches = load_source(args, "train")
    stored = datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train")
    truth = np.stack([np.asarray(row["instances"]) > 0 for row in stored])  # (14, 1024, 1024)
    truth = truth.reshape(14, 4, 256, 4, 256).swapaxes(2, 3).reshape(224, 256, 256)
    assert [sum(row["area"]) for row in patches["objects"]] == truth.sum((1, 2)).tolist()
    for number in (0, 5, 223):
        masks = decode_masks(patches[number]["objects"])
        assert np.array_equal(masks.any(0) if len(masks) else np.zeros((256, 256), bool), truth[number])
    data = PromptDataset(patches, processor(), args, training=True)
    assert len(data) == (truth.sum((1, 2)) >= 100).sum()
