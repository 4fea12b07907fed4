"""Groups under faults: a crash at each step of what members do, all members dead, a power cut; many groups and members.

A crash leaves the shared page as it was at that step: what the dying process would still have written there is taken
back. With a *witness*, a process that has the store open all the while, the page outlives the crash; without
one it is made anew, and all that is known of the dead is in the journal.
"""

import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

import kafkalite
from kafkalite import TopicPartition, disk
from kafkalite.group_state import groups
from kafkalite.members import members_of_store
from tests.group_kit import FIRST, filled, next_offset, offsets, taken_hands, until
from tests.storage.kit import Killed, abandon, copied

from .ledger import LEDGER

FAULT_CLASS = "F9"
COUNT: Final = 20
CONFIRMED: Final = 4
MOST_STEPS: Final = 200


class Crash:
    """While it lasts, the n-th step of this thread ends the process, as far as disk and shared page are concerned."""

    def __init__(self, at: int, page: Path) -> None:
        self._at, self._page = at, page
        self._thread = threading.get_ident()
        self._count = 0
        self.struck: str | None = None
        self._bytes = b""

    def __enter__(self) -> Self:
        disk.on_step = self._step
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        disk.on_step = None

    def _step(self, name: str) -> None:
        if threading.get_ident() != self._thread:
            return
        self._count += 1
        if self._count == self._at:
            self.struck, self._bytes = name, self._page.read_bytes()
        if self.struck is not None:
            raise Killed

    def take_back(self) -> None:
        """The page as it was at the crash."""
        if self._page.exists():
            with self._page.open("r+b") as stream:
                stream.write(self._bytes)


def page_of(path: Path) -> Path:
    (page,) = path.parent.rglob("page")
    return page


class Child:
    """A process with the store open: an idle witness, or a member with records in hand, which waits to be killed."""

    def __init__(self, path: Path, work: Callable[[kafkalite.Store], object] = bool) -> None:
        self._end, ready = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            store = kafkalite.connect(path)
            _kept = work(store)
            os.write(ready, b"x")
            signal.pause()
            os._exit(0)
        os.close(ready)
        assert os.read(self._end, 1) == b"x", "the child failed"

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._end)
            self.pid = 0


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(path: Path, work: Callable[[kafkalite.Store], object] = bool) -> Child:
        children.append(Child(path, work))
        return children[-1]

    yield start
    for one in children:
        one.kill()


def forget(store: kafkalite.Store, crash: Crash) -> None:
    """The process is gone, with all that it had."""
    known = members_of_store(store._engine)
    abandon(store)
    known._members.clear()
    for group in [one for one in gc.get_objects() if isinstance(one, kafkalite.ConsumerGroup)]:
        if group._engine is store._engine:
            group._member = None
    if crash.struck:
        crash.take_back()


def entered(store: kafkalite.Store) -> Any:
    """A member that keeps what it has until it is asked, with the record behind `CONFIRMED` in hand."""
    group = store.consumer_group("g", "t", auto_commit_interval_ms=3_600_000, on_revoked=lambda *_: None)
    group.join()
    records = iter(group)
    assert offsets(itertools.islice(records, CONFIRMED + 1)) == list(range(CONFIRMED + 1))
    return group, records


def joins(store: kafkalite.Store) -> Callable[[], object]:
    return store.consumer_group("g", "t").join


def commits(store: kafkalite.Store) -> Callable[[], object]:
    group, _ = entered(store)
    return group.commit


def leaves(store: kafkalite.Store) -> Callable[[], object]:
    group, _ = entered(store)
    return group.close


def goes_along(store: kafkalite.Store) -> Callable[[], object]:
    """A member that learns that another has joined."""
    group, _ = entered(store)
    other = store.consumer_group("g", "t", on_assigned=lambda *_: None)
    other.join()
    return lambda: (group.poll(1, timeout=0), other.poll(1, timeout=0))


def all_is_well(path: Path, partitions: int) -> None:
    """A new member gets everything that was not committed, is alone soon, and nothing is skipped."""
    with kafkalite.connect(path) as store, store.consumer_group("g", "t") as group:
        until(lambda: len(group.members()) == 1, "the dead are removed")
        until(lambda: group.poll(1, timeout=0) is None or len(group.assignment) == partitions, "all partitions move")
        found = [(record.partition, record.offset) for record in group.records(until="end", timeout=5)]
        firsts = {
            number: next((offset for one, offset in found if one == number), COUNT) for number in range(partitions)
        }
        assert found == sorted(found) or partitions > 1
        assert all(first <= CONFIRMED + 1 for first in firsts.values()), firsts
        assert len(found) == sum(COUNT - first for first in firsts.values())
        assert store.check().ok


@pytest.mark.matrix
@pytest.mark.parametrize("has_witness", [False, True], ids=["alone", "witness"])
@pytest.mark.parametrize("act", [joins, commits, leaves, goes_along])
def test_crash_at_each_step(
    tmp_path: Path,
    child: Callable[..., Child],
    act: Callable[[kafkalite.Store], Callable[[], object]],
    has_witness: bool,
) -> None:
    partitions = 2 if act is goes_along else 1
    for at in range(1, MOST_STEPS):
        path = tmp_path / f"{at}" / "store"
        path.parent.mkdir()
        with kafkalite.connect(path, durability="none") as store:
            filled(store, COUNT, partitions=partitions)
        witness = child(path) if has_witness else None
        store = kafkalite.connect(path)
        operation = act(store)
        crash = Crash(at, page_of(path))
        with crash:
            try:
                operation()
            except Killed:
                assert crash.struck
        forget(store, crash)
        all_is_well(path, partitions)
        if witness is not None:
            witness.kill()
        if crash.struck is None:
            assert at > 2, "it takes steps"
            return
        LEDGER.fault(f"group {act.__name__}", f"{at} {crash.struck}", "crash")
    raise AssertionError("it did not run through")


def test_crash_at_each_step_of_removing_a_dead_member(tmp_path: Path, child: Callable[..., Child]) -> None:
    for at in range(1, MOST_STEPS):
        path = tmp_path / f"{at}" / "store"
        path.parent.mkdir()
        with kafkalite.connect(path, durability="none") as store:
            filled(store, COUNT)
        witness, dead = child(path), child(path, entered)
        store = kafkalite.connect(path)
        slots = store._engine.slots
        slots.mine()
        dead.kill()
        (process,) = [(number, slots.page.incarnations[number]) for number in slots.taken() if number != slots.number]
        crash = Crash(at, page_of(path))
        with crash:
            try:
                members_of_store(store._engine).expel(process)
            except Killed:
                assert crash.struck
        forget(store, crash)
        with kafkalite.connect(path) as again, again.consumer_group("g", "t") as group:
            until(lambda: len(group.members()) == 1, "the dead one is removed")
            until(lambda: bool(group.assignment) or group.poll(1, timeout=0.01), "its partition moves")
            assert group.position() == {FIRST: CONFIRMED}, "what it had confirmed is committed"
            assert again.check().ok
        witness.kill()
        if crash.struck is None:
            assert at > 1
            return
        LEDGER.fault("group expel", f"{at} {crash.struck}", "crash")
    raise AssertionError("it did not run through")


@pytest.mark.parametrize("instance_id", [None, "a"])
def test_the_next_member_removes_the_dead_of_another_life(
    tmp_path: Path, child: Callable[..., Child], instance_id: str | None
) -> None:
    path = tmp_path / "store"
    with kafkalite.connect(path) as store:
        filled(store, COUNT)

    def work(store: kafkalite.Store) -> Any:
        group = store.consumer_group("g", "t", group_instance_id=instance_id, session_timeout_ms=300)
        group.join()
        return group, next(iter(group))

    child(path, work).kill()
    with (
        kafkalite.connect(path) as store,
        store.consumer_group("g", "t", group_instance_id=instance_id) as group,
    ):
        assert offsets(group.records(until="end", timeout=10)) == list(range(COUNT))
        assert len(group.members()) == 1
        assert store.check().ok


@pytest.mark.parametrize("suffix", ["store", "store.klite"])
def test_groups_are_rebuilt_from_the_journal(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / suffix
    with kafkalite.connect(path) as store:
        topic = filled(store, COUNT, partitions=3)
        for name in ("g", "h"):
            with store.consumer_group(name, topic) as group:
                list(group.records(until="end", max_records=COUNT * 2))
                members = group.members()
                before = group.position()
                group.commit()
                store.flush()
                copy = copied(path, tmp_path, f"copy-{name}")
            with kafkalite.connect(copy) as again:
                with again._engine.snapshot() as (transaction, _):
                    assert name in groups(transaction)
                assert {at: next_offset(again, name, at) for at in before} == before
                with again.consumer_group(name, "t") as other:
                    assert other.position() == before
                    assert members.keys().isdisjoint(other.members())
                    assert len(list(other.records(until="end", timeout=10))) == COUNT
                assert again.check().ok
        assert store.check().ok


def test_a_thousand_groups(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with kafkalite.connect(path, durability="none") as store:
        filled(store, 3)
        for number in range(1000):
            with store.consumer_group(f"group-{number:04}", "t") as group:
                list(group.records(max_records=number % 3 + 1))
        assert taken_hands(store) == 0
    with kafkalite.connect(copied(path, tmp_path, "copy")) as again:
        with again._engine.snapshot() as (transaction, _):
            assert groups(transaction) == [f"group-{number:04}" for number in range(1000)]
        assert [next_offset(again, f"group-{number:04}") for number in range(1000)] == [
            number % 3 + 1 for number in range(1000)
        ]
        assert again.check().ok


@pytest.mark.long
def test_a_hundred_members_of_one_group(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "store", durability="none") as store:
        topic = filled(store, 5, partitions=120)
        members = [store.consumer_group("g", topic) for _ in range(100)]
        for member in members:
            member.join()
        for member in members:
            member.poll(timeout=0)
        everybody = members[0].members()
        assert len(everybody) == 100
        assert sorted(itertools.chain(*everybody.values())) == [TopicPartition("t", number) for number in range(120)]
        assert {len(owned) for owned in everybody.values()} == {1, 2}
        found = [record for member in members for record in member.records(until="end", timeout=5)]
        assert len(found) == 600
        for member in members:
            member.close()
        assert taken_hands(store) == 0
        assert store.check().ok
