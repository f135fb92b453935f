"""Files and words that are no recipe, or far more than one, are refused by name before anything parses them."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supersam_hf.experiments.arguments import ExperimentArguments
from supersam_hf_cli import main


def bomb(path: Path) -> None:
    """A billion values in nine lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path.write_text("\n".join(lines))


def bomb_within(path: Path) -> None:
    bomb(path)
    path.write_text("data:\n  label: {" + path.read_text().replace("\n", ",") + "}")


def recursion(path: Path) -> None:
    path.write_text("train: &t\n  loss: *t\n")


def nested(path: Path) -> None:
    path.write_text("a: " + "[" * 100_000 + "]" * 100_000)


def nested_mappings(path: Path) -> None:
    path.write_text("\n".join(" " * depth + "a:" for depth in range(500)))


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"seed: 1\n")
        file.truncate(100_000_000)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def with_nul(path: Path) -> None:
    path.write_bytes(b"seed: 1\0\n")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def looped(path: Path) -> None:
    path.symlink_to(path)


def twice(path: Path) -> None:
    path.write_text("train:\n  max_steps: 5\ndata:\n  source: shapes\ntrain:\n  learning_rate: 1e-4\n")


def a_list(path: Path) -> None:
    path.write_text("- train\n")


def objects(path: Path) -> None:
    path.write_text("train: !!python/object/apply:os.system [echo]\n")


def missing(path: Path) -> None:
    assert not path.exists()


REFUSED = [
    (bomb, "has over 10,000 values"),
    (bomb_within, "has over 10,000 values"),
    (recursion, "`*t` inside of `&t`"),
    (nested, "nested over 20 levels"),
    (nested_mappings, "nested over 20 levels"),
    (large, "larger than 1 MB"),
    (binary, "no text in UTF-8"),
    (with_nul, "is no YAML"),
    (pipe, "no ordinary file"),
    (endless, "no ordinary file"),
    (folder, "no ordinary file"),
    (looped, "cannot be read"),
    (twice, "has `train` twice, again in line 5"),
    (a_list, "is no recipe: it holds list"),
    (objects, "is no YAML"),
    (missing, "cannot be read: No such file"),
]


def told(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    """What a command says before it ends with exit code 2, within seconds."""
    since = time.process_time()
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    assert code == 2
    assert time.process_time() - since < 10
    return capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "ofb run", "segment"])
@pytest.mark.parametrize("make, message", REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_what_is_no_recipe_is_refused_by_name(
    make: Callable[[Path], None], message: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "recipe.yaml"
    make(path)
    said = told([*verb.split(), "--config", str(path)], capsys)
    assert message in said
    assert f"supersam-hf {verb}, recipe {path}: " in said


@pytest.mark.parametrize("make, message", REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_what_is_no_recipe_of_an_experiment_is_refused_by_name(
    make: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "experiment.yaml"
    make(path)
    said = told(["experiment", "--config", str(path), "--output_dir", str(tmp_path / "out")], capsys)
    assert message in said
    assert str(path) in said


@pytest.mark.parametrize("make, message", REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_the_base_of_an_experiment_is_refused_by_name(
    make: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make(tmp_path / "base.yaml")
    (tmp_path / "experiment.yaml").write_text("kind: fig3_layers\nvariants: {a: {}}\n")
    argv = ["experiment", "--config", str(tmp_path / "experiment.yaml"), "--base", str(tmp_path / "base.yaml")]
    said = told([*argv, "--output_dir", str(tmp_path / "out")], capsys)
    assert message in said
    assert "base.yaml" in said


@pytest.mark.parametrize(
    "words, message",
    [
        (["--train", "/dev/zero"], "`--train` takes a mapping"),
        (["--train", "recipe.yaml"], "`--train` takes a mapping"),
        (["--train", "[" * 5000], "nested over 20 levels"),
        (["--space.mlp_windows", "[" * 5000 + "]" * 5000], "`--space.mlp_windows` is nested over 20 levels"),
        (["--space.mlp_windows", f"[{', '.join('1' * 20_000)}]"], "`--space.mlp_windows` has over 10,000 values"),
        (["--train", '{"max_stesp": 5}'], "`train.max_stesp`; did you mean `train.max_steps`?"),
        (["--train", '{"max_steps": 5, "max_steps": 6}'], "has `max_steps` twice"),
    ],
    ids=str,
)
def test_json_of_the_command_line_has_bounds_too(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert message in told(["run", "--model.name", "me/sam", *words], capsys)


def test_json_of_the_command_line_fills_a_section(capsys: pytest.CaptureFixture) -> None:
    argv = ["run", "--train", '{"max_steps": 5, "warmup_steps": 5}', "--model.name", "me/sam"]
    assert "`train.warmup_steps` must lie in 0 to max_steps - 1 = 4, got 5" in told(argv, capsys)


@pytest.mark.parametrize(
    "text, message",
    [
        ("trian: {max_steps: 5}", "`trian`; did you mean `train`?"),
        ("train: {max_stpes: 5}", "`train.max_stpes`; did you mean `train.max_steps`?"),
        ("train: {loss: {bce: 5}}", "`train.loss.bce`"),
        ("max_params: 0.5", "`max_params`; did you mean one of `search.max_params`"),
        ("1: 2", "`1`"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert message in told(["run", "--config", str(tmp_path / "recipe.yaml")], capsys)


def test_aliases_that_are_few_are_understood(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = "train: &t {max_steps: 7, warmup_steps: 7}\nfinetune: *t\n"
    (tmp_path / "recipe.yaml").write_text(text)
    said = told(["run", "--config", str(tmp_path / "recipe.yaml"), "--model.name", "me/sam"], capsys)
    assert "`train.warmup_steps` must lie in 0 to max_steps - 1 = 6" in said


def test_values_of_an_experiment_have_bounds_too() -> None:
    args = ExperimentArguments(kind="fig3_layers", variants={"a": {}})
    with pytest.raises(ValueError, match="`--set space.mlp_windows=.*20 levels"):
        args.use(["space.mlp_windows=" + "[" * 5000])


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are files of POSIX")
def test_home_is_understood_in_the_path_of_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("train: {warmup_steps: 1000}")
    said = told(["run", "--config=~/recipe.yaml", "--model.name", "me/sam"], capsys)
    assert "`train.warmup_steps` must lie" in said
