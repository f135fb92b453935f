"""Opens stored datasets: parquet, folders of `save_to_disk`, what else `datasets` loads, here or on the Hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import Cells
from .parquet_files import cells_of, data_files, read_footer
from .paths import inside, source_root
from .splits import ONLY_SPLIT, SEVERAL_PARTS, check_local, hub_splits, is_saved, resolve_split


if TYPE_CHECKING:
    from datasets import Dataset


EMPTY = "The split {split!r} of {source} is empty: it has no rows."


@dataclass(frozen=True)
class Stored:
    """A split of a stored dataset.

    Args:
        dataset (`datasets.Dataset`): Its rows, columns as they are.
        cells ([`Cells`]): How their images are found.
    """

    dataset: "Dataset"
    cells: Cells


def open_stored(
    source: "str | Path | Dataset", split: str, config_name: str | None = None, revision: str | None = None
) -> Stored:
    """A split of a parquet file or folder, a folder of `save_to_disk`, or a dataset on the Hub.

    Args:
        source (`str`, `Path` or `Dataset`): Where it lies; a dataset is returned as it is.
        split (`str`): Its name.
        config_name (`str`, *optional*): Configuration of a dataset on the Hub that has several.
        revision (`str`, *optional*): Branch, tag or commit of a dataset on the Hub.

    Raises:
        ValueError: If nothing is there, it has no such split (listing those there are) or no rows in it, a file is
            broken, or one lies outside of the source.
    """
    import datasets

    if isinstance(source, datasets.Dataset):
        return Stored(source, Cells(None))
    path = Path(source)
    check_local(str(source), config_name=config_name, revision=revision)
    with _readable(str(source)):
        if path.is_file():
            opened = _open_file(path, split)
        elif is_saved(path):
            opened = _open_saved(path, split)
        else:
            opened = _open_built(str(source), split, config_name, revision)
    if not len(opened.dataset):
        raise ValueError(EMPTY.format(split=split, source=source))
    return opened


def stored_splits(source: str, config_name: str | None = None) -> list[str]:
    """The splits of what [`open_stored`] opens; a single file or dataset is `ONLY_SPLIT`.

    Raises:
        ValueError: If nothing is there.
    """
    path = Path(source)
    if path.is_file():
        return [ONLY_SPLIT]
    if is_saved(path):
        return _saved_splits(path) or [ONLY_SPLIT]
    if path.is_dir():
        with _readable(source):
            return list(data_files(source)[1])
    return hub_splits(source, config_name)


def stored_columns(source: str, config_name: str | None = None) -> list[str]:
    """The columns of what [`open_stored`] opens, told from its first split's head."""

    path = Path(source)
    if is_saved(path):
        return open_stored(source, stored_splits(source)[0]).dataset.column_names
    if path.is_file():
        return list(read_footer(source).features)
    split = stored_splits(source, config_name)[0]
    with _readable(source):
        builder, _ = data_files(source, config_name)
        return list(builder.as_streaming_dataset(split=split).features)


def _open_file(path: Path, split: str) -> Stored:
    import datasets

    name = resolve_split(split, [ONLY_SPLIT], f"{path} ({SEVERAL_PARTS})")
    _check_rows([str(path)], path, name)
    return Stored(datasets.load_dataset("parquet", data_files={name: str(path)}, split=name), Cells())


def _check_rows(files: list[str], source: Path, split: str) -> None:
    """Raises `ValueError` for parquet files of a split that are broken, or all empty."""
    footers = [read_footer(file) for file in files]
    if not any(len(footer.group_ends) and footer.group_ends[-1] for footer in footers):
        raise ValueError(EMPTY.format(split=split, source=source))


def _open_saved(path: Path, split: str) -> Stored:
    import datasets

    splits, root = _saved_splits(path), source_root(path)
    name = resolve_split(split, splits or [ONLY_SPLIT], f"{path}" if splits else f"{path} ({SEVERAL_PARTS})")
    folder = inside(path, name, [root]) if splits else path
    for state in _read_list(folder / "state.json", "_data_files"):
        inside(folder, state["filename"] if isinstance(state, dict) and "filename" in state else "", [root])
    return Stored(datasets.Dataset.load_from_disk(str(folder)), Cells((root,)))


def _saved_splits(path: Path) -> list[str]:
    """The splits that a folder of `save_to_disk` names; none where it is a single dataset."""
    file = path / "dataset_dict.json"
    return [str(name) for name in _read_list(file, "splits")] if file.is_file() else []


def _read_list(file: Path, name: str) -> list[Any]:
    """A list of a JSON file of `save_to_disk`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content.get(name) if isinstance(content, dict) else None
        if not isinstance(found, list):
            raise ValueError(f"it has no list `{name}`")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not as `save_to_disk` writes it: {error}") from error
    return found


def _open_built(source: str, split: str, config_name: str | None, revision: str | None) -> Stored:
    """What `datasets` loads: a local folder of data files, or a dataset on the Hub."""
    import datasets

    local = Path(source).is_dir()
    names = [] if local else hub_splits(source, config_name, revision)
    builder, files = data_files(source, config_name, revision)
    name = resolve_split(split, list(files) if local else names, source)
    everything = [file for found in files.values() for file in found]
    tables = bool(everything) and all(file.endswith(".parquet") for file in everything)
    if local and tables:
        for file in everything:
            read_footer(file)  # all of them are converted, whichever split is asked for
        _check_rows(files[name], Path(source), name)
    builder.download_and_prepare()
    cells = cells_of(source) if tables else Cells((source_root(Path(source)), *_caches()) if local else _caches())
    return Stored(builder.as_dataset(split=datasets.Split(name)), cells)


def _caches() -> tuple[Path, ...]:
    """Where `datasets` unpacks archives, and where files of the Hub are kept."""
    from datasets import config
    from huggingface_hub import constants

    return tuple(Path(folder).resolve() for folder in (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE))


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """What `datasets` and Arrow say of broken files, as a `ValueError` that names the source."""
    import pyarrow as pa
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    try:
        yield
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        raise ValueError(f"`data.source` {source!r} cannot be read: {cause}") from error
    except (DatasetsError, pa.ArrowException) as error:
        raise ValueError(f"`data.source` {source!r} cannot be read: {error}") from error


__all__ = ["Stored", "open_stored", "stored_columns", "stored_splits"]
