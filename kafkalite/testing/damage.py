"""Damage to files, on purpose: what a disk, a copy or a stray program does to bytes that were right.

    flip(file, at, bit)                          one bit of a byte turns
    cut(file, size)                              the file ends after `size` bytes
    tear(file, at, size, sector)                 of a write of `size` bytes only every other sector arrived
    zero_block(file, at, size)                   a block reads as zeros: its write was lost, or it was trimmed
    duplicate_block(file, source, target, size)  a block lies in a second place too
    misdirect_block(file, meant, hit, size)      a write went astray: where it was meant the old bytes (zeros) are, and
                                                 what it hit is gone

Every verb changes the file in place, so that its inode stays and whoever has it mapped sees the damage at once, and
gives back what undoes it: `Damage.undo()`, or the end of a `with` block. Sizes and places are in bytes from the start
of the file; `SECTOR` and `PAGE` are the units in which disks and systems write.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SECTOR: Final = 512
PAGE: Final = 4096


class Damage:
    """Bytes of a file that were replaced, and its size before: enough to undo it."""

    def __init__(self, file: Path, replaced: Sequence[tuple[int, bytes]], size: int) -> None:
        self.file = file
        self._replaced = replaced
        self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()

    def undo(self) -> None:
        """Put back what was there."""
        fd = os.open(self.file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for at, data in reversed(self._replaced):
                os.pwrite(fd, data, at)
            os.ftruncate(fd, self._size)
        finally:
            os.close(fd)


def flip(file: Path, at: int, bit: int = 0) -> Damage:
    """Turn one bit, 0 to 7, of the byte at `at`."""
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        old = os.pread(fd, 1, at)
        assert old, f"{file} has no byte {at}"
        os.pwrite(fd, bytes([old[0] ^ 1 << bit]), at)
        return Damage(file, [(at, old)], os.lseek(fd, 0, os.SEEK_END))
    finally:
        os.close(fd)


def cut(file: Path, size: int) -> Damage:
    """Let the file end after `size` bytes, fewer than it has."""
    whole = file.read_bytes()
    assert size < len(whole), f"{file} has {len(whole)} bytes: {size} is no cut"
    os.truncate(file, size)
    return Damage(file, [(size, whole[size:])], len(whole))


def tear(file: Path, at: int, size: int, sector: int = SECTOR) -> Damage:
    """Zero every other `sector` of [at, at + size), the first one stays: a write of which a part arrived."""
    return _over(
        file, [(place, bytes(min(sector, at + size - place))) for place in range(at + sector, at + size, 2 * sector)]
    )


def zero_block(file: Path, at: int, size: int = SECTOR) -> Damage:
    """Let [at, at + size) read as zeros."""
    return _over(file, [(at, bytes(size))])


def duplicate_block(file: Path, source: int, target: int, size: int = SECTOR) -> Damage:
    """Write the bytes of [source, source + size) over those at `target` too."""
    return _over(file, [(target, file.read_bytes()[source : source + size])])


def misdirect_block(file: Path, meant: int, hit: int, size: int = SECTOR) -> Damage:
    """Move the bytes of [meant, meant + size) to `hit`: zeros are left where they were meant to be."""
    block = file.read_bytes()[meant : meant + size]
    return _over(file, [(meant, bytes(len(block))), (hit, block)])


def overwrite(file: Path, at: int, data: bytes) -> Damage:
    """Write any bytes over those at `at`."""
    return _over(file, [(at, data)])


def _over(file: Path, pieces: Sequence[tuple[int, bytes]]) -> Damage:
    """Write pieces within the file; what they replace is what undoes it."""
    replaced = []
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        for at, data in pieces:
            assert at + len(data) <= size, f"{file} has {size} bytes, not {at + len(data)}"
            replaced.append((at, os.pread(fd, len(data), at)))
            os.pwrite(fd, data, at)
        return Damage(file, replaced, size)
    finally:
        os.close(fd)
