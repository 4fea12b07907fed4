"""Statistics: what a store holds, and what all processes together did with it.

What it holds is counted when asked. What was done is counted where it is done: in the row of positions, by whoever
holds WRITE, in the transaction that does it; flushes in the shared page, by whoever leads them. So no process has to be
asked, none is forgotten when it is killed, and a commit pays 0.1 µs. The counters are volatile: they start at 0 where
an index is made anew, after a power cut for example.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lmdb
import msgpack

from kafkalite import disk
from kafkalite.storage import index
from kafkalite.storage.index import Positions
from kafkalite.storage.place import Place
from kafkalite.storage.segment import Extent


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a store at one moment; `asdict(stats)` or `stats.as_dict()` gives them as plain data."""

    topics: int
    partitions: int
    segments: int
    journal_bytes: int
    """Of its segments, prepared ones included."""
    index_bytes: int
    """Disk that the index takes."""
    era: int
    """How often the index was rebuilt after a crash of the machine or damage."""
    unpublished_bytes: int
    """Appended, and neither flushed nor visible yet."""
    commits: int
    """Here and below: done by all processes since the index was made."""
    batches: int
    records: int
    appended_bytes: int
    """Of batches as they stand in the journal: compressed, with what frames them."""
    flushes: int
    flush_seconds: float
    """What the flushes took together."""

    @property
    def mean_flush_ms(self) -> float:
        """What a flush took on average, in milliseconds; 0 when there was none."""
        return self.flush_seconds / self.flushes * 1000 if self.flushes else 0.0

    @property
    def commits_per_flush(self) -> float:
        """How many commits shared a flush on average; 0 when there was none."""
        return self.commits / self.flushes if self.flushes else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


def gather(transaction: lmdb.Transaction, positions: Positions, extents: Sequence[Extent], place: Place) -> Stats:
    """The figures of a moment; `extents` are the journal's."""
    topics = [msgpack.unpackb(value) for _, value in index.rows(transaction, index.TOPICS)]
    return Stats(
        topics=len(topics),
        partitions=sum(count for topic in topics for _, count in topic["logs"]),
        segments=sum(1 for extent in extents if extent.header),
        journal_bytes=sum(extent.size for extent in extents),
        index_bytes=disk.used_bytes(place.index),
        era=positions.era,
        unpublished_bytes=_between(positions),
        commits=positions.commits,
        batches=positions.batches,
        records=positions.records,
        appended_bytes=positions.bytes,
        flushes=positions.flushes,
        flush_seconds=positions.flush_us / 1e6,
    )


def _between(positions: Positions) -> int:
    """Bytes from `published` to the tail; from the segment's begin where a roll lies between."""
    if positions.published >> 32 == positions.tail >> 32:
        return positions.tail - positions.published
    return positions.tail & 0xFFFF_FFFF
