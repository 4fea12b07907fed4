"""Append: the one way in which anything gets into a store.

An `Operation` is one atomic commit: batches for any number of logs. Threads queue their operations; whoever gets
WRITE appends all that are queued, in one LMDB transaction (LevelDB's writer queue). In order:

1. read where the journal stands; 2. for each operation in turn check preconditions and sequences, assign offsets,
build its frames: one that fails leaves no trace in its neighbours; 3. one `pwritev`; 4. index rows and the new tail;
commit. An operation exists when that transaction commits; killed before, its frames are written over.

Whatever interrupts the one who appends, nothing of others is lost: what was not appended goes back into the queue,
whose owners wait for the lock and then serve themselves; whether it *was* appended is read from the tail.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import lmdb

from kafkalite import config, disk
from kafkalite.errors import (
    KafkaliteError,
    OffsetConflictError,
    OutcomeUnknownError,
    ProducerFencedError,
    RecordTooLargeError,
    SequenceError,
    StoreFailedError,
)
from kafkalite.records.envelope import HEADER_SIZE as BATCH_HEADER_SIZE
from kafkalite.records.envelope import SealedBatch
from kafkalite.storage import catalogue, frame, index, internal, segment
from kafkalite.storage.catalogue import CATALOGUE_LOG, FIRST_USER_LOG, TopicState
from kafkalite.storage.index import Positions, ProducerState
from kafkalite.storage.journal import Journal
from kafkalite.storage.locks import Locks, is_free_within
from kafkalite.storage.page import Flushed, SharedPage
from kafkalite.storage.segment import BYTE_MASK

REMEMBERED_BATCHES: Final = 5
SEQUENCE_LIMIT: Final = 2**31
CACHED_LOGS: Final = 100_000
WITHDRAW_TIMEOUT: Final = 1.0
FAILED_FOR_GOOD: Final = 2
NEVER: Final = -1
NOWHERE: Final = (0,) * len(Positions._fields)

_pack_positions = index.POSITIONS_ROW.pack
_pack_batch_key = index.BATCH_KEY.pack
_pack_batch_row = index.BATCH_ROW.pack
_pack_producer_key = index.PRODUCER_KEY.pack


class Append(NamedTuple):
    """One batch for one log. With `expected_end`, only if the log ends there."""

    log_id: int
    batch: SealedBatch
    topic: TopicState | None = None
    expected_end: int | None = None


Decide = Callable[[lmdb.Transaction], Sequence[Append]]


class Operation:
    """One atomic commit on its way: `offsets` are the base offsets given, `end` is the position its answer rests on."""

    __slots__ = ("appends", "decide", "end", "error", "is_done", "offsets")

    def __init__(self, appends: Sequence[Append] = (), decide: Decide | None = None) -> None:
        self.appends = appends
        self.decide = decide
        self.offsets: Sequence[int] = ()
        self.end = 0
        self.error: BaseException | None = None
        self.is_done = False


class NeedsSegment(Exception):  # noqa: N818  (a signal between append and prepare, not an error)
    """The next operation does not fit and no segment is prepared that it fits into; nothing was appended."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class _Group:
    """What one LMDB transaction will append: frames from `tail` to `position`, and rows; on top of the positions.

    One is kept from transaction to transaction: a lone writer goes on where it stopped.
    """

    __slots__ = (
        "batches", "buffers", "bytes", "catalogue", "chain", "commits", "durable", "era", "failed", "flush_us",
        "flushes", "position", "published", "records", "rows", "segment_size", "spare_size", "start",
        "tail",
    )  # fmt: skip

    def __init__(self) -> None:
        self.buffers: list[bytes] = []
        self.rows: list[tuple[bytes, bytes | None]] = []
        self.begin(NOWHERE)

    def begin(self, before: tuple[int, ...]) -> None:
        """Begin at the positions that the index holds."""
        (
            self.position, self.chain, self.durable, self.published, self.failed, self.era,
            self.catalogue, self.segment_size, self.spare_size, self.commits, self.batches, self.records, self.bytes,
            self.flushes, self.flush_us,
        ) = before  # fmt: skip
        self.go_on()

    def take_in(self, flushed: Flushed) -> None:
        """Have in the index, with what is appended, how far flushes came; beyond all that is there none came."""
        end, self.flushes, self.flush_us = flushed
        if end <= self.tail:
            self.durable, self.published = max(self.durable, end), max(self.published, end)

    def go_on(self) -> None:
        """Begin where the last transaction ended."""
        self.tail = self.start = self.position
        if self.buffers:
            self.buffers.clear()
            self.rows.clear()


class Committer:
    """Appends operations under WRITE. One for a process and store, shared by its threads.

    What was read of the index is remembered: LMDB numbers its transactions, and when ours follows our last one a lone
    writer looks nothing up. A transaction that fails forgets it all.
    """

    def __init__(self, environment: index.Index, journal: Journal, locks: Locks, page: SharedPage) -> None:
        self._index = environment
        self._begin = environment.begin
        self._journal = journal
        self._write = locks.write
        self._page = page
        self._flush_count = page.flush_count
        self._queue: deque[Operation] = deque()
        self._group = _Group()
        self._next = NEVER
        self._ends: dict[int, tuple[int, int]] = {}
        self._producers: dict[tuple[int, int], ProducerState] = {}
        self._settings_epoch = -1
        self.settings: dict[str, Any] = config.defaults("store")
        self.publishes_at_once = False
        self.wants_segment = False

    def submit(self, operation: Operation, timeout: float | None) -> None:
        """Return when the operation was appended, or failed (`operation.error`).

        Raises what keeps it from being tried: `NeedsSegment`, `StoreBusyError`, `StoreFullError`, `StoreFailedError`.
        Interrupted, it comes back only when it is known whether the operation was appended (`operation.is_done`).
        """
        write = self._write
        threads = write.threads
        try:
            if threads.locked():
                self._queue.append(operation)  # for whoever has WRITE to take along
                if not is_free_within(threads, timeout):
                    raise OutcomeUnknownError(
                        "another thread of this process is appending, and has not come to an end in the time allowed: "
                        "it may still append this as well"
                    )
            with threads:
                if operation.is_done:
                    return
                if write.is_closed:
                    write.refuse_closed()
                if self._queue and operation not in self._queue:
                    self._queue.append(operation)  # into one transaction with those that came meanwhile
                try:
                    write.lock(timeout)
                    while not operation.is_done:
                        self._append_some(operation)
                finally:
                    write.unlock()
        except OutcomeUnknownError:
            raise
        except BaseException as error:
            self._withdraw(operation, error)
            if operation.is_done and isinstance(error, Exception):
                return  # another thread was faster
            raise

    def _withdraw(self, operation: Operation, error: BaseException) -> None:
        """Take an operation back unless it was appended: whoever has it in hand is waited for, but not for ever.

        One that is not in the queue nobody else can have: it was never there, or is done.
        """
        if operation not in self._queue:
            return
        threads = self._write.threads
        if not is_free_within(threads, WITHDRAW_TIMEOUT):
            error.__cause__ = OutcomeUnknownError("another thread has the operation in hand: it may be appended or not")
            return
        with threads, contextlib.suppress(ValueError):
            self._queue.remove(operation)

    def _append_some(self, operation: Operation) -> None:
        """Append the first of what is queued, as much as goes into one transaction; or `operation`, if nothing is.

        An operation leaves the queue after it is marked done, so that no interrupt can lose one in between; one that
        comes between the commit and the mark finds in the index that it was committed.
        """
        operations = list(self._queue) or [operation]
        group = self._group
        count = 0
        try:
            # To write; committed at the block's end, aborted by what leaves it.
            with self._begin(None, None, True) as transaction:
                number = transaction.id()
                if number != self._next or len(self._ends) >= CACHED_LOGS:
                    self._look(transaction)
                if self._flush_count[0] != group.flushes:
                    group.take_in(self._page.flushed())
                is_alone = len(operations) == 1 and self._append_alone(transaction, group, operations[0])
                count = 1 if is_alone else self._build(transaction, group, operations)
                if group.buffers:
                    self._put(transaction, group)
            if is_alone and not self._queue:
                operation.is_done = True
            else:
                self._settle(operations, count)
            knows_all = is_alone or (group.buffers and group.catalogue == self._settings_epoch)
            self._next = number + 1 if knows_all else NEVER
            group.go_on()
        except BaseException as error:
            is_appended = self._is_appended(group)
            if is_appended:
                self._settle(operations, count)
            self._forget()
            if isinstance(error, lmdb.Error) and not is_appended:
                raise self._index.translated(error) from error
            raise
        if not group.spare_size:
            self.wants_segment = (group.position & BYTE_MASK) > group.segment_size >> 1

    def _settle(self, operations: Sequence[Operation], count: int) -> None:
        """The transaction is committed: tell the operations."""
        for operation in operations[:count]:
            operation.is_done = True
        queue = self._queue
        while queue and queue[0].is_done:
            queue.popleft()

    def _is_appended(self, group: _Group) -> bool:
        """After an interrupt, still under WRITE: whether the group's transaction was committed all the same."""
        return group.position != group.tail and self._index.positions().tail == group.position

    def _forget(self) -> None:
        self._next = NEVER
        self._group.begin(NOWHERE)
        self._ends.clear()
        self._producers.clear()

    def _look(self, transaction: lmdb.Transaction) -> None:
        """See where the journal stands, and take notice of what other processes did since we last looked."""
        positions = index.read_positions(transaction)
        if self._group.position != positions.tail or len(self._ends) >= CACHED_LOGS:
            self._ends.clear()
            self._producers.clear()
        if positions.flush_failed:
            raise flush_failed(positions)
        if positions.catalogue != self._settings_epoch:
            self.settings = config.defaults("store") | (index.fact(transaction, "store") or {})
            self.publishes_at_once = self.settings["durability"] != "commit"
            self._settings_epoch = positions.catalogue
        self._group.begin(positions)

    def _build(self, transaction: lmdb.Transaction, group: _Group, operations: Sequence[Operation]) -> int:
        """Put into the group the first operations that go together; returns how many they are.

        One that looks at the index, and one that fails, is alone in its group: it sees what the ones before it put.
        """
        for count, operation in enumerate(operations):
            if operation.decide is not None and count:
                return count
            operation.error = None
            operation.end = group.position
            try:
                if operation.decide is not None:
                    operation.appends = operation.decide(transaction)
                size = frame.HEADER_SIZE  # of an END frame
                for append in operation.appends:
                    size += frame.MOST_OVERHEAD + len(append[1][3])
                if size > group.segment_size - (group.position & BYTE_MASK):
                    if count:
                        return count
                    self._roll(group, size)
                self._add(transaction, group, operation)
            except KafkaliteError as error:
                self._ends.clear()  # it has perhaps put ends there that will never be
                self._producers.clear()
                if count:
                    return count
                operation.error = error
                return 1
            if operation.decide is not None:
                return 1
        return len(operations)

    def _append_alone(self, transaction: lmdb.Transaction, group: _Group, operation: Operation) -> bool:
        """`_build` and `_put` for the commonest operation, in half the time; False, and nothing done, for any other.

        It has one batch, without a producer, that fits, and fails nowhere.
        """
        if len(operation.appends) != 1:
            return False
        ((log_id, batch, topic, expected_end),) = operation.appends
        _, _, _, payload, _, count, last_delta, max_timestamp, producer_id, _, _ = batch
        position = group.position
        length = BATCH_HEADER_SIZE + len(payload)
        size = frame.HEADER_SIZE + length + (-length & 7)
        end = position + size
        if (
            producer_id >= 0
            or log_id < FIRST_USER_LOG
            or (topic is not None and topic.epoch != group.catalogue)
            or (end & BYTE_MASK) > group.segment_size - frame.HEADER_SIZE
            or operation.decide is not None
        ):
            return False
        offset, latest = self._ends.get(log_id) or index.log_end(transaction, log_id)
        if expected_end is not None and expected_end != offset:
            return False
        if max_timestamp > latest:  # noqa: PLR1730  (max() is a call, on the hot path)
            latest = max_timestamp
        last_offset = offset + last_delta
        operation.offsets = [offset]
        operation.end = group.position = end
        head, group.chain = frame.encode_batch(
            batch, log_id, offset, group.era, frame.COMMIT, group.durable, group.chain, position
        )
        try:
            self._journal.write(position, (head, payload, frame.PADDING[length & 7]), size)
        except OSError as error:
            raise _append_failed(error) from error
        transaction.put(_pack_batch_key(index.BATCH, log_id, last_offset), _pack_batch_row(position, length, latest))
        self._ends[log_id] = last_offset + 1, latest
        group.commits += 1
        group.batches += 1
        group.records += count
        self._put_positions(transaction, group, end)
        return True

    def _roll(self, group: _Group, needed: int) -> None:
        """Go over to the prepared segment; raises `NeedsSegment` when there is none, or a smaller one."""
        most = self.settings["max_commit_bytes"]
        if needed > most:
            raise RecordTooLargeError(
                f"a commit of {needed} bytes exceeds the store's max_commit_bytes={most}: split it"
            )
        if group.spare_size < segment.HEADER_SIZE + needed:
            raise NeedsSegment(needed)
        try:
            end, chain = frame.encode_end(group.durable, group.chain, group.tail)
            self._journal.write(group.tail, [end], len(end))
            header = self._journal.next_header(group.spare_size, group.era, group.tail + frame.HEADER_SIZE, chain)
            self._journal.begin_segment(header)
        except OSError as error:
            raise _append_failed(error) from error
        group.start = group.position = header.start
        group.chain = header.checksum
        group.segment_size, group.spare_size = group.spare_size, 0
        group.rows.append(segment_row(header))

    def _add(self, transaction: lmdb.Transaction, group: _Group, operation: Operation) -> None:
        """Check an operation as a whole, then add its frames and rows to the group."""
        epoch = group.catalogue
        ends = self._ends
        offsets: list[int] = []
        placed: list[tuple[int, SealedBatch, int, int]] = []
        producers: list[tuple[bytes, bytes | None]] = []
        for log_id, batch, topic, expected_end in operation.appends:
            if topic is not None and topic.epoch != epoch:
                catalogue.revalidate(transaction, topic, epoch)
            offset, latest = ends.get(log_id) or index.log_end(transaction, log_id)
            if batch.producer_id >= 0 and batch.base_sequence >= 0:  # a control batch has no sequence
                producer = (log_id, batch.producer_id)
                state = self._producers.get(producer) or index.producer_state(transaction, *producer)
                repeated = known_batch(state, batch)
                if repeated is not None:
                    offsets.append(repeated)
                    continue
                self._producers[producer] = state = next_state(state, batch, offset)
                producers.append((_pack_producer_key(index.PRODUCER, *producer), state.encode()))
            if expected_end is not None and expected_end != offset:
                raise conflict(topic, log_id, expected_end, offset)
            if batch.max_timestamp > latest:  # noqa: PLR1730  (max() is a call, on the hot path)
                latest = batch.max_timestamp
            offsets.append(offset)
            placed.append((log_id, batch, offset, latest))
            ends[log_id] = (offset + batch.last_offset_delta + 1, latest)
        operation.offsets = offsets
        if placed:
            self._encode(group, placed)
            group.rows += producers
            operation.end = group.position
            group.commits += 1
            group.batches += len(placed)
            group.records += sum([batch.count for _, batch, _, _ in placed])

    def _encode(self, group: _Group, placed: Sequence[tuple[int, SealedBatch, int, int]]) -> None:
        """The frames of an operation, and the row of each batch."""
        position, chain = group.position, group.chain
        durable, era, flags, left = group.durable, group.era, 0, len(placed)
        for log_id, batch, offset, latest in placed:
            left -= 1
            if not left:
                flags = frame.COMMIT
            payload = batch.payload
            length = BATCH_HEADER_SIZE + len(payload)
            head, chain = frame.encode_batch(batch, log_id, offset, era, flags, durable, chain, position)
            group.buffers += (head, payload, frame.PADDING[length & 7])
            last_offset = offset + batch.last_offset_delta
            group.rows.append(
                (_pack_batch_key(index.BATCH, log_id, last_offset), _pack_batch_row(position, length, latest))
            )
            if log_id < FIRST_USER_LOG:
                group.rows += internal.rows(log_id, head[frame.HEADER_SIZE :] + payload)
                if log_id == CATALOGUE_LOG:
                    group.catalogue = last_offset + 1
            position += frame.HEADER_SIZE + length + (-length & 7)
        group.position, group.chain = position, chain

    def _put(self, transaction: lmdb.Transaction, group: _Group) -> None:
        """Write the group's frames, then its rows and the new tail."""
        end = group.position
        try:
            self._journal.write(group.start, group.buffers, end - group.start)
        except OSError as error:
            raise _append_failed(error) from error
        put = transaction.put
        for key, value in group.rows:
            if value is None:
                transaction.delete(key)
            else:
                put(key, value)
        self._put_positions(transaction, group, end)

    def _put_positions(self, transaction: lmdb.Transaction, group: _Group, end: int) -> None:
        """Where the journal stands with the group appended."""
        if self.publishes_at_once:
            group.published = end
        group.bytes += end - group.start
        transaction.put(
            index.POSITIONS,
            _pack_positions(
                end, group.chain, group.durable, group.published, group.failed, group.era,
                group.catalogue, group.segment_size, group.spare_size, group.commits, group.batches, group.records,
                group.bytes, group.flushes, group.flush_us,
            ),
        )  # fmt: skip
        if disk.on_step is not None:
            disk.step("index commit")


def _append_failed(error: OSError) -> Exception:
    ours = disk.as_ours(error, "cannot append to the journal")
    if ours is not error:
        return ours
    return StoreFailedError(f"cannot append to the journal: {error}; nothing was committed: mend the disk, try again")


def segment_row(header: segment.Header) -> tuple[bytes, bytes]:
    """The index's row of a segment."""
    return index.SEGMENT_KEY.pack(index.SEGMENT, header.number), index.SEGMENT_ROW.pack(header.size, header.era)


def known_batch(state: ProducerState | None, batch: SealedBatch) -> int | None:
    """The base offset of a batch that was appended before, or None for the next one in sequence (KIP-98).

    Raises `ProducerFencedError` for an older epoch, `SequenceError` for a gap or a repeat too old to be remembered.
    """
    if state is None or batch.producer_epoch > state.epoch:
        return None
    if batch.producer_epoch < state.epoch:
        raise ProducerFencedError(
            f"producer {batch.producer_id} of epoch {batch.producer_epoch} was fenced by epoch {state.epoch}: end it"
        )
    last = next_sequence(batch.base_sequence, batch.count - 1)
    for base_sequence, last_sequence, offset in state.batches:
        if (base_sequence, last_sequence) == (batch.base_sequence, last):
            return offset
    expected = next_sequence(state.batches[-1][1], 1)
    if batch.base_sequence != expected:
        raise SequenceError(
            f"producer {batch.producer_id} sent sequence {batch.base_sequence}, {expected} is next: open "
            "another producer"
        )
    return None


def next_sequence(sequence: int, count: int) -> int:
    """Sequences wrap from 2^31 - 1 to 0."""
    return (sequence + count) % SEQUENCE_LIMIT


def next_state(state: ProducerState | None, batch: SealedBatch, offset: int) -> ProducerState:
    """The producer's state once the batch is appended at `offset`."""
    entry = (batch.base_sequence, next_sequence(batch.base_sequence, batch.count - 1), offset)
    if state is None or state.epoch != batch.producer_epoch:
        return ProducerState(batch.producer_epoch, (entry,))
    return ProducerState(state.epoch, (*state.batches, entry)[-REMEMBERED_BATCHES:])


def conflict(topic: TopicState | None, log_id: int, expected: int, actual: int) -> OffsetConflictError:
    name = f"topic {topic.name!r}, partition {topic.log_ids.index(log_id)}," if topic else f"log {log_id}"
    return OffsetConflictError(
        f"{name} ends at offset {actual}, not at {expected} as expected: read what is new from {expected}, "
        "then try again",
        expected,
        actual,
    )


def flush_failed(positions: Positions) -> StoreFailedError:
    if positions.flush_failed == FAILED_FOR_GOOD:
        return StoreFailedError(
            "the store failed: after a failed flush its unflushed frames no longer verify; close it "
            "everywhere and open "
            "it again, which rebuilds it up to what was acknowledged"
        )
    return StoreFailedError(
        "the store's last flush failed, and appends wait until it is mended: mend the disk and try again"
    )
