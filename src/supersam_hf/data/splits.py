"""Opens stored datasets and finds their splits by name."""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset


VALIDATION_NAMES = ("validation", "val", "valid")


def resolve_split(split: str, names: list[str], where: str) -> str:
    """The one of `names` that `split` means: the same name, or another name of the validation split.

    Raises:
        ValueError: If there is none, listing those there are.
    """
    if split in names:
        return split
    same = [name for name in names if split in VALIDATION_NAMES and name in VALIDATION_NAMES]
    if len(same) != 1:
        raise ValueError(f"There is no split {split!r} in {where}; the splits there are {sorted(names)}.")
    return same[0]


def split_slice(split: str) -> tuple[str, str]:
    """A split and its slice: "train[:90%]" is ("train", "[:90%]"), "train" is ("train", "")."""
    name, bracket, rest = split.partition("[")
    return name, bracket + rest


def take_slice(dataset: "Dataset", part: str) -> "Dataset":
    """The rows that a slice as "[:90%]" or "[100:200]" names; all of them for ""."""
    from datasets import ReadInstruction

    if not part:
        return dataset
    rows = ReadInstruction.from_spec("rows" + part).to_absolute({"rows": len(dataset)})[0]
    return dataset.select(range(rows.from_ or 0, len(dataset) if rows.to is None else rows.to))


def open_stored(source: "str | Path | Dataset", split: str, config_name: str | None = None) -> "Dataset":
    """A split of a parquet file or folder, a folder of `save_to_disk`, or a dataset on the Hub, columns as they are.

    Args:
        source (`str`, `Path` or `Dataset`): Where it lies; a dataset is returned as it is.
        split (`str`): Its name.
        config_name (`str`, *optional*): Configuration of a dataset on the Hub that has several.

    Raises:
        ValueError: If nothing is there, or it has no such split (listing those there are).
    """
    import datasets

    if isinstance(source, datasets.Dataset):
        return source
    path = Path(source)
    if path.is_file():
        return datasets.load_dataset("parquet", data_files={split: str(path)}, split=split)
    if is_saved(path):
        stored = datasets.load_from_disk(str(path))
        return (
            stored if isinstance(stored, datasets.Dataset) else stored[resolve_split(split, list(stored), str(path))]
        )
    if path.is_dir():
        stored = datasets.load_dataset(str(path))
        return stored[resolve_split(split, list(stored), str(path))]
    names = hub_splits(str(source), config_name)
    return datasets.load_dataset(str(source), config_name, split=resolve_split(split, names, str(source)))


def stored_splits(source: str, config_name: str | None = None) -> list[str]:
    """The splits of what [`open_stored`] opens; a single file or dataset is "train".

    Raises:
        ValueError: If nothing is there.
    """
    import datasets

    path = Path(source)
    if path.is_file():
        return ["train"]
    if is_saved(path):
        stored = datasets.load_from_disk(str(path))
        return ["train"] if isinstance(stored, datasets.Dataset) else [str(name) for name in stored]
    return datasets.get_dataset_split_names(str(path)) if path.is_dir() else hub_splits(source, config_name)


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def hub_splits(source: str, config_name: str | None = None) -> list[str]:
    """The splits of a dataset on the Hub.

    Raises:
        ValueError: If it is not the id of a dataset, or the Hub does not give it.
    """
    import datasets

    looks_like_id = source.count("/") <= 1 and not source.startswith((".", "/", "~"))
    if not looks_like_id:
        raise ValueError(
            f"`data.source` {source!r} does not exist, and is not a dataset id of the form 'name' or 'owner/name'."
        )
    try:
        return datasets.get_dataset_split_names(source, config_name)
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"`data.source` {source!r} is neither a local path nor a dataset that the Hub gave: {error}"
        ) from error
