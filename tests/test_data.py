"""Sources, prompts, targets and loaders, against masks drawn by hand, brute force and SamProcessor."""

import io
import json
import logging
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from transformers import SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from supersam_hf.data import (
    DataArguments,
    PromptDataset,
    build_loader,
    canonical_features,
    decode_masks,
    encode_masks,
    from_canonical,
    from_instances,
    instances_to_objects,
    load_source,
    open_source,
    shapes,
)
from supersam_hf.data.fingerprint import local_fingerprint
from supersam_hf.data.images import encoded_size, to_rgb
from supersam_hf.data.targets import area_averaged_masks, nearest_masks


SHARED = Path(os.environ.get("SUPERSAM_HF_SHARED", Path(__file__).parents[1].parent / "shared"))
SIDE = 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def processor(side: int = SIDE) -> SamImageProcessorPil:
    square, small = {"height": side, "width": side}, {"height": side // 4, "width": side // 4}
    return SamImageProcessorPil(
        size={"longest_edge": side},
        pad_size=square,
        mask_size={"longest_edge": side // 4},
        mask_pad_size=small,
        do_normalize=False,
    )


def id_map(height: int = 40, width: int = 50) -> np.ndarray:
    """Three objects; the last one touches the bottom right corner and has an id above 255."""
    ids = np.zeros((height, width), dtype=np.uint16)
    ids[4:14, 6:20] = 1
    ids[20:30, 3:9] = 7
    ids[-9:, -12:] = 300
    return ids


def picture(ids: np.ndarray) -> Image.Image:
    """White where an object is, black elsewhere."""
    return Image.fromarray(np.where(ids > 0, 255, 0).astype(np.uint8))


def dataset_of(maps: list[np.ndarray]) -> datasets.Dataset:
    columns = {
        "image": [picture(ids) for ids in maps],
        "image_id": [f"image-{i}" for i in range(len(maps))],
        "objects": [instances_to_objects(ids) for ids in maps],
    }
    return datasets.Dataset.from_dict(columns, features=canonical_features())


def prompted(maps: list[np.ndarray], training: bool, **arguments: object) -> PromptDataset:
    return PromptDataset(dataset_of(maps), processor(), DataArguments(**arguments), training=training)


def assert_same_objects(found: dict, expected: dict) -> None:
    assert found["area"] == expected["area"]
    assert found["bbox"] == [pytest.approx(box) for box in expected["bbox"]]
    assert np.array_equal(decode_masks(found), decode_masks(expected))


# masks ---------------------------------------------------------------------------------------------------------------


def test_masks_survive_encoding() -> None:
    masks = np.random.default_rng(0).random((5, 17, 23)) > 0.5
    objects = encode_masks(list(masks))
    assert np.array_equal(decode_masks(objects), masks)
    assert objects["area"] == masks.sum((1, 2)).tolist()


def test_an_id_map_gives_the_masks_that_comparing_each_id_gives() -> None:
    ids = np.random.default_rng(0).integers(0, 400, (60, 70)).astype(np.uint16)  # more than 255 objects
    by_comparison = encode_masks([ids == i for i in np.unique(ids) if i != 0])
    assert instances_to_objects(ids) == by_comparison
    assert instances_to_objects(np.full((4, 5), 3)) == encode_masks([np.ones((4, 5), dtype=bool)])
    assert instances_to_objects(np.zeros((4, 5), dtype=int))["segmentation"] == []


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "I;16", "I"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    ramp = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (5, 1))
    deep = Image.fromarray(ramp.astype(np.uint16) * 16)  # 12 bits in 16
    image = deep if mode == "I;16" else deep.convert("I") if mode == "I" else Image.fromarray(ramp).convert(mode)
    rgb = np.asarray(to_rgb(image)).astype(int)
    assert rgb.shape == (5, 25, 3)
    assert rgb[0, -1].min() > 200
    assert rgb[0, 0].max() < 50


# sources -------------------------------------------------------------------------------------------------------------


def test_shapes_are_the_same_for_the_same_seed_only() -> None:
    first, again, longer, other = shapes(3), shapes(3), shapes(4), shapes(3, seed=1)
    assert first[:]["objects"] == again[:]["objects"] == longer[:3]["objects"]
    assert np.array_equal(np.asarray(first[2]["image"]), np.asarray(again[2]["image"]))
    assert first[:]["objects"] != other[:]["objects"]
    args = DataArguments(shapes_train_images=3, shapes_eval_images=3)
    assert load_source(args, "train")[:]["objects"] != load_source(args, "eval")[:]["objects"]


def test_filling_the_box_does_not_solve_shapes() -> None:
    objects = shapes(60)[:]["objects"]
    assert all(o["area"] for o in objects)
    assert all((decode_masks(o).sum(0) <= 1).all() for o in objects)
    fill = [area / (box[2] * box[3]) for o in objects for area, box in zip(o["area"], o["bbox"])]
    assert np.mean(fill) < 0.6


def write_folder(root: Path, binary: bool) -> None:
    (root / "images").mkdir(parents=True)
    (root / "masks" / "a").mkdir(parents=True)
    ids = id_map()
    picture(ids).save(root / "images" / "a.jpg")
    if not binary:
        Image.fromarray(ids).save(root / "masks" / "a.png")
        return
    for i in np.unique(ids[ids > 0]):
        Image.fromarray(np.where(ids == i, 255, 0).astype(np.uint8)).save(root / "masks" / "a" / f"{i:03}.png")


@pytest.mark.parametrize("binary", [False, True])
def test_folder_of_id_maps_or_of_one_mask_an_object(tmp_path: Path, binary: bool) -> None:
    write_folder(tmp_path / "train", binary)
    data = load_source(DataArguments(source=str(tmp_path)), "train")
    assert data.features == canonical_features()
    assert_same_objects(data[0]["objects"], instances_to_objects(id_map()))


def test_a_changed_folder_is_read_anew(tmp_path: Path) -> None:
    write_folder(tmp_path, binary=False)
    args = DataArguments(source=str(tmp_path))
    assert len(load_source(args, "train")[0]["objects"]["area"]) == 3
    Image.fromarray((id_map() == 7).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    assert len(load_source(args, "train")[0]["objects"]["area"]) == 1


def test_folder_errors_name_what_is_wrong(tmp_path: Path) -> None:
    write_folder(tmp_path, binary=False)
    args = DataArguments(source=str(tmp_path))
    with pytest.raises(ValueError, match=r"no split 'validation'.*\['train'\]"):
        load_source(args, "eval")
    picture(id_map()).save(tmp_path / "images" / "b.png")
    with pytest.raises(ValueError, match="b.png"):
        load_source(args, "train")
    Image.fromarray(id_map()[:-1]).save(tmp_path / "masks" / "b.png")
    with pytest.raises(ValueError, match="b.png.*39 x 50.*40 x 50"):
        load_source(args, "train")
    picture(id_map()).convert("RGB").save(tmp_path / "masks" / "b.png")
    with pytest.raises(ValueError, match="b.png.*RGB"):
        load_source(args, "train")


def write_coco(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    ids = id_map()
    picture(ids).save(root / "val2017" / "7.jpg")
    plain = coco_mask.encode(np.asfortranarray(ids == 7, dtype=np.uint8))
    plain["counts"] = plain["counts"].decode()
    runs = {"size": [40, 50], "counts": [0, 2000]}
    annotations = [
        {"image_id": 7, "iscrowd": 0, "segmentation": [[6, 4, 20, 4, 20, 14, 6, 14], [1, 1, 2, 2]]},
        {"image_id": 7, "iscrowd": 0, "segmentation": plain},
        {"image_id": 7, "iscrowd": 0, "segmentation": [[1, 1, 2, 2]]},
        {"image_id": 7, "iscrowd": 1, "segmentation": runs},
    ]
    content = {"images": [{"id": 7, "file_name": "7.jpg", "height": 40, "width": 50}], "annotations": annotations}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def test_coco_takes_polygons_and_run_lengths_and_leaves_crowds_out(tmp_path: Path) -> None:
    write_coco(tmp_path)
    args = DataArguments(source=str(tmp_path))
    row = load_source(args, "eval")[0]
    assert row["image_id"] == "7"
    assert np.array_equal(decode_masks(row["objects"]), np.stack([id_map() == 1, id_map() == 7]))
    with pytest.raises(ValueError, match=r"no split 'train'.*val2017"):
        load_source(args, "train")
    (tmp_path / "val2017" / "7.jpg").unlink()
    with pytest.raises(ValueError, match="7.jpg"):
        load_source(args, "eval")


def instance_table(ids: np.ndarray, image: Image.Image) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "instances": datasets.Image()})
    return datasets.Dataset.from_dict(
        {"image": [image] * 4, "instances": [Image.fromarray(ids)] * 4}, features=features
    )


def test_parquet_of_id_maps_and_its_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        instance_table(id_map(), picture(id_map())).to_parquet(tmp_path / f"{split}.parquet")
    args = DataArguments(source=str(tmp_path), train_split="train[:50%]", eval_split="val", max_eval_images=3)
    train, validation = load_source(args, "train"), load_source(args, "eval")
    assert (len(train), len(validation)) == (2, 3)
    assert_same_objects(validation[0]["objects"], instances_to_objects(id_map()))
    assert len(load_source(DataArguments(source=str(tmp_path / "val.parquet")), "train")) == 4
    with pytest.raises(ValueError, match=r"no split 'test'.*'train', 'validation'"):
        from_instances(tmp_path, "test")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_single_file_is_no_split_but_train(tmp_path: Path, streaming: bool) -> None:
    table = instance_table(id_map(), picture(id_map()))
    table.to_parquet(tmp_path / "all.parquet")
    read = open_source if streaming else load_source
    args = DataArguments(source=str(tmp_path / "all.parquet"), streaming=streaming)
    assert len(read(args, "train")) == 4
    with pytest.raises(ValueError, match=r"no split 'validation' .*cut as train\[:90%\].*\['train'\]"):
        read(args, "eval")
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"no split 'validation' .*cut as train\[:90%\].*\['train'\]"):
        load_source(DataArguments(source=str(tmp_path / "saved")), "eval")
    for given in ({"revision": "main"}, {"config_name": "a"}):
        with pytest.raises(ValueError, match=f"`data.{next(iter(given))}` is for datasets on the Hub"):
            read(DataArguments(source=str(tmp_path / "all.parquet"), streaming=streaming, **given), "train")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_size_of_an_image_is_told_without_decoding_it(tmp_path: Path, kind: str) -> None:
    image, exif = Image.new("RGB", (30, 20)), Image.Exif()
    exif[0x0112] = 6
    for turned in (False, True):
        content = io.BytesIO()
        image.save(content, kind, **({"exif": exif} if turned else {}))
        cell = {"bytes": content.getvalue(), "path": None}
        decoded = datasets.Image().decode_example(cell)
        assert encoded_size(cell) == (decoded.height, decoded.width) == ((30, 20) if turned else (20, 30))
        # The pixels are cut off.
        start = cell["bytes"].index(b"IDAT" if kind == "PNG" else b"\xff\xda") + 20
        assert encoded_size({"bytes": cell["bytes"][:start], "path": None}) == (decoded.height, decoded.width)


def test_a_link_to_nothing_is_no_part_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    before = local_fingerprint(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    assert local_fingerprint(tmp_path) == before == {**before, "files": 1, "bytes": 3}


def test_images_pass_through_conversion_unchanged(tmp_path: Path) -> None:
    picture(id_map()).save(tmp_path / "a.jpg", quality=30)
    table = {"image": [str(tmp_path / "a.jpg")], "instances": [Image.fromarray(id_map())]}
    features = datasets.Features({"image": datasets.Image(), "instances": datasets.Image()})
    converted = from_instances(datasets.Dataset.from_dict(table, features=features))
    assert np.array_equal(np.asarray(converted[0]["image"]), np.asarray(Image.open(tmp_path / "a.jpg")))


def test_tables_without_fitting_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image 'image-0'|image '0'.*40 x 50.*39 x 50"):
        from_instances(instance_table(id_map(), picture(id_map()[:-1])))
    with pytest.raises(ValueError, match=r"\['image'\], but no \['instances'\].*segmentation"):
        from_instances(instance_table(id_map(), picture(id_map())).select_columns(["image"]))


def test_canonical_takes_both_forms_of_objects(tmp_path: Path) -> None:
    data = dataset_of([id_map(), id_map()])
    data.save_to_disk(tmp_path / "saved")
    reloaded = load_source(DataArguments(source=str(tmp_path / "saved")), "train")
    as_list = [{"segmentation": s, "category": 3} for s in data[0]["objects"]["segmentation"]]
    listed = datasets.Dataset.from_dict({"image": [picture(id_map())], "objects": [as_list]})
    for row in (reloaded[1], from_canonical(listed)[0]):
        assert_same_objects(row["objects"], data[0]["objects"])
    with pytest.raises(ValueError, match="no `segmentation`"):
        from_canonical(
            datasets.Dataset.from_dict({"image": [picture(id_map())], "objects": [{"bbox": [[0, 0, 1, 1]]}]})
        )


def test_a_source_that_is_not_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_source(DataArguments(source=str(tmp_path / "nowhere")), "train")
    with pytest.raises(ValueError, match=r"instances_\*\.json.*parquet"):
        load_source(DataArguments(source=str(tmp_path)), "train")
    with pytest.raises(ValueError, match="needs one"):
        load_source(DataArguments(source=str(tmp_path / "nowhere"), format="coco"), "train")


@pytest.mark.parametrize(
    "field",
    [
        {"prompt": "mask"},
        {"max_objects": 0},
        {"crop_train": [9]},
        {"crop_train": [9, 3]},
        {"seed": -1},
        {"min_area": 0},
    ],
)
def test_bad_arguments_name_the_field(field: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        DataArguments(**field)


# samples -------------------------------------------------------------------------------------------------------------


def test_small_masks_are_the_average_over_cells() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((3, 30, 21)) > 0.5
    # 30 x 21 px shown at 60 x 42: each pixel becomes 2 x 2, so the average over 4 x 4 is a plain mean.
    enlarged = np.zeros((3, 64, 64))
    enlarged[:, :60, :42] = masks.repeat(2, axis=1).repeat(2, axis=2)
    expected = enlarged.reshape(3, 16, 4, 16, 4).mean(axis=(2, 4)) >= 0.5
    assert np.array_equal(area_averaged_masks(masks, (60, 42), cell=4, side=16), expected)


@pytest.mark.parametrize("height, width", [(200, 200), (97, 131), (30, 30)])
def test_small_masks_of_any_size_follow_the_area(height: int, width: int) -> None:
    """Against a brute-force average over 40 x 40 sample points a cell."""
    rng = np.random.default_rng(1)
    mask = np.asarray(Image.fromarray(rng.random((6, 6)) > 0.5).resize((width, height)))
    valid = (round(64 * height / max(height, width)), round(64 * width / max(height, width)))
    points = (np.arange(64 * 10) + 0.5) / 10
    rows, columns = points * height / valid[0], points * width / valid[1]
    inside = (rows[:, None] < height) & (columns[None] < width)
    values = mask[np.minimum(rows.astype(int), height - 1)][:, np.minimum(columns.astype(int), width - 1)] & inside
    share = values.reshape(16, 40, 16, 40).mean(axis=(1, 3))
    found = area_averaged_masks(mask[None], valid, cell=4, side=16)[0]
    clear = np.abs(share - 0.5) > 0.05
    assert np.array_equal(found[clear], (share >= 0.5)[clear])


def test_an_object_too_small_for_a_cell_keeps_the_cell_it_covers_most() -> None:
    mask = np.zeros((1, 256, 256), dtype=bool)
    mask[0, 100:103, 50] = True
    coarse = area_averaged_masks(mask, (64, 64), cell=4, side=16)[0]
    assert np.argwhere(coarse).tolist() == [[6, 3]]


def test_full_masks_take_the_pixel_under_the_middle() -> None:
    mask = np.random.default_rng(0).random((1, 75, 41)) > 0.5
    found = nearest_masks(mask, (64, 34), side=64)
    assert np.array_equal(nearest_masks(mask[:, ::-1, ::-1], (64, 34), side=64)[:, :, :34], found[:, ::-1, 33::-1])
    assert not found[:, :, 34:].any()
    y, x = 20, 30
    assert found[0, y, x] == mask[0, int((y + 0.5) / 64 * 75), int((x + 0.5) / 34 * 41)]


@pytest.mark.parametrize("arguments", [{}, {"crop_train": [20, 60], "flip": True, "min_area": 6}])
def test_masks_stay_on_their_objects_through_crop_flip_and_resize(arguments: dict) -> None:
    """The picture is white exactly on the objects, so it must match the union of their masks."""
    data = prompted([id_map()], training=True, box_padding=0, **arguments)
    for epoch in range(12):
        sample = data[epoch, 0]
        union = sample["low_res_masks"].amax(0).bool()
        white = torch.nn.functional.avg_pool2d(sample["pixel_values"].mean(0)[None], 4)[0]
        sure = (white - 0.5).abs() > 0.3
        small_left_out = 0.06 if arguments else 0.0  # bits below `min_area` at the rim of a crop have no mask
        assert (union != (white > 0.5))[sure].float().mean() <= small_left_out


def test_evaluation_takes_each_object_once_and_measures_at_full_size() -> None:
    data = prompted([id_map()], training=False, max_objects=5)
    sample = data[0]
    assert sample["object_mask"].tolist() == [True, True, True, False, False]
    assert sample["valid_size"].tolist() == [51, 64]
    assert sample["masks"].shape == (5, SIDE, SIDE)
    assert not sample["masks"][:, 51:].any()
    white = sample["pixel_values"].mean(0) > 0.5
    assert (sample["masks"].amax(0).bool() != white).float().mean() < 0.01
    expected = [(id_map() == i).mean() for i in (1, 7, 300)]
    assert sample["masks"][:3, :51].float().mean((1, 2)).numpy() == pytest.approx(expected, rel=0.08)


def test_training_fills_every_slot_from_a_random_subset_or_by_repeats() -> None:
    many = prompted([id_map()], training=True, max_objects=2)
    picked = {tuple(many[epoch, 0]["low_res_masks"].flatten(1).sum(1).tolist()) for epoch in range(20)}
    assert len(picked) == 3  # pairs of three objects
    few = prompted([id_map()], training=True, max_objects=7)[0, 0]
    assert few["object_mask"].all()
    assert len({tuple(m.flatten().tolist()) for m in few["low_res_masks"]}) == 3


def test_boxes_are_tight_ones_grown_by_at_most_the_padding() -> None:
    tight = torch.tensor([[6, 4, 19, 13], [3, 20, 8, 29], [38, 31, 49, 39]])
    scale = torch.tensor([64 / 50, 51 / 40] * 2)
    boxes = [prompted([id_map()], training=True, max_objects=3, box_padding=2, seed=s)[0, 0] for s in range(30)]
    growth = torch.stack([(b["input_boxes"] / scale - tight) * torch.tensor([-1, -1, 1, 1]) for b in boxes]).round()
    assert growth.min() == 0
    assert growth.max() == 2
    assert not growth[:, 2, 2:].any()  # clamped to the image
    assert all(growth[:, 0, side].unique().tolist() == [0, 1, 2] for side in range(4))


def test_points_lie_on_their_objects_and_all_over_them() -> None:
    data = prompted([id_map()], training=True, max_objects=3, prompt="point")
    scale = torch.tensor([64 / 50, 51 / 40])
    seen = set()
    for epoch in range(150):
        points = (data[epoch, 0]["input_points"][:, 0] / scale).round().long()
        assert [int(id_map()[y, x]) for x, y in points.tolist()] == [1, 7, 300]
        seen.add(tuple(points[1].tolist()))
    assert len(seen) > 50  # of the 60 pixels of the second object
    padded = prompted([id_map()], training=False, max_objects=4, prompt="point")[0]
    assert padded["input_labels"].tolist() == [[1], [1], [1], [-10]]


def test_prompts_are_scaled_as_sam_processor_scales_them() -> None:
    sample = prompted([id_map()], training=False, max_objects=3, box_padding=0)[0]
    boxes = [[[6, 4, 19, 13], [3, 20, 8, 29], [38, 31, 49, 39]]]
    image = picture(id_map()).convert("RGB")
    expected = SamProcessor(processor())(image, input_boxes=boxes, return_tensors="pt")
    assert torch.allclose(sample["input_boxes"], expected["input_boxes"][0].float())
    assert torch.equal(sample["pixel_values"], expected["pixel_values"][0])
    assert sample["valid_size"].tolist() == expected["reshaped_input_sizes"][0].tolist()


def test_samples_depend_on_seed_epoch_and_index_only() -> None:
    arguments = {"crop_train": [20, 40], "flip": True, "min_area": 4}
    first, again = (prompted([id_map()] * 2, training=True, **arguments) for _ in range(2))
    np.random.seed(0)
    one = first[3, 1]
    first[4, 0]
    two = again[3, 1]
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["pixel_values"], first[4, 1]["pixel_values"])
    assert not torch.equal(one["pixel_values"], first[3, 0]["pixel_values"])
    fixed, later = (prompted([id_map()], training=False) for _ in range(2))
    assert torch.equal(fixed[0, 0]["input_boxes"], later[9, 0]["input_boxes"])


def test_images_without_an_object_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    maps = [np.zeros((40, 50), dtype=np.uint16), id_map(), id_map() * 0]
    with caplog.at_level(logging.WARNING):
        data = prompted(maps, training=True)
    assert len(data) == 1
    assert "2 of 3" in caplog.text
    assert data.dataset[int(data[0, 0]["image_index"])]["image_id"] == "image-1"
    with pytest.raises(ValueError, match="min_area"):
        prompted([id_map()], training=True, min_area=1000)
    # The middle 8 x 8 px of the image are background.
    with pytest.raises(ValueError, match="crop larger"):
        prompted([id_map()], training=False, crop_eval=8)


def test_a_crop_always_shows_an_object() -> None:
    lonely = np.zeros((300, 300), dtype=np.uint16)
    lonely[:6, 290:296] = 1
    data = prompted([lonely], training=True, crop_train=[12, 12], min_area=20)
    # 36 of 144 px, as no crop off the object and not the whole image shows it.
    assert all(data[epoch, 0]["low_res_masks"].float().mean() == pytest.approx(0.25, abs=0.1) for epoch in range(3))


def test_objects_are_measured_by_what_the_crop_shows_of_them() -> None:
    ids = np.zeros((60, 60), dtype=np.uint16)
    ids[25:35, 25:35] = 1
    ids[20:40, :22] = 2  # 2 columns of 20 px in the central crop of 20 to 40
    shown = {area: prompted([ids], training=False, crop_eval=20, min_area=area)[0] for area in (40, 41)}
    assert {area: int(sample["object_mask"].sum()) for area, sample in shown.items()} == {40: 2, 41: 1}


def test_a_mask_of_another_size_than_its_image_names_the_image() -> None:
    row = {"image": [picture(id_map()[:, :-1])], "image_id": ["odd"], "objects": [instances_to_objects(id_map())]}
    data = datasets.Dataset.from_dict(row, features=canonical_features())
    with pytest.raises(ValueError, match="'odd'.*40 x 50.*40 x 49"):
        PromptDataset(data, processor(), DataArguments(), training=True)[0, 0]
    with pytest.raises(ValueError, match="pads to"):
        PromptDataset(data, SamImageProcessorPil(size={"longest_edge": 64}), DataArguments(), training=True)


# loaders -------------------------------------------------------------------------------------------------------------


def test_workers_do_not_change_the_batches() -> None:
    data = prompted([id_map()] * 5, training=True, crop_train=[20, 40])
    batches = []
    for workers in (0, 2):
        loader = build_loader(data, batch_size=2, num_workers=workers, seed=3)
        loader.batch_sampler.begin(2)
        batches.append(list(loader))
    assert [len(b["pixel_values"]) for b in batches[0]] == [2, 2, 1]
    for one, two in zip(*batches):
        assert all(torch.equal(one[k], two[k]) for k in one)


# real images ---------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no real images in {SHARED / 'data'}")
@pytest.mark.parametrize(
    "name, arguments, count",
    [
        ("dsb2018", {"crop_eval": 176, "eval_split": "validation[:20]"}, 20),
        ("coco", {"prompt": "point"}, 25),
        ("drosophila_mitochondria", {"crop_eval": 512, "eval_split": "val"}, 6),
    ],
)
def test_real_images_become_samples(name: str, arguments: dict, count: int) -> None:
    args = DataArguments(source=str(SHARED / "data" / name), **arguments)
    source = load_source(args, "eval")
    assert len(source) == count
    data = PromptDataset(source, processor(256), args, training=False)
    batch = next(iter(build_loader(data, batch_size=3)))
    assert batch["pixel_values"].shape == (3, 3, 256, 256)
    assert batch["low_res_masks"].flatten(2).any(-1).equal(batch["object_mask"])
    assert len(data) >= 0.9 * count
