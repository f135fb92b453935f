"""The front door: what is unknown is told with what was meant, and nothing heavy is imported to say so."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supersam_hf_cli import OFB_VERBS, VERBS, main


ALL_VERBS = [*VERBS, *(f"ofb {verb}" for verb in OFB_VERBS)]
HEAVY = "print([m for m in ('torch', 'transformers', 'supersam_hf', 'jsonargparse') if m in sys.modules])"


def said(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        ("run --trian.max_steps 5", "unknown option `--trian.max_steps`; did you mean `--train.max_steps`?"),
        ("run --train.max_stesp=5", "unknown option `--train.max_stesp`; did you mean `--train.max_steps`?"),
        ("run --max_latency_ms 5", "did you mean one of `--search.max_latency_ms`, `--bimask.max_latency_ms`"),
        ("train --data.sorce x", "did you mean `--data.source`?"),
        ("train --train.milestone.muio 0.5", "did you mean `--train.milestone.miou`?"),
        ("run recipe.yaml", "'recipe.yaml' belongs to no option; did you mean `--config`?"),
        ("ofb run --serach.max_macs 5", "did you mean `--search.max_macs`?"),
        ("segment --train.max_step 5", "did you mean `--train.max_steps`?"),
        ("preview --num_image 5", "did you mean `--num_images`?"),
        ("export x --ouput_dir y", "did you mean `--output_dir`?"),
        ("prepare x --outptu_dir y", "did you mean `--output_dir`?"),
        ("push x y --privat", "did you mean `--private`?"),
        ("report x --ouput y", "did you mean `--output`?"),
        ("experiment --confg x", "did you mean `--config`?"),
        ("rnu", "unknown verb 'rnu'; did you mean `run`?"),
        ("evalaute", "did you mean `evaluate`?"),
        ("rank_layers", "did you mean `rank-layers`?"),
        ("ofb serach", "did you mean `search`?"),
    ],
)
def test_what_was_meant_is_told(words: str, message: str, capsys: pytest.CaptureFixture) -> None:
    told = said(words.split(), capsys)
    assert message in told
    assert len(told.splitlines()) <= 2


def test_an_unknown_option_and_help_import_nothing_heavy(run_python: Callable) -> None:
    argvs = [
        ["run", "--trian.max_steps", "5"],
        ["run", "--help"],
        ["push", "--help"],
        ["ofb", "search", "--help", "all"],
    ]
    calls = "".join(f"supersam_hf_cli.main({argv!r});" for argv in argvs)
    assert run_python(f"import sys, supersam_hf_cli; {calls} {HEAVY}").endswith("\n[]\n")


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("verb", ALL_VERBS)
def test_help_of_a_verb_is_one_screen(
    verb: str, columns: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main([*verb.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= int(columns)
    assert "usage" not in lines[0]


def test_all_options_are_listed_with_values_and_defaults(capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "--help", "all"]) == 0
    printed = capsys.readouterr().out
    assert sum(line.startswith("  --") for line in printed.splitlines()) > 240
    words = " ".join(printed.split())
    assert "Takes a whole number from 1 to 1,000,000,000. Default: 1000." in words
    assert "--train.milestone.miou" in printed


def test_the_table_of_options_is_that_of_the_parsers() -> None:
    from supersam_hf.option_table import as_text, option_table
    from supersam_hf_cli.options import TABLE

    assert TABLE.read_text(encoding="utf-8") == as_text(option_table()), "run `make options`"


def test_every_option_that_matters_is_one() -> None:
    from supersam_hf_cli.help import SHORT, matters
    from supersam_hf_cli.options import verb_named

    assert set(SHORT) <= set(ALL_VERBS)
    for verb, patterns in SHORT.items():
        named = [pattern for pattern in patterns if not pattern.endswith("*")]
        assert set(named) <= {option.name for option in matters(verb, verb_named(verb))}, verb


@pytest.mark.parametrize(
    "words, message",
    [
        ("export nothing --output_dir out --data.max_eval_images 0", "`data.max_eval_images` must be"),
        ("export nothing --output_dir out --num_images 0", "`--num_images` is now `--data.max_eval_images`"),
        ("prepare nothing --output_dir out --data.patch_size 0", "`data.patch_size` must be"),
        ("prepare nothing --output_dir out --patch_size 0", "`--patch_size` is now `--data.patch_size`"),
        ("prepare --output_dir out --data.source nothing/at/all", "nothing/at/all"),
        ("prepare --output_dir out", "give the source once"),
        ("prepare one --data.source two --output_dir out", "give the source once"),
        ("preview --data.batch_size 0", "`data.batch_size` must be"),
        ("segment --model.name x --data.source y --data.batch_size 0", "`data.batch_size` must be"),
    ],
)
def test_data_has_the_same_names_in_every_verb(
    words: str, message: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in said(words.split(), capsys)


@pytest.mark.parametrize("words", ["push --name x", "report", "convert a", "export"])
def test_what_is_missing_is_told_without_the_usage(words: str, capsys: pytest.CaptureFixture) -> None:
    told = said(words.split(), capsys)
    assert "the following arguments are required" in told
    assert "usage" not in told


@pytest.mark.parametrize(
    "words",
    [
        "report ~/missing",
        "push ~/missing me/model",
        "convert ~/missing out",
        "export ~/missing --output_dir out",
        "prepare ~/missing --output_dir out",
        "preview --data.source ~/missing",
        "run --model.name ~/missing",
        "ofb run --model.name ~/missing",
        "experiment --config ~/missing --output_dir out",
    ],
)
def test_home_is_expanded(
    words: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder at home, not one called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    told = said(words.split(), capsys)
    assert str(tmp_path / "home" / "missing") in told or "me/model" in words
    assert "~" not in told
    assert not (tmp_path / "~").exists()


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="supersam_hf_plain")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2 × as fast", "2 x as fast"),
        ("θ → 1", "theta -> 1"),
        ("a—b…", "a-b..."),
        ("é", "\\xe9"),
        ("\udcff.png", "\\xff.png"),
    ],
)
def test_what_a_terminal_lacks_is_written_in_letters(text: str, shown: str) -> None:
    import supersam_hf_cli.streams

    supersam_hf_cli.streams.use_lasting_streams()
    stream = ascii_stream()
    stream.write(text)
    stream.flush()
    assert stream.buffer.getvalue().decode() == shown  # type: ignore[attr-defined]


LINES = "import supersam_hf_cli as c; c.VERBS['run'] += ' × θ — \\udcff'; import sys; sys.exit(c.main(['--help']))"


def test_an_ascii_terminal_is_no_error() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", LINES], capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"report x theta - \\xff\n" in done.stdout


@pytest.mark.parametrize("closed", ["reader", "stdout"])
def test_a_closed_pipe_is_no_error(closed: str) -> None:
    """The work goes on: its output was wanted in files, or nowhere."""
    script = (
        "import supersam_hf_cli as c; [c.main(['--help']) for _ in range(100)]; open('/dev/stderr', 'w').write('done')"
    )
    shell = f'{sys.executable} -c "{script}" {"| head -n 1" if closed == "reader" else ">&-"}'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"done")
