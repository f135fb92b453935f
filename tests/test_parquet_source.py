"""Rows of parquet files by shard and row, here and on a Hub on loopback, against `datasets` reading them whole."""

import io
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from huggingface_hub.hf_file_system import HfFileSystemFile
from PIL import Image
from pycocotools import mask as coco_mask
from test_data import processor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf.data import (
    DataArguments,
    ImageClassificationArguments,
    ImageDataset,
    ImageStream,
    PromptStream,
    canonical_features,
    load_classification,
    load_source,
    open_source,
    shape_classes,
    shapes,
    stream_classification,
)
from supersam_hf.data.parquet_files import open_split
from supersam_hf.data.parquet_source import ParquetSource
from supersam_hf.data.skipped import SkipLog
from supersam_hf.data.source import UnreadableError


if TYPE_CHECKING:
    from hub_server import HubServer


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))


@pytest.fixture
def group_reads(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each row group was read in this process."""
    reads: Counter = Counter()
    read = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, i: int, *args: Any, **kwargs: Any) -> Any:
        reads[self.metadata.row_group(0).num_rows, i] += 1  # files of these tests differ in their groups
        return read(self, i, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    return reads


def write(rows: datasets.Dataset, file: Path, group: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(file, batch_size=group)
    return file


def numbers(folder: Path, groups: dict[str, int]) -> Path:
    """Tables of 20 rows a file, counted through, in row groups of these sizes."""
    for number, (name, group) in enumerate(groups.items()):
        table = datasets.Dataset.from_dict({"n": list(range(20 * number, 20 * number + 20))})
        write(table, folder / name, group)
    return folder


def as_it_is(row: dict[str, Any], number: int) -> dict[str, Any]:
    return {**row, "number": number}


def places(source: ParquetSource) -> list[tuple[int, int]]:
    return [(shard, row) for shard, rows in enumerate(source.shards) for row in range(rows.rows)]


def arguments(source: object, **values: Any) -> DataArguments:
    return DataArguments(source=str(source), streaming=True, **values)


def pixels(cell: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


# rows and row groups -------------------------------------------------------------------------------------------------


def test_any_row_can_be_read_in_any_order(tmp_path: Path) -> None:
    folder = numbers(tmp_path, {"train-0.parquet": 7, "train-1.parquet": 20, "train-2.parquet": 1})
    source = ParquetSource(open_split(str(folder), "train"), ["n"], as_it_is)
    assert [shard.rows for shard in source.shards] == [20, 20, 20]
    order = np.random.default_rng(0).permutation(60)
    for index in order:
        assert source.read(*places(source)[index]) == {"n": index, "number": index}
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(2, 19)["n"] == 59


def test_blocks_of_rows_are_read_once_whatever_their_order(tmp_path: Path, group_reads: Counter) -> None:
    folder = numbers(tmp_path, {"train-0.parquet": 3, "train-1.parquet": 4})
    source = ParquetSource(open_split(str(folder), "train"), ["n"], as_it_is, rows_kept=10)
    rng, where = np.random.default_rng(0), places(source)
    for start in range(0, 40, 10):
        for index in start + rng.permutation(10):
            source.read(*where[index])
    # The group that two blocks share may have given way to newer ones.
    assert set(group_reads) == {(3, i) for i in range(7)} | {(4, i) for i in range(5)}
    assert sum(group_reads.values()) <= 12 + 3
    assert sum(table.num_rows for table in source._groups._kept.values()) <= 10 + 2 * 4


def test_rows_one_after_the_other_keep_one_group(tmp_path: Path, group_reads: Counter) -> None:
    folder = numbers(tmp_path, {"train-0.parquet": 3, "train-1.parquet": 4})
    source = ParquetSource(open_split(str(folder), "train"), ["n"], as_it_is)
    for place in places(source):
        source.read(*place)
    assert set(group_reads.values()) == {1}
    assert len(source._groups._kept) == 1


def test_forked_workers_read_for_themselves(tmp_path: Path) -> None:
    """What the parent had open is not shared: two readers of one descriptor would move each other's place."""
    folder = numbers(tmp_path, {"train-0.parquet": 2})
    source = ParquetSource(open_split(str(folder), "train"), ["n"], as_it_is)
    source.read(0, 0)

    class Rows(torch.utils.data.Dataset):
        def __getitem__(self, index: int) -> int:
            return source.read(0, index % 20)["n"]

    order = [index % 20 for index in range(0, 7 * 200, 7)]
    loader = torch.utils.data.DataLoader(Rows(), 5, sampler=order, num_workers=2)
    assert torch.cat(list(loader)).tolist() == order


# conversion ----------------------------------------------------------------------------------------------------------


def same_examples(args: DataArguments) -> None:
    """Rows of the stream, one after the other, are the map-style ones."""
    source, stored = open_source(args, "train"), load_source(args, "train")
    encoded = stored.cast_column("image", datasets.Image(decode=False))
    assert len(source) == len(stored) > 0
    for place, row in zip(places(source), encoded, strict=True):
        assert source.read(*place) == row


@pytest.mark.parametrize("group", [2, 50])
def test_canonical_rows_pass_through(tmp_path: Path, group: int) -> None:
    for shard in range(3):
        rows = shapes(3 + shard, image_size=64, seed=shard)
        write(rows, tmp_path / "data" / f"train-{shard:05d}-of-00003.parquet", group)
    same_examples(arguments(tmp_path))
    same_examples(arguments(tmp_path / "data" / "train-00001-of-00003.parquet"))
    same_examples(arguments(tmp_path, train_split="train[2:9]", max_train_images=4))


def test_id_maps_are_converted_as_they_are_read(tmp_path: Path) -> None:
    ids = np.zeros((40, 50), dtype=np.uint16)
    ids[4:14, 6:20], ids[-9:, -12:] = 1, 300
    columns = {"image": [Image.fromarray(np.uint8(ids > 0) * 255)] * 3, "instances": [Image.fromarray(ids)] * 3}
    features = datasets.Features({"image": datasets.Image(), "instances": datasets.Image()})
    write(datasets.Dataset.from_dict(columns, features=features), tmp_path / "train.parquet", 2)
    same_examples(arguments(tmp_path))
    source = open_source(arguments(tmp_path), "train")
    assert [source.read(0, row)["image_id"] for row in range(3)] == ["0", "1", "2"]


def test_run_lengths_of_other_makers_are_converted(tmp_path: Path) -> None:
    rows = shapes(4, image_size=64, seed=3)
    lists = [[{"segmentation": mask} for mask in row["objects"]["segmentation"]] for row in rows]
    features = {"image": datasets.Image(), "id": datasets.Value("int64")}
    features["objects"] = [{"segmentation": rows.features["objects"]["segmentation"].feature}]
    columns = {"image": rows["image"], "id": [7, 8, 9, 10], "objects": lists}
    write(datasets.Dataset.from_dict(columns, features=datasets.Features(features)), tmp_path / "train.parquet", 3)
    same_examples(arguments(tmp_path))
    assert open_source(arguments(tmp_path), "train").read(0, 1)["image_id"] == "8"


def test_labels_and_columns_of_other_names_are_found(tmp_path: Path) -> None:
    rows = shape_classes(12, image_size=16, seed=0)
    write(rows.rename_columns({"image": "img", "label": "kind"}), tmp_path / "train.parquet", 5)
    args = ImageClassificationArguments(source=str(tmp_path), streaming=True, train_split="train[3:]")
    source, names = stream_classification(args, "train")
    assert names == rows.features["label"].names
    read = [source.read(*place) for place in places(source)]
    assert [row["label"] for row in read] == rows["label"][3:]
    assert all(np.array_equal(pixels(row["image"]), np.asarray(image)) for row, image in zip(read, rows["image"][3:]))
    whole = load_classification(args, "train")
    assert whole["label"] == [row["label"] for row in read]


def test_labels_may_be_names(tmp_path: Path) -> None:
    rows = shape_classes(6, image_size=16, seed=0)
    words = rows.cast_column("label", datasets.Value("int64")).remove_columns("label")
    words = words.add_column("label", ["b", "a", "c", "a", "b", "c"])
    write(words, tmp_path / "train.parquet", 6)
    args = ImageClassificationArguments(str(tmp_path), streaming=True, label_column="label", label_names=["a", "b"])
    source, _ = stream_classification(args, "train")
    assert [source.read(0, row)["label"] for row in (0, 1, 3)] == [1, 0, 0]
    with pytest.raises(UnreadableError, match="row 2 cannot be read: Invalid string class label c. Replace"):
        source.read(0, 2)


# bad input -----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_or_broken_is_named(tmp_path: Path) -> None:
    folder = numbers(tmp_path, {"train-0.parquet": 10, "train-1.parquet": 10})
    file = folder / "train-1.parquet"
    whole = file.read_bytes()
    source = ParquetSource(open_split(str(folder), "train"), ["n"], as_it_is)
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    file.write_bytes(whole[:start] + bytes(40) + whole[start + 40 :])
    assert source.read(1, 9)["n"] == 29
    with pytest.raises(UnreadableError, match=r"train-1.parquet, row 10 cannot be read: row group 1 .* is broken"):
        source.read(1, 10)
    file.unlink()
    again = pickle.loads(pickle.dumps(source))
    with pytest.raises(FileNotFoundError, match=r"train-1.parquet is gone"):
        again.read(1, 0)
    assert again.read(0, 3)["n"] == 3
    file.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"train-1.parquet is no whole parquet file"):
        open_split(str(folder), "train")
    datasets.Dataset.from_dict({"m": [1]}).to_parquet(file)
    with pytest.raises(ValueError, match=r"The columns of .*train-1.parquet are \['m'\], those of .* \['n'\]"):
        open_split(str(folder), "train")


def cell(height: int, width: int, cut: int | None = None) -> dict[str, Any]:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)).save(content, "PNG")
    return {"bytes": content.getvalue()[:cut], "path": None}


def masks(size: int, runs: list[int]) -> dict[str, Any]:
    rle = coco_mask.frPyObjects({"size": [size, size], "counts": runs}, size, size)
    rle["counts"] = rle["counts"].decode()
    return {"segmentation": [rle], "bbox": [[0, 0, 1, 1]], "area": [50]}


GOOD, WHOLE = cell(10, 10), masks(10, [50, 50])
NO_IMAGE = {"bytes": b"no image", "path": None}
ID_MAPS = datasets.Features({"image": datasets.Image(), "instances": datasets.Image()})
BROKEN_ROWS: dict[str, tuple[Any, Any, str]] = {
    "no image": (None, WHOLE, "its `image` is null"),
    "broken image": (NO_IMAGE, WHOLE, "no image of a format that is read"),
    "image cut off": (cell(10, 10, cut=20), WHOLE, "Truncated File Read"),
    "no objects": (GOOD, None, "its `objects` are null"),
    "masks of another size": (GOOD, masks(12, [72, 72]), "12 x 12 px .*, the image 10 x 10"),
    "too short": (GOOD, masks(10, [5, 5]), "add up to 10 px, not to its size. Replace"),
    "too long": (GOOD, masks(10, [50, 100]), "add up to 150 px, not to its size"),
    "no ids": (GOOD, None, "its `instances` is null|no image"),
    "broken ids": (GOOD, NO_IMAGE, "no image of a format that is read"),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
@pytest.mark.parametrize("streaming", [True, False])
def test_broken_rows_are_named_or_skipped(tmp_path: Path, name: str, streaming: bool) -> None:
    image, second, said = BROKEN_ROWS[name]
    if "ids" in name:
        columns, features = {"image": [GOOD, image], "instances": [Image.new("L", (10, 10), 1), second]}, ID_MAPS
    else:
        columns = {"image": [GOOD, image], "image_id": ["a", "b"], "objects": [WHOLE, second]}
        features = canonical_features()
    write(datasets.Dataset.from_dict(columns, features=features), tmp_path / "train.parquet", 2)
    args = DataArguments(str(tmp_path), streaming=streaming, min_area=1)
    log = SkipLog(tmp_path / "skipped.jsonl")
    if not streaming:
        with pytest.raises(UnreadableError, match=f"row 1 cannot be read: .*({said})"):
            load_source(args, "train")
        assert len(load_source(replace(args, on_error="skip"), "train", log)) == 1
    else:
        source = open_source(args, "train")
        with pytest.raises(UnreadableError, match=f"train.parquet, row 1 cannot be read: .*({said})"):
            source.read(0, 1)
        stream = PromptStream(source, processor(), replace(args, on_error="skip"), training=True, skip_log=log)
        assert int(stream[0, 1]["image_index"]) == 0
    assert log.count() == 1


@pytest.mark.parametrize("streaming", [True, False])
def test_a_row_without_an_image_is_no_labelled_one(tmp_path: Path, streaming: bool) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"image": [GOOD, None], "label": [0, 1]}, features=features)
    write(rows, tmp_path / "train.parquet", 2)
    args = ImageClassificationArguments(str(tmp_path), streaming=streaming)
    vit = ViTImageProcessorPil(size={"height": 16, "width": 16})

    def samples(on_error: str) -> Any:
        chosen = replace(args, on_error=on_error)
        if streaming:
            source, names = stream_classification(chosen, "train")
            return ImageStream(source, vit, chosen, names, training=False)
        return ImageDataset(load_classification(chosen, "train"), vit, chosen, training=False)

    assert [int(samples("skip")[row]["labels"]) for row in (0, 1)] == [0, -1]
    with pytest.raises(UnreadableError, match="(?i)row 1 "):
        samples("raise")[1]


def test_what_is_no_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`part` must be 'train' or 'eval', got 'test'"):
        stream_classification(ImageClassificationArguments(str(tmp_path), streaming=True), "test")
    args = ImageClassificationArguments(str(tmp_path), streaming=True, revision="main")
    with pytest.raises(ValueError, match="`data.revision` is for datasets on the Hub"):
        stream_classification(args, "train")


@pytest.mark.parametrize(("failures", "kind"), [(2, "http"), (3, "http"), (3, "os")])
def test_a_hub_out_of_reach_is_no_broken_row(
    hub: "HubServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, kind: str
) -> None:
    api, repo = HfApi(), "loopback/far"
    api.create_repo(repo, repo_type="dataset")
    file = write(shapes(4, image_size=64), tmp_path / "train.parquet", 2)
    api.upload_file(path_or_fileobj=file, path_in_repo="train.parquet", repo_id=repo, repo_type="dataset")
    source = open_source(arguments(repo, on_error="skip"), "train")
    fetch, failed = HfFileSystemFile._fetch_range, []

    def failing(self: HfFileSystemFile, start: int, end: int) -> bytes:
        if len(failed) < failures:
            failed.append(start)
            raise HTTPError("no answer") if kind == "http" else ConnectionResetError("no answer")
        return fetch(self, start, end)

    monkeypatch.setattr(HfFileSystemFile, "_fetch_range", failing)
    if failures < 3:
        assert source.read(0, 1)["image_id"] == "shapes-0-1"
    else:
        with pytest.raises(OSError, match=r"train.parquet could not be read, in 3 attempts: no answer"):
            source.read(0, 1)
        assert source.read(0, 1)["image_id"] == "shapes-0-1"
    assert len(failed) == failures


def test_what_is_no_parquet_or_has_no_masks_is_refused(tmp_path: Path) -> None:
    shapes(2, image_size=64).save_to_disk(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    for folder in ("saved", "empty"):
        with pytest.raises(ValueError, match="cannot be streamed: .*supersam-hf prepare"):
            open_split(str(tmp_path / folder), "train")
    write(shape_classes(3, image_size=16, seed=0), tmp_path / "labels" / "train.parquet", 3)
    with pytest.raises(ValueError, match="Masks are needed"):
        open_source(arguments(tmp_path / "labels"), "train")
    with pytest.raises(ValueError, match=r"no split 'test' .* \['train'\]"):
        open_source(arguments(tmp_path / "labels", train_split="test"), "train")
    with pytest.raises(ValueError, match="does not exist"):
        open_source(arguments(tmp_path / "nothing"), "train")
    write(shapes(3, image_size=64), tmp_path / "masks" / "train.parquet", 3)
    with pytest.raises(ValueError, match="`data.label_column`"):
        stream_classification(ImageClassificationArguments(str(tmp_path / "masks"), streaming=True), "train")


def test_another_number_of_rows_is_another_fingerprint(tmp_path: Path) -> None:
    folder = numbers(tmp_path, {"train-0.parquet": 10, "train-1.parquet": 10})

    def fingerprint() -> str:
        return ParquetSource(open_split(str(folder), "train"), ["n"], as_it_is).fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    write(datasets.Dataset.from_dict({"n": list(range(21))}), folder / "train-1.parquet", 10)
    assert fingerprint() != before


# the Hub -------------------------------------------------------------------------------------------------------------


def test_rows_come_from_the_hub_as_they_are_needed(
    hub: "HubServer", tmp_path: Path, group_reads: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, fetch = [], HfFileSystemFile._fetch_range

    def measuring(self: HfFileSystemFile, start: int, end: int) -> bytes:
        content = fetch(self, start, end)
        fetched.append(len(content))
        return content

    monkeypatch.setattr(HfFileSystemFile, "_fetch_range", measuring)
    api, repo = HfApi(), "loopback/scenes"
    api.create_repo(repo, repo_type="dataset")
    rows = shapes(40, image_size=96, seed=1)
    for shard in range(2):
        part = rows.shard(2, shard, contiguous=True)
        write(part, tmp_path / "up" / "data" / f"train-{shard:05d}-of-00002.parquet", 5)
    api.upload_folder(repo_id=repo, folder_path=tmp_path / "up", repo_type="dataset")
    args = arguments(repo)
    source = open_source(args, "train")
    commit = api.dataset_info(repo).sha
    assert [shard.rows for shard in source.shards] == [20, 20]
    assert all(f"@{commit}" in shard.name for shard in source.shards)
    assert not group_reads
    footers = sum(fetched)

    read = source.read(1, 7)
    assert read["image_id"] == "shapes-1-27"
    assert np.array_equal(pixels(read["image"]), np.asarray(rows[27]["image"]))
    assert sum(group_reads.values()) == 1
    # The footer once more, and one of the four row groups of the file.
    assert sum(fetched) - footers < footers / 2 + 0.3 * source.shards[1].size

    # Later commits are not what this run reads; a new one with that revision reads the same still.
    api.upload_folder(repo_id=repo, folder_path=tmp_path / "up", repo_type="dataset", path_in_repo="again")
    api.delete_file("data/train-00001-of-00002.parquet", repo, repo_type="dataset")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(1, 19)["image_id"] == "shapes-1-39"
    assert open_source(arguments(repo, revision=commit), "train").fingerprint() == source.fingerprint()
    assert open_source(arguments(repo), "train").fingerprint() != source.fingerprint()


def test_a_hub_dataset_of_other_files_is_refused(hub: "HubServer", tmp_path: Path) -> None:
    api, repo = HfApi(), "loopback/texts"
    api.create_repo(repo, repo_type="dataset")
    api.upload_file(path_or_fileobj=b'{"a": 1}\n', path_in_repo="train.jsonl", repo_id=repo, repo_type="dataset")
    with pytest.raises(ValueError, match="'loopback/texts' cannot be streamed: .*supersam-hf prepare"):
        open_source(arguments(repo), "train")
