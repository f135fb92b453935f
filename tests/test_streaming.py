"""Streams against the map-style datasets of the same rows, and trainings on them that are stopped and resumed."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from bimask_script import search_arguments
from classify_script import tiny_vit
from conftest import tiny_config
from PIL import Image
from torch.utils.data import DataLoader
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf import ElasticSpace, SuperSamModel, SuperSamProcessor
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.data import (
    DataArguments,
    ImageClassificationArguments,
    ImageDataset,
    ImageStream,
    PromptDataset,
    PromptStream,
    StreamSampler,
    build_loader,
    load_classification,
    load_source,
    shape_classes,
    shapes,
    stream_classification,
    stream_source,
)
from supersam_hf.data.streaming import in_memory
from supersam_hf.ofb_recipe import OfbModelArguments, OfbRecipe
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.ofb_context import OfbRun
from supersam_hf.recipe import ModelArguments, Recipe
from supersam_hf.training.bimask import train_bimask
from supersam_hf.training.engine import Engine, EngineArguments, checkpoints
from supersam_hf.training.finetune import FinetuneArguments, finetune
from supersam_hf.training.losses import LossArguments
from supersam_hf.training.sandwich import SandwichArguments, train_sandwich


IMAGES = 18  # 5 batches of 4, the last of 2
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
    return write(shapes(IMAGES, image_size=64, seed=3), folder)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    write(three_classes(6, 1), folder, "validation")
    return write(three_classes(IMAGES, 0), folder)


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


def prompt_loader(args: DataArguments) -> DataLoader:
    stream = PromptStream(stream_source(args, "train"), SAM_PROCESSOR, args)
    return build_loader(stream, args.batch_size, args.num_workers)


def image_loader(args: ImageClassificationArguments) -> DataLoader:
    stream = ImageStream(stream_classification(args, "train"), VIT_PROCESSOR, args)
    return build_loader(stream, args.batch_size, args.num_workers)


def ids(sampler: StreamSampler, epoch: int) -> list[str]:
    sampler.set_epoch(epoch)
    return [item.row["image_id"] for item in sampler]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# samples -------------------------------------------------------------------------------------------------------------


def test_a_streamed_sample_is_the_map_style_one(scenes: Path) -> None:
    args = arguments(scenes, crop_train=[30, 50])
    stream = PromptStream(stream_source(args, "train"), SAM_PROCESSOR, args)
    stored = load_source(arguments(scenes, streaming=False), "train")
    rows = {row["image_id"]: row for row in stored}
    by_index = PromptDataset(stored, SAM_PROCESSOR, args, training=True)
    sampler = StreamSampler(stream)
    sampler.set_epoch(2)
    items = list(sampler)
    assert [item.position for item in items] == list(range(IMAGES))
    for item in items:
        assert same(stream[item], by_index.sample(rows[item.row["image_id"]], 2, item.position))


def test_a_streamed_label_and_image_are_the_map_style_ones(classes: Path) -> None:
    args = image_arguments(classes)
    loader = image_loader(args)
    stored = load_classification(ImageClassificationArguments(source=str(classes)), "train")
    by_index = ImageDataset(stored, VIT_PROCESSOR, args, training=True)
    assert loader.dataset.label_names == by_index.label_names
    rows = {row["image"].tobytes(): row for row in stored}
    for item in loader.sampler:
        image = Image.open(io.BytesIO(item.row["image"]["bytes"]))
        row = rows[image.tobytes()]
        assert same(loader.dataset[item], by_index.sample(row["image"], row["label"], 0, item.position))


def test_columns_of_other_names_are_found(tmp_path: Path) -> None:
    rows = three_classes(5, 0)
    folder = write(rows.rename_columns({"image": "img", "label": "kind"}), tmp_path)
    streamed = list(stream_classification(image_arguments(folder, label_column="kind"), "train"))
    assert [row["label"] for row in streamed] == rows["label"]
    assert all(isinstance(row["image"]["bytes"], bytes) for row in streamed)


def test_an_epoch_takes_each_image_once_in_an_order_of_its_own(scenes: Path) -> None:
    args = arguments(scenes)
    everything = sorted(row["image_id"] for row in shapes(IMAGES, image_size=64, seed=3))
    sampler, again = (StreamSampler(prompt_loader(args).dataset) for _ in range(2))
    orders = [ids(sampler, epoch) for epoch in range(3)]
    assert all(sorted(order) == everything for order in orders)
    assert len({tuple(order) for order in [everything, *orders]}) == 4
    assert ids(again, 1) == orders[1]
    assert ids(StreamSampler(prompt_loader(arguments(scenes, seed=1)).dataset), 1) != orders[1]


def test_several_files_are_read_whole(tmp_path: Path) -> None:
    folder = write(shapes(IMAGES, image_size=64, seed=3), tmp_path, files=3)
    everything = [f"shapes-3-{i}" for i in range(IMAGES)]
    args = arguments(folder)
    order = ids(StreamSampler(prompt_loader(args).dataset), 0)
    assert sorted(order) == sorted(everything)
    assert order != everything
    held_out = PromptStream(stream_source(args, "train").skip(7), SAM_PROCESSOR, args)
    assert sorted(ids(StreamSampler(held_out), 0)) == sorted(everything[7:])
    held_out = PromptStream(stream_source(args, "train"), SAM_PROCESSOR, args, held_out=7)
    assert sorted(ids(StreamSampler(held_out), 0)) == sorted(everything[7:])


def test_no_row_is_drawn_before_it_was_read(scenes: Path) -> None:
    """The n-th row taken is among the first n + 6 of the dataset: the buffer holds 6."""
    order = [int(name.split("-")[-1]) for name in ids(StreamSampler(prompt_loader(arguments(scenes)).dataset), 0)]
    assert all(row < taken + 6 for taken, row in enumerate(order, start=1))
    assert any(row > taken + 2 for taken, row in enumerate(order, start=1))
    kept = [f"shapes-3-{i}" for i in range(IMAGES)]
    assert ids(StreamSampler(prompt_loader(arguments(scenes, shuffle_buffer=1)).dataset), 0) == kept


def test_more_rows_than_a_table_holds_are_held_in_memory(tmp_path: Path) -> None:
    rows = shape_classes(250, image_size=16, seed=0)
    stream = stream_classification(image_arguments(write(rows, tmp_path)), "train")
    read = in_memory(stream)
    assert read.data.table["image"].num_chunks == 3
    assert read.features == rows.features
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(read, rows, strict=True))
    assert read["label"] == rows["label"]
    assert len(in_memory(stream.take(100))) == 100
    with pytest.raises(ValueError, match="no rows to take"):
        in_memory(stream.take(0))


def test_images_that_show_nothing_are_passed_over(scenes: Path) -> None:
    areas = {row["image_id"]: max(row["objects"]["area"]) for row in shapes(IMAGES, image_size=64, seed=3)}
    least = sorted(areas.values())[5]
    sampler = StreamSampler(prompt_loader(arguments(scenes, min_area=least)).dataset)
    assert sorted(ids(sampler, 0)) == sorted(name for name, area in areas.items() if area >= least)
    with pytest.raises(ValueError, match="no image to train on.*`data.min_area`"):
        list(StreamSampler(prompt_loader(arguments(scenes, min_area=10**6)).dataset))


def test_batches_are_the_same_whatever_the_workers(scenes: Path) -> None:
    alone, helped = (list(prompt_loader(arguments(scenes, num_workers=n))) for n in (0, 2))
    assert [len(batch["pixel_values"]) for batch in alone] == [4, 4, 4, 4, 2]
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("skipped", [0, 1])
def test_processes_share_out_the_batches_of_one(scenes: Path, skipped: int) -> None:
    """As Accelerate prepares the loader in each of two processes; the last batch begins again at the first image."""
    args = arguments(scenes, batch_size=3)
    one = list(prompt_loader(args))
    parts = [
        skip_first_batches(prepare_data_loader(prompt_loader(args), num_processes=2, process_index=rank), skipped)
        for rank in range(2)
    ]
    taken = [batch for pair in zip(*parts, strict=True) for batch in pair]
    assert len(taken) == len(one) - 2 * skipped == 6 - 2 * skipped
    assert all(same(a, b) for a, b in zip(taken, one[2 * skipped :], strict=True))


def test_id_maps_are_converted_as_they_are_read(tmp_path: Path) -> None:
    ids = np.zeros((40, 50), dtype=np.uint16)
    ids[4:14, 6:20], ids[-9:, -12:] = 1, 300
    columns = {"image": [Image.fromarray(np.uint8(ids > 0) * 255)] * 3, "instances": [Image.fromarray(ids)] * 3}
    features = datasets.Features({"image": datasets.Image(), "instances": datasets.Image()})
    write(datasets.Dataset.from_dict(columns, features=features), tmp_path)
    streamed = list(stream_source(arguments(tmp_path), "train"))
    stored = load_source(arguments(tmp_path, streaming=False), "train")
    assert [row["objects"] for row in streamed] == stored[:]["objects"]
    assert [row["image_id"] for row in streamed] == ["0", "1", "2"]


def test_what_is_held_out_is_not_trained_on(scenes: Path, stock_folder: Path, tmp_path: Path) -> None:
    data = arguments(scenes, max_train_images=15, max_eval_images=3)
    recipe = Recipe(str(tmp_path / "run"), holdout_images=4, model=ModelArguments(str(stock_folder)), data=data)
    run = Run(recipe)
    trained = ids(run.train_loader.sampler, 0)
    assert sorted(trained) == sorted(f"shapes-3-{i}" for i in range(4, 15))
    assert run.holdout_loader().dataset.dataset["image_id"] == [f"shapes-3-{i}" for i in range(4)]
    assert len(run.holdout_loader(2).dataset) == 2
    assert run.eval_loader.dataset.dataset["image_id"] == [f"shapes-4-{i}" for i in range(3)]
    stored = Run(Recipe(str(tmp_path / "b"), 4, ModelArguments(str(stock_folder)), arguments(scenes, streaming=False)))
    assert same(next(iter(run.eval_loader)), {k: v[:3] for k, v in next(iter(stored.eval_loader)).items()})


def test_held_out_labels_are_not_trained_on(classes: Path, vit_folder: Path, tmp_path: Path) -> None:
    data = image_arguments(classes)
    run = OfbRun(OfbRecipe(str(tmp_path), 5, model=OfbModelArguments(str(vit_folder), new_labels=True), data=data))
    assert run.label_names == three_classes(3, 0).features["label"].names
    assert len(list(run.train_loader.sampler)) == IMAGES - 5
    assert run.watch_loader.dataset.dataset["label"] == three_classes(IMAGES, 0)["label"][:5]
    assert run.eval_loader.dataset.dataset["label"] == three_classes(6, 1)["label"]


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


@pytest.mark.parametrize("save_steps", [4, 5])  # within an epoch of 5 steps, and at its end
def test_a_sandwich_training_that_was_stopped_is_the_whole_one(
    scenes: Path, stock_folder: Path, tmp_path: Path, save_steps: int
) -> None:
    def train(name: str, stop: int = 0) -> SuperSamModel:
        model = SuperSamModel.from_pretrained(stock_folder)
        space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))
        args = SandwichArguments(max_steps=12, learning_rate=1e-3, logging_steps=1, eval_steps=1)
        args.save_steps, loader = save_steps, prompt_loader(arguments(scenes))
        return train_sandwich(model, space, loader, args, tmp_path / name, evaluate=stop_at(stop))

    whole = train("whole")
    with pytest.raises(Stopped):
        train("stopped", stop=save_steps + 2)
    state = json.loads((checkpoints(tmp_path / "stopped")[-1] / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"], state["epoch_step"]) == (save_steps, 0, save_steps)
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


def test_another_holdout_is_another_run(scenes: Path, stock_folder: Path, tmp_path: Path) -> None:
    def train(held_out: int) -> None:
        args = arguments(scenes)
        stream = PromptStream(stream_source(args, "train"), SAM_PROCESSOR, args, held_out=held_out)
        model = SuperSamModel.from_pretrained(stock_folder)
        space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))
        train_sandwich(model, space, build_loader(stream, 4), SandwichArguments(max_steps=2, save_steps=1), tmp_path)

    train(3)
    train(3)
    with pytest.raises(ValueError, match="holdout_images"):
        train(4)


def test_finetuning_takes_a_stream(scenes: Path, stock_folder: Path, tmp_path: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    args = FinetuneArguments(max_steps=40, learning_rate=3e-3, save_steps=0, logging_steps=1)
    args.loss = LossArguments(bce_weight=1.0)
    finetune(model, prompt_loader(arguments(scenes)), args, tmp_path)
    values = [value for _, value in losses(tmp_path)]
    assert len(values) == 40
    assert sum(values[-5:]) < 0.9 * sum(values[:5])


def test_an_epoch_too_short_for_a_step_is_an_error(scenes: Path, stock_folder: Path, tmp_path: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    engine = Engine(model, prompt_loader(arguments(scenes)), EngineArguments(gradient_accumulation_steps=6), tmp_path)
    with pytest.raises(ValueError, match="`gradient_accumulation_steps` of 6 .* there are 5"):
        next(engine.batches())


def test_batches_that_fill_no_group_end_the_epoch(scenes: Path, stock_folder: Path, tmp_path: Path) -> None:
    args = EngineArguments(gradient_accumulation_steps=2, max_steps=5)
    engine = Engine(SuperSamModel.from_pretrained(stock_folder), prompt_loader(arguments(scenes)), args, tmp_path)
    seen = []
    for group in engine.batches():
        seen.append((engine.epoch, engine.epoch_step, [len(batch["pixel_values"]) for batch in group]))
        engine.global_step += 1
    assert seen == [(0, 1, [4, 4]), (0, 2, [4, 4]), (1, 1, [4, 4]), (1, 2, [4, 4]), (2, 1, [4, 4])]


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"source": "shapes"}, "`data.streaming` is for stored datasets"),
        ({"train_split": "train[:90%]"}, r"cannot take the slice 'train\[:90%\]'"),
        ({"shuffle_buffer": 0}, "`data.shuffle_buffer` must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_streamed_is_refused(values: dict[str, Any], said: str) -> None:
    for arguments_class in (DataArguments, ImageClassificationArguments):
        with pytest.raises(ValueError, match=said):
            arguments_class(**{"source": "a/b", "streaming": True, **values})


def test_layouts_that_cannot_be_streamed_are_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`data.format` 'coco' cannot be streamed.*supersam-hf prepare"):
        arguments(tmp_path, format="coco")
    shapes(2, image_size=64).save_to_disk(tmp_path / "saved")
    (tmp_path / "empty").mkdir()
    for folder in ("saved", "empty"):
        with pytest.raises(ValueError, match="cannot be streamed: .*supersam-hf prepare"):
            stream_source(arguments(tmp_path / folder), "train")
    with pytest.raises(ValueError, match="no split 'test' .* \\['train', 'validation'\\]"):
        stream_source(arguments(scenes, train_split="test"), "train")
    with pytest.raises(ValueError, match="does not exist"):
        stream_source(arguments(tmp_path / "nothing"), "train")


def test_a_stream_without_masks_or_labels_is_refused(scenes: Path, classes: Path) -> None:
    with pytest.raises(ValueError, match="Masks are needed"):
        stream_source(arguments(classes), "train")
    with pytest.raises(ValueError, match="`data.label_column`"):
        stream_classification(image_arguments(scenes), "train")


def test_hidden_labels_and_broken_images_are_named(tmp_path: Path) -> None:
    rows = three_classes(3, 0)
    hidden = datasets.Dataset.from_dict({"image": rows["image"], "label": [-1] * 3}, features=rows.features)
    with pytest.raises(ValueError, match="A label of the stream is -1"):
        next(iter(image_loader(image_arguments(write(hidden, tmp_path / "hidden")))))
    cells = [{"bytes": b"no image", "path": "a.png"}] * 3
    broken = datasets.Dataset.from_dict({"image": cells, "label": [0] * 3}, features=rows.features)
    with pytest.raises(ValueError, match=r"Image 0 of epoch 0 of the stream \(a.png\) cannot be read"):
        next(iter(image_loader(image_arguments(write(broken, tmp_path / "broken")))))


def test_a_broken_image_with_masks_is_named(tmp_path: Path) -> None:
    rows = shapes(1, image_size=64, seed=3)
    file = io.BytesIO()
    rows[0]["image"].save(file, "jpeg")
    cell = {"bytes": file.getvalue()[:-300], "path": "a.png"}  # the header is whole
    columns = {"image": [cell], "image_id": rows["image_id"], "objects": rows[:]["objects"]}
    args = arguments(write(datasets.Dataset.from_dict(columns, features=rows.features), tmp_path))
    for training, part in ((True, "training"), (False, "evaluation")):
        stored = load_source(arguments(tmp_path, streaming=False), "train")
        dataset = PromptDataset(stored, SAM_PROCESSOR, args, training=training)
        with pytest.raises(ValueError, match=rf"The image of row 0 \(a.png\) of the {part} data cannot be read"):
            dataset[0]
    with pytest.raises(ValueError, match=r"Image 0 of epoch 0 of the stream \(a.png\) cannot be read"):
        next(iter(prompt_loader(args)))


def test_a_search_on_a_stream_needs_its_pruning_period(classes: Path, tmp_path: Path) -> None:
    loader = image_loader(image_arguments(classes))
    model = tiny_vit(labels=loader.dataset.label_names)
    with pytest.raises(ValueError, match="`search.prune_steps` must be given"):
        train_bimask(model, SearchSpace(), loader, search_arguments(prune_steps=None), tmp_path)
