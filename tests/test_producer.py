"""Producer: when batches are committed, in which order, and what becomes of what could not be. In each layout."""

import gc
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kafkalite import (
    ClosedError,
    ConfigError,
    DeliveryError,
    InvalidTopicError,
    KafkaTimeoutError,
    OutcomeUnknownError,
    RecordTooLargeError,
    SerializationError,
    Store,
    StoreFailedError,
    StoreFullError,
    Topic,
    UnknownTopicError,
    config,
)
from kafkalite.storage.commit import Operation
from kafkalite.testing import procs

OpenStore = Callable[..., Store]
PATIENCE = 60
AN_HOUR = 3_600_000


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


def values(topic: Topic[Any, Any], **how: Any) -> list[Any]:
    return [record.value for record in topic.read(**how)]


def soon(is_so: Callable[[], bool]) -> bool:
    """Whether it comes to be so within a minute."""
    end = time.monotonic() + PATIENCE
    while not is_so() and time.monotonic() < end:
        time.sleep(0.005)
    return is_so()


class Refusals:
    """An engine's `commit` that raises an error instead, or after it, for as long as it is told to."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._commit = store._engine.commit
        self.before: Exception | None = None
        self.after_once: Exception | None = None
        self.calls = 0
        monkeypatch.setattr(store._engine, "commit", self)

    def __call__(self, operation: Operation, timeout: float | None = None, *, waits: bool = True) -> Operation:
        self.calls += 1
        if self.before is not None:
            raise self.before
        done = self._commit(operation, timeout, waits=waits)
        if self.after_once is not None:
            error, self.after_once = self.after_once, None
            raise error
        return done


@pytest.fixture
def refusals(store: Store, monkeypatch: pytest.MonkeyPatch) -> Refusals:
    return Refusals(store, monkeypatch)


# Settings


def test_a_producer_has_kafkas_defaults(store: Store) -> None:
    with store.producer() as producer:
        assert producer.settings == config.defaults("producer")
        assert (producer.settings["linger_ms"], producer.settings["batch_size"]) == (5.0, 65536)
        assert (producer.settings["acks"], producer.settings["enable_idempotence"]) == ("all", True)


def test_settings_come_in_both_forms_and_not_at_once(store: Store) -> None:
    with store.producer(linger_ms=1, config={"batch.size": "7", "acks": "1"}) as producer:
        assert (producer.settings["linger_ms"], producer.settings["batch_size"]) == (1.0, 7)
    with pytest.raises(ConfigError, match=r"'linger\.ms' is given twice"):
        store.producer(linger_ms=1, config={"linger.ms": 1})


# When a batch is committed


@pytest.mark.parametrize("linger_ms", [0, 1])
def test_a_batch_is_committed_after_its_linger_without_a_flush(store: Store, linger_ms: int) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=linger_ms) as producer:
        for number in range(3):
            delivery = producer.send(topic, b"%d" % number)
            assert soon(delivery.done)
        assert values(topic) == [b"0", b"1", b"2"]


def test_nothing_is_committed_before_its_time(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR) as producer:
        deliveries = [producer.send(topic, b"v") for _ in range(10)]
        assert not any(delivery.done() for delivery in deliveries)
        assert values(topic) == []
    assert all(delivery.done() for delivery in deliveries)
    assert values(topic) == [b"v"] * 10


def test_a_full_batch_is_committed_by_who_filled_it(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR, batch_size=1000) as producer:
        delivery = producer.send(topic, b"x" * 400)
        producer.send(topic, b"y" * 400)
        assert not delivery.done()
        producer.send(topic, b"z" * 400)
        assert delivery.done()
        assert len(values(topic)) == 3


@pytest.mark.parametrize("batch_size", [0, 1])
def test_a_batch_size_of_nothing_commits_each_record_at_once(store: Store, batch_size: int) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR, batch_size=batch_size) as producer:
        assert all(producer.send(topic, b"v").done() for _ in range(3))
    assert [len(batch) for batch in topic.batches()] == [1, 1, 1]


def test_a_result_commits_what_came_before_it_at_once(store: Store) -> None:
    topic, other = store.topic("t"), store.topic("other")
    with store.producer(linger_ms=AN_HOUR) as producer:
        first = producer.send(topic, b"1")
        producer.send(topic, b"2")
        assert producer.send(topic, b"3").result(PATIENCE).offset == 2
        assert first.done()
        assert values(topic) == [b"1", b"2", b"3"]
        assert values(other) == []


def test_flush_commits_all_topics_and_may_be_called_with_nothing_to_do(store: Store) -> None:
    topics = [store.topic(f"t{number}", partitions=2) for number in range(3)]
    with store.producer(linger_ms=AN_HOUR) as producer:
        producer.flush()
        for topic in topics:
            producer.send(topic, b"a", partition=0)
            producer.send(topic, b"b", partition=1)
        producer.flush()
        assert [values(topic) for topic in topics] == [[b"a", b"b"]] * 3
        producer.flush(timeout=0)


def test_records_of_a_batch_keep_company_and_keyless_ones_stay_together(store: Store) -> None:
    topic = store.topic("t", partitions=4)
    with store.producer(linger_ms=AN_HOUR) as producer:
        for number in range(50):
            producer.send(topic, b"%d" % number)
        producer.flush()
        assert [len(batch) for batch in topic.batches()] == [50]
        for _ in range(8):
            producer.send(topic, b"v")
            producer.flush()
    assert all(end for end in topic.end_offsets().values())


def test_an_append_does_not_wait_for_earlier_sends(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR) as producer:
        producer.send(topic, b"sent")
        topic.append(b"appended")
    assert values(topic) == [b"appended", b"sent"]


# Where it goes


def test_a_topic_may_be_named(store: Store) -> None:
    topic = store.topic("t", partitions=3, value=str)
    with store.producer() as producer:
        assert producer.send("t", b"raw", partition=2).result().partition == 2
        assert producer.send_many("t", [b"a", b"b"], partition=1).result() == {1: range(2)}
    assert sorted(values(topic)) == ["a", "b", "raw"]


def test_sending_to_an_unknown_topic_raises_at_once_and_creates_nothing(store: Store) -> None:
    with store.producer() as producer:
        for send in (lambda name: producer.send(name, b"v"), lambda name: producer.send_many(name, [b"v"])):
            with pytest.raises(UnknownTopicError, match=r"no topic 'nope' .*store\.topic\('nope'\)"):
                send("nope")
            with pytest.raises(InvalidTopicError):
                send("no pe")
            for wrong in (5, None, b"t", ["t"]):
                with pytest.raises((ConfigError, TypeError)):
                    send(wrong)
    assert store.topics() == []


def test_a_refused_record_leaves_the_ones_around_it(store: Store) -> None:
    topic = store.topic("t", max_message_bytes=10)
    wrong: Any = "text"
    with store.producer() as producer:
        producer.send(topic, b"before")
        for use, error in (
            (lambda: producer.send(topic, wrong), SerializationError),
            (lambda: producer.send(topic, b"x" * 11), RecordTooLargeError),
            (lambda: producer.send(topic, b"v", key=wrong), SerializationError),
            (lambda: producer.send(topic, b"v", timestamp_ms=-1), ConfigError),
            (lambda: producer.send(topic, b"v", headers=wrong), SerializationError),
        ):
            with pytest.raises(error):
                use()
        producer.send(topic, b"after")
    assert values(topic) == [b"before", b"after"]


# Once broken: the name's handle is kept for the producer's life, so that every record is lost.
def test_a_name_means_the_topic_that_has_it_now(store: Store) -> None:
    store.topic("t")
    with store.producer(linger_ms=0) as producer:
        producer.send("t", b"old").result()
        store.delete_topic("t")
        assert isinstance(_error(lambda: producer.send("t", b"gone").result(PATIENCE)), UnknownTopicError)
        new = store.topic("t")
        _error(lambda: producer.send("t", b"perhaps").result(PATIENCE))
        assert producer.send("t", b"new").result(PATIENCE).topic == "t"
    assert values(new)[-1] == b"new"


def _error(call: Callable[[], Any]) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


# send_many


def test_send_many_takes_iterables_of_all_kinds_and_columns_beside_them(store: Store) -> None:
    topic = store.topic("t", partitions=3)

    def generate() -> Iterator[bytes]:
        yield from (b"%d" % number for number in range(25_000))

    with store.producer() as producer:
        keyed = producer.send_many(topic, generate(), keys=(b"%d" % (number % 50) for number in range(25_000)))
        assert sum(map(len, keyed.result().values())) == 25_000
        for some in ([b"a"], (b"a",), iter([b"a"]), {b"a": 1}, {b"a"}):
            assert producer.send_many(topic, some, partition=0, timestamps_ms=[7], headers=[{"h": None}]).result()
    by_key: dict[bytes | None, list[int]] = defaultdict(list)
    for record in topic.read():
        if record.key is not None:
            by_key[record.key].append(int(record.value or b""))
        else:
            assert (record.value, record.timestamp_ms, record.headers) == (b"a", 7, (("h", None),))
    assert by_key == {b"%d" % key: list(range(key, 25_000, 50)) for key in range(50)}


@pytest.mark.parametrize("empty", [[], (), iter(()), {}])
def test_sending_nothing_is_done_at_once(store: Store, empty: Any) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR) as producer:
        delivery = producer.send_many(topic, empty)
        called: list[Any] = []
        delivery.add_done_callback(called.append)
        assert (delivery.done(), delivery.result(0), called) == (True, {}, [delivery])


def test_send_many_comes_behind_what_was_sent_before(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    with store.producer(linger_ms=AN_HOUR) as producer:
        producer.send(topic, b"1", partition=0)
        producer.send_many(topic, [b"2", b"3"], partition=0)
        producer.send(topic, b"4", partition=0)
        producer.send_many(topic, [b"5"], partition=0)
    assert values(topic) == [b"1", b"2", b"3", b"4", b"5"]


def test_what_was_taken_before_a_generator_raised_is_sent(store: Store) -> None:
    topic = store.topic("t")

    def generate() -> Iterator[bytes]:
        for _ in range(25_000):
            yield b"v"
        raise LookupError("mine")

    with store.producer() as producer, pytest.raises(LookupError, match="mine"):
        producer.send_many(topic, generate())
    assert len(values(topic)) in range(10_000, 25_001)


@pytest.mark.parametrize("count", [3, 10_000])
def test_a_column_of_another_length_is_refused(store: Store, count: int) -> None:
    topic = store.topic("t")
    producer = store.producer()
    for columns in (
        {"keys": [b"k"] * (count - 1)},
        {"keys": [b"k"] * (count + 1)},  # fails for 10,000: the last one is not noticed
        {"timestamps_ms": [1] * (count - 1)},
        {"headers": [()] * (count + 1)},
    ):
        with pytest.raises(ConfigError, match="give one for each"):
            producer.send_many(topic, [b"v"] * count, **columns)
    producer.close()


def test_a_stream_of_many_mebibytes_goes_through_a_small_buffer(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    with store.producer(buffer_memory=100_000, batch_size=10_000) as producer:
        producer.send_many(topic, (bytes(500) for _ in range(20_000)))
        for number in range(5_000):
            producer.send(topic, bytes(500), key=b"%d" % number)
    assert sum(topic.end_offsets().values()) == 25_000


# Threads


def test_each_threads_order_is_kept_per_partition(store: Store) -> None:
    topic = store.topic("t", partitions=3)
    threads_count, each = 6, 1500
    begin = threading.Barrier(threads_count)
    wrong: list[Any] = []

    def work(number: int, producer: Any) -> None:
        begin.wait()
        deliveries = []
        for count in range(each):
            deliveries.append(producer.send(topic, b"%d %d" % (number, count), partition=count % 3))
            if count % 400 == 399:
                producer.flush()
        for count, delivery in enumerate(deliveries):
            placed = delivery.result(PATIENCE)
            found[number].append((placed.partition, placed.offset))
            if placed.partition != count % 3:
                wrong.append((placed, count))

    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    with store.producer(linger_ms=0.2, batch_size=700) as producer:
        threads = [threading.Thread(target=work, args=(number, producer)) for number in range(threads_count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        producer.flush()
        assert producer._queue.bytes == 0, "the account of what waits has drifted"
    assert wrong == []
    placed = {(record.partition, record.offset): record.value for record in topic.read()}
    assert len(placed) == threads_count * each
    for number in range(threads_count):
        mine = [b"%d %d" % (number, count) for count in range(each)]
        assert [placed[place] for place in found[number]] == mine
        for partition in range(3):
            offsets = [offset for at, offset in found[number] if at == partition]
            assert offsets == sorted(offsets)


# What goes wrong, and is mended


def test_a_commit_whose_answer_was_lost_is_recognised_when_it_is_repeated(store: Store, refusals: Refusals) -> None:
    topic = store.topic("t", partitions=2)
    with store.producer(linger_ms=AN_HOUR) as producer:
        for round_number in range(3):
            refusals.after_once = OutcomeUnknownError("the answer was lost")
            producer.send(topic, b"%d" % round_number, partition=0)
            delivery = producer.send(topic, b"%d" % round_number, partition=1)
            assert delivery.result(PATIENCE).offset == round_number
        producer.send_many(topic, [b"3", b"4"], partition=0)
    assert values(topic, partition=0) == [b"0", b"1", b"2", b"3", b"4"]
    assert values(topic, partition=1) == [b"0", b"1", b"2"]


def test_without_idempotence_the_repeat_is_a_second_record(store: Store, refusals: Refusals) -> None:
    topic = store.topic("t")
    refusals.after_once = OutcomeUnknownError("the answer was lost")
    with store.producer(enable_idempotence=False) as producer:
        producer.send(topic, b"v")
    assert values(topic) == [b"v", b"v"]


@pytest.mark.parametrize(
    "error", [StoreFailedError("no flush"), StoreFullError("full")], ids=lambda error: type(error).__name__
)
def test_what_a_failing_disk_keeps_back_is_committed_in_order_once_it_is_mended(
    store: Store, refusals: Refusals, error: Exception
) -> None:
    topic = store.topic("t")
    refusals.before = error
    with store.producer(linger_ms=1) as producer:
        first = producer.send(topic, b"1")
        with pytest.raises(KafkaTimeoutError):
            first.result(0.05)
        producer.send_many(topic, [b"2", b"3"])
        with pytest.raises(KafkaTimeoutError, match="records were not committed"):
            producer.flush(0.05)
        assert (first.done(), values(topic)) == (False, [])
        refusals.before = None
        producer.send(topic, b"4")
        assert first.result(PATIENCE).offset == 0
    assert values(topic) == [b"1", b"2", b"3", b"4"]


def test_what_a_failing_disk_kept_back_is_committed_without_being_asked_for(store: Store, refusals: Refusals) -> None:
    topic = store.topic("t")
    refusals.before = StoreFullError("full")
    with store.producer(linger_ms=1) as producer:
        delivery = producer.send(topic, b"v")
        assert soon(lambda: refusals.calls > 0)
        refusals.before = None
        end = time.monotonic() + 5
        while not delivery.done() and time.monotonic() < end:
            time.sleep(0.01)
        assert delivery.done()
    assert values(topic) == [b"v"]


def test_a_disk_that_stays_broken_fails_the_delivery_after_its_timeout(store: Store, refusals: Refusals) -> None:
    topic = store.topic("t")
    refusals.before = StoreFailedError("no flush")
    producer = store.producer(linger_ms=0, delivery_timeout_ms=200)
    delivery = producer.send(topic, b"v")
    assert isinstance(delivery.exception(PATIENCE), StoreFailedError)
    refusals.before = None
    assert producer.send(topic, b"after").result(PATIENCE).offset == 0
    producer.close()
    assert values(topic) == [b"after"]


def test_a_full_buffer_waits_and_then_refuses(store: Store, refusals: Refusals) -> None:
    topic = store.topic("t")
    producer = store.producer(linger_ms=AN_HOUR, buffer_memory=1000, batch_size=500, max_block_ms=100)
    refusals.before = StoreFullError("no space")
    with pytest.raises(KafkaTimeoutError, match=r"buffer_memory=1000.*max_block_ms=100.*no space"):  # noqa: PT012  (leaving the block is what raises)
        for _ in range(100):
            producer.send(topic, b"x" * 100)
    refusals.before = None
    producer.close()
    found = values(topic)
    assert found == [b"x" * 100] * len(found)
    assert len(found) in range(9, 30)


def test_a_full_buffer_goes_on_when_there_is_room_again(store: Store, refusals: Refusals) -> None:
    topic = store.topic("t")
    refusals.before = StoreFullError("no space")
    mend = threading.Timer(0.2, lambda: setattr(refusals, "before", None))
    mend.start()
    with store.producer(linger_ms=AN_HOUR, buffer_memory=1000, batch_size=500) as producer:
        for number in range(100):
            producer.send(topic, b"%0100d" % number)
    mend.join()
    assert values(topic) == [b"%0100d" % number for number in range(100)]


# What was not delivered


def test_failures_that_nobody_looked_at_raise_once_at_close(store: Store) -> None:
    kept, gone = store.topic("kept"), store.topic("gone")
    producer = store.producer(linger_ms=AN_HOUR)
    for topic in (kept, gone):
        producer.send(topic, b"1", key=b"k", timestamp_ms=7, headers={"h": b"1"})
        producer.send(topic, b"2", timestamp_ms=8)
    store.delete_topic("gone")
    with pytest.raises(DeliveryError, match="2 records were not committed: topic 'gone' was deleted") as caught:
        producer.close()
    assert [(record, type(error)) for record, error in caught.value.failures] == [
        (("gone", 0, -1, 7, b"k", b"1", (("h", b"1"),)), UnknownTopicError),
        (("gone", 0, -1, 8, None, b"2", ()), UnknownTopicError),
    ]
    producer.close()
    assert values(kept) == [b"1", b"2"]


def test_failures_that_somebody_looked_at_do_not_raise_again(store: Store) -> None:
    topic = store.topic("gone")
    with store.producer(linger_ms=AN_HOUR) as producer:
        one = producer.send(topic, b"1")
        store.delete_topic("gone")
        many = producer.send_many(topic, [b"2", b"3"])
        assert isinstance(one.exception(PATIENCE), UnknownTopicError)
        with pytest.raises(UnknownTopicError):
            many.result(PATIENCE)


def test_of_a_batch_only_the_unseen_failures_raise(store: Store) -> None:
    topic = store.topic("gone")
    producer = store.producer(linger_ms=AN_HOUR)
    deliveries = [producer.send(topic, b"%d" % number) for number in range(4)]
    store.delete_topic("gone")
    deliveries[2].exception(PATIENCE)
    with pytest.raises(DeliveryError) as caught:
        producer.close()
    assert [record.value for record, _ in caught.value.failures] == [b"0", b"1", b"3"]


def test_failures_become_a_note_on_the_exception_of_the_block(store: Store) -> None:
    topic = store.topic("gone")
    with pytest.raises(KeyError) as caught, store.producer(linger_ms=AN_HOUR) as producer:  # noqa: PT012  (leaving the block is what raises)
        producer.send(topic, b"v")
        store.delete_topic("gone")
        raise KeyError("mine")
    assert ["1 records were not committed" in note for note in caught.value.__notes__] == [True]


# Once broken: only a DeliveryError becomes a note, any other error of closing takes the place of the block's.
def test_a_timeout_at_close_does_not_hide_the_exception_of_the_block(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object) -> None:
        raise KafkaTimeoutError("too late")

    with pytest.raises(KeyError) as caught, store.producer() as producer:  # noqa: PT012  (leaving the block is what raises)
        monkeypatch.setattr(producer, "_flush", too_late)
        raise KeyError("mine")
    assert "too late" in "".join(caught.value.__notes__)


# Ending


def test_a_closed_producer_refuses_every_use_and_closing_again_is_nothing(store: Store) -> None:
    topic = store.topic("t")
    producer = store.producer()
    delivery = producer.send(topic, b"v")
    producer.close()
    producer.close()
    for use in (
        lambda: producer.send(topic, b"v"),
        lambda: producer.send("t", b"v"),
        lambda: producer.send_many(topic, [b"v"]),
        producer.flush,
        producer.__enter__,
    ):
        with pytest.raises(ClosedError, match=r"store\.producer\(\)"):
            use()
    assert delivery.result().offset == 0
    assert "closed" in repr(producer)


def test_leaving_the_block_commits_even_when_it_raises(store: Store) -> None:
    topic = store.topic("t")
    with pytest.raises(KeyError), store.producer(linger_ms=AN_HOUR) as producer:  # noqa: PT012  (leaving the block is what raises)
        producer.send(topic, b"v")
        raise KeyError
    assert values(topic) == [b"v"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an error, from __del__
def test_a_producer_dropped_without_close_still_delivers_and_warns(store: Store) -> None:
    topic = store.topic("t")
    producer = store.producer(linger_ms=20)
    producer.send(topic, b"v")
    del producer
    gc.collect()
    assert next(topic.read(until=None)).value == b"v"


@pytest.mark.parametrize("linger_ms", [5, AN_HOUR])
def test_an_interpreter_that_exits_without_close_delivers(store: Store, linger_ms: int) -> None:
    code = """
import kafkalite, sys
store = kafkalite.connect(sys.argv[1])
producer = store.producer(linger_ms=float(sys.argv[2]))
producer.send(store.topic("t"), b"one")
producer.send_many("t", [b"two", b"three"])
producer.send("t", b"four")
"""
    topic = store.topic("t")
    with procs.python(code, store.path if store.path.suffix else f"{store.path}/", linger_ms) as child:
        child.succeed()
    assert values(topic) == [b"one", b"two", b"three", b"four"]


def test_an_uncaught_exception_does_not_keep_the_rest_from_being_delivered(store: Store) -> None:
    code = """
import kafkalite, sys
store = kafkalite.connect(sys.argv[1])
store.producer(linger_ms=3600000).send(store.topic("t"), b"v")
raise SystemExit("mine")
"""
    topic = store.topic("t")
    with procs.python(code, store.path if store.path.suffix else f"{store.path}/") as child:
        assert child.wait() == 1
    assert values(topic) == [b"v"]
