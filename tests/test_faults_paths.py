"""Files outside of a source are neither read nor published, whichever record or link leads to them."""

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from PIL import Image

from supersam_hf.data import (
    DataArguments,
    ImageClassificationArguments,
    load_classification,
    load_source,
    open_source,
    stream_classification,
)
from supersam_hf.data.label_maps import load_label_maps
from supersam_hf.data.prepare import PrepareArguments, prepare
from supersam_hf.data.semantic_arguments import SemanticArguments
from supersam_hf.data.skipped import SkipLog


if TYPE_CHECKING:
    from hub_server import HubServer

SIDE = 16
POLYGON = [[2, 2, 12, 2, 12, 12, 2, 12]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """An image beside the source, of a colour that no other image has."""
    file = tmp_path / "private" / "secret.png"
    picture(file, 201)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def picture(file: Path, value: int = 90) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE), value, dtype=np.uint8)).save(file)


def encoded(value: int = 90) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE), value, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def link(file: Path, target: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)


# Sources, the first example of each of which is another file's. ------------------------------------------------------


def coco(root: Path, names: list[str]) -> None:
    (root / "train").mkdir(exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images = [{"id": n, "file_name": name, "height": SIDE, "width": SIDE} for n, name in enumerate(names)]
    annotations = [{"id": n, "image_id": n, "iscrowd": 0, "segmentation": POLYGON} for n in range(len(names))]
    content = {"images": images, "annotations": annotations, "categories": []}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


def coco_above(root: Path, secret: Path) -> None:
    picture(root / "train" / "good.png")
    coco(root, ["../../private/secret.png", "good.png"])


def coco_absolute(root: Path, secret: Path) -> None:
    picture(root / "train" / "good.png")
    coco(root, [str(secret), "good.png"])


def coco_another_split(root: Path, secret: Path) -> None:
    picture(root / "train" / "good.png")
    picture(root / "val" / "secret.png", 201)
    coco(root, ["../val/secret.png", "good.png"])


def coco_link(root: Path, secret: Path) -> None:
    picture(root / "train" / "good.png")
    link(root / "train" / "a.png", secret)
    coco(root, ["a.png", "good.png"])


def coco_linked_folder(root: Path, secret: Path) -> None:
    picture(root / "train" / "good.png")
    link(root / "train" / "sub", secret.parent)
    coco(root, ["sub/secret.png", "good.png"])


def sa1b_link(root: Path, secret: Path) -> None:
    for stem in ("sa_0", "sa_1"):
        (root / f"{stem}.json").write_text(json.dumps({"annotations": [{"segmentation": POLYGON}]}))
    link(root / "sa_0.jpg", secret)
    Image.new("L", (SIDE, SIDE), 90).save(root / "sa_1.jpg")


def folder_link(root: Path, secret: Path) -> None:
    link(root / "images" / "a.png", secret)
    picture(root / "images" / "b.png")
    for name in "ab":
        picture(root / "masks" / f"{name}.png", 1)


def folder_linked_mask(root: Path, secret: Path) -> None:
    for name in "ab":
        picture(root / "images" / f"{name}.png")
    link(root / "masks" / "a.png", secret)
    picture(root / "masks" / "b.png", 1)


def folder_linked_masks(root: Path, secret: Path) -> None:
    for name in "ab":
        picture(root / "images" / f"{name}.png")
    link(root / "masks" / "a", secret.parent)
    picture(root / "masks" / "b.png", 1)


def full_release_link(root: Path, secret: Path) -> None:
    for name in ("a", "b"):
        picture(root / "training" / f"{name}.jpg")
        ids = np.full((SIDE, SIDE, 3), 20, dtype=np.uint8)
        Image.fromarray(ids).save(root / "training" / f"{name}_seg.png")
    (root / "training" / "a.jpg").unlink()
    link(root / "training" / "a.jpg", secret)


FILES: list[Callable[[Path, Path], None]] = [
    *(coco_above, coco_absolute, coco_another_split, coco_link, coco_linked_folder),
    *(sa1b_link, folder_link, folder_linked_mask, folder_linked_masks, full_release_link),
]
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
OBJECTS = {"segmentation": [POLYGON]}


def cells(path: str) -> list[dict[str, Any]]:
    return [{"bytes": None, "path": path}, {"bytes": encoded(), "path": None}]


def table(file: Path, **columns: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


def parquet_image(root: Path, secret: Path) -> None:
    table(root / "train.parquet", image=pa.array(cells(str(secret)), IMAGE), objects=[OBJECTS] * 2)


def parquet_relative(root: Path, secret: Path) -> None:
    table(root / "train.parquet", image=pa.array(cells("../private/secret.png"), IMAGE), objects=[OBJECTS] * 2)


def parquet_link(root: Path, secret: Path) -> None:
    link(root / "a.png", secret)
    table(root / "data" / "train.parquet", image=pa.array(cells("a.png"), IMAGE), objects=[OBJECTS] * 2)


def parquet_instances(root: Path, secret: Path) -> None:
    good = {"bytes": encoded(1), "path": None}
    table(
        root / "train.parquet",
        image=pa.array([good, good], IMAGE),
        instances=pa.array([{"bytes": None, "path": str(secret)}, good], IMAGE),
    )


def saved_image(root: Path, secret: Path) -> None:
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    rows = datasets.Dataset.from_dict({"image": cells(str(secret))}, features=features)
    rows = rows.add_column("objects", [OBJECTS] * 2)
    root.rmdir()
    rows.save_to_disk(root)


TABLES: list[Callable[[Path, Path], None]] = [
    *(parquet_image, parquet_relative, parquet_link, parquet_instances, saved_image),
]


def published(folder: Path) -> list[int]:
    """The grey of each image that was written, and of each map."""
    files = sorted((folder / "data").glob("*.parquet"))
    found = [cell for file in files for cell in pq.read_table(file)["image"].to_pylist()]
    return [int(np.asarray(Image.open(io.BytesIO(cell["bytes"])))[0, 0]) for cell in found]


@pytest.mark.parametrize("make", [*FILES, *TABLES])
def test_no_file_outside_is_published(make: Callable[[Path, Path], None], root: Path, secret: Path) -> None:
    make(root, secret)
    output = root.parent / "output"
    with pytest.raises(ValueError, match="only files within the source are read"):
        prepare(PrepareArguments(str(root)), output)
    assert not output.exists()
    prepare(PrepareArguments(str(root), on_error="skip"), output)
    assert published(output) == [90 if "instances" not in make.__name__ else 1]
    assert SkipLog(root.parent / "output-skipped.jsonl").count() == 1


@pytest.mark.parametrize("make", [*FILES, *TABLES[:-1]])
def test_no_file_outside_is_streamed(make: Callable[[Path, Path], None], root: Path, secret: Path) -> None:
    make(root, secret)
    source = open_source(DataArguments(str(root), streaming=True), "train")
    for read in (source.read, source.image_size):
        if make in FILES or read == source.read:
            with pytest.raises(ValueError, match="only files within the source are read"):
                read(0, 0)
    assert source.read(0, 1)["objects"]["area"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("where", ["cell", "string", "single file", "url"])
def test_no_labelled_image_outside_is_read(root: Path, secret: Path, where: str, streaming: bool) -> None:
    name = "https://example.com/a.png" if where == "url" else str(secret)
    column = pa.array([name, name]) if where == "string" else pa.array(cells(name), IMAGE)
    table(root / "train.parquet", image=column, label=[0, 1])
    source = root / "train.parquet" if where == "single file" else root
    columns = {"image": "image", "label": "label"}
    args = ImageClassificationArguments(str(source), columns=columns, label_names=["a", "b"], streaming=streaming)

    def read() -> Any:
        return stream_classification(args, "train")[0].read(0, 0) if streaming else load_classification(args, "train")

    with pytest.raises(ValueError, match="nothing but the tables|only files within the source are read"):
        read()
    if not streaming and where in ("cell", "single file"):
        assert len(load_classification(replace(args, on_error="skip"), "train")) == 1


def test_files_that_rows_name_are_found_in_the_source(root: Path) -> None:
    """Relative names are relative to it, wherever the program runs."""
    for name in ("0.png", "1.png"):
        picture(root / "pictures" / name)
    named = [{"bytes": None, "path": "pictures/0.png"}, {"bytes": None, "path": str(root / "pictures" / "1.png")}]
    table(root / "data" / "train.parquet", image=pa.array(named, IMAGE), objects=[OBJECTS] * 2, label=[0, 1])
    (root / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n")
    assert [row["image"].size for row in load_source(DataArguments(str(root)), "train")] == [(SIDE, SIDE)] * 2
    assert open_source(DataArguments(str(root)), "train").read(0, 0)["image"]["path"] == str(root / "pictures/0.png")
    args = ImageClassificationArguments(
        str(root), columns={"image": "image", "label": "label"}, label_names=["a", "b"]
    )
    assert [row["image"].size for row in load_classification(args, "train")] == [(SIDE, SIDE)] * 2


@pytest.mark.parametrize("pattern", ["../private/*.parquet", "{secret}/*.parquet", "file://{secret}/*.parquet"])
def test_a_card_of_a_folder_names_no_files_outside(root: Path, secret: Path, pattern: str) -> None:
    good = {"bytes": encoded(201), "path": None}
    table(secret.parent / "a.parquet", image=pa.array([good], IMAGE), objects=[OBJECTS])
    table(root / "data" / "train.parquet", image=pa.array([good], IMAGE), objects=[OBJECTS])
    files = pattern.format(secret=secret.parent)
    (root / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {files}\n---\n")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="only files within the source are read"):
            (open_source if streaming else load_source)(DataArguments(str(root), streaming=streaming), "train")
    with pytest.raises(ValueError, match="only files within the source are read"):
        prepare(PrepareArguments(str(root)), root.parent / "output")


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_of_the_hub_name_no_files_of_this_machine(hub: "HubServer", secret: Path, streaming: bool) -> None:
    content = io.BytesIO()
    column = pa.array([*cells(str(secret))], IMAGE)
    pq.write_table(pa.table({"image": column, "objects": [OBJECTS] * 2}), content)
    api, repo = HfApi(), f"loopback/cells-{streaming}"
    api.create_repo(repo, repo_type="dataset")
    api.upload_file(path_or_fileobj=content.getvalue(), path_in_repo="t.parquet", repo_id=repo, repo_type="dataset")
    args = DataArguments(repo, streaming=streaming)
    with pytest.raises(ValueError, match="nothing but the tables themselves is read"):
        open_source(args, "train").read(0, 0) if streaming else load_source(args, "train")
    assert streaming or len(load_source(replace(args, on_error="skip"), "train")) == 1


@pytest.mark.parametrize("where", ["rows", "splits"])
def test_a_saved_dataset_names_no_files_outside(root: Path, secret: Path, where: str) -> None:
    good = [{"bytes": encoded(), "path": None}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"image": good, "label": [0]}, features=features)
    rows.save_to_disk(secret.parent / "rows")
    root.rmdir()
    if where == "rows":
        rows.save_to_disk(root)
        state = json.loads((root / "state.json").read_text())
        state["_data_files"] = [{"filename": "../private/rows/data-00000-of-00001.arrow"}]
        (root / "state.json").write_text(json.dumps(state))
    else:
        datasets.DatasetDict({"train": rows}).save_to_disk(root)
        (root / "dataset_dict.json").write_text(json.dumps({"splits": ["../private/rows"]}))
    split = "train" if where == "rows" else "../private/rows"
    args = ImageClassificationArguments(str(root), train_split=split)
    with pytest.raises(ValueError, match="only files within the source are read"):
        load_classification(args, "train")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_of_class_folders_lead_nowhere_else(root: Path, secret: Path, what: str) -> None:
    for name in ("cat", "dog"):
        picture(root / name / "0.png")
    if what == "file":
        link(root / "cat" / "1.png", secret)
    else:
        link(root / "mouse", secret.parent)
    args = ImageClassificationArguments(str(root))
    with pytest.raises(ValueError, match="only files within the source are read"):
        load_classification(args, "train")
    log = SkipLog(root.parent / "skipped.jsonl")
    rows = load_classification(replace(args, on_error="skip"), "train", log)
    assert rows.features["label"].names == ["cat", "dog"]
    assert len(rows) == 2
    assert log.count() == 1


@pytest.mark.parametrize("which", ["images", "labels"])
def test_label_maps_lie_in_the_source(root: Path, secret: Path, which: str) -> None:
    for split in ("train", "validation"):
        picture(root / "images" / split / "0.png")
        picture(root / "labels" / split / "0.png", 1)
    (root / which / "train" / "0.png").unlink()
    link(root / which / "train" / "0.png", secret)
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match="only files within the source are read"):
            load_label_maps(SemanticArguments(str(root), on_error=on_error), "train")  # type: ignore[arg-type]


def test_stacks_lie_in_the_source(root: Path, secret: Path) -> None:
    for name in ("train.tif", "train_groundtruth.tif"):
        picture(root / name, 255)
    (root / "train.tif").unlink()
    picture(secret.with_suffix(".tif"), 201)
    link(root / "train.tif", secret.with_suffix(".tif"))
    with pytest.raises(ValueError, match="only files within the source are read"):
        open_source(DataArguments(str(root)), "train")


# what people really have ---------------------------------------------------------------------------------------------


def test_images_may_lie_in_folders_and_links_within_the_source(root: Path) -> None:
    picture(root / "train" / "deep" / "er" / "0.png")
    picture(root / "pool" / "1.png")
    link(root / "train" / "1.png", Path("..") / "pool" / "1.png")
    coco(root, ["deep/er/0.png", "1.png", str(root / "train" / "deep" / "er" / "0.png"), "deep/../1.png"])
    assert len(load_source(DataArguments(str(root)), "train")) == 4


def test_a_source_may_be_a_link(root: Path) -> None:
    for name in "ab":
        picture(root / "images" / f"{name}.png")
        picture(root / "masks" / f"{name}.png", 1)
    link(root.parent / "data" / "linked", root)
    assert len(load_source(DataArguments(str(root.parent / "data" / "linked")), "train")) == 2
    for name in ("cat", "dog"):
        picture(root.parent / "classes" / name / "0.png")
    link(root.parent / "data" / "classes", root.parent / "classes")
    args = ImageClassificationArguments(str(root.parent / "data" / "classes"))
    assert len(load_classification(args, "train")) == 2


def test_a_snapshot_in_the_cache_of_the_hub_is_links_to_its_blobs(root: Path) -> None:
    snapshot, blobs = root / "datasets--a--b" / "snapshots" / "1234", root / "datasets--a--b" / "blobs"
    for name, value in (("images/a.png", 90), ("masks/a.png", 1)):
        picture(blobs / f"{value}.png", value)
        (blobs / f"{value}.png").rename(blobs / f"{value:040d}")
        link(snapshot / name, blobs / f"{value:040d}")
    table(blobs / "table", image=pa.array([{"bytes": encoded(), "path": None}], IMAGE), objects=[OBJECTS])
    link(snapshot / "data" / "train.parquet", blobs / "table")
    assert len(load_source(DataArguments(str(snapshot), format="folder"), "train")) == 1
    for streaming in (False, True):
        args = DataArguments(str(snapshot / "data"), streaming=streaming)
        assert len((open_source if streaming else load_source)(args, "train")) == 1


def test_links_in_a_circle_end(root: Path) -> None:
    from supersam_hf.data.fingerprint import local_fingerprint

    for name in ("cat", "dog"):
        picture(root / name / "0.png")
        for again in "abcdefgh":
            link(root / name / again, root)
    assert local_fingerprint(root)["files"] == 2


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX")
@pytest.mark.parametrize("layout", ["classes", "folder"])
def test_names_that_are_no_utf8_are_told_or_skipped(root: Path, layout: str) -> None:
    odd = os.fsdecode(b"caf\xe9")
    if layout == "classes":
        for file in ("cat/0.png", "dog/0.png", f"cat/{odd}.png"):
            picture(root / file)
        args: Any = ImageClassificationArguments(str(root))
        load: Any = load_classification
    else:
        for name in ("a", odd):
            picture(root / "images" / f"{name}.png")
            picture(root / "masks" / f"{name}.png", 1)
        args, load = DataArguments(str(root)), load_source
    with pytest.raises(ValueError, match=r"caf\\udce9.png is no UTF-8; rename it"):
        load(args, "train")
    log = SkipLog(root.parent / "skipped.jsonl")
    assert len(load(replace(args, on_error="skip"), "train", log)) == (2 if layout == "classes" else 1)
    assert log.count() == 1
