"""What `attack.py` is armed with: sources, models, runs and names that reach for what is not theirs."""

import io
import json
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


EVIL = "https://evil.example"
HOSTILE = f"a|b [x]({EVIL}) <script>alert(1)</script> `c` $(id) \"'); import os; ('"
SQUARE = [8, 8, 40, 8, 40, 40, 8, 40]
TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TINY_VIT |= {"image_size": 32, "patch_size": 8, "num_labels": 2}


class Touch:
    """Its pickle makes a file when it is loaded with code allowed."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return open, (self.canary, "w")


def picture(path: Path, marker: bytes = b"", size: tuple[int, int] = (64, 64)) -> Path:
    """A PNG of noise; `marker` stands behind its end, where it shows that the file was copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path, "PNG")
    path.write_bytes(path.read_bytes() + marker)
    return path


def mask(path: Path) -> Path:
    ids = np.zeros((64, 64), np.uint8)
    ids[8:40, 8:40] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path, "PNG")
    return path


def coco(root: Path, file_names: list[str]) -> Path:
    """COCO's layout, with one good image before those that are named."""
    picture(root / "train" / "good.png")
    names = ["good.png", *file_names]
    images = [{"id": i, "file_name": name, "height": 64, "width": 64} for i, name in enumerate(names)]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": [SQUARE]} for i in range(len(names))
    ]
    categories = [{"id": 1, "name": "cell"}]
    (root / "annotations").mkdir(parents=True)
    text = json.dumps({"images": images, "annotations": objects, "categories": categories})
    (root / "annotations" / "instances_train.json").write_text(text)
    return root


def pairs(root: Path, *, good: bool = True) -> Path:
    """images/ and masks/."""
    if good:
        picture(root / "images" / "good.png")
        mask(root / "masks" / "good.png")
    mask(root / "masks" / "bad.png")
    (root / "images").mkdir(parents=True, exist_ok=True)
    return root


def sa1b_member(name: str) -> dict[str, bytes]:
    """An image of SA-1B and its annotations, by file name."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(np.eye(64, dtype=np.uint8)))
    counts = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(image, "JPEG")
    return {
        f"{name}.jpg": image.getvalue(),
        f"{name}.json": json.dumps({"annotations": [{"segmentation": counts}]}).encode(),
    }


def sa1b_tar(path: Path, outside: Path, secret: Path) -> Path:
    """A tar with members that would lie outside of where it is unpacked, and links to others' files."""
    with tarfile.open(path, "w") as tar:
        for name, content in sa1b_member("sa_1").items():
            _add(tar, name, content)
        for name, content in sa1b_member("sa_2").items():
            _add(tar, f"../{outside.name}/{name}", content)
            _add(tar, str(outside / name), content)
        link = tarfile.TarInfo("sa_3.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        _add(tar, "sa_3.json", sa1b_member("sa_3")["sa_3.json"])
    return path


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def parquet(path: Path, secret: Path) -> Path:
    """Labelled images, one of which is a path."""
    import pyarrow
    import pyarrow.parquet
    from datasets import ClassLabel, Features
    from datasets import Image as ImageColumn

    schema = Features({"image": ImageColumn(), "label": ClassLabel(names=["a", "b"])}).arrow_schema
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    rows = [{"bytes": image.getvalue(), "path": "a.png"}, {"bytes": None, "path": str(secret)}]
    table = pyarrow.table({"image": rows, "label": [0, 1]}, schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path.parent


def png_header(path: Path, side: int = 30_000) -> Path:
    """A PNG of `side` x `side` pixels in a few kilobytes: all black, one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" * (1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def eps(path: Path) -> Path:
    """A program in PostScript under the name of a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n")
    return path


def ghostscript(folder: Path, canary: Path) -> Path:
    """A folder for PATH whose `gs` leaves a trace."""
    folder.mkdir(parents=True)
    (folder / "gs").write_text(f"#!/bin/sh\ntouch '{canary}'\nexit 1\n")
    (folder / "gs").chmod(0o755)
    return folder


def yaml_bomb() -> str:
    """Lists of lists of aliases: 10^9 entries when they are written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join([*lines, "data: {source: *a8, train_split: *a8}", ""])


def code_repository(folder: Path, canary: Path, model_type: str = "hostile") -> Path:
    """A model whose config names Python files of its own."""
    folder.mkdir(parents=True)
    names = {"AutoConfig": "hostile.HostileConfig", "AutoModel": "hostile.HostileModel"}
    names |= dict.fromkeys(("AutoModelForImageClassification", "AutoModelForMaskGeneration"), "hostile.HostileModel")
    names |= dict.fromkeys(("AutoImageProcessor", "AutoProcessor"), "hostile.HostileModel")
    config = {"model_type": model_type, "auto_map": names, "architectures": ["HostileModel"], "hidden_size": 16}
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        (folder / name).write_text(json.dumps({**config, "image_processor_type": "HostileModel"}))
    code = f"open({str(canary)!r}, 'w').close()\nclass HostileConfig: pass\nclass HostileModel: pass\n"
    (folder / "hostile.py").write_text(code)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(canary)))
    return folder


def vit(folder: Path) -> Path:
    """A tiny classifier with its image processor, as transformers saves it."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    ViTForImageClassification(ViTConfig(**TINY_VIT)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def exported(folder: Path) -> Path:
    """The same as `hub.export` writes it."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    from supersam_hf import OfbViTConfig, OfbViTForImageClassification
    from supersam_hf.hub import export

    model = OfbViTForImageClassification(OfbViTConfig(**TINY_VIT))
    return export(model, folder, processor=ViTImageProcessorPil(size={"height": 32, "width": 32}))


def adapter(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
    save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors")
    return folder


def armed_checkpoints(run: Path, name: str, canary: Path, *, zipped: bool) -> int:
    """Puts a pickle that runs code into every checkpoint of a run, and makes the manifest list it. How many."""
    import torch

    folders = [file.parent for file in run.rglob("manifest.json")]
    for folder in folders:
        target = folder / name
        if zipped:
            torch.save({"state": Touch(canary)}, target)
        else:
            target.write_bytes(pickle.dumps({"state": Touch(canary)}))
        _relist(folder, name)
    return len(folders)


def _relist(folder: Path, name: str) -> None:
    """The manifest brought up to date, as who tampers with a file would."""
    import hashlib

    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / name).read_bytes()
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
