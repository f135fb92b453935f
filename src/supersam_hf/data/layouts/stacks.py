"""Stacks of slices in multi-page TIFF files, as the EPFL mitochondria come."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL.TiffImagePlugin import TiffImageFile

from ..canonical import check_mask_size, encode_masks
from ..images import check_pixels, decoded_size, open_image, to_8_bit, upright
from ..masks import binary_of
from ..source import Shard, Source
from ..unreadable import UNREADABLE, broken_example
from .listed import stamp_of


TIFF_SUFFIXES = (".tif", ".tiff")
TRUTH = "_groundtruth"


class StackSource(Source):
    """`<name>.tif` with `<name>_groundtruth.tif`: a page of each is an image (made 8-bit) and its mask, which is not
    black where objects are. The mask is one object; [`components`] tells the connected ones apart. A stack that cannot
    be opened is a shard of one example, which is broken.

    Args:
        files (`Sequence[Path]`): Stacks of images.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.shards = [Shard(str(file), _num_pages(file), file.stat().st_size) for file in self.files]

    def read(self, shard: int, row: int) -> dict[str, Any]:
        file, truth = self.files[shard], truth_of(self.files[shard])
        name = self.name(shard, row)
        with broken_example(name, file):
            with open_stack(file) as pages, open_stack(truth) as masks:
                if pages.n_frames != masks.n_frames:
                    raise ValueError(f"{truth.name} has {masks.n_frames} pages, the stack {pages.n_frames}.")
                pages.seek(row)
                masks.seek(row)
                for page in (pages, masks):
                    check_pixels(page, name)
                mask, picture = binary_of(upright(masks, name), name), to_8_bit(upright(pages, name))
                check_mask_size(mask.shape, (picture.height, picture.width), name)
                content = io.BytesIO()
                picture.save(content, format="PNG", compress_level=1)
        image = {"bytes": content.getvalue(), "path": f"{file.stem}_{row:04d}.png"}
        return {"image": image, "image_id": f"{file.stem}_{row:04d}", "objects": encode_masks([mask])}

    def image_size(self, shard: int, row: int) -> tuple[int, int]:
        file = self.files[shard]
        with broken_example(self.name(shard, row), file), open_stack(file) as pages:
            pages.seek(row)
            return decoded_size(pages)

    def name(self, shard: int, row: int) -> str:
        return f"{self.files[shard]}, page {row}"

    def stamp(self, shard: int) -> str:
        return stamp_of([self.files[shard], truth_of(self.files[shard])])


@contextmanager
def open_stack(file: Path) -> Iterator[TiffImageFile]:
    """A TIFF file of any number of bytes, of which no page is read yet; `ValueError` if it is none."""
    with open_image(file, most_bytes=None) as pages:
        if not isinstance(pages, TiffImageFile):
            raise ValueError(f"{file.name} is no TIFF file.")
        yield pages


def truth_of(file: Path) -> Path:
    """The stack of the masks of a stack of images."""
    return file.with_name(file.stem + TRUTH + file.suffix)


def stacks_by_split(root: Path) -> dict[str, list[Path]]:
    """Stacks of images that have a stack of masks, by split: `testing1.tif` and `testing2.tif` are "testing"."""
    splits: dict[str, list[Path]] = {}
    for file in sorted(root.iterdir()):
        if file.suffix.lower() in TIFF_SUFFIXES and truth_of(file).is_file():
            splits.setdefault(re.sub(r"[-_]?\d+$", "", file.stem) or file.stem, []).append(file)
    return splits


def _num_pages(file: Path) -> int:
    """Pages of a stack; 1 for one that cannot be opened, which fails when it is read."""
    try:
        with open_stack(file) as pages:
            return pages.n_frames
    except UNREADABLE:
        return 1
