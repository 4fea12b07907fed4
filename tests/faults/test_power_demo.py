"""F2 on the demo: the power is cut at every write while a month of flights goes in, and recovery is right each time.

The run is the demo's own: the store and the topic that `kafkalite demo` makes, its `ingest`, real segment sizes. What a
recovered store may hold is told by the whole run's journal: what there was after some commit of it, in all
partitions; and not less than what `ingest` had reported as acknowledged when the power went.
"""

import random
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import kafkalite
from kafkalite.demo.flights import Flight, read_flights, sha256, weave
from kafkalite.demo.ingest import ingest
from kafkalite.demo.tour import STORE_NAME, TOPIC, Options
from kafkalite.records.envelope import parse
from kafkalite.storage.place import resolve
from kafkalite.testing.power import KEPT, LOST, Disk, Machine, scratch, torn
from tests.faults.ledger import LEDGER
from tests.faults.outage import INDEXES, Cut, index_beside, is_sealed, put_beside
from tests.storage.kit import abandon, abandon_at, frames_of

FAULT_CLASS = "F2"
OPERATION = "demo ingestion"
PARTITIONS = Options().partitions


class Run(NamedTuple):
    """A recorded ingestion: all values by partition, how many there were in each after every commit, and what was
    acknowledged when: (moment, counts by partition).
    """

    machine: Machine
    path: Path
    values: list[list[bytes]]
    states: list[list[int]]
    promises: list[tuple[int, list[int]]]

    def promised(self, moment: int) -> list[int]:
        """Counts that a cut before change number `moment` must leave; none before the topic was made."""
        return max(counts for at, counts in self.promises if at <= moment)


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with scratch() as root:
        monkeypatch.setattr(tempfile, "tempdir", str(root))
        yield root


def recorded(root: Path, rows: list[Flight]) -> Run:
    """The demo's ingestion, on a machine that can be cut."""
    root.mkdir()
    path = root / STORE_NAME
    machine = Machine(root, index=resolve(path).index)
    acknowledged: list[tuple[int, int]] = []
    with machine:
        store = kafkalite.connect(path)
        topic = store.topic(TOPIC, partitions=PARTITIONS)
        made, sent = len(machine.changes), 0

        def advance(count: int) -> None:
            nonlocal sent
            sent += count
            acknowledged.append((len(machine.changes), sent))

        ingest(store, topic, rows, advance)
        values = [[record.value or b"" for record in topic.read(number)] for number in range(PARTITIONS)]
        assert store.check().ok
        abandon(store)
    lines = [row.line for row in rows]
    assert sha256(weave(lines, values)) == sha256(lines)
    places = {line: number for number, line in enumerate(lines)}
    assert len(places) == len(lines)
    promises = [(0, []), (made, [0] * PARTITIONS)]
    promises += [
        (at, [bisect_left(partition, sent, key=places.__getitem__) for partition in values])
        for at, sent in acknowledged
    ]
    return Run(machine, path, values, states_of(path), promises)


def states_of(path: Path) -> list[list[int]]:
    """Records in each partition after every commit, from the undamaged journal."""
    counts = [0] * PARTITIONS
    states = [list(counts)]
    for found in frames_of(path):
        if found.log_id >= 16:
            counts[found.log_id - 16] += parse(found.batch).count
            if found.is_commit:
                states.append(list(counts))
    return states


def cuts(run: Run, seed: int, torn_fates: int) -> Iterator[Cut]:
    """A cut before the first write and after every change: all lost, all kept, and torn."""
    disk, draw, machine = Disk(), random.Random(seed), run.machine
    for moment in range(len(machine.changes) + 1):
        if moment:
            disk.apply(machine.changes[moment - 1])
        now = machine.indexes[min(moment, len(machine.indexes) - 1)]
        older = [one for one in machine.indexes[:moment] if one is not None]
        for fate in (LOST, KEPT, *(torn(draw.randrange(2**32)) for _ in range(torn_fates))):
            image = disk.cut(fate)
            kind = draw.choice(INDEXES)
            sealed = is_sealed(image, STORE_NAME)
            yield Cut(moment, fate.name, image, index_beside(kind, now, older, draw, is_sealed=sealed), kind, None)


def prove(run: Run, cut: Cut, place: Path) -> None:
    """Bring it back, compare, go on."""
    LEDGER.fault(OPERATION, cut.moment, f"{cut.fate}, index {cut.index_kind}")
    promised = run.promised(cut.moment)
    LEDGER.acknowledged(sum(promised))
    path = place / STORE_NAME
    with Machine(place, cut.image, boot=1):
        put_beside(path, cut)
        try:
            with kafkalite.connect(path) as store:
                assert promised == [] or TOPIC in store.topics()
                topic = store.topic(TOPIC, partitions=PARTITIONS)
                found = values_of(topic)
                compare(run, promised, found)
                assert topic.append(b"on", partition=0).offset == len(found[0])
                report = store.check()
                assert report.ok, str(report)
        except (kafkalite.KafkaliteError, AssertionError) as error:
            LEDGER.wrong(1)
            raise AssertionError(f"cut before change {cut.moment}, {cut.fate}, index {cut.index_kind}") from error
        finally:
            abandon_at(path)


def values_of(topic: kafkalite.Topic[bytes, bytes | None]) -> list[list[bytes | None]]:
    """By partition; offsets have to be dense."""
    found = []
    for number in range(PARTITIONS):
        batches = list(topic.batches(number))
        offsets = [offset for batch in batches for offset in batch.offsets]
        assert offsets == list(range(len(offsets)))
        found.append([value for batch in batches for value in batch.values])
    return found


def compare(run: Run, promised: list[int], found: list[list[bytes | None]]) -> None:
    """Whole commits, all that was acknowledged, the right bytes."""
    counts = [len(values) for values in found]
    lacking = sum(max(0, wanted - has) for wanted, has in zip(promised, counts, strict=False))
    LEDGER.lost(lacking)
    assert lacking == 0, f"{counts} where {promised} were acknowledged"
    if counts not in run.states:
        LEDGER.torn(1)
    assert counts in run.states
    for number, values in enumerate(found):
        assert values == run.values[number][: len(values)]


def test_a_cut_at_every_write_of_the_demos_ingestion(workshop: Path) -> None:
    run = recorded(workshop / "machine", list(read_flights(limit=6_000).rows))
    known = set()
    for cut in cuts(run, 1, torn_fates=6):
        key = (cut.key(), tuple(run.promised(cut.moment)))
        if key not in known:
            known.add(key)
            prove(run, cut, workshop / "place")
    print(f"{len(run.machine.changes)} changes, {len(known)} cuts, {len(run.states)} commits")
    assert len(known) > 2 * len([change for change in run.machine.changes if change.kind == "write"])


@pytest.mark.long
def test_a_cut_at_every_write_of_all_january(workshop: Path, seed: int) -> None:
    run = recorded(workshop / "machine", list(read_flights().rows))
    for cut in cuts(run, seed, torn_fates=6):
        prove(run, cut, workshop / "place")


def test_canary_a_disk_that_lies_during_the_ingestion(workshop: Path) -> None:
    """It reports each flush after the topic was made as done, and does none of them."""
    run = recorded(workshop / "machine", list(read_flights(limit=6_000).rows))
    changes = run.machine.changes
    made = run.promises[1][0]
    disk = Disk(lies=lambda change: any(change is one for one in changes[made:]))
    for change in changes:
        disk.apply(change)
    cut = Cut(len(changes), LOST.name, disk.cut(LOST), None, "absent", None)
    with LEDGER.apart() as mine, pytest.raises(AssertionError, match="cut before change"):
        prove(run, cut, workshop / "place")
    assert mine.results["lost"] >= 6_000 - sum(run.states[1])
