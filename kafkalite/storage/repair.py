"""Repair: make a store that opens out of one that does not, keep the damaged one, and say what is lost.

Alone on the store, under its locks. First the journal is read as a rebuild reads it. If that goes well, only the index
can be wrong, and it is built anew where it is not what the journal says; a torn tail goes as at any opening. If not,
what `salvage` finds is written into a new store:

    1  NAME.repairing is built beside the store: every batch under its offset, fillers where offsets are lost, at last
       a commit of facts; flushed, and the superblock, which makes it a store, written last
    2  it is read back as a rebuild would read it
    3  it is renamed to NAME.damaged-1 (or -2 …): complete, but not in its place yet
    4  NAME and NAME.damaged-1 are exchanged, in one step: now the name tells the truth
    5  the damaged one's index goes with it; the repaired store is opened once, which builds its own

Killed before 4 the original stands where it stood, after it the repaired store does, and the other one beside it. What
stands under NAME.repairing is never anything but an unfinished copy: the next repair removes it.

The new journal's segments go on counting from the old ones, and its era is one more: no position and no leader epoch
means two things.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgpack

from kafkalite import config, disk
from kafkalite.clock import Deadline
from kafkalite.errors import (
    CorruptRecordError,
    KafkaliteError,
    NotAStoreError,
    StoreBusyError,
    StoreFailedError,
    StoreLocationError,
    StoreNotFoundError,
    StoreVersionError,
)
from kafkalite.storage import frame, index, segment, superblock
from kafkalite.storage.catalogue import CATALOGUE_LOG
from kafkalite.storage.check import Report, check, check_journal, matches_index, slot_problems
from kafkalite.storage.engine import open_engine
from kafkalite.storage.journal import Journal
from kafkalite.storage.locks import NAMES, Locks
from kafkalite.storage.opening import NO_BOOT_ID
from kafkalite.storage.page import FILE_NAME, SharedPage
from kafkalite.storage.place import Place, resolve
from kafkalite.storage.salvage import (
    NEW_EPOCH,
    Damage,
    Lost,
    Progress,
    Rescued,
    Salvage,
    Torn,
)
from kafkalite.storage.segment import Header
from kafkalite.storage.superblock import State, Superblock
from kafkalite.storage.wreck import damaged_slots, read_superblock

LOCK_TIMEOUT: Final = 2.0
MAX_ERA: Final = 2**31 - 1
Outcome = Literal["healthy", "index", "journal"]


@dataclass(slots=True)
class RepairReport:
    """What a repair found and did, or with `dry_run` would do.

    `outcome`: "healthy", nothing was wrong and nothing was changed; "index", the index was built anew from a whole
    journal; "journal", the store was rebuilt around damage, and what it was is at `kept`.
    """

    path: Path
    dry_run: bool = False
    outcome: Outcome = "healthy"
    kept: Path | None = None
    """Where the damaged original is now; None when it was not replaced."""
    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    """What the store has, or has left: segments read, batches, records, bytes of batches."""
    problems: list[str] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    torn: list[Torn] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    """Topics made for logs whose own topic is not known any more."""
    is_exact: bool = True
    """False when damage left no trace of what it held: the last records of any log may be lost beyond `lost`."""

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return self.outcome == "healthy"

    @property
    def damaged_bytes(self) -> int:
        """Bytes of the journal that are not what was written; a missing segment's are not counted."""
        return sum(one.size for one in self.damages)

    def warnings(self) -> list[str]:
        """What to look at in the repaired store."""
        lines = [f"the topic of log {name.split('-')[2]} is not known: it is {name!r} now" for name in self.recovered]
        if any(one.log_id == CATALOGUE_LOG for one in self.lost) or (self.recovered and not self.is_exact):
            lines.append("topics and settings may be older than they were, and deleted topics may be back")
        if not self.is_exact:
            lines.append(
                "damage left no trace of all that was there: the last records of a partition may be lost unseen"
            )
        return lines

    def __str__(self) -> str:
        has = f"{self.segments} segments, {self.batches} batches, {self.records} records, {self.bytes} bytes"
        if self.ok:
            return f"{self.path} is sound: {has}; nothing was changed"
        would = "would be " if self.dry_run else ""
        if self.outcome == "index":
            first = f"{self.path}: the journal is whole ({has}); the index {would or 'was '}built anew"
        else:
            first = f"{self.path}: {would}rebuilt around the damage with {has}"
        lines = [first, *self.problems]
        lines += [f"damaged: {one}" for one in self.damages]
        lines += [f"lost: {one}" for one in self.lost]
        lines += [f"torn: {one}" for one in self.torn]
        lines += self.warnings()
        if self.kept is not None:
            lines.append(f"the damaged original is {self.kept}")
        return "\n".join(lines)


def repair(path: str | os.PathLike[str], *, dry_run: bool = False, progress: Progress | None = None) -> RepairReport:
    """Repair the store at a path, which nobody may have open; with `dry_run` only say what would be done.

    `progress` is called with bytes done and bytes in all, once or more from the start. Raises `StoreBusyError` naming
    who has it open, `StoreNotFoundError`, `NotAStoreError`, `StoreVersionError`, `StoreLocationError`,
    `StorePermissionError`, `StoreFullError`, and `UnsupportedError` where a file system cannot exchange two names.
    """
    place = resolve(path)
    _refuse_what_is_no_store(place)
    with _alone(place):
        report = _examine(place, progress)
        report.dry_run = dry_run
        if report.outcome == "journal" or dry_run:
            return _rebuild(place, report, progress)
        if report.outcome == "index":
            for derived in (place.index, place.index_lock):  # under the locks: nobody uses it
                disk.unlink(derived)
    if report.outcome == "index":
        _open_once(place)
    return report


def _refuse_what_is_no_store(place: Place) -> None:
    if not place.path.exists():
        raise StoreNotFoundError(f"there is no store at {place.path}: check the path")
    if place.file.exists() and not place.file.is_file():
        raise NotAStoreError(f"{place.file} is not a regular file: name a store")
    found, _ = read_superblock(place)
    if found is None and not Salvage(place).known_segments():
        raise NotAStoreError(
            f"{place.path} has neither a superblock nor a segment of a store: name a store of kafkalite"
        )


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Nobody has the store open, and nobody opens it, as long as the block lasts."""
    if not place.file.exists():
        yield  # without its superblock nobody can open it
        return
    fd = disk.open_file(place.file, write=True)
    try:
        if disk.link_count(fd) > 1:
            raise StoreLocationError(f"{place.file} has several hard links: remove the others, or copy the store")
        locks = Locks(fd)
        with locks.recover.held(Deadline(LOCK_TIMEOUT)):
            if not locks.open.try_alone():
                raise StoreBusyError(f"{place.path} is open{_by_whom(place)}: close it there, then repair it")
            try:
                yield
            finally:
                locks.open.release()
    finally:
        disk.close(fd)


def _by_whom(place: Place) -> str:
    """The processes that were seen at work in a store, for an error message."""
    if not (place.run / FILE_NAME).exists():
        return ""
    page = SharedPage(place.run)
    pids = sorted({page.holder(lock) for lock in range(len(NAMES))} - {0})
    page.close()
    whose = [
        "this process" if pid == disk.process_id() else f"process {pid} ({disk.process_state(pid)})" for pid in pids
    ]
    return f"; last at work in it: {', '.join(whose)}" if whose else ""


def _examine(place: Place, progress: Progress | None) -> RepairReport:
    """Read the store as a rebuild does: is it sound, is it the index, or the journal?"""
    report = RepairReport(place.path)
    found, why = read_superblock(place)
    try:
        if found is None:
            raise CorruptRecordError(why)
        looked = check_journal(place, found, progress)
    except KafkaliteError as error:
        if isinstance(error, StoreVersionError):
            raise
        report.outcome = "journal"
        report.problems.append(str(error))
        return report
    report.segments, report.batches, report.records = looked.segments, looked.frames, looked.records
    report.bytes = looked.bytes
    if looked.problems:
        report.outcome = "journal"
        report.problems += looked.problems
        return report
    report.problems += matches_index(place, found) + slot_problems(place)
    report.outcome = "index" if report.problems else "healthy"
    report.is_exact = found.state is State.SEALED or not damaged_slots(place)
    if not report.is_exact and _holds_more(place, looked.frames):
        report.outcome = "journal"
    return report


def _holds_more(place: Place, batches: int) -> bool:
    """Whether there is more to salvage than a rebuild of the index would take: the seal may be what was damaged."""
    salvage = Salvage(place)
    for _ in salvage.commits():
        pass
    return salvage.batches > batches


def _open_once(place: Place) -> None:
    """Whoever opens a store without an index builds it."""
    open_engine(place.path, create=False, read_only=False, durability=None, settings={}).close()


# A new store around the damage


def _rebuild(place: Place, report: RepairReport, progress: Progress | None) -> RepairReport:
    """Salvage into a new store beside, and exchange the two; a dry run only salvages."""
    if report.outcome != "journal":
        return report
    salvage = Salvage(place, progress=progress)
    if report.dry_run:
        for _ in salvage.commits():
            pass
        salvage.closing()
        _tell(report, salvage)
        return report
    work = _beside(place, ".repairing")
    _remove(work)
    try:
        _build(work, salvage)
        _tell(report, salvage)
        _prove(work)
        kept = _free_place(place)
        disk.rename(work.path, kept.path)
    except Exception:
        _remove(work)
        raise
    _take_places(place, kept)
    report.kept = kept.path
    return report


def _tell(report: RepairReport, salvage: Salvage) -> None:
    report.problems = list(dict.fromkeys([*report.problems, *salvage.problems]))
    report.segments, report.batches, report.records = len(salvage.path), salvage.batches, salvage.records
    report.bytes = salvage.bytes
    report.damages, report.lost, report.torn = salvage.damages, salvage.lost, salvage.torn
    if salvage.superblock is not None:
        report.problems = list(dict.fromkeys([*report.problems, *slot_problems(salvage.place)]))
    report.recovered, report.is_exact = salvage.recovered, not salvage.unplaced


def _beside(place: Place, suffix: str) -> Place:
    """A place next to the store's, in its layout."""
    return resolve(f"{place.path}{suffix}{os.sep if place.is_directory else ''}")


def _free_place(place: Place) -> Place:
    number = 1
    while True:
        found = _beside(place, f".damaged-{number}")
        if not any(path.exists() for path in (found.path, found.index, found.index_lock)):
            return found
        number += 1


def _remove(work: Place) -> None:
    """Away with what a repair left unfinished."""
    if work.is_directory and work.path.exists():
        for path in work.path.iterdir():
            disk.unlink(path)
        disk.remove_directory(work.path)
    elif not work.is_directory:
        disk.unlink(work.path)


def _prove(work: Place) -> None:
    found, why = read_superblock(work)
    problems = [why] if found is None else check_journal(work, found, None).problems
    if problems:
        raise StoreFailedError(f"the repaired store does not read back: {problems[0]}; nothing was changed")


def _take_places(place: Place, kept: Place) -> None:
    """Exchange the damaged store and the repaired one, which is at `kept`, under the locks of both."""
    moved = [] if place.is_directory else [(place.index, kept.index), (place.index_lock, kept.index_lock)]
    moved = [(old, new) for old, new in moved if old.exists()]
    with _alone(kept):
        try:
            for old, new in moved:
                disk.link(old, new)
            disk.exchange(place.path, kept.path)
        except Exception:
            for _, new in moved:
                disk.unlink(new)
            _remove(kept)
            raise
        for old, _ in moved:
            disk.unlink(old)
        disk.flush_directory(place.path.parent)
    _open_once(place)


def _build(work: Place, salvage: Salvage) -> None:
    """Write what is salvaged as a new store at `work`, sealed, without an index."""
    builder = _Builder(work, salvage)
    try:
        for commit in salvage.commits():
            builder.add(commit, _segment_bytes(salvage))
        for commit in salvage.closing():
            builder.add(commit, _segment_bytes(salvage))
        builder.seal(salvage.superblock)
    finally:
        builder.close()


def _segment_bytes(salvage: Salvage) -> int:
    told = salvage.facts.get(("store",))
    settings: Mapping[str, Any] = msgpack.unpackb(told) if told else {}
    return int((config.defaults("store") | dict(settings))["segment_bytes"])


class _Builder:
    """Appends commits to a new journal. Before a segment is begun the one before is on disk: that is its `durable`."""

    def __init__(self, work: Place, salvage: Salvage) -> None:
        self._work = work
        found = salvage.superblock
        headers = [piece.header for piece in salvage.known.values() if piece.header]
        eras = [header.era for header in headers] + ([found.era] if found else [])
        self.era = min(max(eras, default=0) + 1, MAX_ERA)
        self.first = max(salvage.known, default=0) + 1
        disk.make_directory(work.directory)
        fd = disk.open_file(work.file, write=True, create=True)
        try:
            disk.write(fd, [bytes(superblock.SIZE)], 0, superblock.SIZE)
        finally:
            disk.close(fd)
        self._journal = Journal(work.segments(salvage.store_id), salvage.store_id)
        self._store_id = salvage.store_id
        self._begin(self.first, segment.FIRST_SIZE, 0, 0)

    def _begin(self, number: int, size: int, tail: int, chain: int) -> None:
        self._journal.segments.prepare(number, size, zeros=True)
        self._header: Header = self._journal.next_header(size, self.era, tail, chain, number=number)
        self._journal.begin_segment(self._header)
        self.tail, self.chain = self._header.start, self._header.checksum

    def add(self, commit: list[Rescued], segment_bytes: int) -> None:
        """Append one commit, in a new segment if this one has no room."""
        needed = sum(frame.padded_size(one.batch.size) for one in commit) + frame.HEADER_SIZE
        if segment.byte_of(self.tail) + needed > self._header.size:
            self._roll(needed, segment_bytes)
        buffers: list[bytes] = []
        start, durable = self.tail, self._header.start
        for number, one in enumerate(commit, 1):
            epoch = self.era if one.leader_epoch == NEW_EPOCH else one.leader_epoch
            flags = frame.COMMIT if number == len(commit) else 0
            head, self.chain = frame.encode_batch(
                one.batch, one.log_id, one.base_offset, epoch, flags, durable, self.chain, self.tail
            )
            buffers += (head, one.batch.payload, frame.PADDING[one.batch.size % frame.ALIGNMENT])
            self.tail += frame.padded_size(one.batch.size)
        self._journal.write(start, buffers, self.tail - start)

    def _roll(self, needed: int, segment_bytes: int) -> None:
        end, chain = frame.encode_end(self._header.start, self.chain, self.tail)
        self._journal.write(self.tail, [end], len(end))
        tail = self.tail + len(end)
        self._journal.flush(self._header.start, tail)
        size = segment.next_size(self._header.size, needed, segment_bytes)
        self._begin(self._header.number + 1, size, tail, chain)

    def seal(self, before: Superblock | None) -> None:
        """All of it durable, then the superblock: from here on it is a store."""
        self._journal.flush(self._header.start, self.tail)
        generation = before.generation if before else 0
        fd = disk.open_file(self._work.file, write=True)
        try:
            device, inode = disk.identity(fd)
            sealed = Superblock(
                State.SEALED, generation + 1, self._store_id, NO_BOOT_ID, device, 0, inode, 0, index.SCHEMA, self.era,
                self.first, self.tail, self.chain, 0,
            )  # fmt: skip
            for slot in range(2):  # both, so that damage to one leaves the other
                superblock.write(fd, sealed._replace(generation=sealed.generation + slot))
        finally:
            disk.close(fd)
        disk.flush_directory(self._work.directory)
        disk.flush_directory(self._work.directory.parent)

    def close(self) -> None:
        self._journal.close()


# Checking by path


def check_store(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Report:
    """Prove the store at a path, in use or not, openable or not; see `Store.check`.

    A store that cannot be opened is read without its index: the report's `cannot_open` says why, `problems` what is
    damaged and what `repair` would do. Raises `StoreNotFoundError`, `NotAStoreError`, `StoreVersionError`,
    `StoreBusyError`, `StorePermissionError`, `StoreLocationError`.
    """
    place = resolve(path)
    try:
        engine = open_engine(path, create=False, read_only=True, durability=None, settings={})
    except (CorruptRecordError, StoreFailedError) as error:
        return _check_closed(place, error, progress)
    except NotAStoreError as error:
        if not place.path.exists() or not Salvage(place).known_segments():
            raise
        return _check_closed(place, error, progress)
    try:
        return check(engine.index, engine.journal, place, progress)
    finally:
        engine.close()


def _check_closed(place: Place, error: Exception, progress: Progress | None) -> Report:
    found = _rebuild(place, RepairReport(place.path, dry_run=True, outcome="journal"), progress)
    report = Report(found.segments, found.batches, found.records, found.bytes)
    report.cannot_open = str(error)
    report.problems = [str(error), *found.problems, *(f"damaged: {one}" for one in found.damages)]
    report.problems += [f"repair would give up {one}" for one in found.lost]
    report.problems += [f"repair would keep a part: {one}" for one in found.torn]
    report.problems += [f"repair would name a log without a topic {name!r}" for name in found.recovered]
    if not found.is_exact:
        report.problems.append("the damage leaves no trace of all it held: more may be lost at the ends of partitions")
    return report
