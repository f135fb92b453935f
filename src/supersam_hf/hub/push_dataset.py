"""A prepared dataset on the Hub: its parquet files and its card in one commit, which is there whole or not at all."""

import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.hf_api import DatasetInfo
from huggingface_hub.utils import validate_repo_id

from .contents import files_of
from .errors import HUB_ERRORS, PushError, reason_of, step_of
from .push import COMMIT, NOTHING, PULL_REQUEST, UNKNOWN, required_token
from .readme import merged_dataset_readme


Operations = list[CommitOperationAdd | CommitOperationDelete]

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
) -> CommitInfo:
    """Publishes a prepared dataset in one commit.

    The repository and the branch are made if they are not there. Of a README.md that is there, what its owner wrote
    stays.

    Args:
        folder (`str` or `Path`): With `README.md`, whose metadata tells the splits and their columns, and `data/`.
        repo_id (`str`): `name` or `namespace/name`.
        own_part (`tuple[str, str]`): What the part of the card that is written anew begins and ends with.
        private (`bool`, *optional*): Whether a new repository is private; the account's default if left out.
        revision (`str`, *optional*): The branch to commit to; `main` if left out.
        create_pr (`bool`): Open a pull request instead of committing to the branch.
        token (`str`, *optional*): With write access; the one of `hf auth login` if left out.

    Returns:
        `CommitInfo`: The commit; the newest one where nothing has changed.

    Raises:
        ValueError: If `repo_id` is malformed, or the folder has no README.md; before anything is sent.
        LocalTokenNotFoundError: If there is no token.
        PushError: If the Hub refuses, or the connection is lost; nothing is half published.
    """
    validate_repo_id(repo_id)
    files = files_of(Path(folder))
    if "README.md" not in files:
        raise ValueError(f"{str(folder)!r} is no prepared dataset: it has no README.md.")
    api = HfApi(token=required_token(token))
    with step_of(repo_id, "create the repository", "Nothing was committed."):
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    if revision is not None and not create_pr and not revision.startswith("refs/"):
        with step_of(repo_id, f"create the branch {revision!r}", NOTHING):
            api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    return _Upload(api, repo_id, files, own_part, private).commit(revision, create_pr)


class _Upload:
    """The files of a dataset on their way to a repository."""

    def __init__(
        self, api: HfApi, repo_id: str, files: dict[str, Path], own_part: tuple[str, str], private: bool | None
    ) -> None:
        self.api, self.repo_id, self.own_part, self.private = api, repo_id, own_part, private
        self.files = dict(files)
        self.card = self.files.pop("README.md").read_text(encoding="utf-8")

    def commit(self, revision: str | None, create_pr: bool) -> CommitInfo:
        """One commit on what the branch holds now, planned once more where the branch has moved on meanwhile."""
        options: dict[str, Any] = {"repo_type": "dataset", "commit_message": "Upload dataset"}
        options |= {"revision": revision, "create_pr": create_pr}
        head, operations = self._plan(revision, NOTHING)
        try:
            return self.api.create_commit(self.repo_id, operations, parent_commit=head.sha, **options)
        except HUB_ERRORS as error:
            moved = self._has_moved(revision, head.sha)
            if not moved:
                state = PULL_REQUEST if create_pr else UNKNOWN if moved is None else NOTHING
                raise PushError(self.repo_id, COMMIT, reason_of(error), state) from error
        head, operations = self._plan(revision, UNKNOWN)
        with step_of(self.repo_id, COMMIT, UNKNOWN):
            return self.api.create_commit(self.repo_id, operations, parent_commit=head.sha, **options)

    def _plan(self, revision: str | None, state: str) -> tuple[DatasetInfo, Operations]:
        """The head of the branch, and what to change about it."""
        with step_of(self.repo_id, "read what it holds", state):
            head = self.api.dataset_info(self.repo_id, revision=revision)
            if self.private and not head.private:
                raise ValueError(
                    "`private` holds for new repositories; this one exists and is public. Make it private in its "
                    "settings, or push to another"
                )
            return head, self._operations(head)

    def _operations(self, head: DatasetInfo) -> Operations:
        names = [sibling.rfilename for sibling in head.siblings or []]
        operations: Operations = [
            CommitOperationDelete(name) for name in names if name not in self.files and fnmatch.fnmatch(name, SHARDS)
        ]
        operations += [CommitOperationAdd(name, path) for name, path in self.files.items()]
        card = self.card
        if "README.md" in names:
            path = hf_hub_download(
                self.repo_id, "README.md", repo_type="dataset", revision=head.sha, token=self.api.token
            )
            card = merged_dataset_readme(Path(path).read_bytes().decode("utf-8-sig"), card, self.own_part)
        return [*operations, CommitOperationAdd("README.md", card.encode("utf-8"))]

    def _has_moved(self, revision: str | None, sha: str | None) -> bool | None:
        """Whether the branch has another head than `sha`; None if the Hub does not say."""
        try:
            return self.api.dataset_info(self.repo_id, revision=revision).sha != sha
        except HUB_ERRORS:
            return None
