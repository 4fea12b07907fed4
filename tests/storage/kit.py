"""Verbs for tests of the engine: leave a store as a crash does, cut, flip and copy its bytes, fail at a chosen step.

abandon      let a store go as a killed process does: nothing flushed, nothing sealed
reboot       from now on the machine says that it was started anew
copy         the journal alone to another place: superblock and segments, no index
flip, where  one bit of a file; where a position of the journal lies
Fault        an exception at the n-th step that this thread takes on the disk
"""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.records import native
from kafkalite.records.envelope import SealedBatch
from kafkalite.storage import engine as engine_module
from kafkalite.storage import segment, superblock
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.frame import Frame
from kafkalite.storage.journal import Journal
from kafkalite.storage.place import resolve

LOG = 16
"""The first log that users get."""


class Killed(BaseException):
    """What a test raises where a process would be killed: nothing is meant to catch it."""


class Fault:
    """While it lasts, the n-th step (from 1) that this thread takes on the disk raises `error`; 0 only counts."""

    def __init__(self, at: int, error: Callable[[], BaseException] = Killed) -> None:
        self._at = at
        self._error = error
        self._thread = threading.get_ident()
        self.steps: list[str] = []

    def __enter__(self) -> Self:
        disk.on_step = self._step
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        disk.on_step = None

    def _step(self, name: str) -> None:
        if threading.get_ident() == self._thread:
            self.steps.append(name)
            if len(self.steps) == self._at:
                raise self._error()


def abandon(store: kafkalite.Store) -> None:
    """Let a store go as a killed process does; the file descriptors and locks are given back."""
    abandon_engine(store._engine)
    store._closed = True


def abandon_engine(engine: Engine) -> None:
    """The same for an engine, whoever uses it."""
    engine.is_open = engine._is_ready = False
    with engine_module._registry:
        for key in [key for key, known in engine_module._engines.items() if known is engine]:
            del engine_module._engines[key]
    engine.wakeup.close()
    opened = engine._opened
    with engine._quiet():  # a killed process prepares no segment any more
        opened.locks.close()
        opened.environment.close()
        opened.journal.close()
    opened.page.close()
    opened.locks.open.release()
    disk.close(opened.fd)


def abandon_at(path: Path) -> None:
    """Abandon the engine that a failed `connect` may have left at a path."""
    identity = disk.path_identity(resolve(path).file)
    engine = engine_module._engines.get(identity) if identity else None
    if engine is not None:
        abandon_engine(engine)


def reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another boot id from now on."""
    boot_id = os.urandom(16)
    monkeypatch.setattr(disk, "boot_id", lambda: boot_id)


def copy(path: Path, target: Path) -> Path:
    """The journal of the store at `path`, without its index, at `target`; as it is now, open or not."""
    if path.is_dir():
        target.mkdir(parents=True)
        for file in [path / "superblock", *path.glob("*.segment")]:
            shutil.copy(file, target / file.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return target


def copied(path: Path, tmp_path: Path, name: str) -> Path:
    """`copy` under another name in the same layout."""
    return copy(path, tmp_path / (name if path.is_dir() else f"{name}.klite"))


def journal_of(path: Path) -> Journal:
    """The journal of the store at a path, to be closed by the caller."""
    place = resolve(path)
    fd = disk.open_file(place.file, write=False)
    try:
        found = superblock.read(fd, str(path))
    finally:
        disk.close(fd)
    assert found is not None
    return Journal(place.segments(found.store_id), found.store_id)


def extents_of(path: Path) -> list[segment.Extent]:
    """Where the segments of the store at a path are, those without a valid header left out."""
    return [extent for extent in journal_of(path).segments.extents() if extent.header]


def frames_of(path: Path, log_id: int | None = None) -> list[Frame]:
    """Every frame that verifies in any segment, in the order of positions."""
    journal = journal_of(path)
    try:
        return [
            found
            for extent in journal.segments.extents()
            if extent.header
            for found in journal.search(extent.header.start)
            if log_id is None or (found.log_id == log_id and found.length)
        ]
    finally:
        journal.close()


def where(path: Path, position: int) -> tuple[Path, int]:
    """The file that holds a position of the journal, and the byte in it."""
    number, byte = segment.number_of(position), segment.byte_of(position)
    if path.is_dir():
        return path / f"{number:020d}.segment", byte
    (extent,) = [extent for extent in extents_of(path) if extent.number == number]
    return path, extent.start + byte


def patch(path: Path, position: int, data: bytes) -> None:
    """Write over the journal's bytes at a position."""
    file, byte = where(path, position)
    with file.open("r+b") as stream:
        stream.seek(byte)
        stream.write(data)


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Turn one bit of the journal's byte at a position."""
    file, byte = where(path, position)
    with file.open("r+b") as stream:
        stream.seek(byte)
        old = stream.read(1)[0]
        stream.seek(byte)
        stream.write(bytes([old ^ 1 << bit]))


def state_of(path: Path) -> superblock.Superblock:
    """What the superblock of a store says."""
    fd = disk.open_file(resolve(path).file, write=False)
    try:
        found = superblock.read(fd, str(path))
    finally:
        disk.close(fd)
    assert found is not None
    return found


def values(store: kafkalite.Store, name: str = "t") -> list[bytes | None]:
    """The values of a topic, partition after partition."""
    topic = store.topic(name, create=False)
    return [record.value for number in range(topic.partition_count) for record in topic.read(number)]


def batch(*data: bytes, **fields: Any) -> SealedBatch:
    """A batch of these values."""
    return native.encode(list(data), **{"base_timestamp": 1_000} | fields)


def sized(size: int) -> SealedBatch:
    """A batch of one record that takes `size` bytes, envelope included; more than 64 KiB of it."""
    base = batch(bytes(70_000)).size - 70_000
    found = batch(bytes(size - base))
    assert found.size == size
    return found


def append(*data: bytes, log_id: int = LOG, **fields: Any) -> Operation:
    """An operation of one batch, unconditional."""
    return Operation([Append(log_id, batch(*data, **fields))])


def hexdump(data: bytes) -> str:
    """Bytes as text, 16 a line, runs of zero lines left out."""
    lines = []
    for at in range(0, len(data), 16):
        line = data[at : at + 16]
        if line.strip(b"\0") or at + 16 >= len(data):
            lines.append(f"{at:04x}  {line.hex(' ')}")
        elif not lines or lines[-1] != "*":
            lines.append("*")
    return "\n".join(lines) + "\n"
