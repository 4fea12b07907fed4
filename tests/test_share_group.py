"""Share groups through the public face, in one process: what is accepted, released, rejected, late, and given up."""

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import (
    ClosedError,
    ConcurrentUseError,
    ConfigError,
    ForkedError,
    Store,
    Topic,
    clock,
)
from kafkalite.errors import InvalidGroupIdError, InvalidRecordStateError, UnknownTopicError
from kafkalite.share_member import Pace
from kafkalite.share_records import ShareRecord
from tests.conftest import OpenStore
from tests.share_kit import drained, lag


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store(":memory:")


@pytest.fixture
def jobs(store: Store) -> Topic[bytes, int]:
    """A topic with the jobs 0 to 9."""
    topic = store.topic("jobs", value=int)
    topic.append_many(range(10))
    return topic


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the clock of locks jump by seconds."""
    ahead = 0.0
    honest = clock.boot_ns

    def jump(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(clock, "boot_ns", lambda: honest() + int(ahead * 1e9))
    return jump


# Taking


def test_asking_for_the_next_accepts_and_end_ends(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        assert [record.value for record in group.records("end")] == list(range(10))
        assert lag(group) == 0
    assert drained(store, jobs) == []


def test_groups_are_apart_and_a_new_one_begins_at_the_first_record(store: Store, jobs: Topic[bytes, int]) -> None:
    assert [value for value, _ in drained(store, jobs, "g")] == list(range(10))
    assert [value for value, _ in drained(store, jobs, "other")] == list(range(10))


def test_two_members_share_and_none_gets_what_the_other_has(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as first, store.share_group("g", [jobs]) as second:
        mine = [record.value for record in first.poll(4)]
        assert [record.value for record in second.poll(100)] == [4, 5, 6, 7, 8, 9]
        assert second.poll(timeout=0) == []
        assert mine == [0, 1, 2, 3]
        assert first.poll(timeout=0) == []
        assert lag(first) == 0


def test_several_topics_and_partitions(store: Store) -> None:
    topics = [store.topic(name, partitions=3, value=int) for name in ("left", "right")]
    for number, topic in enumerate(topics):
        for value in range(30):
            topic.append(100 * number + value, partition=value % 3)
    with store.share_group("g", topics) as group:
        seen = sorted(record.value for record in group.records("end"))
    assert seen == [*range(30), *range(100, 130)]


def test_names_are_read_as_bytes(store: Store) -> None:
    store.topic("raw").append(b"x", key=b"k", headers=[("h", b"v")], timestamp_ms=5)
    with store.share_group("g", "raw") as group:
        [record] = group.records("end")
    assert record == ("raw", 0, 0, 5, b"k", b"x", (("h", b"v"),))


def test_record_is_a_record_that_carries_its_delivery_count(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        [record] = group.poll(1)
    assert isinstance(record, kafkalite.Record)
    assert repr(record).endswith("value=0, headers=(), delivery_count=1)")
    again = pickle.loads(pickle.dumps(record))
    assert (again, again.delivery_count, type(again)) == (record, 1, ShareRecord)


def test_end_is_that_of_the_call(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        seen = []
        for record in group.records("end"):
            seen.append(record.value)
            jobs.append(record.value + 100)
        assert seen == list(range(10))
        assert lag(group) == 10


def test_end_of_an_empty_topic(store: Store) -> None:
    with store.share_group("g", [store.topic("empty")]) as group:
        assert list(group.records("end")) == []


def test_end_waits_for_what_others_have_in_hand(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as slow:
        [record] = slow.poll(1)
        seen: list[int] = []
        with store.share_group("g", [jobs]) as fast:

            def work() -> None:
                seen.extend(record.value for record in fast.records("end"))

            thread = threading.Thread(target=work)
            thread.start()
            while lag(slow) > 1:
                pass
            slow.release(record)
            slow.commit()
            thread.join(60)
        assert seen == [*range(1, 10), 0]


def test_max_records_accepts_the_last_one_and_leaves_the_rest(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        assert [record.value for record in group.records(max_records=3)] == [0, 1, 2]
        assert [record.value for record in group.records(max_records=3)] == [3, 4, 5]
    assert drained(store, jobs) == [(value, 1) for value in range(6, 10)]


def test_timeout_ends_the_loop(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        assert len(list(group.records(timeout=0))) == 10
        assert list(group.records(timeout=0.01)) == []
        assert group.poll(timeout=0.01) == []


def test_follows_and_is_woken(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.extend(one.value for one in group.records(None, max_records=12)))
        thread.start()
        while len(seen) < 10 and lag(group) > 0:
            pass
        jobs.append(10)
        jobs.append(11)
        thread.join(60)
        assert not thread.is_alive()
    assert seen == list(range(12))


def test_stop_ends_a_waiting_loop_and_accepts_what_was_in_hand(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.extend(one.value for one in group))
        thread.start()
        while lag(group):
            pass
        group.stop()
        thread.join(60)
        assert not thread.is_alive()
        group.stop()
        assert list(group) == []
        jobs.append(10)
        group.stop()
        assert group.poll() == []
        assert group.poll()[0].value == 10
    assert drained(store, jobs) == [(10, 2)]


def test_poll_accepts_the_one_before_and_leaving_releases_the_last(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        assert [record.value for record in group.poll(3)] == [0, 1, 2]
        assert [record.value for record in group.poll(3)] == [3, 4, 5]
    assert drained(store, jobs) == [(3, 2), (4, 2), (5, 2), *((value, 1) for value in range(6, 10))]


def test_pace_acquires_as_much_as_is_worked_off_in_a_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    time = 0.0
    monkeypatch.setattr(clock, "monotonic", lambda: time)
    pace = Pace()
    wanted = []
    for seconds in (0.001, 0.001, 0.001, 0.07, 1.0, 10.0, 0.001):
        wanted.append(pace.next())
        pace.begin(wanted[-1])
        time += seconds
    assert [*wanted, pace.next()] == [1, 2, 4, 8, 8, 1, 1, 2]
    pace.begin(1)  # not all that was wanted: there was no more
    assert pace.next() == 2


def test_large_records_are_acquired_few_at_a_time(store: Store) -> None:
    topic = store.topic("large")
    topic.append_many([bytes(500_000)] * 40)
    with store.share_group("g", [topic]) as group:
        for record in group.records("end"):
            assert len(record.value or b"") == 500_000
            held = [span for lane in group.describe() for span in lane["spans"] if span["state"] == "ACQUIRED"]  # type: ignore[attr-defined]
            assert sum(span["last"] - span["first"] + 1 for span in held) <= 9


# In hand


def test_break_confirms_nothing_and_the_next_loop_gets_it_again(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        for record in group:
            if record.value == 4:
                break
        again = next(iter(group))
        assert (again.value, again.delivery_count) == (4, 1)
        assert group.poll(2)[0].value == 4
    assert drained(store, jobs)[0] == (4, 2)


def test_an_older_iterator_goes_on_and_takes_over_what_is_in_hand(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        older, newer = iter(group), iter(group)
        assert next(older).value == 0
        assert next(newer).value == 0
        assert next(older).value == 0
        assert next(older).value == 1
    assert drained(store, jobs)[0] == (1, 2)


def test_exception_releases_what_is_in_hand_and_returns_what_was_not_handed_out(
    store: Store, jobs: Topic[bytes, int]
) -> None:
    def work() -> None:
        with store.share_group("g", [jobs]) as group:
            for record in group:
                assert record.value != 5, "poison"

    with pytest.raises(AssertionError, match="poison"):
        work()
    assert drained(store, jobs) == [(5, 2), (6, 1), (7, 1), (8, 1), (9, 1)]


def test_accepted_early_is_not_accepted_again(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        for record in group.records("end"):
            group.accept(record)
            with pytest.raises(InvalidRecordStateError, match=rf"offset {record.offset} of topic 'jobs'.* not in hand"):
                group.accept(record)
        assert lag(group) == 0


def test_acknowledgements_go_out_by_themselves(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group, store.share_group("g", [jobs]) as other:
        for record in group.poll(10):
            group.accept(record)
        while lag(other):  # the keeper says it within 100 ms, though this member does nothing
            pass


def test_released_record_comes_again_and_counts(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        seen = []
        for record in group.records("end"):
            seen.append((record.value, record.delivery_count))
            if record.value in (3, 4) and record.delivery_count < 3:
                group.release(record)
        assert lag(group) == 0
    assert sorted(seen) == sorted([(value, 1) for value in range(10)] + [(v, n) for v in (3, 4) for n in (2, 3)])


def test_released_with_a_delay_comes_after_it(
    store: Store, jobs: Topic[bytes, int], now: Callable[[float], None]
) -> None:
    with store.share_group("g", [jobs]) as group:
        for record in group.records(timeout=0):
            if record.value == 3:
                group.release(record, delay=3600)
        assert lag(group) == 1
        assert group.poll(timeout=0) == []
        now(3601)
        assert [(one.value, one.delivery_count) for one in group.poll(timeout=0)] == [(3, 2)]


def test_waiting_ends_with_the_delay(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        seen = []
        for record in group.records("end"):
            seen.append(record.value)
            if seen.count(3) == 1 and record.value == 3:
                group.release(record, delay=0.3)
        assert seen == [*range(10), 3]


def test_released_by_one_wakes_another(store: Store) -> None:
    topic = store.topic("one", value=int)
    topic.append(7)
    with store.share_group("g", [topic]) as group, store.share_group("g", [topic]) as other:
        [record] = group.poll(1)
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.extend(one.delivery_count for one in other.poll(timeout=60)))
        thread.start()
        group.release(record)
        thread.join(60)
        assert seen == [2]


# Being a member


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"group_id": ""}, "group id"),
        ({"group_id": "x" * 250}, "group id"),
        ({"topics": []}, "at least one topic"),
        ({"topics": ["jobs", "jobs"]}, "each once"),
        ({"max_delivery_count": 0}, "max_delivery_count=0"),
        ({"max_delivery_count": True}, "max_delivery_count=True"),
        ({"acquire_timeout_ms": 0.5}, "acquire_timeout_ms=0.5"),
        ({"acquire_timeout_ms": 3_600_001}, "1 to 3600000"),
        ({"dead_letter": "jobs"}, "dead_letter='jobs'"),
    ],
)
def test_bad_arguments_are_named(store: Store, jobs: Topic[bytes, int], arguments: dict[str, Any], said: str) -> None:
    assert jobs.name == "jobs"
    group_id, topics = arguments.pop("group_id", "g"), arguments.pop("topics", ["jobs"])
    with pytest.raises(ConfigError, match=said) as caught:
        store.share_group(group_id, topics, **arguments)
    assert isinstance(caught.value, InvalidGroupIdError) is (said == "group id")


@pytest.mark.parametrize(
    "call",
    [
        lambda group: group.records("start"),
        lambda group: group.records(max_records=0),
        lambda group: group.poll(0),
        lambda group: group.release(group.poll(1)[0], delay=-1),
        lambda group: group.release(group.poll(1)[0], delay=float("nan")),
        lambda group: group.release(group.poll(1)[0], delay="1"),
    ],
)
def test_bad_calls_are_refused(store: Store, jobs: Topic[bytes, int], call: Callable[[Any], Any]) -> None:
    with store.share_group("g", [jobs]) as group, pytest.raises(ConfigError, match="is not valid"):
        call(group)


def test_unknown_topics_raise(store: Store, jobs: Topic[bytes, int]) -> None:
    with pytest.raises(UnknownTopicError):
        store.share_group("g", ["nothing"])
    with pytest.raises(UnknownTopicError):
        store.share_group("g", [jobs], dead_letter="nothing")


def test_only_within_its_block(store: Store, jobs: Topic[bytes, int]) -> None:
    group = store.share_group("g", [jobs])
    with pytest.raises(ClosedError, match="outside of its block"):
        group.poll()
    with group:
        records = iter(group)
        record = next(records)
    for call in (lambda: next(records), lambda: group.accept(record), group.commit, group.__enter__, group.lag):
        with pytest.raises(ClosedError, match="closed"):
            call()
    group.close()
    assert "closed" in repr(group)


def test_closing_the_store_leaves(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    jobs = store.topic("jobs", value=int)
    jobs.append_many(range(3))
    group = store.share_group("g", [jobs])
    group.__enter__()
    assert group.poll(1)[0].value == 0
    store.close()
    again = open_store(tmp_path / "store")
    assert drained(again, again.topic("jobs", value=int)) == [(0, 2), (1, 1), (2, 1)]


def test_member_that_is_dropped_says_so_and_its_lock_ends(
    store: Store, jobs: Topic[bytes, int], now: Callable[[float], None]
) -> None:
    groups = [store.share_group("g", [jobs])]
    groups[0].__enter__().poll(1)
    with pytest.warns(ResourceWarning, match="ShareGroup 'g'"):
        groups.clear()
    now(31)
    assert drained(store, jobs)[0] == (0, 2)


def test_closed_from_another_thread_while_it_waits(store: Store) -> None:
    group = store.share_group("g", [store.topic("empty")])
    errors: list[BaseException] = []
    waiting = threading.Event()

    def work() -> None:
        try:
            waiting.set()
            next(iter(group))
        except BaseException as error:
            errors.append(error)

    with group:
        thread = threading.Thread(target=work)
        thread.start()
        waiting.wait(60)
    thread.join(60)
    assert [type(error) for error in errors] == [ClosedError]


def test_two_threads_at_once_are_refused(store: Store) -> None:
    with store.share_group("g", [store.topic("empty")]) as group:
        thread = threading.Thread(target=lambda: list(group))
        thread.start()
        while not group._busy.locked():
            pass
        with pytest.raises(ConcurrentUseError, match="'g'"):
            group.poll()
        group.stop()
        thread.join(60)


def test_threads_acknowledge_what_one_polled(store: Store) -> None:
    topic = store.topic("jobs", value=int)
    topic.append_many(range(400))
    with store.share_group("g", [topic]) as group:
        records = group.poll(400)
        threads = [
            threading.Thread(target=lambda some: [group.accept(one) for one in some], args=(records[number::4],))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        group.commit()
        assert lag(group) == 0


def test_threads_with_members_of_their_own_get_each_record_once(store: Store) -> None:
    topic = store.topic("jobs", value=int, partitions=3)
    topic.append_many(range(3000))
    seen: list[list[int]] = [[] for _ in range(6)]

    def work(mine: list[int]) -> None:
        with store.share_group("g", topic) as group:
            mine.extend(record.value for record in group.records())

    threads = [threading.Thread(target=work, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(value for mine in seen for value in mine) == list(range(3000))


def test_forked_child_is_refused_and_its_end_changes_nothing(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        [record] = group.poll(1)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for call in (group.poll, lambda: group.accept(record), group.lag, group.__enter__):
                    with pytest.raises(ForkedError):
                        call()
                group.stop()
                group.close()
                with store.share_group("g", [jobs]) as own:
                    status = 0 if own.poll(1)[0].value == 1 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        group.accept(record)
        group.commit()
    assert [value for value, _ in drained(store, jobs)] == list(range(1, 10))


def test_read_only_store_has_no_share_groups(open_store: OpenStore, tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        store.topic("jobs")
    with kafkalite.connect(tmp_path / "store", read_only=True) as reading, pytest.raises(PermissionError):
        reading.share_group("g", ["jobs"])
