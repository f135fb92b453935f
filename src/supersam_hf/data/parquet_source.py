"""Rows of parquet files, read by row group as they are needed."""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .parquet_files import ParquetSplit, is_remote, open_parquet
from .source import Shard, Source, UnreadableError
from .unreadable import ADVICE, broken_example, reason


if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile


OPEN_FILES = 8
# How often a row group on the Hub is asked for, each time but the first from a file that is opened anew.
ATTEMPTS = 3


class ParquetSource(Source):
    """A row group is read whole when the first of its rows is asked for. Each process keeps as many as it takes to
    read blocks of `rows_kept` consecutive rows, each in any order, and every group once.

    Args:
        split ([`ParquetSplit`]): The files.
        columns (`Sequence[str]`): Columns to read.
        convert (`Callable`): Makes an example of these columns of a row and the row's number; can be pickled.
        rows_kept (`int`, *optional*, defaults to 0): See above; 0 for rows that are read one after the other.
    """

    def __init__(
        self,
        split: ParquetSplit,
        columns: Sequence[str],
        convert: Callable[[dict[str, Any], int], dict[str, Any]],
        rows_kept: int = 0,
    ) -> None:
        self._ends = [footer.group_ends for footer in split.footers]
        rows = [int(ends[-1]) if len(ends) else 0 for ends in self._ends]
        sizes = [footer.size for footer in split.footers]
        self.shards = [Shard(*shard) for shard in zip(split.files, rows, sizes, strict=True)]
        self._firsts = np.cumsum([0, *rows])
        self._convert = convert
        self._groups = RowGroups(split.files, columns, self._most_rows(rows_kept))

    def read(self, shard: int, row: int) -> dict[str, Any]:
        ends = self._ends[shard]
        group = int(np.searchsorted(ends, row, side="right"))
        name = self.name(shard, row)
        try:
            table = self._groups.read(shard, group)
        except ValueError as error:
            raise UnreadableError(f"{name} cannot be read: {reason(error)} {ADVICE}") from error
        with broken_example(name):
            example = table.slice(row - int(ends[group]) + table.num_rows, 1).to_pylist()[0]
            return self._convert(example, int(self._firsts[shard]) + row)

    def _most_rows(self, rows_kept: int) -> int:
        """Rows of a block and, at either end of it, of a group that reaches beyond it."""
        largest = max((int(np.diff(ends, prepend=0).max(initial=0)) for ends in self._ends), default=0)
        return rows_kept + 2 * largest if rows_kept else largest


class RowGroups:
    """Row groups of files, the latest of them kept in memory.

    A process forgets what was opened before it was forked: it would share the place in the file with its parent.

    Args:
        files (`Sequence[str]`): Paths or URLs.
        columns (`Sequence[str]`): Columns to read.
        most_rows (`int`): Rows to keep; one group is kept in any case.
    """

    def __init__(self, files: Sequence[str], columns: Sequence[str], most_rows: int) -> None:
        self.files, self.columns, self.most_rows = list(files), list(columns), most_rows
        self._forget()

    def read(self, file: int, group: int) -> "Table":
        """The columns of a row group.

        Raises:
            FileNotFoundError: If the file is gone.
            OSError: If the file is on the Hub, and that cannot be reached.
            ValueError: If the row group is broken.
        """
        if self._pid != os.getpid():
            self._forget()
        if (file, group) not in self._kept:
            self._kept[file, group] = self._load(file, group)
        self._kept.move_to_end((file, group))
        while len(self._kept) > 1 and sum(table.num_rows for table in self._kept.values()) > self.most_rows:
            self._kept.popitem(last=False)
        return self._kept[file, group]

    def _load(self, file: int, group: int) -> "Table":
        import pyarrow as pa
        from huggingface_hub.errors import HTTPError

        name, failure = self.files[file], None
        for _ in range(ATTEMPTS if is_remote(name) else 1):
            try:
                # By one thread: a loader has its own processes.
                return self._file(file).read_row_group(group, columns=self.columns, use_threads=False)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{name} is gone, or cannot be reached any more.") from error
            except pa.ArrowException as error:
                raise ValueError(f"row group {group} of the file is broken ({error})") from error
            except (OSError, HTTPError) as error:
                if not is_remote(name):
                    raise ValueError(f"row group {group} of the file is broken ({error})") from error
                failure = error
                self._opened.pop(file, None)
        # No broken row: to leave out what is there would train on other data.
        raise OSError(f"{name} could not be read, in {ATTEMPTS} attempts: {failure}") from failure

    def _file(self, file: int) -> "ParquetFile":
        if file not in self._opened:
            self._opened[file], _ = open_parquet(self.files[file])
        self._opened.move_to_end(file)
        if len(self._opened) > OPEN_FILES:
            self._opened.popitem(last=False)[1].close(force=True)
        return self._opened[file]

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._opened: OrderedDict[int, ParquetFile] = OrderedDict()
        self._kept: OrderedDict[tuple[int, int], Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "columns": self.columns, "most_rows": self.most_rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()
