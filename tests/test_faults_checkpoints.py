"""A checkpoint may come from anyone: nothing in it runs, and what is not a checkpoint's is refused by name."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from classify_script import tiny_vit, train

from supersam_hf.training.checkpoints import MANIFEST, STATE_FILE, checkpoints, flaw
from supersam_hf.training.errors import CheckpointError


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def list_anew(folder: Path) -> None:
    """Rewrites the manifest, as whoever changed a file can."""
    files = [path for path in folder.iterdir() if path.name != MANIFEST]
    facts = {
        path.name: {"bytes": len(path.read_bytes()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in files
    }
    (folder / MANIFEST).write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    train(folder, max_steps=3, save_steps=2)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A checkpoint of a training."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    (checkpoint,) = checkpoints(tmp_path)
    return checkpoint


def resume(folder: Path) -> None:
    train(folder.parent, max_steps=3, save_steps=2)


def test_no_pickle_in_a_checkpoint_is_loaded(folder: Path, tmp_path: Path) -> None:
    """Torch's own format and a bare pickle, in place of each file and beside them, with checksums that agree."""
    marker = tmp_path / "executed"
    names = {path.name for path in folder.iterdir()}
    for name in sorted(names | {"custom_checkpoint_0.pkl", "random_states_0.pkl", "scaler.pt"}):
        for write in (torch.save, lambda data, path: path.write_bytes(pickle.dumps(data))):
            path, before = folder / name, (folder / name).read_bytes() if name in names else None
            write(Touch(marker), path)
            if name != MANIFEST:
                list_anew(folder)
            with pytest.raises(CheckpointError) as caught:
                resume(folder)
            assert not marker.exists(), name
            assert path.stem in str(caught.value)
            path.unlink() if before is None else path.write_bytes(before)
    list_anew(folder)
    resume(folder)


def test_a_checkpoint_is_json_and_safetensors(folder: Path) -> None:
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_a_checkpoint_of_earlier_versions_is_refused_with_a_word_why(tmp_path: Path) -> None:
    """As they were written: Accelerate's files, with a manifest."""
    folder = tmp_path / "checkpoint-00000002"
    accelerator = Accelerator(cpu=True)
    model = tiny_vit()
    accelerator.register_for_checkpointing(torch.optim.lr_scheduler.ConstantLR(torch.optim.AdamW(model.parameters())))
    accelerator.save_state(str(folder))
    (folder / STATE_FILE).write_text(json.dumps({"global_step": 2, "evaluated": True, "ended": False, "run": {}}))
    list_anew(folder)
    with pytest.raises(CheckpointError, match=r"custom_checkpoint_0.pkl.*pickle.*version.*null` to begin anew"):
        resume(folder)


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors.exe", "sub", "link-0.json", "model-1.safetensors"])
def test_what_is_no_file_of_a_checkpoint_is_named(folder: Path, name: str) -> None:
    path = folder / name
    if name == "sub":
        path.mkdir()
    elif name == "link-0.json":
        path = folder / "random-1.json"
        path.symlink_to(folder / "random-0.json")
    else:
        path.write_bytes(b"{}")
    assert path.name in str(flaw(folder))
    with pytest.raises(CheckpointError, match=path.name):
        resume(folder)


def test_a_manifest_cannot_name_files_elsewhere(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    outside.write_text("{}")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["../outside.json"] = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="outside.json is missing"):
        resume(folder)


@pytest.mark.parametrize("facts", [{"bytes": "x", "sha256": "y"}, {"bytes": 1}, [], None, 7])
def test_a_manifest_that_says_nothing_is_named(folder: Path, facts: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "state.json": facts}))
    with pytest.raises(CheckpointError, match="manifest.json is corrupt"):
        resume(folder)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "7", '{"dict": 3}', '{"eval": "1"}', '{"tensor": "x"}', "["])
@pytest.mark.parametrize("name", ["model.json", "optimizer.json", "state.json", "random-0.json", STATE_FILE])
def test_state_that_is_of_no_training_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    list_anew(folder)
    with pytest.raises(CheckpointError, match=name.removesuffix(".json")):
        resume(folder)


@pytest.mark.parametrize("standing", [{"global_step": "2"}, {"global_step": -1}, {"run": []}, {"ended": None}])
def test_where_a_run_stood_is_checked(folder: Path, standing: dict[str, Any]) -> None:
    path = folder / STATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | standing))
    list_anew(folder)
    with pytest.raises(CheckpointError, match="does not say where the run stood"):
        resume(folder)
