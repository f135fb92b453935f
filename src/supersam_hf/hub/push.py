"""Push to the Hub: one commit, which is there whole or not at all."""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id

from .commit import Head, Operations, Target, full_id, names, required_token
from .contents import Contents, contents, folder_kind
from .errors import step_of
from .folder import is_ours
from .readme import adapter_readme, addressed, keeps_other_text, merged_readme, with_tags
from .selection import Kind, left_out_line


logger = logging.getLogger(__name__)

# transformers loads the adapter of a repository that has one, whatever model lies beside it.
EXCLUDED = {"model": "adapter_config.json", "adapter": "config.json"}

KEPT = (
    "README.md of {repo_id} keeps its text, and only its metadata is updated: what the text says of the weights, and "
    "the revision that it pins, are of an earlier push. Edit it there."
)


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
    include: Sequence[str] = (),
    **export_options: Any,
) -> CommitInfo:
    """Publishes a model, or the folder of a model or a peft adapter, in one commit.

    The repository and the branch are made if they are not there. A README.md that somebody has written or edited there
    keeps its text and gets the new card's metadata, with a warning; files of an earlier push that the new one does not
    have are deleted in the same commit. Of a folder, only what [`export`] writes there is sent, with the figures that
    its README.md shows and what `include` names; a warning lists what stays. A link out of the folder is refused.

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
        include (`list[str]`): More files to send, by their path in the folder; no hidden ones and no pickles.
        export_options: Those of [`export`]: `processor`, `card`, `search`, `pareto`, `figures`, `stock`,
            `max_shard_size`.

    Returns:
        `CommitInfo`: The commit; the newest one where nothing has changed.

    Raises:
        ValueError: If `repo_id` is malformed, there is no model, a file to send is a link out of the folder or cannot
            be sent, or `version` is given for a pull request; before anything is sent.
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
        found = contents(model_or_folder, Path(scratch) / "model", export_options, where, include=include)
        upload = Upload(found, tags or (), repo_id, version or revision)
        if found.left_out:
            logger.warning(left_out_line(Path(model_or_folder), found.left_out))
        target = Target(api, repo_id, "model", private, revision, create_pr)
        message = commit_message or f"Upload {upload.kind}"
        return upload.send(target, version, commit_message=message, commit_description=commit_description)


class Upload:
    """The files of a model or an adapter on their way to a repository.

    Args:
        contents ([`Contents`]): What is sent.
        tags (`list[str]`): Added to the card's.
        repo_id (`str`): The repository.
        revision (`str`, *optional*): What its card's snippets pin.
    """

    def __init__(self, contents: Contents, tags: Sequence[str], repo_id: str, revision: str | None = None) -> None:
        self.kind: Kind = folder_kind(contents.folder)
        self.files = dict(contents.files)
        readme = self.files.pop("README.md", None)
        if readme is None:
            card = adapter_readme(contents.folder) if self.kind == "adapter" else ""
        else:
            card = addressed(readme.read_text(encoding="utf-8"), repo_id, revision)
        self.card = with_tags(card, tags)

    def _check(self, head: Head) -> None:
        if EXCLUDED[self.kind] in names(head):
            other = "adapter" if self.kind == "model" else "model"
            raise ValueError(
                f"it holds a {EXCLUDED[self.kind]}: a repository holds a model or an adapter. Push the {self.kind} to "
                f"another, or delete the {other} there"
            )

    def send(self, target: Target, version: str | None = None, **message: Any) -> CommitInfo:
        """Commits, and tags the commit with `version`.

        Raises:
            PushError: If the Hub refuses, or the connection is lost.
        """
        target.make()
        commit = target.commit(lambda head: self.operations(target, head), **message)
        if version is not None:
            with step_of(target.repo_id, f"tag the commit {version!r}", "The commit is there, its tag is not."):
                target.api.create_tag(target.repo_id, tag=version, revision=commit.oid, exist_ok=True)
        return commit

    def operations(self, target: Target, head: Head) -> Operations:
        """What to change about the head of the branch.

        Raises:
            ValueError: If the repository holds the other kind.
        """
        self._check(head)
        operations: Operations = [
            CommitOperationDelete(name) for name in names(head) if name not in self.files and is_ours(name, self.kind)
        ]
        operations += [CommitOperationAdd(name, path) for name, path in self.files.items()]
        card, there = self.card, target.readme(head)
        if card and there is not None:
            if keeps_other_text(there, card):
                logger.warning(KEPT.format(repo_id=head.id))
            card = merged_readme(there, card)
        if card:
            operations.append(CommitOperationAdd("README.md", card.encode("utf-8")))
        return operations
