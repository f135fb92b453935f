"""Cases of the fuzzer: pictures and masks stored in other ways or damaged, annotations and run folders changed."""

import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_configs import Case, called, nested
from fuzz_values import Mutation, Outcome, mutated, names_it
from PIL import Image


HEIGHT, WIDTH, SIDE = 48, 64, 64
# Of pixel values after normalisation, where a picture was stored by a lossy way or with fewer colours.
CLOSE = 0.25


def truth() -> tuple[np.ndarray, np.ndarray]:
    """A picture (height, width) of 8 bits from black to white, and two objects as ids."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[6:22, 8:30], ids[26:44, 34:60] = 1, 2
    ramp = np.linspace(0, 100, WIDTH)[None] + np.linspace(0, 50, HEIGHT)[:, None]
    gray = (ramp + 50 * ids).round().clip(0, 255)
    gray[0, 0], gray[0, 1] = 0, 255  # so that a stretch to the extremes changes nothing
    return gray.astype(np.uint8), ids


class Folder:
    """`train/images/0.*` with `train/masks/0.*`, and the sample that training makes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        for kind in ("images", "masks"):
            (root / "train" / kind).mkdir(parents=True)

    @property
    def images(self) -> Path:
        return self.root / "train" / "images"

    @property
    def masks(self) -> Path:
        return self.root / "train" / "masks"

    def good(self) -> None:
        gray, ids = truth()
        Image.fromarray(gray).convert("RGB").save(self.images / "0.png")
        Image.fromarray(ids).save(self.masks / "0.png")

    def sample(self, streaming: bool) -> dict[str, Any]:
        """The evaluation sample of the one picture, tensors as arrays."""
        return sample_of(str(self.root), streaming)


def sample_of(source: str, streaming: bool, **more: Any) -> dict[str, Any]:
    """The first evaluation sample of a source's training split, as arrays."""
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    from supersam_hf.data import DataArguments, PromptDataset, PromptStream, load_source, open_source

    quarter = SIDE // 4
    processor = SamImageProcessorPil(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": quarter},
        mask_pad_size={"height": quarter, "width": quarter},
    )
    args = DataArguments(source=source, max_objects=8, box_padding=0, min_area=1, streaming=streaming, **more)
    kind: Any = PromptStream if streaming else PromptDataset
    rows: Any = open_source(args, "train") if streaming else load_source(args, "train")
    dataset = kind(rows, processor, args, training=False)
    sample = dataset[0] if not streaming else next(iter(dataset))
    return {name: np.asarray(value) for name, value in sample.items()}


# Ways to store the same picture; each takes the gray values and the folder of images.
def _same(gray: np.ndarray, folder: Path, rng: random.Random) -> str:
    picture = Image.fromarray(gray)
    rgb = picture.convert("RGB")
    ways: dict[str, Any] = {
        "gray": lambda: picture.save(folder / "0.png"),
        "RGBA, opaque": lambda: rgb.convert("RGBA").save(folder / "0.png"),
        "gray with alpha": lambda: picture.convert("LA").save(folder / "0.png"),
        "palette": lambda: picture.convert("P").save(folder / "0.png"),
        "palette of gray values": lambda: rgb.quantize(256).save(folder / "0.png"),
        "16 bits": lambda: Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "0.png"),
        "12 of 16 bits": lambda: Image.fromarray(gray.astype(np.uint16) * 16).save(folder / "0.png"),
        "16-bit TIFF": lambda: Image.fromarray(gray.astype(np.uint16) * 257).save(folder / "0.tif"),
        "float TIFF": lambda: Image.fromarray(gray.astype(np.float32) / 255).save(folder / "0.tif"),
        "32-bit TIFF": lambda: Image.fromarray(gray.astype(np.int32) * 1000).save(folder / "0.tif"),
        "TIFF, LZW": lambda: rgb.save(folder / "0.tiff", compression="tiff_lzw"),
        "CMYK TIFF": lambda: rgb.convert("CMYK").save(folder / "0.tif"),
        "BMP": lambda: rgb.save(folder / "0.bmp"),
        "WebP": lambda: rgb.save(folder / "0.webp", lossless=True),
        "JPEG": lambda: rgb.save(folder / "0.jpg", quality=98, subsampling=0),
        "suffix in capitals": lambda: rgb.save(folder / "0.PNG"),
        "JPEG named PNG": lambda: rgb.save(folder / "0.png", format="JPEG", quality=98, subsampling=0),
        **{f"EXIF orientation {n}": lambda n=n: _turned(rgb, n, folder / "0.png") for n in range(1, 9)},
    }
    way = rng.choice(list(ways))
    ways[way]()
    return way


# How to store a picture so that its orientation of EXIF turns it back.
_BACK = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
_BACK |= {7: "TRANSVERSE", 8: "ROTATE_270"}


def _turned(picture: Image.Image, orientation: int, file: Path) -> None:
    exif = picture.getexif()
    exif[0x0112] = orientation
    if orientation in _BACK:
        picture = picture.transpose(Image.Transpose[_BACK[orientation]])
    picture.save(file, exif=exif.tobytes())


def _same_masks(ids: np.ndarray, folder: Path, rng: random.Random) -> str:
    """Ways to store the same objects."""
    each = [(ids == number).astype(np.uint8) * 255 for number in (1, 2)]
    palette = Image.fromarray(ids, "P")
    palette.putpalette([0, 0, 0, 0, 0, 0, 0, 0, 0])  # all black: only the indices tell

    def separate(suffix: str) -> None:
        (folder / "0").mkdir()
        for number, mask in enumerate(each):
            Image.fromarray(mask).save(folder / "0" / f"{number}{suffix}")

    ways: dict[str, Any] = {
        "16-bit ids": lambda: Image.fromarray(ids.astype(np.uint16) * 300).save(folder / "0.png"),
        "palette": lambda: palette.save(folder / "0.png"),
        "32-bit TIFF ids": lambda: Image.fromarray(ids.astype(np.int32) * 70000).save(folder / "0.tif"),
        "a mask an object": lambda: separate(".png"),
        "a mask an object, .PNG": lambda: separate(".PNG"),
        "a mask an object, .tif": lambda: separate(".tif"),
        "a mask an object, .bmp": lambda: separate(".bmp"),
    }
    way = rng.choice(list(ways))
    ways[way]()
    return way


def _damage(file: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    how = rng.choice(["cut off", "bytes changed", "empty", "text", "header only", "zeros in the middle"])
    if how == "cut off":
        data = data[: rng.randrange(1, len(data))]
    elif how == "bytes changed":
        for _ in range(rng.choice([1, 4, 32])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == "zeros in the middle":
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    else:
        data = {"empty": bytearray(), "text": bytearray(b"no picture\n"), "header only": data[:33]}[how]
    file.write_bytes(bytes(data))
    return how


def _odd(folder: Folder, rng: random.Random) -> str:
    """Files that are whole, and no picture or mask of it."""
    gray, ids = truth()
    rgb = Image.fromarray(gray).convert("RGB")
    one = np.where(ids > 0, 255, 0).astype(np.uint8)
    soft = Image.fromarray(one).resize((16, 12)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    ways: dict[str, Any] = {
        "mask of another size": lambda: Image.fromarray(ids[:-8]).save(folder.masks / "0.png"),
        "resized 0/255 mask": lambda: soft.save(folder.masks / "0.png"),
        "mask in colours": lambda: Image.fromarray(np.dstack([ids * 90, ids * 40, ids])).save(folder.masks / "0.png"),
        "float mask": lambda: Image.fromarray(ids * np.float32(0.7)).save(folder.masks / "0.tif"),
        "picture of one pixel a side": lambda: rgb.resize((3000, 1)).save(folder.images / "0.png"),
        "EPS named PNG": lambda: rgb.save(folder.images / "0.png", format="EPS"),
        "PDF named PNG": lambda: rgb.save(folder.images / "0.png", format="PDF"),
        "no mask": lambda: (folder.masks / "0.png").unlink(),
        "folder named 0.png": lambda: _folder_instead(folder.images / "0.png"),
        "huge header": lambda: (folder.images / "0.png").write_bytes(_huge_png()),
        "NaN": lambda: _with_nan(gray, folder),
    }
    way = rng.choice(list(ways))
    if way in ("float mask",):
        (folder.masks / "0.png").unlink()
    if way == "NaN":
        (folder.images / "0.png").unlink()
    ways[way]()
    return way


def _folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _with_nan(gray: np.ndarray, folder: Folder) -> None:
    values = gray.astype(np.float32) / 255
    values[5, 5] = np.nan
    Image.fromarray(values).save(folder.images / "0.tif")


def _huge_png() -> bytes:
    """A PNG whose header says 30,000 x 30,000 px."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


class ImageCases:
    """A folder of one picture and its map of ids: stored in other ways, damaged, or odd."""

    def __init__(self, scratch: Path) -> None:
        self.folder = Folder(scratch / "folder")
        self.folder.good()
        self.reference = self.folder.sample(streaming=True)

    def make(self, rng: random.Random, scratch: Path) -> Case:
        self.folder = Folder(scratch / "folder")
        self.folder.good()
        gray, ids = truth()
        streaming, kind = rng.random() < 0.8, rng.choice(["picture", "masks", "damage", "odd", "odd"])
        if kind == "picture":
            (self.folder.images / "0.png").unlink()
            return Case(f"picture, {_same(gray, self.folder.images, rng)}", lambda: self._equal(streaming))
        if kind == "masks":
            (self.folder.masks / "0.png").unlink()
            return Case(f"masks, {_same_masks(ids, self.folder.masks, rng)}", lambda: self._equal(streaming))
        if kind == "damage":
            file = rng.choice([self.folder.images / "0.png", self.folder.masks / "0.png"])
            return Case(f"{file.parent.name}, {_damage(file, rng)}", lambda: self._told(streaming, may_pass=True))
        way = _odd(self.folder, rng)
        return Case(f"odd, {way}", lambda: self._told(streaming, may_pass=way == "NaN"))

    def _equal(self, streaming: bool) -> Outcome:
        try:
            sample = self.folder.sample(streaming)
        except (ValueError, OSError) as error:
            return Outcome("traceback", f"refused: {error}")
        off = float(np.abs(sample["pixel_values"] - self.reference["pixel_values"]).max())
        if off > CLOSE:
            return Outcome("silent nonsense", f"pixels differ by up to {off:.2f} standard deviations")
        same = np.array_equal(sample["masks"], self.reference["masks"])
        return Outcome("right" if same else "silent nonsense", "" if same else "other masks")

    def _told(self, streaming: bool, may_pass: bool) -> Outcome:
        """A damaged or odd file must be named; damage that no decoder sees may pass."""
        try:
            sample = self.folder.sample(streaming)
        except Exception as error:
            files = [str(self.folder.images), str(self.folder.masks), "0.png", "0.tif"]
            good = isinstance(error, (ValueError, OSError)) and names_it(str(error), *files)
            return Outcome("clear error" if good else "traceback", f"{type(error).__name__}: {error}")
        if not may_pass:
            return Outcome("silent nonsense", f"taken: {int(sample['object_mask'].sum())} objects")
        finite = bool(np.isfinite(sample["pixel_values"]).all())
        return Outcome("right" if finite else "silent nonsense", "" if finite else "pixels that are no numbers")


def coco() -> dict[str, Any]:
    """Four images of 48 x 64 px, two objects each, one as run lengths."""
    images = [{"id": n + 1, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(4)]
    annotations = []
    for n in range(4):
        corners = [5 + 4 * n, 5, 25 + 4 * n, 5, 25 + 4 * n, 20, 5 + 4 * n, 20]
        counts = [10, 20, HEIGHT * WIDTH - 30]
        common = {"image_id": n + 1, "category_id": 1, "iscrowd": 0}
        annotations.append({"id": 2 * n, "segmentation": [corners], **common})
        run_lengths = {"size": [HEIGHT, WIDTH], "counts": counts}
        annotations.append({"id": 2 * n + 1, "segmentation": run_lengths, **common})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}


def _another_truth(mutation: Mutation) -> bool:
    """Whether a changed file says something else that may well be meant: another corner, image, or list."""
    path, value = mutation.path, mutation.value
    if path == ("annotations",) and mutation.how == "set":
        return value == []
    if len(path) == 2 and path[0] == "annotations":
        return mutation.how in ("delete", "repeat")
    if mutation.how != "set" or isinstance(value, bool):
        return False
    if path[-1] == "image_id":
        return value in (1, 2, 3, "2")
    corner = len(path) == 5 and path[2] == "segmentation" and isinstance(value, (int, float))
    return corner and abs(value) <= 2 * WIDTH  # never of NaN


class AnnotationCases:
    """One value of a good COCO file is changed; whatever is not changed must be read as before."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "coco"
        (self.root / "annotations").mkdir(parents=True)
        (self.root / "train").mkdir()
        for n in range(4):
            Image.new("RGB", (WIDTH, HEIGHT), (60 * n, 90, 90)).save(self.root / "train" / f"{n}.png")
        self.good = coco()
        self._write(self.good)
        self.reference = self._read()[0]
        self.heard: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.heard.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("supersam_hf").addHandler(handler)
        logging.getLogger("supersam_hf").setLevel(logging.INFO)

    def _write(self, data: Any) -> None:
        (self.root / "annotations" / "instances_train.json").write_text(json.dumps(data), encoding="utf-8")

    def make(self, rng: random.Random, scratch: Path) -> Case:
        data, mutation = mutated(self.good, rng)
        return Case(f"coco: {mutation}", lambda: self._tried(data, mutation))

    def _tried(self, data: Any, mutation: Mutation) -> Outcome:
        self._write(data)
        self.heard.clear()
        try:
            found, errors = self._read()
        except Exception as error:
            good = isinstance(error, (ValueError, OSError)) and names_it(str(error), "instances_train.json", ".png")
            return Outcome("clear error" if good else "traceback", f"{type(error).__name__}: {error}")
        if _another_truth(mutation):
            return Outcome("right")
        lost = [n for n, count in self.reference.items() if found.get(n) != count and n not in errors]
        told = " ".join(self.heard)
        # What is left out has to be told of; the line that counts the crowds is always there.
        spoken = names_it(told.replace("0 crowd annotations are left out", ""), "left out", "leaves out", "not listed")
        if lost and not spoken:
            return Outcome("silent nonsense", f"{mutation.field}: objects of {lost} change: {found}, said: {told:.80}")
        return Outcome("clear error" if errors or spoken else "right", "; ".join(errors.values())[:200])

    def _read(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Area and box of every object by the file's name; what was said of files that cannot be read."""
        from supersam_hf.data import DataArguments, open_source
        from supersam_hf.data.source import UnreadableError

        source = open_source(DataArguments(source=str(self.root)), "train")
        found, errors = {}, {}
        for shard in range(len(source.shards)):
            for row in range(source.shards[shard].rows):
                name = Path(source.name(shard, row)).name
                try:
                    objects = source.read(shard, row)["objects"]
                    found[name] = sorted(zip(map(int, objects["area"]), map(tuple, objects["bbox"])))
                except UnreadableError as error:
                    errors[name] = str(error)
        return found, errors


class FolderCases:
    """A file of a finished run is damaged, or a value in it changed; then a verb reads the folder."""

    VERBS = (("report",), ("push",), ("run",), ("load",))

    def __init__(self, scratch: Path) -> None:
        from survival_jobs import JOBS

        self.recipe = scratch / "recipe.yaml"
        self.recipe.write_text(json.dumps(nested(JOBS["supersam"])), encoding="utf-8")
        self.finished = scratch / "finished"
        code, _, err = called(["run", "--config", str(self.recipe), "--output_dir", str(self.finished)])
        if code:
            raise SystemExit(f"the run itself ended with {code}: {err[-500:]}")
        self.files = sorted(p for p in self.finished.rglob("*") if p.is_file() and p.suffix != ".png")

    def make(self, rng: random.Random, scratch: Path) -> Case:
        folder = scratch / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.finished, folder)
        texts = [file for file in self.files if file.suffix in (".json", ".jsonl", ".yaml", ".csv", ".md")]
        file = folder / rng.choice(texts if rng.random() < 0.8 else self.files).relative_to(self.finished)
        how = self._change(file, rng)
        verb = rng.choice(self.VERBS)[0]
        return Case(f"{verb}, {file.relative_to(folder)}: {how}", lambda: self._verb(verb, folder, file))

    def _change(self, file: Path, rng: random.Random) -> str:
        if file.suffix == ".json" and rng.random() < 0.6:
            data = json.loads(file.read_text())
            if isinstance(data, (dict, list)) and data:
                data, mutation = mutated(data, rng, ("set", "set", "delete"))
                file.write_text(json.dumps(data))
                return str(mutation)
        if rng.random() < 0.15:
            file.unlink()
            return "deleted"
        return _damage(file, rng) if file.stat().st_size > 1 else "as it is"

    def _verb(self, verb: str, folder: Path, file: Path) -> Outcome:
        if verb == "load":
            return self._load(folder, file)
        words = {
            "report": ["report", str(folder)],
            "push": ["push", str(folder), "me/model", "--dry_run"],
            "run": ["run", "--config", str(self.recipe), "--output_dir", str(folder), "--dry_run"],
        }[verb]
        code, out, err = called(words)
        if code:
            last = (err.strip().splitlines() or out.strip().splitlines() or [""])[-1]
            named = names_it(err + out, file.name, file.parent.name, "output_dir")
            return Outcome("clear error" if code == 2 and named else "traceback", f"{code}: {last}")
        shown = out
        if verb == "report":
            shown = (folder / "report.html").read_text() if (folder / "report.html").exists() else out
        odd = [word for word in (">nan<", ">None<", "nan %", "nan±") if word in shown]
        return Outcome("silent nonsense", f"shows {odd}") if odd else Outcome("right")

    def _load(self, folder: Path, file: Path) -> Outcome:
        from supersam_hf import SuperSamModel

        try:
            SuperSamModel.from_pretrained(folder / "subnet")
        except Exception as error:
            named = names_it(str(error), file.name, file.stem, "config", "safetensors", "subnet")
            ours = "subnet" in str(file.parent)
            good = isinstance(error, (ValueError, OSError)) or not isinstance(
                error, (KeyError, AttributeError, IndexError, TypeError)
            )
            return Outcome(
                "clear error" if ours and good and named else "traceback", f"{type(error).__name__}: {error}"
            )
        return Outcome("right")
