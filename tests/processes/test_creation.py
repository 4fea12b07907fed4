"""Several processes that create one store at the same moment, at a path where there is none."""

import time
from pathlib import Path

import pytest

import kafkalite
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import Board, results

PROCESSES = 8
ROUNDS = 20


def meet(board: Board, process: int, number: int) -> None:
    """Go on at the moment when everybody has come so far."""
    board[process] = number
    end = time.monotonic() + 20
    while any(board[other] < number for other in range(PROCESSES)):
        time.sleep(0)
        assert time.monotonic() < end, f"only {[board[other] for other in range(PROCESSES)]} came to {number}"


def join_in(paths: list[Path], acks: list[Path], writer: int, board: Board) -> None:
    """Connect to each path as soon as all are there for it, and append."""
    for number, (path, ack) in enumerate(zip(paths, acks, strict=True), 1):
        meet(board, writer, number)
        with kafkalite.connect(path, durability="commit") as store:
            history.Scribe(store, writer + 1, AckFile(ack)).append_many()


def test_eight_processes_create_one_store_at_once_twenty_times(
    fork: Fork, board: Board, scratch: Path, place: Path
) -> None:
    paths = [scratch / f"{number}{place.suffix}" for number in range(ROUNDS)]
    acks = [scratch / f"acks-{number}" for number in range(ROUNDS)]
    workers = [fork(join_in, paths, acks, writer, board) for writer in range(PROCESSES)]
    results(workers)
    for path, ack in zip(paths, acks, strict=True):
        proof = fork(history.prove, path, [ack]).result()
        assert proof.records == proof.acknowledged >= 2 * PROCESSES


def create_topics(path: Path, writer: int, board: Board) -> list[int]:
    """The same topics as everybody else, at once; returns the ids of their logs."""
    with kafkalite.connect(path) as store:
        meet(board, writer, 1)
        topics = [store.topic(f"topic-{number}", partitions=3) for number in range(10)]
        return [log_id for topic in topics for log_id in topic._state.log_ids]


def test_topics_created_by_all_at_once_are_created_once(fork: Fork, board: Board, place: Path) -> None:
    workers = [fork(create_topics, place, writer, board) for writer in range(PROCESSES)]
    found = results(workers)
    assert found.count(found[0]) == PROCESSES
    assert len(set(found[0])) == 30
    with kafkalite.connect(place) as store:
        assert len(store.topics()) == 10
        assert store.check().ok


def create_with(path: Path, durability: str) -> str:
    """Create a store with a durability, or find that it has another."""
    try:
        with kafkalite.connect(path, durability=durability) as store:
            return str(store.settings["durability"])
    except kafkalite.StoreSettingsError:
        return "refused"


def test_creators_that_disagree_on_a_setting_leave_a_store_with_one_of_them(
    fork: Fork, scratch: Path, place: Path
) -> None:
    for number in range(10):
        path = scratch / f"{number}{place.suffix}"
        wanted = ["none", "interval"]
        workers = [fork(create_with, path, one) for one in wanted]
        found = results(workers)
        with kafkalite.connect(path) as store:
            has = store.settings["durability"]
            assert store.check().ok
        assert has in wanted
        assert all(answer in {one, "refused"} for one, answer in zip(wanted, found, strict=True))


@pytest.mark.parametrize("suffix", ["", ".klite"])
def test_a_creator_killed_at_once_is_followed_by_another(fork: Fork, scratch: Path, suffix: str) -> None:
    """The victim dies at any moment after its birth, another comes while it dies."""
    for number in range(30):
        path = scratch / f"{number}{suffix}"
        acks = scratch / f"acks-{number}"
        victim = fork(history.write, path, 1, acks, 1_000_000)
        other = fork(history.write, path, 2, acks, 3)
        time.sleep(number * 0.0005)
        victim.kill()
        other.result()
        proof = fork(history.prove, path, [acks]).result()
        assert proof.acknowledged >= 3
        if path.is_dir():
            assert not (path / "run").exists()
