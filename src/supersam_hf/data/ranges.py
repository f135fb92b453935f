"""A part of a source: the rows that a slice of a split names."""

from dataclasses import replace
from typing import Any

from .source import Shard, Source


class RowRange(Source):
    """Rows `start` to `stop` of a source, counted over all its shards; a shard without any of them is left out.

    Args:
        source ([`Source`]): Of which to take them.
        start (`int`): First row, at least 0.
        stop (`int`): Row after the last one; rows that are not there are not missed.
    """

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self.source = source
        self.shards: list[Shard] = []
        # For each shard its number in the source and the first row taken of it.
        self._begins: list[tuple[int, int]] = []
        before = 0
        for number, shard in enumerate(source.shards):
            first, last = max(start - before, 0), min(stop - before, shard.rows)
            before += shard.rows
            if first < last:
                self.shards.append(replace(shard, rows=last - first, contents=f"{shard.contents}[{first}:]"))
                self._begins.append((number, first))

    def _place(self, shard: int, row: int) -> tuple[int, int]:
        number, first = self._begins[shard]
        return number, first + row

    def read(self, shard: int, row: int) -> dict[str, Any]:
        return self.source.read(*self._place(shard, row))

    def name(self, shard: int, row: int) -> str:
        return self.source.name(*self._place(shard, row))

    def image_size(self, shard: int, row: int) -> tuple[int, int]:
        return self.source.image_size(*self._place(shard, row))

    def stamp(self, shard: int) -> str:
        number, first = self._begins[shard]
        return f"{self.source.stamp(number)}[{first}:{first + self.shards[shard].rows}]"


def sliced(source: Source, part: str, limit: int | None = None) -> Source:
    """The rows that a slice as "[:90%]" or "[100:200]" names, all of them for "", and of those the first `limit`."""
    start, stop = slice_rows(part, len(source))
    if limit is not None:
        stop = min(stop, start + limit)
    return source if (start, stop) == (0, len(source)) else RowRange(source, start, stop)


def slice_rows(part: str, total: int) -> tuple[int, int]:
    """First row and the one after the last that a slice as "[:90%]" names of `total` rows; all of them for ""."""
    from datasets import ReadInstruction

    if not part:
        return 0, total
    rows = ReadInstruction.from_spec("rows" + part).to_absolute({"rows": total})[0]
    return rows.from_ or 0, total if rows.to is None else rows.to
