"""Push to the Hub: one commit, which is there whole or not at all."""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import validate_repo_id

from .contents import Kind, files_of, folder_kind, prepared
from .errors import HUB_ERRORS, PushError, is_passing, reason_of, step_of
from .folder import is_ours
from .readme import adapter_readme, keeps_other_text, merged_readme, with_tags


logger = logging.getLogger(__name__)

# transformers loads the adapter of a repository that has one, whatever model lies beside it.
EXCLUDED = {"model": "adapter_config.json", "adapter": "config.json"}

KEPT = (
    "README.md of {repo_id} keeps its text, and only its metadata is updated: what the text says of the weights, and "
    "the revision that it pins, are of an earlier push. Edit it there."
)
COMMIT = "upload and commit"
NOTHING = "The repository exists; nothing was committed."
UNKNOWN = "The repository exists; whether the commit arrived is not known, but it is whole or not there."
PULL_REQUEST = "The repository exists and its branches are as they were; a pull request may have been opened."


def push(
    model_or_folder: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    version: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    tags: Sequence[str] | None = None,
    **export_options: Any,
) -> CommitInfo:
    """Publishes a model, or the folder of a model or a peft adapter, in one commit.

    The repository and the branch are made if they are not there. A README.md that somebody has written or edited there
    keeps its text and gets the new card's metadata, with a warning; files of an earlier push that the new one does not
    have are deleted in the same commit.

    Args:
        model_or_folder (`SuperSamModel`, `OfbViTForImageClassification`, `str` or `Path`): What to publish. A folder
            that [`export`] wrote is pushed as it is, one that `save_pretrained` wrote is exported first.
        repo_id (`str`): `name` or `namespace/name`.
        private (`bool`, *optional*): Whether a new repository is private; the account's default if left out.
        revision (`str`, *optional*): The branch to commit to; `main` if left out.
        create_pr (`bool`): Open a pull request instead of committing to the branch.
        version (`str`, *optional*): A git tag for the commit, which users can pin as `revision`. One that is there
            stays where it is.
        token (`str`, *optional*): With write access; the one of `hf auth login` if left out.
        commit_message, commit_description (`str`, *optional*): Of the commit.
        tags (`list[str]`, *optional*): Added to the card's.
        export_options: Those of [`export`]: `processor`, `card`, `search`, `pareto`, `figures`, `stock`,
            `max_shard_size`.

    Returns:
        `CommitInfo`: The commit; the newest one where nothing has changed.

    Raises:
        ValueError: If `repo_id` is malformed, there is no model, or `version` is given for a pull request; before
            anything is sent.
        LocalTokenNotFoundError: If there is no token.
        PushError: If the Hub refuses, or the connection is lost; nothing is half published.
    """
    validate_repo_id(repo_id)
    if version is not None and create_pr:
        raise ValueError("`version` tags a commit of a branch; a pull request is tagged once it is merged.")
    api = HfApi(token=required_token(token))
    repo_id = full_id(api, repo_id)
    with TemporaryDirectory() as scratch:
        where = {"repo_id": repo_id, "revision": version or revision}
        folder = prepared(model_or_folder, Path(scratch) / "model", export_options, where)
        upload = Upload(folder, tags or ())
        _make_repository(api, repo_id, private, None if create_pr else revision)
        message = commit_message or f"Upload {upload.kind}"
        commit = upload.commit(
            api,
            repo_id,
            private=private,
            commit_message=message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    if version is not None:
        with step_of(repo_id, f"tag the commit {version!r}", "The commit is there, its tag is not."):
            api.create_tag(repo_id, tag=version, revision=commit.oid, exist_ok=True)
    return commit


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


def _make_repository(api: HfApi, repo_id: str, private: bool | None, branch: str | None) -> None:
    """Repository and branch, where they are not there yet."""
    with step_of(repo_id, "create the repository", "Nothing was committed."):
        api.create_repo(repo_id, private=private, exist_ok=True)
    if branch is not None and not branch.startswith("refs/"):
        with step_of(repo_id, f"create the branch {branch!r}", NOTHING):
            _check_private(api.model_info(repo_id), private)
            api.create_branch(repo_id, branch=branch, exist_ok=True)


def _check_private(head: ModelInfo, private: bool | None) -> None:
    if private and not head.private:
        raise ValueError(
            "`private` holds for new repositories; this one exists and is public. Make it private in its settings, or "
            "push to another"
        )


class Upload:
    """The files of a folder on their way to a repository."""

    def __init__(self, folder: Path, tags: Sequence[str]) -> None:
        self.kind: Kind = folder_kind(folder)
        self.files = files_of(folder)
        readme = self.files.pop("README.md", None)
        if readme is None:
            card = adapter_readme(folder) if self.kind == "adapter" else ""
        else:
            card = readme.read_text(encoding="utf-8")
        self.card = with_tags(card, tags)

    def commit(
        self, api: HfApi, repo_id: str, *, private: bool | None, revision: str | None, create_pr: bool, **message: Any
    ) -> CommitInfo:
        """One commit on what the branch holds now.

        Where it fails although the branch has moved on, either another commit came between, or this one was made and
        the answer got lost: it is then planned once more, on the new head. What is there already is not sent again.
        """
        options = {"revision": revision, "create_pr": create_pr, **message}
        head, operations = self._plan(api, repo_id, revision, private, NOTHING)
        try:
            return api.create_commit(repo_id, operations, parent_commit=head.sha, **options)
        except HUB_ERRORS as error:
            moved = _has_moved(api, repo_id, revision, head.sha)
            if not moved:
                state = PULL_REQUEST if create_pr else UNKNOWN if moved is None else NOTHING
                raise PushError(repo_id, COMMIT, reason_of(error), state, is_passing(error)) from error
        head, operations = self._plan(api, repo_id, revision, private, UNKNOWN)
        with step_of(repo_id, COMMIT, UNKNOWN):
            return api.create_commit(repo_id, operations, parent_commit=head.sha, **options)

    def _plan(
        self, api: HfApi, repo_id: str, revision: str | None, private: bool | None, state: str
    ) -> tuple[ModelInfo, list[CommitOperationAdd | CommitOperationDelete]]:
        """The head of the branch, and what to change about it."""
        with step_of(repo_id, "read what it holds", state):
            head = api.model_info(repo_id, revision=revision)
            _check_private(head, private)
            self._check(head)
            return head, self._operations(api, head)

    def _check(self, head: ModelInfo) -> None:
        if EXCLUDED[self.kind] in _names(head):
            other = "adapter" if self.kind == "model" else "model"
            raise ValueError(
                f"it holds a {EXCLUDED[self.kind]}: a repository holds a model or an adapter. Push the {self.kind} to "
                f"another, or delete the {other} there"
            )

    def _operations(self, api: HfApi, head: ModelInfo) -> list[CommitOperationAdd | CommitOperationDelete]:
        names = _names(head)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(name) for name in names if name not in self.files and is_ours(name, self.kind)
        ]
        operations += [CommitOperationAdd(name, path) for name, path in self.files.items()]
        card = self.card
        if card and "README.md" in names:
            path = hf_hub_download(head.id, "README.md", revision=head.sha, token=api.token)
            there = Path(path).read_bytes().decode("utf-8-sig")
            if keeps_other_text(there, card):
                logger.warning(KEPT.format(repo_id=head.id))
            card = merged_readme(there, card)
        if card:
            operations.append(CommitOperationAdd("README.md", card.encode("utf-8")))
        return operations


def _names(head: ModelInfo) -> list[str]:
    return [sibling.rfilename for sibling in head.siblings or []]


def _has_moved(api: HfApi, repo_id: str, revision: str | None, sha: str | None) -> bool | None:
    """Whether the branch has another head than `sha`; None if the Hub does not say."""
    try:
        return api.model_info(repo_id, revision=revision).sha != sha
    except HUB_ERRORS:
        return None
