"""Closing a store in which something is still at work: the keeper, other threads."""

import sys
import threading
import time
from pathlib import Path

import kafkalite
from kafkalite import disk
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import Board, Forked, until

BEGUN, GO, DONE, LATE = 0, 1, 2, 3
"""Cells of the board."""


def close_while_the_keeper_prepares(path: Path, acks: Path, board: Board) -> None:
    """The keeper has begun to prepare the next segment when the store is closed; it goes on after the next opening,
    unless closing waits for it.
    """

    def hook(step: str) -> None:
        if threading.current_thread().name != "kafkalite-keeper":
            return
        if board[BEGUN]:
            board[LATE] = 1
        elif step in ("zeros", "reserve"):
            board[BEGUN] = 1
            for _ in range(1000):
                if not board[GO]:
                    time.sleep(0.001)

    with kafkalite.connect(path, segment_bytes=512 * 1024) as store:
        scribe = history.Scribe(store, 1, AckFile(acks))
        disk.on_step = hook
        for _ in range(5):
            scribe.append(65_000, 0)
        until(lambda: board[BEGUN], "the keeper")
    board[DONE] = 1
    until(lambda: board[GO], "others to use the segment")
    for _ in range(1000):
        if not board[LATE]:
            time.sleep(0.001)


# Once broken: it does, and acknowledged records are overwritten with zeros.
def test_a_segment_still_being_prepared_at_closing_is_not_zeroed_under_others(
    fork: Fork, board: Board, place: Path, tmp_path: Path
) -> None:
    """Closing waits for the keeper, or the keeper gives up: it must not write into what is somebody else's by then."""
    closer = fork(close_while_the_keeper_prepares, place, tmp_path / "acks-1", board)
    until(lambda: board[BEGUN] or not closer.is_running(), "the keeper")

    def roll() -> None:
        with kafkalite.connect(place) as store:
            scribe = history.Scribe(store, 2, AckFile(tmp_path / "acks-2"))
            for _ in range(10):
                scribe.append(65_000, 0)

    until(lambda: board[DONE] or not closer.is_running(), "closing")
    fork(roll).result()
    board[GO] = 1
    closer.result()
    fork(history.prove, place, list(history.ack_paths(tmp_path))).result()


def close_under_threads(path: Path, directory: Path, rounds: int) -> None:
    """Threads that append and read meet the closing as an error that says so; what was acknowledged is there."""
    sys.setswitchinterval(1e-4)
    strange: list[BaseException] = []

    def run(store: kafkalite.Store, writer: int) -> None:
        with AckFile(directory / f"acks-{writer}") as acks:
            try:
                scribe = history.Scribe(store, writer, acks)
                while True:
                    scribe.append(5_000)
                    list(scribe.topic.tail(1))
            except kafkalite.ClosedError:
                return
            except BaseException as error:
                strange.append(error)

    for number in range(rounds):
        store = kafkalite.connect(path)
        threads = [threading.Thread(target=run, args=(store, 10 * number + cell)) for cell in range(1, 5)]
        for thread in threads:
            thread.start()
        end = sum(store.topic(history.TOPIC).end_offsets().values()) + 20
        until(lambda store=store, end=end: sum(store.topic(history.TOPIC).end_offsets().values()) >= end, "20 appends")
        store.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread never came back from a closed store"
    assert not strange, [f"{type(error).__name__}: {error}" for error in strange]


# Once broken: an append that overlaps the closing is acknowledged, and lost behind the seal.
def test_closed_while_threads_append_and_read(fork: Fork, place: Path, tmp_path: Path) -> None:
    fork(history.create, place, segment_bytes=512 * 1024, durability="none").result()
    closer: Forked = fork(close_under_threads, place, tmp_path, 15)
    closer.result()
    fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
