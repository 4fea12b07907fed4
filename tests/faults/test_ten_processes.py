"""Ten processes on one store that write, read, alter, crash and are stopped, held against a serial store (F6).

Each is a client of its own, with a seed of its own, and notes what it asks and is told (`testing.history`). Some are
killed, or stop themselves, at a step on the disk that was drawn at their birth, others from outside at any moment;
what stands still is continued soon. A client that ends or is killed is followed by the next one. In the end another
process checks the store, reads it from end to end and judges all histories together (`testing.serial`).

The long run takes KAFKALITE_LONG_SECONDS (600) and prints its seed and its figures.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

import kafkalite
from kafkalite.testing.history import Name, load, log_name, name_of
from kafkalite.testing.serial import Verdict, judge
from tests.faults.client import TOPICS, Client, Forgetful, Halving, Impatient, Losing, TooEarly, live
from tests.faults.ledger import LEDGER
from tests.processes.forks import PATIENCE_S, Board, Forked

FAULT_CLASS: Final = "F6"
CLIENTS: Final = 10
TICK_S: Final = 0.02
LONGEST_STOP_S: Final = 0.4


@dataclass
class Figures:
    """What a run did; what came of it says the verdict."""

    processes: int = 0
    kills: int = 0
    stops: int = 0
    ended: int = 0
    dead: int = 0
    operations: int = 0
    own: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.processes} processes, {self.kills} killed from outside, {self.own['SIGKILL']} at a step, "
            f"{self.stops} stopped from outside, {self.own['SIGSTOP']} at a step, {self.ended} ended by themselves, "
            f"{self.operations} operations"
        )


class Crowd:
    """Keeps ten clients alive, and kills, stops and continues them."""

    def __init__(self, kind: type[Client], path: Path, histories: Path, seed: int, pause_s: float) -> None:
        self._kind, self._path, self._histories = kind, path, histories
        self._seed, self._pause_s = seed, pause_s
        self._random = random.Random(seed)
        self._board = Board()
        self._stopped: dict[int, float] = {}
        self._children: dict[int, Forked] = {}
        self._progress = (0, time.monotonic())
        self.figures = Figures()

    def run(self, seconds: float) -> None:
        """For so long; in the end nobody is alive."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                for slot in range(CLIENTS):
                    self._tend(slot)
                self._disturb()
                self._watch()
                time.sleep(TICK_S)
        finally:
            self.figures.operations = sum(self._board[slot] for slot in range(CLIENTS))
            for child in self._children.values():
                child.close()

    def _tend(self, slot: int) -> None:
        """See to it that somebody lives there, and does not stand still for too long."""
        child = self._children.get(slot)
        if child is not None and child.is_running():
            if self._stopped.get(slot, 0.0) < time.monotonic():
                child.resume()  # who stopped at a step as well
            return
        if child is not None:
            self._bury(child)
        self.figures.processes += 1
        born = self.figures.processes
        self._children[slot] = Forked(
            live,
            self._kind,
            self._path,
            self._histories / f"client-{born}",
            born,
            self._seed << 32 | born,
            self._board,
            slot,
            self._pause_s,
        )

    def _bury(self, child: Forked) -> None:
        if child.status == 0:
            self.figures.ended += 1
        elif child.status == 1:
            child.result()  # raises what it raised
        elif child.status != -signal.SIGKILL:
            self.figures.dead += 1
        child.close()

    def _disturb(self) -> None:
        """Kill one in six ticks, stop another in six, whoever it is."""
        slot = self._random.randrange(CLIENTS)
        what = self._random.random()
        child = self._children[slot]
        if not child.is_running():
            return
        if what < 1 / 6:
            self.figures.kills += 1
            LEDGER.fault("any", f"{self._seed} {self.figures.kills}", "SIGKILL")
            child.signal(signal.SIGKILL)
        elif what < 1 / 3:
            self.figures.stops += 1
            LEDGER.fault("any", f"{self._seed} {self.figures.stops}", "SIGSTOP")
            child.signal(signal.SIGSTOP)
            self._stopped[slot] = time.monotonic() + self._random.uniform(0, LONGEST_STOP_S)

    def _watch(self) -> None:
        operations = sum(self._board[slot] for slot in range(CLIENTS))
        seen, since = self._progress
        if operations != seen:
            self._progress = (operations, time.monotonic())
        else:
            assert time.monotonic() - since < PATIENCE_S, f"{operations} operations, and no more: they stall"


def create(path: Path, **settings: Any) -> None:
    with kafkalite.connect(path, segment_bytes=512 * 1024, **settings) as store:
        for name, partitions in TOPICS.items():
            store.topic(name, partitions=partitions)


def proof(path: Path, histories: Path) -> tuple[Verdict, list[str], list[Mapping[str, Any]]]:
    """In a process of its own: the verdict, what the check complains of, and the faults that clients noted."""
    final: dict[str, list[Name]] = {}
    with kafkalite.connect(path, create=False) as store:
        problems = store.check().problems
        for name in store.topics():
            topic = store.topic(name)
            for partition in range(topic.partition_count):
                records = list(topic.read(partition))
                assert [record.offset for record in records] == list(range(len(records)))
                final[log_name(name, partition)] = [name_of(record.value) for record in records]
    faults: list[Mapping[str, Any]] = []

    def operations() -> Iterator[Any]:
        for history in sorted(histories.iterdir()):
            for entry in load(history):
                if hasattr(entry, "details"):
                    faults.append(entry.details)
                else:
                    yield entry

    return judge(final, operations()), problems, faults


def run(
    kind: type[Client], path: Path, scratch: Path, seed: int, seconds: float, pause_s: float
) -> tuple[Figures, Verdict, list[str]]:
    """Let the crowd live for so long; returns figures, verdict and what the store's check complains of."""
    histories = scratch / "histories"
    histories.mkdir()
    crowd = Crowd(kind, path, histories, seed, pause_s)
    crowd.run(seconds)
    judging = Forked(proof, path, histories)
    try:
        verdict, problems, faults = judging.result(PATIENCE_S + seconds)
    finally:
        judging.close()
    for fault in faults:
        LEDGER.fault(fault["doing"], fault["step"], fault["kind"])
        crowd.figures.own[fault["kind"]] += 1
    print(f"seed {seed}: {crowd.figures}; {verdict}")
    return crowd.figures, verdict, problems


def hold(path: Path, scratch: Path, seed: int, seconds: float, *, pause_s: float = 0.01) -> tuple[Figures, Verdict]:
    """Run the crowd, and hold the store to what it told everybody."""
    figures, verdict, problems = run(Client, path, scratch, seed, seconds, pause_s)
    LEDGER.acknowledged(verdict.acknowledged)
    LEDGER.lost(verdict.counts["lost"])
    LEDGER.torn(verdict.counts["torn"])
    LEDGER.wrong(verdict.counts["wrong"] + len(problems))
    LEDGER.dead(figures.dead)
    assert problems == []
    assert verdict.ok, str(verdict)
    assert figures.dead == 0
    return figures, verdict


@pytest.mark.parametrize(
    ("name", "durability", "chosen"), [("store", "commit", 20260101), ("store.klite", "interval", 20260102)]
)
def test_ten_processes_that_crash_and_stop_are_told_what_a_serial_store_would_say(
    scratch: Path, name: str, durability: str, chosen: int
) -> None:
    create(scratch / name, durability=durability)
    figures, verdict = hold(scratch / name, scratch, chosen, 6)
    assert figures.own["SIGKILL"] >= 1
    assert figures.own["SIGSTOP"] >= 1
    assert min(figures.kills, figures.stops) >= 10
    assert min(verdict.acknowledged, verdict.seen, verdict.looks) >= 200
    assert verdict.refused >= 1


@pytest.mark.parametrize(
    ("kind", "what", "words"),
    [
        (TooEarly, "wrong", "is elsewhere: said to be at"),
        (Losing, "lost", "1 of 1 records of write"),
        (Forgetful, "wrong", "after somebody was told of"),
        (Halving, "torn", "records, the first at"),
        (Impatient, "wrong", "after somebody was told of"),
    ],
)
def test_canary_a_store_that_answers_otherwise(scratch: Path, kind: type[Client], what: str, words: str) -> None:
    """What clients are told is broken on purpose; everything else is as above. Chance may need more time."""
    for attempt in range(6):
        directory = scratch / str(attempt)
        directory.mkdir()
        create(directory / "store")
        with LEDGER.apart():
            _, verdict, problems = run(kind, directory / "store", directory, 20260103 + attempt, 1.2, 0.002)
        assert problems == []
        if verdict.counts[what]:
            break
    assert words in str(verdict)


@pytest.mark.long
def test_ten_processes_for_a_long_time(tmp_path: Path, seed: int) -> None:
    """On the disk, not in memory; the seed chooses the layout as well."""
    path = tmp_path / ("store.klite" if seed % 2 else "store")
    create(path)
    seconds = float(os.environ.get("KAFKALITE_LONG_SECONDS", "600"))
    figures, verdict = hold(path, tmp_path, seed, seconds, pause_s=0.02)
    assert min(figures.kills, figures.stops) >= seconds
    assert verdict.acknowledged >= 20 * seconds
