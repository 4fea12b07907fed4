"""Readers in processes of their own: woken across processes, killed asleep, at work while segments are begun (F6)."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite.storage import wakeup
from kafkalite.storage.place import resolve
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import Board, Forked, until

FOLLOWERS = 4
ROUNDS = 60


def follow_asleep(path: Path, board: Board, cell: int) -> None:
    """Follow; nothing but being woken ends a sleep."""
    wakeup.LONGEST_SLEEP = 3600.0
    history.follow(path, board, cell)


def sockets(path: Path) -> set[str]:
    """The names of those who sleep, or did when they were killed."""
    return {entry.name for entry in resolve(path).run.glob("*.wait")}


def asleep(path: Path, count: int) -> None:
    until(lambda: len(sockets(path)) == count, f"{count} followers to sleep")


def append_until_all_saw(topic: kafkalite.Topic[Any, Any], acks: AckFile, board: Board, followers: list[Forked]) -> int:
    """One record after another, each seen by all before the next; returns how many."""
    draw = random.Random(5)
    for number in range(1, ROUNDS + 1):
        data = history.value(1, number, 0, 1, 30)
        done = topic.append(data, key=b"1.0", partition=draw.randrange(history.PARTITIONS))
        acks.append(1, number, 1, done.partition, done.offset, done.offset + 1)
        until(
            lambda number=number: (
                all(board[cell] == number for cell in range(FOLLOWERS))
                or not all(follower.is_running() for follower in followers)
            ),
            f"all followers to see record {number}; they saw {[board[cell] for cell in range(FOLLOWERS)]}",
            20,
        )
    return ROUNDS


def wake_them(path: Path, acks: Path, board: Board, followers: list[Forked]) -> None:
    with kafkalite.connect(path) as store:
        append_until_all_saw(store.topic(history.TOPIC), AckFile(acks), board, followers)


def wake_through(fork: Fork, board: Board, path: Path, tmp_path: Path) -> None:
    fork(history.create, path).result()
    followers = [fork(follow_asleep, path, board, cell) for cell in range(FOLLOWERS)]
    asleep(path, FOLLOWERS)
    wake_them(path, tmp_path / "acks-1", board, followers)
    fork(history.stop_followers, path).result()
    for follower in followers:
        follower.result()
    proof = fork(history.prove, path, [tmp_path / "acks-1"]).result()
    assert proof.acknowledged == ROUNDS
    assert not resolve(path).run.exists()


def test_followers_are_woken_across_processes(fork: Fork, board: Board, place: Path, tmp_path: Path) -> None:
    wake_through(fork, board, place, tmp_path)


def test_followers_are_woken_where_the_path_is_longer_than_a_sockets(
    fork: Fork, board: Board, place: Path, tmp_path: Path
) -> None:
    deep = place.parent / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    wake_through(fork, board, deep / place.name, tmp_path)


def test_followers_killed_asleep_leave_no_stall_and_nothing_behind(
    fork: Fork, board: Board, place: Path, tmp_path: Path
) -> None:
    fork(history.create, place).result()
    survivor = fork(follow_asleep, place, board, 0)
    asleep(place, 1)
    for number in range(1, 31):
        victims = [fork(follow_asleep, place, board, 100 + cell) for cell in range(2)]
        asleep(place, 1 + len(victims))
        for victim in victims:
            victim.kill()
        fork(history.write, place, number, tmp_path / f"acks-{number}", 1).result()
        seen = sum(sum(line[2] for line in AckFile(path).read()) for path in history.ack_paths(tmp_path))
        until(
            lambda seen=seen: board[0] == seen or not survivor.is_running(), f"the survivor to see {seen} records", 20
        )
        asleep(place, 1)  # the survivor; the others' sockets are gone
    fork(history.stop_followers, place).result()
    survivor.result()
    fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    print("faults injected: 60, lost: 0")


def test_leftovers_of_the_killed_are_cleared_by_the_next_who_is_alone(fork: Fork, board: Board, place: Path) -> None:
    fork(history.create, place).result()
    victims = [fork(follow_asleep, place, board, cell) for cell in range(3)]
    asleep(place, 3)
    for victim in victims:
        victim.kill()
    assert len(sockets(place)) == 3
    with kafkalite.connect(place) as store:
        assert sockets(place) == set()
        assert store.check().ok
    assert not resolve(place).run.exists()


def read_again_and_again(path: Path, board: Board, cell: int, *, read_only: bool) -> int:
    """From random places on, while others write; what is once seen stays seen."""
    draw = random.Random(cell)
    least = dict.fromkeys(range(history.PARTITIONS), 0)
    with kafkalite.connect(path, read_only=read_only) as store:
        topic = store.topic(history.TOPIC)
        while not board[0]:
            ends = topic.end_offsets()
            assert all(ends[partition] >= end for partition, end in least.items())
            start = {partition: draw.randint(0, end) for partition, end in ends.items()}
            expected = dict(start)
            for record in topic.read(start=start):
                assert record.offset == expected[record.partition]
                expected[record.partition] += 1
            assert all(expected[partition] >= end for partition, end in ends.items())
            least = expected
            board[cell] += 1
    return sum(least.values())


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_readers_during_rolls_and_writers_at_work(
    fork: Fork, board: Board, place: Path, tmp_path: Path, durability: str
) -> None:
    fork(history.create, place, durability=durability, segment_bytes=512 * 1024).result()
    readers = [fork(read_again_and_again, place, board, cell, read_only=cell > 1) for cell in (1, 2)]
    writers = [fork(history.write, place, writer, tmp_path / f"acks-{writer}", 250) for writer in (1, 2)]
    for writer in writers:
        writer.result()
    until(lambda: all(board[cell] or not reader.is_running() for cell, reader in enumerate(readers, 1)), "readers")
    board[0] = 1
    for reader in readers:
        reader.result()
    proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    assert proof.records == proof.acknowledged


def follow_in_threads(path: Path, board: Board) -> list[dict[int, str]]:
    """Several followers in one process."""
    found: list[dict[int, str]] = []
    wakeup.LONGEST_SLEEP = 3600.0
    threads = [
        threading.Thread(target=lambda cell=cell: found.append(history.follow(path, board, cell))) for cell in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_followers_in_threads_of_one_process(fork: Fork, board: Board, place: Path, tmp_path: Path) -> None:
    fork(history.create, place).result()
    followers = fork(follow_in_threads, place, board)
    asleep(place, 3)
    fork(history.write, place, 1, tmp_path / "acks-1", 50).result()
    fork(history.stop_followers, place).result()
    found = followers.result()
    proof = fork(history.prove, place, [tmp_path / "acks-1"]).result()
    assert found == [proof.digests] * 3
