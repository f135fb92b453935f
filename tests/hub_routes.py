"""What the Hub on loopback answers to each request, by method and path."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml
from hub_repos import LFS_BYTES, LFS_SUFFIXES, Commit, File, HubError, Repo, change, commit_of, within


if TYPE_CHECKING:
    from hub_server import HubServer


USER = "loopback"
PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
NO_TOKEN = "Invalid username or password."


@dataclass
class Answer:
    """Status, headers and body."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Request:
    """What a client asked, and what its token allows: "read", "write" or None without one."""

    hub: "HubServer"
    role: str | None
    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def repo(self, kind: str, repo_id: str, writing: bool = False) -> Repo:
        """A repository that the client may see, and write to if it asks for that."""
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and self.role is None):
            # The Hub does not tell strangers which repositories exist.
            raise HubError(
                404 if self.role else 401, "Repository not found" if self.role else NO_TOKEN, "RepoNotFound"
            )
        if writing:
            self.check_writer(repo_id)
        return repo

    def check_writer(self, repo_id: str) -> None:
        """Raises [`HubError`] for a client that may not write."""
        if self.role is None:
            raise HubError(401, NO_TOKEN)
        if self.role == "read":
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
        if repo_id.rpartition("/")[0] in self.hub.forbidden:
            raise HubError(403, f"You don't have the rights to write under the namespace of {repo_id}.")


def whoami(request: Request) -> Answer:
    if request.role is None:
        raise HubError(401, NO_TOKEN)
    token = {"role": request.role, "displayName": "loopback"}
    return Answer({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": token}})


def create(request: Request) -> Answer:
    asked = request.json()
    repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
    kind = asked.get("type", "model") + "s"
    request.check_writer(repo_id)
    url = f"{request.hub.url}/{PREFIXES[kind]}{repo_id}"
    with request.hub.lock:
        if (kind, repo_id) in request.hub.repos:
            raise HubError(409, f"You already created this {kind[:-1]} repo", url=url)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        request.hub.repos[kind, repo_id] = Repo(kind, repo_id, private)
    return Answer({"url": url, "name": repo_id})


def delete(request: Request) -> Answer:
    asked = request.json()
    kind, repo_id = asked.get("type", "model") + "s", f"{asked.get('organization') or USER}/{asked['name']}"
    request.repo(kind, repo_id, writing=True)
    with request.hub.lock:
        del request.hub.repos[kind, repo_id]
    return Answer({})


def settings(request: Request, kind: str, id: str) -> Answer:
    repo, asked = request.repo(kind, id, writing=True), request.json()
    repo.private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
    return Answer({"private": repo.private})


def front_matter(text: str) -> dict[str, Any]:
    """The YAML block at the top of a README; raises `yaml.YAMLError`."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = yaml.safe_load(match[1]) if match else {}
    if not isinstance(found, dict | None):
        raise yaml.YAMLError("the metadata is no mapping")
    return found or {}


def validate_yaml(request: Request) -> Answer:
    try:
        front_matter(request.json()["content"])
    except yaml.YAMLError as error:
        return Answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return Answer({"errors": [], "warnings": []})


def preupload(request: Request, kind: str, id: str, revision: str) -> Answer:
    repo = request.repo(kind, id, writing=True)
    current = commit_of(repo, revision).files
    found = []
    for file in request.json()["files"]:
        path = file["path"]
        lfs = Path(path).suffix in LFS_SUFFIXES or file["size"] > LFS_BYTES
        entry = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        found.append(entry | ({"oid": current[path].etag} if path in current else {}))
    return Answer({"files": found})


def lfs_batch(request: Request, prefix: str, id: str) -> Answer:
    repo = request.repo(prefix.rstrip("/") or "models", id, writing=True)
    found = []
    for asked in request.json()["objects"]:
        oid, size = asked["oid"], asked["size"]
        entry: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in repo.lfs:
            href = f"{request.hub.url}/lfs-storage/{repo.kind}/{repo.id}/{oid}"
            upload: dict[str, Any] = {"href": href, "header": {}}
            if request.hub.part_bytes is not None and size > request.hub.part_bytes:
                numbers = range(1, -(-size // request.hub.part_bytes) + 1)
                parts = {str(number): f"{href}?part={number}" for number in numbers}
                upload["header"] = {"chunk_size": str(request.hub.part_bytes), **parts}
            entry["actions"] = {"upload": upload, "verify": {"href": f"{href}/verify", "header": {}}}
        found.append(entry)
    return Answer({"transfer": "basic", "objects": found})


# As the Hub's own, the links that a batch gives need no token.
def lfs_put(request: Request, kind: str, id: str, oid: str) -> Answer:
    repo = request.hub.repos[kind, id]
    with repo.lock:
        if "part" in request.query:
            repo.parts.setdefault(oid, {})[int(request.query["part"])] = request.body
            return Answer({}, headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
        repo.store(oid, request.body)
    return Answer({})


def lfs_complete(request: Request, kind: str, id: str, oid: str) -> Answer:
    repo = request.hub.repos[kind, id]
    with repo.lock:
        parts = repo.parts.pop(oid, {})
        numbers = [part["partNumber"] for part in request.json()["parts"]]
        if sorted(parts) != numbers:
            raise HubError(400, f"Parts {numbers} were named and {sorted(parts)} uploaded.")
        repo.store(oid, b"".join(parts[number] for number in numbers))
    return Answer({})


def lfs_verify(request: Request, kind: str, id: str, oid: str) -> Answer:
    stored = request.repo(kind, id, writing=True).lfs.get(oid)
    if stored is None or len(stored) != request.json()["size"]:
        raise HubError(400, f"No object {oid} of that size was uploaded.")
    return Answer({})


def commit(request: Request, kind: str, id: str, revision: str) -> Answer:
    repo = request.repo(kind, id, writing=True)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    with repo.lock:
        head = commit_of(repo, revision)
        pull = request.query.get("create_pr") == "1"
        if not pull and repo.branches.get(revision) is not head and repo.pulls.get(revision) is not head:
            raise HubError(400, f"{revision} is no branch")
        if header.get("parentCommit") not in (None, head.oid):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            change(repo, files, line["key"], line["value"])
        made = repo.new_commit(header["summary"], header.get("description", ""), files, head)
        url = f"{request.hub.url}/{PREFIXES[kind]}{id}"
        answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{url}/commit/{made.oid}"}
        if pull:
            repo.pulls[f"refs/pr/{len(repo.pulls) + 1}"] = made
            answer["pullRequestUrl"] = f"{url}/discussions/{len(repo.pulls)}"
        else:
            (repo.pulls if revision in repo.pulls else repo.branches)[revision] = made
    return Answer(answer)


def info(request: Request, kind: str, id: str, revision: str = "main") -> Answer:
    repo = request.repo(kind, id)
    head = commit_of(repo, revision or "main")
    readme = head.files.get("README.md", File(b"", False)).data.decode()
    try:
        card = front_matter(readme)
    except yaml.YAMLError:
        card = {}
    siblings = []
    for path, file in sorted(head.files.items()):
        entry = file.entry(path)
        sizes = {"size": entry["size"], "blobId": entry["oid"]}
        if file.lfs:
            sizes["lfs"] = {"sha256": file.sha256, "size": entry["size"], "pointerSize": 127}
        siblings.append({"rfilename": path} | (sizes if request.query.get("blobs") else {}))
    found = {"_id": "0", "id": id, "sha": head.oid, "lastModified": head.date, "createdAt": head.date}
    found |= {"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
    found |= {"tags": card.get("tags", []), "siblings": siblings, "cardData": card, "author": id.split("/")[0]}
    if kind == "models":
        found |= {"modelId": id}
        found |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
    return Answer(found)


def tree(request: Request, kind: str, id: str, revision: str, path: str = "") -> Answer:
    head = commit_of(request.repo(kind, id), revision)
    inside = {name: file for name, file in head.files.items() if within(name, path)}
    if path and not inside:
        raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", head.oid)
    depth = path.count("/") + 1 if path else 0
    folders = {"/".join(name.split("/")[:n]) for name in inside for n in range(depth + 1, name.count("/") + 1)}
    found = [{"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()} for name in folders]
    found += [file.entry(name) for name, file in inside.items()]
    if request.query.get("recursive", "").lower() not in ("true", "1"):
        found = [entry for entry in found if entry["path"].count("/") == depth]
    return Answer(sorted(({"size": 0} | entry for entry in found), key=lambda entry: entry["path"]))


def paths_info(request: Request, kind: str, id: str, revision: str) -> Answer:
    head = commit_of(request.repo(kind, id), revision)
    form = "json" not in (request.headers.get("Content-Type") or "")
    paths = parse_qs(request.body.decode()).get("paths", []) if form else request.json()["paths"]
    found: list[dict[str, Any]] = []
    for path in [paths] if isinstance(paths, str) else paths:
        if path in head.files:
            found.append(head.files[path].entry(path))
        elif any(within(name, path) for name in head.files):
            folder = hashlib.sha1(path.encode()).hexdigest()
            found.append({"type": "directory", "path": path, "oid": folder, "size": 0})
    return Answer(found)


def commits(request: Request, kind: str, id: str, revision: str) -> Answer:
    repo = request.repo(kind, id)
    commit_of(repo, revision)
    who = [{"user": USER}]
    found = [
        {"id": made.oid, "title": made.title, "message": made.description, "date": made.date, "authors": who}
        for made in repo.history(revision)
    ]
    return Answer(found)


def refs(request: Request, kind: str, id: str) -> Answer:
    repo = request.repo(kind, id)

    def listed(found: Mapping[str, Commit], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": made.oid} for name, made in found.items()]

    answer = {"branches": listed(repo.branches, "refs/heads/"), "tags": listed(repo.tags, "refs/tags/")}
    answer["converts"] = []
    if request.query.get("include_prs"):
        answer["pullRequests"] = listed(repo.pulls, "")
    return Answer(answer)


def branch(request: Request, kind: str, id: str, name: str) -> Answer:
    repo = request.repo(kind, id, writing=True)
    return change_ref(repo.branches, repo, name, request, request.json().get("startingPoint", "main"))


def tag(request: Request, kind: str, id: str, name: str) -> Answer:
    repo = request.repo(kind, id, writing=True)
    if request.method == "DELETE":
        return change_ref(repo.tags, repo, name, request, "")
    return change_ref(repo.tags, repo, request.json()["tag"], request, name)


def change_ref(found: dict[str, Commit], repo: Repo, name: str, request: Request, start: str) -> Answer:
    """Makes or removes a branch or tag."""
    with repo.lock:
        if request.method == "DELETE" and name == "main":
            raise HubError(403, "main is protected")
        if request.method == "DELETE":
            if found.pop(name, None) is None:
                raise HubError(404, f"no branch or tag {name}", "RevisionNotFound")
        elif name in found:
            raise HubError(409, f"Reference already exists: {name}")
        else:
            found[name] = commit_of(repo, start)
    return Answer({})


def resolve(request: Request, prefix: str, id: str, revision: str, path: str) -> Answer:
    head = commit_of(request.repo(prefix.rstrip("/") or "models", id), revision)
    file = head.files.get(path)
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", head.oid)
    headers = {"X-Repo-Commit": head.oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or "")
    if not asked or not any(asked.groups()):
        return Answer(file.data, 200, headers)
    size = len(file.data)
    first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
    if first > last:
        return Answer(b"", 416, headers | {"Content-Range": f"bytes */{size}"})
    return Answer(file.data[first : last + 1], 206, headers | {"Content-Range": f"bytes {first}-{last}/{size}"})


ID = r"(?P<id>[^/]+(?:/[^/]+)?)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{ID}"
WEB = rf"/(?P<prefix>datasets/|spaces/|){ID}"
STORAGE = rf"/lfs-storage/(?P<kind>[^/]+)/{ID}/(?P<oid>[0-9a-f]{{64}})"
REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("PUT", f"{API}/settings", settings),
    ("POST", f"{API}/preupload/{REVISION}", preupload),
    ("POST", rf"{WEB}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", STORAGE, lfs_put),
    ("POST", STORAGE, lfs_complete),
    ("POST", f"{STORAGE}/verify", lfs_verify),
    ("POST", f"{API}/commit/{REVISION}", commit),
    ("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.+))?", tree),
    ("POST", f"{API}/paths-info/{REVISION}", paths_info),
    ("GET", f"{API}/commits/{REVISION}", commits),
    ("GET", f"{API}/refs", refs),
    ("POST DELETE", f"{API}/branch/(?P<name>[^/]+)", branch),
    ("POST DELETE", f"{API}/tag/(?P<name>[^/]+)", tag),
    ("GET HEAD", f"{WEB}/resolve/{REVISION}/(?P<path>.+)", resolve),
    ("GET", f"{API}/revision/{REVISION}", info),
    ("GET", API, info),
]
