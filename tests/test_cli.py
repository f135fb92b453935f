"""The command line: help, recipes, errors, and what importing the package costs."""

import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import supersam_hf_cli
from supersam_hf.cli import COMMANDS, OFB_SECTIONS, SECTIONS, begun_with, recipe_class, recipe_parser
from supersam_hf.ofb_recipe import OfbRecipe
from supersam_hf.recipe import Recipe
from supersam_hf_cli import OFB_VERBS, VERBS, main


ROOT = Path(__file__).parents[1]
RECIPES = sorted(ROOT.glob("recipes/supersam/*.yaml"))
OFB_RECIPES = sorted(ROOT.glob("recipes/ofb_*/*.yaml"))


def recipe_of(verb: str, *argv: str) -> Recipe:
    parser = recipe_parser(verb)
    values = vars(parser.instantiate(parser.parse_args(list(argv))))
    return Recipe(**{k: v for k, v in values.items() if k in Recipe.__dataclass_fields__})


def ofb_recipe_of(verb: str, *argv: str) -> OfbRecipe:
    parser = recipe_parser(verb, "ofb")
    values = vars(parser.instantiate(parser.parse_args(list(argv))))
    return recipe_class("ofb")(**{k: v for k, v in values.items() if k in OfbRecipe.__dataclass_fields__})


# Prints what is heavy among the modules that are there.
HEAVY = "print([m for m in ('torch', 'transformers', 'supersam_hf', 'jsonargparse') if m in sys.modules])"


def test_help_imports_nothing_heavy(run_python: Callable) -> None:
    printed = run_python(f"import sys, supersam_hf_cli; supersam_hf_cli.main(['--help']); {HEAVY}")
    assert printed.endswith("\n[]\n")
    for verb in VERBS:
        assert f"  {verb} " in printed


def test_help_of_ofb_imports_nothing_heavy(run_python: Callable) -> None:
    printed = run_python(f"import sys, supersam_hf_cli; supersam_hf_cli.main(['ofb', '--help']); {HEAVY}")
    assert printed.endswith("\n[]\n")
    assert all(f"  {verb} " in printed for verb in OFB_VERBS)


def test_importing_the_package_leaves_the_heavy_libraries_alone(run_python: Callable) -> None:
    """On top of the stock models it brings in its own few files, and those of transformers that they are built on."""
    script = """
import sys
from transformers import SamModel, ViTForImageClassification
stock = set(sys.modules)
import supersam_hf
added = {name.split(".")[0] for name in set(sys.modules) - stock}
print(sorted(added), len(set(sys.modules) - stock) < 30)
"""
    assert run_python(script) == "['supersam_hf', 'transformers'] True\n"


def test_every_lazy_name_exists() -> None:
    import supersam_hf

    for name in supersam_hf.__all__:
        assert getattr(supersam_hf, name) is not None
    assert set(supersam_hf.__all__) <= set(dir(supersam_hf))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = supersam_hf.nonsense


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_fills_a_run(path: Path) -> None:
    recipe = recipe_of("run", "--config", str(path), *(["--model.name", "some/sam"] if "nuclei" in path.stem else []))
    assert recipe.output_dir == f"runs/{path.stem}"


@pytest.mark.parametrize("path", OFB_RECIPES, ids=lambda p: p.stem)
def test_every_ofb_recipe_fills_a_run(path: Path) -> None:
    recipe = ofb_recipe_of("run", "--config", str(path))
    assert recipe.output_dir == ("runs/quickstart-ofb" if path.stem == "quickstart" else f"runs/{path.stem}")
    assert recipe.data.label_mapping in (None, "same-order")  # no file that a user would not have
    # a search leaves steps to train what it found, and a transfer has none
    assert recipe.model.new_labels or recipe.search.search_steps < recipe.search.max_steps


def test_a_recipe_of_the_paper_names_its_budget() -> None:
    budgets = {p.stem: ofb_recipe_of("run", "--config", str(p)).search.max_macs for p in OFB_RECIPES}
    named = {name: float(name.split("_")[-1].removesuffix("g")) for name in budgets if name.endswith("g")}
    assert len(named) == 5 + 3
    assert {name: budgets[name] / 1e9 for name in named} == pytest.approx(named)


def test_presets_and_steps_reach_the_search() -> None:
    """What the preset and `max_steps` decide is not fixed by a default before they are known."""
    start = ["--model.name", "some/vit", "--search.max_macs", "0.5"]
    released = ofb_recipe_of("search", *start, "--search.preset", "official", "--search.max_steps", "40").search
    paper = ofb_recipe_of("search", *start).search
    spaces = [ofb_recipe_of("search", *start, "--search.preset", name).space.heads for name in ("paper", "official")]
    assert spaces == [[1, None, 2], [2, None, 2]]
    assert (paper.lambda_start, paper.lambda_end, paper.squared_budget, paper.search_steps) == (1.0, 0.0, False, 500)
    assert (released.lambda_start, released.lambda_end, released.squared_budget) == (0.99, 0.10, True)
    assert released.search_steps == 20
    mine = ofb_recipe_of("search", *start, "--search.preset", "official", "--search.lambda_end", "0.2").search
    assert (mine.lambda_start, mine.lambda_end) == (0.99, 0.2)


@pytest.mark.parametrize("verb", sorted(OFB_VERBS))
def test_every_ofb_verb_explains_what_it_reads(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        recipe_parser(verb, "ofb").parse_args(["--help"])
    assert ended.value.code == 0
    options = capsys.readouterr().out.split("options:")[-1]
    everything = {"data", "pretrain", "space", "search", "finetune", "evaluate", "measure"}
    read = set(OFB_SECTIONS.get(verb, everything)) & everything
    assert {section for section in everything if f"--{section}." in options} == read


def test_options_override_the_recipe() -> None:
    path = str(ROOT / "recipes/supersam/quickstart.yaml")
    recipe = recipe_of("train", "--config", path, "--train.learning_rate", "1e-4", "--space.mlp_windows", "[48,96]")
    assert recipe.train.learning_rate == 1e-4
    assert recipe.space.mlp_windows == [48, 96]
    assert recipe.data.source == "shapes"


@pytest.mark.parametrize("verb", sorted(set(VERBS) - set(COMMANDS)))
def test_every_verb_explains_what_it_reads(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        recipe_parser(verb).parse_args(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    sections = SECTIONS.get(verb, ("train", "search"))
    for section in set(sections) - {"config", "output_dir", "holdout_images", "cache_gb", "subnet", "model", "data"}:
        assert f"--{section}." in printed
    if verb == "reorder":
        assert "--train." not in printed.split("options:")[-1].split("usage:")[0] or "--train.max_steps" not in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown verb 'trian'"),
        (["run"], "`model.name` is missing"),
        (["run", "--train.max_steps", "many", "--model.name", "x"], "train.max_steps"),
        (
            ["run", "--train.max_steps", "-1", "--model.name", "x"],
            "`train.max_steps` must be a whole number from 1 to 1,000,000,000, got -1",
        ),
        (["run", "--model.nam", "x"], "model.nam"),
        (["run", "--model.name", "runs/no/such"], "no such folder"),
        (["ofb", "run", "--model.name", "./vit"], "no such folder"),
        (["run", "--config", str(ROOT / "recipes/ofb_vit/quickstart.yaml")], "of classifiers to `supersam-hf ofb`"),
        (["ofb", "run", "--config", "bad.yaml"], "recipe bad.yaml: is no YAML"),
        (["run", "--pretrain.enabled", "true", "--redo", "nothing"], "`redo`: must be one of"),
        (["ofb", "serach"], "supersam-hf ofb: unknown verb 'serach'"),
        (["ofb", "run"], "`model.name` is missing"),
        (
            ["ofb", "search", "--model.name", "x", "--search.eta", "2"],
            "`search.eta` must be a number above 0, at most 1, got 2",
        ),
        (["ofb", "search", "--model.name", "x", "--space.heads", "[0,null,2]"], "`space.heads`"),
        (
            ["ofb", "search", "--model.name", "x", "--holdout_images", "-1"],
            "`holdout_images` must be a whole number from 0",
        ),
        (["ofb", "run", "--pretrain.enabled", "true", "--redo", "train"], "`redo`: must be one of"),
        (
            ["ofb", "measure", "--pretrain.enabled", "true", "--measure.repeats", "0"],
            "`measure.repeats` must be a whole number from 1",
        ),
        (["ofb", "run", "--pretrain.enabled", "true", "--model.new_labels", "true"], "`model.new_labels`"),
        (["ofb", "search", "--model.name", "x", "--model.new_labels", "true"], "untrained head"),
        (["ofb", "extract", "--model.name", "x"], "no finished search"),
        (
            ["ofb", "run", "--pretrain.enabled", "true", "--search.mixed_precision", "bf16"],
            "pretrain.mixed_precision`",
        ),
    ],
)
def test_bad_options_are_named(
    argv: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [1\nb: 2\n")
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code
    told = capsys.readouterr().err
    assert code == 2
    assert message in told
    assert len(told.splitlines()) < 8  # not the hundreds of lines of a usage


def test_a_run_keeps_the_values_that_it_was_begun_with(stock_folder: Path, tmp_path: Path) -> None:
    """As given, so that what follows from other values still does; not what means one sitting."""
    options = ["--model.name", str(stock_folder), "--output_dir", str(tmp_path / "run"), "--data.source", "shapes"]
    options += ["--train.eval_steps", "5", "--train.milestone.miou", "0.7", "--bimask.max_steps", "40"]
    options += ["--train.resume_from_checkpoint", "null"]
    assert main(["extract", *options, "--subnet", "largest"]) == 0
    kept = tmp_path / "run" / "recipe.yaml"
    again = recipe_of("train", "--config", str(kept), "--bimask.max_steps", "60")
    assert (again.model.name, again.train.milestone.miou) == (str(stock_folder), 0.7)
    assert (again.bimask.search_steps, again.train.resume_from_checkpoint) == (30, "latest")
    before = kept.read_bytes()
    assert main(["extract", *options, "--subnet", "largest", "--data.batch_size", "3"]) == 0
    assert kept.read_bytes() == before


@pytest.mark.parametrize("path", [*RECIPES, *OFB_RECIPES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_a_run_keeps_is_its_recipe(path: Path, tmp_path: Path) -> None:
    method = "supersam" if path.parent.name == "supersam" else "ofb"
    fill = recipe_of if method == "supersam" else ofb_recipe_of
    given = ["--config", str(path), "--model.name", "me/model", "--pretrain.enabled", "false"]
    (tmp_path / "recipe.yaml").write_text(begun_with(recipe_parser("run", method).parse_args(given), method))
    assert fill("run", "--config", str(tmp_path / "recipe.yaml")) == fill("run", *given)


def test_a_verb_without_values_in_the_folder_of_a_run_says_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "recipe.yaml").write_text("model:\n  name: me/sam\n")
    assert main(["evaluate", "--output_dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "`model.name` is missing" in told
    assert f"--config {tmp_path}/recipe.yaml" in told


def images_without_masks(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "images" / "a.png")


def masks_of_another_size(folder: Path) -> None:
    for split in ("train", "validation"):
        for kind, side in (("images", 64), ("masks", 32)):
            (folder / split / kind).mkdir(parents=True)
            for name in "abc":
                Image.fromarray(np.ones((side, side), np.uint8)).save(folder / split / kind / f"{name}.png")


def no_object(folder: Path) -> None:
    for split in ("train", "validation"):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
            for name in "abc":
                Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / split / kind / f"{name}.png")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (images_without_masks, "masks"),
        (masks_of_another_size, "size"),
        (no_object, "min_area"),
    ],
)
def test_unusable_data_is_refused_before_any_training(
    make: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture, stock_folder: Path
) -> None:
    make(tmp_path / "data")
    argv = ["train", "--model.name", str(stock_folder), "--data.source", str(tmp_path / "data")]
    assert main([*argv, "--output_dir", str(tmp_path / "run"), "--holdout_images", "1"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "supernet").exists()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "sam2").mkdir()
    (tmp_path / "sam2" / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    assert main(["search", "--model.name", str(tmp_path / "sam2"), "--output_dir", str(tmp_path / "run")]) == 2
    assert "'sam2'" in capsys.readouterr().err


def test_a_budget_nothing_can_meet_is_refused(
    stock_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = ["search", "--model.name", str(stock_folder), "--output_dir", str(tmp_path), "--holdout_images", "2"]
    data = ["--data.shapes_image_size", "64", "--data.shapes_train_images", "4", "--search.max_params", "0.01"]
    assert main([*argv, *data]) == 2
    assert "`max_params`" in capsys.readouterr().err


PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_real(page: str) -> None:
    """Every `supersam-hf` line parses; other tests run the verbs on local checkpoints."""
    text = (ROOT / page).read_text()
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    commands = [line for line in blocks.splitlines() if "supersam-hf " in line or "-m supersam_hf " in line]
    assert len(commands) >= 5 or page.startswith("docs/")
    for line in commands:
        words = shlex.split(line, comments=True)
        if not {"supersam-hf", "supersam_hf"} & set(words):
            continue
        start = words.index("supersam-hf") if "supersam-hf" in words else words.index("supersam_hf")
        ofb = words[start + 1] == "ofb"
        verb, *argv = words[start + 1 + ofb :]
        if verb == "--help":
            continue
        argv = [str(ROOT / word) if word.startswith("recipes/") else word for word in argv]
        assert verb in (OFB_VERBS if ofb else VERBS), line
        if verb in COMMANDS:
            importlib.import_module(f"supersam_hf.commands.{verb}").parser().parse_args(argv)
            continue
        recipe = ofb_recipe_of(verb, *argv) if ofb else recipe_of(verb, *argv)
        assert isinstance(recipe, OfbRecipe if ofb else Recipe), line


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_readmes_python_runs(
    stock_folder: Path, deit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small random SAM at 64 px and a small random DeiT at 32 in place of the Hub's."""
    monkeypatch.chdir(tmp_path)
    sam, deit, _ = python_blocks("README.md")  # the third: tests/test_docs_hub.py
    local = sam.replace("facebook/sam-vit-base", str(stock_folder)).replace("1, 3, 1024, 1024", "1, 3, 64, 64")
    names: dict = {}
    exec(compile(local, "README.md", "exec"), names)
    assert names["masks"].shape == (1, 1, 3, 16, 16)
    assert json.loads((tmp_path / "sam-small" / "config.json").read_text())["model_type"] == "supersam"
    local = deit.replace("facebook/deit-tiny-patch16-224", str(deit_folder)).replace("112", "64")
    exec(compile(local, "README.md", "exec"), names)
    assert names["at_64"].config.image_size == 64


def test_the_python_of_the_ofb_page_runs(vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of `words.txt`, and a search of a few steps in a small random ViT on a folder of images a class."""
    monkeypatch.chdir(tmp_path)
    labels, search = python_blocks("docs/ofb.md")
    (tmp_path / "words.txt").write_text("n01\ttench, Tinca tinca\nn02\tgoldfish\n")
    exec(compile(labels, "docs/ofb.md", "exec"), {})
    assert json.loads((tmp_path / "labels.json").read_text())["n01"] == "tench, Tinca tinca"
    names = list(json.loads((vit_folder / "config.json").read_text())["id2label"].values())
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 40), (60 * i, 0, 90)).save(tmp_path / "images" / name / f"{i}.png")
    local = search.replace("facebook/deit-tiny-patch16-224", str(vit_folder)).replace("path/to/images", "images")
    local = local.replace("batch_size=32", "batch_size=4").replace("max_steps=2000", "max_steps=4")
    exec(compile(local, "docs/ofb.md", "exec"), {})
    assert (tmp_path / "runs/mine/subnet/model.safetensors").exists()


def test_usage_lists_every_verb() -> None:
    assert all(verb in supersam_hf_cli.usage() for verb in (*VERBS, *OFB_VERBS))
