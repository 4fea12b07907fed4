"""Leader and waiters of a shared flush, killed or stopped at each of their steps (F1, F6)."""

import itertools
import os
import random
import signal
from pathlib import Path

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import Board, Forked, until

APPENDED, DONE = 1, 2
LEADING_STEPS = ("write", "index commit", "flush", "flushed", "published")
"""A lone durable append, step by step; from "flush" on it leads the flush."""
HOLDING_WRITE = {"write", "index commit"}


def stop_at(path: Path, acks: Path, writer: int, stage: str) -> None:
    """One durable append that stops itself at a stage."""
    with kafkalite.connect(path) as store:
        scribe = history.Scribe(store, writer, AckFile(acks))

        def hook(step: str) -> None:
            if step == stage:
                disk.on_step = None
                os.kill(os.getpid(), signal.SIGSTOP)

        disk.on_step = hook
        scribe.append(100)
        assert disk.on_step is None, f"there was no step {stage!r}"


def wait_for_flush(path: Path, acks: Path, writer: int, board: Board) -> None:
    """One durable append; the board says how far it is, in the cell of its writer."""
    with kafkalite.connect(path) as store:
        scribe = history.Scribe(store, writer, AckFile(acks))
        board[writer] = 0

        def hook(step: str) -> None:
            if step == "index commit":
                board[writer] = APPENDED

        disk.on_step = hook
        scribe.append(100)
        board[writer] = DONE


@pytest.fixture
def store(place: Path, fork: Fork) -> Path:
    fork(history.create, place).result()
    return place


def prove(fork: Fork, store: Path, tmp_path: Path) -> history.Proof:
    proof: history.Proof = fork(history.prove, store, list(history.ack_paths(tmp_path))).result()
    return proof


def begin(fork: Fork, store: Path, tmp_path: Path, board: Board, numbers: itertools.count, stage: str) -> list[Forked]:
    """A leader that stands still at a stage, and two who wait for it, as far as they come."""
    leader = fork(stop_at, store, tmp_path / "acks-leader", next(numbers), stage)
    leader.wait_stopped()
    waiters = []
    for _ in range(2):
        writer = next(numbers)
        waiters.append(fork(wait_for_flush, store, tmp_path / f"acks-{writer}", writer, board))
        if stage not in HOLDING_WRITE:
            until(lambda writer=writer: board[writer] == APPENDED, "a waiter's append")
    return [leader, *waiters]


def test_waiters_go_on_when_the_leader_is_killed_at_each_of_its_steps(
    fork: Fork, board: Board, store: Path, tmp_path: Path
) -> None:
    numbers = itertools.count(1)
    for stage in LEADING_STEPS:
        leader, *waiters = begin(fork, store, tmp_path, board, numbers, stage)
        assert all(waiter.is_running() for waiter in waiters), f"a waiter passed a leader that stands at {stage!r}"
        leader.kill()
        for waiter in waiters:
            waiter.result()
        proof = prove(fork, store, tmp_path)
    assert proof.acknowledged == 2 * len(LEADING_STEPS)
    print(f"faults injected: {len(LEADING_STEPS)}, {proof}")


def test_leader_and_others_go_on_when_a_waiter_is_killed(fork: Fork, board: Board, store: Path, tmp_path: Path) -> None:
    numbers = itertools.count(1)
    for stage in LEADING_STEPS:
        leader, victim, waiter = begin(fork, store, tmp_path, board, numbers, stage)
        victim.kill()
        leader.resume()
        leader.result()
        waiter.result()
        proof = prove(fork, store, tmp_path)
    assert proof.acknowledged == 2 * len(LEADING_STEPS)
    print(f"faults injected: {len(LEADING_STEPS)}, {proof}")


def test_all_go_on_when_a_stopped_leader_is_continued(fork: Fork, board: Board, store: Path, tmp_path: Path) -> None:
    numbers = itertools.count(1)
    for stage in LEADING_STEPS:
        for process in (everyone := begin(fork, store, tmp_path, board, numbers, stage)):
            process.resume()
        for process in everyone:
            process.result()
        proof = prove(fork, store, tmp_path)
    assert proof.acknowledged == 3 * len(LEADING_STEPS)


def append_until_dead(path: Path, acks: Path, writer: int, step: int) -> None:
    """Durable appends among others, leading or waiting as it comes, until killed at a step."""
    with kafkalite.connect(path) as store:
        scribe = history.Scribe(store, writer, AckFile(acks))
        count = 0

        def hook(name: str) -> None:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

        disk.on_step = hook
        while True:
            scribe.append(100)


def test_killed_at_every_step_among_others_who_share_the_flush(
    fork: Fork, board: Board, store: Path, tmp_path: Path
) -> None:
    others = [
        fork(history.write_for_ever, store, writer, tmp_path / f"acks-{writer}", board, writer, 7) for writer in (1, 2)
    ]
    steps = random.Random(11).sample(range(1, 200), 40)
    for writer, step in enumerate(steps, 3):
        seen = board[1], board[2]
        victim = fork(append_until_dead, store, tmp_path / f"acks-{writer}", writer, step)
        assert victim.wait() == -signal.SIGKILL, victim.result()
        until(lambda seen=seen: board[1] > seen[0] and board[2] > seen[1], "the others to go on")
    for other in others:
        other.kill()
    proof = prove(fork, store, tmp_path)
    assert proof.acknowledged > len(steps)
    print(f"faults injected: {len(steps)}, {proof}")
