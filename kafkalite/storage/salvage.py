"""Salvage: what a damaged journal still holds, and what it has lost. It reads files, and changes nothing.

Every frame can be checked alone, wherever it lies, so damage to one hides no other: behind it the next valid frame is
searched for, at multiples of 8. What then counts is decided as at a recovery, but damage does not end it:

path      The newest segment, and from each header to the predecessor that it names. A header that is damaged, or a
          segment that is missing, is passed over to the next older segment. Of a sealed store nothing newer than the
          seal counts, of another not an orphan: a header that names a boundary which was written over.
extent    A segment's frames count up to the boundary that the next header, or the seal, names: before it every byte
          was written over by what is live. Without such a boundary they count as far as any frame bears witness that
          the journal was on disk, and from there on only in an unbroken chain: the rest is a torn tail, never
          acknowledged as durable. Without a superblock, or with one slot that may have been a seal damaged, nobody says
          how the store was left, and every frame counts.
stale     A frame in its predecessor's place that names another predecessor is of an earlier use of the place, as are
          those chained to it. So is one whose offsets a later era gave out again.
commit    Frames up to the one with COMMIT. What survives of a commit that the damage tore is kept, and named.

What is lost shows as a gap in a log's offsets, exactly, once a later batch of the log is found. For the last batches of
a log the headers within the damage are read: one is believed when its length leads to the next one or to the damage's
end, and its offsets are the log's next ones.

Lost offsets are taken by a *filler*: a batch without records, whose last offset delta covers them, as Kafka's
compaction leaves one. So a log stays dense, readers go over it, and no offset is given out again. A fact of log 0,
`["lost", log]` with `[[first, end], …]`, says that this is a loss. The facts form the last commit of the repaired
journal.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from kafkalite import disk
from kafkalite.errors import CorruptRecordError, UnsupportedError
from kafkalite.records import batch as batches
from kafkalite.records import native
from kafkalite.records.checksum import batch_digest
from kafkalite.records.envelope import FIELDS, MAGICS, PREFIX, PREFIX_SIZE, Envelope, SealedBatch, parse
from kafkalite.records.envelope import HEADER_SIZE as BATCH_HEADER_SIZE
from kafkalite.storage import catalogue, frame, segment
from kafkalite.storage.catalogue import CATALOGUE_LOG, FIRST_USER_LOG, Fact
from kafkalite.storage.frame import Frame
from kafkalite.storage.journal import valid_frames
from kafkalite.storage.place import Place
from kafkalite.storage.recovery import End
from kafkalite.storage.superblock import State
from kafkalite.storage.wreck import (
    Stretch,
    damaged_slots,
    data_of,
    find_store_id,
    find_stretches,
    is_empty,
    pieces,
    read_superblock,
)

Progress = Callable[[int, int], object]
"""Called with the bytes that were read, and those there are to read."""

NO_LIMIT: Final = 1 << 64
"""Greater than every position."""
MAX_FILLER: Final = 2**31 - 1
NEW_EPOCH: Final = -1
"""The leader epoch of what the repair itself appends: the repaired store's era."""
FACTS_PER_BATCH: Final = 10_000


class Damage(NamedTuple):
    """Bytes of the journal that are not what was written; size 0 where that is not known."""

    segment: int
    byte: int
    size: int
    what: str

    def __str__(self) -> str:
        return f"segment {self.segment}, byte {self.byte}, {self.size} bytes: {self.what}"


class Lost(NamedTuple):
    """Offsets of a log whose records are lost, `last` included. `topic` is None when log 0 does not name the log."""

    log_id: int
    first: int
    last: int
    topic: str | None = None
    partition: int | None = None

    @property
    def where(self) -> str:
        return name_of(self.log_id) if self.topic is None else f"topic {self.topic!r}, partition {self.partition}"

    def __str__(self) -> str:
        return f"{self.where}: offsets {self.first} to {self.last}"


class Torn(NamedTuple):
    """A commit of which a part is lost: the offsets that were kept. `is_certain` is False when it may be whole."""

    position: int
    kept: tuple[Lost, ...]
    is_certain: bool

    def __str__(self) -> str:
        kept = "; ".join(f"{one.where}, {one.first} to {one.last}" for one in self.kept)
        end = segment.number_of(self.position), segment.byte_of(self.position)
        torn = "is torn" if self.is_certain else "may be torn"
        return f"the commit that ends in segment {end[0]}, byte {end[1]} {torn}: of it is kept {kept}"


class Rescued(NamedTuple):
    """A batch for the repaired journal, with its log, offset and leader epoch."""

    log_id: int
    base_offset: int
    leader_epoch: int
    batch: SealedBatch


def name_of(log_id: int) -> str:
    """A log that has no topic."""
    return "the catalogue (log 0)" if log_id == CATALOGUE_LOG else f"log {log_id}"


def trouble(data: bytes) -> str:
    """What is wrong with a batch whose frame passed its check; "" when nothing is."""
    try:
        _, columns = batches.decode(data)
    except UnsupportedError:
        return ""  # a codec that this process has not: Kafka's clients read it
    except CorruptRecordError as error:
        return str(error)
    kinds = {type(value).__name__ for column in (columns.values, columns.keys) for value in column}
    bad = sorted(kinds - {"bytes", "NoneType"})
    return f"keys or values of type {', '.join(bad)}" if bad else ""


class Owners:
    """Whose logs are whose: ranges of log ids, which are never given to another topic."""

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[int, str, int]] = {}
        self._firsts: list[int] = []

    def add(self, name: str, extents: Iterable[Sequence[int]]) -> None:
        """The logs of a topic, as its fact has them: [first log id, count] each."""
        partition = 0
        for first, count in extents:
            self._ranges[first] = (count, name, partition)
            partition += count

    def of(self, log_id: int) -> tuple[str | None, int | None]:
        """Topic and partition of a log, or of a deleted topic's, as far as is known."""
        if len(self._firsts) != len(self._ranges):
            self._firsts = sorted(self._ranges)
        at = bisect_right(self._firsts, log_id) - 1
        if at >= 0:
            count, name, partition = self._ranges[self._firsts[at]]
            if log_id < self._firsts[at] + count:
                return name, partition + log_id - self._firsts[at]
        return None, None

    def end(self) -> int:
        """The first log id behind all of them."""
        return max((first + count for first, (count, *_) in self._ranges.items()), default=FIRST_USER_LOG)

    def named(self, offsets: "Lost") -> "Lost":
        """Offsets with topic and partition."""
        topic, partition = self.of(offsets.log_id)
        return offsets._replace(topic=topic, partition=partition)


class Salvage:
    """One pass over a damaged store. Take `commits()`, then `closing()`; the lists tell what was found."""

    def __init__(self, place: Place, end: End | None = None, progress: Progress | None = None) -> None:
        self.place = place
        self.superblock, why = read_superblock(place)
        found = self.superblock
        self.store_id = found.store_id if found else find_store_id(place) or bytes(16)
        sealed_at = End(found.tail, found.tail_chain) if found and found.state is State.SEALED else end
        hints = [found.era_segment, segment.number_of(found.tail)] if found else []
        self.known = {piece.number: piece for piece in reversed(pieces(place, self.store_id, hints))}
        self.path, self.missing = find_stretches(self.known, sealed_at)
        self._slots = damaged_slots(place)
        self.problems: list[str] = [why] if why else []
        if found and found.era_segment not in {stretch.piece.number for stretch in self.path}:
            self.problems.append(f"segment {found.era_segment}, with which the journal's era began, is not to be found")
        self.damages: list[Damage] = [Damage(number, 0, 0, "the segment is missing") for number in self.missing]
        self.lost: list[Lost] = []
        self.torn: list[Torn] = []
        self.stale = self.batches = self.records = self.bytes = 0
        is_end_known = sealed_at is not None or (found is not None and not self._slots)
        first = self.path[0].piece if self.path else None
        is_first_known = first is not None and (first.header is not None or first.number == 1)
        self.unplaced = bool(self.missing) or not is_end_known or not is_first_known
        self.ends: dict[int, int] = {}
        self.facts: dict[tuple[Any, ...], bytes | None] = {}
        self.recovered: list[str] = []
        self._owners = Owners()
        self._unlearnt: list[tuple[Envelope, bytes]] = []
        self._latest: dict[int, int] = {}
        self._claimed: dict[int, int] = {}
        self._epochs = self._firsts_of_eras()
        self._limit = self._witnessed(sealed_at)
        self._progress = progress
        self._done = 0

    def known_segments(self) -> bool:
        """Whether there is a segment at all, were it without its header."""
        return any(piece.header or not is_empty(piece) for piece in self.known.values())

    # Which frames count

    def _witnessed(self, sealed_at: End | None) -> int:
        """Up to where, in the last segment, the journal is known to have been on disk."""
        if sealed_at is not None or self.superblock is None or self._slots or not self.path:
            return NO_LIMIT
        last = self.path[-1].piece
        return max((found.durable for found in valid_frames(data_of(last), last.number)), default=0)

    def _firsts_of_eras(self) -> dict[int, dict[int, int]]:
        """For each log the first offset that each leader epoch gave out; needed only where a boundary is not known."""
        firsts: dict[int, dict[int, int]] = {}
        if all(stretch.bound for stretch in self.path[:-1]):
            return firsts
        for stretch in self.path:
            for found in valid_frames(data_of(stretch.piece), stretch.piece.number):
                with contextlib.suppress(CorruptRecordError):
                    envelope = parse(found.batch)
                    epochs = firsts.setdefault(found.log_id, {})
                    first = epochs.get(envelope.leader_epoch, envelope.base_offset)
                    epochs[envelope.leader_epoch] = min(first, envelope.base_offset)
        return firsts

    def _events(self, stretch: Stretch) -> Iterator[Frame | Damage]:
        """The frames of a segment that count, and the damage between them."""
        piece, bound = stretch
        limit = self._limit if stretch is self.path[-1] else NO_LIMIT
        at = segment.position_of(piece.number, segment.HEADER_SIZE)
        chain = piece.header.checksum if piece.header else None
        rejected: int | None = None
        ended = False
        data = data_of(piece)
        for found in valid_frames(data, piece.number):
            if bound and found.end > bound.position:
                break
            follows = found.position == at and found.previous == chain
            if found.position >= limit and not follows:
                break
            if (found.position == at and chain not in (None, found.previous)) or found.previous == rejected:
                rejected = found.chain
                self.stale += 1
                continue
            if found.position > at:
                yield self._damage(data, at, found.position)
            yield found
            at, chain, rejected = found.end, found.chain, None
            ended = found.kind == frame.END
            if ended:
                break
        if bound and at < bound.position:
            yield self._damage(data, at, bound.position)
        elif not bound and not ended and piece.size < piece.wanted:
            yield self._damage(data, at, segment.position_of(piece.number, piece.wanted))
            self.unplaced = True
        elif not bound and not ended:
            yield from self._cut(stretch, data, at)

    def _cut(self, stretch: Stretch, data: disk.Map | bytes, end: int) -> Iterator[Damage]:
        """What stands behind the last frame, where nothing says that the journal ended there: of a torn commit, or
        damage that nobody bears witness of.
        """
        is_open_end = stretch is self.path[-1] and self._limit < NO_LIMIT
        self.unplaced |= not is_open_end
        rest = len(data[segment.byte_of(end) :].rstrip(b"\0"))
        if rest:
            self.unplaced = True
            what = "a torn end, or damage to what was last written: cut off"
            damage = Damage(segment.number_of(end), segment.byte_of(end), rest, what)
            self.damages.append(damage)
            if not is_open_end:
                yield damage

    def _damage(self, data: disk.Map | bytes, start: int, end: int) -> Damage:
        number, byte = segment.number_of(start), segment.byte_of(start)
        what = "no valid frame" if len(data) >= segment.byte_of(end) else f"the segment ends at byte {len(data)}"
        damage = Damage(number, byte, end - start, what)
        self.damages.append(damage)
        return damage

    # Commits

    def commits(self) -> Iterator[list[Rescued]]:
        """The batches that count, commit by commit, fillers included."""
        self._say(0)
        for stretch in self.path:
            if stretch.piece.header is None:
                self.damages.append(
                    Damage(stretch.piece.number, 0, segment.HEADER_SIZE, "the segment's header is damaged")
                )
            yield from self._commits_of(stretch)
            self._say(stretch.piece.size)

    def _commits_of(self, stretch: Stretch) -> Iterator[list[Rescued]]:
        group: list[Rescued] = []
        position, torn, certain = segment.position_of(stretch.piece.number, segment.HEADER_SIZE), False, False
        data = data_of(stretch.piece)
        for event in self._events(stretch):
            if isinstance(event, Damage):
                has_commit, ends_commit = self._claim(data, event)
                if group and has_commit is not False:  # what comes is of another commit, as far as one can tell
                    yield self._whole(group, position, torn=True, certain=True)
                    group, certain = [], False
                torn = bool(group) or ends_commit is not True
                certain = certain or bool(group) or ends_commit is False
                continue
            position = event.end
            if event.kind == frame.BATCH:
                rescued = self._rescue(event)
                certain = certain or rescued is None
                torn = torn or rescued is None
                group += rescued or []
            if event.is_commit:
                if group:
                    yield self._whole(group, position, torn, certain)
                group, torn, certain = [], False, False
        if group and torn:  # its end is lost; without damage it was never committed
            yield self._whole(group, position, torn=True, certain=True)
        elif group:
            self._forget(group)

    def _whole(self, group: list[Rescued], position: int, torn: bool, certain: bool) -> list[Rescued]:
        for facts in self._unlearnt:
            self._learn(*facts)
        self._unlearnt.clear()
        kept = [one for one in group if one.batch.count]
        if torn and kept:
            ranges = [Lost(one.log_id, one.base_offset, one.base_offset + one.batch.last_offset_delta) for one in kept]
            self.torn.append(Torn(position, tuple(ranges), certain))
        return group

    def _forget(self, group: list[Rescued]) -> None:
        """A trailing run without COMMIT has no effect."""
        self._unlearnt.clear()
        for one in reversed(group):
            self.ends[one.log_id] = one.base_offset
            self.batches -= 1
            self.records -= one.batch.count
            self.bytes -= one.batch.size

    def _rescue(self, found: Frame) -> list[Rescued] | None:
        """A frame's batch, after a filler if one is due; nothing for a stale one, None for one that cannot be read."""
        why = trouble(found.batch)
        if why:
            self.damages.append(
                Damage(segment.number_of(found.position), segment.byte_of(found.position), found.length, why)
            )
            with contextlib.suppress(CorruptRecordError):
                self._believe(found.log_id, parse(found.batch))
            return None
        envelope = parse(found.batch)
        log_id, end = found.log_id, self.ends.get(found.log_id, 0)
        if envelope.base_offset < end or self._is_superseded(log_id, envelope):
            self.stale += 1
            return []
        rescued = self._filled(log_id, end, envelope.base_offset, envelope.leader_epoch)
        rescued.append(Rescued(log_id, envelope.base_offset, envelope.leader_epoch, _sealed(envelope, found.batch)))
        self.ends[log_id] = envelope.last_offset + 1
        self._latest[log_id] = max(self._latest.get(log_id, -1), envelope.max_timestamp)
        self.batches += 1
        self.records += envelope.count
        self.bytes += found.length
        if log_id == CATALOGUE_LOG:
            self._unlearnt.append((envelope, found.batch))
        return rescued

    def _is_superseded(self, log_id: int, envelope: Envelope) -> bool:
        epochs = self._epochs.get(log_id, {})
        return any(epoch > envelope.leader_epoch and first <= envelope.last_offset for epoch, first in epochs.items())

    def _filled(self, log_id: int, first: int, end: int, epoch: int) -> list[Rescued]:
        """Fillers for the offsets [first, end), which are lost."""
        if first >= end:
            return []
        self.lost.append(Lost(log_id, first, end - 1))
        self.ends[log_id] = end
        fillers = []
        while first < end:
            count = min(end - first, MAX_FILLER)
            filler = native.encode([], base_timestamp=self._latest.get(log_id, -1), last_offset_delta=count - 1)
            fillers.append(Rescued(log_id, first, epoch, filler))
            first += count
        return fillers

    # Headers within the damage

    def _claim(self, data: disk.Map | bytes, damage: Damage) -> tuple[bool | None, bool | None]:
        """Read what the headers within a damage say was there: whether a commit ended within it, and whether one did
        at its end; None where that is not known.
        """
        at, end = damage.byte, damage.byte + damage.size
        commits: list[bool] = []
        claims: list[tuple[int, Envelope]] = []
        while at + frame.HEADER_SIZE + BATCH_HEADER_SIZE <= min(end, len(data)):
            _, _, flags, _, log_id, length, _, _ = frame.HEAD.unpack_from(data, at)
            head = bytes(data[at + frame.HEADER_SIZE : at + frame.HEADER_SIZE + BATCH_HEADER_SIZE])
            envelope = Envelope(*PREFIX.unpack_from(head), *FIELDS.unpack_from(head, PREFIX_SIZE))
            if not _is_plausible(envelope, length):
                break
            claims.append((log_id, envelope))
            commits.append(bool(flags & frame.COMMIT))
            at += frame.padded_size(length)
        is_explained = at in (end, end - frame.HEADER_SIZE)  # the segment's END may be among it
        believed = [self._believe(*claim) for claim in claims]
        if not (is_explained and all(believed)):
            self.unplaced = True
            return None, None
        return any(commits) or not commits, not commits or commits[-1]

    def _believe(self, log_id: int, envelope: Envelope) -> bool:
        """Take a lost batch's header at its word if its offsets are the log's next ones."""
        expected = max(self._claimed.get(log_id, 0), self.ends.get(log_id, 0))
        if envelope.base_offset != expected:
            return False
        self._claimed[log_id] = envelope.last_offset + 1
        return True

    # The catalogue

    def _learn(self, envelope: Envelope, data: bytes) -> None:
        """The facts of a batch of log 0."""
        columns = native.decode(envelope, memoryview(data)[BATCH_HEADER_SIZE:])
        for key, value in zip(columns.keys, columns.values, strict=True):
            if key:
                fact = tuple(msgpack.unpackb(key))
                self.facts[fact] = value
                if fact[0] == "topic" and value:
                    self._owners.add(fact[1], msgpack.unpackb(value)["logs"])

    def closing(self) -> list[list[Rescued]]:
        """The last commit: fillers where a log's end is lost, and what log 0 has to say of all this."""
        fillers = [
            filler
            for log_id, end in sorted(self._claimed.items())
            for filler in self._filled(log_id, self.ends.get(log_id, 0), end, NEW_EPOCH)
        ]
        facts = [*self._orphans(), *self._lost_facts()]
        self.lost = [self._owners.named(one) for one in self._merged()]
        self.torn = [one._replace(kept=tuple(map(self._owners.named, one.kept))) for one in self.torn]
        end = self.ends.get(CATALOGUE_LOG, 0)
        closing = list(fillers)
        for start in range(0, len(facts), FACTS_PER_BATCH):
            some = catalogue.batch_of(facts[start : start + FACTS_PER_BATCH])
            closing.append(Rescued(CATALOGUE_LOG, end + start, NEW_EPOCH, some))
        return [closing] if closing else []

    def _merged(self) -> list[Lost]:
        merged: list[Lost] = []
        for one in sorted(self.lost):
            if merged and merged[-1].log_id == one.log_id and merged[-1].last + 1 == one.first:
                merged[-1] = merged[-1]._replace(last=one.last)
            else:
                merged.append(one)
        return merged

    def _orphans(self) -> Iterator[Fact]:
        """Topics for logs that log 0 does not name, and the first id that is free."""
        seen = [log_id for log_id in sorted(self.ends) if log_id >= FIRST_USER_LOG]
        for log_id in seen:
            if self._owners.of(log_id)[0] is None:
                name = self._free_name(f"recovered-log-{log_id}")
                fact = catalogue.topic_fact(name, [[log_id, 1]], {})
                self.facts[fact[0]] = msgpack.packb(fact[1])
                self._owners.add(name, [[log_id, 1]])
                self.recovered.append(name)
                yield fact
        used = max([self._owners.end(), *(log_id + 1 for log_id in seen)])
        known = self.facts.get(("next_log",))
        if used > (msgpack.unpackb(known) if known else FIRST_USER_LOG):
            yield ("next_log",), used

    def _free_name(self, name: str) -> str:
        free, number = name, 1
        while self.facts.get(("topic", free)) is not None:
            number += 1
            free = f"{name}-{number}"
        return free

    def _lost_facts(self) -> Iterator[Fact]:
        """For each log that lost something: all that it ever lost."""
        ranges: dict[int, list[list[int]]] = {}
        for one in self._merged():
            ranges.setdefault(one.log_id, []).append([one.first, one.last + 1])
        for log_id, new in ranges.items():
            before = self.facts.get(("lost", log_id))
            yield ("lost", log_id), sorted((msgpack.unpackb(before) if before else []) + new)

    def _say(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, sum(stretch.piece.size for stretch in self.path))


def _is_plausible(envelope: Envelope, length: int) -> bool:
    return (
        envelope.magic in MAGICS
        and envelope.batch_length == length - 12
        and envelope.base_offset >= 0
        and envelope.count in (0, envelope.last_offset_delta + 1)  # 0: a filler
    )


def _sealed(envelope: Envelope, data: bytes) -> SealedBatch:
    """A batch of the journal, as it is, for another place."""
    fields, payload = data[PREFIX_SIZE:BATCH_HEADER_SIZE], data[BATCH_HEADER_SIZE:]
    return SealedBatch(
        envelope.magic, envelope.checksum, fields, payload, batch_digest(fields, payload), envelope.count,
        envelope.last_offset_delta, envelope.max_timestamp, envelope.producer_id, envelope.producer_epoch,
        envelope.base_sequence,
    )  # fmt: skip
