"""A SAM made smaller without labels: pictures alone, the original's embeddings and its masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from test_cli import ROOT, recipe_of
from transformers import SamModel

from supersam_hf import SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PictureDataset, build_loader, load_source, open_source
from supersam_hf.data.canonical import decode_mask
from supersam_hf.data.images import read_rgb
from supersam_hf.data.pictures import grid_points
from supersam_hf.evaluation import SubnetEvaluator
from supersam_hf.evaluation.agreement import original_masks
from supersam_hf.pipeline.supersam import check
from supersam_hf.training.engine import Engine
from supersam_hf.training.imitation import StoredEmbeddings, Teacher, encoder_engine
from supersam_hf.training.losses import LossArguments
from supersam_hf.training.sandwich import SandwichArguments, sandwich_step, subnets_of_step, train_sandwich
from supersam_hf_cli import main


SIDE = 64


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures, every other one half as high as wide."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for number in range(8):
        pixels = rng.integers(0, 256, (40 if number % 2 else 80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def arguments(source: Path, **values: Any) -> DataArguments:
    given = {"format": "images", "prompt": "point", "prompts_per_side": 3, "min_predicted_iou": 0.0, "batch_size": 2}
    return DataArguments(str(source), **{"eval_split": "train", **given, **values})


def samples(args: DataArguments, folder: Path, *, training: bool) -> PictureDataset:
    processor = SuperSamProcessor.from_pretrained(folder).image_processor
    return PictureDataset(load_source(args, "train"), processor, args, training=training)


def with_targets(data: PictureDataset, model: SuperSamModel) -> PictureDataset:
    data.targets = {i: original_masks(model, data.unlabelled_sample(i) or {}, 0.0) for i in range(len(data))}
    return data


# reading -------------------------------------------------------------------------------------------------------------


def test_auto_does_not_guess_pictures_and_names_the_format(pictures: Path) -> None:
    with pytest.raises(ValueError, match=r"`data.format: images`"):
        load_source(DataArguments(str(pictures), eval_split="train"), "train")


def test_a_table_without_masks_names_the_format(pictures: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "table.parquet")
    rows = {"image": [{"bytes": (pictures / "0.png").read_bytes(), "path": None}], "other": [1]}
    Dataset.from_dict(rows).to_parquet(file)
    with pytest.raises(ValueError, match=r"`data.format: images`"):
        load_source(DataArguments(file), "train")
    for read in (load_source, open_source):
        assert len(read(arguments(Path(file)), "train")) == 1


def test_masks_are_not_taken_for_pictures(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "labelled"
    (root / "masks").mkdir(parents=True)
    pictures.rename(root / "images")
    Image.new("L", (80, 80), 1).save(root / "masks" / "0.png")
    with pytest.raises(ValueError, match="holds masks as well"):
        load_source(arguments(root), "train")
    assert len(load_source(arguments(root / "images"), "train")) == 8


def test_pictures_come_by_path_from_all_folders_and_by_split(pictures: Path) -> None:
    (pictures / "deep").mkdir()
    (pictures / "7.png").rename(pictures / "deep" / "a.png")
    (pictures / ".hidden.png").write_bytes(b"none")
    (pictures / "notes.txt").write_text("none")
    names = load_source(arguments(pictures), "train")["image_id"][:]
    assert names == ["0", "1", "2", "3", "4", "5", "6", "deep/a"]
    source = open_source(arguments(pictures, train_split="train[6:]"), "train")
    assert [source.read(0, row)["image_id"] for row in range(len(source))] == ["6", "deep/a"]
    both = pictures.parent / "both"
    (both / "val").mkdir(parents=True)
    pictures.rename(both / "train")
    (both / "train" / "6.png").rename(both / "val" / "6.png")
    assert len(load_source(arguments(both), "train")) == 7
    assert load_source(arguments(both, eval_split="validation"), "eval")["image_id"][:] == ["6"]


def test_pictures_go_through_the_one_reader(tmp_path: Path, stock_folder: Path) -> None:
    """Turned by EXIF, and of 16 bits: what `read_rgb` gives is what the model sees."""
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.fromarray(rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)).save(folder / "a.png", exif=exif)
    Image.fromarray(rng.integers(0, 65536, (80, 80), dtype=np.uint16)).save(folder / "b.png")
    data = samples(arguments(folder), stock_folder, training=False)
    processor = SuperSamProcessor.from_pretrained(stock_folder).image_processor
    for index, name in enumerate(("a.png", "b.png")):
        expected = processor(read_rgb(folder / name), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(data[index]["pixel_values"], expected)
    assert data[0]["valid_size"].tolist() == [64, 32]


@pytest.mark.parametrize("values", [{"prompt": "box"}, {"merge_objects": True}, {"source": "shapes"}])
def test_what_needs_objects_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"images"):
        DataArguments(**{"source": "pictures", "format": "images", "prompt": "point", **values})


# the original's masks ------------------------------------------------------------------------------------------------


def test_masks_are_those_of_stock_transformers(pictures: Path, stock: SamModel, stock_folder: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder).eval()
    item = samples(arguments(pictures), stock_folder, training=False)[1]
    found = original_masks(model, item, 0.0)
    height, width = item["valid_size"].tolist()
    assert (height, width) == (32, 64)
    points = torch.from_numpy(grid_points(3, (height, width)).astype(np.float32))
    assert torch.equal(points, item["input_points"][:, 0])
    assert points[0].tolist() == pytest.approx([64 / 6, 32 / 6])
    with torch.no_grad():
        inputs = {"pixel_values": item["pixel_values"][None], "input_points": points[None, :, None]}
        logits = stock(**inputs, multimask_output=False).pred_masks[0, :, 0]
    expected = torch.nn.functional.interpolate(logits[:, None], (SIDE, SIDE), mode="bilinear")[:, 0] > 0
    expected[:, height:] = False
    shown = [i for i in range(9) if expected[i].any()]
    assert found.points == shown
    assert found.empty == 9 - len(shown)
    differing = sum((decode_mask(m) != expected[i].numpy()).sum() for i, m in zip(shown, found.masks))
    assert differing <= 2  # a pixel whose logit is 0 to rounding


def test_unsure_masks_are_left_out_and_counted(pictures: Path, stock_folder: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder).eval()
    item = samples(arguments(pictures), stock_folder, training=False)[0]
    every, none = original_masks(model, item, 0.0), original_masks(model, item, 1.0)
    assert none.unsure == len(every.points) > 0
    assert none.points == []


def test_the_original_agrees_with_itself_and_others_less(pictures: Path, supernet: SuperSamModel) -> None:
    data = with_targets(samples(arguments(pictures), Path(supernet.config._name_or_path), training=False), supernet)
    space = supernet.elastic_space
    evaluator = SubnetEvaluator(supernet, build_loader(data, 2), space=space)
    largest, smallest = evaluator.mious([space.largest(), space.smallest()])
    assert largest == pytest.approx(1, abs=1e-4)
    assert smallest < 0.99


# training ------------------------------------------------------------------------------------------------------------


def engine_of(
    model: SuperSamModel, teacher: Teacher, loader: Any, folder: Path, **values: Any
) -> tuple[Engine, SandwichArguments]:
    args = SandwichArguments(**{"max_steps": 4, "learning_rate": 1e-3, "save_steps": 2, **values})
    return encoder_engine(model, teacher, loader, args, folder, {}), args


@pytest.fixture
def loader(pictures: Path, stock_folder: Path) -> Any:
    return build_loader(samples(arguments(pictures), stock_folder, training=True), 2)


@pytest.fixture
def teacher(stock_folder: Path) -> Teacher:
    return Teacher(SuperSamModel.from_pretrained(stock_folder).eval(), 0.0)


def test_the_largest_has_nothing_to_learn_at_first(
    supernet: SuperSamModel, teacher: Teacher, loader: Any, tmp_path: Path
) -> None:
    engine, args = engine_of(supernet, teacher, loader, tmp_path)
    batches = [teacher.added_to(batch, engine, args.loss) for batch in next(engine.batches())]
    logs = sandwich_step(engine, batches, subnets_of_step(supernet.elastic_space, args, 0), args)
    assert logs["loss_largest"] == pytest.approx(0, abs=1e-10)
    assert logs["loss_smallest"] > 1e-3


@pytest.mark.parametrize("mask_weight", [0.0, 0.5])
def test_gradients_are_those_of_each_subnet_by_itself(
    supernet: SuperSamModel, teacher: Teacher, loader: Any, tmp_path: Path, mask_weight: float
) -> None:
    """The mean over subnets of the mean squared error, by stock autograd and without anything shared."""
    loss = LossArguments(original_mask_weight=mask_weight)
    engine, args = engine_of(supernet, teacher, loader, tmp_path, loss=loss)
    subnets = subnets_of_step(supernet.elastic_space, args, 0)
    plain = next(engine.batches())[0]
    batch = teacher.added_to(plain, engine, loss)
    stepped: dict[str, torch.Tensor] = {}
    engine.optimizer_step = lambda: stepped.update(  # type: ignore[method-assign]
        {n: p.grad.clone() for n, p in supernet.named_parameters() if p.grad is not None}
    )
    sandwich_step(engine, [batch], subnets, args)
    supernet.zero_grad()
    total = torch.zeros(())
    for subnet in subnets.values():
        embeddings = supernet.vision_encoder(plain["pixel_values"], subnet=subnet).last_hidden_state
        truth = teacher.model.get_image_embeddings(plain["pixel_values"])
        total = total + (embeddings - truth).square().mean()
        if mask_weight:
            prompts = {name: plain[name] for name in ("input_points", "input_labels")}
            with torch.no_grad():
                masks = (
                    teacher.model(image_embeddings=truth, **prompts, multimask_output=False).pred_masks[:, :, 0] > 0
                )
            for image, height in enumerate(plain["valid_size"][:, 0].tolist()):
                masks[image, :, -(-height // 4) :] = False
            drawn = supernet(image_embeddings=embeddings, **prompts, multimask_output=False).pred_masks[:, :, 0]
            shown = masks.flatten(2).any(-1)
            p, t = drawn.sigmoid()[shown], masks[shown].float()
            dice = 1 - (2 * (p * t).sum((1, 2)) + 1e-6) / (p.sum((1, 2)) + t.sum((1, 2)) + 1e-6)
            total = total + mask_weight * dice.mean()
    (total / len(subnets)).backward()
    expected = {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}
    assert set(stepped) == set(expected)
    assert all(name.startswith("vision_encoder.") for name in stepped)
    for name, gradient in expected.items():
        torch.testing.assert_close(stepped[name], gradient, rtol=1e-4, atol=1e-6)


class Killed(Exception):
    """Ends a training where a kill would."""


def trained(folder: Path, stock_folder: Path, loader: Any, *, stored: bool, killed: bool = False, mode: Any) -> Any:
    """The weights after four steps; killed, the run has the checkpoint of the second one."""
    model, original = (SuperSamModel.from_pretrained(stock_folder) for _ in range(2))
    teacher = Teacher(original, 0.0, StoredEmbeddings(folder / "embeddings", 10**9) if stored else None)
    args = SandwichArguments(max_steps=4, learning_rate=1e-3, save_steps=2, eval_steps=3, mode=mode)

    def at_step_3(engine: Engine) -> dict[str, float]:
        if killed:
            raise Killed
        return {}

    options: dict[str, Any] = {"evaluate": at_step_3, "teacher": teacher}
    return train_sandwich(model, model.elastic_space, loader, args, folder, **options).state_dict()


@pytest.mark.parametrize("mode", ["accumulate", "sequential"])
@pytest.mark.parametrize("stored", [False, True])
def test_a_resumed_run_is_an_uninterrupted_one(
    tmp_path: Path, stock_folder: Path, loader: Any, stored: bool, mode: str
) -> None:
    options: dict[str, Any] = {"stored": stored, "mode": mode}
    whole = trained(tmp_path / "whole", stock_folder, loader, **options)
    with pytest.raises(Killed):
        trained(tmp_path / "cut", stock_folder, loader, killed=True, **options)
    if stored:  # one of them is damaged, another is gone
        files = sorted((tmp_path / "cut" / "embeddings").iterdir())
        assert len(files) == 6
        files[0].write_bytes(b"broken")
        files[1].unlink()
    resumed = trained(tmp_path / "cut", stock_folder, loader, **options)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    untouched = [name for name in whole if not name.startswith("vision_encoder.")]
    before = SuperSamModel.from_pretrained(stock_folder).state_dict()
    assert all(torch.equal(before[name], whole[name]) for name in untouched)
    assert any(not torch.equal(before[name], whole[name]) for name in whole)


def test_stored_embeddings_keep_within_their_limit(tmp_path: Path) -> None:
    values = torch.randn(32, 4, 4)
    store = StoredEmbeddings(tmp_path, 3 * values.nbytes)
    for index in range(5):
        store.put(index, values + index)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3 * values.nbytes
    again = StoredEmbeddings(tmp_path, 3 * values.nbytes)
    assert torch.equal(again.get(1), values + 1)  # type: ignore[arg-type]
    assert again.get(4) is None
    again.put(4, values)
    assert again.get(4) is None


# the whole run -------------------------------------------------------------------------------------------------------


OPTIONS = {
    "data.train_split": "train[:6]",
    "data.eval_split": "train[6:]",
    "data.prompts_per_side": 2,
    "data.min_predicted_iou": 0.0,
    "holdout_images": 2,
    "rank_layers.num_images": 2,
    "rank_layers.max_removed": 1,
    "train.max_steps": 2,
    "train.warmup_steps": 1,
    "search.trials": 2,
    "search.max_params": 0.9,
    "evaluate.num_sampled": 2,
    "measure.enabled": "false",
}


def words(verb: str, pictures: Path, model: Path, folder: Path, **changed: Any) -> list[str]:
    values = {"data.source": pictures, "model.name": model, "output_dir": folder, **OPTIONS}
    values |= {key.replace("__", "."): value for key, value in changed.items()}
    given = (str(word) for key, value in values.items() for word in (f"--{key}", value))
    return [verb, "--config", str(ROOT / "recipes/supersam/unlabelled.yaml"), *given]


def test_a_folder_of_pictures_becomes_a_smaller_sam(
    pictures: Path, stock_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    assert main(words("run", pictures, stock_folder, run)) == 0
    rows = {row["name"]: row for row in json.loads((run / "results.json").read_text())["rows"]}
    assert rows["original"]["miou"] == pytest.approx(1, abs=1e-4)
    assert rows["found"]["params"] <= 0.9 * rows["original"]["params"]
    table = (run / "results.md").read_text()
    assert "agreement" in table.splitlines()[0]
    assert "mIoU" not in table.splitlines()[0]
    assert "There are no labels" in table
    model = SuperSamModel.from_pretrained(run / "subnet")
    assert sum(p.numel() for p in model.parameters()) == rows["found"]["params"]
    assert len(list((run / "original").glob("embeddings-*/*.safetensors"))) == 4
    capsys.readouterr()
    assert main(["push", str(run), "me/small", "--dry_run"]) == 0
    card = capsys.readouterr().out
    assert "agreement with the original" in card
    assert "mean_iou" not in card  # no metric of the Hub
    assert "agreement with the original" in (run / "report.html").read_text()
    assert main(words("finetune", pictures, stock_folder, run, finetune__max_steps=2)) == 0
    assert (run / "finetuned" / "config.json").exists()


@pytest.mark.parametrize(
    ("verb", "field", "changed"),
    [
        ("train", "train.loss.distillation_weight", {"train__loss__distillation_weight": 0.5}),
        ("train", "train.loss.bce_weight", {"train__loss__bce_weight": 1}),
        ("train", "data.original", {"data__original": "nowhere/at/all"}),
        ("bimask", "data.format", {}),
        ("adapt", "data.format", {}),
        ("train", "data.source", {"data__source": __file__}),
    ],
)
def test_what_cannot_work_is_told_before(
    verb: str, field: str, changed: dict[str, Any], pictures: Path, stock_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(*words(verb, pictures, stock_folder, tmp_path / "run", **changed))
    with pytest.raises(ValueError, match=f"`{field}`"):
        check(verb, recipe)
    assert not (tmp_path / "run").exists()
