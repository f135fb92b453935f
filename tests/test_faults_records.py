"""Records that are off: COCO's ids, links and shapes, class folders as tools leave them; what is left out is told."""

import io
import json
import logging
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from supersam_hf.data import DataArguments, ImageClassificationArguments, load_classification, load_source, open_source
from supersam_hf.data.prepare import PrepareArguments, prepare
from supersam_hf.data.skipped import SkipLog


SIDES = (128, 96)  # width, height
SQUARE = [10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def coco(root: Path, count: int = 4) -> dict[str, Any]:
    """Images with ids from 1 on with a square each; what is to be changed and given to [`write_coco`]."""
    (root / "train").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number in range(count):
        Image.new("RGB", SIDES, (60 * number, 90, 90)).save(root / "train" / f"{number}.png")
        facts = {"id": number + 1, "file_name": f"{number}.png", "height": SIDES[1], "width": SIDES[0]}
        content["images"].append(facts)
        annotation = {"id": number, "image_id": number + 1, "category_id": 1, "iscrowd": 0}
        content["annotations"].append({**annotation, "segmentation": [list(SQUARE)]})
    return content


def write_coco(root: Path, content: Any) -> DataArguments:
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return DataArguments(str(root), min_area=1)


def areas(args: DataArguments, log: SkipLog | None = None) -> dict[str, list[int]]:
    return {row["image_id"]: row["objects"]["area"] for row in load_source(args, "train", log)}


WHOLE = {str(number): [900] for number in range(1, 5)}


# COCO: whose masks are whose -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["both", "some", "images", "floats", "zeros"])
def test_an_id_is_the_same_as_text_and_as_a_number(tmp_path: Path, case: str) -> None:
    content = coco(tmp_path)
    for image, annotation in zip(content["images"], content["annotations"]):
        if case in ("both", "images"):
            image["id"] = str(image["id"])
        if case == "both" or (case == "some" and annotation["image_id"] < 3):
            annotation["image_id"] = str(annotation["image_id"])
        if case == "floats":
            image["id"] = float(image["id"])
        if case == "zeros":
            annotation["image_id"] = f"{annotation['image_id']:012d}"
    assert areas(write_coco(tmp_path, content)) == WHOLE


def test_ids_may_be_any_text(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for record, name in [(r, "id") for r in content["images"]] + [(r, "image_id") for r in content["annotations"]]:
        record[name] = f"frame_{record[name]}"
    assert areas(write_coco(tmp_path, content)) == {f"frame_{number}": [900] for number in range(1, 5)}


@pytest.mark.parametrize("first", [1, "1", 1.0])
def test_two_images_of_one_id_are_refused(tmp_path: Path, first: Any) -> None:
    content = coco(tmp_path)
    content["images"][2]["id"] = first
    content["annotations"][2]["image_id"] = first
    write_coco(tmp_path, content)
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=r"instances_train.json .*1 of 0.png, 2.png; .*cannot be told apart"):
            load_source(DataArguments(str(tmp_path), on_error=on_error), "train")  # type: ignore[arg-type]


def test_annotations_of_images_that_are_not_listed_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = coco(tmp_path)
    for annotation in content["annotations"][:3]:
        annotation["image_id"] += 1000
    log = SkipLog(tmp_path / "skipped.jsonl")
    assert areas(write_coco(tmp_path, content), log) == {"1": [], "2": [], "3": [], "4": [900]}
    assert "3 annotations are left out" in caplog.text
    assert "4 images, 3 of them without an object" in caplog.text
    ((name, why),) = log.read().items()
    assert "3 annotations: 0, 1, 2" in name
    assert "1001, 1002, 1003" in why


def test_a_file_none_of_whose_annotations_is_of_its_images_is_refused(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for annotation in content["annotations"]:
        annotation["image_id"] += 1000
    with pytest.raises(ValueError, match=r"none of its 4 annotations .* 1001, 1002, 1003, ....* `id` 1, 2, 3"):
        load_source(write_coco(tmp_path, content), "train")


def test_an_annotation_listed_twice_is_one_object(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = coco(tmp_path)
    content["annotations"] += [dict(content["annotations"][0]), {**content["annotations"][1], "category_id": 2}]
    assert areas(write_coco(tmp_path, content)) == {**WHOLE, "2": [900, 900]}
    assert "1 annotations are left out (they are listed twice): 0." in caplog.text


def test_a_file_listed_as_two_images_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = coco(tmp_path)
    content["images"][1]["file_name"] = "0.png"
    areas(write_coco(tmp_path, content))
    assert "1 files are listed as several images: 0.png" in caplog.text


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        ("images", "id", None, "an `id` is None"),
        ("images", "id", [1], r"an `id` is \[1\]"),
        ("images", "id", True, "an `id` is True"),
        ("images", "height", "tall", "the `height` of an image is 'tall'"),
        ("images", "width", 0, "the `width` of an image is 0"),
        ("images", "height", 2**63, f"the `height` of an image is {2**63}"),
        ("images", "file_name", 7, "the `file_name` of an image is 7"),
        ("annotations", "image_id", None, "an `image_id` is None"),
        ("annotations", "image_id", 1.5, "an `image_id` is 1.5"),
        ("annotations", "iscrowd", "no", "`iscrowd` of annotation 0 is 'no'; it must be 0 or 1"),
        ("annotations", "iscrowd", 2, "`iscrowd` of annotation 0 is 2"),
    ],
)
def test_fields_of_another_type_are_named(tmp_path: Path, kind: str, field: str, value: Any, said: str) -> None:
    content = coco(tmp_path)
    content[kind][0][field] = value
    with pytest.raises(ValueError, match=f"instances_train.json is not of COCO's form: {said}"):
        load_source(write_coco(tmp_path, content), "train")


@pytest.mark.parametrize("kind", ["images", "annotations"])
@pytest.mark.parametrize("value", ["", {}, None])
def test_what_is_no_list_is_named(tmp_path: Path, kind: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"instances_train.json is not of COCO's form: its `{kind}` is"):
        load_source(write_coco(tmp_path, {**coco(tmp_path), kind: value}), "train")


def test_results_of_coco_are_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is a list, not an object with `images` and `annotations`"):
        load_source(write_coco(tmp_path, coco(tmp_path)["annotations"]), "train")


@pytest.mark.parametrize("value", ["0", 0.0, False, None])
def test_what_is_no_crowd(tmp_path: Path, value: Any) -> None:
    content = coco(tmp_path)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = value
    assert areas(write_coco(tmp_path, content)) == WHOLE


@pytest.mark.parametrize("value", ["1", 1.0, True])
def test_what_is_a_crowd(tmp_path: Path, value: Any) -> None:
    content = coco(tmp_path)
    content["annotations"][0]["iscrowd"] = value
    assert areas(write_coco(tmp_path, content)) == {**WHOLE, "1": []}


# COCO: shapes --------------------------------------------------------------------------------------------------------


CORNERS = [SQUARE[place : place + 2] for place in range(0, 8, 2)]


@pytest.mark.parametrize(
    "segmentation", [CORNERS, [CORNERS], SQUARE, [SQUARE]], ids=["corners", "lists", "flat", "own"]
)
def test_polygons_in_other_forms_are_the_same(tmp_path: Path, segmentation: Any) -> None:
    content = coco(tmp_path)
    content["annotations"][0]["segmentation"] = segmentation
    assert areas(write_coco(tmp_path, content)) == WHOLE


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[10, 10, 40, 10, 40, 40, 10]], "A polygon of image '0.png' is"),
        ([["10", 10, 40, 10, 40, 40]], "A polygon of image '0.png' is"),
        ([[None, 10, 40, 10, 40, 40]], "A polygon of image '0.png' is"),
        ([[10, True, 40, 10, 40, 40]], "A polygon of image '0.png' is"),
        ([{"x": 1}], "A polygon of image '0.png' is"),
        ("polygon", "A `segmentation` of image '0.png' is 'polygon'"),
        ({"size": [96, 128]}, "no `size`.* with `counts`"),
        ({"size": 96, "counts": [1]}, "no `size`.* with `counts`"),
        ({"size": [96, 128], "counts": [12288.0]}, "must be whole numbers"),
        ({"size": [96, 128], "counts": [-1, 12289]}, "must be whole numbers"),
        ({"size": [96, 128], "counts": [2**40, 5]}, "add up to"),
        ({"size": [96, 128], "counts": [[12288]]}, "must be whole numbers"),
        ({"size": [96, 128], "counts": "né"}, "not in compressed run lengths"),
    ],
)
def test_segmentations_that_are_none_are_named_or_skipped(tmp_path: Path, segmentation: Any, said: str) -> None:
    content = coco(tmp_path)
    content["annotations"][0]["segmentation"] = segmentation
    args = write_coco(tmp_path, content)
    with pytest.raises(ValueError, match=f"0.png cannot be read: .*{said}"):
        load_source(args, "train")
    log = SkipLog(tmp_path / "skipped.jsonl")
    skipping = DataArguments(str(tmp_path), min_area=1, on_error="skip")
    assert areas(skipping, log) == {number: [900] for number in ("2", "3", "4")}
    assert [Path(name).name for name in log.read()] == ["0.png"]


@pytest.mark.parametrize("corner", [float("nan"), float("inf"), 3e8, -3e8, 1e300])
def test_corners_that_are_no_numbers_or_far_away_are_named(tmp_path: Path, corner: float) -> None:
    content = coco(tmp_path)
    content["annotations"][0]["segmentation"] = [[10, 10, corner, 10, 50, 50, 10, 50]]
    args = write_coco(tmp_path, content)
    with pytest.raises(ValueError, match="0.png cannot be read: A polygon of image '0.png' has a corner"):
        load_source(args, "train")
    assert len(load_source(DataArguments(str(tmp_path), on_error="skip"), "train")) == 3
    source = open_source(args, "train")
    with pytest.raises(ValueError, match="has a corner"):
        source.read(0, 0)


def test_an_outline_that_fills_all_memory_is_refused(tmp_path: Path) -> None:
    content = coco(tmp_path)
    zigzag = [value for number in range(5000) for value in (1200 * (number % 2), number / 60)]
    content["annotations"][0]["segmentation"] = [zigzag]
    with pytest.raises(ValueError, match="The outline of a polygon of image '0.png' is .* px long"):
        load_source(write_coco(tmp_path, content), "train")


def test_polygons_that_reach_out_of_the_image_are_clipped(tmp_path: Path) -> None:
    content = coco(tmp_path)
    content["annotations"][0]["segmentation"] = [[-500, -300, 64, -300, 64, 48, -500, 48]]
    content["annotations"][1]["segmentation"] = [[-1, -1, 129, -1, 129, 97, -1, 97]]
    rows = list(load_source(write_coco(tmp_path, content), "train"))
    first, second = (coco_mask.decode(row["objects"]["segmentation"][0]) for row in rows[:2])
    assert first[:48, :64].all()
    assert first.sum() == 48 * 64
    assert second.all()


@pytest.mark.parametrize("empty", [[], None, "missing"])
def test_annotations_without_a_mask_are_counted(tmp_path: Path, empty: Any, caplog: pytest.LogCaptureFixture) -> None:
    content = coco(tmp_path)
    content["annotations"][0]["segmentation"] = empty
    if empty == "missing":
        del content["annotations"][0]["segmentation"]
    assert areas(write_coco(tmp_path, content)) == {**WHOLE, "1": []}
    assert "1 annotations are left out (they have no `segmentation`): 0." in caplog.text


def test_masks_without_a_pixel_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = coco(tmp_path)
    content["annotations"].append({"id": 9, "image_id": 1, "segmentation": [[5, 5, 9, 9]]})
    content["annotations"].append({"id": 10, "image_id": 1, "segmentation": [[500, 5, 600, 5, 600, 9]]})
    assert areas(write_coco(tmp_path, content)) == WHOLE
    assert "Image '0.png': 2 of 3 masks cover no pixel and are left out." in caplog.text


def test_a_file_of_boxes_is_refused(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(ValueError, match="boxes only"):
        load_source(write_coco(tmp_path, content), "train")


# SA-1B ---------------------------------------------------------------------------------------------------------------


def sa1b_pair(number: int) -> dict[str, bytes]:
    image = io.BytesIO()
    Image.new("RGB", SIDES).save(image, "JPEG")
    mask = coco_mask.encode(np.asfortranarray(np.ones(SIDES[::-1], dtype=np.uint8)))
    rle = {"size": list(SIDES[::-1]), "counts": mask["counts"].decode()}
    annotations = json.dumps({"annotations": [{"segmentation": rle}]}).encode()
    return {f"sa_{number}.jpg": image.getvalue(), f"sa_{number}.json": annotations}


def test_what_macos_adds_to_a_tar_is_no_example(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "sa_0.tar", "w") as tar:
        for number in range(2):
            for name, content in sa1b_pair(number).items():
                for path in (f"./{name}", f"./._{name}", f"__MACOSX/{name}"):
                    member = tarfile.TarInfo(path)
                    member.size = len(content) if path.endswith(f"/{name}") else 4
                    tar.addfile(member, io.BytesIO(content))
    assert [row["image_id"] for row in load_source(DataArguments(str(tmp_path)), "train")] == ["sa_0", "sa_1"]
    assert "8 hidden members are left out" in caplog.text
    (tmp_path / "._sa_1.tar").write_bytes(b"what macOS writes beside a file")
    assert len(load_source(DataArguments(str(tmp_path)), "train")) == 2


def test_hidden_folders_are_no_folders_of_sa1b(tmp_path: Path) -> None:
    for folder in ("sa_000", ".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / folder).mkdir()
        for name, content in sa1b_pair(0).items():
            (tmp_path / folder / name).write_bytes(content)
    assert len(load_source(DataArguments(str(tmp_path)), "train")) == 1


# folders a class -----------------------------------------------------------------------------------------------------


def picture(file: Path, value: int = 90) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value,) * 3).save(file)


def classes_of(root: Path, split: str = "train", **values: Any) -> dict[str, list[str]]:
    """Files by class."""
    rows = load_classification(ImageClassificationArguments(str(root), train_split=split, **values), "train")
    rows = rows.cast_column("image", datasets.Image(decode=False))
    names = rows.features["label"].names
    found: dict[str, list[str]] = {name: [] for name in names}
    for row in rows:
        found[names[row["label"]]].append(Path(row["image"]["path"]).name)
    return {name: sorted(files) for name, files in found.items()}


@pytest.mark.parametrize("within", ["", "train"])
@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "__MACOSX", ".git", ".thumbnails"])
def test_hidden_folders_are_no_classes(
    tmp_path: Path, folder: str, within: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / within / name / "0.png")
    picture(tmp_path / within / folder / "0.png")
    picture(tmp_path / within / "cat" / folder / "0-checkpoint.png")
    assert classes_of(tmp_path) == {"cat": ["0.png"], "dog": ["0.png"]}
    assert "2 files or folders are left out (they are hidden" in caplog.text
    assert folder in caplog.text


def test_files_of_macos_are_no_images_of_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / name / "0.png")
        (tmp_path / name / "._0.png").write_bytes(b"\0\5\26\7")
    assert classes_of(tmp_path) == {"cat": ["0.png"], "dog": ["0.png"]}
    assert "2 files or folders are left out (they are hidden, or what a system leaves behind): cat/._0" in caplog.text


def test_what_else_is_of_no_class_is_counted_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "data"
    for name in ("cat", "dog"):
        picture(root / "train" / name / "0.png")
    (root / "train" / "cat" / "1.heic").write_bytes(b"")
    picture(root / "train" / "loose.png")
    picture(root / "test" / "unlabelled.png")
    (root / "train" / "empty").mkdir()
    log = SkipLog(tmp_path / "skipped.jsonl")
    args = ImageClassificationArguments(str(root), on_error="skip")
    assert len(load_classification(args, "train", log)) == 2
    listed = " ".join(log.read())
    assert "1 files or folders: train/cat/1.heic" in listed
    assert "2 files or folders: test/unlabelled.png, train/loose.png" in listed
    assert "1 folders: train/empty" in listed
    assert "they lie in no class folder" in caplog.text


@pytest.mark.parametrize(
    "files",
    [
        ["train/animals/cat/0.png", "train/animals/dog/0.png", "train/plants/rose/0.png"],
        ["train/cat/0.png", "train/dog/0.png", "train/wild/tiger/0.png"],
        ["cat/0.png", "dog/0.png", "dog/puppies/1.png"],
        ["train/cat/0.png", "train/dog/0.png", "train/dog/puppies/1.png"],
    ],
)
def test_folders_of_class_folders_are_refused(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        picture(tmp_path / file)
    with pytest.raises(ValueError, match="lie in folders of a class folder, the first .*/(animals|wild|dog)/"):
        classes_of(tmp_path)


def test_images_and_masks_are_no_classes(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        picture(tmp_path / folder / "0.png")
    with pytest.raises(ValueError, match=r"\['images', 'masks'\] .* hold images and their masks; they are no classes"):
        classes_of(tmp_path)


def test_a_name_is_one_class_however_its_accents_are_stored(tmp_path: Path) -> None:
    for split, form in (("train", "NFC"), ("val", "NFD")):
        for name in ("café", "thé"):
            picture(tmp_path / split / unicodedata.normalize(form, name) / "0.png")  # type: ignore[arg-type]
    assert classes_of(tmp_path) == classes_of(tmp_path, "val") == {"café": ["0.png"], "thé": ["0.png"]}


def test_hidden_images_and_masks_are_no_examples(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        for name in ("a.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png"):
            file = tmp_path / "train" / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(file)
        Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / "train" / folder / "b.png")
    (tmp_path / ".git" / "images").mkdir(parents=True)
    (tmp_path / ".git" / "masks").mkdir()
    assert [row["image_id"] for row in load_source(DataArguments(str(tmp_path)), "train")] == ["a", "b"]
    assert list(prepare(PrepareArguments(str(tmp_path)), tmp_path.parent / f"{tmp_path.name}-out")) == ["train"]
