"""Masks read from image files: maps with an id for each pixel, and masks of one object. `images` opens them."""

import numpy as np
from PIL import Image

from .images import ImageSource, named, open_image, single_page, upright


# White, by kind of value: 8-bit and 16-bit whole numbers, floats. A smoothed mask is cut half-way to it.
WHITE = {"u1": 255, "u2": 65535, "f4": 1}
# Brightest grey of a smoothed mask, at least: maps of fewer ids are none.
BRIGHT = 128
# A map in which more than this share of the ids, and at least so many, have no pixel inside is a resized mask.
MOST_EDGES, FEWEST_EDGES = 0.5, 3
LOSSY = "JPEG"


def read_ids(source: ImageSource, name: str | None = None, *, objects: bool = True) -> np.ndarray:
    """The id of each pixel, int64 (height, width) (see [`ids_of`]).

    Args:
        source (`Path`, `str`, `bytes` or `dict`): As of `open_image`.
        name (`str`, *optional*): What errors call it; its path by default.
        objects (`bool`): Ids are of objects, which have an inside: a smoothed mask is refused. Classes may have none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is no map of ids (see [`ids_of`]): a JPEG, which changes ids, too, and a
            mask that was resized with its edges smoothed, so that each grey of them would be an object.
    """
    name = named(source, name)
    with open_image(source, name) as image:
        if image.format == LOSSY:
            raise ValueError(f"{name} is a JPEG, which changes ids where they meet; save maps of ids as PNG or TIFF.")
        single_page(image, name)
        ids = ids_of(upright(image, name), name)
    if objects and _is_smoothed(ids):
        raise ValueError(
            f"{name} seems to be a picture, or a mask whose edges were smoothed when it was resized: its "
            f"{len(np.unique(ids[ids > 0]))} greys are no objects. Resize masks to the nearest pixel; or, if it shows "
            "one object, put it into a folder of masks of one object each, where it is cut at half."
        )
    return ids


def ids_of(image: Image.Image, name: str) -> np.ndarray:
    """The id of each pixel of a decoded map, int64 (height, width): its grey value (1, 8, 16 or 32 bits, floats if all
    are whole numbers), or of a palette the index, whatever its colour.

    Raises:
        ValueError: If it cannot be a map of ids, naming it: it has colours, an alpha channel that is not opaque,
            values below 0 or fractions.
    """
    if image.mode == "LA" and image.getextrema()[1] == (255, 255):
        image = image.getchannel(0)
    if image.mode not in ("1", "L", "P", "F") and not image.mode.startswith("I"):
        raise ValueError(
            f"{name} has mode {image.mode}; ids need one channel (modes 1, L, P, I, I;16, F). Colours are no ids: "
            "save the number of the object in each pixel, or one mask an object."
        )
    values = np.asarray(image)
    if image.mode == "F" and not (np.isfinite(values) & (values == np.round(values))).all():
        raise ValueError(f"{name} has values that are no whole numbers; ids are 0, 1, 2, ....")
    ids = values.astype(np.int64)
    if ids.min() < 0:
        raise ValueError(f"{name} has the id {ids.min()}; ids are 0 (background) and above.")
    return ids


def _is_smoothed(ids: np.ndarray) -> bool:
    """Whether most ids of a map are edges: no pixel of them has the same id on all four sides, and they touch others.

    Objects have an inside, or else lie apart.
    """
    if ids.max() < BRIGHT:
        return False
    if ids.max() >= 2**16:  # sparse: numbered anew, the background 0 still
        ids = np.unique(np.append(ids, 0), return_inverse=True)[1][:-1].reshape(ids.shape)
    small = ids.astype(np.uint16) if ids.max() < 2**16 else ids
    right, below = small[:, 1:] == small[:, :-1], small[1:] == small[:-1]
    inside = np.ones(small.shape, dtype=bool)
    inside[:, 1:] &= right
    inside[:, :-1] &= right
    inside[1:] &= below
    inside[:-1] &= below
    count = int(ids.max()) + 1
    present, hollow = _shown(small, count), ~_shown(small[inside], count)
    present[0] = False
    if (present & hollow).sum() <= MOST_EDGES * present.sum():
        return False
    edges = hollow & _touching(small, right, below, count)
    return bool(edges.sum() >= FEWEST_EDGES and edges.sum() > MOST_EDGES * present.sum())


def _shown(ids: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` ids are shown."""
    return np.bincount(ids.ravel(), minlength=count) > 0


def _touching(ids: np.ndarray, right: np.ndarray, below: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` ids touch another, the background left out; told where neighbours are the same."""
    pairs = [(ids[:, 1:][~right], ids[:, :-1][~right]), (ids[1:][~below], ids[:-1][~below])]
    touching = np.zeros(count, dtype=bool)
    for one, other in pairs:
        objects = (one > 0) & (other > 0)
        touching[one[objects]] = touching[other[objects]] = True
    return touching


def read_binary_mask(source: ImageSource, name: str | None = None) -> np.ndarray:
    """Where the object of a mask is, bool (height, width) (see [`binary_of`]).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or it is not told which pixels are the object.
    """
    name = named(source, name)
    with open_image(source, name) as image:
        single_page(image, name)
        return binary_of(upright(image, name), name)


def binary_of(image: Image.Image, name: str) -> np.ndarray:
    """Where the object of a decoded mask is, bool (height, width).

    Of two values, what is not 0; of a palette, what is not index 0, whatever its colour; of colours, what is not
    black. Of more greys, as smoothed edges and JPEG leave them, what is at least half as bright as white. An alpha
    channel that is not opaque everywhere is the mask where the colours are the same everywhere, or agree with it.

    Raises:
        ValueError: If it is not clear which pixels are the object, naming it.
    """
    if image.mode in ("RGBA", "LA", "PA"):
        opaque = np.asarray(image.getchannel("A"))
        image = image.convert("RGB")
        return _of_colors(image, name) if opaque.min() == WHITE["u1"] else _of_alpha(image, opaque, name)
    if image.mode == "P":
        return _of_palette(image, name)
    if image.mode == "RGB":
        return _of_colors(image, name)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return _of_values(np.asarray(image), name)
    raise ValueError(f"{name} has mode {image.mode}; masks are black and white, grey, of a palette or RGB.")


def _of_values(values: np.ndarray, name: str) -> np.ndarray:
    """From one channel (height, width)."""
    shown = np.unique(values)
    white = WHITE.get(values.dtype.str[1:])
    if len(shown[shown != 0]) <= 1 and np.isfinite(shown).all():
        return values != 0
    if white is not None and shown[0] >= 0 and white / 2 < shown[-1] <= white:
        return values >= white / 2
    raise ValueError(
        f"{name} has {len(shown)} values, {shown[0]} to {shown[-1]}; a mask of one object has 0 and one other value. "
        "A map of ids lies beside the folders of masks and has the name of its image."
    )


def _of_colors(image: Image.Image, name: str) -> np.ndarray:
    """From RGB: as grey, or of one colour on black."""
    values = np.asarray(image)
    if (values == values[..., :1]).all():
        return _of_values(values[..., 0], name)
    colors = image.getcolors(maxcolors=2)
    if colors is None or not any(color == (0, 0, 0) for _, color in colors):
        raise ValueError(f"{name} has several colours; a mask of one object has one colour on black.")
    return np.asarray(values.any(axis=-1))


def _of_alpha(image: Image.Image, opaque: np.ndarray, name: str) -> np.ndarray:
    """From RGB and an alpha channel (height, width) that is not opaque everywhere."""
    mask, colored = _of_values(opaque, name), np.asarray(np.asarray(image).any(axis=-1))
    # What transparent pixels hold is not seen, and arbitrary, unless all are transparent.
    seen = colored[mask] if mask.any() else colored
    if seen.any() and not seen.all():
        raise ValueError(f"{name} shows one mask in its colours and another in its alpha channel; save it as grey.")
    return mask


def _of_palette(image: Image.Image, name: str) -> np.ndarray:
    """From a palette."""
    values = np.asarray(image)
    used = np.unique(values)
    if len(used[used != 0]) > 1:  # as of the greys of a GIF, or several colours
        return _of_colors(image.convert("RGB"), name)
    colors = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    empty = [not (pixel[:3].any() and pixel[3]) for pixel in (colors[np.argmax(values == index)] for index in used)]
    if len(used) == 2 and empty == [False, True]:
        raise ValueError(
            f"{name} has a palette in which 0, the background, is coloured and {used[1]} black; save it as grey."
        )
    return values != 0
