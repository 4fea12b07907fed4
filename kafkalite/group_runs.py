"""Runs: the records of one batch on their way out of a group, built by C functions only.

What is in hand stands in the member's hand in the shared page (`storage.slots`): the column of offsets passes through
`filterfalse(write, offsets)`, where `write` puts each offset there as it goes by and returns None, which is false, so
that the offset goes on. So a record that is asked for is in hand before it is out, without a line of Python.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import filterfalse, repeat
from operator import length_hint
from typing import Any, Final

from kafkalite.errors import DeserializationError
from kafkalite.iteration import Lane, OneByOne, RecordBatch
from kafkalite.model import Record
from kafkalite.records.native import Columns

_new: Final[Callable[..., Any]] = tuple.__new__
Write = Callable[[int], None]


class Run:
    """Records of one batch on their way out. `offsets` may be cut short by the keeper at any time."""

    __slots__ = ("_stamps", "columns", "log_id", "offsets", "records", "start")

    def __init__(self, log_id: int, start: int, batch: RecordBatch[Any, Any], write: Write) -> None:
        self.log_id = log_id
        self.start = start
        self.columns: Sequence[int] = batch.offsets
        self.offsets = list(batch.offsets)
        self._stamps = iter(batch.timestamps_ms)
        rows = zip(
            repeat(batch.topic), repeat(batch.partition), filterfalse(write, self.offsets),
            self._stamps, batch.keys, batch.values, batch.headers,
        )  # fmt: skip
        self.records: Iterator[Any] = map(_new, repeat(Record), rows)

    def position(self, *, confirms: bool) -> int:
        """The offset behind the last record that is out; or, unless it counts, that record's."""
        count = self.handed_out()
        if not count:
            return self.start
        return self.columns[count - 1] + 1 if confirms else max(self.start, self.columns[count - 1])

    def commit(self) -> int:
        """All that is out counts, whatever comes: returns the offset behind it."""
        self.start = self.position(confirms=True)
        return self.start

    def handed_out(self) -> int:
        """How many records are out. (Stamps come after offsets: a run that was cut short takes none.)"""
        return len(self.columns) - length_hint(self._stamps)

    def cut(self) -> None:
        """End the run before its next record."""
        self.offsets.clear()


class SlowRun(Run):
    """A batch that cannot be decoded as a whole: record after record, raising in the place of the bad ones."""

    __slots__ = ("count", "is_cut")

    def __init__(self, log_id: int, start: int, lane: Lane, columns: Columns, write: Write) -> None:
        self.log_id = log_id
        self.start = start
        self.columns = columns.offsets
        self.count = 0
        self.is_cut = False
        self.records = _SlowRecords(self, OneByOne(lane, columns), write)

    def handed_out(self) -> int:
        """As `Run`."""
        return self.count

    def cut(self) -> None:
        """As `Run`."""
        self.is_cut = True


class WholeRun:
    """Records that are handed out together, and in hand together until more is asked for."""

    __slots__ = ("_start", "columns", "log_id")

    def __init__(self, log_id: int, columns: Columns) -> None:
        self.log_id = log_id
        self.columns: Sequence[int] = columns.offsets
        self._start = columns.offsets[0]

    def position(self, *, confirms: bool) -> int:
        """The offset behind them; or, unless they count, of the first."""
        return self.columns[-1] + 1 if confirms else self._start

    def commit(self) -> int:
        """As `Run`."""
        self._start = self.position(confirms=True)
        return self._start

    def cut(self) -> None:
        """They are out."""


def readable(lane: Lane, columns: Columns) -> int:
    """How many records can be decoded, before the first that cannot."""
    count = 0
    with contextlib.suppress(DeserializationError):
        for _ in OneByOne(lane, columns):
            count += 1
    return count


class _SlowRecords(Iterator[Any]):
    def __init__(self, run: SlowRun, records: OneByOne, write: Write) -> None:
        self._run = run
        self._records = records
        self._write = write

    def __next__(self) -> Any:
        run = self._run
        if run.is_cut or run.count >= len(run.columns):
            raise StopIteration
        self._write(run.columns[run.count])
        run.count += 1
        return next(self._records)


class Ending(Iterator[Any]):
    """Nothing more; who asks for it says that he is done with what came before."""

    def __init__(self, told: Callable[[], object]) -> None:
        self._told = told

    def __next__(self) -> Any:
        self._told()
        raise StopIteration
