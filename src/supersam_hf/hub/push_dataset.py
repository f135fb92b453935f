"""A prepared dataset on the Hub: its parquet files and its card in one commit, which is there whole or not at all."""

import fnmatch
import logging
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id

from .commit import Head, Operations, Target, full_id, names, required_token
from .readme import merged_dataset_readme
from .selection import WRITTEN, left_out, left_out_line, selected


logger = logging.getLogger(__name__)

# Files of earlier pushes, by this program or by datasets: deleted where the new dataset has no such file, since all
# that the pattern of a split's names finds is its data.
SHARDS = "data/*-?????-of-?????*.parquet"


def push_dataset(
    folder: str | Path,
    repo_id: str,
    *,
    own_part: tuple[str, str],
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    include: Sequence[str] = (),
) -> CommitInfo:
    """Publishes a prepared dataset in one commit.

    The repository and the branch are made if they are not there. Of a README.md that is there, what its owner wrote
    stays. Of the folder, only README.md, the parquet files of `data/` that [`prepare`] writes and what `include` names
    are sent; a warning lists what stays.

    Args:
        folder (`str` or `Path`): With `README.md`, whose metadata tells the splits and their columns, and `data/`.
        repo_id (`str`): `name` or `namespace/name`.
        own_part (`tuple[str, str]`): What the part of the card that is written anew begins and ends with.
        private (`bool`, *optional*): Whether a new repository is private; the account's default if left out.
        revision (`str`, *optional*): The branch to commit to; `main` if left out.
        create_pr (`bool`): Open a pull request instead of committing to the branch.
        token (`str`, *optional*): With write access; the one of `hf auth login` if left out.
        include (`list[str]`): More files to send, by their path in the folder; no hidden ones and no pickles.

    Returns:
        `CommitInfo`: The commit; the newest one where nothing has changed.

    Raises:
        ValueError: If `repo_id` is malformed, the folder has no README.md, or a file to send is a link out of the
            folder or cannot be sent; before anything is sent.
        LocalTokenNotFoundError: If there is no token.
        PushError: If the Hub refuses, or the connection is lost; nothing is half published.
    """
    validate_repo_id(repo_id)
    files = dataset_files(Path(folder), include)
    stays = left_out(Path(folder), files)
    if stays:
        logger.warning(left_out_line(Path(folder), stays))
    api = HfApi(token=required_token(token))
    target = Target(api, full_id(api, repo_id), "dataset", private, revision, create_pr)
    target.make()
    return target.commit(lambda head: _operations(target, head, files, own_part), commit_message="Upload dataset")


def dataset_files(folder: Path, include: Sequence[str] = ()) -> dict[str, Path]:
    """What is published of a prepared dataset, by its path in the repository.

    Raises:
        ValueError: As [`push_dataset`] does.
    """
    files = selected(folder, WRITTEN["dataset"], include)
    if "README.md" not in files:
        raise ValueError(f"{str(folder)!r} is no prepared dataset: it has no README.md.")
    return files


def _operations(target: Target, head: Head, files: dict[str, Path], own_part: tuple[str, str]) -> Operations:
    """What to change about the head of the branch."""
    operations: Operations = [
        CommitOperationDelete(name) for name in names(head) if name not in files and fnmatch.fnmatch(name, SHARDS)
    ]
    operations += [CommitOperationAdd(name, path) for name, path in files.items() if name != "README.md"]
    card, there = files["README.md"].read_text(encoding="utf-8"), target.readme(head)
    if there is not None:
        card = merged_dataset_readme(there, card, own_part)
    return [*operations, CommitOperationAdd("README.md", card.encode("utf-8"))]
