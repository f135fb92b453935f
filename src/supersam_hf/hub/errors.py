"""What went wrong on the way to the Hub, in words that say what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError


# What huggingface_hub raises for refusals, lost connections, broken answers and failed uploads.
HUB_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)

REASONS = {
    401: "the Hub does not accept the token; log in again with `hf auth login`, or give another `token`",
    403: "the token may not do this; it needs write access to the repository's namespace",
    404: "the repository or the revision does not exist, or the token may not see it",
    409: "another operation on the repository is under way",
    412: "somebody else committed in the meantime",
    429: "the Hub limits the rate of requests; wait a little",
}
# Those that pass by themselves, with every error of the Hub's own.
PASSING = (408, 409, 412, 429)
# Those without an answer: the connection was lost, or what came back was cut off.
LOST = (HTTPError, ConnectionError, TimeoutError, RuntimeError, JSONDecodeError, LocalEntryNotFoundError)
SECRET = re.compile(r"hf_\w+|Bearer [^'\s]+")


class PushError(RuntimeError):
    """A push that did not come to its end. Its commit is whole or not there.

    Args:
        repo_id (`str`): Where to.
        step (`str`): What was being done.
        reason (`str`): Why it failed.
        state (`str`): What is there now.
        passing (`bool`): Whether the same push, run again, completes it; else something must be changed first.
    """

    def __init__(self, repo_id: str, step: str, reason: str, state: str, passing: bool = False) -> None:
        again = " The same push, run again, completes it." if passing else ""
        super().__init__(f"Could not {step} ({repo_id}): {reason}. {state}{again}")
        self.repo_id = repo_id
        self.step = step


@contextmanager
def step_of(repo_id: str, step: str, state: str) -> Iterator[None]:
    """Names the step in a [`PushError`] where something fails inside; the cause stays chained."""
    try:
        yield
    except HUB_ERRORS as error:
        raise PushError(repo_id, step, reason_of(error), state, is_passing(error)) from error


def reason_of(error: BaseException) -> str:
    """One line: by the status of the Hub's answer, if it gave one; without the token."""
    status = _status(error)
    if status in REASONS:
        return f"{REASONS[status]} ({status})"
    if status is not None and status >= 500:
        return f"the Hub had an error of its own ({status})"
    told = SECRET.sub("***", " ".join(str(error).split()))
    if status is None and isinstance(error, (HTTPError, ConnectionError)):
        return f"the connection failed ({type(error).__name__}: {told})"
    return (told or type(error).__name__).rstrip(".")


def is_passing(error: BaseException) -> bool:
    """Whether the same push may come to its end when it is run again."""
    status = _status(error)
    if status in (401, 403, 404):
        return False
    # A RuntimeError is a failed upload of a large file: the storage may refuse a part twice sent, and takes it anew.
    if status is not None and not isinstance(error, RuntimeError):
        return status in PASSING or status >= 500
    return isinstance(error, LOST)


def _status(error: BaseException | None) -> int | None:
    """Of the answer that is behind the error; None for a connection that gave none."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code
        error = error.__cause__
    return None
