"""Canaries: the code is broken on purpose, and the class of faults that is there to notice does notice.

Each breakage is one that a careless change could make. It runs through the very sweep that the class runs, its figures
kept apart from the run's; a sweep that passes over a broken store would be worth nothing.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kafkalite import disk
from kafkalite.clock import Deadline
from kafkalite.errors import KafkaliteError
from kafkalite.storage import commit, flush, frame
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.flush import Flusher
from kafkalite.storage.frame import Frame
from kafkalite.storage.journal import Journal
from kafkalite.storage.page import SharedPage
from kafkalite.testing.faults import crash, failing, failing_flush, short

from . import test_errors, test_recovery_faults, test_steps
from .ledger import LEDGER
from .operations import WORKS
from .test_recovery_faults import DAMAGES
from .world import Tasks, World

EIO = 5
Break = Callable[[pytest.MonkeyPatch], None]


def flush_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that a flush was made."""
    monkeypatch.setattr(Journal, "flush", lambda self, start, end: None)


def believe_a_failed_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed flush, only flush again."""
    monkeypatch.setattr(Journal, "write_again", lambda self, start, end: None)


def overhear_a_failed_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as if it had not failed."""
    sound = Journal.flush

    def deaf(self: Journal, start: int, end: int) -> None:
        try:
            sound(self, start, end)
        except OSError:
            return

    monkeypatch.setattr(Journal, "flush", deaf)


def publish_before_the_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show to readers what a flush is only about to cover."""
    sound = Flusher._flush

    def shown(self: Flusher, start: int, end: int, deadline: Deadline, *, again: bool) -> None:
        self._change(deadline, lambda now: now._replace(published=end))
        sound(self, start, end, deadline, again=again)

    monkeypatch.setattr(Flusher, "_flush", shown)


def forget_that_a_flush_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note neither that one begins nor that it failed."""
    monkeypatch.setattr(SharedPage, "set_flush_due", lambda self, due_ns: None)
    monkeypatch.setattr(flush, "_failed", lambda now, how: now)


def believe_a_short_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the rest."""
    monkeypatch.setattr(disk, "_write_rest", lambda fd, buffers, position, written: None)


def forget_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Append a batch again that was appended before."""
    monkeypatch.setattr(commit, "known_batch", lambda state, batch: None)


def commit_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a commit of each batch of a commit."""
    sound = Engine.append

    def apart(self: Engine, appends: Sequence[Append], timeout: float | None = 60) -> Operation:
        done = [sound(self, [append], timeout) for append in appends]
        done[-1].offsets = [offset for operation in done for offset in operation.offsets]
        return done[-1]

    monkeypatch.setattr(Engine, "append", apart)


def acknowledge_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer, and let the keeper append."""
    sound = Engine.commit
    numbers = itertools.count()

    def later(self: Engine, operation: Operation, timeout: float | None = 60, *, waits: bool = True) -> Operation:
        from kafkalite.storage import keeper

        if operation.decide is not None:
            return sound(self, operation, timeout, waits=waits)
        operation.offsets = [next(numbers)] * len(operation.appends)
        keeper.after(0, lambda: sound(self, Operation(operation.appends), timeout, waits=waits) and None)
        return operation

    monkeypatch.setattr(Engine, "commit", later)


def end_no_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roll without an END frame."""
    sound = frame.encode_end

    def nothing(durable: int, previous: int, position: int) -> tuple[bytes, int]:
        end, chain = sound(durable, previous, position)
        return bytes(len(end)), chain

    monkeypatch.setattr(frame, "encode_end", nothing)


def follow_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every frame that passes its check, whatever went before it."""

    def unchained(self: Journal, start: int, previous: int, end: int | None = None) -> Any:
        at = start
        for found in self.search(start):
            if found.position != at:
                return
            yield found
            at = found.end
            if found.kind == frame.END:
                return

    monkeypatch.setattr(Journal, "frames", unchained)


def accept_half_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take frames whose COMMIT frame is missing."""
    monkeypatch.setattr(Frame, "is_commit", True)


BY_CRASHES = [
    (commit_one_by_one, "append over partitions", "commit", crash()),
    (acknowledge_first, "append", "commit", crash()),
]

BY_ERRORS = [
    (flush_nothing, "append", "commit", failing(EIO, lasting=False)),
    (believe_a_failed_flush, "append", "commit", failing_flush(EIO, lasting=False)),
    (believe_a_failed_flush, "flush", "none", failing_flush(EIO, lasting=True)),
    (overhear_a_failed_flush, "append", "commit", failing_flush(EIO, lasting=False)),
    (forget_that_a_flush_began, "append", "commit", failing_flush(EIO, lasting=False)),
    (publish_before_the_flush, "append", "commit", failing_flush(EIO, lasting=True)),
    (believe_a_short_write, "append", "commit", short(lasting=False)),
    (forget_sequences, "send", "commit", failing_flush(EIO, lasting=False)),
]

BY_RECOVERY = [
    (end_no_segment, "roll"),
    (follow_no_chain, "stale frames"),
    (accept_half_a_commit, "torn commit"),
]


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None) or getattr(value, "name", None)


def noticed(sweep: Callable[[], object]) -> str:
    """What a sweep over a broken store says; it must not be silent."""
    with LEDGER.apart(), pytest.raises((AssertionError, KafkaliteError, OSError)) as found:
        sweep()
    return str(found.value)


@pytest.mark.parametrize(("breakage", "work", "durability", "kind"), BY_CRASHES, ids=name_of)
def test_a_crash_shows_it(
    breakage: Break, work: str, durability: str, kind: Any, scratch: Path, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(scratch, "directory", durability, tasks)
    (chosen,) = [one for one in WORKS if one.name == work]
    with monkeypatch.context() as broken:
        breakage(broken)
        said = noticed(lambda: (world.open(), test_steps.sweep(world, chosen, kind, work)))
    assert "Injector" not in said
    world.crash()


@pytest.mark.parametrize(("breakage", "work", "durability", "kind"), BY_ERRORS, ids=name_of)
def test_an_error_shows_it(
    breakage: Break, work: str, durability: str, kind: Any, scratch: Path, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(scratch, "directory", durability, tasks)
    (chosen,) = [one for one in WORKS if one.name == work]
    world.open()
    with monkeypatch.context() as broken:
        breakage(broken)
        noticed(lambda: test_errors.sweep(world, chosen, kind, work))
    world.crash()


@pytest.mark.parametrize(("breakage", "damage"), BY_RECOVERY, ids=name_of)
def test_a_recovery_shows_it(
    breakage: Break, damage: str, scratch: Path, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(scratch, "directory", "commit", tasks)
    world.open()
    with monkeypatch.context() as broken:
        breakage(broken)
        noticed(lambda: test_recovery_faults.sweep(world, DAMAGES[damage], (crash(), crash()), damage, broken))
    world.crash()
