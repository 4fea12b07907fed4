"""Transactions: all of it or nothing, deliveries, groups that rewind, fencing."""
# ruff: noqa: PT012, SIM117  (it is the end of a block that raises, and the block belongs to the test)

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import Store
from kafkalite.errors import (
    ClosedError,
    ConfigError,
    FencedMemberError,
    OffsetConflictError,
    OutcomeUnknownError,
    ProducerFencedError,
    RecordTooLargeError,
    StoreFailedError,
    TransactionStateError,
    UnknownTopicError,
)
from kafkalite.model import RecordMetadata
from kafkalite.storage.commit import Operation
from kafkalite.storage.place import resolve
from tests.storage.kit import Fault, values

OpenStore = Callable[..., Store]
MANUAL = {"enable_auto_commit": False}


@pytest.fixture
def store(open_store: OpenStore, tmp_path: Path) -> Store:
    return open_store(tmp_path / "store.klite")


def commits(store: Store) -> int:
    return int(store._engine.index.positions().commits)


# All or nothing


def test_records_of_several_topics_become_visible_with_one_commit(store: Store) -> None:
    a, b = store.topic("a", partitions=3), store.topic("b", value=str)
    before = commits(store)
    with store.producer() as producer, producer.transaction() as tx:
        sent = [tx.send(a, b"%d" % number, partition=number % 3) for number in range(9)]
        other = tx.send_many(b, ["x", "y"])
        assert values(store, "a") == values(store, "b") == []
        assert not sent[0].done()
        assert not other.done()
    assert commits(store) == before + 1
    assert [delivery.result(0).offset for delivery in sent] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert other.result(0) == {0: range(2)}
    assert sorted(filter(None, values(store, "a"))) == [b"%d" % number for number in range(9)]


def test_an_exception_aborts_and_is_raised_again_and_deliveries_say_so(store: Store) -> None:
    topic = store.topic("t")
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        delivery = tx.send(topic, b"x")
        raise ZeroDivisionError
    assert values(store) == []
    with pytest.raises(TransactionStateError, match="nothing was committed"):
        delivery.result()
    with pytest.raises(TransactionStateError, match="was aborted"):
        tx.send(topic, b"x")


def test_abort_ends_it_and_the_block_may_be_left(store: Store) -> None:
    topic = store.topic("t")
    with store.transaction() as tx:
        delivery = tx.send(topic, b"x")
        tx.abort()
        with pytest.raises(TransactionStateError, match="was aborted"):
            tx.abort()
    assert isinstance(delivery.exception(), TransactionStateError)
    assert values(store) == []


def test_an_empty_transaction_commits_nothing(store: Store) -> None:
    before = commits(store)
    with store.producer() as producer, producer.transaction() as tx:
        assert tx.send_many(store.topic("t"), []).done()
    assert commits(store) == before + 1  # the topic


def test_after_its_end_it_raises_and_cannot_be_entered_again(store: Store) -> None:
    topic = store.topic("t")
    with store.transaction() as tx:
        tx.send(topic, b"1")
    for call in (lambda: tx.send(topic, b"2"), lambda: tx.send_many(topic, [b"2"]), tx.abort, tx.__enter__):
        with pytest.raises(TransactionStateError, match="was committed"):
            call()
    with pytest.raises(TransactionStateError, match="was not begun"):
        store.transaction().send(topic, b"x")
    assert values(store) == [b"1"]


def test_a_delivery_asked_for_inside_raises_instead_of_waiting_for_ever(store: Store) -> None:
    with store.transaction() as tx:
        delivery = tx.send(store.topic("t"), b"x")
        with pytest.raises(TransactionStateError, match="when its block is left"):
            delivery.result()
    assert delivery.result().offset == 0


def test_callbacks_are_called_at_the_commit(store: Store) -> None:
    told: list[Any] = []
    with store.transaction() as tx:
        tx.send(store.topic("t"), b"x", timestamp_ms=5).add_done_callback(lambda done: told.append(done.result()))
        assert told == []
    assert told == [RecordMetadata("t", 0, 0, 5)]


def test_send_of_the_producer_meanwhile_raises_and_what_it_sent_before_comes_first(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=3_600_000) as producer:
        producer.send(topic, b"before")
        with producer.transaction() as tx:
            tx.send(topic, b"within")
            with pytest.raises(TransactionStateError, match="send through it"):
                producer.send(topic, b"x")
            with pytest.raises(TransactionStateError, match="send through it"):
                producer.send_many("t", [b"x"])
            with pytest.raises(TransactionStateError, match="one at a time"), producer.transaction():
                pass
        producer.send(topic, b"after")
    assert values(store) == [b"before", b"within", b"after"]


def test_sequences_of_the_producer_go_on_before_and_after_transactions(store: Store) -> None:
    topic = store.topic("t")
    with store.producer() as producer:
        for number in range(8):
            producer.send(topic, b"%d" % number).result()
            with producer.transaction() as tx:
                tx.send(topic, b"t%d" % number)
            with pytest.raises(ZeroDivisionError), producer.transaction() as tx:
                tx.send(topic, b"never")
                raise ZeroDivisionError
    assert values(store) == [one for number in range(8) for one in (b"%d" % number, b"t%d" % number)]


def test_headers_keys_nulls_and_timestamps_arrive(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    with store.transaction() as tx:
        tx.send(topic, None, key=b"k", headers={"h": b"v"}, timestamp_ms=7)
        tx.send_many(topic, [b"a", b"b"], keys=[b"k", b"k"], headers=[(), [("x", None)]], timestamps_ms=[8, 9])
    assert [(r.value, r.key, r.headers, r.timestamp_ms) for r in topic.read()] == [
        (None, b"k", (("h", b"v"),), 7),
        (b"a", b"k", (), 8),
        (b"b", b"k", (("x", None),), 9),
    ]


def test_more_records_than_a_batch_holds(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    with store.producer(batch_size=1000) as producer, producer.transaction() as tx:
        sent = [tx.send(topic, b"%04d" % number) for number in range(2000)]
    places = [delivery.result(0) for delivery in sent]
    read = {(r.partition, r.offset): r.value for r in topic.read()}
    assert [read[place.partition, place.offset] for place in places] == [b"%04d" % number for number in range(2000)]
    assert {place.partition for place in places} == {0, 1}


def test_a_bad_record_is_not_part_of_it_and_the_rest_is(store: Store) -> None:
    topic = store.topic("t", max_message_bytes=100)
    with store.transaction() as tx:
        tx.send(topic, b"good")
        with pytest.raises(RecordTooLargeError):
            tx.send(topic, bytes(101))
        with pytest.raises(RecordTooLargeError):
            tx.send_many(topic, [b"half", bytes(101)])
        with pytest.raises(UnknownTopicError):
            tx.send("nowhere", b"x")
        with pytest.raises(ConfigError):
            tx.send(topic, b"x", partition=5)
    assert values(store) == [b"good"]


def test_topic_of_another_store_is_refused(store: Store, open_store: OpenStore) -> None:
    foreign = open_store(":memory:").topic("t")
    with store.transaction() as tx, pytest.raises(ConfigError, match="of this store"):
        tx.send(foreign, b"x")


def test_outgrowing_max_commit_bytes_fails_at_that_send_and_the_rest_fits(
    open_store: OpenStore, tmp_path: Path
) -> None:
    limit = 1 << 20
    store = open_store(tmp_path / "s.klite", max_commit_bytes=limit)
    topic = store.topic("t", partitions=2)
    with store.transaction() as tx:
        count = 0
        with pytest.raises(RecordTooLargeError, match="max_commit_bytes"):
            while True:
                tx.send(topic, bytes(1000), headers=[("h", b"v")])
                count += 1
        with pytest.raises(RecordTooLargeError, match="max_commit_bytes"):
            tx.send_many(topic, [bytes(1000)] * 100)
    assert count > 900
    assert len(values(store)) == count


def test_a_transaction_as_large_as_it_may_be_of_tiny_records_is_committed(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "s.klite", max_commit_bytes=1 << 20)
    topic = store.topic("t", partitions=50)
    with store.producer(batch_size=100) as producer, producer.transaction() as tx:
        count = 0
        with pytest.raises(RecordTooLargeError):
            while True:
                tx.send(topic, b"", partition=count % 50, timestamp_ms=count * 1_000_000)
                count += 1
    assert len(values(store)) == count


# Conditions


def test_a_condition_that_fails_fails_the_whole_and_writes_nothing(store: Store) -> None:
    a, b = store.topic("a"), store.topic("b")
    b.append(b"first")
    with pytest.raises(OffsetConflictError) as caught, store.transaction() as tx:
        delivery = tx.send(a, b"x")
        tx.send(b, b"second", expected_end_offset=0)
    assert (caught.value.expected, caught.value.actual) == (0, 1)
    assert delivery.exception() is caught.value
    assert values(store, "a") == []
    assert values(store, "b") == [b"first"]


def test_conditions_count_what_the_transaction_sent_before(store: Store) -> None:
    topic = store.topic("t")
    with store.transaction() as tx:
        for number in range(3):
            tx.send(topic, b"%d" % number, expected_end_offset=number)
        tx.send(topic, b"3")
        tx.send_many(topic, [b"4", b"5"], expected_end_offset=4)
    assert values(store) == [b"%d" % number for number in range(6)]


def test_a_condition_needs_one_partition(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    with store.transaction() as tx:
        with pytest.raises(ConfigError, match="one partition"):
            tx.send(topic, b"x", expected_end_offset=0)
        tx.send(topic, b"x", expected_end_offset=0, partition=1)


# Ends from elsewhere


def test_closing_the_producer_aborts_and_leaving_the_block_says_so(store: Store) -> None:
    topic = store.topic("t")
    producer = store.producer()
    with pytest.raises(TransactionStateError, match="was closed while it was open"), producer.transaction() as tx:
        delivery = tx.send(topic, b"x")
        producer.close()
    assert delivery.done()
    assert values(store) == []


def test_closing_the_store_aborts(tmp_path: Path) -> None:
    store = kafkalite.connect(tmp_path / "s.klite")
    topic = store.topic("t")
    with pytest.raises(TransactionStateError, match="closed"), store.transaction() as tx:
        tx.send(topic, b"x")
        store.close()
    with kafkalite.connect(tmp_path / "s.klite") as again:
        assert values(again) == []
        assert again.check().ok


def test_a_topic_deleted_meanwhile_fails_the_commit_as_a_whole(store: Store) -> None:
    a, b = store.topic("a"), store.topic("b")
    with pytest.raises(UnknownTopicError), store.transaction() as tx:
        tx.send(a, b"x")
        tx.send(b, b"x")
        store.delete_topic("b")
    assert values(store, "a") == []


def test_threads_may_send_into_one_transaction(store: Store) -> None:
    topic = store.topic("t")
    with store.transaction() as tx:
        threads = [threading.Thread(target=lambda: [tx.send(topic, b"x") for _ in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(values(store)) == 800


# Failures of the commit


def test_at_every_step_of_its_commit_an_interrupt_leaves_all_or_nothing(open_store: OpenStore, tmp_path: Path) -> None:
    outcomes = Counter()
    for step in range(1, 40):
        store = open_store(tmp_path / f"{step}.klite")
        a, b = store.topic("a"), store.topic("b")
        fault = Fault(step, KeyboardInterrupt)
        deliveries = []
        try:
            with store.transaction() as tx:
                deliveries = [tx.send(a, b"x"), tx.send(b, b"y")]
                fault.__enter__()
        except KeyboardInterrupt:
            pass
        finally:
            fault.__exit__(None, None, None)
        store.flush()
        found = values(store, "a"), values(store, "b")
        assert found in (([], []), ([b"x"], [b"y"]))
        assert [delivery.exception() is None for delivery in deliveries] == [bool(found[0])] * 2
        outcomes[bool(found[0])] += 1
        if len(fault.steps) < step:
            break
    assert outcomes[True] >= 2
    assert outcomes[False] >= 1


def test_a_flush_that_fails_once_is_tried_again_and_the_commit_holds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = store.topic("t")
    with store.transaction() as tx:
        tx.send(topic, b"x")
        monkeypatch.setattr(store._engine.flusher, "wait", failing_once(store._engine.flusher.wait))
    assert values(store) == [b"x"]


def failing_once(wait: Callable[..., None]) -> Callable[..., None]:
    left = [1]

    def fails(*arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise StoreFailedError("the flush failed")
        wait(*arguments)

    return fails


def test_an_unknown_outcome_is_said_and_the_group_goes_where_the_store_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = store.topic("in"), store.topic("out")
    source.append_many([b"0", b"1"])

    def fails(*_: Any) -> None:
        raise StoreFailedError("the flush failed")

    with store.consumer_group("g", source, **MANUAL) as group:
        records = group.records()
        with monkeypatch.context() as patch, pytest.raises(OutcomeUnknownError, match="do not send it again blindly"):
            with store.transaction(group) as tx:
                delivery = tx.send(out, next(records).value)
                patch.setattr(store._engine.flusher, "wait", fails)
        assert isinstance(delivery.exception(), OutcomeUnknownError)
        with store.transaction(group) as tx:
            tx.send(out, next(records).value)  # the second: the first one was appended
    store.flush()
    assert values(store, "out") == [b"0", b"1"]


def test_a_commit_that_another_thread_has_in_hand_for_too_long_is_taken_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = store.topic("t")
    real = store._engine.commit
    late: list[Operation] = []

    def slow(operation: Operation, *arguments: Any, **named: Any) -> Operation:
        if not late:
            late.append(operation)
            raise OutcomeUnknownError("another thread is appending")
        return real(operation, *arguments, **named)

    monkeypatch.setattr(store._engine, "commit", slow)
    with pytest.raises(OutcomeUnknownError), store.transaction() as tx:
        delivery = tx.send(topic, b"x")
    with pytest.raises(TransactionStateError, match="withdrawn"):
        real(late[0])
    assert isinstance(delivery.exception(), OutcomeUnknownError)
    assert values(store) == []


# Groups


@pytest.fixture
def source(store: Store) -> kafkalite.Topic[bytes, Any]:
    topic = store.topic("in")
    topic.append_many([b"%d" % number for number in range(10)])
    store.topic("out")
    return topic


def test_a_group_that_commits_by_itself_is_refused(store: Store, source: Any) -> None:
    with store.consumer_group("g", source) as group, pytest.raises(ConfigError, match="enable_auto_commit=False"):
        store.transaction(group).__enter__()
    with pytest.raises(ClosedError), store.transaction(store.consumer_group("g", source, **MANUAL)):
        pass


def test_the_record_in_hand_is_committed_with_what_was_sent(store: Store, source: Any) -> None:
    with store.consumer_group("g", source, **MANUAL) as group, store.producer() as producer:
        before = commits(store)
        for record in group.records(max_records=3):
            with producer.transaction(group) as tx:
                tx.send("out", record.value)
        assert commits(store) == before + 3
        assert list(group.committed().values()) == [3]
    with store.consumer_group("g", source, **MANUAL) as group:
        assert [record.value for record in group.records(max_records=1)] == [b"3"]
    assert values(store, "out") == [b"0", b"1", b"2"]


def test_an_exception_rewinds_to_before_the_uncommitted_records_in_the_same_loop(store: Store, source: Any) -> None:
    seen, fails = [], [b"2", b"2", b"7"]
    with store.consumer_group("g", source, **MANUAL) as group, store.producer() as producer:
        for record in group.records():
            seen.append(record.value)
            try:
                with producer.transaction(group) as tx:
                    tx.send("out", record.value)
                    if fails and record.value == fails[0]:
                        raise KeyError(fails.pop(0))
            except KeyError:
                pass
    assert seen == [b"0", b"1", b"2", b"2", b"2", b"3", b"4", b"5", b"6", b"7", b"7", b"8", b"9"]
    assert values(store, "out") == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("how", ["records", "poll", "batches"])
def test_several_records_in_one_transaction_come_again_after_an_abort(store: Store, source: Any, how: str) -> None:
    def take(group: Any) -> list[bytes]:
        if how == "records":
            return [record.value for record in group.records(max_records=4)]
        found = group.poll(4) if how == "poll" else next(group.batches())
        return [record.value for record in found]

    with store.consumer_group("g", source, **MANUAL) as group:
        with store.transaction(group) as tx:
            first = take(group)
            tx.abort()
        with store.transaction(group) as tx:
            assert take(group) == first
            tx.send_many("out", first)
        rest = [record.value for record in group.records()]
    assert first + rest == [b"%d" % number for number in range(10)]
    assert values(store, "out") == first


def test_a_group_can_be_in_one_transaction_at_a_time(store: Store, source: Any) -> None:
    with store.consumer_group("g", source, **MANUAL) as group, store.transaction(group):
        with pytest.raises(TransactionStateError, match="one at a time"), store.transaction(group):
            pass


def test_nothing_is_given_up_while_a_transaction_holds_it(store: Store) -> None:
    source = store.topic("in2", partitions=2)
    for number in range(2):
        source.append_many([b"%d" % number] * 3, partition=number)
    store.topic("out")
    with store.consumer_group("g", source, **MANUAL) as first:
        with store.transaction(first) as tx:
            records = first.records()
            tx.send("out", next(records).value)
            with store.consumer_group("g", source, **MANUAL) as second:
                assert second.poll(timeout=0.2) == []
                tx.send_many("out", [record.value for record in records])
                assert len(first.assignment) == 2
        assert len(values(store, "out")) == 6
        with store.consumer_group("g", source, **MANUAL) as second:
            assert first.poll(timeout=0) == []
            assert second.poll(timeout=0) == []
            assert len(first.assignment) == len(second.assignment) == 1


@pytest.mark.parametrize("until", ["end", None])
def test_a_member_that_has_nothing_yet_takes_what_it_is_given_within_its_transaction(store: Store, until: Any) -> None:
    """It has nothing to give up: taking no notice of the group it would wait for its partitions for ever."""
    source = store.topic("in2", partitions=2)
    for number in range(2):
        source.append_many([b"%d" % number] * 3, partition=number)
    store.topic("out")
    with store.consumer_group("g", source, **MANUAL) as first:
        assert len(first.poll(1)) == 1
        with store.consumer_group("g", source, **MANUAL) as second:
            with store.transaction(second) as tx:
                assert second.assignment == []
                gives_up = threading.Timer(0.2, lambda: first.poll(timeout=0))
                gives_up.start()
                found = [record.value for record in second.records(until=until, max_records=3, timeout=10)]
                gives_up.join()
                assert len(found) == 3
                tx.send_many("out", found)
            assert values(store, "out") == found
            assert list(second.committed().values()) == [3]


def test_a_member_that_was_removed_meanwhile_commits_nothing(store: Store, source: Any) -> None:
    with store.consumer_group("g", source, **MANUAL) as group:
        with pytest.raises(FencedMemberError), store.transaction(group) as tx:
            tx.send("out", next(group.records()).value)
            group._entered().remove("a test")
        assert values(store, "out") == []
        with store.transaction(group) as tx:
            tx.send("out", next(group.records()).value)
    assert values(store, "out") == [b"0"]


def test_a_member_that_joined_again_within_the_transaction_commits_nothing(store: Store, source: Any) -> None:
    with store.consumer_group("g", source, **MANUAL) as group:
        with pytest.raises(FencedMemberError, match="during the transaction"), store.transaction(group) as tx:
            tx.send("out", next(group.records()).value)
            group._entered().remove("a test")
            tx.send("out", next(group.records()).value)
        with store.transaction(group) as tx:
            tx.send_many("out", [record.value for record in group.records()])
    assert values(store, "out") == [b"%d" % number for number in range(10)]


def test_a_commit_that_conflicts_rewinds_the_group(store: Store, source: Any) -> None:
    with store.consumer_group("g", source, **MANUAL) as group:
        with pytest.raises(OffsetConflictError), store.transaction(group) as tx:
            tx.send("out", next(group.records()).value, expected_end_offset=5)
        assert next(group.records()).value == b"0"


def test_leaving_the_group_within_the_transaction_fails_its_commit(store: Store, source: Any) -> None:
    group = store.consumer_group("g", source, **MANUAL)
    group.join()
    with pytest.raises(ClosedError), store.transaction(group) as tx:
        tx.send("out", next(group.records()).value)
        group.close()
    assert values(store, "out") == []


# Transactional ids


def test_a_second_claimant_fences_the_first_at_its_next_commit(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "s.klite"
    first, second = open_store(path), open_store(path)
    topic = first.topic("t")
    with first.producer(transactional_id="x") as old:
        with old.transaction() as tx:
            tx.send(topic, b"old")
        with second.producer(transactional_id="x") as new:
            with pytest.raises(ProducerFencedError, match="'x'"), old.transaction() as tx:
                tx.send(topic, b"zombie")
            with new.transaction() as tx:
                tx.send("t", b"new")
        with pytest.raises(ProducerFencedError), old.transaction():
            pass
    assert values(first) == [b"old", b"new"]


def test_producers_of_one_handle_share_its_claim(store: Store) -> None:
    topic = store.topic("t")
    for number in range(3):
        with store.producer(config={"transactional.id": "x"}) as producer, producer.transaction() as tx:
            tx.send(topic, b"%d" % number)
    assert values(store) == [b"0", b"1", b"2"]


def test_a_transactional_producer_sends_in_transactions_only(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(transactional_id="x") as producer:
        with pytest.raises(TransactionStateError, match="in transactions only"):
            producer.send(topic, b"x")
    for wrong in ("", "x" * 506, 5):
        with pytest.raises(ConfigError, match="transactional_id"):
            store.producer(transactional_id=wrong)  # type: ignore[arg-type]
    store.producer(transactional_id="x" * 505).close()


def test_a_claim_survives_the_index(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "s.klite"
    epochs = []
    for number in range(3):
        with open_store(path) as store:
            with store.producer(transactional_id="x") as producer, producer.transaction() as tx:
                tx.send(store.topic("t"), b"%d" % number)
            assert producer._identity is not None
            epochs.append((producer._identity.producer_id, producer._identity.epoch))
        resolve(path).index.unlink()
    assert epochs == [(epochs[0][0], number) for number in range(3)]
