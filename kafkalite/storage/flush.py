"""Publish: one flush for all who wait, in whatever process or thread, outside the write lock.

Two positions only ever rise: `durable`, moved here, and `published`, what readers see; in a store of durability
`commit` they move together. Who wants its append published loops until `durable` has passed it:

    who gets FLUSH leads   notes in the shared page when he should be done, flushes every segment from `durable` to the
                           tail, notes in the page how far he came, which publishes it, clears the first note, lets go
    who does not           sleeps until that flush should be over, at most 10 ms, and looks at the page again

So a durable commit is one transaction. The index has `durable` and `published` as of the last append, which took in
what the page said by then; who reads adds what it says now (`Index.seen`). The page stays when all processes are
killed; the last to close brings the index up to it; after a power cut neither is believed.

A flush that failed is never believed again: the kernel may have dropped the pages and reported it once. That it failed
stands in the index, and appends are refused. The next leader that finds the note of one that failed, or was abandoned
by a leader who died, verifies the frames of [durable, tail) one by one, writes the same bytes again, flushes, and only
then clears it. When they no longer verify the store is marked failed for good, in the superblock too.
"""

from collections.abc import Callable
from typing import Any, Final

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
FIRST_GUESS_NS: Final = 200_000
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
        self._last_ns = FIRST_GUESS_NS

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
                if isinstance(error, OutcomeUnknownError):
                    raise
                raise OutcomeUnknownError(
                    f"the commit was appended, and could not be published in the time allowed: {error}"
                ) from error
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
        flushed, due_ns = self._page.flush_state()
        if flushed >= end:
            return None
        if due_ns:
            ahead = due_ns - clock.boot_ns()
            if 0 < ahead < LONGEST_TRUST_NS:
                return ahead * 1e-9
        flush, a_while = self._locks.flush, self._last_ns * 0.5e-9
        if flush.threads.locked() and not is_free_within(flush.threads, min(a_while, deadline.left())):
            return a_while
        with flush.threads:
            if flush.is_closed:
                return None if self._is_published(end) else a_while
            try:
                if not flush.try_lock():
                    return a_while
                self._lead(end, deadline)
            finally:
                flush.unlock()
        return None

    def _is_published(self, end: int) -> bool:
        """Whether everything before `end` is durable and visible; raises when it never will be."""
        try:
            return _is_durable(self._index.positions(), end)
        except ClosedError as error:
            last = self._index.last_positions()
            if last is not None and _is_durable(last, end):
                return True
            raise ClosedError(
                "the store was closed while the commit waited for its flush: it may be lost in a power cut"
            ) from error

    def _lead(self, end: int, deadline: Deadline) -> None:
        """One flush, holding FLUSH, unless `end` was durable by then."""
        now = self._index.positions()
        if _is_durable(now, end):
            return
        started = clock.boot_ns()
        is_suspect = now.flush_failed or self._page.flush_state()[1]  # read before it is overwritten
        self._page.set_flush_due(started + self._last_ns)
        self._flush(now.durable, now.tail, deadline, again=bool(is_suspect))
        if now.flush_failed:
            self._change(deadline, _mended)
        took_ns = clock.boot_ns() - started
        self._page.set_flushed(now.tail, took_ns // 1000)
        disk.step("published")
        self._last_ns += (took_ns - self._last_ns) // 5

    def settle(self, deadline: Deadline) -> None:
        """Have in the index how far flushes came: for when the page is gone, and nobody appends any more."""
        with self._index.snapshot() as transaction:
            has_all = index.read_positions(transaction).flushes == self._page.flush_count[0]
        if not has_all:
            self._change(deadline, Positions.after, self._page.flushed())

    def _flush(self, start: int, end: int, deadline: Deadline, *, again: bool) -> None:
        """Bring [start, end) to the disk, written `again` if need be; a failure is noted."""
        try:
            if again:
                self._journal.write_again(start, end)
            self._journal.flush(start, end)
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

    def _change(self, deadline: Deadline, change: Callable[..., Positions], *by: Any) -> None:
        """Change the positions, in one transaction under WRITE."""
        write, timeout = self._write, deadline.timeout()
        if write.threads.locked() and not is_free_within(write.threads, timeout):
            raise StoreBusyError("another thread of this process is appending: allow more time")
        with write.threads:
            write.refuse_closed()
            try:
                write.lock(timeout)
                # To write; committed at the block's end, aborted by what leaves it.
                with self._index.begin(None, None, True) as transaction:
                    index.write_positions(transaction, change(index.read_positions(transaction), *by))
                    disk.step("index commit")
            except lmdb.Error as error:
                raise self._index.translated(error) from error
            finally:
                write.unlock()


def _is_durable(positions: Positions, end: int) -> bool:
    """Whether everything before `end` is durable and visible; raises when it never will be."""
    if positions.flush_failed == FAILED_FOR_GOOD:
        raise flush_failed(positions)
    return positions.durable >= end and positions.published >= end


def _failed(now: Positions, how: int) -> Positions:
    return now._replace(flush_failed=how)


def _mended(now: Positions) -> Positions:
    return now._replace(flush_failed=NOT_FAILED)
