"""What the keeper does for the members of a process: tells of topics, and watches the next processes in the ring."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkalite import TopicPartition, clock, disk
from kafkalite.members import LATE_MS, QUIET_MS, Members
from kafkalite.storage.engine import Engine
from kafkalite.storage.slots import Slots
from tests.conftest import OpenStore
from tests.group_kit import until


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
