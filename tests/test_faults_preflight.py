"""What is known before the first stage is told before it, all at once; what was computed is not lost at the end."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import SamConfig

from supersam_hf import SuperSamModel, SuperSamProcessor
from supersam_hf.data import match_labels
from supersam_hf.deploy.table import markdown
from supersam_hf.experiments.runs import read_recipe
from supersam_hf.ofb_recipe import OfbModelArguments, OfbRecipe
from supersam_hf.pipeline import ofb_report, ofb_stages, report
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.dry_run import make_plan, plan_lines
from supersam_hf.pipeline.plan_lines import planned
from supersam_hf.pipeline.report import results_table
from supersam_hf.recipe import Recipe
from supersam_hf.search import SearchArguments
from supersam_hf.training.bimask import BiMaskArguments
from supersam_hf_cli import main


SIDE = 64
CLASSES = ["goldfish", "sea slug", "dam", "moving van"]


def picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(file)


def masked_images(folder: Path, count: int = 8) -> Path:
    """`images/` and `masks/`, two objects each."""
    ids = np.zeros((SIDE, SIDE), dtype=np.uint8)
    ids[8:30, 8:30], ids[34:60, 30:60] = 1, 2
    for i in range(count):
        picture(folder / "images" / f"{i}.png", i)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(ids).save(folder / "masks" / f"{i}.png")
    return folder


def class_folder(folder: Path, classes: list[str], split: str = "train", count: int = 4) -> Path:
    for number, name in enumerate(classes):
        for i in range(count):
            picture(folder / split / name / f"{i}.png", 10 * number + i)
    return folder


@pytest.fixture(scope="module")
def sam(stock_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAM with its processor."""
    folder = tmp_path_factory.mktemp("sam") / "sam"
    SuperSamModel.from_pretrained(stock_folder).save_pretrained(folder)
    SuperSamProcessor.for_config(SamConfig.from_pretrained(stock_folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(vit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a classifier of `CLASSES`, without weights."""
    folder = tmp_path_factory.mktemp("vit") / "vit"
    folder.mkdir()
    config = json.loads((vit_folder / "config.json").read_text())
    labels = {"id2label": {str(i): name for i, name in enumerate(CLASSES)}, "label2id": {}}
    (folder / "config.json").write_text(json.dumps({**config, **labels}))
    return folder


class Told:
    """Runs the command line, and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture, folder: Path) -> None:
        self.capsys, self.folder = capsys, folder

    def __call__(self, *words: object, code: int = 2) -> str:
        argv = [str(word) for word in (*words, "--output_dir", self.folder)]
        assert main(argv) == code
        said = self.capsys.readouterr()
        return said.out + said.err


@pytest.fixture
def told(capsys: pytest.CaptureFixture, tmp_path: Path) -> Told:
    return Told(capsys, tmp_path / "run")


# all problems at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry", [False, True])
def test_everything_wrong_with_a_biologists_folder_is_told_at_once(
    sam: Path, tmp_path: Path, told: Told, dry: bool
) -> None:
    words = [
        "run",
        "--model.name",
        sam,
        "--data.source",
        masked_images(tmp_path / "data"),
        "--data.format",
        "instances",
    ]
    words += ["--space.mlp_windows", "[48, 9999]", "--space.prunable_layers", "[77]"]
    said = told(*words, *(["--dry_run"] if dry else []))
    for field in ("data.format", "data.eval_split", "holdout_images", "space.mlp_windows", "space.prunable_layers"):
        assert re.search(rf"`{field}`: ", said), (field, said)
    assert "'folder': give that, or auto" in said
    assert "--data.train_split 'train[:80%]' --data.eval_split 'train[80%:]'" in said
    assert "`data.train_split` has 8" in said
    assert said.count("this run will fail because") == (5 if dry else 0)
    assert not told.folder.exists()


@pytest.mark.parametrize("dry", [False, True])
def test_everything_wrong_with_a_class_folder_is_told_at_once(
    vit: Path, tmp_path: Path, told: Told, dry: bool
) -> None:
    data = class_folder(tmp_path / "data", ["Sea_Slug", "goldfishes", "Moving_van", "mascot"])
    words = ["ofb", "run", "--model.name", vit, "--data.source", data, "--search.max_macs", "1%"]
    said = told(*words, *(["--dry_run"] if dry else []))
    assert "there is no split 'validation'; there is ['train']" in said
    assert "of 4 classes of the data 2 cannot be matched" in said
    assert "'goldfishes' is none (near it: 'goldfish'); 'mascot' is none (near it: nothing)" in said
    assert "cannot be met: the smallest network of this `space` has" in said
    if dry:
        assert "to train on    16 images" in said
        assert "4 classes: Moving_van, Sea_Slug, goldfishes, mascot" in said
    assert not told.folder.exists()


def test_a_dry_run_that_can_run_counts_images_and_shows_the_budget(sam: Path, tmp_path: Path) -> None:
    values = {"data.source": str(masked_images(tmp_path / "data")), "data.train_split": "train[:6]"}
    values |= {"data.eval_split": "train[6:]", "search.max_params": "95%", "model.name": str(sam)}
    values |= {"space.prunable_layers": "[1, 2]", "space.mlp_windows": "[48]", "output_dir": str(tmp_path / "run")}
    plan = make_plan("run", planned(Run, read_recipe(None, {**values, "holdout_images": 2})))
    said = "\n".join(plan_lines("run", plan))
    assert plan.problems == []
    assert "to train on    4 images, and 2 held out" in said
    assert "to evaluate on 2 images" in said
    assert re.search(r"budget +at most [\d,]+ parameters \(95\.0% of the largest\)", said)


def test_a_stage_that_was_made_with_other_values_is_told_before_those_in_front_of_it_run(
    sam: Path, tmp_path: Path, told: Told
) -> None:
    (told.folder / "stages").mkdir(parents=True)
    (told.folder / "supernet").mkdir()
    (told.folder / "supernet/config.json").write_bytes((sam / "config.json").read_bytes())
    values = {"data": {"batch_size": 3}, "train": {}, "holdout_images": 2}
    (told.folder / "stages/train.json").write_text(json.dumps({"values": values}))
    data = ["--data.source", masked_images(tmp_path / "data"), "--data.eval_split", "train", "--holdout_images", "2"]
    said = told("run", "--model.name", sam, *data, "--dry_run")
    assert re.search(r"this run will fail because of `output_dir`: .*supernet/config.json was made with other", said)


# kinds of models -----------------------------------------------------------------------------------------------------


def test_a_classifier_given_to_run_names_ofb_and_a_sam_given_to_ofb_names_run(
    sam: Path, vit: Path, told: Told
) -> None:
    said = told("run", "--model.name", vit, "--data.source", "nowhere/at/all")
    assert "`supersam-hf ofb run`" in said
    assert "nowhere" not in said  # data of another method are not looked at
    said = told("ofb", "run", "--model.name", sam, "--data.source", "nowhere/at/all", "--search.max_macs", "0.5")
    assert "`supersam-hf run`" in said
    said = told("segment", "--model.name", sam, "--data.source", "nowhere/at/all")
    assert "SAMs go to `supersam-hf run`" in said
    assert not told.folder.exists()


@pytest.mark.parametrize(
    "model_type, name", [("sam2", "SAM 2"), ("sam3_tracker", "SAM 3"), ("sam_hq", "SAM-HQ"), ("edgetam", "EdgeTAM")]
)
def test_relatives_of_sam_are_refused_by_name(model_type: str, name: str, tmp_path: Path, told: Told) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": model_type}))
    for verb in (["run"], ["ofb", "run", "--search.max_macs", "0.5"]):
        assert f"it is a {name}" in told(*verb, "--model.name", tmp_path / "model")


# budgets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [SearchArguments, BiMaskArguments])
def test_budgets_are_read_as_people_write_them(arguments: Any) -> None:
    written = {"60%": 0.6, "60 %": 0.6, "0.6": 0.6, "60M": 60e6, "1.2G": 1.2e9, "60e6": 60e6, 0.6: 0.6, 60e6: 60e6}
    for text, number in written.items():
        assert arguments(max_params=text).max_params == pytest.approx(number)
    for wrong in (0, 1.5, -1, 60, True, float("nan"), float("inf"), "60 %%", "150%", "0,6", "sixty", ""):
        with pytest.raises(ValueError, match="`max_params` must be .*0.6 or 60%.*60e6, 60M"):
            arguments(max_params=wrong)
    with pytest.raises(ValueError, match=r"for 60 % of .* write 60%"):
        arguments(max_params=60)


def test_a_percentage_comes_from_the_command_line(sam: Path, told: Told) -> None:
    for wrong, got in (("60 %%", "'60 %%'"), ("1.5", "1.5")):
        said = told("run", "--model.name", sam, "--search.max_params", wrong)
        assert "`search.max_params` must be a share above 0 and up to 1 (0.6 or 60%)" in said
        assert f"got {got}." in said


def test_a_goal_that_lacks_its_quality_is_told_before_any_stage() -> None:
    with pytest.raises(ValueError, match="needs `min_quality`"):
        SearchArguments(goal="params")


def test_a_budget_that_no_ranking_can_meet_is_told_before_it(sam: Path, tmp_path: Path, told: Told) -> None:
    data = ["--data.source", masked_images(tmp_path / "data"), "--data.eval_split", "train", "--holdout_images", "2"]
    words = ["run", "--model.name", sam, *data, "--dry_run"]
    said = told(*words, "--search.max_params", "10%")
    assert "even with the 2 prunable layers that rank-layers may propose at most, no subnet keeps" in said


def test_a_budget_that_the_ranking_decides_is_settled_right_after_it(sam: Path, tmp_path: Path, told: Told) -> None:
    data = ["--data.source", masked_images(tmp_path / "data"), "--data.eval_split", "train", "--holdout_images", "2"]
    words = ["run", "--model.name", sam, *data, "--space.mlp_windows", "[192]", "--search.max_params", "90%"]
    words += ["--rank_layers.max_drop", "0", "--rank_layers.max_prunable", "0", "--evaluate.before", "false"]
    said = told(*words)
    assert "even with the 0 prunable layers" in said  # known: nothing can be proposed
    assert not told.folder.exists()
    (told.folder).mkdir()
    (told.folder / "ranking.json").write_text(json.dumps({"prunable_layers": []}))
    said = told("reorder", *words[1:])
    assert "`search.max_params`: " in said
    assert "with the prunable layers []" in said
    assert not (told.folder / "reordered").exists()


# other values --------------------------------------------------------------------------------------------------------


def test_what_is_not_installed_is_told_before_any_stage(
    sam: Path, vit: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["--data.source", masked_images(tmp_path / "data"), "--data.eval_split", "train", "--holdout_images", "2"]
    said = told("run", "--model.name", sam, *data, "--train.report_to", "[wandb]", "--train.mixed_precision", "fp16")
    assert "`train.report_to`: names ['wandb'], which is not installed" in said
    assert "`train.mixed_precision`: fp16 needs a GPU" in said
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("supersam_hf.pipeline.preflight.find_spec", lambda name: None)
    assert "`adapt`: an adapter needs peft" in told("adapt", "--model.name", sam, *data)
    classes = class_folder(tmp_path / "classes", CLASSES)
    words = ["--data.source", classes, "--data.eval_split", "train", "--data.rand_augment", "true"]
    assert "needs kornia" in told("ofb", "run", "--model.name", vit, *words, "--search.max_macs", "0.5")
    assert not told.folder.exists()


def test_a_full_disk_is_told_before_any_stage(
    vit: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    data = ["--data.source", class_folder(tmp_path / "data", CLASSES), "--data.eval_split", "train"]
    said = told("ofb", "run", "--model.name", vit, *data, "--search.max_macs", "0.5")
    assert re.search(r"`output_dir`: checkpoints and models take .* free", said)


def test_masks_without_an_object_of_the_wanted_size_are_told(sam: Path, tmp_path: Path, told: Told) -> None:
    data = ["--data.source", masked_images(tmp_path / "data"), "--data.eval_split", "train", "--holdout_images", "2"]
    said = told("run", "--model.name", sam, *data, "--data.min_area", "2000")
    assert "`data.min_area`: 2000 px leaves no object in any of the 8 images" in said


def test_files_that_a_late_stage_reads_are_looked_for_first(sam: Path, vit: Path, tmp_path: Path, told: Told) -> None:
    data = ["--data.source", masked_images(tmp_path / "data"), "--data.eval_split", "train", "--holdout_images", "2"]
    said = told("run", "--model.name", sam, *data, "--evaluate.subnets", "[none.json]", "--evaluate.original", "/no")
    assert "`evaluate.subnets`: there is no file 'none.json'" in said
    assert "`evaluate.original`: " in said
    classes = ["--data.source", class_folder(tmp_path / "classes", CLASSES), "--data.eval_split", "train"]
    teacher = ["--finetune.teacher", "/no/teacher", "--finetune.loss.distillation", "soft"]
    said = told("ofb", "run", "--model.name", vit, *classes, *teacher, "--search.max_macs", "0.5")
    assert "`finetune.teacher`: " in said


def test_classes_of_the_evaluation_split_are_those_of_training(vit: Path, tmp_path: Path, told: Told) -> None:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    for split, names in (("train", CLASSES), ("validation", CLASSES[::-1])):
        features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
        rows = {"image": [Image.new("RGB", (8, 8))] * 4, "label": [0, 1, 2, 3]}
        (tmp_path / "data").mkdir(exist_ok=True)
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    said = told("ofb", "run", "--model.name", vit, "--data.source", tmp_path / "data", "--search.max_macs", "0.5")
    assert "`data.eval_split`: its classes are not those of `data.train_split`" in said


def test_a_segmenter_without_its_evaluation_split_is_refused_before_training(
    vit: Path, tmp_path: Path, told: Told
) -> None:
    data = masked_images(tmp_path / "data")
    for dry in ([], ["--dry_run"]):
        said = told("segment", "--model.name", vit, "--data.source", data, "--train.report_to", "[wandb]", *dry)
        assert "`data.eval_split`: there is no split 'validation'" in said
        assert "`train.report_to`" in said
    assert not told.folder.exists()


# labels --------------------------------------------------------------------------------------------------------------


def test_labels_agree_whatever_stands_between_their_words() -> None:
    checkpoint = ["goldfish, Carassius auratus", "sea slug, nudibranch", "Moving Van"]
    assert match_labels(["moving_van", "Sea_Slug", "GOLDFISH"], checkpoint) == [2, 1, 0]


def test_all_labels_that_do_not_fit_are_told_at_once() -> None:
    with pytest.raises(ValueError) as refused:
        match_labels(["goldfishes", "sea slug", "sea_slug", "crane", "x"], ["goldfish", "sea slug", "crane", "crane"])
    said = str(refused.value)
    assert "'goldfishes' is none (near it: 'goldfish')" in said
    assert "'crane' could be 2 ('crane'), 3 ('crane')" in said
    assert "'x' is none" in said
    assert "of 5 classes of the data 5 cannot be matched" in said
    assert "'sea slug' and 'sea_slug' are both label 1" in said


# what is computed is not lost ----------------------------------------------------------------------------------------


def test_evaluate_reads_the_evaluation_split_alone(sam: Path, tmp_path: Path, told: Told) -> None:
    data = ["--data.source", masked_images(tmp_path / "data", 2), "--data.eval_split", "train"]
    words = ["evaluate", "--model.name", sam, *data, "--data.train_split", "nothing", "--evaluate.num_sampled", "1"]
    said = told(*words, "--data.eval_batch_size", "2", code=0)
    results = json.loads((told.folder / "results.json").read_text())
    assert results["data"] == {"eval_images": 2}
    assert [row["name"] for row in results["rows"]] == ["original", "largest", "smallest", "sampled 1"]
    assert "before training" not in said  # empty columns go
    assert "latency" not in said


def test_numbers_are_written_before_figures_are_drawn(
    sam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(report, "plot_pareto", broken)
    data = ["--data.source", str(masked_images(tmp_path / "data", 2)), "--data.eval_split", "train"]
    words = ["evaluate", "--model.name", str(sam), *data, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(RuntimeError, match="no font"):
        main([*words, "--evaluate.num_sampled", "1", "--data.prompt", "point"])
    assert json.loads((tmp_path / "run/results.json").read_text())["rows"]
    assert "| largest |" in (tmp_path / "run/results.md").read_text()


def test_accuracies_are_written_before_anything_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ofb_report, "compare_latency", broken)
    recipe = OfbRecipe(output_dir=str(tmp_path), model=OfbModelArguments(name="x"))
    run: Any = SimpleNamespace(folder=tmp_path, recipe=recipe, meter=SimpleNamespace(flush=lambda: None))
    run.state = SimpleNamespace(device="cpu")
    table = [{"name": name, "params": 10, "macs": 10, "top1": 0.5, "top5": None} for name in ("original", "searched")]
    monkeypatch.setattr(ofb_report, "_forward", lambda model, batch_size: None)
    with pytest.raises(RuntimeError, match="out of memory"):
        ofb_report._report(run, table, {"original": None, "searched": None})
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == table


def test_ofb_measures_without_data(vit_folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    # what is measured; timing it, and its memory in a process of its own, takes many seconds
    monkeypatch.setattr(ofb_stages, "write_measurement", lambda run, args, model: measured.append(model))
    told("ofb", "measure", "--model.name", vit_folder, "--data.source", "nowhere/at/all", code=0)
    assert len(measured) == 1
    assert measured[0].config.num_labels == len(json.loads((vit_folder / "config.json").read_text())["id2label"])


def test_ofb_evaluates_without_training_images(vit_folder: Path, tmp_path: Path, told: Told) -> None:
    config = json.loads((vit_folder / "config.json").read_text())
    names = list(config["id2label"].values())
    data = class_folder(tmp_path / "data", names, "val", 1)
    words = ["ofb", "evaluate", "--model.name", vit_folder, "--data.source", data, "--data.train_split", "nothing"]
    told(*words, "--data.eval_batch_size", "4", code=0)
    results = json.loads((told.folder / "results.json").read_text())
    assert results["data"] == {"eval_images": len(names)}


# words ---------------------------------------------------------------------------------------------------------------


def timed(ratio: float) -> dict[str, Any]:
    timing = {"median_ms": 10.0 * ratio, "p10_ms": 9.0 * ratio, "p90_ms": 11.0 * ratio}
    return {"latency": timing, "ratio": ratio, "batch_size": 1}


def test_speeds_are_worded_in_one_way_and_empty_columns_go() -> None:
    base = {"macs": 10**9, "miou": 0.5, "miou_oracle": None, "miou_predicted": None}
    rows = [{**base, "name": "original", "kind": "original", "params": 1000, "latency": timed(1.0)}]
    rows += [{**base, "name": "found", "kind": "found", "params": 500, "latency": timed(0.775)}]
    text = results_table(rows, [])
    head, _, original, found = text.splitlines()[:4]
    assert head == "| model | parameters | GMACs (encoder) | mIoU | latency | speed |"
    assert original.endswith("| 10.0 ms (9.0 to 11.0) |  |")
    assert found.endswith("| 7.8 ms (7.0 to 8.5) | 1.29× as fast |")
    assert "*latency*: median, in brackets the 10th to 90th percentile; *speed*: against the original." in text


def test_deployed_forms_are_worded_alike() -> None:
    shared = {"bytes": 2_000_000, "difference": None}
    rows = [{**shared, "name": "PyTorch", "ms": 10.0, "ratio": 1.0, "ratio_p10": 1.0, "ratio_p90": 1.0}]
    rows += [{**shared, "name": "ONNX", "ms": 5.0, "ratio": 0.5, "ratio_p10": 0.4, "ratio_p90": 0.8}]
    lines = markdown(rows).splitlines()
    assert lines[0] == "| form | size | latency | speed (10 % to 90 % of the rounds) |"
    assert lines[3] == "| ONNX | 2.0 MB | 5.0 ms | 2.00× as fast (1.25 to 2.50) |"
    assert "against PyTorch" in lines[-1]


def test_recipes_keep_their_budgets_as_numbers() -> None:
    recipe = Recipe(
        search=SearchArguments(max_params="60%"), model=Recipe.__dataclass_fields__["model"].type(name="x")
    )
    assert recipe.sections("search")["search"]["max_params"] == 0.6
