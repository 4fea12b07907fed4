"""Faults of one machine's disk, injected in process at a chosen step.

`disk` tells its hooks of each step before it happens. An `Injector` counts those that its `Kind` of fault can meet,
and strikes at the n-th, so that a test goes through all by counting up until nothing is struck any more:

    for at in itertools.count(1):
        with Injector(ENOSPC, at) as fault:
            operate()
        if fault.struck is None:
            break

    crash        the process ends there: `Crash` is raised, and again by each step that its end would still take
    torn         the same in the middle of a write: its first half is on the disk
    error        the system says no: once, or for ever, that is until the block ends
    short        a write takes half of what it is given; the rest may be taken then, or refused as well

An index commit is LMDB's business, so there an error is LMDB's, and the transaction is gone as it is then. A flush that
fails does what the kernel does: what was not on the disk yet counts as dropped, though it can still be read, until it
is written again (`Dirt`).
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import lmdb

from kafkalite import disk

Buffers = Sequence[bytes | memoryview]

WRITES: Final = frozenset({"write", "write on", "zeros"})
INDEX_COMMIT: Final = "index commit"
NOT_THE_DISKS: Final = frozenset({"flushed"})
"""Steps at which a process may die, and at which there is nothing that could fail."""
OPENS: Final = frozenset({"open", "create", "flush directory"})
"""Steps that need a descriptor."""


class Crash(BaseException):
    """Raised where a process would be killed: nothing is meant to catch it."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its name, the steps that it can meet, and what happens there."""

    name: str
    meets: Callable[[str], bool]
    code: int = 0
    """The system's error; 0 for a crash, or for a short write that is merely short."""
    is_crash: bool = False
    is_lasting: bool = False
    is_short: bool = False
    """A write takes half first."""
    looks: bool = False
    """Steps that change nothing are met as well."""


def crash() -> Kind:
    """The process ends before a step."""
    return Kind("crash", bool, is_crash=True)


def torn() -> Kind:
    """The process ends in the middle of a write."""
    return Kind("torn write, crash", WRITES.__contains__, is_crash=True, is_short=True)


def failing(code: int, *, lasting: bool, looks: bool = False) -> Kind:
    """The system refuses a step that changes something; with `looks` also one that only looks."""
    return Kind(_name(errno.errorcode[code], lasting), _is_the_disks, code, is_lasting=lasting, looks=looks)


def no_descriptor(*, lasting: bool) -> Kind:
    """The process has as many files open as it may."""
    return Kind(_name("EMFILE", lasting), _opens, errno.EMFILE, is_lasting=lasting, looks=True)


def short(*, lasting: bool) -> Kind:
    """A write takes half of what it is given, and the rest when it is asked again."""
    return Kind(_name("short write", lasting), WRITES.__contains__, is_lasting=lasting, is_short=True)


def short_then(code: int, *, lasting: bool) -> Kind:
    """A write takes half, as on a disk that fills, and is then refused."""
    name = _name(f"short write, {errno.errorcode[code]}", lasting)
    return Kind(name, WRITES.__contains__, code, is_lasting=lasting, is_short=True)


def failing_flush(code: int, *, lasting: bool) -> Kind:
    """Only flushes fail."""
    name = _name(f"flush {errno.errorcode[code]}", lasting)
    return Kind(name, frozenset({"flush"}).__contains__, code, is_lasting=lasting)


def _name(name: str, lasting: bool) -> str:
    return f"{name}, for ever" if lasting else f"{name}, once"


def _is_the_disks(name: str) -> bool:
    return name not in NOT_THE_DISKS


def _opens(name: str) -> bool:
    return name in OPENS or name.partition(" ")[0] in OPENS


@dataclass
class _File:
    """What a file's bytes are worth, as ranges: written and not flushed; dropped by a flush that failed."""

    dirty: list[tuple[int, int]] = field(default_factory=list)
    dropped: list[tuple[int, int]] = field(default_factory=list)


class Dirt:
    """Which bytes of which file (by device and inode) are not on the disk: not flushed yet, or dropped by a flush."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], _File] = {}

    def written(self, fd: int, start: int, size: int) -> None:
        """Bytes were written: dropped ones are dropped no more."""
        known = self._files.setdefault(disk.identity(fd), _File())
        known.dirty.append((start, start + size))
        known.dropped = without(known.dropped, start, start + size)

    def flushed(self, fd: int) -> None:
        """A flush succeeded."""
        self._files.setdefault(disk.identity(fd), _File()).dirty.clear()

    def failed(self, fd: int) -> None:
        """A flush failed: what it was to write is dropped, and the next flush will not know of it."""
        known = self._files.setdefault(disk.identity(fd), _File())
        known.dropped += known.dirty
        known.dirty.clear()

    def unsafe(self, identity: tuple[int, int], start: int, end: int) -> list[tuple[int, int]]:
        """The ranges within [start, end) of a file that no good flush has covered since they were written."""
        known = self._files.get(identity, _File())
        ranges = known.dirty + known.dropped
        return [(max(low, start), min(high, end)) for low, high in ranges if low < end and high > start]


def without(ranges: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The ranges less [start, end)."""
    left: list[tuple[int, int]] = []
    for low, high in ranges:
        if low < min(high, start):
            left.append((low, min(high, start)))
        if max(low, end) < high:
            left.append((max(low, end), high))
    return left


class Injector:
    """While it lasts, the `at`-th step (from 1) that the kind can meet is struck; with `at` 0 none is.

    `struck` is the first struck step's name, `steps` are all that the process took. Any thread's steps count.
    Nothing else may use the hooks of `disk` meanwhile.
    """

    def __init__(self, kind: Kind, at: int, dirt: Dirt | None = None) -> None:
        self.kind = kind
        self.struck: str | None = None
        self.steps: list[str] = []
        self._at = at
        self._dirt = dirt or Dirt()
        self._met = 0
        self._is_dead = False
        self._cuts = self._was_cut = False
        self._refuses_rest = False

    def __enter__(self) -> Self:
        assert disk.on_step is None
        assert disk.on_look is None
        disk.on_step, disk.on_look = self._step, self._look
        self._kept = disk._pwritev, disk.flush  # noqa: SLF001  (the one way in which a write can be cut short)
        disk._pwritev, disk.flush = self._pwritev, self._flush  # noqa: SLF001  (as above)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        disk.on_step = disk.on_look = None
        disk._pwritev, disk.flush = self._kept  # noqa: SLF001  (as above)

    def _step(self, name: str) -> None:
        self._meet(name, looks=False)

    def _look(self, name: str) -> None:
        self._meet(name, looks=True)

    def _meet(self, name: str, *, looks: bool) -> None:
        if self._is_dead:
            raise Crash(name)
        self.steps.append(name)
        if self._refuses_rest:
            self._refuses_rest = False
            raise self._error(name)
        if (looks and not self.kind.looks) or not self.kind.meets(name):
            return
        self._met += 1
        if self._at and (self._met == self._at or (self.kind.is_lasting and self._met > self._at)):
            self.struck = self.struck or name
            self._strike(name)

    def _strike(self, name: str) -> None:
        kind = self.kind
        if kind.is_short:
            self._cuts = not self._was_cut  # the rest of one is let through, or a large one would never end
        elif kind.is_crash:
            self._is_dead = True
            raise Crash(name)
        else:
            raise self._error(name)

    def _error(self, name: str) -> Exception:
        text = os.strerror(self.kind.code)
        if name == INDEX_COMMIT:
            return (lmdb.DiskError if self.kind.code == errno.ENOSPC else lmdb.Error)(f"mdb_txn_commit: {text}")
        return OSError(self.kind.code, text)

    def _pwritev(self, fd: int, buffers: Buffers, position: int) -> int:
        cuts, self._cuts = self._cuts, False
        self._was_cut = cuts
        if cuts:
            data = b"".join(buffers)
            buffers = [data[: max(1, len(data) // 2)]]
        written = self._kept[0](fd, buffers, position)
        self._dirt.written(fd, position, written)
        if cuts and self.kind.is_crash:
            self._is_dead = True
            raise Crash("write")
        self._refuses_rest = cuts and bool(self.kind.code)
        return written

    def _flush(self, fd: int) -> None:
        try:
            self._kept[1](fd)
        except OSError:
            self._dirt.failed(fd)
            raise
        self._dirt.flushed(fd)
