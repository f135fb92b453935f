"""Which column of a table is what: by its name, or by the name that `data.columns` gives."""

from collections.abc import Iterable, Mapping


# What rows of segmented images have: a map of instance ids or the objects, and perhaps a name.
SEGMENTED = ("image", "instances", "objects", "image_id")
LABELLED = ("image", "label")
# Columns that hold the name of an image, unless `data.columns` names one.
ID_COLUMNS = ("image_id", "id")
MASKS_NEEDED = (
    "Masks are needed: columns `image` and `instances` (map of instance ids), or `image` and `objects` with a "
    "`segmentation` (COCO run lengths). Columns of other names are told by `data.columns`, as "
    "`{image: picture, instances: mask}`. To learn from pictures alone, set `data.format: images`."
)

Columns = Mapping[str, str]


def check_columns_field(columns: Columns | None, known: tuple[str, ...]) -> None:
    """Raises `ValueError` where `data.columns` names what no row has, or one column twice.

    Args:
        columns (`dict`, *optional*): Column by what it is.
        known (`tuple[str, ...]`): What there may be.
    """
    wrong = [name for name in columns or {} if name not in known]
    if wrong:
        raise ValueError(f"`data.columns` has {wrong}; it maps {', '.join(known)} to the columns that hold them.")
    for name, column in (columns or {}).items():
        if not isinstance(column, str) or not column:
            raise ValueError(f"`data.columns.{name}` must be the name of a column, got {column!r}.")
    if len(set((columns or {}).values())) != len(columns or {}):
        raise ValueError(f"`data.columns` names a column twice: {dict(columns or {})}.")


def check_there(columns: Columns | None, there: Iterable[str]) -> None:
    """Raises `ValueError` where a column that `data.columns` names is not there, listing those that are."""
    there = list(there)
    for name, column in (columns or {}).items():
        if column not in there:
            raise ValueError(f"`data.columns.{name}` is {column!r}, which is no column; the columns are {there}.")


def segmented_columns(columns: Columns | None, there: Iterable[str], layout: str) -> dict[str, str]:
    """The columns of segmented images to read, by what they are: `image`, `instances` or `objects`, and `image_id`
    where there is one.

    Args:
        columns (`dict`, *optional*): As of `data.columns`.
        there (`Iterable[str]`): The columns that there are.
        layout (`str`): "instances", "canonical", "images" (no masks), or "auto": by the columns.

    Raises:
        ValueError: If one is not there, listing those that are.
    """
    there, given = list(there), dict(columns or {})
    check_there(given, there)
    if layout == "images":
        return _picture_columns(given, there)
    by_objects = "objects" in given or ("instances" not in given and "objects" in there)
    masks = {"canonical": "objects", "instances": "instances"}.get(layout, "objects" if by_objects else "instances")
    found = {name: given.get(name, name) for name in ("image", masks)}
    missing = [column for column in found.values() if column not in there]
    if missing:
        raise ValueError(f"The dataset has columns {there}, but no {missing}. {MASKS_NEEDED}")
    return {**found, **_id_column(given, there)}


def _picture_columns(given: Columns, there: list[str]) -> dict[str, str]:
    """The columns of pictures without masks: `image`, and `image_id` where there is one."""
    masks = [name for name in ("instances", "objects") if name in given]
    if masks:
        raise ValueError(f"`data.columns` names {masks}, but `data.format: images` reads no masks: leave them out.")
    image = given.get("image", "image")
    if image not in there:
        raise ValueError(f"The dataset has columns {there}, but no {image!r}; `data.columns.image` names it.")
    return {"image": image, **_id_column(given, there)}


def _id_column(given: Columns, there: list[str]) -> dict[str, str]:
    """`image_id` and its column, where there is one."""
    names = [given["image_id"]] if "image_id" in given else [name for name in ID_COLUMNS if name in there]
    return {"image_id": names[0]} if names else {}


__all__ = ["LABELLED", "SEGMENTED", "check_columns_field", "check_there", "segmented_columns"]
