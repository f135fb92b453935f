"""Tables with columns of other names, broken and empty files, what is skipped, what prepare decodes."""

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from test_data import processor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf.commands.preview import drawn_samples
from supersam_hf.data import (
    DataArguments,
    ImageClassificationArguments,
    ImageDataset,
    ImageStream,
    PromptStream,
    load_classification,
    load_source,
    open_source,
    stream_classification,
)
from supersam_hf.data.label_maps import load_label_maps
from supersam_hf.data.prepare import PrepareArguments, prepare
from supersam_hf.data.semantic_arguments import SemanticArguments
from supersam_hf.data.skipped import SkipLog
from supersam_hf.training.errors import WorkerError, explained
from supersam_hf_cli import main


SIDE = 24


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def picture(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """RGB of (width, height)."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def id_map() -> np.ndarray:
    ids = np.zeros((SIDE, SIDE), dtype=np.uint8)
    ids[2:12, 3:15] = 1
    ids[14:22, 4:20] = 2
    return ids


def segmented(**names: str) -> datasets.Dataset:
    """Three images with two objects each; columns under other names."""
    columns = {"image": [picture(n) for n in range(3)], "instances": [Image.fromarray(id_map())] * 3}
    columns["image_id"] = ["a", "b", "c"]
    features = datasets.Features(
        {"image": datasets.Image(), "instances": datasets.Image(), "image_id": datasets.Value("string")}
    )
    return datasets.Dataset.from_dict(columns, features=features).rename_columns(names)


def labelled(**names: str) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {"image": [picture(n) for n in range(4)], "label": [0, 1, 0, 1]}
    return datasets.Dataset.from_dict(columns, features=features).rename_columns(names)


# columns of other names ----------------------------------------------------------------------------------------------


OTHERS = {"image": "img", "instances": "mask", "image_id": "name"}


@pytest.mark.parametrize("kind", ["parquet", "saved", "streaming"])
def test_columns_of_masks_have_any_names(tmp_path: Path, kind: str) -> None:
    rows = segmented(**OTHERS)
    if kind == "saved":
        rows.save_to_disk(tmp_path / "data")
    else:
        (tmp_path / "data").mkdir()
        rows.to_parquet(tmp_path / "data" / "train.parquet")
    args = DataArguments(str(tmp_path / "data"), columns=OTHERS, streaming=kind == "streaming")
    if kind == "streaming":
        source = open_source(args, "train")
        found = [source.read(0, row) for row in range(3)]
    else:
        found = list(load_source(args, "train"))
    assert [row["image_id"] for row in found] == ["a", "b", "c"]
    assert [row["objects"]["area"] for row in found] == [[120, 128]] * 3


def test_a_column_may_have_the_name_of_another(tmp_path: Path) -> None:
    """What `image` is called holds the masks."""
    rows = segmented(image="photo", instances="image")
    rows.to_parquet(tmp_path / "train.parquet")
    args = DataArguments(str(tmp_path / "train.parquet"), columns={"image": "photo", "instances": "image"})
    assert [row["objects"]["area"] for row in load_source(args, "train")] == [[120, 128]] * 3


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_labels_have_any_names(tmp_path: Path, streaming: bool) -> None:
    labelled(image="img", label="y").to_parquet(tmp_path / "train.parquet")
    columns = {"image": "img", "label": "y"}
    args = ImageClassificationArguments(str(tmp_path), columns=columns, streaming=streaming)
    if streaming:
        source, names = stream_classification(args, "train")
        labels = [source.read(0, row)["label"] for row in range(4)]
    else:
        rows = load_classification(args, "train")
        labels, names = rows["label"][:], rows.features["label"].names
    assert (labels, names) == ([0, 1, 0, 1], ["cat", "dog"])


def test_columns_of_a_segmenter_and_of_prepare_have_any_names(tmp_path: Path) -> None:
    segmented(**OTHERS).to_parquet(tmp_path / "train.parquet")
    rows = load_label_maps(SemanticArguments(str(tmp_path), format="foreground", columns=OTHERS), "train").rows
    assert [int(rows.read(index)["labels"].sum()) for index in range(3)] == [248] * 3
    out = str(tmp_path / "out")
    assert main(["prepare", str(tmp_path), "--output_dir", out, "--data.columns", "image=img", "instances=mask"]) == 0
    assert load_source(DataArguments(out), "train")[0]["objects"]["area"] == [120, 128]
    (tmp_path / "labels").mkdir()
    labelled(image="img", label="y").to_parquet(tmp_path / "labels" / "train.parquet")
    columns = {"image": "img", "label": "y"}
    written = prepare(PrepareArguments(str(tmp_path / "labels"), columns=columns), tmp_path / "out_labels")
    assert sorted(written["train"]["label"]) == [0, 0, 1, 1]


@pytest.mark.parametrize("kind", [DataArguments, ImageClassificationArguments, SemanticArguments])
def test_columns_are_given_as_in_a_recipe(kind: Any) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "data")
    for given in (["--data.columns", '{"image": "img"}'], ["--data.columns.image", "img"]):
        assert parser.instantiate_classes(parser.parse_args(given)).data.columns == {"image": "img"}


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_that_are_not_there_are_told(tmp_path: Path, streaming: bool) -> None:
    segmented().to_parquet(tmp_path / "train.parquet")
    labelled().to_parquet(tmp_path / "labels.parquet")
    read = open_source if streaming else load_source
    args = DataArguments(str(tmp_path / "train.parquet"), columns={"image": "img"}, streaming=streaming)
    with pytest.raises(ValueError, match=r"`data.columns.image` is 'img', .* \['image', 'instances', 'image_id'\]"):
        read(args, "train")
    label = ImageClassificationArguments(str(tmp_path / "labels.parquet"), columns={"label": "y"})
    with pytest.raises(ValueError, match=r"`data.columns.label` is 'y', .* \['image', 'label'\]"):
        (stream_classification if streaming else load_classification)(label, "train")
    segmented(instances="mask").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="Columns of other names are told by `data.columns`"):
        read(replace(args, columns=None), "train")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"imge": "img"}, r"\['imge'\]; it maps image, "),
        ({"image": 3}, "`columns.image` must be text that is not empty, got 3"),
        ({"image": ""}, "`columns.image` must be text that is not empty, got ''"),
    ],
)
@pytest.mark.parametrize("kind", [DataArguments, ImageClassificationArguments, SemanticArguments])
def test_columns_are_checked_when_they_are_given(kind: Any, columns: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(columns=columns)


def test_columns_and_files_or_two_names_do_not_go_together(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(id_map()).save(tmp_path / folder / "a.png")
    with pytest.raises(ValueError, match="`data.columns` is for tables"):
        load_source(DataArguments(str(tmp_path), columns={"image": "img"}), "train")
    with pytest.raises(ValueError, match="names a column twice"):
        DataArguments(columns={"image": "a", "instances": "a"})
    with pytest.raises(ValueError, match="`data.image_column` is 'a' and `data.columns.image` 'b'; give one"):
        ImageClassificationArguments(image_column="a", columns={"image": "b"})


# broken and empty files ----------------------------------------------------------------------------------------------


def parquet_bytes(rows: datasets.Dataset) -> bytes:
    content = io.BytesIO()
    rows.to_parquet(content)
    return content.getvalue()


BROKEN = {"empty": b"", "text": b"image,label\n" * 9, "cut off": None, "damaged": None}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("way", ["file", "folder", "streamed", "labels", "streamed labels", "prepared"])
def test_broken_parquet_files_are_named(tmp_path: Path, case: str, way: str) -> None:
    file = tmp_path / "data" / "train.parquet"
    file.parent.mkdir()
    whole = parquet_bytes(labelled() if "labels" in way else segmented())
    content = BROKEN[case]
    if content is None:
        content = whole[: len(whole) // 2] if case == "cut off" else whole[:-200] + bytes(100) + whole[-100:]
    file.write_bytes(content)
    source = str(file if way == "file" else file.parent)
    label = ImageClassificationArguments(source)
    ways: dict[str, Callable[[], Any]] = {
        "file": lambda: load_source(DataArguments(source), "train"),
        "folder": lambda: load_source(DataArguments(source), "train"),
        "streamed": lambda: open_source(DataArguments(source, streaming=True), "train"),
        "labels": lambda: load_classification(label, "train"),
        "streamed labels": lambda: stream_classification(label, "train"),
        "prepared": lambda: prepare(PrepareArguments(source), tmp_path / "out"),
    }
    with pytest.raises(ValueError, match="train.parquet is no whole parquet file|data' cannot be read: "):
        ways[way]()


@pytest.mark.parametrize("folder", [False, True])
def test_a_split_without_rows_is_told(tmp_path: Path, folder: bool) -> None:
    segmented().select([]).to_parquet(tmp_path / "train.parquet")
    labelled().select([]).to_parquet(tmp_path / "labels.parquet")
    source = str(tmp_path if folder else tmp_path / "train.parquet")
    if folder:
        (tmp_path / "labels.parquet").unlink()
    with pytest.raises(ValueError, match="The split 'train' of .* is empty: it has no rows"):
        load_source(DataArguments(source), "train")
    if not folder:
        with pytest.raises(ValueError, match="The split 'train' of .* is empty: it has no rows"):
            load_classification(ImageClassificationArguments(str(tmp_path / "labels.parquet")), "train")


# skipped, in every reader --------------------------------------------------------------------------------------------


def thin() -> Image.Image:
    return picture(9, (3000, 1))


def coco(root: Path, odd: Callable[[Path], None]) -> None:
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    for name in ("a.jpg", "b.jpg"):
        picture().save(root / "train" / name, quality=95)
    odd(root / "train" / "b.jpg")
    with Image.open(root / "train" / "b.jpg") as image:
        sizes = [(SIDE, SIDE), image.size]
    images = [
        {"id": n, "file_name": name, "width": size[0], "height": size[1]}
        for n, (name, size) in enumerate(zip(("a.jpg", "b.jpg"), sizes))
    ]
    polygon = [[2, 0, 20, 0, 20, 20, 2, 20]]
    annotations = [{"id": n, "image_id": n, "segmentation": polygon} for n in range(2)]
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


def save_thin(file: Path) -> None:
    thin().save(file)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-400])


@pytest.mark.parametrize("odd", [save_thin, cut_off])
def test_pictures_that_cannot_be_used_are_skipped_by_every_reader_of_masks(
    tmp_path: Path, odd: Callable[[Path], None]
) -> None:
    root, log = tmp_path / "data", SkipLog(tmp_path / "skipped.jsonl")
    coco(root, odd)
    args = DataArguments(str(root), on_error="skip", min_area=1, num_workers=0)
    assert len(load_source(args, "train", log)) == 1
    assert log.count() == 1
    streamed = SkipLog(tmp_path / "streamed.jsonl")
    source = open_source(replace(args, streaming=True), "train")
    stream = PromptStream(source, processor(), replace(args, streaming=True), training=True, skip_log=streamed)
    assert int(stream[0, 1]["image_index"]) == 0
    evaluated = PromptStream(source, processor(), replace(args, streaming=True), training=False, skip_log=streamed)
    assert not evaluated[1]["object_mask"].any()
    assert streamed.count() == 1
    assert [sample["name"] for sample in drawn_samples(args, "train", 2, 64)] == ["0"]
    segmenter = SemanticArguments(str(root), format="foreground", on_error="skip")
    assert len(load_label_maps(segmenter, "train").rows) == 1
    written = prepare(PrepareArguments(str(root), on_error="skip"), tmp_path / "out")
    assert written["train"]["image_id"][:] == ["0"]
    assert SkipLog(tmp_path / "out-skipped.jsonl").count() == 1


@pytest.mark.parametrize("odd", [save_thin, cut_off])
def test_prepare_publishes_no_picture_that_cannot_be_used(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    coco(tmp_path / "data", odd)
    with pytest.raises(ValueError, match="b.jpg"):
        prepare(PrepareArguments(str(tmp_path / "data")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("odd", [save_thin, cut_off])
def test_labelled_pictures_that_cannot_be_used_are_skipped_by_every_reader(
    tmp_path: Path, odd: Callable[[Path], None]
) -> None:
    root = tmp_path / "data"
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(root / name, quality=95)
    odd(root / "cat" / "1.jpg")
    with pytest.raises(ValueError, match="cat/1.jpg"):
        prepare(PrepareArguments(str(root)), tmp_path / "out")
    written = prepare(PrepareArguments(str(root), on_error="skip"), tmp_path / "out")
    assert sorted(written["train"]["label"]) == [0, 1]
    assert SkipLog(tmp_path / "out-skipped.jsonl").count() == 1

    args = ImageClassificationArguments(str(root), on_error="skip")
    log = SkipLog(tmp_path / "map.jsonl")
    shape = ViTImageProcessorPil(size={"height": 16, "width": 16})
    samples = ImageDataset(load_classification(args, "train"), shape, args, training=False, skip_log=log)
    assert sorted(int(samples[index]["labels"]) for index in range(3)) == [-1, 0, 1]
    assert log.count() == 1

    rows = load_classification(args, "train").cast_column("image", datasets.Image(decode=False))
    cells = [{"bytes": Path(row["image"]["path"]).read_bytes(), "path": None} for row in rows]
    features = datasets.Features({"image": datasets.Image(), "label": rows.features["label"]})
    (tmp_path / "parquet").mkdir()
    table = datasets.Dataset.from_dict({"image": cells, "label": rows["label"][:]}, features=features)
    table.to_parquet(tmp_path / "parquet" / "train.parquet")
    streaming = replace(args, source=str(tmp_path / "parquet"), streaming=True)
    source, names = stream_classification(streaming, "train")
    log = SkipLog(tmp_path / "stream.jsonl")
    stream = ImageStream(source, shape, streaming, names, training=False, skip_log=log)
    assert sorted(int(stream[index]["labels"]) for index in range(3)) == [-1, 0, 1]
    assert log.count() == 1


def test_images_without_a_label_are_skipped_where_others_have_one(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"image": [picture()] * 3, "label": [0, None, 1]}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    args = ImageClassificationArguments(str(tmp_path / "train.parquet"))
    with pytest.raises(ValueError, match="1 of 3 labels"):
        load_classification(args, "train")
    log = SkipLog(tmp_path / "skipped.jsonl")
    assert load_classification(replace(args, on_error="skip"), "train", log)["label"][:] == [0, 1]
    assert log.count() == 1


# words ---------------------------------------------------------------------------------------------------------------


def test_a_format_that_is_not_that_of_the_source_names_the_option(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "files" / folder).mkdir(parents=True)
        Image.fromarray(id_map()).save(tmp_path / "files" / folder / "a.png")
    (tmp_path / "tables").mkdir()
    segmented().to_parquet(tmp_path / "tables" / "train.parquet")
    with pytest.raises(ValueError, match="layout 'folder'. Set `--data.format auto`, .* or `--data.format folder`"):
        load_source(DataArguments(str(tmp_path / "files"), format="instances"), "train")
    for source in ("tables", "tables/train.parquet"):
        with pytest.raises(ValueError, match="--data.format auto|`data.format: folder`"):
            load_source(DataArguments(str(tmp_path / source), format="folder"), "train")


@pytest.mark.parametrize("recipe", ["nuclei", "nuclei_lora", "nuclei_elastic_lora"])
@pytest.mark.parametrize("kind", ["tables", "files"])
def test_recipes_of_nuclei_take_folders_as_they_take_tables(tmp_path: Path, recipe: str, kind: str) -> None:
    if kind == "tables":
        segmented().to_parquet(tmp_path / "train.parquet")
    else:
        for folder, image in (("images", picture()), ("masks", Image.fromarray(id_map()))):
            (tmp_path / "train" / folder).mkdir(parents=True)
            image.save(tmp_path / "train" / folder / "a.png")
    config = Path(__file__).parents[1] / "recipes" / "supersam" / f"{recipe}.yaml"
    args = DataArguments(source=str(tmp_path), format=yaml.safe_load(config.read_text())["data"]["format"])
    assert load_source(args, "train")[0]["objects"]["area"] == [120, 128]


@pytest.mark.parametrize(
    "said",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        "of shared memory. Please try to raise your shared memory limit.",
        "Caught RuntimeError in DataLoader worker process 0.\nTraceback:\nRuntimeError: unable to write to file "
        "</torch_7_1_2>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_7_1_2>: Resource temporarily unavailable (11)",
    ],
)
def test_full_shared_memory_is_told(said: str) -> None:
    with pytest.raises(WorkerError, match=r"(?s)/dev/shm.*`data.num_workers`.*--shm-size"), explained():
        raise RuntimeError(said)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"_data_files": [1]}', '{"_data_files": [{}]}'])
def test_a_saved_dataset_of_another_form_is_told(tmp_path: Path, content: str) -> None:
    segmented().save_to_disk(tmp_path / "data")
    (tmp_path / "data" / "state.json").write_text(content)
    with pytest.raises(ValueError, match="state.json is not as `save_to_disk` writes it|is no name of a file"):
        load_source(DataArguments(str(tmp_path / "data")), "train")


def test_a_pipe_is_no_parquet_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.parquet")
    for read in (load_source, open_source):
        with pytest.raises((ValueError, OSError), match="contain any data files"):
            read(DataArguments(str(tmp_path)), "train")
