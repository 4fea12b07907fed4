"""Writers killed at random, a hundred and more of them, while readers follow (F1, F6)."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import history
from .conftest import Fork
from .forks import Board, Forked, until

WRITERS = 3
FOLLOWERS = 2
KILLS = 50
STALL_S = 10.0
"""Without progress for so long, with writers at work all the while, is a stall."""
FIRST_FOLLOWER = WRITERS


@dataclass
class Victim:
    """A writer, and when it is to be killed: so many seconds after its birth, or once it made so many commits."""

    child: Forked
    seconds: float
    commits: int
    born: float = field(default_factory=time.monotonic)

    def is_due(self, commits: int) -> bool:
        age = time.monotonic() - self.born
        assert age < STALL_S, f"a writer made {commits} commits in {age:.1f} s: it stalls"
        return age >= self.seconds and commits >= self.commits


class Hunt:
    """Keeps three writers alive and kills one after another, watching that followers get on."""

    def __init__(self, fork: Fork, board: Board, path: Path, directory: Path, seed: int) -> None:
        self._fork, self._board = fork, board
        self._path, self._directory = path, directory
        self._seed = seed
        self._random = random.Random(seed)
        self._born = 0
        self._progress = dict.fromkeys(range(FIRST_FOLLOWER, FIRST_FOLLOWER + FOLLOWERS), (0, time.monotonic()))

    def run(self, kills: int) -> None:
        victims = {slot: self._new(slot) for slot in range(WRITERS)}
        killed = 0
        while killed < kills:
            time.sleep(0.001)
            self._watch()
            for slot, victim in victims.items():
                if victim.is_due(self._board[slot]):
                    victim.child.kill()
                    killed += 1
                    victims[slot] = self._new(slot)
        for victim in victims.values():
            victim.child.kill()

    def _new(self, slot: int) -> Victim:
        """One in three is killed at any moment, its opening included, the others once they have committed."""
        self._board[slot] = 0
        self._born += 1
        acks = self._directory / f"acks-{self._born}"
        child = self._fork(history.write_for_ever, self._path, self._born, acks, self._board, slot, self._seed)
        if self._random.random() < 1 / 3:
            return Victim(child, self._random.uniform(0, 0.03), 0)
        return Victim(child, self._random.uniform(0, 0.02), self._random.randint(1, 10))

    def _watch(self) -> None:
        now = time.monotonic()
        for cell, (seen, since) in self._progress.items():
            if self._board[cell] != seen:
                self._progress[cell] = (self._board[cell], now)
            else:
                assert now - since < STALL_S, f"a follower stands at {seen} records for {STALL_S} s: it stalls"


def hunt(fork: Fork, board: Board, path: Path, directory: Path, *, durability: str, seed: int, kills: int) -> None:
    """Kill writers while followers read; then prove that nothing acknowledged is missing."""
    history.create(path, durability=durability, segment_bytes=512 * 1024)
    followers = [fork(history.follow, path, board, FIRST_FOLLOWER + number) for number in range(FOLLOWERS)]
    Hunt(fork, board, path, directory, seed).run(kills)
    fork(history.stop_followers, path).result()
    seen = [follower.result() for follower in followers]
    proof = fork(history.prove, path, list(history.ack_paths(directory))).result()
    assert seen == [proof.digests] * FOLLOWERS
    assert proof.acknowledged >= kills
    print(f"faults injected: {kills + WRITERS}, {proof}")


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_writers_killed_while_readers_follow(
    fork: Fork, board: Board, place: Path, tmp_path: Path, durability: str
) -> None:
    hunt(fork, board, place, tmp_path, durability=durability, seed=20130101, kills=KILLS)


@pytest.mark.long
@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
def test_writers_killed_for_a_long_time(
    fork: Fork, board: Board, place: Path, tmp_path: Path, durability: str, seed: int
) -> None:
    hunt(fork, board, place, tmp_path, durability=durability, seed=seed, kills=75 * KILLS)


def kill_after(child: Forked, board: Board, commits: int) -> None:
    until(lambda: board[0] >= commits or not child.is_running(), f"{commits} commits")
    child.kill()


def test_writers_killed_when_nobody_else_has_the_store_open(
    fork: Fork, board: Board, place: Path, tmp_path: Path
) -> None:
    """Each next one is alone, meets what the last one left, and goes on from there."""
    draw = random.Random(3)
    history.create(place, segment_bytes=512 * 1024)
    for writer in range(1, 61):
        board[0] = 0
        child = fork(history.write_for_ever, place, writer, tmp_path / f"acks-{writer}", board, 0, 3)
        kill_after(child, board, draw.randint(0, 6))
    proof = fork(history.prove, place, list(history.ack_paths(tmp_path))).result()
    assert proof.acknowledged >= 60
    print(f"faults injected: 60, {proof}")
