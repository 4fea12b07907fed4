"""Histories: what writers wrote and were acknowledged, noted outside the store, and the proof that it is all there.

One topic, writers that only append, followers that read it all: a shorter account than `testing.history`, which notes
what everybody asked and when. Records name their writers in the same way.

A record's value says who wrote it: writer, number of the commit, which part of it and of how many, then padding that
follows from these. A commit of several parts goes to several partitions (the parts' keys decide). A line of the
acknowledgement file: writer, number, parts, then partition, first offset and end offset of each range it was given.

`prove` reads the store from another process: the check is clean; offsets are dense; no part is there twice; every
commit is whole; the numbers of a key rise with the offsets; every acknowledgement is there, at its offsets, with its
value. It returns what it counted, and raises `AssertionError` at the first thing that does not hold.
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import kafkalite
from kafkalite.testing.history import value_of as value
from kafkalite.testing.procs import AckFile

from .forks import Board

TOPIC: Final = "history"
PARTITIONS: Final = 3
STOP: Final = b"stop"
"""The value that tells followers that nothing comes after it; one in each partition."""


class Scribe:
    """One writer: commits of all kinds, each noted once it is acknowledged."""

    def __init__(self, store: kafkalite.Store, writer: int, acks: AckFile, *, seed: int = 0) -> None:
        self.topic = store.topic(TOPIC, partitions=PARTITIONS)
        self.producer = store.producer(linger_ms=1)
        self._writer = writer
        self._acks = acks
        self._random = random.Random(seed << 32 | writer)
        self._number = 0

    def write(self) -> None:
        """One commit of a random kind, or a handful of sends."""
        self._random.choice((self.append, self.append, self.append_many, self.send, self.send_many))()

    def append(self, size: int | None = None, partition: int | None = None) -> None:
        """One record."""
        number = self._next()
        data = value(self._writer, number, 0, 1, self._size() if size is None else size)
        done = self.topic.append(data, key=self._key(0), partition=partition)
        self._acks.append(self._writer, number, 1, done.partition, done.offset, done.offset + 1)

    def append_many(self) -> None:
        """One commit over several partitions."""
        number, parts = self._next(), self._random.randint(2, 12)
        data = [value(self._writer, number, part, parts, self._size()) for part in range(parts)]
        done = self.topic.append_many(data, keys=[self._key(part) for part in range(parts)])
        ranges = [n for partition, offsets in done.items() for n in (partition, offsets.start, offsets.stop)]
        self._acks.append(self._writer, number, parts, *ranges)

    def send(self) -> None:
        """A few sends in flight at once."""
        sent = []
        for _ in range(self._random.randint(1, 8)):
            number = self._next()
            data = value(self._writer, number, 0, 1, self._size())
            sent.append((number, self.producer.send(self.topic, data, key=self._key(0))))
        for number, delivery in sent:
            done = delivery.result(60)
            self._acks.append(self._writer, number, 1, done.partition, done.offset, done.offset + 1)

    def send_many(self) -> None:
        """A run of records, acknowledged together, each a commit of its own for all that is promised."""
        numbers = [self._next() for _ in range(self._random.randint(1, 20))]
        data = [value(self._writer, number, 0, 1, self._size()) for number in numbers]
        self.producer.send_many(self.topic, data, keys=[self._key(n % 4) for n in numbers]).result(60)
        for number in numbers:
            self._acks.append(self._writer, number, 1)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _key(self, part: int) -> bytes:
        return b"%d.%d" % (self._writer, part)

    def _size(self) -> int:
        return self._random.randrange(60_000) if self._random.random() < 0.02 else self._random.randrange(200)


class Proof(NamedTuple):
    """What `prove` counted: records, those acknowledged (STOP not counted), a digest of each partition."""

    records: int
    acknowledged: int
    digests: dict[int, str]

    def __str__(self) -> str:
        return f"records acknowledged: {self.acknowledged}, lost: 0"


class _Place(NamedTuple):
    partition: int
    offset: int


def prove(path: Path | str, acks: Iterable[Path], **settings: Any) -> Proof:
    """Hold a store to everything that was acknowledged; to be run in a process of its own."""
    with kafkalite.connect(path, create=False, **settings) as store:
        report = store.check()
        assert report.ok, str(report)
        topic = store.topic(TOPIC, partitions=PARTITIONS)
        reader = Reader()
        for record in topic.read():
            reader.take(record)
        assert reader.ends == {partition: end for partition, end in topic.end_offsets().items() if end}
    reader.whole()
    acknowledged = sum(_hold(reader.places, line) for one in acks for line in AckFile(one).read())
    return Proof(sum(reader.ends.values()), acknowledged, reader.digests())


class Reader:
    """Takes records as they are read, and finds what cannot be."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self.places: dict[tuple[int, int], dict[int, _Place]] = defaultdict(dict)
        self.stopped: set[int] = set()
        self._parts: dict[tuple[int, int], int] = {}
        self._last: dict[tuple[int, bytes | None], int] = {}
        self._hashes: dict[int, Any] = defaultdict(hashlib.sha256)

    def take(self, record: kafkalite.Record[Any, Any]) -> None:
        """Offsets are dense, the value is as it was written, once, and the key's numbers rise."""
        partition = record.partition
        assert record.offset == self.ends.get(partition, 0), f"a gap: {shown(record)}"
        self.ends[partition] = record.offset + 1
        self._hashes[partition].update(b"%d %d " % (record.offset, len(record.value)) + record.value)
        if record.value == STOP:
            self.stopped.add(partition)
            return
        writer, number, part, parts = map(int, record.value.split(b" ", 4)[:4])
        assert record.value == value(writer, number, part, parts, len(record.value)), f"altered: {shown(record)}"
        places = self.places[writer, number]
        assert part not in places, f"twice: {shown(record)}, first at {places[part]}"
        places[part] = _Place(partition, record.offset)
        self._parts[writer, number] = parts
        assert self._last.get((partition, record.key), 0) <= number, f"out of the key's order: {shown(record)}"
        self._last[partition, record.key] = number

    def whole(self) -> None:
        """Every commit has all its parts."""
        for commit, parts in self._parts.items():
            assert set(self.places[commit]) == set(range(parts)), f"torn: {commit} has {self.places[commit]} of {parts}"

    def digests(self) -> dict[int, str]:
        """By partition, a digest of offsets and values."""
        return {partition: found.hexdigest() for partition, found in self._hashes.items()}


def shown(record: kafkalite.Record[Any, Any]) -> str:
    """A record as a few words: its value may be long."""
    return f"partition {record.partition}, offset {record.offset}, key {record.key!r}, value {record.value[:40]!r}…"


def _hold(places: dict[tuple[int, int], dict[int, _Place]], line: Sequence[int]) -> int:
    """One acknowledgement: all its records are there, where it was said; returns how many."""
    writer, number, parts, *ranges = line
    found = places.get((writer, number), {})
    assert len(found) == parts, f"lost: {parts - len(found)} of {parts} records of {line}"
    if ranges:
        named = {
            _Place(partition, offset)
            for partition, start, end in zip(ranges[::3], ranges[1::3], ranges[2::3], strict=True)
            for offset in range(start, end)
        }
        assert set(found.values()) == named, f"elsewhere: {line} is at {sorted(found.values())}"
    return parts


# What the children run


def write_for_ever(path: Path | str, writer: int, acks: Path, board: Board, cell: int, seed: int) -> None:
    """Commit after commit until killed; the board counts them."""
    with kafkalite.connect(path, create=False) as store:
        scribe = Scribe(store, writer, AckFile(acks), seed=seed)
        while True:
            scribe.write()
            board[cell] += 1


def write(path: Path | str, writer: int, acks: Path, count: int) -> None:
    """`count` commits, and an orderly end."""
    with kafkalite.connect(path) as store:
        scribe = Scribe(store, writer, AckFile(acks))
        for _ in range(count):
            scribe.write()


def follow(path: Path | str, board: Board, cell: int, stop_at: int = PARTITIONS) -> dict[int, str]:
    """Read until STOP in each partition; the board counts records. Returns the partitions' digests."""
    with kafkalite.connect(path, create=False) as store:
        reader = Reader()
        for record in store.topic(TOPIC).read(until=None):
            reader.take(record)
            board[cell] += 1
            if len(reader.stopped) == stop_at:
                break
    reader.whole()
    return reader.digests()


def create(path: Path | str, **settings: Any) -> None:
    """A store with an empty topic."""
    with kafkalite.connect(path, **settings) as store:
        store.topic(TOPIC, partitions=PARTITIONS)


def stop_followers(path: Path | str) -> None:
    """The last record of each partition."""
    with kafkalite.connect(path, create=False) as store:
        topic = store.topic(TOPIC)
        for partition in range(topic.partition_count):
            topic.append(STOP, partition=partition)


def ack_paths(directory: Path) -> Iterator[Path]:
    """The acknowledgement files of a test, by `DIRECTORY/acks-*`."""
    yield from sorted(directory.glob("acks-*"))
