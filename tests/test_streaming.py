"""Streams against the map-style datasets of the same rows, on one and two processes, and trainings on them."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fresh
import numpy as np
import pytest
import torch
from bimask_script import search_arguments
from classify_script import tiny_vit
from conftest import tiny_config
from test_plan import COUNTS
from torch.utils.data import DataLoader
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.classification import evaluate_classifier
from supersam_hf.data import (
    DataArguments,
    ImageClassificationArguments,
    ImageDataset,
    ImageStream,
    PromptDataset,
    PromptStream,
    build_loader,
    load_classification,
    load_source,
    open_source,
    shape_classes,
    shapes,
    stream_classification,
)
from supersam_hf.data.plan import Plan
from supersam_hf.data.ranges import RowRange
from supersam_hf.data.skipped import SkipLog
from supersam_hf.data.source import UnreadableError
from supersam_hf.evaluation import box_baseline, evaluate
from supersam_hf.ofb_recipe import OfbModelArguments, OfbRecipe
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.ofb_context import OfbRun
from supersam_hf.recipe import ModelArguments, Recipe
from supersam_hf.training.bimask import train_bimask
from supersam_hf.training.engine import Engine
from supersam_hf.training.sandwich import SandwichArguments, train_sandwich


HERE = Path(__file__).parent
IMAGES = 18  # 5 batches of 4, two images of them twice
SAM_PROCESSOR = SuperSamProcessor.for_config(tiny_config()).image_processor
VIT_PROCESSOR = ViTImageProcessorPil(size={"height": 16, "width": 16})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(rows: datasets.Dataset, folder: Path, split: str = "train", files: int = 1) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for i in range(files):
        rows.shard(files, i, contiguous=True).to_parquet(folder / "data" / f"{split}-{i:05d}-of-{files:05d}.parquet")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write(shapes(5, image_size=64, seed=4), folder, "validation")
    return write(shapes(IMAGES, image_size=64, seed=3), folder, files=3)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    write(three_classes(6, 1), folder, "validation")
    return write(three_classes(IMAGES, 0), folder, files=3)


def three_classes(count: int, seed: int) -> datasets.Dataset:
    """The first three kinds of the generated shapes."""
    rows = shape_classes(10 * count, image_size=16, seed=seed)
    names = rows.features["label"].names[:3]
    first = rows.select(np.flatnonzero(np.array(rows["label"]) < 3)[:count])
    return first.cast_column("label", datasets.Value("int64")).cast_column("label", datasets.ClassLabel(names=names))


def arguments(source: Path, **values: Any) -> DataArguments:
    defaults: dict[str, Any] = {"box_padding": 3, "max_objects": 3, "min_area": 20, "flip": True, "batch_size": 4}
    return DataArguments(source=str(source), **{**defaults, "streaming": True, "shuffle_buffer": 6, **values})


def image_arguments(source: Path, **values: Any) -> ImageClassificationArguments:
    return ImageClassificationArguments(source=str(source), streaming=True, shuffle_buffer=6, batch_size=4, **values)


def prompts(args: DataArguments, training: bool = True, **options: Any) -> PromptStream:
    return PromptStream(open_source(args, "train"), SAM_PROCESSOR, args, training=training, **options)


def images(args: ImageClassificationArguments, training: bool = True, **options: Any) -> ImageStream:
    source, names = stream_classification(args, "train")
    return ImageStream(source, VIT_PROCESSOR, args, names, training=training, **options)


def prompt_loader(args: DataArguments) -> DataLoader:
    return build_loader(prompts(args), args.batch_size, args.num_workers, args.seed)


def image_loader(args: ImageClassificationArguments) -> DataLoader:
    return build_loader(images(args), args.batch_size, args.num_workers, args.seed)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# samples -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_a_streamed_sample_is_the_map_style_one(scenes: Path, classes: Path, training: bool) -> None:
    args = arguments(scenes, crop_train=[30, 50], crop_eval=60)
    stored = PromptDataset(load_source(args, "train"), SAM_PROCESSOR, args, training=training)
    stream = prompts(args, training)
    assert len(stream) == len(stored) == IMAGES
    assert all(same(stream[epoch, i], stored[epoch, i]) for epoch in (0, 2) for i in range(IMAGES))
    labelled = image_arguments(classes)
    whole = ImageDataset(load_classification(labelled, "train"), VIT_PROCESSOR, labelled, training=training)
    streamed = images(labelled, training)
    assert streamed.label_names == whole.label_names
    assert all(same(streamed[epoch, i], whole[epoch, i]) for epoch in (0, 2) for i in range(IMAGES))


def test_evaluation_gives_the_map_style_numbers(scenes: Path, classes: Path, stock_folder: Path) -> None:
    model, args = SuperSamModel.from_pretrained(stock_folder), arguments(scenes)
    stored = PromptDataset(load_source(args, "train"), SAM_PROCESSOR, args, training=False)
    loaders = [build_loader(dataset, 4) for dataset in (stored, prompts(args, training=False))]
    found = [evaluate(model, loader) for loader in loaders]
    assert found[0] == found[1]
    assert found[0].num_objects > IMAGES
    assert box_baseline(loaders[0]) == box_baseline(loaders[1])
    labelled, vit = image_arguments(classes), tiny_vit(labels=three_classes(3, 0).features["label"].names)
    whole = ImageDataset(load_classification(labelled, "train"), VIT_PROCESSOR, labelled, training=False)
    results = [evaluate_classifier(vit, build_loader(each, 4)) for each in (whole, images(labelled, training=False))]
    assert results[0] == results[1]
    assert results[0].num_images == IMAGES


def test_images_that_show_nothing_give_way_to_the_next(scenes: Path) -> None:
    areas = [max(row["objects"]["area"]) for row in shapes(IMAGES, image_size=64, seed=3)]
    args = arguments(scenes, min_area=sorted(areas)[6])
    stream = prompts(args)
    empty = [i for i, area in enumerate(areas) if area < args.min_area]
    assert len(empty) == 6
    for index in range(IMAGES):
        shown = next(i % IMAGES for i in range(index, index + IMAGES) if i % IMAGES not in empty)
        assert int(stream[1, index]["image_index"]) == shown
        assert same(stream[1, index], stream[1, shown])
    with pytest.raises(ValueError, match="None of 18 training images .*`data.min_area`"):
        prompts(arguments(scenes, min_area=10**6))[0]
    held = prompts(args, training=False)
    assert [int(held[i]["object_mask"].any()) for i in range(IMAGES)] == [int(i not in empty) for i in range(IMAGES)]
    assert all(held[i]["pixel_values"].std() > 0 for i in empty)


def test_what_shows_nothing_does_not_count_in_evaluation(scenes: Path, stock_folder: Path) -> None:
    areas = [max(row["objects"]["area"]) for row in shapes(IMAGES, image_size=64, seed=3)]
    args = arguments(scenes, min_area=sorted(areas)[6], box_padding=0)
    model = SuperSamModel.from_pretrained(stock_folder)
    stored = PromptDataset(load_source(args, "train"), SAM_PROCESSOR, args, training=False)
    found = [evaluate(model, build_loader(each, 4)) for each in (stored, prompts(args, training=False))]
    assert len(stored) == 12
    assert found[0].num_objects == found[1].num_objects
    assert found[1].miou == pytest.approx(found[0].miou, abs=1e-6)
    points = arguments(scenes, min_area=sorted(areas)[6], prompt="point")
    assert evaluate(model, build_loader(prompts(points, training=False), 4)).num_objects == found[0].num_objects


def test_batches_of_an_epoch_hold_every_image(scenes: Path) -> None:
    for workers in (0, 2):
        loader = prompt_loader(arguments(scenes, num_workers=workers))
        loader.batch_sampler.begin(1)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert {len(batch["pixel_values"]) for batch in batches} == {4}
        rows = torch.cat([batch["image_index"] for batch in batches]).tolist()
        assert set(rows) == set(range(IMAGES))
        loader.batch_sampler.begin(1, 3)
        assert all(same(a, b) for a, b in zip(loader, batches[3:], strict=True))


def test_what_was_seen_before_an_interruption_is_not_read_again(scenes: Path) -> None:
    source = RecordingSource(open_source(arguments(scenes), "train"))
    loader = build_loader(PromptStream(source, SAM_PROCESSOR, arguments(scenes), training=True), 4)
    loader.batch_sampler.begin(0)
    whole = list(loader)
    before = [index for batch in whole[:3] for index in batch["image_index"].tolist()]
    source.rows.clear()
    loader.batch_sampler.begin(0, 3)
    rest = [index for batch in loader for index in batch["image_index"].tolist()]
    assert source.rows == rest
    assert rest == [index for batch in whole[3:] for index in batch["image_index"].tolist()]
    # But for the two that come a second time.
    assert len(set(rest) & set(before)) == 2


class RecordingSource(RowRange):
    """All rows of a source, noting which are read."""

    def __init__(self, source: Any) -> None:
        super().__init__(source, 0, len(source))
        self.rows: list[int] = []

    def read(self, shard: int, row: int) -> dict[str, Any]:
        self.rows.append(sum(each.rows for each in self.shards[:shard]) + row)
        return super().read(shard, row)


# held out ------------------------------------------------------------------------------------------------------------


def ids(loader: DataLoader) -> list[str]:
    rows = loader.dataset.rows
    return [rows.read(i)["image_id"] for i in range(len(rows))]


def test_what_is_held_out_is_not_trained_on(scenes: Path, stock_folder: Path, tmp_path: Path) -> None:
    data = arguments(scenes, max_train_images=15, max_eval_images=3)
    recipe = Recipe(str(tmp_path / "run"), holdout_images=4, model=ModelArguments(str(stock_folder)), data=data)
    run = Run(recipe)
    assert ids(run.train_loader) == [f"shapes-3-{i}" for i in range(4, 15)]
    assert run.train_loader.dataset.training
    assert ids(run.holdout_loader()) == [f"shapes-3-{i}" for i in range(4)]
    assert ids(run.holdout_loader(2)) == [f"shapes-3-{i}" for i in range(2)]
    assert ids(run.eval_loader) == [f"shapes-4-{i}" for i in range(3)]
    stored = Run(Recipe(str(tmp_path / "b"), 4, model=recipe.model, data=arguments(scenes, streaming=False)))
    assert same(next(iter(run.eval_loader)), {k: v[:3] for k, v in next(iter(stored.eval_loader)).items()})
    recipe.holdout_images = 15
    with pytest.raises(ValueError, match="`holdout_images` of 15 leaves no training image"):
        _ = Run(recipe).train_loader


def test_held_out_labels_are_not_trained_on(classes: Path, vit_folder: Path, tmp_path: Path) -> None:
    data = image_arguments(classes)
    run = OfbRun(OfbRecipe(str(tmp_path), 5, model=OfbModelArguments(str(vit_folder), new_labels=True), data=data))
    assert run.label_names == three_classes(3, 0).features["label"].names

    def labels(loader: DataLoader) -> list[int]:
        return [loader.dataset.rows.read(i)["label"] for i in range(len(loader.dataset))]

    everything = three_classes(IMAGES, 0)["label"]
    assert labels(run.train_loader) == everything[5:]
    assert labels(run.watch_loader) == everything[:5]
    assert labels(run.eval_loader) == three_classes(6, 1)["label"]


# processes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 files of 1 to 60 small images each, one of them empty."""
    folder = tmp_path_factory.mktemp("unequal")
    rows, start = shapes(sum(COUNTS), image_size=32, seed=7), 0
    for number, count in enumerate(COUNTS):
        write_group = rows.select(range(start, start + count))
        write_group.to_parquet(folder / f"train-{number:05d}-of-{len(COUNTS):05d}.parquet", batch_size=10)
        start += count
    return folder


def launch(source: Path, output: Path, kill: int = 0) -> int:
    output.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = (HERE / "stream_script.py", source, output, kill)
    return fresh.launch(2, *words, env=environment, check=not kill).returncode


def trained(output: Path, rank: int) -> list[list]:
    return [json.loads(line) for line in (output / f"train-{rank}.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_of_two_workers_take_everything_and_go_on_after_a_kill(unequal: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    launch(unequal, whole)
    evaluated = [json.loads((whole / f"eval-{rank}.json").read_text()) for rank in range(2)]
    assert sorted(sum(sum(evaluated, []), [])) == list(range(sum(COUNTS)))
    parts = [trained(whole, rank) for rank in range(2)]
    (length,) = {int((whole / f"length-{rank}").read_text()) for rank in range(2)}
    for epoch in range(2):
        taken = [[rows for number, rows in part if number == epoch] for part in parts]
        assert [len(batches) for batches in taken] == [length, length]
        rows = sum(sum(taken, []), [])
        assert set(rows) == set(range(sum(COUNTS)))
        assert len(rows) == sum(COUNTS) + Plan(COUNTS, consumers=4, batch_size=4, buffer=20, seed=5).repeats

    assert launch(unequal, killed, kill=length + 13) != 0
    saved = int((killed / "checkpoint").read_text())
    assert length < saved <= length + 13
    before = [trained(killed, rank)[:saved] for rank in range(2)]
    for rank in range(2):
        (killed / f"train-{rank}.jsonl").unlink()
    launch(unequal, killed)
    for rank in range(2):
        assert before[rank] + trained(killed, rank) == parts[rank]


# training ------------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_at(step: int) -> Callable[[Engine], dict[str, float]]:
    def evaluate(engine: Engine) -> dict[str, float]:
        if engine.global_step == step:
            raise Stopped
        return {}

    return evaluate


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], value) for line in lines for key, value in line.items() if key.startswith("loss")]


def test_a_sandwich_training_that_was_stopped_is_the_whole_one(
    scenes: Path, stock_folder: Path, tmp_path: Path
) -> None:
    def train(name: str, stop: int = 0) -> SuperSamModel:
        model = SuperSamModel.from_pretrained(stock_folder)
        space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))
        args = SandwichArguments(max_steps=6, learning_rate=1e-3, logging_steps=1, eval_steps=1, save_steps=3)
        loader = prompt_loader(arguments(scenes))
        assert len(loader) == 5  # so that the resumed run goes on within an epoch and into the next
        return train_sandwich(model, space, loader, args, tmp_path / name, evaluate=stop_at(stop))

    whole = train("whole")
    with pytest.raises(Stopped):
        train("stopped", stop=4)
    resumed = train("stopped")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


def test_a_search_on_a_stream_that_was_stopped_is_the_whole_one(classes: Path, tmp_path: Path) -> None:
    def search(name: str, stop: int = 0) -> tuple[Any, dict[str, Any]]:
        loader = image_loader(image_arguments(classes))
        args = search_arguments(eval_steps=1, save_steps=4)
        model = tiny_vit(labels=loader.dataset.label_names)
        return train_bimask(model, SearchSpace(), loader, args, tmp_path / name, evaluate=stop_at(stop))

    whole, report = search("whole")
    with pytest.raises(Stopped):
        search("stopped", stop=14)
    resumed, resumed_report = search("stopped")
    assert report == resumed_report
    assert same(dict(whole.state_dict()), dict(resumed.state_dict()))


def test_other_rows_or_workers_are_another_run(scenes: Path, stock_folder: Path, tmp_path: Path) -> None:
    def train(held_out: int = 3, workers: int = 0) -> None:
        args = arguments(scenes)
        rows = RowRange(open_source(args, "train"), held_out, IMAGES)
        loader = build_loader(PromptStream(rows, SAM_PROCESSOR, args, training=True), 4, workers)
        model = SuperSamModel.from_pretrained(stock_folder)
        space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))
        train_sandwich(model, space, loader, SandwichArguments(max_steps=2, save_steps=1), tmp_path)

    train()
    train()
    with pytest.raises(ValueError, match="`images`, `shards`"):
        train(held_out=4)
    with pytest.raises(ValueError, match="num_workers"):
        train(workers=2)


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": "shapes"}, "`streaming` is for stored images"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be a whole number from 1 to 1,000,000,000, got 0"),
        ({"on_error": "ignore"}, "`on_error` must be one of raise, skip, got 'ignore'"),
    ],
)
def test_what_cannot_be_streamed_is_refused(values: dict[str, Any], said: str) -> None:
    for arguments_class in (DataArguments, ImageClassificationArguments):
        with pytest.raises(ValueError, match=said):
            arguments_class(**{"source": "a/b", "streaming": True, **values})


def test_an_empty_stream_is_refused(scenes: Path) -> None:
    args = arguments(scenes)
    with pytest.raises(ValueError, match="The stream has no images"):
        PromptStream(RowRange(open_source(args, "train"), IMAGES, IMAGES), SAM_PROCESSOR, args, training=True)


def test_hidden_labels_are_named(tmp_path: Path) -> None:
    rows = three_classes(3, 0)
    hidden = datasets.Dataset.from_dict({"image": rows["image"], "label": [-1] * 3}, features=rows.features)
    with pytest.raises(ValueError, match="row 0 cannot be read: its label is -1; labels are 0 to 2"):
        images(image_arguments(write(hidden, tmp_path)))[0]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Six scenes and labelled images, of which number 2 is cut short behind its header."""
    rows = shapes(6, image_size=64, seed=3)
    file = io.BytesIO()
    rows[2]["image"].save(file, "jpeg")
    cells = rows.cast_column("image", datasets.Image(decode=False))["image"][:]
    cells[2] = {"bytes": file.getvalue()[:-300], "path": "a.png"}
    columns = {"image": cells, "image_id": rows["image_id"], "objects": rows[:]["objects"]}
    write(datasets.Dataset.from_dict(columns, features=rows.features), tmp_path / "masks")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    labelled = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 3}, features=features)
    write(labelled, tmp_path / "labels")
    return tmp_path


@pytest.mark.parametrize("training", [True, False])
def test_a_broken_image_is_named(broken: Path, training: bool) -> None:
    said = r"train-00000-of-00001.parquet, row 2 \(a.png\) cannot be read"
    for dataset in (
        prompts(arguments(broken / "masks"), training),
        images(image_arguments(broken / "labels"), training),
    ):
        with pytest.raises(UnreadableError, match=said):
            dataset[2]
        dataset[1]


def test_a_broken_image_is_skipped_and_listed(broken: Path, stock_folder: Path, tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl")
    options = {"on_error": "skip", "max_objects": 5}
    for training in (True, False):
        stream = prompts(arguments(broken / "masks", **options), training, skip_log=log)
        assert int(stream[0, 2]["image_index"]) == (3 if training else 2)
        assert bool(stream[0, 2]["object_mask"].any()) == training
        assert len(list(build_loader(stream, 4, num_workers=2))) > 0
    (name,) = log.read()
    assert name.endswith("train-00000-of-00001.parquet, row 2")
    assert "cannot be read" in log.read()[name]
    objects = [len(row["objects"]["area"]) for row in shapes(6, image_size=64, seed=3)]
    small = arguments(broken / "masks", **options, min_area=1)
    found = evaluate(SuperSamModel.from_pretrained(stock_folder), build_loader(prompts(small, training=False), 4))
    assert found.num_objects == sum(objects) - objects[2]


def test_a_broken_image_is_told_of_once(broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl")
    args = arguments(broken / "masks", on_error="skip")
    for _ in range(2):  # as two processes would have it
        stream = prompts(args, skip_log=SkipLog(log.path))
        for epoch in range(3):
            stream[epoch, 2]
    assert caplog.text.count("Left out") == 1
    assert log.count() == 1


def test_an_evaluation_without_objects_says_so(scenes: Path, stock_folder: Path) -> None:
    loader = build_loader(prompts(arguments(scenes, min_area=10**6), training=False), 4)
    model = SuperSamModel.from_pretrained(stock_folder)
    with pytest.raises(ValueError, match="No evaluation image shows an object: .*`data.min_area`.*`data.crop_eval`"):
        evaluate(model, loader)
    with pytest.raises(ValueError, match="No evaluation image shows an object"):
        box_baseline(loader)


def test_labels_of_a_stream_must_be_those_of_the_model(classes: Path) -> None:
    loader = build_loader(images(image_arguments(classes), training=False), 4)
    with pytest.raises(ValueError, match="The model has 5 labels and the data 3"):
        evaluate_classifier(tiny_vit(labels=list("abcde")), loader)


def test_a_broken_labelled_image_does_not_count(broken: Path) -> None:
    args = image_arguments(broken / "labels", on_error="skip")
    stored = load_classification(args, "train")
    for dataset in (images(args, training=False), ImageDataset(stored, VIT_PROCESSOR, args, training=False)):
        found = evaluate_classifier(tiny_vit(labels=["a", "b"]), build_loader(dataset, 1))
        assert found.num_images == 5
