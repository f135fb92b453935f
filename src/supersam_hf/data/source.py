"""Where examples lie: shards of rows, any row of which can be read without what lies before it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .images import encoded_size
from .skipped import LeftOut


@dataclass(frozen=True)
class Shard:
    """A file, or a part of a folder.

    Args:
        name (`str`): Path or URL, as messages show it.
        rows (`int`): Examples in it.
        size (`int`, *optional*, defaults to 0): Bytes, where they are known: tells it from a later one of its name.
        contents (`str`, *optional*): What else does: a digest of the names of its files, the first row that is taken.
    """

    name: str
    rows: int
    size: int = 0
    contents: str = ""


class UnreadableError(ValueError):
    """An example that cannot be read; the message names its file and what is wrong with it."""


class Source(ABC):
    """Examples in shards. It is cheap to make, can be pickled (loader workers get a copy) and holds no open file then.

    Attributes:
        shards (`Sequence[Shard]`): In a fixed order.
        left_out (`Sequence[LeftOut]`): What lies there and is no part of an example.
    """

    shards: Sequence[Shard]
    left_out: Sequence[LeftOut] = ()

    @abstractmethod
    def read(self, shard: int, row: int) -> dict[str, Any]:
        """One example: canonical (see `canonical_features`), or `image` and `label`; the image encoded, as
        `{"bytes": ..., "path": ...}`.

        Raises:
            UnreadableError: If this example is broken.
            FileNotFoundError: If the shard is gone, naming it.
        """

    def name(self, shard: int, row: int) -> str:
        """What messages call an example: its file, where it has one of its own."""
        return f"{self.shards[shard].name}, row {row}"

    def image_size(self, shard: int, row: int) -> tuple[int, int]:
        """(height, width) of an example's image once it is decoded.

        Raises:
            UnreadableError: If this example is broken.
        """
        return encoded_size(self.read(shard, row)["image"])

    def stamp(self, shard: int) -> str:
        """Changes when the files of a shard do; what was converted from them is kept under it."""
        return repr(self.shards[shard])

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def fingerprint(self) -> str:
        """Digest of the names, rows, sizes and contents of the shards."""
        digest = hashlib.sha256()
        for shard in self.shards:
            line = f"{shard.name}:{shard.rows}:{shard.size}:{shard.contents}\n"
            digest.update(line.encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:16]
