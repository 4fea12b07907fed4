"""Processes and threads that exclude each other, and what happens when the one who is in is stopped (F6)."""

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.errors import OffsetConflictError, OutcomeUnknownError, StoreBusyError
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import Board, results, until

REFUSED, GO, READ = 0, 1, 2
"""Cells of the board."""


def stopped_at(path: Path, acks: Path, stage: str) -> None:
    """An append that stops itself before a step, and goes on when it is continued."""
    with kafkalite.connect(path) as store:
        scribe = history.Scribe(store, 1, AckFile(acks))

        def hook(step: str) -> None:
            if step == stage:
                disk.on_step = None
                os.kill(os.getpid(), signal.SIGSTOP)

        disk.on_step = hook
        scribe.append(100)


def refused_then_served(path: Path, acks: Path, board: Board) -> tuple[BaseException | None, float]:
    """A send that is allowed little time, then, told to, an append; returns what became of the send."""
    with kafkalite.connect(path) as store:
        producer = store.producer(max_block_ms=150, delivery_timeout_ms=300)
        data = history.value(2, 1, 0, 1, 50)
        started = time.monotonic()
        error = producer.send(history.TOPIC, data, key=b"2.0").exception(60)
        passed = time.monotonic() - started
        board[REFUSED] = 1
        until(lambda: board[GO], "being told to go on")
        history.Scribe(store, 3, AckFile(acks)).append_many()
        return error, passed


def read_all(path: Path) -> int:
    """A reader that comes while somebody stands in the way of writers."""
    with kafkalite.connect(path) as store:
        return sum(1 for _ in store.topic(history.TOPIC).read())


def reader_from_before(path: Path, board: Board) -> int:
    """A reader that had the store open before; it reads again when told."""
    with kafkalite.connect(path) as store:
        topic = store.topic(history.TOPIC)
        board[READ] = 1
        until(lambda: board[REFUSED], "the refusal")
        found = sum(1 for _ in topic.read())
        board[READ] = 2
        return found


@pytest.mark.parametrize("stage", ["write", "index commit"])
def test_writer_stopped_in_its_append_is_named_readers_go_on_and_all_resume(
    fork: Fork, board: Board, place: Path, tmp_path: Path, stage: str
) -> None:
    fork(history.write, place, 9, tmp_path / "acks-9", 10).result()
    reader = fork(reader_from_before, place, board)
    other = None
    until(lambda: board[READ], "the reader")
    holder = fork(stopped_at, place, tmp_path / "acks-1", stage)
    holder.wait_stopped()
    other = fork(refused_then_served, place, tmp_path / "acks-3", board)
    until(lambda: board[REFUSED] or not other.is_running(), "the refusal")
    before = reader.result()
    holder.resume()
    board[GO] = 1
    holder.result()
    error, passed = other.result()
    assert isinstance(error, StoreBusyError)
    assert re.search(rf"\b{holder.pid}\b.*stopped", str(error))
    assert passed < 60
    proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    assert proof.records > before > 0


# Once broken: a waiter whose time runs out gets OutcomeUnknownError, which does not say whose flush it waited for.
def test_stopped_leader_of_a_flush_is_named_readers_go_on_and_all_resume(
    fork: Fork, board: Board, place: Path, tmp_path: Path
) -> None:
    fork(history.write, place, 9, tmp_path / "acks-9", 10).result()
    reader = fork(reader_from_before, place, board)
    until(lambda: board[READ], "the reader")
    leader = fork(stopped_at, place, tmp_path / "acks-1", "flush")
    leader.wait_stopped()
    other = fork(refused_then_served, place, tmp_path / "acks-3", board)
    until(lambda: board[REFUSED] or not other.is_running(), "the refusal")
    until(lambda: board[READ] == 2 or not reader.is_running(), "the reader's second look")
    leader.resume()
    board[GO] = 1
    leader.result()
    error, _ = other.result()
    assert isinstance(error, StoreBusyError | OutcomeUnknownError)
    assert error.retriable
    proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    assert proof.records > reader.result() > 0
    assert re.search(rf"\b{leader.pid}\b.*stopped", str(error)), error


# Once broken: closing waits for FLUSH up to the tail, even that of others.
def test_reader_comes_and_goes_while_a_leader_of_a_flush_is_stopped(fork: Fork, place: Path, tmp_path: Path) -> None:
    """It wrote nothing, so there is nothing that it would have to wait for when it closes the store."""
    fork(history.write, place, 9, tmp_path / "acks-9", 10).result()
    leader = fork(stopped_at, place, tmp_path / "acks-1", "flush")
    leader.wait_stopped()
    assert fork(read_all, place).result(20) > 0
    leader.resume()
    leader.result()
    fork(history.prove, place, list(history.ack_paths(tmp_path))).result()


def in_threads(path: Path, writers: list[int], directory: Path, count: int) -> None:
    """A writer in each of several threads of one process."""
    errors: list[BaseException] = []

    def write(scribe: history.Scribe) -> None:
        try:
            for _ in range(count):
                scribe.write()
        except BaseException as error:
            errors.append(error)

    with kafkalite.connect(path) as store:
        scribes = [history.Scribe(store, writer, AckFile(directory / f"acks-{writer}")) for writer in writers]
        threads = [threading.Thread(target=write, args=(scribe,)) for scribe in scribes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_threads_and_processes_write_one_history(fork: Fork, place: Path, tmp_path: Path, durability: str) -> None:
    fork(history.create, place, durability=durability, segment_bytes=512 * 1024).result()
    processes = [
        fork(in_threads, place, list(writers), tmp_path, 40)
        for writers in (range(1, 9), range(9, 11), range(11, 13), range(13, 14))
    ]
    results(processes)
    proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    assert proof.records == proof.acknowledged >= 13 * 40


def roll_in_threads(path: Path, writer: int, directory: Path) -> None:
    """Threads whose appends fill a segment every few: somebody prepares the next one while others append."""
    sys.setswitchinterval(1e-5)
    with kafkalite.connect(path) as store:

        def run(writer: int) -> None:
            with AckFile(directory / f"acks-{writer}") as acks:
                scribe = history.Scribe(store, writer, acks)
                for _ in range(100):
                    scribe.append(60_000)

        threads = [threading.Thread(target=run, args=(writer + number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


# Once broken: an operation appended by another while its owner had NeedsSegment in hand is submitted once more.
@pytest.mark.parametrize("processes", [1, 2])
def test_threads_that_roll_append_nothing_twice(fork: Fork, place: Path, tmp_path: Path, processes: int) -> None:
    """An operation whose owner was told to prepare a segment may be appended by another thread meanwhile."""
    fork(history.create, place, durability="none", segment_bytes=512 * 1024).result()
    results([fork(roll_in_threads, place, 1 + 100 * number, tmp_path) for number in range(processes)])
    proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    assert proof.records == proof.acknowledged == 800 * processes


def count_up(path: Path, limit: int, threads: int) -> int:
    """Threads that append, as its value, the end offset they expect; returns how often somebody else was first."""
    conflicts = []

    def run(topic: kafkalite.Topic[bytes, int]) -> None:
        end = 0
        while end < limit:
            try:
                end = topic.append(end, partition=0, expected_end_offset=end).offset + 1
            except OffsetConflictError as conflict:
                conflicts.append(end)
                end = conflict.actual

    with kafkalite.connect(path) as store:
        workers = [threading.Thread(target=run, args=(store.topic("count", value=int),)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return len(conflicts)


def test_conditional_appends_of_threads_and_processes_make_a_serial_history(fork: Fork, place: Path) -> None:
    limit = 600
    conflicts = results([fork(count_up, place, limit, threads) for threads in (3, 1, 1)])
    assert sum(conflicts) > 0
    with kafkalite.connect(place, create=False) as store:
        values = [record.value for record in store.topic("count", value=int).read()]
        assert len(values) >= limit
        assert values == list(range(len(values)))
        assert store.check().ok


def open_write_close(path: Path, acks: Path, writer: int, rounds: int) -> None:
    """A store opened, written and closed over and over: sealed whenever nobody else has it."""
    number = 0
    for _ in range(rounds):
        with kafkalite.connect(path) as store:
            scribe = history.Scribe(store, writer, AckFile(acks))
            scribe._number = number
            scribe.write()
            number = scribe._number


def test_processes_open_write_and_close_in_each_others_way(fork: Fork, place: Path, tmp_path: Path) -> None:
    writers = [fork(open_write_close, place, tmp_path / f"acks-{writer}", writer, 25) for writer in range(1, 6)]
    for victim in range(100, 110):  # and some are killed at it
        child = fork(open_write_close, place, tmp_path / f"acks-{victim}", victim, 1_000_000)
        acks = AckFile(tmp_path / f"acks-{victim}")
        until(lambda acks=acks, child=child: list(acks.read()) or not child.is_running(), "a victim's first write")
        child.kill()
    results(writers)
    proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    assert proof.acknowledged >= 5 * 25 + 10
    print(f"faults injected: 10, {proof}")
