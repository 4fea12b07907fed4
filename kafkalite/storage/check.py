"""Check: prove on a store, in use or not, that the index is what the journal says.

INV-1 what lies before `published` is in the index, readable, and passes its checksums; INV-2 offsets are dense; INV-3
the derived tables are a function of the journal. The journal is read from end to end, the tables are derived once
more into a temporary index, and the two are compared row by row. Other processes may go on meanwhile.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import lmdb

from kafkalite.errors import CorruptRecordError, UnsupportedError
from kafkalite.records import batch
from kafkalite.records.envelope import parse
from kafkalite.storage import index, recovery
from kafkalite.storage.index import Index, Positions
from kafkalite.storage.journal import Journal
from kafkalite.storage.recovery import Derivation, End, Scan

MAX_PROBLEMS: Final = 100
TABLE_NAMES: Final = {
    index.BATCHES: "batches",
    index.LOGS: "logs",
    index.PRODUCERS: "producers",
    index.TOPICS: "topics",
    index.SEGMENTS: "segments",
    index.CATALOGUE: "catalogue",
}


@dataclass(slots=True)
class Report:
    """What a check looked at, and what it found wrong: nothing, when `ok`."""

    segments: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        looked_at = (
            f"{self.segments} segments, {self.frames} batches, {self.records} records, {self.bytes} bytes, "
            f"{self.rows} index rows"
        )
        return (
            f"ok: {looked_at}"
            if self.ok
            else "\n".join([f"{len(self.problems)} problems in {looked_at}:", *self.problems])
        )


def check(environment: Index, journal: Journal) -> Report:
    """Check a store; other processes may go on appending."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="kafkalite-check-") as directory:
        derived = Index(Path(directory) / "index", create=True)
        try:
            with environment.begin() as transaction:  # held for the whole check: both sides see one moment
                positions = index.read_positions(transaction)
                _positions(positions, report)
                if _derive(journal, positions, derived, report):
                    _compare(transaction, derived, report)
        finally:
            derived.close()
    return report


def _positions(positions: Positions, report: Report) -> None:
    if not positions.durable <= positions.tail >= positions.published:
        report.problems.append(f"the positions are out of order: {positions}")


def _derive(journal: Journal, positions: Positions, derived: Index, report: Report) -> bool:
    """Read the journal and derive its tables; whether that went to the end."""
    derivation = Derivation(derived)
    try:
        path = recovery.whole_path(journal, positions.tail)
        scan = Scan(journal, path, End(positions.tail, positions.chain))
        for found in scan.frames():
            derivation.add(found)
            report.frames += 1
            report.bytes += found.length
            report.records += _records(found.position, found.batch, report)
        derivation.finish([header for header, _ in scan.entered])
    except CorruptRecordError as error:
        report.problems.append(str(error))
        return False
    report.segments = len(scan.entered)
    return True


def _records(position: int, data: bytes, report: Report) -> int:
    """How many records a batch holds, decoded and checked against its envelope."""
    try:
        envelope, columns = batch.decode(data)
    except UnsupportedError:
        return parse(data).count
    except CorruptRecordError as error:
        report.problems.append(f"frame at {position:#x}: {error}")
        return 0
    bad = {type(value).__name__ for column in (columns.values, columns.keys) for value in column} - {
        "bytes",
        "NoneType",
    }
    if bad:
        report.problems.append(f"frame at {position:#x}: keys or values of type {', '.join(sorted(bad))}")
    return envelope.count


def _compare(transaction: lmdb.Transaction, derived: Index, report: Report) -> None:
    with derived.snapshot() as expected:
        for table, name in TABLE_NAMES.items():
            for problem in _differences(name, index.rows(transaction, table), index.rows(expected, table), report):
                report.problems.append(problem)
                if len(report.problems) >= MAX_PROBLEMS:
                    return


def _differences(
    name: str, actual: Iterator[tuple[bytes, bytes]], expected: Iterator[tuple[bytes, bytes]], report: Report
) -> Iterator[str]:
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
