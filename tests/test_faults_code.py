"""No code of a model's folder or repository runs, whatever is answered to a question."""

import ast
import io
import json
from pathlib import Path

import pytest

import supersam_hf
from supersam_hf.training.pretrain import vit_config
from supersam_hf_cli import main


SOURCES = sorted(Path(supersam_hf.__file__).parent.rglob("*.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with code of its own, which leaves a file when it is imported."""
    code = f"open({str(tmp_path / 'executed')!r}, 'w')\n"
    code += "from transformers import PretrainedConfig as C, PreTrainedModel as M\n"
    (tmp_path / "own.py").write_text(code)
    auto_map = {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoImageProcessor": "own.M"}
    config = {"model_type": "own", "auto_map": auto_map, "image_processor_type": "Own"}
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(json.dumps(config))
    return tmp_path


def test_an_encoders_code_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ValueError, match="custom code"):
        vit_config(str(folder))
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--pretrain.encoder", "IT"],
        ["run", "--model.name", "IT"],
        ["ofb", "run", "--model.name", "IT"],
        ["segment", "--model.name", "IT"],
        ["export", "IT", "--output_dir", "out"],
        ["measure", "--model.name", "IT"],
    ],
)
def test_no_verb_runs_a_models_code(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    words = [str(folder) if word == "IT" else word for word in words]
    output = [] if words[0] == "export" else ["--output_dir", str(folder / "out"), "--data.source", "shapes"]
    assert main([*words, *output]) == 2
    assert not (folder / "executed").exists(), capsys.readouterr().err


def test_every_auto_class_is_told_to_run_no_code() -> None:
    """Left out, transformers asks on the terminal."""
    calls = [
        (path.name, node.lineno, {word.arg: ast.unparse(word.value) for word in node.keywords})
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("Auto")
        if ast.unparse(node.func).endswith((".from_pretrained", ".from_config"))
    ]
    assert len(calls) > 5
    assert [call[:2] for call in calls if call[2].get("trust_remote_code") != "False"] == []


def test_nothing_is_unpickled_but_what_the_processes_send_one_another() -> None:
    """`torch.load` and `np.load` as they are safe; no other reader that can run code."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            where = f"{path.name}:{node.lineno}"
            assert name != "torch.load" or given.get("weights_only") == "True", where
            assert name != "np.load" or given.get("allow_pickle") == "False", where
            assert name not in ("yaml.load", "yaml.unsafe_load", "joblib.load", "eval", "exec"), where
            assert name not in ("pickle.load", "pickle.loads") or path.name == "spread.py", where
            assert not name.endswith((".load_state", ".save_state")), where


def test_a_recipe_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`class_path` is jsonargparse's word for a class to import."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Data: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for number, text in enumerate(("data: {class_path: planted.Data}", 'data: {"class\\x5fpath": planted.Data}')):
        recipe = tmp_path / f"{number}.yaml"
        recipe.write_text(f"model: {{name: x}}\n{text}\n")
        with pytest.raises(SystemExit) as ended:
            main(["run", "--config", str(recipe), "--dry_run"])
        assert ended.value.code == 2
        assert "class_path" in capsys.readouterr().err
        assert not (tmp_path / "executed").exists()
