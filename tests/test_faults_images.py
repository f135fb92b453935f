"""Images and masks as tools leave them: what they hold is read as it was meant, or refused by name."""

import builtins
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, features
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import supersam_hf
from supersam_hf.data import DataArguments, ImageClassificationArguments, PromptDataset, load_source
from supersam_hf.data.classification import load_classification
from supersam_hf.data.convert import examples
from supersam_hf.data.image_dataset import ImageDataset
from supersam_hf.data.label_maps import load_label_maps
from supersam_hf.data.layouts.folder import FolderSource
from supersam_hf.data.layouts.stacks import StackSource
from supersam_hf.data.rows import SourceRows, TableRows
from supersam_hf.data.semantic import SemanticDataset
from supersam_hf.data.semantic_arguments import SemanticArguments
from supersam_hf.data.skipped import SkipLog
from supersam_hf.data.source import UnreadableError
from supersam_hf.models.supersam import SuperSamImageProcessor


HEIGHT, WIDTH = 24, 32
ORIENTATION = 0x0112
SOURCE = Path(supersam_hf.__file__).parent


def scene() -> np.ndarray:
    """Grey uint8 (height, width) from 0 to 255, of which no turn equals another."""
    values = np.arange(HEIGHT)[:, None] * 3 + np.arange(WIDTH) * 6
    return (values * 255 // values.max()).astype(np.uint8)


def square() -> np.ndarray:
    """Bool (height, width) of one object."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[4:16, 6:20] = True
    return mask


def white(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 255, 0).astype(np.uint8)


def smoothed() -> np.ndarray:
    """A 0/255 mask as resizing with smooth edges leaves it: uint8 (96, 128) of many greys."""
    one = np.zeros((96, 128), dtype=np.uint8)
    one[20:60, 30:90] = 255
    return np.asarray(Image.fromarray(one).resize((32, 24)).resize((128, 96), Image.Resampling.BICUBIC))


def save(path: Path, image: np.ndarray | Image.Image, orientation: int | None = None, **options: Any) -> Path:
    """Writes an image file; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if orientation is not None:
        exif = image.getexif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif.tobytes()
    image.save(path, **options)
    return path


def folder_source(root: Path, picture: np.ndarray | Image.Image, **masks: np.ndarray | Image.Image) -> FolderSource:
    """`images/a.png` with `masks/<name>`, "/" written as "__" and the suffix as "_png"."""
    save(root / "images" / "a.png", picture)
    (root / "masks").mkdir(exist_ok=True)
    for name, mask in masks.items():
        save(root / "masks" / re.sub(r"_(?=[A-Za-z]+$)", ".", name.replace("__", "/")), mask)
    return FolderSource(root / "images", root / "masks")


def areas(source: FolderSource) -> list[int]:
    return source.read(0, 0)["objects"]["area"]


def picture_of(root: Path) -> np.ndarray:
    """The picture of a folder of one image and its masks, as training sees it."""
    row = SourceRows(FolderSource(root / "images", root / "masks")).read(0)
    return np.asarray(row["image"].convert("RGB"))


# --- one way in ------------------------------------------------------------------------------------------------------


def test_images_are_opened_in_one_place_only() -> None:
    """The reader, and the processor, which travels without it; both name the formats."""
    opened = re.compile(r"\b(?:Image|PIL\.Image)\.open\(|decode_example\(|imread\(")
    found = {file: text for file in SOURCE.rglob("*.py") if opened.search(text := file.read_text())}
    names = {str(file.relative_to(SOURCE)) for file in found}
    assert names == {"data/images.py", "models/supersam/image_processing_supersam.py"}
    assert all("formats=safe_formats()" in text for text in found.values())


def test_no_other_program_is_started_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    started: list[Any] = []

    def ghostscript(*arguments: Any, **options: Any) -> Image.Image:
        started.append(arguments)
        return Image.new("RGB", (WIDTH, HEIGHT))

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    folder_source(tmp_path, scene(), a_png=white(square()))
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {WIDTH} {HEIGHT}\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "images" / "a.png").write_text(eps)
    with pytest.raises(UnreadableError, match=r"images/a\.png cannot be read: .*format"):
        picture_of(tmp_path)
    cells = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / "images" / "a.png")]}, features=datasets.Features({"image": datasets.Image()})
    )
    with pytest.raises(UnreadableError, match=r"row 0 \(.*images/a\.png\) of the training data cannot be read"):
        TableRows(cells, training=True).read(0)
    assert not started


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("where", ["images/a.png", "masks/a.png"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "folder"])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, kind: str
) -> None:
    folder_source(tmp_path, scene(), a_png=white(square()))
    path = tmp_path / where
    path.unlink()
    make: dict[str, Callable[[], None]] = {
        "pipe": lambda: os.mkfifo(path),
        "zero": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
    }
    make[kind]()
    opened = builtins.open

    def open_others(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file) == str(path):  # a pipe that is opened never answers
            raise AssertionError(f"{file} was opened")
        return opened(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", open_others)
    with pytest.raises(UnreadableError, match=r"images/a\.png cannot be read: .*(no regular|link to /dev/zero)"):
        FolderSource(tmp_path / "images", tmp_path / "masks").read(0, 0)


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    folder_source(tmp_path, scene(), a_png=white(square()))
    (tmp_path / "images" / "a.png").write_bytes(b"P5 30000 30000 255\n")
    with pytest.raises(UnreadableError, match=r"images/a\.png cannot be read: it is too large"):
        FolderSource(tmp_path / "images", tmp_path / "masks").read(0, 0)


def test_a_large_second_page_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [Image.new("L", (8, 8)), Image.new("L", (64, 64))]
    for name in ("s.tif", "s_groundtruth.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableError, match="page 1 cannot be read: .*64 x 64 px"):
        StackSource([tmp_path / "s.tif"]).read(0, 1)


BROKEN: dict[str, Callable[[], bytes]] = {
    "AVIF": lambda: encoded("AVIF").replace(b"av01", b"av02"),
    "TIFF": lambda: encoded("TIFF").replace(b"\x00\x01\x04\x00", b"\x00\x09\x04\x00", 1),
    "PNG": lambda: encoded("PNG")[:60],
    "GIF": lambda: encoded("GIF")[:60],
}


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene()).convert("RGB").save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_a_decoder_raises_is_an_unreadable_example(kind: str) -> None:
    """Also in tables, where `RuntimeError` of AVIF was no error of an example."""
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    columns = datasets.Features({"image": datasets.Image()})
    cells = datasets.Dataset.from_dict({"image": [{"bytes": BROKEN[kind](), "path": None}]}, features=columns)
    with pytest.raises(UnreadableError, match="row 0 of the training data cannot be read"):
        TableRows(cells, training=True).read(0)


# --- pictures --------------------------------------------------------------------------------------------------------


def deep() -> Image.Image:
    """16-bit grey of the same picture as [`scene`]."""
    return Image.fromarray(scene().astype(np.uint16) * 16 + 300)


def with_nan() -> Image.Image:
    """Floats of the same picture, of which four pixels are no numbers."""
    values = scene().astype(np.float32) / 100 - 1
    values[5, :4] = np.nan, np.inf, -np.inf, np.nan
    return Image.fromarray(values)


def expected_with_nan() -> np.ndarray:
    values = scene().copy()
    values[5, :4] = 0, 255, 0, 0
    return values


PICTURES: dict[str, tuple[Callable[[], Image.Image], Callable[[], np.ndarray]]] = {
    "16 bits": (deep, scene),
    "32 bits": (lambda: deep().convert("I"), scene),
    "NaN": (with_nan, expected_with_nan),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("reader", ["folder", "table", "segment", "processor", "processor, file"])
def test_pictures_are_converted_alike_everywhere(tmp_path: Path, kind: str, reader: str) -> None:
    image, expected = PICTURES[kind][0](), PICTURES[kind][1]()
    wanted = np.repeat(expected[..., None], 3, axis=-1)
    file = save(tmp_path / "images" / "a.tif", image)
    if reader.startswith("processor"):
        processor = SuperSamImageProcessor(size={"longest_edge": WIDTH}, pad_size={"height": WIDTH, "width": WIDTH})
        given = str(file) if reader == "processor, file" else image
        found = processor(given, return_tensors="pt")["pixel_values"]
        assert torch.equal(found, processor(Image.fromarray(wanted), return_tensors="pt")["pixel_values"])
        return
    if reader == "folder":
        save(tmp_path / "masks" / "a.png", white(square()))
        found = SourceRows(FolderSource(tmp_path / "images", tmp_path / "masks")).read(0)["image"]
    elif reader == "table":
        cells = datasets.Dataset.from_dict({"image": [str(file)]}).cast_column("image", datasets.Image())
        found = TableRows(cells, training=True).read(0)["image"]
    else:
        save(tmp_path / "labels" / "a.png", square().astype(np.uint8))
        found = labelled(tmp_path).rows.read(0)["image"]
    np.testing.assert_array_equal(np.asarray(found.convert("RGB")), wanted)


def test_the_processor_drops_alpha_as_training_does() -> None:
    found = [
        SuperSamImageProcessor()(Image.fromarray(np.dstack([scene()] * count)), return_tensors="pt")["pixel_values"]
        for count in (3, 4)
    ]
    assert torch.equal(*found)


def test_lab_is_converted(tmp_path: Path) -> None:
    from PIL import ImageCms

    values = 80 + scene() // 2
    bands = [values, values[::-1], values[:, ::-1]]
    wanted = Image.fromarray(np.ascontiguousarray(np.dstack(bands)))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(wanted, *profiles, outputMode="LAB")
    save(tmp_path / "images" / "a.tif", lab)
    save(tmp_path / "masks" / "a.png", white(square()))
    assert np.abs(picture_of(tmp_path).astype(int) - np.asarray(wanted)).max() <= 6  # Lab of 8 bits is coarse


def test_a_picture_without_a_number_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.tif", np.full((HEIGHT, WIDTH), np.nan, dtype=np.float32))
    save(tmp_path / "masks" / "a.png", white(square()))
    with pytest.raises(UnreadableError, match=r"images/a\.tif cannot be read: .*finite"):
        picture_of(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_exif_turns_pictures_everywhere(tmp_path: Path, suffix: str, orientation: int) -> None:
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    upright = Image.fromarray(np.dstack([scene()] * 3))
    stored = upright.transpose(turns[orientation])  # as a camera that is turned stores it
    save(tmp_path / "images" / f"a{suffix}", stored, orientation)
    save(tmp_path / "masks" / "a.png", white(square()))
    save(tmp_path / "labels" / "a.png", square().astype(np.uint8))
    source = FolderSource(tmp_path / "images", tmp_path / "masks")
    assert source.image_size(0, 0) == (HEIGHT, WIDTH)
    source.read(0, 0)
    for found in (picture_of(tmp_path), np.asarray(labelled(tmp_path).rows.read(0)["image"])):
        assert np.abs(found.astype(int) - np.asarray(upright)).max() <= (8 if suffix == ".jpg" else 0)


def test_a_stack_is_no_picture(tmp_path: Path) -> None:
    page = Image.fromarray(scene())
    (tmp_path / "images").mkdir()
    page.save(tmp_path / "images" / "a.tif", save_all=True, append_images=[page])
    save(tmp_path / "masks" / "a.png", white(square()))
    with pytest.raises(UnreadableError, match=r"images/a\.tif cannot be read: it is a stack of 2 pages"):
        picture_of(tmp_path)


@pytest.mark.parametrize("length", [3000, 100])
def test_a_thin_picture_is_skipped_or_named(tmp_path: Path, length: int) -> None:
    """3000 x 1 px are no picture; of 100 x 1 px nothing is left at 32 px."""
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.png", np.dstack([scene()] * 3))
        save(tmp_path / "masks" / f"{name}.png", white(square()))
    save(tmp_path / "images" / "b.png", np.zeros((1, length, 3), dtype=np.uint8))
    save(tmp_path / "masks" / "b.png", np.ones((1, length), dtype=np.uint8))
    processor = SuperSamImageProcessor(
        **{f"{kind}size": {"longest_edge": side} for kind, side in (("", 32), ("mask_", 8))},
        **{f"{kind}pad_size": {"height": side, "width": side} for kind, side in (("", 32), ("mask_", 8))},
    )
    told = "3000 px long" if length == 3000 else "100 x 1 px"
    for training in (True, False):
        part = "train" if training else "eval"
        given: dict[str, Any] = {"source": str(tmp_path), "eval_split": "train", "min_area": 1}
        with pytest.raises(UnreadableError, match=f"b.* cannot be read: .*{told}"):
            prompted(DataArguments(**given), processor, training)[1]
        log = SkipLog(tmp_path / f"{part}.jsonl")
        samples = prompted(DataArguments(**given, on_error="skip"), processor, training, log)
        assert all("pixel_values" in samples[index] for index in range(len(samples)))
        assert log.count() == 1


def prompted(args: DataArguments, processor: Any, training: bool, log: SkipLog | None = None) -> PromptDataset:
    dataset = load_source(args, "train" if training else "eval", log)
    return PromptDataset(dataset, processor, args, training=training, skip_log=log)


def test_a_mask_of_another_size_is_skipped_when_streaming(tmp_path: Path) -> None:
    cells = {"image": [Image.fromarray(scene()[:, 1:])], "image_id": ["odd"], "objects": [objects_of(square())]}
    dataset = datasets.Dataset.from_dict(cells, features=supersam_hf.data.canonical_features())
    args = DataArguments(source="rows", on_error="skip", min_area=1)
    samples = PromptDataset(dataset, SuperSamImageProcessor(), args, training=False)
    assert not samples[0]["object_mask"].any()


def objects_of(mask: np.ndarray) -> dict[str, list]:
    return supersam_hf.data.encode_masks([mask])


def test_labelled_images_are_read_by_the_same_reader(tmp_path: Path) -> None:
    for name, label in (("deep", "a"), ("flat", "b")):
        save(tmp_path / "train" / label / f"{name}.png", deep() if name == "deep" else scene())
    save(tmp_path / "train" / "b" / "thin.png", np.zeros((1, 3000), dtype=np.uint8))
    log = SkipLog(tmp_path / "skipped.jsonl")
    args = ImageClassificationArguments(source=str(tmp_path), eval_split="train", on_error="skip")
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    samples = ImageDataset(load_classification(args, "eval"), processor, args, training=False, skip_log=log)
    read = {int(one["labels"]): one["pixel_values"] for one in (samples[index] for index in range(3))}
    assert set(read) == {0, 1, -1}
    assert torch.equal(read[0], read[1])
    assert "3000 px long" in str(log.read())


# --- masks of objects ------------------------------------------------------------------------------------------------


def rgba(color: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([color, color, color, alpha]))


def palette(indices: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for color in colors for value in color])
    return image


MASKS: dict[str, Callable[[], np.ndarray | Image.Image]] = {
    "0 and 255": lambda: white(square()),
    "0 and 1": lambda: square().astype(np.uint8),
    "1 bit": lambda: Image.fromarray(square()),
    "16 bits": lambda: square().astype(np.uint16) * 65535,
    "floats": lambda: square().astype(np.float32),
    "coloured": lambda: Image.fromarray(
        np.dstack([0 * white(square()), 0 * white(square()), square().astype(np.uint8)])
    ),
    "alpha of white": lambda: rgba(np.full((HEIGHT, WIDTH), 255, np.uint8), white(square())),
    "alpha of black": lambda: rgba(np.zeros((HEIGHT, WIDTH), np.uint8), white(square())),
    "alpha and colour": lambda: rgba(white(square()), white(square())),
    "opaque": lambda: rgba(white(square()), np.full((HEIGHT, WIDTH), 255, np.uint8)),
    "grey and alpha": lambda: rgba(np.full((HEIGHT, WIDTH), 255, np.uint8), white(square())).convert("LA"),
    "palette, object black": lambda: palette(square(), (0, 0, 0), (0, 0, 0)),
    "palette, all coloured": lambda: palette(square(), (120, 120, 120), (180, 20, 20)),
    "palette of greys": lambda: palette(square() * 255, *((i, i, i) for i in range(256))),
}


@pytest.mark.parametrize("suffix", ["tif", "PNG"])
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_of_one_object(tmp_path: Path, kind: str, suffix: str) -> None:
    if kind == "floats" and suffix == "PNG":
        pytest.skip("PNG has no floats")
    source = folder_source(tmp_path, scene(), **{f"a__0_{suffix}": MASKS[kind]()})
    assert areas(source) == [int(square().sum())]


def test_a_smoothed_mask_of_one_object_is_cut_at_half(tmp_path: Path) -> None:
    source = folder_source(tmp_path, np.zeros((96, 128), np.uint8), a__0_png=smoothed())
    assert areas(source) == [int((smoothed() > 127).sum())]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (lambda: (np.arange(HEIGHT * WIDTH) % 5).astype(np.uint8).reshape(HEIGHT, WIDTH), "0 to 4"),
        (lambda: palette(square(), (255, 255, 255), (0, 0, 0)), "background, is coloured"),
        (lambda: rgba(white(square()), white(square()[::-1])), "alpha channel"),
        (lambda: rgba(white(square()), 0 * white(square())), "alpha channel"),
        (lambda: Image.fromarray(np.dstack([scene(), scene()[::-1], scene()])), "several colours"),
    ],
    ids=["ids", "inverted palette", "two masks", "hidden mask", "colours"],
)
def test_a_mask_that_is_not_clear_is_refused(tmp_path: Path, mask: Callable[[], Any], told: str) -> None:
    source = folder_source(tmp_path, scene(), a__0_png=mask())
    with pytest.raises(UnreadableError, match=rf"masks/a/0\.png .*{told}"):
        source.read(0, 0)


def test_masks_of_any_suffix_are_seen(tmp_path: Path) -> None:
    half = square().copy()
    half[:10] = False
    source = folder_source(tmp_path, scene(), a__0_png=white(square()), a__1_PNG=white(half), a__2_tif=white(half))
    assert areas(source) == [int(square().sum()), int(half.sum()), int(half.sum())]
    (tmp_path / "masks" / "a" / "._0.png").write_bytes(b"of another file system")
    assert len(areas(source)) == 3
    (tmp_path / "masks" / "a" / "3.npy").write_bytes(b"")
    with pytest.raises(UnreadableError, match=r"masks/a holds '3\.npy', which is no mask"):
        source.read(0, 0)


@pytest.mark.parametrize("suffix", ["tif", "TIF", "PNG", "bmp"])
def test_a_map_of_any_suffix_is_seen(tmp_path: Path, suffix: str) -> None:
    assert areas(folder_source(tmp_path, scene(), **{f"a_{suffix}": white(square())})) == [int(square().sum())]


def test_several_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    source = folder_source(tmp_path, scene(), a_png=white(square()), a_tif=white(square()))
    with pytest.raises(UnreadableError, match=r"several masks .*a\.png, a\.tif"):
        source.read(0, 0)
    (tmp_path / "masks" / "a.tif").unlink()
    source = folder_source(tmp_path, scene(), a__0_png=white(square()))
    with pytest.raises(UnreadableError, match=r"several masks .*a\.png, a/0\.png"):
        source.read(0, 0)
    save(tmp_path / "images" / "a.jpg", scene())
    with pytest.raises(ValueError, match=r"a\.jpg and a\.png, which would share one mask"):
        FolderSource(tmp_path / "images", tmp_path / "masks")


def test_files_that_are_no_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder_source(tmp_path, scene(), a_png=white(square()))
    (tmp_path / "images" / "._a.png").write_bytes(b"of another file system")
    (tmp_path / "images" / "notes.txt").write_text("")
    source = FolderSource(tmp_path / "images", tmp_path / "masks")
    assert len(source) == 1
    assert re.search(r"1 files in .*images.*notes\.txt", caplog.text)
    caplog.clear()
    (tmp_path / "masks" / "notes.txt").write_text("")
    source.read(0, 0)
    assert not caplog.text  # what is no image's mask is nobody's


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (smoothed, "77 greys are no objects"),
        (lambda: smoothed().astype(np.uint16) * 257, "77 greys are no objects"),
        (lambda: smoothed().astype(np.float32) / 255, "no whole numbers"),
        (lambda: smoothed().astype(np.int32) - 1, "id -1"),
        (lambda: np.dstack([smoothed()] * 3), "mode RGB"),
        (lambda: rgba(np.full((96, 128), 255, np.uint8), white(smoothed() > 127)), "mode RGBA"),
    ],
    ids=["8 bits", "16 bits", "floats", "negative", "RGB", "alpha"],
)
def test_what_cannot_be_a_map_of_ids_is_refused(tmp_path: Path, mask: Callable[[], Any], told: str) -> None:
    source = folder_source(tmp_path, np.zeros((96, 128), np.uint8), a_tif=mask())
    with pytest.raises(UnreadableError, match=rf"masks/a\.tif .*{told}"):
        source.read(0, 0)


def test_a_jpeg_is_no_map_of_ids(tmp_path: Path) -> None:
    source = folder_source(tmp_path, scene(), a_jpg=white(square()))
    with pytest.raises(UnreadableError, match=r"masks/a\.jpg is a JPEG"):
        source.read(0, 0)


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "floats", "palette"])
def test_a_map_of_many_small_objects_is_one(tmp_path: Path, kind: str) -> None:
    """200 objects of 6 x 6 px that touch each other: not mistaken for a smoothed mask."""
    ids = np.zeros((96, 128), np.uint8)
    ids[:60, :120] = np.repeat(np.repeat(np.arange(1, 201).reshape(10, 20), 6, 0), 6, 1)
    maps = {
        "8 bits": lambda: ids,
        "16 bits": lambda: ids.astype(np.uint16) * 300,
        "floats": lambda: ids.astype(np.float32),
        "palette": lambda: palette(ids, *((0, 0, 0) for _ in range(256))),
    }
    assert areas(folder_source(tmp_path, np.zeros((96, 128), np.uint8), a_tif=maps[kind]())) == [36] * 200


def test_maps_in_tables_are_read_by_the_same_reader(tmp_path: Path) -> None:
    columns = datasets.Features({"image": datasets.Image(), "instances": datasets.Image()})
    cells = {
        "image": [Image.fromarray(scene())] * 2,
        "instances": [palette(square(), (0, 0, 0)), np.dstack([scene()] * 3)],
    }
    dataset = datasets.Dataset.from_dict(cells, features=columns)
    dataset.to_parquet(tmp_path / "train.parquet")
    args = DataArguments(source=str(tmp_path / "train.parquet"), streaming=True)
    source = supersam_hf.data.open_source(args, "train")
    assert source.read(0, 0)["objects"]["area"] == [int(square().sum())]
    with pytest.raises(UnreadableError, match="row 1 cannot be read: .*mode RGB"):
        source.read(0, 1)


def test_masks_of_stacks_are_read_by_the_same_reader(tmp_path: Path) -> None:
    """Pages of floats, and masks with an alpha channel."""
    save(tmp_path / "s.tif", with_nan())
    save(tmp_path / "s_groundtruth.tif", rgba(np.full((HEIGHT, WIDTH), 255, np.uint8), white(square())))
    source = StackSource([tmp_path / "s.tif"])
    example = next(examples(source, "", skip=False))
    assert example["objects"]["area"] == [int(square().sum())]
    np.testing.assert_array_equal(np.asarray(SourceRows(source).read(0)["image"]), expected_with_nan())


# --- label maps ------------------------------------------------------------------------------------------------------


def labelled(root: Path, part: Any = "train", **values: Any) -> Any:
    """Label maps of a folder `images/` with `labels/` or `annotations/`."""
    return load_label_maps(SemanticArguments(source=str(root), train_split="all", eval_split="all", **values), part)


def write_labels(root: Path, *maps: np.ndarray | Image.Image, folder: str = "labels", suffix: str = ".png") -> Path:
    for number, ids in enumerate(maps):
        save(root / "images" / f"{number}.png", np.dstack([scene()] * 3))
        save(root / folder / f"{number}{suffix}", ids)
    return root


@pytest.mark.parametrize("part", ["train", "eval"])
def test_ids_beyond_the_names_are_refused_before_training(tmp_path: Path, part: str) -> None:
    ids = square().astype(np.uint8)
    write_labels(tmp_path, ids, ids, np.where(square(), 7, ids).astype(np.uint8), ids * 9)
    told = r"2 label maps .*'all'.* 2 classes \(0 to 1\): 7, 9, the first .*labels/2\.png \(7\)"
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=told):
            labelled(tmp_path, part, label_names=["no", "yes"], on_error=on_error)


def test_masks_of_0_and_255_are_no_label_maps(tmp_path: Path) -> None:
    write_labels(tmp_path, white(square()))
    for part in ("train", "eval"):
        for names in (None, ["no", "yes"]):
            with pytest.raises(ValueError, match="show 1 class .*save 1 for 255"):
                labelled(tmp_path, part, label_names=names)


def test_one_class_may_be_evaluated_on_but_not_learnt(tmp_path: Path) -> None:
    write_labels(tmp_path, np.ones((HEIGHT, WIDTH), dtype=np.uint8))
    assert len(labelled(tmp_path, "eval", label_names=["no", "yes"]).rows) == 1
    with pytest.raises(ValueError, match="show 1 class; .*there must be two"):
        labelled(tmp_path, label_names=["no", "yes"])


def test_more_classes_than_8_bits_hold_are_refused(tmp_path: Path) -> None:
    write_labels(tmp_path, square().astype(np.uint16) * 258)
    with pytest.raises(ValueError, match=r"`data\.label_names` has 300 names; ids are 0 to 254"):
        labelled(tmp_path, label_names=[str(i) for i in range(300)])


@pytest.mark.parametrize("ids", [256, 300, 65535])
def test_ids_of_16_bits_are_not_cut_off(tmp_path: Path, ids: int) -> None:
    write_labels(tmp_path, square().astype(np.uint16) * ids)
    with pytest.raises(ValueError, match=rf"labels/0\.png.*{ids}"):
        labelled(tmp_path)
    with pytest.raises(ValueError, match=rf"{ids}, the first .*labels/0\.png"):
        labelled(tmp_path, label_names=["no", "yes"])


@pytest.mark.parametrize(("kind", "suffix"), [("palette", ".PNG"), ("16 bits", ".tif"), ("32 bits", ".tif")])
def test_label_maps_of_any_kind_are_the_same_samples(tmp_path: Path, kind: str, suffix: str) -> None:
    ids = square().astype(np.uint8)
    ids[:2] = 255
    maps = {
        "16 bits": ids.astype(np.uint16),
        "32 bits": ids.astype(np.int32),
        "palette": palette(ids, *((0, 0, 0) for _ in range(256))),
    }
    good, odd = write_labels(tmp_path / "good", ids), write_labels(tmp_path / "odd", maps[kind], suffix=suffix)
    found = [samples_of(root) for root in (good, odd)]
    assert found[0].label_names == found[1].label_names == ["0", "1"]
    for one, other in zip(found[0][0].values(), found[1][0].values()):
        assert torch.equal(one, other)


def test_pictures_of_16_bits_and_turned_ones_are_the_same_samples(tmp_path: Path) -> None:
    roots = [write_labels(tmp_path / name, square().astype(np.uint8)) for name in ("good", "deep", "turned")]
    save(roots[1] / "images" / "0.png", deep())
    turned = Image.fromarray(np.dstack([scene()] * 3)).rotate(180)
    save(roots[2] / "images" / "0.png", turned, 3)
    good, *others = [samples_of(root)[0]["pixel_values"] for root in roots]
    assert all(torch.equal(good, other) for other in others)


def samples_of(root: Path) -> SemanticDataset:
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    return SemanticDataset(labelled(root), processor, SemanticArguments(), training=False)


def test_annotations_of_ade20k(tmp_path: Path) -> None:
    """0 and 255 are no class, 1 to 150 are, others are refused."""
    ids = square().astype(np.uint8)
    ids[:2], ids[2:4] = 255, 150
    write_labels(tmp_path, ids, folder="annotations")
    found = labelled(tmp_path).rows.read(0)["labels"]
    wanted = np.where(square(), 0, 255)
    wanted[2:4] = 149
    np.testing.assert_array_equal(found, wanted)
    ids[0] = 151
    write_labels(tmp_path, ids, folder="annotations")
    with pytest.raises(ValueError, match=r"1 to 150\): 151, the first .*annotations/0\.png"):
        labelled(tmp_path)


def test_a_smoothed_label_map_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "0.png", np.zeros((96, 128, 3), np.uint8))
    save(tmp_path / "labels" / "0.png", smoothed())
    with pytest.raises(ValueError, match=r"labels/0\.png .*77 greys"):
        labelled(tmp_path)


def test_a_map_that_cannot_be_read_is_named_or_skipped(tmp_path: Path) -> None:
    ids = square().astype(np.uint8)
    write_labels(tmp_path, ids, ids, ids)
    (tmp_path / "labels" / "1.png").write_bytes(b"no image")
    (tmp_path / "images" / "2.png").write_bytes((tmp_path / "images" / "2.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"labels/1\.png cannot be read"):
        labelled(tmp_path)
    found = labelled(tmp_path, on_error="skip")
    log = SkipLog(tmp_path / "skipped.jsonl")
    args = SemanticArguments(on_error="skip")
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    samples = SemanticDataset(found, processor, args, training=False, skip_log=log)
    assert [bool((samples[i]["labels"] < 255).any()) for i in range(3)] == [True, False, False]
    assert log.count() == 2


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_labels(tmp_path, square().astype(np.uint8))
    save(tmp_path / "images" / "0.jpg", scene())
    with pytest.raises(ValueError, match=r"0\.jpg and 0\.png, which would share one mask"):
        labelled(tmp_path)
