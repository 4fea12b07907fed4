"""What the tests of consumer groups share: filled topics, what is committed and taken, and every call of a group."""

import time
from collections.abc import Callable
from typing import Any, Final

import kafkalite
from kafkalite import Topic, TopicPartition
from kafkalite.clock import Deadline
from kafkalite.group_state import committed
from kafkalite.storage.page import HAND_WORDS

PATIENCE_S: Final = 30.0
"""Only a hang meets it."""
FIRST: Final = TopicPartition("t", 0)
SECOND: Final = TopicPartition("t", 1)

Store = kafkalite.Store
Group = kafkalite.ConsumerGroup[Any, Any]
Names = list[TopicPartition]


def filled(store: Store, count: int = 6, *, partitions: int = 1, name: str = "t") -> Topic[Any, Any]:
    """A topic with so many records in each partition, in one batch."""
    topic = store.topic(name, partitions=partitions)
    for partition in range(partitions):
        topic.append_many([b"%d" % number for number in range(count)], partition=partition)
    return topic


def until(ready: Callable[[], object], what: str) -> None:
    """Wait until it is so."""
    deadline = Deadline(PATIENCE_S)
    while not ready():
        assert not deadline.passed(), f"it never came to pass that {what}"
        time.sleep(0.005)


def next_offset(store: Store, group_id: str = "g", at: TopicPartition = FIRST) -> int | None:
    """What a group has committed, without being a member of it."""
    with store._engine.snapshot() as (transaction, _):
        found = committed(transaction, group_id, *at)
    return None if found is None else found.offset


def taken_hands(store: Store) -> int:
    return sum(1 for token in store._engine.wakeup.page.hands[::HAND_WORDS] if token)


def offsets(records: Any) -> list[int]:
    return [record.offset for record in records]


def one(group: Group) -> Any:
    """The next record, and nothing more is asked for."""
    return next(iter(group))


class Calls:
    """What was called, in order, with which partitions."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Names]] = []

    def settings(self) -> dict[str, Any]:
        return {f"on_{what}": self._noting(what) for what in ("assigned", "revoked", "lost")}

    def _noting(self, what: str) -> Callable[[Group, Names], None]:
        return lambda group, partitions: self.seen.append((what, partitions))


def outside(group: Group) -> list[Callable[[], object]]:
    """Every call that needs a member."""
    return [
        group.commit, lambda: group.commit({FIRST: 1}), group.committed, group.position, group.lag, group.members,
        lambda: group.seek(FIRST, 0), lambda: group.pause([FIRST]), lambda: group.resume([FIRST]), group.poll,
        lambda: next(iter(group)), lambda: list(group.batches()),
    ]  # fmt: skip
