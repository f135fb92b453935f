"""Which class each id of a label map is, and whether the maps of a split show the classes that there are names for."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .masks import read_ids
from .unreadable import UNREADABLE


# Class of a pixel without a label, in samples as in label maps.
IGNORED = 255
# Of Cityscapes' 34 ids, the 19 that are trained and evaluated on, in the order of their train ids.
CITYSCAPES: dict[int, str] = {
    **{7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light"},
    **{20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car"},
    **{27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"},
}
ADE20K_CLASSES = 150
# From ids (height, width) to classes from 0 on, -1 where there is none; both int64.
Classes = Callable[[np.ndarray], np.ndarray]


def cityscapes_classes(ids: np.ndarray) -> np.ndarray:
    """Cityscapes' label ids to its 19 train ids; all others are no class."""
    table = np.full(max(CITYSCAPES) + 2, -1)
    table[list(CITYSCAPES)] = np.arange(len(CITYSCAPES))
    return table[np.minimum(ids, len(table) - 1)]


def ade20k_classes(ids: np.ndarray) -> np.ndarray:
    """ADE20K's 1 to 150 to 0 to 149; 0 and 255 are no class."""
    return np.where(ids == IGNORED, -1, ids - 1)


def own_classes(ids: np.ndarray) -> np.ndarray:
    """Ids are classes; 255 is none."""
    return np.where(ids == IGNORED, -1, ids)


def read_classes(labels: Path, classes: Classes, count: int) -> np.ndarray:
    """The class of each pixel of a label map, uint8 (height, width), 255 where there is none.

    Args:
        labels (`Path`): Its file.
        classes (`Callable`): From its ids.
        count (`int`): Classes that there are.

    Raises:
        ValueError: If it cannot be read, or an id is beyond the classes, naming both.
    """
    ids = read_ids(labels, objects=False)
    found = classes(ids)
    if found.max(initial=-1) >= count:
        beyond = ids[found >= count].min()
        raise ValueError(f"its label map {labels} has the id {beyond}, and there are {count} classes.")
    return np.where(found < 0, IGNORED, found).astype(np.uint8)


def seen_classes(maps: Sequence[Path], classes: Classes, *, named: bool, skip: bool) -> dict[Path, np.ndarray]:
    """The classes that each label map shows, ascending, -1 among them where pixels have none.

    Args:
        maps (`Sequence[Path]`): Their files.
        classes (`Callable`): From their ids.
        named (`bool`): Whether it is known which classes there are. If not, smoothed masks are refused, each grey of
            which would be a class.
        skip (`bool`): Leave out maps that cannot be read, which are told of when their turn comes.

    Raises:
        ValueError: If a map cannot be read.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(partial(_shown, classes=classes, named=named, skip=skip), maps)
        return {file: shown for file, shown in zip(maps, _told(found, len(maps))) if shown is not None}


def check_seen(
    seen: dict[Path, np.ndarray], ids_from: int, names: Sequence[str], split: str, *, training: bool
) -> None:
    """Checks the classes of a split against their names.

    Args:
        seen (`dict`): From [`seen_classes`].
        ids_from (`int`): Id of the first class.
        names (`Sequence[str]`): Of the classes.
        split (`str`): Its name.
        training (`bool`): Whether it is trained on, for which there must be two classes.

    Raises:
        ValueError: If maps show ids beyond the names (naming all, and the first file), if one class is all there is to
            learn, or 0 and 255 are all there is.
    """
    beyond = {file: shown[shown >= len(names)] + ids_from for file, shown in seen.items() if shown[-1] >= len(names)}
    if beyond:
        file, ids = next(iter(beyond.items()))
        every = sorted({int(one) for some in beyond.values() for one in some})
        raise ValueError(
            f"{len(beyond)} label maps of split {split!r} have ids beyond the {len(names)} classes "
            f"({ids_from} to {ids_from + len(names) - 1}): {_some(every)}, the first {file} ({_some(ids.tolist())}). "
            f"Give a name for each id as `data.label_names`, or mark pixels without a class by {IGNORED}."
        )
    shown = {int(one) for some in seen.values() for one in some}
    masks = ids_from == 0 and shown == {-1, 0}
    if seen and (masks or (training and len(shown - {-1}) < 2)):
        advice = (
            f" beside {IGNORED}, which marks pixels without a class. Of masks of 0 and {IGNORED}, save 1 for "
            f"{IGNORED}, or put them into a folder masks/ and set `data.format: foreground`"
        )
        raise ValueError(
            f"The label maps of split {split!r} show {len(shown - {-1})} class{advice if masks else ''}; to tell "
            "pixels apart, there must be two."
        )


def _shown(file: Path, classes: Classes, named: bool, skip: bool) -> np.ndarray | None:
    try:
        return np.unique(classes(np.unique(read_ids(file, objects=not named))))
    except UNREADABLE as error:
        if skip:
            return None
        raise ValueError(f"The label map {file} cannot be read: {error}") from error


def _told(found: Iterable[np.ndarray | None], total: int) -> Iterable[np.ndarray | None]:
    return tqdm(found, desc="check label maps", total=total, unit="map", leave=False)


def _some(ids: Sequence[int]) -> str:
    """Numbers as text, of many the first."""
    return ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
