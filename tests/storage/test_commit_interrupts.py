"""Append: a leader that is interrupted, or killed, at every step."""

import contextlib
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

import pytest

from kafkalite import disk
from kafkalite.storage import commit
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine

from .kit import LOG, Fault, Killed, append, batch
from .test_commit import FORTY, fill, read


def settled(engine: Engine, operations: Sequence[Operation], names: Sequence[bytes]) -> None:
    """After an interrupt: let the owners of what is queued serve themselves; each record is there once, if done."""
    write = engine.locks.write
    for operation in operations[:-1]:
        with write.threads:
            write.lock(FORTY)
            for _ in range(len(operations) + 1):
                if not operation.is_done:
                    engine.committer._append_some(operation)
            write.unlock()
        assert operation.is_done
        assert operation.error is None
    assert list(engine.committer._queue) == []
    engine.flush()
    found = read(engine, "t")
    done = [name for operation, name in zip(operations, names, strict=True) if operation.is_done]
    assert found == done
    for operation, name in zip(operations, names, strict=True):
        if operation.is_done:
            assert found[operation.offsets[0]] == name


@pytest.mark.parametrize("rolls", [False, True])
def test_a_leader_interrupted_at_every_step_loses_and_doubles_nothing(engine: Engine, rolls: bool) -> None:
    came = 0
    for at in range(1, 40):
        engine.create_topic("t", 1, {})
        log_id = engine.topic("t").log_id(0)
        if rolls:
            fill(engine, 1000)
        names = [b"%d" % number * (1 + 2000 * rolls) for number in range(4)]
        operations = [append(name, log_id=log_id) for name in names]
        engine.committer._queue.extend(operations[:-1])
        with Fault(at, KeyboardInterrupt) as fault:
            try:
                engine.committer.submit(operations[-1], FORTY)
            except KeyboardInterrupt:
                came += 1
        settled(engine, operations, names)
        engine.delete_topic("t")
        if len(fault.steps) < at:
            break
    assert came >= (4 if rolls else 2)


class Interrupt:
    """KeyboardInterrupt at the n-th moment in `commit.py` at which Python looks for signals; 0 only counts.

    Those are the entry of a function and the return from a call: after it has had its effect.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self.moments = 0
        self.where = "nowhere"

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        sys.setprofile(self._moment)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _moment(self, frame: FrameType, event: str, function: Any) -> None:
        if frame.f_code.co_filename == commit.__file__ and event in ("call", "c_return"):
            self.moments += 1
            if self.moments == self._at:
                self.where = f"{frame.f_code.co_name}, line {frame.f_lineno}, {event} {function}"
                raise KeyboardInterrupt


# Fails as long as an interrupt between the index' commit and `_settle` appends a group twice, and one right after
# `_queue.append` leaves an operation in the queue whose owner was told that it was interrupted.
@pytest.mark.parametrize("takes_all", [True, False])
def test_a_leader_interrupted_at_every_moment_loses_and_doubles_nothing(engine: Engine, takes_all: bool) -> None:
    """With a decision in the queue a group takes only a part of it."""
    at = 1
    while True:
        engine.create_topic("t", 1, {})
        log_id = engine.topic("t").log_id(0)
        names = [b"%d" % number for number in range(3)]
        operations = [append(name, log_id=log_id) for name in names]
        if not takes_all:
            operations[1] = _decided(operations[1].appends)
        engine.committer._queue.extend(operations[:-1])
        with Interrupt(at) as interrupt, contextlib.suppress(KeyboardInterrupt):
            engine.committer.submit(operations[-1], FORTY)
        try:
            settled(engine, operations, names)
        except AssertionError as error:
            raise AssertionError(f"interrupted in {interrupt.where}") from error
        engine.delete_topic("t")
        if interrupt.moments < at:
            break
        at += 1
    assert at > 50


def _decided(appends: Sequence[Append]) -> Operation:
    return Operation(decide=lambda _: appends)


@pytest.mark.parametrize("rolls", [False, True])
def test_a_commit_killed_at_every_step_is_there_whole_or_not_at_all(engine: Engine, rolls: bool) -> None:
    """What the killed one leaves is written over by the next; the engine stays, as another process' would."""
    appended: list[bytes] = []
    engine.create_topic("t", 2, {})

    def commit_both(at: int) -> None:
        if rolls:
            fill(engine, 1000)
        name = b"%d" % at * 1000
        operation = Operation([Append(LOG, batch(name)), Append(LOG + 1, batch(name))])
        try:
            with Fault(at, Killed):
                engine.commit(operation)
        finally:
            disk.on_step = None
            engine.flush()
            if operation.is_done:
                appended.append(name)

    for at in range(1, 20):
        try:
            commit_both(at)
        except Killed:
            pass
        else:
            break
    assert at > 3
    assert read(engine, "t", 0) == read(engine, "t", 1) == appended
