"""Instances of ADE20K, as its challenge and its full release store them."""

from pathlib import Path

import numpy as np

from ..canonical import check_mask_size, instances_to_objects
from ..images import open_image, upright
from ..paths import visible
from .folder import FolderSource
from .listed import ListedSource


SEGMENTATION = "_seg.png"


class ChallengeInstanceSource(FolderSource):
    """Images with a PNG each whose red is the class and whose green is the number of the instance; 0 = none."""

    def ids(self, file: Path) -> np.ndarray:
        red, green, _ = channels(file)
        return np.where((red > 0) & (green > 0), red * 256 + green, 0)


class FullReleaseSource(ListedSource):
    """`<stem>.jpg` with `<stem>_seg.png` beside it, in folders as deep as they come: the class is red // 10 * 256 +
    green, blue is the number of the instance; 0 = none. Parts of objects (`<stem>_parts_*.png`) are left out.

    Args:
        root (`Path`): Folder that they lie under.
        source (`Path`, *optional*): Folder of the whole source, in which that one lies.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, root: Path, source: Path | None = None) -> None:
        found = sorted(file for file in root.rglob(f"*{SEGMENTATION}") if visible(file.name))
        if not found:
            raise ValueError(f"There is no file *{SEGMENTATION} under {root}.")
        names = [str(file.relative_to(root)).removesuffix(SEGMENTATION) + ".jpg" for file in found]
        super().__init__(root, names, source)

    def mask_files(self, file: Path) -> list[Path]:
        return [file.with_name(file.stem + SEGMENTATION)]

    def objects(self, index: int, file: Path, size: tuple[int, int]) -> dict[str, list]:
        red, green, blue = channels(self.mask_files(file)[0])
        classes = red // 10 * 256 + green
        check_mask_size(classes.shape, size, file.name)
        return instances_to_objects(np.where((classes > 0) & (blue > 0), classes * 256 + blue, 0))


def channels(file: Path) -> np.ndarray:
    """Red, green and blue of an image file, int64 (3, height, width); `ValueError` for one of another mode."""
    with open_image(file) as image:
        if image.mode != "RGB":
            raise ValueError(f"The instances in {file} have mode {image.mode}; they need RGB.")
        return np.asarray(upright(image, str(file))).astype(np.int64).transpose(2, 0, 1)
