"""What the keeper does for the members of a process: tells of topics, and watches the next processes in the ring."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkalite import TopicPartition, clock, disk
from kafkalite.group_state import load
from kafkalite.members import LATE_MS, QUIET_MS, Members
from kafkalite.membership import Membership
from kafkalite.storage import locks
from kafkalite.storage.engine import Engine
from kafkalite.storage.slots import Slots
from tests.conftest import OpenStore
from tests.group_kit import SECOND, Group, Store, filled, next_offset, until


class Other:
    """Another process as far as its slot goes, behind all that are there: a lock of its own, and a stamp."""

    def __init__(self, engine: Engine) -> None:
        self._fd = disk.open_file(engine.place.file, write=True)
        self.slots = Slots(self._fd, engine.wakeup.page)
        self.number = self.slots.mine()

    def is_silent_for(self, ms: int) -> None:
        self.slots.page.stamps[self.number] = clock.boot_ms() - ms

    def dies(self) -> None:
        """As SIGKILL does: the lock is gone, the page is as it was."""
        if self._fd >= 0:
            disk.close(self._fd)
            self._fd = -1

    @property
    def is_noticed(self) -> bool:
        """Whether somebody saw it dead."""
        return not self.slots.page.incarnations[self.number]


@pytest.fixture
def engine(tmp_path: Path, open_store: OpenStore) -> Engine:
    found: Engine = open_store(tmp_path / "s.klite", durability="none")._engine
    found.slots.mine()
    return found


@pytest.fixture
def ring(engine: Engine) -> Iterator[list[Other]]:
    """Three others, in the order in which this process comes to them."""
    others = [Other(engine) for _ in range(3)]
    yield others
    for other in others:
        other.dies()


def probe(engine: Engine) -> None:
    """One round of this process, which has no members itself: only the looking."""
    Members(engine)._probe(clock.boot_ms())


def test_the_next_one_that_is_well_watches_what_is_behind_it(engine: Engine, ring: list[Other]) -> None:
    ring[1].dies()
    probe(engine)
    assert not ring[1].is_noticed
    ring[0].dies()
    probe(engine)
    assert [other.is_noticed for other in ring] == [True, True, False]


@pytest.mark.parametrize("ms", [QUIET_MS, LATE_MS // 2, LATE_MS + 1])
def test_a_death_behind_one_that_gives_no_sign_is_seen_at_once(engine: Engine, ring: list[Other], ms: int) -> None:
    ring[0].is_silent_for(ms)
    ring[2].dies()
    probe(engine)
    assert not ring[2].is_noticed
    ring[1].is_silent_for(ms)
    probe(engine)
    assert [other.is_noticed for other in ring] == [False, False, True]


def test_the_keeper_tells_of_topics_and_leaves_the_epoch_to_who_has_write(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store = open_store(tmp_path / "s.klite", durability="none")
    store.topic("one")
    with store.consumer_group("g", re.compile(".*")) as group:
        assert group.poll(timeout=0) == []
        member = group._member
        assert member is not None
        epochs = member.page.epochs
        epoch = epochs[member.place]
        store.topic("two")
        until(member.has_changed, "the keeper to tell")
        assert epochs[member.place] == epoch
        while member.has_changed():
            assert group.poll(timeout=0) == []
        assert group.assignment == [TopicPartition(name, 0) for name in ("one", "two")]


# A member that keeps what it has


@pytest.fixture
def pair(tmp_path: Path, open_store: OpenStore) -> Iterator[tuple[Store, Group, Group]]:
    """Two members with a partition each, both in this thread, that have seen all that happened."""
    store = open_store(tmp_path / "s.klite", durability="none")
    topic = filled(store, 100, partitions=2)
    with store.consumer_group("g", topic) as stays, store.consumer_group("g", topic) as other:
        for group in (stays, other, stays):
            group.poll(1, timeout=0)
        until(lambda: not moved(stays) and not moved(other), "both have seen all")
        yield store, stays, other


def moved(group: Group) -> bool:
    """Whether a member has something to see; it takes a look at what there is."""
    has_changed = member_of(group).has_changed()
    group.poll(1, timeout=0)
    return has_changed


def has_both(group: Group) -> bool:
    """Whether a member has both partitions; it takes a look at what there is."""
    group.poll(1, timeout=0)
    return len(group.assignment) == 2


def has_both_from_50(stays: Group, other: Group) -> None:
    """The other one leaves, and the one that stays is at offset 50 of both partitions."""
    other.close()
    until(lambda: has_both(stays), "it has both")
    for partition in range(2):
        stays.seek(TopicPartition("t", partition), 50)


def member_of(group: Group) -> Membership:
    assert group._member is not None
    return group._member


def raise_epoch(group: Group, to: int) -> None:
    """As a step of the group does."""
    member = member_of(group)
    member.page.epochs[member.place] = to


def last_transaction(store: Store) -> int:
    with store._engine.snapshot() as (transaction, _):
        return int(transaction.id())


def test_a_member_that_keeps_what_it_has_waits_for_nobody_who_appends(pair: tuple[Store, Group, Group]) -> None:
    store, stays, _ = pair
    store.topic("t").append(b"x", partition=0)
    raise_epoch(stays, last_transaction(store))
    assert member_of(stays).has_changed()
    fd = os.open(store._engine.place.file, os.O_RDWR)
    try:
        assert disk.is_taken(disk.lock_call(fd, locks.FIRST_BYTE + locks.WRITE))
        assert len(stays.poll(1, timeout=0)) == 1
    finally:
        os.close(fd)
    assert not member_of(stays).has_changed()


def test_a_change_that_is_not_committed_yet_is_waited_for(
    pair: tuple[Store, Group, Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch is raised before its transaction is committed: what can be read then is how it was before."""
    store, stays, _ = pair
    member, steps = member_of(stays), []
    sound = member._step
    monkeypatch.setattr(member, "_step", lambda *given: steps.append(given) or sound(*given))
    raise_epoch(stays, last_transaction(store) + 1)
    assert len(stays.poll(1, timeout=0)) == 1
    assert len(steps) == 1
    assert not member.has_changed()


def test_an_epoch_is_never_raised_to_what_it_was(pair: tuple[Store, Group, Group]) -> None:
    """A transaction that fails after it raised the epoch leaves its number to the next one."""
    store, stays, other = pair
    pending = last_transaction(store) + 5
    raise_epoch(stays, pending)
    other.close()
    assert member_of(stays).page.epochs[member_of(stays).place] > pending


def test_the_keeper_gives_the_group_its_target_when_who_left_did_not(
    pair: tuple[Store, Group, Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stays, other = pair
    monkeypatch.setattr(member_of(other), "_see_to_target", lambda group: None)
    other.close()
    until(lambda: has_both(stays), "what the other had is this one's")


def test_who_leaves_gives_the_group_its_target(pair: tuple[Store, Group, Group]) -> None:
    _, stays, other = pair
    other.close()
    member = member_of(stays)
    with member._engine.snapshot() as (transaction, positions):
        group = load(transaction, positions.catalogue, "g", member.page).group
    assert group.target_epoch == group.epoch
    stays.poll(1, timeout=0)
    assert len(stays.assignment) == 2


def test_a_look_keeps_the_deadline_and_is_owed_until_it_succeeds(
    pair: tuple[Store, Group, Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    member = member_of(pair[1])
    member.deadline_ms, member.owes_look = 5, False
    member.look()
    assert member.deadline_ms is None
    monkeypatch.setattr(member, "_see_to_target", lambda group: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        member.look()
    assert member.owes_look


@pytest.mark.parametrize("partitions", [9, 12])
def test_going_from_partition_to_partition_waits_for_nobody_while_there_is_room(
    tmp_path: Path, open_store: OpenStore, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "s.klite", durability="none")
    with store.consumer_group("g", filled(store, 2, partitions=partitions)) as group:
        member, commits = member_of(group), []
        monkeypatch.setattr(member, "commit_held", lambda: None)  # the keeper's would make room
        sound = group._commit_confirmed
        monkeypatch.setattr(group, "_commit_confirmed", lambda: commits.append(len(turns)) or sound())
        turns: list[int] = []
        for _ in range(partitions):
            turns += [len(group.poll(timeout=0))]
        assert turns == [2] * partitions
        assert commits == ([9] if partitions > 9 else [])
        assert group.poll(timeout=0) == []
    for partition in range(partitions):
        assert next_offset(store, at=TopicPartition("t", partition)) == 2


def test_what_was_put_aside_is_committed_when_its_partition_is_taken_away(pair: tuple[Store, Group, Group]) -> None:
    """By the step that takes it: the member itself does nothing meanwhile."""
    store, stays, other = pair
    has_both_from_50(stays, other)
    ends = {}
    while (batch := stays.poll(7, timeout=0))[0].partition != 0 or len(ends) < 1:
        ends[batch[0].partition] = batch[-1].offset + 1
    with store.consumer_group("g", "t") as third:
        third.poll(1, timeout=0)
        assert third.assignment == [SECOND]
        assert next_offset(store, at=SECOND) == ends[1]


def test_what_was_put_aside_is_committed_by_the_keeper_while_the_member_waits(
    tmp_path: Path, open_store: OpenStore
) -> None:
    store = open_store(tmp_path / "s.klite", durability="none")
    with store.consumer_group("g", filled(store, 3), auto_commit_interval_ms=3_600_000) as group:
        records = iter(group)
        waiting = threading.Thread(target=lambda: list(records))
        waiting.start()
        until(lambda: next_offset(store) == 3, "all is committed")
        group.stop()
        waiting.join()


def test_what_a_removed_member_had_put_aside_is_committed_with_its_end(pair: tuple[Store, Group, Group]) -> None:
    store, stays, other = pair
    has_both_from_50(stays, other)
    handed_out = [(batch[0].partition, batch[-1].offset) for batch in (stays.poll(7, timeout=0) for _ in range(2))]
    member_of(stays).remove("the test says so")
    (first, last), (second, _) = handed_out
    assert next_offset(store, at=TopicPartition("t", first)) == last + 1
    assert next_offset(store, at=TopicPartition("t", second)) == 50


def test_what_was_put_aside_takes_back_no_offset_of_a_partition_that_was_away_meanwhile(
    pair: tuple[Store, Group, Group],
) -> None:
    """Another took it, committed, and left, all while this member was busy with the record in its hand."""
    store, stays, other = pair
    has_both_from_50(stays, other)
    seen = set()
    while (partition := stays.poll(7, timeout=0)[0].partition) != 0 or len(seen) < 1:
        seen.add(partition)
    with store.consumer_group("g", "t") as third:
        third.poll(1, timeout=0)
        third.commit({SECOND: 90})
    member_of(stays).commit_held()
    assert next_offset(store, at=SECOND) == 90
    rest = [record.offset for record in stays.records(until="end") if record.partition == 1]
    assert rest == list(range(90, 100))
