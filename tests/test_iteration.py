"""Iteration: every form of start and until against brute force, following, and what raising leaves. In each layout."""

import random
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from kafkalite import (
    ClosedError,
    ConfigError,
    DeserializationError,
    OffsetOutOfRangeError,
    Record,
    RecordBatch,
    Store,
    Topic,
    UnknownPartitionError,
    UnknownTopicError,
    clock,
)
from kafkalite.testing import procs

OpenStore = Callable[..., Store]
RECENT = 1_700_000_000_000
PATIENCE = 60


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


def at(timestamp_ms: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms)


def numbered(store: Store, partitions: int = 1, count: int = 10, per_batch: int = 1) -> Topic[bytes, bytes | None]:
    """A topic whose partitions hold "0", "1" …, in batches of `per_batch`."""
    topic = store.topic("t", partitions=partitions)
    for partition in range(partitions):
        for start in range(0, count, per_batch):
            topic.append_many(
                [b"%d" % number for number in range(start, min(start + per_batch, count))], partition=partition
            )
    return topic


def values(records: Iterator[Record[Any, Any]]) -> list[Any]:
    return [record.value for record in records]


# Where reading starts and ends


Log = dict[int, list[tuple[int, int]]]
"""By partition, (offset, timestamp) of each record: what brute force looks at."""


def _filled(store: Store, choose: random.Random) -> tuple[Topic[bytes, bytes | None], Log]:
    """Batches of all sizes, timestamps that go back and forth, and a partition with nothing in it."""
    topic = store.topic("t", partitions=4)
    log: Log = {0: [], 1: [], 2: [], 3: []}
    for _ in range(24):
        partition = choose.randrange(3)
        stamps = [RECENT + choose.randrange(400) for _ in range(choose.choice([1, 2, 9]))]
        for offset, stamp in zip(
            topic.append_many([b"v"] * len(stamps), partition=partition, timestamps_ms=stamps)[partition],
            stamps,
            strict=True,
        ):
            log[partition].append((offset, stamp))
    return topic, log


def _position(choose: random.Random, log: Log) -> Any:
    kind = choose.randrange(5)
    if kind == 0:
        return choose.choice(["earliest", "latest"])
    if kind in (1, 2):
        zone = choose.choice([UTC, timezone(timedelta(hours=5, minutes=30))])
        return at(RECENT + choose.choice([-1, choose.randrange(400), choose.random() * 400, 400])).astimezone(zone)
    some = choose.sample(range(4), choose.randrange(1, 5))
    return {partition: choose.randrange(len(log[partition]) + 1) for partition in some}


def _expected(log: Log, position: Any, *, is_start: bool) -> dict[int, int]:
    """The offset that a position means, of each partition that it speaks of."""
    if isinstance(position, Mapping):
        return dict(position)
    if position == "earliest":
        return dict.fromkeys(log, 0)
    if position in ("latest", "end"):
        return {partition: len(records) for partition, records in log.items()}
    milliseconds = (position - at(0)) / timedelta(milliseconds=1)
    return {
        partition: next((offset for offset, stamp in records if stamp >= milliseconds), len(records))
        for partition, records in log.items()
    }


def test_every_form_of_start_and_until_gives_what_brute_force_gives(store: Store, seed: int) -> None:
    choose = random.Random(seed)
    topic, log = _filled(store, choose)
    for _ in range(120):
        start, until = _position(choose, log), choose.choice(["end", _position(choose, log)])
        starts = _expected(log, start, is_start=True)
        ends = _expected(log, "end", is_start=False) | _expected(log, until, is_start=False)
        expected = {
            (partition, offset) for partition, first in starts.items() for offset in range(first, ends[partition])
        }
        found = [(record.partition, record.offset) for record in topic.read(start=start, until=until)]
        assert set(found) == expected, (start, until)
        assert len(found) == len(expected)
        assert [
            (batch.partition, offset) for batch in topic.batches(start=start, until=until) for offset in batch.offsets
        ] == found
        for partition in range(4):
            mine = [offset for number, offset in found if number == partition]
            assert mine == sorted(mine)
            if partition in starts:
                assert [record.offset for record in topic.read(partition, start=start, until=until)] == mine


def test_a_time_finds_the_first_record_at_or_after_it_to_the_millisecond(store: Store) -> None:
    topic = store.topic("t")
    topic.append_many([b"v"] * 1000, timestamps_ms=range(RECENT, RECENT + 1000))
    for number in range(1000):
        assert next(topic.read(start=at(RECENT + number))).offset == number
    assert next(topic.read(start=at(RECENT + 500.001))).offset == 501
    assert next(topic.read(start=at(RECENT + 499.999))).offset == 500
    assert len(list(topic.read(until=at(RECENT + 500.5)))) == 501


def test_an_offset_needs_one_partition_and_may_be_the_only_ones(store: Store) -> None:
    topic = numbered(store, partitions=2)
    assert values(topic.read(1, start=3, until=6)) == [b"3", b"4", b"5"]
    assert values(store.topic("one").read(start=0, until=0)) == []
    for position in ({"start": 3}, {"until": 3}):
        with pytest.raises(ConfigError, match=r"=3 is an offset, and topic 't' has 2 partitions"):
            topic.read(**position)


def test_until_at_or_before_start_is_nothing(store: Store) -> None:
    topic = numbered(store)
    assert values(topic.read(start=5, until=5)) == values(topic.read(start=5, until=3)) == []
    assert values(topic.read(start="latest")) == values(topic.read(start="latest", until="earliest")) == []


def test_a_mapping_reads_only_the_partitions_that_it_names(store: Store) -> None:
    topic = numbered(store, partitions=3, count=3)
    assert [(record.partition, record.offset) for record in topic.read(start={2: 1})] == [(2, 1), (2, 2)]
    assert list(topic.read(start={})) == []
    found = topic.read(start={0: 2, 1: 0}, until={1: 1})
    assert sorted((record.partition, record.offset) for record in found) == [(0, 2), (1, 0)]


def test_a_timedelta_is_before_now(store: Store) -> None:
    topic = store.topic("t")
    now = clock.now_ms()
    topic.append_many([b"old", b"new"], timestamps_ms=[now - 3_600_000, now - 60_000])
    assert values(topic.read(start=timedelta(minutes=30))) == [b"new"]
    assert values(topic.read(start=timedelta(hours=2))) == [b"old", b"new"]
    assert values(topic.read(until=timedelta(minutes=30))) == [b"old"]
    assert values(topic.read(start=timedelta(0))) == []


@pytest.mark.parametrize(
    "start", [timedelta.max, datetime.min.replace(tzinfo=UTC), timedelta(days=100_000), at(-1)], ids=str
)
def test_times_before_all_records_are_the_beginning(store: Store, start: Any) -> None:
    assert len(values(numbered(store).read(start=start))) == 10


@pytest.mark.parametrize("start", [timedelta.min, datetime.max.replace(tzinfo=UTC)], ids=str)
def test_times_after_all_records_are_the_end(store: Store, start: Any) -> None:
    assert values(numbered(store).read(start=start)) == []


@pytest.mark.parametrize("name", ["start", "until"])
@pytest.mark.parametrize("position", [datetime(2024, 1, 1), datetime.max], ids=str)  # noqa: DTZ001, DTZ901
def test_a_naive_datetime_is_refused(store: Store, name: str, position: datetime) -> None:
    with pytest.raises(ConfigError, match=r"has no time zone: give an aware datetime") as caught:
        numbered(store).read(**{name: position})
    assert f"{name}={position!r}" in str(caught.value)


@pytest.mark.parametrize(
    "position",
    [-1, 2**63, 1.5, True, "first", "Earliest", b"end", [0], ("earliest",), {0: -1}, {0: "0"}, {0: None}],
    ids=repr,
)
@pytest.mark.parametrize("partitions", [1, 3])
def test_what_is_no_position_is_refused_with_what_is_valid(store: Store, position: Any, partitions: int) -> None:
    topic = numbered(store, partitions=partitions, count=1)
    for name in ("start", "until"):
        for read in (topic.read, topic.batches):
            with pytest.raises(ConfigError) as caught:
                read(**{name: position})
            assert f"{name}=" in str(caught.value)
            if not isinstance(position, int | Mapping):
                assert "'earliest'" in str(caught.value)


def test_no_start_is_refused(store: Store) -> None:
    nothing: Any = None
    with pytest.raises(ConfigError, match="start=None"):
        numbered(store).read(start=nothing)


@pytest.mark.parametrize("start", [11, 2**63 - 1])
def test_a_start_beyond_the_end_is_out_of_range_and_says_what_there_is(store: Store, start: int) -> None:
    topic = numbered(store)
    with pytest.raises(
        OffsetOutOfRangeError, match=rf"start={start} .*topic 't', partition 0, .*offsets 0 to 10"
    ) as caught:
        topic.read(start=start)
    assert isinstance(caught.value, LookupError)
    assert values(topic.read(start=10)) == []


def test_an_until_beyond_the_end_reads_what_there_is(store: Store) -> None:
    assert len(values(numbered(store).read(until=99))) == 10


def test_a_mapping_of_a_partition_that_is_not_there_is_refused(store: Store) -> None:
    for name in ("start", "until"):
        with pytest.raises(UnknownPartitionError, match="no partition 1: give 0 to 0"):
            numbered(store).read(**{name: {1: 0}})


def test_the_end_is_that_of_the_call_whatever_comes_before_it_is_reached(store: Store) -> None:
    topic = numbered(store, count=3)
    records = topic.read()
    batches = topic.batches(until="latest")
    topic.append(b"late")
    assert values(records) == [b"0", b"1", b"2"]
    assert [batch[0].value for batch in batches] == [b"0", b"1", b"2"]


# Order


def test_partitions_take_turns_by_batch(store: Store) -> None:
    topic = numbered(store, partitions=3, count=4, per_batch=2)
    found = [(record.partition, record.offset) for record in topic.read()]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3)]


def test_a_long_partition_does_not_keep_the_short_ones_waiting(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    topic.append_many([b"x" * 1000] * 5000, partition=0)
    topic.append(b"short", partition=1)
    batches = [batch.partition for batch in topic.batches()]
    assert batches.index(1) <= 1
    assert len(batches) > 3


# Batches


def test_a_batch_is_a_sequence_of_records_and_their_parts_as_columns(store: Store) -> None:
    topic = store.topic("t", partitions=2, key=str, value=int)
    topic.append_many([1, 2], partition=1)
    topic.append_many(
        [7, 8, 9], partition=1, keys=["a", None, "c"], timestamps_ms=[3, 1, 2], headers=[(), [("h", None)], ()]
    )
    batch = list(topic.batches(1))[1]
    assert isinstance(batch, RecordBatch)
    assert (batch.topic, batch.partition, batch.timestamp_type, batch.leader_epoch) == ("t", 1, "create", 0)
    assert list(batch.offsets) == [2, 3, 4]
    assert list(batch.timestamps_ms) == [3, 1, 2]
    assert list(batch.keys) == ["a", None, "c"]
    assert list(batch.values) == [7, 8, 9]
    assert list(batch.headers) == [(), (("h", None),), ()]
    assert len(batch) == 3
    assert list(batch) == [batch[0], batch[1], batch[2]] == batch[:]
    assert batch[-1] == ("t", 1, 4, 2, "c", 9, ())
    assert batch[1:] == batch[-2:] == [batch[1], batch[2]]
    assert batch[::-1] == list(reversed(batch))
    assert batch[1] in batch
    assert batch.index(batch[2]) == 2
    with pytest.raises(IndexError):
        batch[3]
    assert "3 records, 't' partition 1 from offset 2" in repr(batch)


def test_a_batch_that_is_cut_by_start_and_until_has_only_what_lies_between(store: Store) -> None:
    topic = numbered(store, per_batch=10)
    (batch,) = topic.batches(start=3, until=7)
    assert (list(batch.offsets), list(batch.values)) == ([3, 4, 5, 6], [b"3", b"4", b"5", b"6"])
    assert [record.offset for record in batch] == [3, 4, 5, 6]


def test_a_record_is_read_by_name_and_its_time_is_aware(store: Store) -> None:
    topic = store.topic("t")
    topic.append(b"v", key=b"k", timestamp_ms=RECENT + 123)
    (record,) = topic.read()
    assert type(record) is Record
    assert record._fields == ("topic", "partition", "offset", "timestamp_ms", "key", "value", "headers")
    assert record.timestamp == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)


# The tail


@pytest.mark.parametrize(("n", "first"), [(0, 10), (1, 9), (3, 7), (10, 0), (11, 0), (10**9, 0)])
def test_the_tail_is_the_last_records_of_each_partition(store: Store, n: int, first: int) -> None:
    topic = numbered(store, partitions=2, per_batch=4)
    found = list(topic.tail(n))
    for partition in range(2):
        assert [record.offset for record in found if record.partition == partition] == list(range(first, 10))


def test_the_tail_is_of_ten_records_and_of_an_empty_topic_empty(store: Store) -> None:
    assert list(store.topic("empty", partitions=3).tail()) == []
    assert len(list(numbered(store, count=12).tail())) == 10


@pytest.mark.parametrize("n", [-1, 1.0, "10", None])
def test_a_tail_of_no_number_is_refused(store: Store, n: Any) -> None:
    with pytest.raises(ConfigError, match=r"tail\(.*\) is not valid: give the number of records"):
        numbered(store).tail(n)


# Following


def test_a_follower_gets_what_is_there_and_what_comes(store: Store) -> None:
    topic = numbered(store, partitions=2, count=2)
    following = topic.read(until=None)
    assert len(list(islice(following, 4))) == 4
    topic.append(b"new", partition=1)
    assert next(following).value == b"new"
    late = topic.read(0, start="latest", until=None)
    topic.append_many([b"a", b"b"], partition=0)
    assert values(islice(late, 2)) == [b"a", b"b"]
    batches = topic.batches(start={0: 3}, until=None)
    assert list(next(batches).values) == [b"b"]


def test_a_follower_is_woken_by_another_thread(store: Store) -> None:
    topic = store.topic("t", partitions=3)
    found: list[bytes | None] = []
    woken = threading.Semaphore(0)

    def follow() -> None:
        for record in topic.read(until=None):
            found.append(record.value)
            woken.release()
            if record.value == b"last":
                return

    follower = threading.Thread(target=follow)
    follower.start()
    expected = [b"%d" % number for number in range(30)]
    with store.producer(linger_ms=0) as producer:
        for number, value in enumerate(expected):
            (topic.append if number % 2 else lambda value: producer.send(topic, value).result())(value)
            assert woken.acquire(timeout=PATIENCE)
    topic.append(b"last")
    follower.join(PATIENCE)
    assert found == [*expected, b"last"]


FOLLOW = """
import kafkalite, resource, sys
with kafkalite.connect(sys.argv[1]) as store:
    records = store.topic("t").read(until=None)
    print("ready", next(records).value.decode())
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = used.ru_utime + used.ru_stime
    print("woken", next(records).value.decode())
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("cpu", used.ru_utime + used.ru_stime - before)
"""


def test_a_follower_is_woken_by_another_process_and_sleeps_until_then(store: Store) -> None:
    topic = store.topic("t")
    with procs.python(FOLLOW, store.path if store.path.suffix else f"{store.path}/") as follower:
        topic.append(b"first")
        assert follower.wait_for("ready") == "ready first"
        time.sleep(1.5)  # for this long a poller would burn its processor
        topic.append(b"second")
        assert follower.wait_for("woken") == "woken second"
        assert float(follower.wait_for("cpu").split()[1]) < 0.75
        follower.succeed()


def test_a_waiting_thread_uses_next_to_no_processor(store: Store) -> None:
    topic = store.topic("t", partitions=10)
    used: list[float] = []

    def follow() -> None:
        before = resource.getrusage(resource.RUSAGE_THREAD)
        next(topic.read(until=None))
        after = resource.getrusage(resource.RUSAGE_THREAD)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    follower = threading.Thread(target=follow)
    follower.start()
    time.sleep(1)
    topic.append(b"v")
    follower.join(PATIENCE)
    assert used[0] < 0.5


def test_two_processes_answer_each_other(store: Store) -> None:
    code = """
import kafkalite, sys
with kafkalite.connect(sys.argv[1]) as store:
    answers = store.topic("answers")
    print("ready")
    for record in store.topic("questions").read(until=None):
        answers.append(record.value + b"!")
        if record.value == b"last":
            break
"""
    questions, answers = store.topic("questions"), store.topic("answers")
    with procs.python(code, store.path if store.path.suffix else f"{store.path}/") as child:
        child.wait_for("ready")
        found = answers.read(until=None)
        for question in [b"%d" % number for number in range(20)] + [b"last"]:
            questions.append(question)
            assert next(found).value == question + b"!"
        child.succeed()


# Raising


def test_records_that_cannot_be_read_raise_in_their_place_and_reading_goes_on(store: Store) -> None:
    raw, topic = store.topic("t", partitions=2), store.topic("t", key=str, value=int)
    eight = b"\0" * 8
    raw.append_many(
        [eight, b"bad", eight, None],
        partition=1,
        keys=[None, b"k", b"\xff", b"null"],
        headers=[(), {"h": b"1"}, (), ()],
        timestamps_ms=[1, 2, 3, 4],
    )
    raw.append(b"alone", partition=1)
    topic.append(5, partition=1)
    records = topic.read()
    assert next(records).value == 0
    for offset, value in ((1, b"bad"), (2, eight), (3, None), (4, b"alone")):
        with pytest.raises(DeserializationError) as caught:
            next(records)
        assert (caught.value.record.partition, caught.value.record.offset, caught.value.record.value) == (
            1,
            offset,
            value,
        )
        assert f"topic 't', partition 1, offset {offset}:" in str(caught.value)
        assert isinstance(caught.value, ValueError)
    assert next(records).value == 5
    assert list(records) == []
    records = topic.read(start={1: 1})
    with pytest.raises(DeserializationError) as caught:
        next(records)
    assert caught.value.record == ("t", 1, 1, 2, b"k", b"bad", (("h", b"1"),))


def test_a_follower_goes_on_behind_what_it_cannot_read(store: Store) -> None:
    raw, topic = store.topic("t"), store.topic("t", value=int)
    following = topic.read(until=None)
    for bad in (b"one", b"two"):
        raw.append(bad)
        with pytest.raises(DeserializationError):
            next(following)
        topic.append(7)
        assert next(following).value == 7


def test_a_batch_that_cannot_be_read_raises_with_its_first_bad_record_and_the_next_one_follows(store: Store) -> None:
    raw, topic = store.topic("t"), store.topic("t", value=int)
    raw.append_many([b"\0" * 8, b"bad", b"worse"])
    topic.append_many([1, 2])
    batches = topic.batches()
    with pytest.raises(DeserializationError) as caught:
        next(batches)
    assert (caught.value.record.offset, caught.value.record.value) == (1, b"bad")
    assert list(next(batches).values) == [1, 2]
    assert list(batches) == []


def test_a_batch_with_a_key_that_cannot_be_read_says_which(store: Store) -> None:
    store.topic("t").append_many([b"v", b"w"], keys=[None, b"bad"])
    with pytest.raises(DeserializationError, match="topic 't', partition 0, offset 1") as caught:
        next(store.topic("t", key=int).batches())
    assert caught.value.record.key == b"bad"


class _Interrupted(BaseException):
    """As Ctrl-C: raised where a follower waits."""


@pytest.mark.parametrize("how", ["of a topic", "of a store", "by batch"])
def test_an_interrupted_follower_goes_on_when_it_is_asked_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    topic = numbered(store, count=1)
    following: Iterator[Any] = {
        "of a topic": lambda: topic.read(until=None),
        "of a store": lambda: store.read([topic], until=None),
        "by batch": lambda: topic.batches(until=None),
    }[how]()
    next(following)

    def interrupt(*_: object) -> bool:
        raise _Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(store._engine.wakeup, "wait", interrupt)
        for _ in range(2):
            with pytest.raises(_Interrupted):
                next(following)
    topic.append(b"next")
    found = next(following)
    assert (found[0] if how == "by batch" else found).value == b"next"


def test_a_reader_whose_topic_was_deleted_raises_again_and_does_not_just_end(store: Store) -> None:
    topic = numbered(store)
    following = topic.read(start="latest", until=None)
    store.delete_topic("t")
    for _ in range(2):
        with pytest.raises(UnknownTopicError):
            next(following)


@pytest.mark.parametrize("until", ["end", None])
def test_reading_on_after_the_store_was_closed_raises(open_store: OpenStore, tmp_path: Path, until: Any) -> None:
    store = open_store(tmp_path / "s.klite")
    topic = numbered(store)
    records, batches = topic.read(until=until), topic.batches(until=until)
    next(records), next(batches)
    store.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for iterator in (records, batches):
        with pytest.raises(ClosedError):
            next(iterator)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_iterators_are_their_own_iterators_and_stay_at_their_end(store: Store) -> None:
    topic = numbered(store, count=1)
    for iterator in (topic.read(), topic.batches(), topic.tail(), store.read([topic])):
        assert iter(iterator) is iterator
        next(iterator)
        topic.append(b"late")
        assert [next(iterator, None) for _ in range(3)] == [None] * 3


def test_reading_while_another_thread_appends_sees_whole_prefixes(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    is_over = threading.Event()

    def write() -> None:
        for number in range(60):
            topic.append_many([b"%d" % number] * 4, keys=[b"a", b"b", b"c", b"d"])
        is_over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not is_over.is_set():
        found = list(topic.read())
        for partition in range(2):
            offsets = [record.offset for record in found if record.partition == partition]
            assert offsets == list(range(len(offsets)))
    writer.join()
    assert len(list(topic.read())) == 240
