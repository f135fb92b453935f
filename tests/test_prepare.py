"""Raw layouts prepared, pushed to a Hub on loopback, loaded again map-style and as a stream, and trained on."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard
from PIL import Image
from pycocotools import mask as coco_mask

from supersam_hf.data import decode_masks, shape_classes, shapes
from supersam_hf.data.dataset_card import BEGIN, END
from supersam_hf.data.prepare import PrepareArguments, prepare
from supersam_hf.hub.readme import merged_dataset_readme
from supersam_hf_cli import main


if TYPE_CHECKING:
    from hub_server import HubServer

SIDE = 64
SMALL = ["--data.box_padding", "3", "--data.max_objects", "3", "--data.min_area", "20", "--data.batch_size", "2"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 and 3 scenes in COCO's layout: polygons where a shape is a rectangle's worth, run lengths else, a crowd."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, count, seed in (("train2017", 12, 5), ("val2017", 3, 6)):
        (root / split).mkdir()
        images, annotations = [], []
        for i, row in enumerate(shapes(count, image_size=SIDE, seed=seed)):
            name = f"{i:012d}.png"
            row["image"].save(root / split / name)
            images.append({"id": i, "file_name": name, "height": SIDE, "width": SIDE})
            for rle in row["objects"]["segmentation"]:
                annotations.append({"id": len(annotations), "image_id": i, "iscrowd": 0, "segmentation": rle})
        crowd = coco_mask.encode(np.asfortranarray(np.ones((SIDE, SIDE), dtype=np.uint8)))
        crowd["counts"] = crowd["counts"].decode()
        annotations.append({"id": -1, "image_id": 0, "iscrowd": 1, "segmentation": crowd})
        box = {"id": -2, "image_id": 1, "iscrowd": 0, "segmentation": [[2, 3, 12, 3, 12, 9, 2, 9]]}
        content = {"images": images, "annotations": [*annotations, box], "categories": []}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def true_masks(root: Path, split: str) -> dict[str, list[np.ndarray]]:
    """The masks of the annotation file, drawn by pycocotools alone."""
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    masks: dict[str, list[np.ndarray]] = {str(image["id"]): [] for image in content["images"]}
    for annotation in content["annotations"]:
        drawn = annotation["segmentation"]
        if annotation["iscrowd"]:
            continue
        rle = coco_mask.merge(coco_mask.frPyObjects(drawn, SIDE, SIDE)) if isinstance(drawn, list) else drawn
        masks[str(annotation["image_id"])].append(coco_mask.decode(rle).astype(bool))
    return masks


def assert_is_coco(rows: Any, root: Path, split: str) -> None:
    expected = true_masks(root, split)
    files = {str(i): file for i, file in enumerate(sorted((root / split).iterdir()))}
    found = {row["image_id"]: row for row in rows}
    assert found.keys() == expected.keys()
    for name, row in found.items():
        assert np.array_equal(decode_masks(row["objects"]), np.stack(expected[name]))
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(files[name])))


def test_coco_is_prepared_pushed_loaded_and_streamed(
    hub: "HubServer", coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "shapes"
    argv = ["prepare", str(coco), "--output_dir", str(folder), "--push", "loopback/shapes", "--license", "mit"]
    assert main([*argv, "--private"]) == 0
    assert "train 12, validation 3 images" in capsys.readouterr().out
    repo = hub.repos["datasets", "loopback/shapes"]
    files = ["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*")) == ["README.md", *files]
    assert sorted(repo.files()) == ["README.md", *files]
    assert repo.private
    assert [commit.title for commit in repo.history("main")] == ["Upload dataset", "initial commit"]
    for source in ("loopback/shapes", str(folder)):
        for split, name in (("train", "train2017"), ("validation", "val2017")):
            assert_is_coco(datasets.load_dataset(source, split=split), coco, name)
            assert_is_coco(datasets.load_dataset(source, split=split, streaming=True), coco, name)


def test_the_card_says_what_is_there(hub: "HubServer", coco: Path, tmp_path: Path) -> None:
    written = prepare(PrepareArguments(str(coco), license="mit"), tmp_path / "d", "loopback/d")
    written.push_to_hub("loopback/d")
    local = DatasetCard.load(tmp_path / "d" / "README.md")
    theirs = DatasetCard(hub.repos["datasets", "loopback/d"].files()["README.md"].decode())
    assert local.data.to_dict()["configs"] == theirs.data.to_dict()["configs"]
    ours, info = local.data.to_dict()["dataset_info"], theirs.data.to_dict()["dataset_info"]
    assert ours["features"] == info["features"]
    assert [(s["name"], s["num_examples"]) for s in ours["splits"]] == [("train", 12), ("validation", 3)]
    assert ours["download_size"] == sum(p.stat().st_size for p in (tmp_path / "d" / "data").iterdir())
    assert (local.data.license, local.data.size_categories) == ("mit", ["n<1K"])
    local.validate(repo_type="dataset")
    counts = [len(masks) for masks in true_masks(coco, "train2017").values()]
    assert f"| train | 12 | 0 | {sum(counts)} | {np.median(counts):g}, {max(counts)} |" in local.text
    assert 'load_dataset("loopback/d", split="train")' in local.text
    assert str(coco) not in local.content
    assert "None" not in local.content


def test_what_others_wrote_into_the_card_stays(hub: "HubServer", coco: Path, tmp_path: Path) -> None:
    argv = ["prepare", str(coco), "--push", "loopback/d", "--output_dir"]
    assert main([*argv, str(tmp_path / "a")]) == 0
    repo = hub.repos["datasets", "loopback/d"]
    card = DatasetCard(repo.files()["README.md"].decode())
    card.data.pretty_name = "Mine"
    card.text = card.text.replace("| train | 12 |", "| train | 7 |") + "\nMy own words.\n"
    card.push_to_hub("loopback/d", repo_type="dataset")
    assert main([*argv, str(tmp_path / "b"), "--splits", "train"]) == 0
    card = DatasetCard(repo.files()["README.md"].decode())
    assert card.data.pretty_name == "Mine"
    assert "My own words." in card.text
    assert "| train | 12 |" in card.text
    assert [s["name"] for s in card.data.to_dict()["dataset_info"]["splits"]] == ["train"]
    assert sorted(repo.files()) == ["README.md", "data/train-00000-of-00001.parquet"]


def test_a_card_of_ones_own_keeps_its_text() -> None:
    files = "configs: [{config_name: default, data_files: new}]\nsize_categories: [n<1K]\ndataset_info: {features: 1}"
    new = f"---\nlicense: mit\ntask_categories: [mask-generation]\n{files}\n---\n{BEGIN}\nnew\n{END}\n"
    old = "task_categories: [other]\nsize_categories: [1K<n<10K]\nlicense: cc0-1.0\nlanguage: [de]\n"
    old += "configs: [{config_name: default, data_files: old}, {config_name: more, data_files: theirs}]\n"
    old += "dataset_info: [{config_name: more, features: 2}]"
    merged = DatasetCard(merged_dataset_readme(f"---\n{old}\n---\n# Mine\n", new, (BEGIN, END)))
    assert merged.data.to_dict() == {
        "configs": [
            {"config_name": "default", "data_files": "new"},
            {"config_name": "more", "data_files": "theirs"},
        ],
        "dataset_info": [{"config_name": "more", "features": 2}, {"config_name": "default", "features": 1}],
        "language": ["de"],
        "license": "mit",
        "size_categories": ["n<1K"],
        "task_categories": ["other", "mask-generation"],
    }
    assert merged.text.strip() == "# Mine"
    assert "new" in DatasetCard(merged_dataset_readme("---\nconfigs: []\n---\n", new, (BEGIN, END))).text
    with pytest.raises(ValueError, match="metadata .* of the repository's README.md cannot be read"):
        merged_dataset_readme("---\na: [\n---\n", new, (BEGIN, END))


def test_a_pull_request_has_data_and_card(hub: "HubServer", coco: Path, tmp_path: Path) -> None:
    argv = ["prepare", str(coco), "--push", "loopback/d", "--output_dir", str(tmp_path / "d"), "--create_pr"]
    assert main(argv) == 0
    repo = hub.repos["datasets", "loopback/d"]
    assert list(repo.files()) == []
    assert "# d" in repo.files("refs/pr/1")["README.md"].decode()
    assert "data/train-00000-of-00001.parquet" in repo.files("refs/pr/1")
    branch = [*argv[:5], str(tmp_path / "e"), "--revision", "v2"]
    assert main(branch) == 0
    assert len(repo.files("v2")) == 3


def test_a_supernet_is_trained_on_the_stream(hub: "HubServer", coco: Path, stock_folder: Path, tmp_path: Path) -> None:
    assert main(["prepare", str(coco), "--output_dir", str(tmp_path / "d"), "--push", "loopback/d"]) == 0
    run = tmp_path / "run"
    argv = ["train", "--model.name", str(stock_folder), "--data.source", "loopback/d", "--data.streaming", "true"]
    argv += [*SMALL, "--data.shuffle_buffer", "6", "--holdout_images", "2", "--output_dir", str(run)]
    argv += ["--space.prunable_layers", "[1,2,3]", "--train.logging_steps", "1", "--train.learning_rate", "1e-3"]
    hub.requests.clear()
    assert main([*argv, "--train.max_steps", "20"]) == 0
    losses = [json.loads(line)["loss_largest"] for line in (run / "train" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 20
    assert np.isfinite(losses).all()
    fetched = {path.split("/")[-1] for method, path in hub.requests if method == "GET" and ".parquet" in path}
    assert fetched == {"train-00000-of-00001.parquet"}


def test_a_classifier_is_searched_on_the_stream(hub: "HubServer", vit_folder: Path, tmp_path: Path) -> None:
    for i, row in enumerate(shape_classes(30, image_size=16, seed=0)):
        folder = tmp_path / "source" / ("train" if i < 24 else "test") / ("LABEL_1", "LABEL_3")[row["label"] % 2]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{i}.png")
    assert (
        main(["prepare", str(tmp_path / "source"), "--output_dir", str(tmp_path / "d"), "--push", "loopback/d"]) == 0
    )
    stored = datasets.load_dataset("loopback/d", split="train")
    assert stored.features["label"].names == ["LABEL_1", "LABEL_3"]
    assert len(stored) == 24
    argv = ["ofb", "search", "--model.name", str(vit_folder), "--output_dir", str(tmp_path / "run")]
    argv += "--data.source loopback/d --data.streaming true --data.eval_split test --data.batch_size 4".split()
    argv += "--search.max_steps 6 --search.search_steps 4 --search.max_macs 0.8 --search.logging_steps 1".split()
    assert main([*argv, "--search.prune_steps", "2"]) == 0
    assert (tmp_path / "run" / "searched" / "config.json").exists()


# layouts -------------------------------------------------------------------------------------------------------------


def test_folders_of_images_and_masks(tmp_path: Path) -> None:
    root, rows = tmp_path / "source", list(shapes(4, image_size=SIDE, seed=1))
    for i, row in enumerate(rows):
        split = "train" if i < 3 else "val"
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        row["image"].save(root / split / "images" / f"{i}.png")
        ids = sum(number * mask for number, mask in enumerate(decode_masks(row["objects"]).astype(np.uint8), start=1))
        Image.fromarray(ids).save(root / split / "masks" / f"{i}.png")
    prepare(PrepareArguments(str(root)), tmp_path / "d")
    loaded = datasets.load_dataset(str(tmp_path / "d"))
    assert {split: len(part) for split, part in loaded.items()} == {"train": 3, "validation": 1}
    for row, expected in zip([*loaded["train"], *loaded["validation"]], rows, strict=True):
        assert row["objects"]["area"] == expected["objects"]["area"]
        assert np.array_equal(np.asarray(row["image"]), np.asarray(expected["image"]))


def test_id_maps_in_parquet_and_their_own_bytes(tmp_path: Path) -> None:
    rows = shapes(6, image_size=SIDE, seed=1)
    maps = [Image.fromarray(np.uint16(decode_masks(r["objects"]).argmax(0))) for r in rows]
    source = datasets.Dataset.from_dict({"image": rows["image"], "instances": maps})
    source.to_parquet(tmp_path / "all.parquet")
    prepare(PrepareArguments(str(tmp_path / "all.parquet"), max_shard_size="20 KB"), tmp_path / "d")
    files = sorted(p.name for p in (tmp_path / "d" / "data").iterdir())
    assert len(files) > 1
    assert files[0] == f"train-00000-of-{len(files):05d}.parquet"
    loaded = datasets.load_dataset(str(tmp_path / "d"), split="train")
    encoded = [dataset.cast_column("image", datasets.Image(decode=False))["image"] for dataset in (loaded, source)]
    assert [cell["bytes"] for cell in encoded[0]] == [cell["bytes"] for cell in encoded[1]]


def test_prepared_again_it_is_the_same(coco: Path, tmp_path: Path) -> None:
    """Canonical rows, from another prepared dataset and from a folder of `save_to_disk`."""
    first = prepare(PrepareArguments(str(coco)), tmp_path / "a")
    first.save_to_disk(tmp_path / "saved")
    for source in ("a", "saved"):
        prepare(PrepareArguments(str(tmp_path / source)), tmp_path / f"from-{source}")
        again = datasets.load_dataset(str(tmp_path / f"from-{source}"))
        assert {split: part[:]["objects"] for split, part in again.items()} == {
            split: part[:]["objects"] for split, part in first.items()
        }


def test_what_is_left_out_is_listed_or_told(hub: "HubServer", tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "source" / kind).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(np.ones((8, 8), dtype=np.uint8)).save(tmp_path / "source" / kind / f"{name}.png")
    file = tmp_path / "source" / "images" / "b.png"
    file.write_bytes(file.read_bytes()[:40])
    argv = ["prepare", str(tmp_path / "source"), "--data.on_error", "skip"]
    assert main([*argv, "--output_dir", str(tmp_path / "new" / "deep" / "d")]) == 0
    (line,) = (tmp_path / "new" / "deep" / "d-skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == str(file)
    assert "left out" not in capsys.readouterr().out
    assert main([*argv, "--push", "loopback/d"]) == 0
    assert f"left out: {file}: " in capsys.readouterr().out


# bad input -----------------------------------------------------------------------------------------------------------


def failed(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(["prepare", *argv]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("supersam-hf prepare: ")
    return message


def test_errors_come_before_any_work(
    hub: "HubServer", coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "d")
    argv = [str(coco), "--output_dir", out]
    assert "'a/b/c'" in failed([*argv, "--push", "a/b/c"], capsys)
    assert "does not accept the token" in failed([*argv, "--push", "a/b", "--token", "hf_wrong"], capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert "is not an empty folder" in failed([str(coco), "--output_dir", str(tmp_path / "full")], capsys)
    assert "`max_shard_size`" in failed([*argv, "--max_shard_size", "big"], capsys)
    said = failed([*argv, "--splits", "train", "test"], capsys)
    assert "no split ['test']" in said
    assert "['train2017', 'val2017']" in said
    assert "generated anew" in failed(["shapes", "--output_dir", out], capsys)
    assert "does not exist" in failed([str(tmp_path / "nothing"), "--output_dir", out], capsys)
    assert "`format` 'coco' is for sources with masks" in failed(
        [*argv, "--task", "classification", "--data.format", "coco"], capsys
    )
    monkeypatch.delenv("HF_TOKEN")
    assert "There is no token" in failed([*argv, "--push", "a/b"], capsys)
    assert not Path(out).exists()
    assert not [key for key in hub.repos if key[0] == "datasets"]


def test_sources_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    out = ["--output_dir", str(tmp_path / "d")]
    assert "none of the known layouts" in failed([str(tmp_path / "empty"), *out], capsys)
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "text.parquet")
    assert "`data.image_column`" in failed([str(tmp_path / "text.parquet"), *out], capsys)
    assert "Masks are needed" in failed([str(tmp_path / "text.parquet"), "--task", "segmentation", *out], capsys)
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    assert "not a parquet file" in failed([str(tmp_path / "broken.parquet"), "--task", "segmentation", *out], capsys)
    assert not (tmp_path / "d").exists()


def test_a_push_that_fails_says_so_and_completes_when_repeated(
    hub: "HubServer", coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from hub_server import Fault

    hub.faults.append(Fault("POST", r"/commit/", "403", times=1))
    argv = [str(coco), "--push", "loopback/d", "--output_dir"]
    assert "Could not upload and commit (loopback/d)" in failed([*argv, str(tmp_path / "a")], capsys)
    assert not hub.repos["datasets", "loopback/d"].files()
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "a" / "data").iterdir()}
    assert main(["prepare", *argv, str(tmp_path / "a")]) == 0
    assert "pushed as it is" in capsys.readouterr().out
    assert len(hub.repos["datasets", "loopback/d"].files()) == 3
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "a" / "data").iterdir()} == written


def test_a_folder_of_another_source_is_not_pushed(
    hub: "HubServer", coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, out = tmp_path / "source", ["--output_dir", str(tmp_path / "d"), "--push", "loopback/d"]
    shutil.copytree(coco, source)
    assert main(["prepare", str(source), *out]) == 0
    assert "is not an empty folder" in failed([str(coco), *out], capsys)
    assert "is not an empty folder" in failed([str(source), *out, "--splits", "train"], capsys)
    (source / "annotations" / "instances_val2017.json").touch()
    assert "is not an empty folder" in failed([str(source), *out], capsys)


def test_what_was_prepared_here_is_pushed_under_its_name_there(hub: "HubServer", coco: Path, tmp_path: Path) -> None:
    argv = ["prepare", str(coco), "--output_dir", str(tmp_path / "here")]
    assert main(argv) == 0
    assert main([*argv, "--push", "loopback/on-the-hub"]) == 0
    card = hub.repos["datasets", "loopback/on-the-hub"].files()["README.md"].decode()
    assert 'load_dataset("loopback/on-the-hub", split="train")' in card
    assert "--data.source loopback/on-the-hub" in card
    assert "\n# on the hub\n" in card
    assert "here" not in DatasetCard(card).text


def test_only_on_the_hub(hub: "HubServer", coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["prepare", str(coco), "--push", "loopback/d"]) == 0
    assert len(datasets.load_dataset("loopback/d", split="train")) == 12
    assert "`--output_dir`" in failed([str(coco)], capsys)


def test_many_files_are_one_commit_and_none_of_before_stays(hub: "HubServer", coco: Path, tmp_path: Path) -> None:
    rows = shapes(60, image_size=SIDE, seed=1)
    rows.to_parquet(tmp_path / "rows.parquet")
    argv = ["prepare", str(tmp_path / "rows.parquet"), "--push", "loopback/d", "--max_shard_size", "1KB"]
    assert main(argv) == 0
    repo = hub.repos["datasets", "loopback/d"]
    assert len(repo.files()) > 51
    assert [commit.title for commit in repo.history("main")] == ["Upload dataset", "initial commit"]
    assert datasets.load_dataset("loopback/d", split="train")[:]["objects"] == rows[:]["objects"]
    assert main(argv[:-2]) == 0
    assert sorted(repo.files()) == ["README.md", "data/train-00000-of-00001.parquet"]
    assert len(repo.history("main")) == 3


def test_a_commit_whose_answer_is_lost_is_found(hub: "HubServer", coco: Path) -> None:
    from hub_server import Fault

    assert main(["prepare", str(coco), "--push", "loopback/d"]) == 0
    repo = hub.repos["datasets", "loopback/d"]
    hub.faults.append(Fault("POST", r"/commit/", "drop_after", times=1))
    assert main(["prepare", str(coco), "--push", "loopback/d", "--splits", "val"]) == 0
    assert sorted(repo.files()) == ["README.md", "data/validation-00000-of-00001.parquet"]


# what lies around ----------------------------------------------------------------------------------------------------


def test_nothing_of_the_user_is_touched(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(coco, tmp_path / "raw.tmp")
    before = sorted((tmp_path / "raw.tmp").rglob("*"))
    prepare(PrepareArguments(str(tmp_path / "raw.tmp")), tmp_path / "raw")
    assert sorted((tmp_path / "raw.tmp").rglob("*")) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "raw.tmp"]
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    prepare(PrepareArguments(str(coco)), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "README.md").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare(PrepareArguments(str(coco)), ".")
    assert "# here\n" in (tmp_path / "here" / "README.md").read_text()
    assert (tmp_path / "here").stat().st_mode == (tmp_path / "here" / "data").stat().st_mode
    with pytest.raises(ValueError, match="no split"):
        prepare(PrepareArguments(str(coco), splits=["none"]), tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "link", "raw", "raw.tmp", "real"]


def test_labelled_rows_get_a_random_order(tmp_path: Path) -> None:
    rows = shape_classes(60, image_size=16, seed=0).sort("label")
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "sorted")
    first, second = (prepare(PrepareArguments(str(tmp_path / "sorted")), tmp_path / name) for name in "ab")
    stored = datasets.load_dataset(str(tmp_path / "a"), split="train")
    assert sorted(stored["label"]) == rows["label"]
    assert len(set(stored["label"][:12])) > 3
    assert stored["label"] == first["train"]["label"] == second["train"]["label"]
    by_bytes = {row["image"].tobytes(): row["label"] for row in rows}
    assert all(by_bytes[row["image"].tobytes()] == row["label"] for row in stored)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (("train",), " --data.train_split 'train[:90%]' --data.eval_split 'train[90%:]'"),
        (("test",), " --data.train_split 'test[:90%]' --data.eval_split 'test[90%:]'"),
        (("validation", "test"), " --data.train_split validation --data.eval_split test"),
        (("test", "validation"), " --data.train_split validation --data.eval_split test"),
        (("train", "test"), " --data.eval_split test"),
        (("train", "validation", "test"), ""),
    ],
)
def test_the_card_names_splits_that_are_there(tmp_path: Path, splits: tuple[str, ...], said: str) -> None:
    rows = shape_classes(10, image_size=16, seed=0)
    datasets.DatasetDict(dict.fromkeys(splits, rows)).save_to_disk(tmp_path / "source")
    prepare(PrepareArguments(str(tmp_path / "source")), tmp_path / "d")
    lines = (tmp_path / "d" / "README.md").read_text().splitlines()
    assert sum(f"--data.source d{said} --output_dir" in line for line in lines) == 2


def test_a_median_between_two_numbers_is_told_as_it_is(tmp_path: Path) -> None:
    """Three objects and four: 3.5, not the even one of the two."""
    masks = [np.zeros((8, 8), dtype=np.uint16) for _ in range(2)]
    for number in range(1, 8):
        masks[number % 2][number] = number
    columns = {"image": [Image.new("RGB", (8, 8))] * 2, "instances": [Image.fromarray(mask) for mask in masks]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "maps.parquet")
    prepare(PrepareArguments(str(tmp_path / "maps.parquet")), tmp_path / "d")
    assert "| train | 2 | 0 | 7 | 3.5, 4 | 8, 8, 8 |" in (tmp_path / "d" / "README.md").read_text()


@pytest.mark.parametrize("size", ["1.5GB", "500B", "0MB", "500mb", "10Mb", "MB", "-1MB", "5PB"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(ValueError, match="`max_shard_size` must be a whole number of KB"):
        PrepareArguments("a/b", max_shard_size=size)
    assert PrepareArguments("a/b", max_shard_size="2 GiB").max_shard_size == "2GiB"


def test_a_configuration_of_segmented_images_is_read(hub: "HubServer", tmp_path: Path) -> None:
    for name, count in (("few", 2), ("many", 5)):
        datasets.DatasetDict({"train": shapes(count, image_size=SIDE, seed=1)}).push_to_hub("loopback/two", name)
    prepare(PrepareArguments("loopback/two", config_name="many"), tmp_path / "d")
    assert len(datasets.load_dataset(str(tmp_path / "d"), split="train")) == 5


def test_arguments_of_no_use_are_refused(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = [str(coco), "--output_dir", str(tmp_path / "d")]
    assert "`image_column` is for labelled images" in failed([*argv, "--data.image_column", "a"], capsys)
    assert "`label_names` is for labelled images" in failed(
        [*argv, "--task", "segmentation", "--data.label_names", "a"], capsys
    )
    assert "`config_name` is for datasets on the Hub" in failed([*argv, "--data.config_name", "a"], capsys)
    missing = [str(tmp_path / "nothing"), *argv[1:], "--data.format", "coco"]
    assert "nothing' is not a folder" in failed(missing, capsys)
    assert not (tmp_path / "d").exists()


def test_hidden_labels_are_left_out_by_splits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = shape_classes(10, image_size=16, seed=0)
    hidden = datasets.Dataset.from_dict({"image": rows["image"], "label": [-1] * 10}, features=rows.features)
    datasets.DatasetDict({"train": rows, "test": hidden}).save_to_disk(tmp_path / "source")
    argv = [str(tmp_path / "source"), "--output_dir", str(tmp_path / "d")]
    said = failed(argv, capsys)
    assert "Split 'test'" in said
    assert "`--splits`" in said
    assert "train_split" not in said
    assert main(["prepare", *argv, "--splits", "train"]) == 0


def test_a_name_without_a_namespace_is_completed_on_the_card(hub: "HubServer", coco: Path) -> None:
    assert main(["prepare", str(coco), "--push", "mine"]) == 0
    card = hub.repos["datasets", "loopback/mine"].files()["README.md"].decode()
    assert 'load_dataset("loopback/mine", split="train")' in card
