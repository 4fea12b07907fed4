"""Members of a group in one process: who has what, who is removed and comes back, topics that come and go."""

import gc
import itertools
import os
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kafkalite import (
    ClosedError,
    ConcurrentUseError,
    ConfigError,
    ForkedError,
    Topic,
    TopicPartition,
    UnknownTopicError,
)
from kafkalite.clock import Deadline
from kafkalite.errors import FencedMemberError
from tests.conftest import OpenStore
from tests.group_kit import (
    FIRST,
    PATIENCE_S,
    SECOND,
    Calls,
    Group,
    Names,
    Store,
    filled,
    next_offset,
    offsets,
    one,
    outside,
    taken_hands,
    until,
)


@pytest.fixture
def store(layout: Path | str, open_store: OpenStore) -> Store:
    """In each layout, not flushed: nothing here is about the disk."""
    return open_store(layout, durability="none")


@pytest.fixture
def topic(store: Store) -> Topic[Any, Any]:
    return filled(store)


# Topics


def test_a_regex_picks_up_topics_that_come(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", [re.compile("t.*")], value=str) as group:
        assert [record.value for record in group.records(until="end")] == ["0", "1", "2", "3", "4", "5"]
        filled(store, 2, partitions=2, name="other")
        filled(store, 2, partitions=2, name="t2")
        found = list(group.records(until=None, max_records=4, timeout=PATIENCE_S))
        assert Counter(record.topic for record in found) == {"t2": 4}
        assert [record.value for record in found].count("1") == 2
        assert {partition.topic for partition in group.assignment} == {"t", "t2"}


def test_a_regex_means_whole_names_and_its_own_flags(store: Store) -> None:
    for name in ("orders", "Orders", "orders-2", "pre-orders"):
        filled(store, 1, name=name)
    with store.consumer_group("g", [re.compile("orders", re.IGNORECASE), "orders-2"]) as group:
        assert {record.topic for record in group.records(until="end")} == {"orders", "Orders", "orders-2"}


def test_a_regex_that_matches_nothing_yet(store: Store) -> None:
    with store.consumer_group("g", [re.compile("later")]) as group:
        assert offsets(group.records(until="end")) == []
        filled(store, 2, name="later")
        assert offsets(group.records(until=None, max_records=2, timeout=PATIENCE_S)) == [0, 1]


def test_a_topic_created_anew_begins_anew(store: Store, topic: Topic[Any, Any]) -> None:
    filled(store, 1, name="u")
    with store.consumer_group("g", [topic, "u"]) as group:
        list(group.records(until="end"))
        store.delete_topic("t")
        until(lambda: group.poll(timeout=0.01) == [] and len(group.assignment) == 1, "a deleted topic goes")
        assert group.committed() == {TopicPartition("u", 0): 1}
        filled(store, 2)
        found = list(group.records(until=None, max_records=2, timeout=PATIENCE_S))
        assert [(record.topic, record.offset) for record in found] == [("t", 0), ("t", 1)]
    with store.consumer_group("g", ["t"]) as group:
        assert group.committed() == {FIRST: 2}


def test_a_topic_deleted_with_its_records_in_hand(store: Store) -> None:
    topic = filled(store, 1000)
    with store.consumer_group("g", topic) as group:
        one(group)
        store.delete_topic("t")
        until(lambda: group.poll(1, timeout=0.01) == [] and not group.assignment, "nothing of it is left")
    assert next_offset(store) is None


def test_deleting_a_topic_deletes_what_was_committed_of_it(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        list(group.records(until="end"))
    store.delete_topic("t")
    assert next_offset(store) is None


def test_an_unknown_topic_is_refused_on_entry(store: Store) -> None:
    with pytest.raises(UnknownTopicError, match="nothing"), store.consumer_group("g", "nothing"):
        pass
    assert taken_hands(store) == 0


@pytest.mark.parametrize("topics", [[], [5], 5, None, [re.compile(b"t")]])
def test_topics_that_are_none(store: Store, topics: Any) -> None:
    with pytest.raises((ConfigError, TypeError)):
        store.consumer_group("g", topics)


def test_topics_of_two_types(store: Store) -> None:
    words, numbers = store.topic("words", value=str), store.topic("numbers", value=int)
    words.append("one")
    numbers.append(1)
    with store.consumer_group("g", [words, numbers]) as group:
        assert {record.topic: record.value for record in group.records(until="end")} == {"words": "one", "numbers": 1}


# Members


def test_two_members_in_one_thread_share_partitions(store: Store) -> None:
    topic = filled(store, 5, partitions=2)
    with store.consumer_group("g", topic) as one_member, store.consumer_group("g", topic) as other:
        assert len(other.assignment) == 1
        found = [*one_member.records(until="end"), *other.records(until="end")]
        assert Counter((record.partition, record.offset) for record in found) == Counter(
            itertools.product(range(2), range(5))
        )
        assert sorted(itertools.chain(*one_member.members().values())) == [FIRST, SECOND]


def test_more_members_than_partitions(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as one_member, store.consumer_group("g", topic) as other:
        assert offsets(other.records(until="end")) == []
        assert offsets(one_member.records(until="end")) == [0, 1, 2, 3, 4, 5]
        one_member.close()
        topic.append(b"new")
        assert offsets(other.records(until=None, max_records=1, timeout=PATIENCE_S)) == [6]


def test_two_groups_read_the_same(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as one_group, store.consumer_group("h", topic) as other:
        assert offsets(one_group.records(until="end")) == offsets(other.records(until="end")) == [0, 1, 2, 3, 4, 5]


def test_threads_share_every_record_once(store: Store) -> None:
    topic = filled(store, 500, partitions=8)
    seen: list[list[tuple[int, int]]] = [[] for _ in range(5)]
    failures: list[BaseException] = []

    def member(mine: list[tuple[int, int]]) -> None:
        try:
            with store.consumer_group("g", topic) as group:
                mine += [(record.partition, record.offset) for record in group.records(until="end", timeout=5)]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=member, args=[mine]) for mine in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    everything = Counter(itertools.chain(*seen))
    assert everything.keys() == set(itertools.product(range(8), range(500)))
    assert everything.total() == 4000, "nobody was killed, so nothing is repeated"
    for mine in seen:
        for partition in range(8):
            of_one = [offset for number, offset in mine if number == partition]
            assert of_one == sorted(of_one)
    assert taken_hands(store) == 0


def is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except ConcurrentUseError:
        return True
    return False


def test_a_second_thread_is_refused(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        list(group.records(until="end"))
        reader = threading.Thread(target=group.poll, kwargs={"timeout": None})
        reader.start()
        until(lambda: is_refused(group.position), "the other thread waits")
        for call in (group.commit, group.position, group.poll, group.lag, group.members, lambda: next(iter(group))):
            with pytest.raises(ConcurrentUseError, match="one for each thread"):
                call()
        group.stop()
        reader.join()


def test_outside_of_the_block_calls_are_refused(store: Store, topic: Topic[Any, Any]) -> None:
    group = store.consumer_group("g", topic)
    for moment in ("before", "after"):
        for call in outside(group):
            with pytest.raises(ClosedError, match=r"closed|outside of its block"):
                call()
        assert group.assignment == []
        if moment == "before":
            with group:
                pass


def test_leaving_twice_and_entering_again(store: Store, topic: Topic[Any, Any]) -> None:
    group = store.consumer_group("g", topic)
    with group:
        list(group.records(max_records=2))
        group.close()
        group.close()
    with group:
        assert one(group).offset == 2


def test_a_dropped_member_warns_and_leaves(store: Store, topic: Topic[Any, Any]) -> None:
    group = store.consumer_group("g", topic)
    group.join()
    one(group)
    with pytest.warns(ResourceWarning, match="was not left"):  # noqa: PT031
        del group
        gc.collect()
    assert taken_hands(store) == 0


def test_closing_the_store_leaves_and_commits_what_was_confirmed(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store(tmp_path / "store")
    group = store.consumer_group("g", filled(store))
    with group:
        assert offsets(itertools.islice(iter(group), 3)) == [0, 1, 2]
        store.close()
        for call in outside(group):
            with pytest.raises(ClosedError):
                call()
    again = open_store(tmp_path / "store")
    with again.consumer_group("g", "t") as group:
        assert list(group.members().values()) == [[FIRST]]
        assert one(group).offset == 2


def test_closing_one_of_two_handles_leaves_its_members_only(tmp_path: Path, open_store: OpenStore) -> None:
    store, other = open_store(tmp_path / "store"), open_store(tmp_path / "store")
    filled(store, partitions=2)
    mine, others = store.consumer_group("g", "t"), other.consumer_group("g", "t")
    with mine, others:
        store.close()
        with pytest.raises(ClosedError):
            mine.poll(timeout=0)
        assert len(list(others.records(until="end"))) == 12


def test_closing_the_store_ends_a_thread_that_waits(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store(tmp_path / "store")
    group = store.consumer_group("g", filled(store))
    ends: list[BaseException | int] = []

    def wait() -> None:
        try:
            with group:
                ends.append(len(list(group)))
        except BaseException as error:
            ends.append(error)

    reader = threading.Thread(target=wait)
    reader.start()
    until(lambda: next_offset(store) == 6, "it has read all and waits")
    store.close()
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert ends == [6] or [type(end) for end in ends] == [ClosedError], ends
    with open_store(tmp_path / "store").consumer_group("g", "t") as again:
        assert list(again.members().values()) == [[FIRST]]


def test_a_forked_child_cannot_use_a_membership(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store(tmp_path / "store")
    topic = filled(store)
    with store.consumer_group("g", topic) as group:
        one(group)
        assert group._member is not None
        assert group._member.hand is not None
        parents_slot = group._member.hand.process[0]
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for call in outside(group):
                    with pytest.raises(ForkedError, match="join in the child"):
                        call()
                group.close()  # harmless
                with store.consumer_group("h", topic) as mine:
                    assert offsets(mine.records(until="end")) == [0, 1, 2, 3, 4, 5]
                    assert mine._member is not None
                    assert mine._member.hand is not None
                    assert mine._member.hand.process[0] != parents_slot
                store.close()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert list(group.members().values()) == [[FIRST]]
        assert offsets(group.records(until="end")) == [0, 1, 2, 3, 4, 5]


# Removal, and coming back


def test_a_removed_member_may_not_commit_and_iterating_joins_again(store: Store, topic: Topic[Any, Any]) -> None:
    calls = Calls()
    with store.consumer_group("g", topic, **calls.settings()) as group:
        records = iter(group)
        assert offsets(itertools.islice(records, 3)) == [0, 1, 2]
        member = group._member
        assert member is not None
        member.remove("the test says so")
        with pytest.raises(FencedMemberError, match="no longer a member"):
            group.commit()
        until(lambda: next(records).offset == 2, "it joins again, and begins behind what it had confirmed")
        assert calls.seen == [("assigned", [FIRST]), ("lost", [FIRST]), ("assigned", [FIRST])]
        assert group._member is not member
        group.commit()
    assert next_offset(store) == 3
    assert taken_hands(store) == 0


def test_without_on_lost_the_removed_one_is_told_by_on_revoked(store: Store, topic: Topic[Any, Any]) -> None:
    seen: list[Names] = []
    with store.consumer_group("g", topic, on_revoked=lambda _group, names: seen.append(names)) as group:
        one(group)
        assert group._member is not None
        group._member.remove("the test says so")
        group.poll(timeout=0)
        assert seen == [[FIRST]]


def test_what_a_fenced_member_still_hands_out_is_in_nobody_elses_hand(store: Store) -> None:
    topic, other_topic = filled(store, 100), filled(store, 100, name="u")
    with store.consumer_group("g", topic) as fenced:
        records = iter(fenced)
        assert offsets(itertools.islice(records, 10)) == list(range(10))
        assert fenced._member is not None
        fenced._member.remove("the test says so")
        with store.consumer_group("h", other_topic, auto_commit_interval_ms=1) as other:
            one(other)
            next(records)
            next(records)
            assert other._member is not None
            assert other._member.hand is not None
            held = other._member.hand.held()
            assert held is not None
            assert held[1] == 0
            time.sleep(0.12)
            assert other.committed() == {TopicPartition("u", 0): 0}


def test_a_member_stuck_in_its_loop_is_removed(store: Store) -> None:
    topic = filled(store, partitions=2)
    with store.consumer_group("g", topic, max_poll_interval_ms=100) as stuck:
        records = iter(stuck)
        in_hand = next(records)
        assert stuck._member is not None
        name = stuck._member.member_id
        with store.consumer_group("g", topic) as other:
            until(lambda: name not in other.members(), "who asks for nothing is removed")
            until(lambda: other.poll(timeout=0.01) == [] and len(other.assignment) == 2, "its partitions move")
            with pytest.raises(FencedMemberError):
                stuck.commit()
        again = list(stuck.records(until="end"))
        assert in_hand.offset == 0
        assert again == []


@pytest.mark.parametrize("how", ["joins", "waited"])
def test_a_member_that_never_asks_is_removed(store: Store, topic: Topic[Any, Any], how: str) -> None:
    with store.consumer_group("g", topic, max_poll_interval_ms=100) as idle:
        if how == "waited":
            list(idle.records(until="end"))
            idle.poll(timeout=0.02)
        assert idle._member is not None
        name = idle._member.member_id
        deadline = Deadline(3.0)
        with store.consumer_group("g", topic) as other:
            while name in other.members() and not deadline.passed():
                other.poll(timeout=0.01)
            assert name not in other.members()


def test_waiting_does_not_count_as_being_stuck(store: Store, topic: Topic[Any, Any]) -> None:
    calls = Calls()
    with store.consumer_group("g", topic, max_poll_interval_ms=100, **calls.settings()) as group:
        list(group.records(until="end"))
        assert group.poll(timeout=0.4) == []
        assert calls.seen == [("assigned", [FIRST])]


def test_others_in_the_process_go_on_when_one_was_removed_by_others(store: Store) -> None:
    from kafkalite.coordinator.group import Fence

    topic, other_topic = filled(store, 100), filled(store, 100, name="u")
    removed = store.consumer_group("g", topic, max_poll_interval_ms=50)
    with removed, store.consumer_group("h", other_topic, auto_commit_interval_ms=1) as other:
        one(removed)
        member = removed._member
        assert member is not None
        member._step(lambda _: [Fence(member.member_id, "as another's tick does")])
        time.sleep(0.2)
        records = iter(other)
        assert offsets(itertools.islice(records, 5)) == [0, 1, 2, 3, 4]
        deadline = Deadline(3.0)
        while next_offset(store, "h", TopicPartition("u", 0)) != 4 and not deadline.passed():
            time.sleep(0.01)
        assert next_offset(store, "h", TopicPartition("u", 0)) == 4


# Static members


def test_a_static_member_comes_back_to_its_partitions(store: Store) -> None:
    topic = filled(store, partitions=2)
    with store.consumer_group("g", topic) as other:
        with store.consumer_group("g", topic, group_instance_id="a") as static:
            mine = static.assignment
            assert len(mine) == 1
            other.poll(1, timeout=0)
            assert len(other.assignment) == 1
        other.poll(1, timeout=0)
        assert len(other.assignment) == 1, "they wait for it"
        with store.consumer_group("g", topic, group_instance_id="a") as static:
            assert static.assignment == mine


def test_a_static_member_that_stays_away_loses_its_partitions(store: Store) -> None:
    topic = filled(store, partitions=2)
    with store.consumer_group("g", topic) as other:
        with store.consumer_group("g", topic, group_instance_id="a", session_timeout_ms=100):
            pass
        until(lambda: other.poll(timeout=0.01) == [] and len(other.assignment) == 2, "its session ends")
    assert taken_hands(store) == 0


def test_two_living_members_of_one_instance_id(store: Store, topic: Topic[Any, Any]) -> None:
    with (
        store.consumer_group("g", topic, group_instance_id="a") as group,
        pytest.raises(FencedMemberError, match="group_instance_id='a'"),
        store.consumer_group("g", topic, group_instance_id="a"),
    ):
        pass
    assert group.assignment == []


def test_static_members_that_come_and_go_need_one_hand(store: Store, topic: Topic[Any, Any]) -> None:
    for _ in range(5):
        with store.consumer_group("g", topic, group_instance_id="a"):
            assert taken_hands(store) == 1
    assert taken_hands(store) == 1


# Strategies


def test_a_function_as_strategy(store: Store) -> None:
    topic = filled(store, partitions=3)
    asked = []

    def all_to_the_last(members: Mapping[str, Any], topics: Mapping[str, range]) -> dict[str, set[int]]:
        asked.append(topics)
        last = max(members)
        return {name: set(topics["t"]) if name == last else set() for name in members}

    with store.consumer_group("g", topic, partition_assignment_strategy=all_to_the_last) as group:
        assert len(group.assignment) == 3
    assert len(asked[0]["t"]) == 3


@pytest.mark.parametrize(
    "strategy",
    [
        lambda *_: 5, lambda *_: {}, lambda *_: {"nobody": {16}}, lambda members, _: dict.fromkeys(members, ()),
        "bogus", 5, None,
    ],
    ids=["no-mapping", "nobody-at-all", "a-stranger", "nothing", "unknown", "number", "none"],
)  # fmt: skip
def test_a_strategy_that_is_none(store: Store, topic: Topic[Any, Any], strategy: Any) -> None:
    with (
        pytest.raises(ConfigError),
        store.consumer_group("g", topic, partition_assignment_strategy=strategy),
    ):
        pass
    gc.collect()
    assert taken_hands(store) == 0
    with store.consumer_group("g", topic) as group:
        assert group.assignment == [FIRST]


def test_strategies_with_nothing_in_common(store: Store, topic: Topic[Any, Any]) -> None:
    with (
        store.consumer_group("g", topic, partition_assignment_strategy="range") as group,
        pytest.raises(FencedMemberError, match=r"no assignment strategy in common \(range; sticky\)"),
        store.consumer_group("g", topic, partition_assignment_strategy="sticky"),
    ):
        pass
    assert group.assignment == []
    assert taken_hands(store) == 0


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "sticky", "cooperative-sticky"])
def test_each_strategy_gives_every_partition_to_somebody(store: Store, strategy: str) -> None:
    topic = filled(store, 1, partitions=5)
    settings: dict[str, Any] = {"partition_assignment_strategy": strategy}
    with store.consumer_group("g", topic, **settings) as a, store.consumer_group("g", topic, **settings) as b:
        a.poll(timeout=0)
        b.poll(timeout=0)
        assert sorted(a.assignment + b.assignment) == [TopicPartition("t", number) for number in range(5)]
        assert abs(len(a.assignment) - len(b.assignment)) == 1


# Callbacks


def test_callbacks_say_what_comes_and_what_goes(store: Store) -> None:
    topic, one_calls, other_calls = filled(store, partitions=2), Calls(), Calls()
    with store.consumer_group("g", topic, **one_calls.settings()) as member:
        assert one_calls.seen == [("assigned", [FIRST, SECOND])]
        with store.consumer_group("g", topic, **other_calls.settings()) as other:
            assert other_calls.seen == []  # nobody is called outside of his own calls
            member.poll(timeout=0)
            (given,) = [partition for partition in (FIRST, SECOND) if partition not in member.assignment]
            assert one_calls.seen[1:] == [("revoked", [given])]
            other.poll(timeout=0)
            assert other_calls.seen == [("assigned", [given])]
        assert other_calls.seen[1:] == [("revoked", [given])]
        member.poll(timeout=0)
        assert one_calls.seen[2:] == [("assigned", [given])]
    assert one_calls.seen[3:] == [("revoked", [FIRST, SECOND])]


def test_on_revoked_may_still_commit_what_goes(store: Store) -> None:
    topic, seen = filled(store, partitions=1), []

    def commit(group: Group, partitions: Names) -> None:
        seen.append(partitions)
        group.commit({FIRST: 5})

    with store.consumer_group("g", topic, on_revoked=commit, enable_auto_commit=False) as group:
        one(group)
    assert seen == [[FIRST]]
    assert next_offset(store) == 5


def test_on_assigned_may_seek(store: Store, topic: Topic[Any, Any]) -> None:
    def to_three(group: Group, partitions: Names) -> None:
        for partition in partitions:
            group.seek(partition, 3)

    with store.consumer_group("g", topic, on_assigned=to_three) as group:
        assert one(group).offset == 3


def test_a_callback_that_raises_on_entry_leaves_no_member(store: Store, topic: Topic[Any, Any]) -> None:
    def fail(_group: Group, _partitions: Names) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), store.consumer_group("g", topic, on_assigned=fail):
        pass
    gc.collect()
    assert taken_hands(store) == 0
    with store.consumer_group("g", topic) as group:
        assert list(group.members().values()) == [[FIRST]]


def test_a_callback_that_raises_on_leaving_leaves_all_the_same(store: Store, topic: Topic[Any, Any]) -> None:
    def fail(_group: Group, _partitions: Names) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), store.consumer_group("g", topic, on_revoked=fail) as group:
        list(group.records(max_records=2))
    assert next_offset(store) == 2
    assert taken_hands(store) == 0
