"""What is written takes the place of nothing that is not ours, and of our own only once it is whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoImageProcessor

from supersam_hf import OfbViTForImageClassification, SuperSamModel, files
from supersam_hf.hub import export
from supersam_hf.pipeline.page import write_page
from supersam_hf.plots import plot_losses
from supersam_hf_cli import main


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_export_leaves_the_users_own_tmp_folder(stock_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tmp").mkdir()
    (tmp_path / "model.tmp" / "thesis.txt").write_text("mine")
    model = SuperSamModel.from_pretrained(stock_folder)
    export(model, tmp_path / "model")
    export(model, tmp_path / "model")  # in its own place
    assert names(tmp_path) == ["model", "model.tmp"]
    assert (tmp_path / "model.tmp" / "thesis.txt").read_text() == "mine"


def test_an_onnx_export_leaves_the_users_own_tmp_folder(classifier_folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from supersam_hf.deploy.deploy import deploy

    (tmp_path / "onnx.tmp").mkdir()
    (tmp_path / "onnx.tmp" / "thesis.txt").write_text("mine")
    model = OfbViTForImageClassification.from_pretrained(classifier_folders["vit"]).eval()
    deploy(model, AutoImageProcessor.from_pretrained(classifier_folders["vit"]), tmp_path / "onnx", rounds=1)
    assert names(tmp_path) == ["onnx", "onnx.tmp"]
    assert (tmp_path / "onnx.tmp" / "thesis.txt").read_text() == "mine"


def test_a_folder_is_as_it_was_until_the_new_one_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(FileNotFoundError), files.written_aside(folder) as aside:
        shutil.copyfile(tmp_path / "missing", aside / "new")
    assert names(tmp_path) == ["out"]
    assert names(folder) == ["old"]
    with files.written_aside(folder) as aside:
        (aside / "new").write_text("new")
        assert names(folder) == ["old"]
    assert names(tmp_path) == ["out"]
    assert names(folder) == ["new"]


def test_the_current_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="is the current directory or holds it"), files.written_aside(Path()):
        raise AssertionError("it was entered")
    assert names(tmp_path) == ["here"]


def test_what_a_killed_process_left_is_cleared_and_what_another_writes_is_not(tmp_path: Path) -> None:
    with files.written_aside(tmp_path / "out") as aside:
        left = shutil.copytree(aside.parent, tmp_path / aside.parent.name.replace("-", "-killed", 1))
        mine = tmp_path / ".out-mine"
        mine.mkdir()
        with files.written_aside(tmp_path / "out"):
            assert aside.is_dir()
            assert not left.exists()
            assert mine.is_dir()
    assert names(tmp_path) == [".out-mine", "out"]


def test_a_text_is_written_beside_nobodys_file_and_through_no_link(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (tmp_path / "run.json.tmp").symlink_to(secret)
    (tmp_path / "run.json").symlink_to(secret)
    files.write_whole(tmp_path / "run.json", "{}")
    assert secret.read_text() == "mine"
    assert (tmp_path / "run.json").read_text() == "{}"
    assert not (tmp_path / "run.json").is_symlink()
    assert names(tmp_path) == ["run.json", "run.json.tmp", "secret"]


OTHERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("mine"),
    "page": lambda path: path.write_text("<!DOCTYPE html><html>mine</html>"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_page_takes_the_place_of_no_other_file(other: str, supersam_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    OTHERS[other](output)
    with pytest.raises(ValueError, match="`output` is .*page.html', which is there and is no page or figure"):
        write_page(supersam_run, output)
    assert names(tmp_path) == ["page.html"]
    if output.is_file():
        assert "mine" in output.read_text()


def test_a_page_takes_the_place_of_an_older_page(supersam_run: Path, tmp_path: Path) -> None:
    output = write_page(supersam_run, tmp_path / "page.html")
    first = output.read_bytes()
    assert write_page(supersam_run, output).read_bytes() == first


def test_a_page_reads_no_linked_file(supersam_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(supersam_run, tmp_path / "run")
    (tmp_path / "secret").write_bytes(b"secret")
    (run / "overlays.png").unlink()
    (run / "overlays.png").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"overlays.png is a link to .*secret, outside of"):
        write_page(run, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_links_within_a_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "latest").symlink_to("a")
    files.check_links(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_figure_takes_the_place_of_figures_of_ours_alone(suffix: str, tmp_path: Path) -> None:
    log, path = tmp_path / "log.jsonl", tmp_path / f"figure{suffix}"
    log.write_text("".join(json.dumps({"step": step, "loss_total": 1.0, "loss": 1.0}) + "\n" for step in (1, 2)))
    plot_losses(log, path)
    plot_losses(log, path)
    files.check_overwritable(path, "it")
    path.write_bytes(b"a picture of somebody's")
    with pytest.raises(ValueError, match="which is there and is no page or figure"):
        plot_losses(log, path)
    assert path.read_bytes() == b"a picture of somebody's"
    assert names(tmp_path) == [path.name, "log.jsonl"]


def test_preview_says_so_before_it_reads_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "holiday.png"
    output.write_bytes(b"\x89PNG holiday")
    assert main(["preview", "--data.source", str(tmp_path), "--output", str(output)]) == 2
    assert "which is there and is no page or figure of supersam_hf" in capsys.readouterr().err
    assert output.read_bytes() == b"\x89PNG holiday"


def test_convert_writes_into_no_folder_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine")
    assert main(["convert", str(tmp_path / "sam.pth"), str(tmp_path / "mine")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "mine" / "config.json").read_text() == "mine"
