"""A store that is open when its process forks: with `os.fork`, with multiprocessing, with threads at work (F6).

The parent of these tests is itself a child of the test's process, which has no store open.
"""

import itertools
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.errors import ForkedError, KafkaliteError, StoreBusyError
from kafkalite.storage import superblock
from kafkalite.storage.place import resolve
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import Board, Forked, until

FORKS = 20
READY, GO = 0, 1
"""Cells of the board."""


def in_child(work: Callable[..., Any], *arguments: object) -> Any:
    """What `work` returned in a forked child; its errors become ours."""
    child = Forked(work, *arguments)
    try:
        return child.result()
    finally:
        child.close()


def prove(fork: Fork, place: Path, tmp_path: Path) -> history.Proof:
    proof: history.Proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    return proof


# Forking while threads write and read


def use_inherited(store: kafkalite.Store, topic: kafkalite.Topic[Any, Any], writer: int, directory: Path) -> int:
    """All that a child may do with what it inherited; it forks once more, and closes what it has."""
    found = sum(1 for _ in topic.read())
    scribe = history.Scribe(store, writer, AckFile(directory / f"acks-{writer}"))
    for work in (scribe.append, scribe.append_many, scribe.send, scribe.send_many):
        work()
    in_child(history.Scribe(store, writer + 1000, AckFile(directory / f"acks-{writer + 1000}")).append)
    if writer % 2:
        store.close()
    return found


def fork_again_and_again(path: Path, directory: Path) -> list[int]:
    """Fork in a loop with threads that write, send and read; returns what the children read."""
    over = threading.Event()
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            while not over.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    with kafkalite.connect(path) as store:
        scribes = [history.Scribe(store, writer, AckFile(directory / f"acks-{writer}")) for writer in (1, 2)]
        topic = scribes[0].topic
        work = [*(scribe.write for scribe in scribes), lambda: list(topic.tail(100))]
        threads = [threading.Thread(target=run, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        found = [in_child(use_inherited, store, topic, 100 + number, directory) for number in range(FORKS)]
        over.set()
        for thread in threads:
            thread.join()
        assert not errors, errors
        scribes[0].append()
    return found


@pytest.mark.parametrize("durability", ["commit", "interval"])
def test_forked_while_threads_write_and_read(fork: Fork, place: Path, tmp_path: Path, durability: str) -> None:
    fork(history.create, place, durability=durability, flush_interval_ms=5, segment_bytes=512 * 1024).result()
    found = fork(fork_again_and_again, place, tmp_path).result()
    assert found == sorted(found)
    assert len(found) == FORKS
    assert prove(fork, place, tmp_path).acknowledged > 5 * FORKS


# What belongs to the parent


def raises_forked(work: Callable[[], object]) -> bool:
    try:
        work()
    except ForkedError:
        return True
    return False


def parent_with_things_open(path: Path, acks: Path) -> None:
    """What a child finds of the parent's iterators, deliveries and producers, and what it leaves of them."""
    with kafkalite.connect(path) as store:
        topic = store.topic(history.TOPIC, partitions=history.PARTITIONS)
        history.Scribe(store, 1, AckFile(acks)).append_many()
        producer = store.producer(linger_ms=3_600_000)
        pending = [producer.send(topic, history.value(2, n, 0, 1, 20), key=b"2.0") for n in (1, 2, 3)]
        records, batches = topic.read(), topic.batches()
        first = next(records)
        identity = producer._queue._producer_id

        def child() -> None:
            assert raises_forked(lambda: next(batches))
            assert raises_forked(lambda: [*records, next(records)])
            assert raises_forked(lambda: pending[0].result(5))
            assert raises_forked(lambda: pending[2].exception(5))
            assert not pending[1].done()
            producer.flush(5)
            assert not any(delivery.done() for delivery in pending)
            done = producer.send(topic, history.value(3, 1, 0, 1, 20), key=b"3.0").result(60)
            assert producer._queue._producer_id != identity
            assert topic.tail(1)
            AckFile(acks).append(3, 1, 1, done.partition, done.offset, done.offset + 1)
            producer.close()

        in_child(child)
        assert [first, *records][0].offset == 0
        producer.flush(60)
        for number, delivery in enumerate(pending, 1):
            done = delivery.result(0)
            AckFile(acks).append(2, number, 1, done.partition, done.offset, done.offset + 1)
        producer.close()


def test_child_starts_with_an_empty_producer_and_the_parents_things_raise(
    fork: Fork, place: Path, tmp_path: Path
) -> None:
    fork(parent_with_things_open, place, tmp_path / "acks-1").result()
    proof = prove(fork, place, tmp_path)
    assert proof.records == proof.acknowledged


def test_a_child_that_ends_without_a_word_commits_nothing_of_the_parents(
    fork: Fork, place: Path, tmp_path: Path
) -> None:
    def parent(path: Path, acks: Path) -> None:
        with kafkalite.connect(path) as store:
            topic = store.topic(history.TOPIC, partitions=history.PARTITIONS)
            producer = store.producer(linger_ms=3_600_000)
            sent = producer.send(topic, history.value(1, 1, 0, 1, 20), key=b"1.0")
            pid = os.fork()
            if not pid:
                store.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert list(topic.read()) == []
            done = sent.result(60)
            AckFile(acks).append(1, 1, 1, done.partition, done.offset, done.offset + 1)

    fork(parent, place, tmp_path / "acks-1").result()
    assert prove(fork, place, tmp_path).records == 1


# The parent's locks


def parent_whose_child_closed(path: Path, acks: Path, board: Board, how: str) -> None:
    """The child closes, or only ends; later the parent stops in its append."""
    with kafkalite.connect(path) as store:
        scribe = history.Scribe(store, 1, AckFile(acks))

        def child() -> None:
            if how == "closes":
                store.close()
            if how == "appends":
                scribe.topic.append(history.value(7, 1, 0, 1, 20), key=b"7.0")

        in_child(child)
        board[READY] = 1
        until(lambda: board[GO], "being told to go on")

        def hook(step: str) -> None:
            disk.on_step = None
            os.kill(os.getpid(), signal.SIGSTOP)

        disk.on_step = hook
        scribe.append()


def send_in_vain(path: Path) -> BaseException | None:
    with kafkalite.connect(path) as store:
        producer = store.producer(max_block_ms=100, delivery_timeout_ms=200)
        return producer.send(history.TOPIC, history.value(5, 1, 0, 1, 20), key=b"5.0").exception(60)


@pytest.mark.parametrize("how", ["closes", "ends", "appends"])
def test_the_parents_locks_outlive_its_child(fork: Fork, board: Board, place: Path, tmp_path: Path, how: str) -> None:
    parent = fork(parent_whose_child_closed, place, tmp_path / "acks-1", board, how)
    until(lambda: board[READY] or not parent.is_running(), "the parent's child")
    fork(history.write, place, 2, tmp_path / "acks-2", 5).result()
    fd = os.open(resolve(place).file, os.O_RDONLY)
    found = superblock.read(fd, str(place))
    os.close(fd)
    assert found is not None
    assert found.state is superblock.State.OPEN, "somebody sealed the store while the parent had it open"
    board[GO] = 1
    parent.wait_stopped()
    error = fork(send_in_vain, place).result()
    assert isinstance(error, StoreBusyError)
    assert re.search(rf"\b{parent.pid}\b", str(error))
    parent.resume()
    parent.result()
    fork(history.write, place, 3, tmp_path / "acks-3", 5).result()
    prove(fork, place, tmp_path)


def parent_to_be_killed(path: Path, directory: Path, board: Board) -> None:
    """A child that goes on after its parent was killed."""
    store = kafkalite.connect(path)
    scribe = history.Scribe(store, 1, AckFile(directory / "acks-1"))
    scribe.write()
    pid = os.fork()
    if not pid:
        try:
            board[READY] = os.getpid()
            until(lambda: board[GO], "the parent's end")
            child = history.Scribe(store, 2, AckFile(directory / "acks-2"))
            for _ in range(20):
                child.write()
            store.close()
            board[READY] = -1
        finally:
            os._exit(0)
    signal.pause()


def test_a_child_goes_on_when_its_parent_is_killed(fork: Fork, board: Board, place: Path, tmp_path: Path) -> None:
    parent = fork(parent_to_be_killed, place, tmp_path, board)
    until(lambda: board[READY] or not parent.is_running(), "the child")
    parent.kill()
    board[GO] = 1
    until(lambda: board[READY] == -1, "the child's work")
    assert prove(fork, place, tmp_path).acknowledged > 20


# multiprocessing


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_stores_and_topics_passed_to_multiprocessing(place: Path, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with kafkalite.connect(place) as store:
        topic = store.topic("numbers", partitions=2, key=str, value=int)
        topic.append(0, partition=0)
        processes = [
            context.Process(target=kafkalite.Topic.append, args=(topic, 1), kwargs={"partition": 0}),
            context.Process(target=kafkalite.Store.topic, args=(store, "made by a child".replace(" ", "-"))),
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            done = list(pool.map(topic.append, [2, 3, 4], timeout=60))
        assert {type(one).__name__ for one in done} == {"RecordMetadata"}
        topic.append(5, key="five")
        assert sorted(record.value for record in topic.read()) == [0, 1, 2, 3, 4, 5]
        assert store.topics() == ["made-by-a-child", "numbers"]
        assert store.check().ok


def test_a_topic_works_in_a_child_when_the_parent_has_closed_the_store_meanwhile(
    fork: Fork, board: Board, place: Path, tmp_path: Path
) -> None:
    """The child has opened the store for itself: what its parent does with its own does not concern it."""

    def parent(path: Path, directory: Path) -> None:
        store = kafkalite.connect(path)
        store.topic(history.TOPIC, partitions=history.PARTITIONS)

        def child() -> None:
            scribe = history.Scribe(store, 2, AckFile(directory / "acks-2"))
            scribe.write()
            board[READY] = 1
            until(lambda: board[GO], "the parent's closing")
            for _ in range(5):
                scribe.write()
            store.close()

        process = Forked(child)
        until(lambda: board[READY] or not process.is_running(), "the child's first write")
        store.close()
        board[GO] = 1
        process.result()
        process.close()

    fork(parent, place, tmp_path).result()
    prove(fork, place, tmp_path)


def test_memory_stores_are_removed_by_their_creator_alone(fork: Fork) -> None:
    def parent() -> tuple[str, bool]:
        with kafkalite.connect(":memory:") as store:
            topic = store.topic("t")
            topic.append(b"parent")

            def child() -> list[bytes]:
                topic.append(b"child")
                values = [record.value for record in topic.read()]
                store.close()
                return values

            assert in_child(child) == [b"parent", b"child"]
            topic.append(b"parent again")
            assert [record.value for record in topic.read()] == [b"parent", b"child", b"parent again"]
            assert store.check().ok
            return str(store.path), store.path.exists()

    path, existed = fork(parent).result()
    assert existed
    assert not Path(path).exists()


def test_closed_stores_stay_closed_in_a_child(fork: Fork, place: Path) -> None:
    def parent() -> None:
        store = kafkalite.connect(place)
        topic = store.topic("t")
        store.close()

        def child() -> None:
            for work in (store.topics, lambda: topic.append(b""), lambda: list(topic.read())):
                with pytest.raises(KafkaliteError, match="closed"):
                    work()

        in_child(child)

    fork(parent).result()
    for _ in itertools.repeat(None, 2):
        with kafkalite.connect(place) as store:
            assert store.check().ok
