"""Transactions on a store: what the contract, shared with brokers, cannot show."""

import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.compat import confluent_kafka as ck
from kafkalite.compat.confluent_kafka.transactions import TRANSITIONS, Call, State
from kafkalite.storage import locks
from kafkalite.storage.engine import Engine
from tests.compat.conftest import Library
from tests.compat.test_contract_transactions import joined, nature, read, refused, transactional

PIPELINE = """
import os, sys
from kafkalite.compat.confluent_kafka import Consumer, Producer

servers = {"bootstrap.servers": f"file:{sys.argv[1]}"}
settings = {"group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False}
consumer = Consumer(servers | settings)
consumer.subscribe(["in"])
producer = Producer(servers | {"transactional.id": "pipeline"})
producer.init_transactions()
for count in range(1_000_000):
    message = consumer.poll(1)
    if message is None:
        break
    producer.begin_transaction()
    producer.produce("out", message.value())
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata())
    producer.commit_transaction()
consumer.close()
producer.close()
"""


@contextmanager
def busy(own: Library) -> Iterator[None]:
    """Another process is writing to the store."""
    fd = os.open(own._servers.removeprefix("file:"), os.O_RDWR)
    try:
        assert disk.is_taken(disk.lock_call(fd, locks.FIRST_BYTE + locks.WRITE))
        yield
    finally:
        os.close(fd)


def test_a_call_that_is_not_in_the_table_changes_nothing(own: Library) -> None:
    for state, call in itertools.product(State, Call):
        if (state, call) in TRANSITIONS:
            continue
        producer = transactional(own)
        transactions = producer._transactions
        transactions._state = state
        calls: dict[Call, Any] = {
            Call.INIT: producer.init_transactions,
            Call.BEGIN: producer.begin_transaction,
            Call.PRODUCE: lambda producer=producer: producer.produce("t", b""),
            Call.SEND_OFFSETS: lambda producer=producer: producer.send_offsets_to_transaction(
                [], own.consumer().consumer_group_metadata()
            ),
            Call.COMMIT: producer.commit_transaction,
            Call.ABORT: producer.abort_transaction,
        }
        refused(own, calls[call])
        assert transactions._state is state
        producer.close()


def test_commit_that_found_the_store_busy_may_be_called_again(own: Library) -> None:
    topic, producer = own.topic(), transactional(own)
    producer.begin_transaction()
    producer.produce(topic, b"1", partition=0)
    with busy(own):
        error = refused(own, lambda: producer.commit_transaction(0.01))
    assert (error, nature(error)) == (ck.KafkaError._TIMED_OUT, (False, True, False))
    producer.produce(topic, b"2", partition=0)
    producer.commit_transaction(10)
    producer.close()
    assert read(own, topic, 2) == [b"1", b"2"]


def test_init_that_found_the_store_busy_may_be_called_again(own: Library) -> None:
    producer = own.producer(transactional_id=own.name("transactional"))
    with busy(own):
        error = refused(own, lambda: producer.init_transactions(0.01))
    assert (error, nature(error)) == (ck.KafkaError._TIMED_OUT, (False, True, False))
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.commit_transaction()
    producer.close()


def test_outcome_that_nobody_knows_is_fatal(own: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    topic, producer, errors = own.topic(), transactional(own), []
    producer.begin_transaction()
    producer.produce(topic, b"perhaps", partition=0, on_delivery=lambda error, _: errors.append(error))

    def cut_short(self: Engine, operation: Any, *_: Any, **__: Any) -> Any:
        raise kafkalite.OutcomeUnknownError("the wait was cut short")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "commit", cut_short)
        error = refused(own, producer.commit_transaction)
    assert nature(error) == (True, False, False)
    assert refused(own, producer.begin_transaction) == error
    assert refused(own, lambda: producer.produce(topic, b"x")) == ck.KafkaError._FATAL
    assert (producer.flush(1), len(errors)) == (0, 1)
    producer.close()


def test_topic_that_is_deleted_meanwhile_makes_the_transaction_be_aborted(own: Library) -> None:
    topic, producer, errors = own.topic(), transactional(own), []
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=0, on_delivery=lambda error, _: errors.append(error))
    own.admin.AdminClient(own.conf()).delete_topics([topic])[topic].result()
    error = refused(own, producer.commit_transaction)
    assert (error, nature(error)) == (ck.KafkaError.UNKNOWN_TOPIC_OR_PART, (False, False, True))
    producer.abort_transaction()
    assert errors == [ck.KafkaError.UNKNOWN_TOPIC_OR_PART]
    producer.close()


def test_record_beyond_what_a_commit_may_have_is_refused_and_the_rest_goes_on(own: Library) -> None:
    topic, producer = own.topic(), transactional(own)
    with kafkalite.connect(own._servers.removeprefix("file:")) as store:
        store.alter(max_commit_bytes=1 << 20)
        producer.begin_transaction()
        producer.produce(topic, bytes(900_000), partition=0)
        error = refused(own, lambda: producer.produce(topic, bytes(900_000), partition=0))
        assert error == ck.KafkaError.MSG_SIZE_TOO_LARGE
        producer.commit_transaction()
        store.alter(max_commit_bytes=1 << 30)
    producer.close()
    assert list(map(len, read(own, topic, 1))) == [900_000]


def test_flush_and_poll_of_an_open_transaction_return_and_leave_its_records(own: Library) -> None:
    topic, producer = own.topic(), transactional(own)
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=0)
    assert (producer.flush(), producer.poll(0), len(producer)) == (1, 0, 1)
    producer.commit_transaction()
    assert len(producer) == 0
    producer.close()


def test_producer_that_nobody_closed_aborts(own: Library) -> None:
    topic, producer = own.topic(), transactional(own)
    producer.begin_transaction()
    producer.produce(topic, b"never", partition=0)
    del producer
    gc.collect()
    assert read(own, topic, 0) == []


def test_member_that_loses_its_place_between_sending_and_committing_is_fenced_by_the_commit(own: Library) -> None:
    topic, group = own.topic("0"), own.name("group")
    consumer, producer = joined(own, topic, group), transactional(own)
    producer.begin_transaction()
    producer.produce(topic, b"never", partition=0)
    here = [ck.TopicPartition(topic, 0, 1)]
    producer.send_offsets_to_transaction(here, consumer.consumer_group_metadata())
    consumer.close()
    error = refused(own, producer.commit_transaction)
    assert (error, nature(error)) == (ck.KafkaError.UNKNOWN_MEMBER_ID, (False, False, True))
    producer.abort_transaction()
    producer.close()
    assert read(own, topic, 1) == [b"0"]


def test_pipeline_that_is_killed_in_a_transaction_writes_every_record_once(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.klite"
    with kafkalite.connect(path) as store:
        store.topic("in").append_many([b"%d" % number for number in range(20)])
        store.topic("out")
    for killed_at, code in ((3, -9), (7, -9), (-1, 0)):
        command = [sys.executable, "-c", PIPELINE, str(path), str(killed_at)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (code, "")
    with kafkalite.connect(path, create=False) as store:
        assert [record.value for record in store.topic("out").read()] == [b"%d" % number for number in range(20)]
        assert store.check().ok
