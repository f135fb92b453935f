"""Splits of datasets and their names."""

from pathlib import Path
from typing import TYPE_CHECKING

from .ranges import slice_rows


if TYPE_CHECKING:
    from datasets import Dataset


TRAINING_NAMES = ("train", "training")
VALIDATION_NAMES = ("validation", "val", "valid")
TEST_NAMES = ("test", "testing")
KNOWN_SPLITS = (*TRAINING_NAMES, *VALIDATION_NAMES, *TEST_NAMES)
# Of a source that has no others, and how to evaluate on a part of it.
ONLY_SPLIT = "train"
SEVERAL_PARTS = "one of it can be cut as train[:90%] and train[90%:]"


class NoSplitError(ValueError):
    """A source has no split of the wanted name.

    Args:
        split (`str`): The wanted one.
        names (`list[str]`): Those that there are.
        where (`str`): What messages call the source.
    """

    def __init__(self, split: str, names: list[str], where: str) -> None:
        super().__init__(split, names, where)
        self.split, self.names, self.where = split, sorted(names), where

    def __str__(self) -> str:
        return f"There is no split {self.split!r} in {self.where}; the splits there are {self.names}."


def resolve_split(split: str, names: list[str], where: str) -> str:
    """The one of `names` that `split` means: the same name, or another of the same meaning ("val", "validation").

    Raises:
        NoSplitError: If there is none, listing those there are.
    """
    if split in names:
        return split
    meanings = (TRAINING_NAMES, VALIDATION_NAMES, TEST_NAMES)
    same = [name for name in names for meaning in meanings if {split, name} <= set(meaning)]
    if len(same) != 1:
        raise NoSplitError(split, names, where)
    return same[0]


def split_slice(split: str) -> tuple[str, str]:
    """A split and its slice: "train[:90%]" is ("train", "[:90%]"), "train" is ("train", "")."""
    name, bracket, rest = split.partition("[")
    return name, bracket + rest


def take_slice(dataset: "Dataset", part: str) -> "Dataset":
    """The rows that a slice as "[:90%]" or "[100:200]" names; all of them for ""."""
    return dataset.select(range(*slice_rows(part, len(dataset)))) if part else dataset


def check_local(source: str, section: str = "data.", **given: str | None) -> None:
    """Raises `ValueError` where a local source is given what only a dataset on the Hub has.

    Args:
        source (`str`): Local path, or dataset id.
        section (`str`, *optional*, defaults to `"data."`): What stands before the names in messages.
        given (`str`, *optional*): Values of `config_name` and `revision` by name.
    """
    for name, value in given.items():
        if value is not None and Path(source).exists():
            raise ValueError(f"`{section}{name}` is for datasets on the Hub; {source!r} is a local path.")


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def hub_splits(source: str, config_name: str | None = None, revision: str | None = None) -> list[str]:
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
        return datasets.get_dataset_split_names(source, config_name, revision=revision)
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"`data.source` {source!r} is neither a local path nor a dataset that the Hub gave: {error}"
        ) from error
