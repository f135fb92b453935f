"""Output that never ends a run: what a terminal cannot show is replaced, a closed pipe is written to no more."""

import codecs
import io
import os
import sys


PLAIN = {
    "×": "x",
    "—": "-",
    "–": "-",
    "…": "...",
    "→": "->",
    "θ": "theta",
    "λ": "lambda",
    "±": "+-",
    "²": "2",
    "³": "3",
}
PLAIN |= {"≤": "<=", "≥": ">=", "’": "'", "“": '"', "”": '"', "·": "*", "μ": "u", "µ": "u", "°": " deg"}
ERRORS = "supersam_hf_plain"


def plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks: a word, or an escape (`\\xff` of a name that is no UTF-8)."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(character) or _escaped(character) for character in lacking), error.end


def _escaped(character: str) -> str:
    byte = character.encode("utf-8", "surrogateescape") if "\udc80" <= character <= "\udcff" else None
    return f"\\x{byte[0]:02x}" if byte else character.encode("ascii", "backslashreplace").decode()


class LastingStream(io.TextIOWrapper):
    """Text to a terminal, file or pipe; once nobody reads the pipe any more, to nowhere: the work goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def use_lasting_streams() -> None:
    """Puts a [`LastingStream`] in place of stdout and stderr, unless somebody (a notebook, a test) has put another
    there."""
    codecs.register_error(ERRORS, plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        if not isinstance(stream, LastingStream):
            stream.flush()
            lasting = LastingStream(stream.buffer, stream.encoding, ERRORS, line_buffering=stream.line_buffering)
            setattr(sys, name, lasting)


__all__ = ["ERRORS", "LastingStream", "plain", "use_lasting_streams"]
