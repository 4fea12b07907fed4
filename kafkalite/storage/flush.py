"""Publish: one flush for all who wait, in whatever process or thread, outside the write lock.

Two positions in the index only ever rise: `durable`, moved here, and `published`, what readers see; in a store of
durability `commit` they move together. Who wants its append published loops until `durable` has passed it:

    who gets FLUSH leads   note the tail and set `flushing` (one transaction), flush every segment from `durable` to
                           it, raise `durable` and `published` and clear `flushing` (one transaction), let go
    who does not           sleeps until that flush should be over, at most 10 ms, and looks again

A flush that failed is never believed again: the kernel may have dropped the pages and reported it once. `flushing` is
marked failed, appends are refused, and the next leader that finds it set, failed or abandoned by a leader that died,
verifies the frames of [durable, tail) one by one, writes the same bytes again, flushes, and only then clears it. When
they no longer verify the store is marked failed for good, in the superblock too.
"""

from collections.abc import Callable
from typing import Final

import lmdb

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.errors import (
    ClosedError,
    CorruptRecordError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreFailedError,
    StoreFullError,
)
from kafkalite.storage import index
from kafkalite.storage.commit import FAILED_FOR_GOOD, flush_failed
from kafkalite.storage.index import Index, Positions
from kafkalite.storage.journal import Journal
from kafkalite.storage.locks import Locks, is_free_within
from kafkalite.storage.page import SharedPage

LONGEST_PAUSE: Final = 0.010
SHORTEST_PAUSE: Final = 50e-6
GRACE_AFTER_INTERRUPT: Final = 1.0
NOT_FAILED, FAILED = 0, 1
LONGEST_TRUST_NS: Final = 1_000_000_000


class Flusher:
    """Flushes for one store in one process; `mark_failed` records in the superblock that it is beyond mending."""

    def __init__(
        self, environment: Index, journal: Journal, locks: Locks, page: SharedPage, mark_failed: Callable[[], None]
    ) -> None:
        self._index = environment
        self._journal = journal
        self._locks = locks
        self._write = locks.write
        self._page = page
        self._mark_failed = mark_failed
        self._last = 200e-6

    def wait(self, end: int, deadline: Deadline) -> None:
        """Return when everything before position `end` is on the disk and published.

        An interrupt (Ctrl-C) is raised only when that is known, or with `OutcomeUnknownError` as its context after a
        second. Raises `StoreFailedError` when a flush failed, `OutcomeUnknownError` when the deadline passes.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                pause = self._advance(end, deadline)
                if pause is None:
                    break
                left = deadline.left()
                if not left:
                    raise OutcomeUnknownError(
                        "the commit was appended, and not yet flushed when the time allowed ran out: a power cut may "
                        f"lose it; {self._locks.flush.busy()}"
                    )
                clock.sleep(min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE, left))
            except StoreFullError as error:
                raise OutcomeUnknownError(
                    f"the commit was appended, and could not be published: {error}. It will be, with the next one that "
                    "can; read back before you append it again"
                ) from error
            except (OutcomeUnknownError, StoreBusyError) as error:
                if interrupt is not None:
                    raise interrupt from error
                raise
            except (KeyboardInterrupt, SystemExit) as error:
                if interrupt is not None:
                    raise
                interrupt = error
                deadline = Deadline(min(deadline.left(), GRACE_AFTER_INTERRUPT))
        if interrupt is not None:
            raise interrupt

    def _advance(self, end: int, deadline: Deadline) -> float | None:
        """None when `end` is durable, after leading a flush if nobody else does; or seconds until the next look.

        The page is believed that somebody leads until his flush is due: who was killed says so too.
        """
        published, due_ns = self._page.flush_state()
        if published >= end and self._is_published(end):
            return None
        if due_ns:
            ahead = due_ns - clock.boot_ns()
            if 0 < ahead < LONGEST_TRUST_NS:
                return ahead * 1e-9
        flush = self._locks.flush
        longest = min(self._last, LONGEST_PAUSE, deadline.left())
        if flush.threads.locked() and not is_free_within(flush.threads, longest):
            return longest / 2
        with flush.threads:
            if flush.is_closed:
                return None if self._is_published(end) else self._last
            try:
                if not flush.try_lock():
                    return self._last / 2
                self._lead(end, deadline)
            finally:
                flush.unlock()
        return None

    def _is_published(self, end: int) -> bool:
        """Whether everything before `end` is durable and visible; raises when it never will be."""
        positions = self._index.last_positions()
        if positions is None:
            positions = self._index.positions()
        elif positions.durable < end:
            raise ClosedError(
                "the store was closed while the commit waited for its flush: it may be lost in a power cut"
            )
        return _is_durable(positions, end)

    def _lead(self, end: int, deadline: Deadline) -> None:
        """One flush, holding FLUSH, unless `end` was durable by then."""
        started = clock.monotonic()
        self._page.set_flush_due(clock.boot_ns() + int(self._last * 1e9))
        try:
            noted = self._change(deadline, _noted, end)
            if _is_durable(noted, end):
                return
            self._flush(noted, deadline)
            flushed = clock.monotonic() - started
            self._change(deadline, _published, noted.tail, int(flushed * 1e6))
            self._page.set_flushed(noted.tail)
        finally:
            self._page.set_flush_due(0)
        self._last = 0.8 * self._last + 0.2 * (clock.monotonic() - started)

    def _flush(self, noted: Positions, deadline: Deadline) -> None:
        """Bring what is not durable to the disk, up to the tail that was noted; a failure is noted as well."""
        try:
            if noted.flushing:
                self._journal.write_again(noted.durable, noted.tail)
            self._journal.flush(noted.durable, noted.tail)
        except OSError as error:
            self._change(deadline, _failed, FAILED)
            raise StoreFailedError(
                f"the disk could not be flushed ({error}): what was appended since the last good flush may be lost; "
                "mend the disk and try again, the store then mends itself"
            ) from error
        except CorruptRecordError as error:
            self._change(deadline, _failed, FAILED_FOR_GOOD)
            self._mark_failed()
            raise flush_failed(self._index.positions()) from error
        disk.step("flushed")

    def _change(self, deadline: Deadline, change: Callable[..., tuple[int, ...]], *by: int) -> Positions:
        """Change the positions, in one transaction under WRITE; returns them as they were before."""
        write, timeout = self._write, deadline.timeout()
        if write.threads.locked() and not is_free_within(write.threads, timeout):
            raise StoreBusyError("another thread of this process is appending: allow more time")
        with write.threads:
            write.refuse_closed()
            try:
                write.lock(timeout)
                # To write; committed at the block's end, aborted by what leaves it.
                with self._index.begin(None, None, True) as transaction:
                    before = index.read_positions(transaction)
                    after = change(before, *by)
                    if after is not before:
                        index.write_positions(transaction, after)
                        disk.step("index commit")
            except lmdb.Error as error:
                raise self._index.translated(error) from error
            finally:
                write.unlock()
        return before


def _is_durable(positions: Positions, end: int) -> bool:
    """Whether everything before `end` is durable and visible; raises when it never will be."""
    if positions.flush_failed == FAILED_FOR_GOOD:
        raise flush_failed(positions)
    return positions.durable >= end and positions.published >= end


def _noted(now: Positions, end: int) -> tuple[int, ...]:
    """A flush up to the tail begins, unless `end` is durable."""
    return now if _is_durable(now, end) else (*now[:4], now.tail, *now[5:])


def _failed(now: Positions, how: int) -> tuple[int, ...]:
    return now._replace(flush_failed=how)


def _published(now: Positions, end: int, took_us: int) -> tuple[int, ...]:
    """A flush up to `end` succeeded."""
    tail, chain, durable, published, _, _, *rest, flushes, flush_us = now
    return (
        tail, chain, max(durable, end), max(published, end), 0, NOT_FAILED, *rest, flushes + 1, flush_us + took_us,
    )  # fmt: skip
