"""A Hugging Face Hub on loopback, for tests: repositories in memory, spoken to by the real clients over HTTP.

It knows what `huggingface_hub` (without xet), `transformers`, `datasets`, `peft` and `evaluate` ask for: repositories,
commits of regular and LFS files, branches, tags, pull requests, downloads with ranges, tokens. A commit is visible
whole or not at all. Faults can be asked for, to see what a client does when the wire or the Hub fails.

    with HubServer() as server:
        subprocess.run([sys.executable, "push.py"], env=server.env(tmp_path))
        print(server.repos["models", "loopback/mine"].files())
"""

import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repos import HubError, Repo
from hub_routes import PREFIXES, ROUTES, USER, Answer, Request


WRITE_TOKEN, READ_TOKEN = "hf_loopback_write", "hf_loopback_read"
BAD_TOKEN = "Invalid credentials in Authorization header"


@dataclass
class Fault:
    """Something that goes wrong with requests.

    Args:
        method (`str`): "GET", "PUT", …
        path (`str`): Regular expression, searched in the request's path with its query, as sent.
        action (`str`): "drop" (no answer, not handled), "drop_after" (handled, no answer), "truncate" (half of the
            request's body is read, or half of the answer's is sent where the request has none), "truncate_answer"
            (handled, half of the answer), or a status such as "500", "429", "401", "403", "409".
        times (`int`, *optional*): How many requests; all of them by default None.
        after (`int`): Requests that pass before the first one fails.
    """

    method: str
    path: str
    action: str
    times: int | None = 1
    after: int = 0
    seen: int = field(default=0, init=False)
    used: int = field(default=0, init=False)

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request fails; counts it."""
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.used >= self.times):
            return False
        self.used += 1
        return True


class HubServer:
    """The Hub, while its `with` block lasts.

    Args:
        part_bytes (`int`, *optional*): LFS objects of more bytes are uploaded in parts of so many.

    Attributes:
        url (`str`): The endpoint, "http://127.0.0.1:PORT".
        repos (`dict`): [`Repo`] by (kind, id), kind one of "models", "datasets", "spaces".
        faults (`list`): What goes wrong, see [`Fault`]; the first that fits a request counts.
        requests (`list`): (method, path with query) of each request, in order.
        forbidden (`set`): Namespaces that the write token may not write to.
    """

    def __init__(self, part_bytes: int | None = None) -> None:
        self.part_bytes = part_bytes
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.forbidden: set[str] = set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def settings(self, home: Path) -> dict[str, str]:
        """Environment variables that point a client here."""
        folders = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_DATASETS_CACHE": home / "datasets"}
        folders |= {"HF_MODULES_CACHE": home / "modules", "HF_EVALUATE_CACHE": home / "evaluate"}
        switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        return {
            **{name: str(folder) for name, folder in folders.items()},
            **dict.fromkeys(switches, "1"),
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": WRITE_TOKEN,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def env(self, home: Path) -> dict[str, str]:
        """The whole environment of a client in another process, with the write token."""
        return {**os.environ, **self.settings(home)}

    def strike(self, method: str, path: str) -> str | None:
        """Logs a request; the action of the fault that strikes it."""
        with self.lock:
            self.requests.append((method, path))
            return next((fault.action for fault in self.faults if fault.strikes(method, path)), None)

    def answer(self, method: str, path: str, headers: Message, body: bytes) -> Answer:
        """Handles a request."""
        url = urlsplit(path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        try:
            request = Request(self, role_of(headers), method, url.path, query, headers, body)
            for methods, pattern, function in ROUTES:
                match = re.fullmatch(pattern, request.path)
                if match and method in methods.split():
                    return function(request, **{key: unquote(value or "") for key, value in match.groupdict().items()})
            raise HubError(404, f"Not found: {method} {path}")
        except HubError as error:
            return Answer(error.body, error.status, error.headers)
        except (json.JSONDecodeError, KeyError) as error:
            return Answer({"error": f"Malformed request: {error!r}"}, 400)


def role_of(headers: Message) -> str | None:
    """What the token of a request allows."""
    token = (headers.get("Authorization") or "").removeprefix("Bearer ")
    if token not in ("", READ_TOKEN, WRITE_TOKEN):
        raise HubError(401, BAD_TOKEN)
    return {READ_TOKEN: "read", WRITE_TOKEN: "write"}.get(token)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive; lets faults strike."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer waits for an acknowledgement

    def handle_request(self) -> None:
        action = self.hub.strike(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if action == "truncate" and length:
            self.rfile.read(length // 2)
            return self.hang_up()
        body = self.read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if action == "drop":
            return self.hang_up()
        if action is not None and action.isdigit():
            return self.send(failure(int(action), self.hub.url, self.path, body))
        answer = self.hub.answer(self.command, self.path, self.headers, body)
        if action == "drop_after":
            return self.hang_up()
        return self.send(answer, halved=action in ("truncate", "truncate_answer"))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def send(self, answer: Answer, halved: bool = False) -> None:
        content = answer.content
        kind = "application/octet-stream" if isinstance(answer.body, bytes) else "application/json"
        self.send_response(answer.status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if halved else content)
        if halved:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass  # `HubServer.requests` has them


def failure(status: int, url: str, path: str, body: bytes) -> Answer:
    """The answer to a request that a fault strikes, as the Hub words it."""
    message = {401: BAD_TOKEN, 403: "Forbidden: no permission", 429: "Too many requests"}.get(status, "Loopback fault")
    error = HubError(status, message)
    if status == 429:
        error.headers["Retry-After"] = "0"
    if status == 409 and path == "/api/repos/create":
        asked = json.loads(body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        error.body["url"] = f"{url}/{PREFIXES[asked.get('type', 'model') + 's']}{name}"
    return Answer(error.body, status, error.headers)
