"""A store's journal as it lies on the disk, for verbs that look at it and trust nothing else.

Frames come in the order of the journal. Where one fails its check, the next that passes is searched, and what lies
between is a `Damage`. A segment ends where its successor says that it does: what recovery did not accept stays there
unread. Behind the last frame of the last segment lies room, and perhaps a write that was not finished.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import msgpack

from kafkalite import CorruptRecordError, NotAStoreError, StoreNotFoundError, disk
from kafkalite.model import INTERNAL_TOPICS
from kafkalite.records import batch
from kafkalite.storage import catalogue, index, segment, superblock
from kafkalite.storage.frame import Frame
from kafkalite.storage.journal import Journal
from kafkalite.storage.place import Place, resolve
from kafkalite.storage.segment import Extent, Header
from kafkalite.storage.superblock import State, Superblock


class Damage(NamedTuple):
    """A stretch of the journal that does not hold the frames that were written there."""

    position: int
    end: int
    what: str

    def __str__(self) -> str:
        at = f"segment {segment.number_of(self.position)}, byte {segment.byte_of(self.position)}"
        return f"{at}: {self.what}" + (f" ({self.end - self.position} bytes)" if self.end > self.position else "")


class OpenJournal:
    """The journal of one store, read only."""

    def __init__(self, place: Place, found: Superblock, journal: Journal) -> None:
        self.place = place
        self.superblock = found
        self.journal = journal
        extents = journal.segments.extents()
        self.headers: list[Header] = [extent.header for extent in extents if extent.header]
        self._headless: list[Extent] = [extent for extent in extents if not extent.header]
        self.size = sum(header.size for header in self.headers)

    def walk(self, wanted: Collection[int] = ()) -> Iterator[Frame | Damage]:
        """Frames and damages in order; of these segments, or of all. Raises `CorruptRecordError`, `StoreVersionError`
        where a file cannot be read at all.
        """
        for number in wanted:
            if number not in {header.number for header in self.headers}:
                there = ", ".join(str(header.number) for header in self.headers)
                raise CorruptRecordError(f"there is no segment {number} with a valid header: there are {there}")
        followers: list[Header | None] = [*self.headers[1:], None]
        for header, follower in zip(self.headers, followers, strict=True):
            if not wanted or header.number in wanted:
                yield from self._segment(header, follower)
        if not wanted:
            yield from self._without_header()

    def _segment(self, header: Header, follower: Header | None) -> Iterator[Frame | Damage]:
        at, chain = header.start, header.checksum
        stop = self._end_of(header, follower)
        while True:
            for found in self.journal.frames(at, chain, stop):
                yield found
                at, chain = found.end, found.chain
            if stop is not None and at >= stop:
                break
            beyond = next((each for each in self.journal.search(at) if stop is None or each.position < stop), None)
            if beyond is None or (beyond.position == at and stop is None):
                break
            yield Damage(at, beyond.position, _what_is_wrong(at, beyond))
            yield beyond
            at, chain = beyond.end, beyond.chain
        yield from self._ending(at, chain, stop, follower)

    def _end_of(self, header: Header, follower: Header | None) -> int | None:
        """Where a segment's frames end, when something says so."""
        if follower is not None:
            is_next = segment.number_of(follower.predecessor) == header.number
            return follower.predecessor if is_next else None
        sealed = self.superblock.state is State.SEALED and segment.number_of(self.superblock.tail) == header.number
        return self.superblock.tail if sealed else None

    def _ending(self, at: int, chain: int, stop: int | None, follower: Header | None) -> Iterator[Damage]:
        if stop is None:
            if follower is not None:
                yield Damage(at, at, f"segment {follower.number} does not follow the end of this one")
            return
        expected = follower.predecessor_chain if follower is not None else self.superblock.tail_chain
        witness = f"segment {follower.number}" if follower is not None else "the superblock"
        if at != stop:
            yield Damage(at, max(at, stop), f"no frame passes its check up to the end that {witness} names")
        elif chain != expected:
            yield Damage(at, at, f"its chain ends in {chain:016x}, {witness} says {expected:016x}")

    def _without_header(self) -> Iterator[Damage]:
        """Ranges whose header fails its check although frames are in them; a prepared segment has none."""
        for extent in self._headless:
            first = next(self.journal.search_headless(extent), None)
            if first is not None:
                at = segment.position_of(extent.number, 0)
                yield Damage(at, at + extent.size, f"its header is damaged, frames begin at byte {first.position - at}")


def _what_is_wrong(at: int, beyond: Frame) -> str:
    if beyond.position == at:
        return "the frame here does not follow the one before it"
    return "no frame passes its check up to the next one that does"


@contextlib.contextmanager
def open_journal(store: str) -> Iterator[OpenJournal]:
    """The journal of the store at a path; raises `StoreNotFoundError`, `NotAStoreError`, `CorruptRecordError`."""
    place = resolve(store)
    if not place.file.is_file():
        if place.path.exists() and not place.is_directory:
            raise NotAStoreError(f"{place.path} is not a regular file: name a store")
        raise StoreNotFoundError(f"there is no store at {place.path}: check the path")
    fd = disk.open_file(place.file, write=False)
    try:
        found = superblock.read(fd, str(place.path))
    finally:
        disk.close(fd)
    if found is None:
        raise NotAStoreError(f"{place.path} is a store whose creation was not finished: it holds nothing")
    journal = Journal(place.segments(found.store_id), found.store_id)
    try:
        yield OpenJournal(place, found, journal)
    finally:
        journal.close()


class Logs:
    """The names of logs, learnt from the catalogue's records as they pass."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, int]] = {}

    def learn(self, found: Frame) -> None:
        """Take what a frame says of topics, if it is one of the catalogue."""
        if found.log_id != catalogue.CATALOGUE_LOG or not found.length:
            return
        with contextlib.suppress(CorruptRecordError):  # told where it is shown
            for key, value in catalogue.rows(batch.decode(found.batch)[1]):
                if key.startswith(index.TOPICS) and value is not None:
                    topic = catalogue.TopicState(key[1:].decode(), msgpack.unpackb(value), 0)
                    self._names |= {log: (topic.name, number) for number, log in enumerate(topic.log_ids)}

    def name(self, log_id: int) -> str:
        """TOPIC-PARTITION as in Kafka's folders; "log N" where the catalogue has not passed."""
        if log_id < len(INTERNAL_TOPICS):
            return INTERNAL_TOPICS[log_id]
        name, partition = self._names.get(log_id, ("", 0))
        return f"{name}-{partition}" if name else f"log {log_id}"

    def is_of(self, log_id: int, topics: Sequence[str]) -> bool:
        """Whether a log is one of these topics'."""
        name = INTERNAL_TOPICS[log_id] if log_id < len(INTERNAL_TOPICS) else self._names.get(log_id, ("", 0))[0]
        return name in topics
