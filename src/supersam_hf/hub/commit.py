"""One commit on what a branch of a repository holds now: there whole, or not at all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token, hf_hub_download
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo

from .errors import HUB_ERRORS, PushError, is_passing, reason_of, step_of


Head = ModelInfo | DatasetInfo
Operations = list[CommitOperationAdd | CommitOperationDelete]

COMMIT = "upload and commit"
NOTHING = "The repository exists; nothing was committed."
UNKNOWN = "The repository exists; whether the commit arrived is not known, but it is whole or not there."
PULL_REQUEST = "The repository exists and its branches are as they were; a pull request may have been opened."


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Args:
        api (`HfApi`): With the token.
        repo_id (`str`): `namespace/name`.
        repo_type ("model" or "dataset"): Which kind of repository.
        private (`bool`, *optional*): Whether a new repository is private; the account's default if left out.
        revision (`str`, *optional*): The branch to commit to; `main` if left out.
        create_pr (`bool`): Open a pull request instead of committing to the branch.
    """

    api: HfApi
    repo_id: str
    repo_type: Literal["model", "dataset"] = "model"
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False

    def make(self) -> None:
        """Repository and branch, where they are not there yet."""
        with self._step("create the repository", "Nothing was committed."):
            self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=self.private, exist_ok=True)
        branch = None if self.create_pr else self.revision
        if branch is not None and not branch.startswith("refs/"):
            with self._step(f"create the branch {branch!r}", NOTHING):
                self._check_private(self._head(None))
                self.api.create_branch(self.repo_id, branch=branch, repo_type=self.repo_type, exist_ok=True)

    def commit(self, operations: Callable[[Head], Operations], **message: Any) -> CommitInfo:
        """Commits what `operations` wants changed about the head of the branch.

        Where it fails although the branch has moved on, either another commit came between, or this one was made and
        the answer got lost: it is then planned once more, on the new head. What is there already is not sent again.
        """
        options = {"repo_type": self.repo_type, "revision": self.revision, "create_pr": self.create_pr, **message}
        head, planned = self._plan(operations, NOTHING)
        try:
            return self.api.create_commit(self.repo_id, planned, parent_commit=head.sha, **options)
        except HUB_ERRORS as error:
            moved = self._has_moved(head)
            if not moved:
                state = PULL_REQUEST if self.create_pr else UNKNOWN if moved is None else NOTHING
                raise PushError(self.repo_id, COMMIT, reason_of(error), state, is_passing(error)) from error
        head, planned = self._plan(operations, UNKNOWN)
        with self._step(COMMIT, UNKNOWN):
            return self.api.create_commit(self.repo_id, planned, parent_commit=head.sha, **options)

    def readme(self, head: Head) -> str | None:
        """README.md as it is at `head`; None if there is none."""
        if "README.md" not in names(head):
            return None
        path = hf_hub_download(
            self.repo_id, "README.md", repo_type=self.repo_type, revision=head.sha, token=self.api.token
        )
        return Path(path).read_bytes().decode("utf-8-sig")

    def _plan(self, operations: Callable[[Head], Operations], state: str) -> tuple[Head, Operations]:
        with self._step("read what it holds", state):
            head = self._head(self.revision)
            self._check_private(head)
            return head, operations(head)

    def _head(self, revision: str | None) -> Head:
        return self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=revision)  # type: ignore[return-value]

    def _check_private(self, head: Head) -> None:
        if self.private and not head.private:
            raise ValueError(
                "`private` holds for new repositories; this one exists and is public. Make it private in its "
                "settings, or push to another"
            )

    def _has_moved(self, head: Head) -> bool | None:
        """Whether the branch has another head by now; None if the Hub does not say."""
        try:
            return self._head(self.revision).sha != head.sha
        except HUB_ERRORS:
            return None

    def _step(self, step: str, state: str) -> Any:
        return step_of(self.repo_id, step, state)


def names(head: Head) -> list[str]:
    """The files of a repository."""
    return [sibling.rfilename for sibling in head.siblings or []]


def required_token(token: str | None) -> str:
    """The token given, or the one that is logged in with.

    Raises:
        LocalTokenNotFoundError: If there is none.
        ValueError: If it is none by its form; what would tell it to the log of an error further on.
    """
    token = (token or "").strip() or get_token()
    if token is None:
        raise LocalTokenNotFoundError(
            "There is no token to push with: log in with `hf auth login`, set HF_TOKEN, or give `token` "
            "(https://huggingface.co/settings/tokens, with write access)."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("`token` has a space or a sign in it that no token has; copy it again.")
    return token


def full_id(api: HfApi, repo_id: str) -> str:
    """`namespace/name`: with the account's own name where there is none."""
    if "/" in repo_id:
        return repo_id
    with step_of(repo_id, "log in", "Nothing was committed."):
        return f"{api.whoami()['name']}/{repo_id}"
