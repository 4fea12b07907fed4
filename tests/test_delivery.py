"""Delivery: the outcome of a send, when it is there, and who is told. In each layout."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kafkalite import Delivery, KafkaTimeoutError, RecordMetadata, Store, StoreFullError, UnknownTopicError
from kafkalite.storage.commit import Operation

OpenStore = Callable[..., Store]
PATIENCE = 60
AN_HOUR = 3_600_000


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


def test_a_delivery_is_pending_then_done_with_the_place_of_its_record(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    with store.producer(linger_ms=AN_HOUR) as producer:
        deliveries = [producer.send(topic, b"%d" % number, partition=1, timestamp_ms=number) for number in range(5)]
        assert [delivery.done() for delivery in deliveries] == [False] * 5
        assert repr(deliveries[0]) == "<Delivery, pending>"
        assert deliveries[3].result(PATIENCE) == RecordMetadata("t", 1, 3, 3)
        assert [delivery.result(0).offset for delivery in deliveries] == [0, 1, 2, 3, 4]
        assert [delivery.exception(0) for delivery in deliveries] == [None] * 5
        assert repr(deliveries[0]) == "<Delivery, done>"


def test_send_many_gives_offsets_by_partition_from_its_first_record_to_its_last(store: Store) -> None:
    topic = store.topic("t", partitions=3)
    with store.producer(batch_size=100) as producer:
        producer.send_many(topic, [b"x"], partition=1).result()
        delivery = producer.send_many(topic, [b"x" * 60] * 10, partition=1)
        assert delivery.result(PATIENCE) == {1: range(1, 11)}
        spread = producer.send_many(topic, [b"x"] * 100, keys=[b"%d" % number for number in range(100)]).result()
    assert {partition: offsets.stop for partition, offsets in spread.items()} == topic.end_offsets()
    assert sum(map(len, spread.values())) == 100


def test_a_failure_is_the_exception_and_what_result_raises(store: Store) -> None:
    topic = store.topic("gone")
    with store.producer(linger_ms=AN_HOUR) as producer:
        one, other = producer.send(topic, b"v"), producer.send(topic, b"w")
        store.delete_topic("gone")
        error = one.exception(PATIENCE)
        assert isinstance(error, UnknownTopicError)
        assert other.done()
        for delivery in (one, other):
            with pytest.raises(UnknownTopicError, match="'gone'"):
                delivery.result()


def test_a_batch_that_fails_leaves_the_others_of_its_commit(store: Store) -> None:
    kept, gone = store.topic("kept"), store.topic("gone")
    with store.producer(linger_ms=AN_HOUR) as producer:
        deliveries = [producer.send(topic, b"v") for topic in (kept, gone, kept, gone)]
        store.delete_topic("gone")
        assert [type(delivery.exception(PATIENCE)) for delivery in deliveries] == [
            type(None), UnknownTopicError, type(None), UnknownTopicError,
        ]  # fmt: skip
        again = producer.send(kept, b"after").result(PATIENCE)
    assert again.offset == 2


def test_a_wait_that_is_too_short_says_so_and_may_be_repeated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR) as producer:
        delivery = producer.send(topic, b"v")
        with monkeypatch.context() as patch:

            def refuse(operation: Operation, timeout: float | None = None) -> Operation:
                raise StoreFullError("no space")

            patch.setattr(store._engine, "commit", refuse)
            for wait in (delivery.result, delivery.exception):
                with pytest.raises(KafkaTimeoutError, match=r"not committed within 0\.01 s") as caught:
                    wait(0.01)
                assert isinstance(caught.value, TimeoutError)
        assert not delivery.done()
        assert delivery.result(PATIENCE).offset == 0


def test_callbacks_are_called_once_with_their_delivery_in_the_order_they_came(store: Store) -> None:
    topic = store.topic("t")
    called: list[tuple[str, Delivery[Any]]] = []
    with store.producer(linger_ms=AN_HOUR) as producer:
        one, two = producer.send(topic, b"1"), producer.send(topic, b"2")
        for name, delivery in (("a", one), ("b", two), ("c", one)):
            delivery.add_done_callback(lambda found, name=name: called.append((name, found)))
        assert called == []
        producer.flush()
        assert called == [("a", one), ("b", two), ("c", one)]
        one.add_done_callback(lambda found: called.append(("late", found)))
        assert called[-1] == ("late", one)


def test_a_callback_sees_a_delivery_that_is_done(store: Store) -> None:
    topic = store.topic("t")
    seen: list[tuple[bool, int]] = []
    with store.producer(linger_ms=1) as producer:
        done = threading.Event()

        def look(delivery: Delivery[RecordMetadata]) -> None:
            seen.append((delivery.done(), delivery.result(0).offset))
            done.set()

        producer.send(topic, b"v").add_done_callback(look)
        assert done.wait(PATIENCE)
    assert seen == [(True, 0)]


def test_a_callback_of_send_many_is_called_once_when_all_is_done(store: Store) -> None:
    topic = store.topic("t", partitions=3)
    called: list[Any] = []
    with store.producer(linger_ms=AN_HOUR, batch_size=AN_HOUR) as producer:
        delivery = producer.send_many(topic, [b"x"] * 25_000, keys=[b"%d" % (number % 9) for number in range(25_000)])
        delivery.add_done_callback(called.append)
        producer.flush()
        assert called == [delivery]


def test_a_callback_that_fails_is_logged_and_harms_nobody(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    topic = store.topic("t")
    called: list[Any] = []

    def fail(delivery: object) -> None:
        raise LookupError("mine")

    with caplog.at_level(logging.ERROR, "kafkalite"), store.producer(linger_ms=AN_HOUR) as producer:
        delivery = producer.send(topic, b"v")
        delivery.add_done_callback(fail)
        delivery.add_done_callback(called.append)
        delivery.add_done_callback(lambda _: fail(None))
        assert delivery.result(PATIENCE).offset == 0
    assert called == [delivery]
    assert "mine" in caplog.text


def test_a_callback_may_send_and_flush_in_turn(store: Store) -> None:
    topic = store.topic("t")
    done = threading.Event()
    with store.producer(linger_ms=1) as producer:

        def again(delivery: Delivery[RecordMetadata]) -> None:
            if delivery.result(0).offset < 5:
                producer.send(topic, b"again").add_done_callback(again)
            else:
                done.set()

        producer.send(topic, b"first").add_done_callback(again)
        assert done.wait(PATIENCE)
    assert topic.end_offsets() == {0: 6}


def test_a_failure_calls_back_too(store: Store) -> None:
    topic = store.topic("gone")
    found: list[BaseException | None] = []
    with store.producer(linger_ms=AN_HOUR) as producer:
        producer.send(topic, b"v").add_done_callback(lambda delivery: found.append(delivery.exception(0)))
        store.delete_topic("gone")
        producer.send_many(topic, [b"w"]).add_done_callback(lambda delivery: found.append(delivery.exception(0)))
        producer.flush()
    assert [type(error) for error in found] == [UnknownTopicError] * 2


@pytest.mark.parametrize("acks", [0, "0"])
def test_without_acknowledgement_deliveries_are_done_at_once_and_know_no_offset(store: Store, acks: Any) -> None:
    topic = store.topic("t")
    called: list[Any] = []
    with store.producer(linger_ms=AN_HOUR, acks=acks) as producer:
        delivery = producer.send(topic, b"v", timestamp_ms=7)
        delivery.add_done_callback(called.append)
        assert delivery.done()
        assert delivery.result(0) == RecordMetadata("t", 0, -1, 7)
        assert called == [delivery]
        assert [record.value for record in topic.read()] == []
    assert [record.value for record in topic.read()] == [b"v"]


# Once broken: it says range(-1, 1), two offsets that were never given.
def test_without_acknowledgement_send_many_claims_no_offsets(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR, acks=0) as producer:
        delivery = producer.send_many(topic, [b"v", b"w"])
        assert delivery.done()
        assert all(len(offsets) == 0 for offsets in delivery.result(0).values())
    assert topic.end_offsets() == {0: 2}


@pytest.mark.parametrize("acks", ["all", 1, -1, "1", "-1"])
def test_any_other_acknowledgement_is_that_of_all(store: Store, acks: Any) -> None:
    topic = store.topic("t")
    with store.producer(acks=acks) as producer:
        assert producer.send(topic, b"v").result(PATIENCE).offset == 0


def test_many_threads_may_wait_for_one_batch(store: Store) -> None:
    topic = store.topic("t")
    found: list[int] = []
    with store.producer(linger_ms=AN_HOUR) as producer:
        deliveries = [producer.send(topic, b"v") for _ in range(8)]
        threads = [
            threading.Thread(target=lambda delivery=delivery: found.append(delivery.result(PATIENCE).offset))
            for delivery in deliveries
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == list(range(8))
