"""The shared page `run/page`: a few bytes that all processes with the store open map and see at once. Volatile.

Little-endian, written without locks, each field by one store of at most eight bytes:

      at  size  field
      64    28  the pid that last took each lock (4 each, by the lock's number)
      96     8  inode of the index's lock file, which all must share
     128     8  flushes that succeeded, as the index counts them
     136     8  what they took together, in microseconds
     144     8  flush due: when the flush under way should have ended, ns since boot, so that who waits need neither
                try the lock nor look before. It stays when that flush failed or was abandoned: 0 means that the last
                one succeeded
     152    32  flushed: everything before this position is on the disk and visible, be it so in the index yet or not
                (8), and its check value (8); then both once more. Written in turn, so that a kill leaves one whole
    1024   256  armed: byte n is 1 while somebody sleeps until a log whose id is n mod 256 grows
    4096  8192  slots: the incarnation of the process that has slot n, 8 bytes each; 0 when it is free (`slots`)
   12288  8192  when that process was last seen at work, ms since boot
   20480  4096  its pid, 4 bytes each
   24576  8192  group epochs: 8 bytes each, by a hash of the group's name: raised with every change of such a group,
                at least to the number of LMDB's transaction
   32768 384 K  hands: 192 bytes each, what a member of a group has in hand (`slots`)

Made by the opener that is alone, who also empties `run/`; out of what was left there when all processes were killed and
the machine went on: then the last flush may have failed unheard, and what members had confirmed is to be committed.
After a power cut it says nothing.
"""

import contextlib
import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from kafkalite import disk

LOCKS: Final = 7
SLOTS: Final = 1024
GROUPS: Final = 1024
HANDS: Final = 2048
HAND_WORDS: Final = 24
_INCARNATIONS: Final = 4096
_STAMPS: Final = _INCARNATIONS + 8 * SLOTS
_PIDS: Final = _STAMPS + 8 * SLOTS
_EPOCHS: Final = _PIDS + 4 * SLOTS
_HANDS: Final = _EPOCHS + 8 * GROUPS
SIZE: Final = _HANDS + 8 * HAND_WORDS * HANDS
EMPTY: Final = bytes(SIZE)
FILE_NAME: Final = "page"
_HOLDERS: Final = 64
_LOCK_FILE: Final = 96
_FLUSH: Final = 128
_CHECK: Final = 0x9E37_79B9_7F4A_7C15
_COUNT, _TOOK, _DUE, _ENDS = range(4)
LONG_AGO: Final = 1
"""When a flush was due that nobody leads any more."""
_ARMED: Final = 1024
ARMED_MASK: Final = 0xFF


class Flushed(NamedTuple):
    """How far flushes came: everything before `end` is on the disk; how many there were, and what they took."""

    end: int
    count: int  # type: ignore[assignment]  # it is no tuple to count in
    took_us: int


class SharedPage:
    """The map, or private memory of the same size where there can be no map.

    Who has the store alone gives `contents`, whatever there was; who joins others takes the page as it is.
    """

    def __init__(self, directory: Path | None, contents: bytes | None = None) -> None:
        self._map: disk.Map | bytearray = bytearray(SIZE)
        if directory is not None:
            fd = disk.open_file(directory / FILE_NAME, write=True, create=True)
            try:
                if contents is not None or disk.file_size(fd) < SIZE:
                    disk.write(fd, [contents or EMPTY], 0, SIZE)
                self._map = disk.map_shared(fd, SIZE)
            finally:
                disk.close(fd)
        self.armed = memoryview(self._map)[_ARMED : _ARMED + ARMED_MASK + 1]
        """By log id modulo 256: 1 while somebody sleeps, perhaps on that log."""
        self._holders = memoryview(self._map)[_HOLDERS : _HOLDERS + 4 * LOCKS].cast("I")
        self.lock_file = self._words(_LOCK_FILE, 1)
        self._flush = self._words(_FLUSH, 7)
        self.flush_count = self._flush[_COUNT : _COUNT + 1]
        """One number that changes with every flush: a look at it costs next to nothing."""
        self.incarnations = self._words(_INCARNATIONS, SLOTS)
        self.stamps = self._words(_STAMPS, SLOTS)
        self.pids = memoryview(self._map)[_PIDS : _PIDS + 4 * SLOTS].cast("I")
        self.epochs = self._words(_EPOCHS, GROUPS)
        self.hands = self._words(_HANDS, HAND_WORDS * HANDS)

    def _words(self, start: int, count: int) -> memoryview:
        """So many numbers of 8 bytes, each read and written at once."""
        return memoryview(self._map)[start : start + 8 * count].cast("Q")

    def holder_setter(self, lock: int) -> Callable[[], None]:
        """A call that notes this process as the one that took the lock last: made once, called often."""
        return functools.partial(operator.setitem, self._holders, lock, disk.process_id())

    def holder(self, lock: int) -> int:
        """Pid of the process that took the lock last; 0 if none has."""
        return self._holders[lock]

    def set_flush_due(self, due_ns: int) -> None:
        """Note when the flush that begins should have ended."""
        with contextlib.suppress(ValueError):  # closed meanwhile
            self._flush[_DUE] = due_ns

    def set_flushed(self, end: int, took_us: int) -> None:
        """Note that a flush of everything before `end` succeeded; by who holds FLUSH."""
        flush = self._flush
        with contextlib.suppress(ValueError):
            self._set_end(flush[_COUNT], end)
            flush[_TOOK] += took_us
            flush[_COUNT] += 1
            flush[_DUE] = 0

    def _set_end(self, turn: int, end: int) -> None:
        at = _ENDS + (turn & 1) * 2
        self._flush[at] = end
        self._flush[at + 1] = end ^ _CHECK

    def begin_flushed(self, flushed: Flushed) -> None:
        """What the index knows of flushes, for a page that knows less; by who has the store alone."""
        if self.flushed().end < flushed.end:
            self._flush[_COUNT], self._flush[_TOOK] = flushed.count, flushed.took_us
            self._set_end(flushed.count - 1, flushed.end)

    def flushed(self) -> Flushed:
        """How far flushes came, as far as this page knows: nothing once it is closed."""
        try:
            count = self._flush[_COUNT]  # before the end: one that is newer is harmless
            return Flushed(self.flush_state()[0], count, self._flush[_TOOK])
        except ValueError:
            return Flushed(0, 0, 0)

    def flush_state(self) -> tuple[int, int]:
        """Up to where everything is on the disk and visible, as far as this page knows, and the flush's due time."""
        try:
            _, _, due_ns, one, check, other, other_check = self._flush.tolist()
        except ValueError:
            return 0, 0
        return max(one if one ^ check == _CHECK else 0, other if other ^ other_check == _CHECK else 0), due_ns

    def arm(self, log_id: int) -> None:
        """Somebody is about to sleep until this log grows."""
        with contextlib.suppress(ValueError):
            self.armed[log_id & ARMED_MASK] = 1

    def disarm(self, log_id: int) -> bool:
        """Whether somebody sleeps, perhaps on this log: they are to be woken now, and arm again if they sleep again.

        A byte that is clear stays untouched: clearing it would forget who arms between the look and the write, and
        whom nobody is about to wake.
        """
        try:
            if not self.armed[log_id & ARMED_MASK]:
                return False
            self.armed[log_id & ARMED_MASK] = 0
        except ValueError:
            return False
        return True

    def close(self) -> None:
        """Let go of the map."""
        words = (self.lock_file, self.flush_count, self._flush, self.incarnations, self.stamps, self.epochs, self.hands)
        for view in (self._holders, self.armed, self.pids, *words):
            view.release()
        if isinstance(self._map, disk.Map):
            with contextlib.suppress(BufferError):  # a member that was never left still sees it: it goes with that
                self._map.close()


def left_behind(directory: Path) -> bytes:
    """The page as processes that were killed have left it; empty when there is no whole one."""
    try:
        fd = disk.open_file(directory / FILE_NAME, write=False)
    except OSError:
        return b""
    try:
        found = disk.read(fd, SIZE + 1, 0)
    finally:
        disk.close(fd)
    return found if len(found) == SIZE else b""
