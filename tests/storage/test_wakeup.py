"""Waiting for a log to grow, in one process: no wake-up is lost, and nothing is left lying about."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite.clock import Deadline
from kafkalite.storage import wakeup
from kafkalite.storage.page import SharedPage
from kafkalite.storage.wakeup import Wakeup

PATIENCE = 60.0


@pytest.fixture
def wakeups(tmp_path: Path) -> Iterator[tuple[Wakeup, Wakeup]]:
    """Of a sleeper and of who publishes, in a directory whose name is longer than a socket's may be."""
    directory = tmp_path / ("long" * 40)
    directory.mkdir()
    found = Wakeup(directory, SharedPage(directory)), Wakeup(directory, SharedPage(directory))
    yield found
    assert list(directory.glob("*.wait")) == []
    for one in found:
        one.close()
        one.close()


class Sleeper:
    """A thread that waits until `grow` was called, and the number of times it looked."""

    def __init__(self, wakeup: Wakeup, log_ids: list[int]) -> None:
        self.looks = 0
        self.answers: list[bool] = []
        self._grown = threading.Event()
        self._asleep = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(wakeup, log_ids))
        self._thread.start()
        assert self._asleep.wait(PATIENCE)

    def _run(self, wakeup: Wakeup, log_ids: list[int]) -> None:
        self.answers.append(wakeup.wait(log_ids, self._ready, Deadline(PATIENCE)))

    def _ready(self) -> bool:
        self.looks += 1
        if self.looks == 2:
            self._asleep.set()
        return self._grown.is_set()

    def grow(self) -> None:
        self._grown.set()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert self.answers == [True]


def test_a_poke_wakes_who_sleeps_on_that_log(wakeups: tuple[Wakeup, Wakeup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "LONGEST_SLEEP", PATIENCE)
    sleepers = [Sleeper(wakeups[0], [16, 17]) for _ in range(3)]
    for sleeper in sleepers:
        sleeper.grow()
    wakeups[1].poke([17])
    for sleeper in sleepers:
        sleeper.join()


def test_a_lost_poke_costs_a_second_and_not_for_ever(
    wakeups: tuple[Wakeup, Wakeup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "LONGEST_SLEEP", 0.01)
    sleeper = Sleeper(wakeups[0], [16])
    sleeper.grow()
    sleeper.join()


def test_who_finds_something_does_not_sleep(wakeups: tuple[Wakeup, Wakeup]) -> None:
    assert wakeups[0].wait([16], lambda: True, Deadline(0))


def test_the_time_allowed_runs_out(wakeups: tuple[Wakeup, Wakeup]) -> None:
    assert not wakeups[0].wait([16], lambda: False, Deadline(0))
    assert not wakeups[0].wait([16], lambda: False, Deadline(0.02))


def test_a_poke_when_nobody_sleeps_is_no_harm(wakeups: tuple[Wakeup, Wakeup]) -> None:
    wakeups[0].poke([16])
    assert not wakeups[0].page.disarm(16)


class Between:
    """Armed bytes, where somebody arms in between each look at one and whatever follows it."""

    def __init__(self, armed: memoryview) -> None:
        self._armed = armed

    def __getitem__(self, place: int) -> int:
        found = self._armed[place]
        self._armed[place] = 1
        return found

    def __setitem__(self, place: int, value: int) -> None:
        self._armed[place] = value


def test_who_arms_while_another_looks_in_vain_is_not_forgotten() -> None:
    page = SharedPage(None)
    page.armed = Between(page.armed)  # type: ignore[assignment]
    assert not page.disarm(16)  # of nobody, so nobody is poked
    assert page.disarm(16)


def test_a_socket_of_a_killed_process_is_swept_away(wakeups: tuple[Wakeup, Wakeup], tmp_path: Path) -> None:
    receiver, path = wakeups[0]._bind()
    assert receiver is not None
    assert path is not None
    receiver.close()
    wakeups[0].page.arm(16)
    wakeups[1].poke([16])
    assert not path.exists()


def test_without_a_directory_it_polls() -> None:
    alone = Wakeup(None, SharedPage(None))
    looks = iter([False, False, False, True])
    assert alone.wait([1], lambda: next(looks), Deadline(PATIENCE))
    alone.close()


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_a_follower_gets_each_record_as_it_is_committed(path: Path, durability: str) -> None:
    with kafkalite.connect(path, durability=durability) as store:  # type: ignore[arg-type]
        topic = store.topic("t", partitions=2)
        seen: list[bytes | None] = []
        changed = threading.Condition()

        def follow() -> None:
            for record in topic.read(until=None):
                with changed:
                    seen.append(record.value)
                    changed.notify()
                if record.value == b"19":
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(20):
            topic.append(b"%d" % number, partition=number % 2)
            with changed:
                assert changed.wait_for(lambda number=number: len(seen) > number, PATIENCE)  # type: ignore[misc]
        thread.join(PATIENCE)
        assert seen == [b"%d" % number for number in range(20)]
        assert store.check().ok
