"""Check: prove on a store, in use or not, that the index is what the journal says.

INV-1 what lies before `published` is in the index, readable, and passes its checksums; INV-2 offsets are dense; INV-3
the derived tables are a function of the journal. The journal is read from end to end, the tables are derived once
more into a temporary index, and the two are compared row by row. Offsets without records must be known as lost: the
fact `["lost", log]` of log 0, which a repair leaves, says so.

Other processes may go on meanwhile, and nothing is held up for them: what lies before the tail never changes, so the
journal is read outside of any transaction of the index. When it has been read up to the tail of a moment, what was
appended since is read as well, until little is left. The small tables are compared in the short snapshot in which
that little is read; the batches, of which only new ones are added, a few thousand in a snapshot, new ones left out.

`check_journal` does the same for a store that is closed, without its index, as a rebuild would read it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import msgpack

from kafkalite import disk
from kafkalite.errors import CorruptRecordError, KafkaliteError
from kafkalite.records.envelope import Envelope
from kafkalite.storage import index, recovery, salvage, segment, wreck
from kafkalite.storage.catalogue import FIRST_USER_LOG
from kafkalite.storage.frame import BATCH, END, Frame
from kafkalite.storage.index import Index, Positions
from kafkalite.storage.journal import Journal
from kafkalite.storage.opening import is_trusted
from kafkalite.storage.place import SUPERBLOCK_NAME, Place, resolve
from kafkalite.storage.recovery import Derivation, Scan, SegmentPath
from kafkalite.storage.recovery import End as Boundary
from kafkalite.storage.salvage import Lost, Owners, Progress, Salvage
from kafkalite.storage.segment import Header
from kafkalite.storage.superblock import State, Superblock

MAX_PROBLEMS: Final = 100
MAX_ROUNDS: Final = 20
CATCH_UP_BYTES: Final = 1 << 20
ROWS_PER_SNAPSHOT: Final = 4096
PROGRESS_BYTES: Final = 1 << 20
PROBE_TIMEOUT: Final = 3600.0
TABLE_NAMES: Final = {
    index.BATCHES: "batches",
    index.LOGS: "logs",
    index.PRODUCERS: "producers",
    index.TOPICS: "topics",
    index.SEGMENTS: "segments",
    index.CATALOGUE: "catalogue",
    index.STATE: "state",
}
SMALL_TABLES: Final = tuple(table for table in TABLE_NAMES if table != index.BATCHES)

Row = tuple[bytes, bytes]


@dataclass(slots=True)
class Report:
    """What a check looked at, and what it found wrong: nothing, when `ok`."""

    segments: int = 0
    frames: int = 0
    """Batches of records that were read."""
    records: int = 0
    bytes: int = 0
    """Of these batches."""
    rows: int = 0
    """Of the index."""
    topics: int = 0
    logs: int = 0
    """Partitions that hold something, internal ones included."""
    problems: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    """Offsets that an earlier repair gave up; they are no problem any more."""
    notes: list[str] = field(default_factory=list)
    """What is there and belongs to no topic: prepared segments, deleted topics, other files."""
    cannot_open: str = ""
    """Why the store cannot be opened; "" when it can."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        looked_at = (
            f"{self.segments} segments, {self.frames} batches, {self.records} records, {self.bytes} bytes, "
            f"{self.rows} index rows, {self.topics} topics, {self.logs} logs"
        )
        lost = [f"lost, and given up by a repair: {one}" for one in self.lost]
        if self.ok:
            return "\n".join([f"ok: {looked_at}", *lost])
        return "\n".join([f"{len(self.problems)} problems in {looked_at}:", *self.problems, *lost])


def check(environment: Index, journal: Journal, place: Place | None = None, progress: Progress | None = None) -> Report:
    """Check an open store; other processes may go on appending. With `place` also the files around the journal."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="kafkalite-check-") as directory:
        derived = Index(Path(directory) / "index", create=True)
        try:
            _Comparison(environment, journal, derived, report, progress).run(place)
        finally:
            derived.close()
    if place is not None:
        _look_around(place, journal, report)
    return report


def check_journal(place: Place, found: Superblock, progress: Progress | None = None) -> Report:
    """Check the journal of a closed store alone, as a rebuild of its index would read it.

    Raises what the rebuild would: `CorruptRecordError`, `StoreVersionError`.
    """
    report = Report()
    journal = Journal(place.segments(found.store_id), found.store_id)
    try:
        sealed_at = Boundary(found.tail, found.tail_chain) if found.state is State.SEALED else None
        path = recovery.find_path(journal, found.era_segment, sealed_at)
        with tempfile.TemporaryDirectory(prefix="kafkalite-check-") as directory:
            derived = Index(Path(directory) / "index", create=True)
            try:
                reading = _Reading(journal, derived, report, progress)
                reading.read(path, sealed_at)
                reading.finish()
            finally:
                derived.close()
    finally:
        journal.close()
    return report


def matches_index(place: Place, found: Superblock) -> list[str]:
    """What is wrong with the index of a closed store whose journal is whole.

    A child process reads it: LMDB has no checksums, and damage to its pages may end who follows them.
    """
    if not place.index.exists():
        return ["the index is missing"]
    fd = disk.open_file(place.file, write=False)
    try:
        if not is_trusted(place, fd, found):
            return ["the index is not the one that the superblock names, or not the journal's of this moment"]
    finally:
        disk.close(fd)
    command = [sys.executable, "-c", f"from {__name__} import probe; probe()", str(place.path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_TIMEOUT)  # noqa: S603
    if child.returncode == 0:
        return []
    said = [line.removeprefix("problem: ") for line in child.stdout.splitlines() if line.startswith("problem: ")]
    return said or [f"the index cannot be read: who tries ends with status {child.returncode}"]


def probe() -> None:
    """The child of `matches_index`: compare the index at the path that is its argument, and exit 0 if it matches."""
    place = resolve(sys.argv[1])
    found, why = wreck.read_superblock(place)
    if found is None:
        sys.exit(f"problem: {why}")
    journal = Journal(place.segments(found.store_id), found.store_id)
    environment = Index(place.index, read_only=True)
    problems = check(environment, journal).problems
    sys.stdout.writelines(f"problem: {' '.join(line.split())}\n" for line in problems)
    sys.exit(1 if problems else 0)


# Reading the journal


class _Trouble(NamedTuple):
    """A batch that is whole and cannot be read."""

    log_id: int
    envelope: Envelope
    position: int
    why: str


class _Reading:
    """The journal, read and derived into an empty index; what is wrong with it, under the names of its topics."""

    def __init__(self, journal: Journal, derived: Index, report: Report, progress: Progress | None) -> None:
        self._journal = journal
        self._derived = derived
        self._derivation = Derivation(derived)
        self._report = report
        self._progress = progress
        self._headers: list[Header] = []
        self._troubles: list[_Trouble] = []
        self._empty: list[tuple[int, int, int]] = []
        self._done = self._said = self._total = 0
        self.end = Boundary(0, 0)

    def read(self, path: SegmentPath, end: Boundary | None) -> None:
        """Everything up to `end`, or as far as a rebuild goes; raises `CorruptRecordError`."""
        starts = [segment.byte_of(header.predecessor) for header in path.headers[1:]]
        self._total = sum(starts) + (segment.byte_of(end.position) if end else path.headers[-1].size)
        scan = Scan(self._journal, path, end)
        for found in scan.frames():
            self._add(found)
        self._headers += [header for header, _ in scan.entered]
        self._report.segments = len(self._headers)
        self.end = scan.end
        self._say(self._total)

    def read_on(self, end: Boundary) -> None:
        """What was appended since; raises `CorruptRecordError`."""
        while self.end != end:
            before = self.end
            for found in self._journal.frames(*self.end):
                self.end = Boundary(found.end, found.chain)
                if found.kind == BATCH:
                    self._add(found)
                if found.kind == END:
                    header = self._journal.header(segment.number_of(self.end.position) + 1)
                    if (header.predecessor, header.predecessor_chain) != self.end:
                        raise CorruptRecordError(f"segment {header.number} does not follow {self.end.position:#x}")
                    self._headers.append(header)
                    self._report.segments += 1
                    self.end = Boundary(header.start, header.checksum)
                    break
                if self.end == end:
                    break
            if self.end == before:
                raise CorruptRecordError(f"the journal can be followed only to {before.position:#x}")

    def _add(self, found: Frame) -> None:
        report = self._report
        envelope = self._derivation.add(found)
        report.frames += 1
        report.bytes += found.length
        why = salvage.trouble(found.batch)
        if why:
            self._troubles.append(_Trouble(found.log_id, envelope, found.position, why))
        else:
            report.records += envelope.count
        if not envelope.count:
            self._empty.append((found.log_id, envelope.base_offset, envelope.last_offset))
        self._say(found.end - found.position)

    def _say(self, size: int) -> None:
        self._done = min(self._done + size, self._total)
        if self._progress is not None and (self._done - self._said >= PROGRESS_BYTES or self._done == self._total):
            self._said = self._done
            self._progress(self._done, self._total)

    def finish(self) -> None:
        """The tables are complete: count, and name what is wrong."""
        self._derivation.finish(self._headers)
        report = self._report
        with self._derived.snapshot() as transaction:
            report.topics, owners = _topics(transaction)
            known_lost = _known_lost(transaction)
        report.logs = len(self._derivation.ends)
        for log_id, envelope, position, why in self._troubles:
            where = f"segment {segment.number_of(position)}, byte {segment.byte_of(position)}"
            offsets = owners.named(Lost(log_id, envelope.base_offset, envelope.last_offset))
            report.problems.append(f"{offsets}, {where}: {why}")
        for log_id, first, last in self._empty:
            if not any(start <= first and last < end for start, end in known_lost.get(log_id, [])):
                report.problems.append(
                    f"{owners.named(Lost(log_id, first, last))} have no records, and nothing says that they are lost"
                )
        report.lost += [
            owners.named(Lost(log_id, start, end - 1))
            for log_id, ranges in sorted(known_lost.items())
            for start, end in ranges
        ]
        ownerless = [one for one in self._derivation.ends if one >= FIRST_USER_LOG and owners.of(one)[0] is None]
        if ownerless:
            report.notes.append(f"{len(ownerless)} logs of deleted topics, whose space is not given back yet")


def _topics(transaction: lmdb.Transaction) -> tuple[int, Owners]:
    """How many topics there are, and whose logs are whose."""
    owners, count = Owners(), 0
    for key, value in index.rows(transaction, index.TOPICS):
        owners.add(key[1:].decode(errors="replace"), msgpack.unpackb(value)["logs"])
        count += 1
    return count, owners


def _known_lost(transaction: lmdb.Transaction) -> dict[int, list[list[int]]]:
    """The offsets of each log that a repair gave up: [first, end]."""
    found = {}
    for row, value in index.rows(transaction, index.CATALOGUE):
        if row[1:2] >= b"\x80":  # a packed key: the facts that the index knows by name are text
            key = msgpack.unpackb(row[1:])
            if key[0] == "lost":
                found[key[1]] = msgpack.unpackb(value)
    return found


# Comparing


class _Comparison:
    """An index in use against the one that is derived from the journal."""

    def __init__(
        self, environment: Index, journal: Journal, derived: Index, report: Report, progress: Progress | None
    ) -> None:
        self._environment = environment
        self._journal = journal
        self._derived = derived
        self._report = report
        self._reading = _Reading(journal, derived, report, progress)

    def run(self, place: Place | None) -> None:
        """All of it; damage to the journal is located, and ends the comparison."""
        end = Boundary(0, 0)
        try:
            with self._environment.snapshot() as transaction:
                positions = index.read_positions(transaction)
            _check_order(positions, self._report)
            end = Boundary(positions.tail, positions.chain)
            self._reading.read(recovery.whole_path(self._journal, positions.tail), end)
            end = self._catch_up()
        except CorruptRecordError as error:
            self._report.problems.append(str(error))
            if place is not None:
                _locate(place, end, self._report)
            return
        self._compare(index.BATCHES, self._batches(end))

    def _catch_up(self) -> Boundary:
        """Read what is appended meanwhile; compare all tables but the batches at the moment when that is little."""
        for number in range(MAX_ROUNDS + 1):
            with self._environment.snapshot() as transaction:
                positions = index.read_positions(transaction)
                end = Boundary(positions.tail, positions.chain)
                if number == MAX_ROUNDS or end.position - self._reading.end.position < CATCH_UP_BYTES:
                    self._reading.read_on(end)
                    self._reading.finish()
                    for table in SMALL_TABLES:
                        self._compare(table, index.rows(transaction, table))
                    return end
            self._reading.read_on(end)
        raise AssertionError("the last round returns")

    def _batches(self, end: Boundary) -> Iterator[Row]:
        """The rows of batches, a short snapshot each time, without those that were appended since."""
        start = index.BATCHES
        while True:
            with self._environment.snapshot() as transaction:
                tail = index.read_positions(transaction).tail
                rows = list(islice(_rows_from(transaction, start), ROWS_PER_SNAPSHOT))
            for key, value in rows:
                position = int.from_bytes(value[:8], "big")
                if not end.position <= position < tail:
                    yield key, value
            if len(rows) < ROWS_PER_SNAPSHOT:
                return
            start = rows[-1][0] + b"\0"

    def _compare(self, table: bytes, actual: Iterator[Row]) -> None:
        problems = self._report.problems
        with self._derived.begin() as expected:
            differences = _differences(TABLE_NAMES[table], actual, index.rows(expected, table), self._report)
            problems += islice(differences, max(0, MAX_PROBLEMS - len(problems)))


def _rows_from(transaction: lmdb.Transaction, start: bytes) -> Iterator[Row]:
    cursor = transaction.cursor()
    if cursor.set_range(start):
        for key, value in cursor:
            if bytes(key[:1]) != index.BATCHES:
                return
            yield bytes(key), bytes(value)


def _check_order(positions: Positions, report: Report) -> None:
    if not positions.durable <= positions.tail >= positions.published:
        report.problems.append(f"the positions are out of order: {positions}")


def _locate(place: Place, end: Boundary, report: Report) -> None:
    """What of a damaged journal can still be read, and what cannot, by topic and offset."""
    found = Salvage(place, end)
    for _ in found.commits():
        pass
    found.closing()
    report.segments, report.frames, report.records = len(found.path), found.batches, found.records
    report.bytes = found.bytes
    report.problems += [f"damaged: {one}" for one in found.damages]
    report.problems += [f"unreadable: {one}" for one in found.lost]
    report.problems.append(
        "reading goes on around the damage; `kafkalite repair` gives up what is unreadable, once the store is closed"
    )
    del report.problems[MAX_PROBLEMS:]


def _differences(name: str, actual: Iterator[Row], expected: Iterator[Row], report: Report) -> Iterator[str]:
    """Walk two sorted runs of rows side by side."""
    have, want = next(actual, None), next(expected, None)
    while have or want:
        report.rows += 1
        if have == want:
            have, want = next(actual, None), next(expected, None)
        elif want is None or (have is not None and have[0] < want[0]):
            assert have is not None
            yield f"index, {name}: the row {have[0].hex()} is not in the journal"
            have = next(actual, None)
        elif have is None or want[0] < have[0]:
            yield f"index, {name}: the row {want[0].hex()} is missing"
            want = next(expected, None)
        else:
            yield f"index, {name}: the row {have[0].hex()} is {have[1].hex()}, the journal says {want[1].hex()}"
            have, want = next(actual, None), next(expected, None)


# The files around the journal


def slot_problems(place: Place) -> list[str]:
    """Damage to the superblock that leaves it readable."""
    return [
        f"slot {number} of the superblock is damaged; the other one counts, and the next opening writes it anew"
        for number in wreck.damaged_slots(place)
    ]


def _look_around(place: Place, journal: Journal, report: Report) -> None:
    """The superblock's slots, prepared segments, files that belong to nobody."""
    report.problems += slot_problems(place)
    try:
        extents = journal.segments.extents()
    except (KafkaliteError, OSError) as error:
        report.problems.append(str(error))
        return
    for extent in extents:
        if extent.header is None:
            report.notes.append(f"segment {extent.number} is prepared, and not begun ({extent.size} bytes)")
    if place.is_directory:
        ours = {SUPERBLOCK_NAME, place.index.name, place.index_lock.name, place.run.name}
        strays = sorted(path.name for path in place.path.iterdir() if path.name not in ours)
        report.notes += [f"{name} belongs to nobody" for name in strays if not name.endswith(".segment")]
