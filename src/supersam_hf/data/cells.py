"""Images in the rows of tables: their bytes, or the name of a file of the source."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import OnError
from .paths import check_utf8, inside
from .skipped import SkipLog, report_skipped


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Cells:
    """How the images of a table are found.

    Args:
        roots (`tuple[Path, ...]`, *optional*, defaults to `()`): Folders in one of which a file that a row names must
            lie; relative names are relative to the first. Without any, rows must hold the bytes of their images; None
            for a table that the user made, whose files may lie anywhere.
    """

    roots: tuple[Path, ...] | None = ()

    def image(self, row: dict[str, Any], column: str) -> dict[str, Any]:
        """A row's image as `{"bytes": ..., "path": ...}`, whether its column holds that, bytes or a path.

        Raises:
            ValueError: If it holds nothing, or a file outside of the source.
        """
        value = row[column]
        if value is None:
            raise ValueError(f"its `{column}` is null.")
        if isinstance(value, bytes):
            return {"bytes": value, "path": None}
        content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value)
        if content is None and not isinstance(name, str):
            raise ValueError(f"its `{column}` is no image, but {name!r:.60}.")
        return {"bytes": content, "path": name if content is not None else self.file(str(name))}

    def file(self, name: str) -> str:
        """The path of a file that a row names; `ValueError` for one outside of the source."""
        if self.roots is None:
            return name
        if not self.roots:
            raise ValueError(
                f"it has no image, but the name of a file, {name!r}; of a single file, and of parquet files on the "
                "Hub, nothing but the tables themselves is read. Store the images in the table, or name the folder "
                "that holds both as the source."
            )
        file = inside(self.roots[0], name, self.roots)
        check_utf8(file)
        return str(file)


def files_inside(
    dataset: "Dataset", cells: Cells, on_error: OnError, part: str, skip_log: SkipLog | None = None
) -> "Dataset":
    """A dataset with a column `image`, whose files, where rows name some, lie in the source.

    Args:
        dataset (`datasets.Dataset`): Rows.
        cells ([`Cells`]): Where files may lie.
        on_error (`str`): "raise", or "skip": rows with other files are left out.
        part (`str`): What messages call the rows.
        skip_log ([`SkipLog`], *optional*): Where to list those.

    Raises:
        ValueError: If a row names a file outside of the source, naming both.
    """
    refused: dict[int, str] = {}
    moved = False
    for row, name in _named_files(dataset) if cells.roots is not None else ():
        try:
            moved |= cells.file(name) != name
        except ValueError as error:
            refused[row] = f"Row {row}: {error}"
    if refused and on_error == "raise":
        raise ValueError(f"{len(refused)} of {len(dataset)} rows are refused. {next(iter(refused.values()))}")
    report_skipped({f"{part}, row {row}": why for row, why in refused.items()}, len(dataset), part, skip_log)
    if refused:
        dataset = dataset.select([row for row in range(len(dataset)) if row not in refused])
    return _resolved(dataset, cells) if moved else dataset


def _named_files(dataset: "Dataset") -> Iterator[tuple[int, str]]:
    """Rows that name a file in place of an image, and its name."""
    import pyarrow as pa

    start = 0
    for table in dataset.select_columns(["image"]).with_format("arrow").iter(1000):
        images = pa.chunked_array(table["image"]).combine_chunks()
        named = images.field("bytes").is_null().to_pylist()
        for number, name in enumerate(images.field("path").to_pylist()):
            if named[number] and name is not None:
                yield start + number, name
        start += len(images)


def _resolved(dataset: "Dataset", cells: Cells) -> "Dataset":
    """The rows with the paths of the files that they name."""
    from datasets import Image

    plain = dataset.cast_column("image", Image(decode=False))
    features = plain.features
    found = plain.map(
        lambda row: {"image": row["image"] and cells.image(row, "image")}, features=features, desc="Files of images"
    )
    return found.cast_column("image", Image())


__all__ = ["Cells", "files_inside"]
