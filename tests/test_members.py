"""What the keeper does for the members of a process, beside what they do themselves."""

import re
from pathlib import Path

from kafkalite import TopicPartition
from tests.conftest import OpenStore
from tests.group_kit import until


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
