"""Repositories of the Hub on loopback, in memory: files, commits, branches, tags, pull requests, LFS objects."""

import base64
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any


LFS_SUFFIXES = {".safetensors", ".parquet", ".png", ".bin", ".arrow"}
LFS_BYTES = 10_000_000  # larger files are LFS whatever their name


class HubError(Exception):
    """An answer that is an error, with the headers by which clients tell which one."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "", **body: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message}
        self.headers |= {"X-Error-Code": code} if code else {}
        self.headers |= {"X-Repo-Commit": commit} if commit else {}


@dataclass(frozen=True)
class File:
    """Content of a file, and whether it is kept by LFS."""

    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """Of the content, or of the pointer that stands for it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        content = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def entry(self, path: str) -> dict[str, Any]:
        """As listings of a tree have it."""
        found: dict[str, Any] = {"type": "file", "path": path, "oid": self.git_oid, "size": len(self.data)}
        if self.lfs:
            found["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 127}
        return found


@dataclass(frozen=True)
class Commit:
    """A state of all files."""

    oid: str
    title: str
    description: str
    date: str
    files: Mapping[str, File]
    parent: "Commit | None" = None


class Repo:
    """A repository: `refs` (branch, `refs/pr/N` or tag → commit) and the LFS objects that were uploaded to it."""

    def __init__(self, kind: str, repo_id: str, private: bool) -> None:
        self.kind, self.id, self.private = kind, repo_id, private
        self.lock = threading.RLock()
        self.lfs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, Commit] = {}
        self.pulls: dict[str, Commit] = {}
        self.tags: dict[str, Commit] = {}
        patterns = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES))
        self.branches["main"] = self.new_commit(
            "initial commit", "", {".gitattributes": File(patterns.encode(), False)}
        )

    def new_commit(self, title: str, description: str, files: Mapping[str, File], parent: Any = None) -> Commit:
        seed = f"{self.kind}/{self.id}/{len(self.commits)}/{title}"
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), title, description, date, files, parent)
        self.commits[commit.oid] = commit
        return commit

    def find(self, revision: str) -> Commit | None:
        refs = {**self.commits, **self.tags, **self.pulls, **self.branches}
        return refs.get(revision.removeprefix("refs/heads/"))

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits of a revision, the newest first."""
        commit, found = self.find(revision), []
        while commit is not None:
            found.append(commit)
            commit = commit.parent
        return found

    def store(self, oid: str, data: bytes) -> None:
        """Keeps an LFS object, if it is what was announced."""
        if hashlib.sha256(data).hexdigest() != oid:
            raise HubError(400, "The uploaded content does not have the checksum that was announced.")
        self.lfs[oid] = data

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content of the files of a revision, without `.gitattributes`."""
        commit = self.find(revision)
        assert commit is not None, f"no revision {revision} in {self.id}"
        return {path: file.data for path, file in sorted(commit.files.items()) if path != ".gitattributes"}


def commit_of(repo: Repo, revision: str) -> Commit:
    commit = repo.find(revision)
    if commit is None:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def change(repo: Repo, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    """Applies a line of a commit to `files`."""
    path = value.get("path", "")
    if key == "file":
        files[path] = File(base64.b64decode(value["content"], validate=True), False)
    elif key == "lfsFile":
        stored = repo.lfs.get(value["oid"])
        if stored is None or ("size" in value and value["size"] != len(stored)):
            raise HubError(400, f"LFS pointer of {path} points to a file that was not uploaded whole.")
        files[path] = File(stored, True)
    elif key in ("deletedFile", "deletedFolder"):
        gone = [name for name in files if name == path or (key == "deletedFolder" and within(name, path))]
        if not gone:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        for name in gone:
            del files[name]
    elif key != "header":
        raise HubError(400, f"Unknown line {key} in a commit")


def within(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/") if folder else True
