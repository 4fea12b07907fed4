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
from kafkalite.clock import Deadline
from kafkalite.errors import (
    KafkaliteError,
    OffsetConflictError,
    ProducerFencedError,
    RecordTooLargeError,
    SequenceError,
    StoreFailedError,
)
from kafkalite.records import native
from kafkalite.records.envelope import HEADER_SIZE as BATCH_HEADER_SIZE
from kafkalite.records.envelope import SealedBatch, parse
from kafkalite.storage import catalogue, frame, index, segment
from kafkalite.storage.catalogue import CATALOGUE_LOG, TopicState
from kafkalite.storage.index import LogEnd, Positions, ProducerState
from kafkalite.storage.journal import Journal
from kafkalite.storage.locks import Locks

REMEMBERED_BATCHES: Final = 5
SEQUENCE_LIMIT: Final = 2**31
CACHED_LOGS: Final = 100_000
FAILED_FOR_GOOD: Final = 2

_pack_positions = index.POSITIONS_ROW.pack
_pack_batch_key = index.BATCH_KEY.pack
_pack_batch_row = index.BATCH_ROW.pack


class Append(NamedTuple):
    """One batch for one log. With `expected_end`, only if the log ends there."""

    log_id: int
    batch: SealedBatch
    topic: TopicState | None = None
    expected_end: int | None = None


Decide = Callable[[lmdb.Transaction], Sequence[Append]]


class Operation:
    """One atomic commit on its way: `offsets` are the base offsets given, `end` is the position its answer rests on."""

    __slots__ = ("appends", "decide", "end", "error", "is_done", "is_taken", "offsets")

    def __init__(self, appends: Sequence[Append] = (), decide: Decide | None = None) -> None:
        self.appends = appends
        self.decide = decide
        self.offsets: list[int] = []
        self.end = 0
        self.error: BaseException | None = None
        self.is_taken = False
        self.is_done = False

    def size(self) -> int:
        """Bytes of all its frames."""
        return sum(frame.padded_size(BATCH_HEADER_SIZE + len(append.batch.payload)) for append in self.appends)


class NeedsSegment(Exception):  # noqa: N818  (a signal between append and prepare, not an error)
    """The next operation does not fit and no segment is prepared that it fits into; nothing was appended."""

    def __init__(self, needed: int, positions: Positions) -> None:
        super().__init__(needed)
        self.needed = needed
        self.positions = positions


class _Group:
    """What one LMDB transaction will append: frames, rows, and the caches' new entries."""

    __slots__ = ("buffers", "chain", "ends", "position", "producers", "rows", "segment_size", "spare_size", "start")

    def __init__(self, positions: Positions) -> None:
        self.start = self.position = positions.tail
        self.chain = positions.chain
        self.segment_size = positions.segment_size
        self.spare_size = positions.spare_size
        self.buffers: list[bytes] = []
        self.rows: list[tuple[bytes, bytes | None]] = []
        self.ends: dict[int, LogEnd] = {}
        self.producers: dict[tuple[int, int], ProducerState] = {}

    def room(self) -> int:
        """Bytes left in the segment, its END frame set aside."""
        return self.segment_size - frame.HEADER_SIZE - (self.position & segment.BYTE_MASK)


class Committer:
    """Appends operations under WRITE. One for a process and store, shared by its threads."""

    def __init__(self, environment: index.Index, journal: Journal, locks: Locks) -> None:
        self._index = environment
        self._journal = journal
        self._locks = locks
        self._queue: deque[Operation] = deque()
        self._tail = -1
        self._ends: dict[int, LogEnd] = {}
        self._producers: dict[tuple[int, int], ProducerState] = {}
        self._settings_epoch = -1
        self.settings: dict[str, Any] = config.defaults("store")
        self.publishes_at_once = False
        self.wants_segment = False

    def submit(self, operation: Operation, deadline: Deadline) -> None:
        """Return when the operation was appended, or failed (`operation.error`).

        Raises what keeps it from being tried: `NeedsSegment`, `StoreBusyError`, `StoreFullError`, `StoreFailedError`.
        """
        write = self._locks.write
        self._queue.append(operation)
        try:
            with write.threads:
                if operation.is_done:
                    return
                try:
                    write.lock(deadline)
                    while not operation.is_done:
                        self._append_queued()
                finally:
                    write.unlock()
        except BaseException:
            self._withdraw(operation)
            raise

    def _withdraw(self, operation: Operation) -> None:
        if not operation.is_done:
            with contextlib.suppress(ValueError):
                self._queue.remove(operation)

    def _append_queued(self) -> None:
        """Take what is queued and append as much of it as fits; put the rest back in front."""
        queue = self._queue
        taken: list[Operation] = []
        count = before = after = 0
        group: _Group | None = None
        try:
            while queue:
                taken.append(queue.popleft())
            with self._index.begin(write=True) as transaction:
                positions = index.read_positions(transaction)
                before = positions.tail
                group, count = self._build(transaction, positions, taken)
                after = group.position
                self._put(transaction, positions, group)
            self._settle(taken, count, group)
        except lmdb.Error as error:
            raise self._index.translated(error) from error
        except BaseException:
            if group is not None and after != before and self._index.positions().tail == after:
                self._settle(taken, count, group)
            raise
        finally:
            if taken:
                queue.extendleft(reversed(taken))

    def _build(
        self, transaction: lmdb.Transaction, positions: Positions, operations: Sequence[Operation]
    ) -> tuple[_Group, int]:
        """The group of the first operations that go together, and how many they are."""
        self._look(transaction, positions)
        group = _Group(positions)
        for count, operation in enumerate(operations):
            try:
                if operation.decide is not None:
                    if count:  # it must see what the ones before it put
                        return group, count
                    operation.appends = operation.decide(transaction)
                size = operation.size()
                if size > group.room():
                    if count:
                        return group, count
                    self._roll(group, positions, size)
                self._add(transaction, positions, group, operation)
            except KafkaliteError as error:
                operation.error = error
            operation.end = max(operation.end, positions.tail)
            if operation.decide is not None:
                return group, 1
        return group, len(operations)

    def _look(self, transaction: lmdb.Transaction, positions: Positions) -> None:
        """Take notice of what other processes did since we last looked."""
        if positions.flush_failed:
            raise flush_failed(positions)
        if positions.tail != self._tail or len(self._ends) > CACHED_LOGS:
            self._ends.clear()
            self._producers.clear()
        if positions.catalogue != self._settings_epoch:
            self.settings = config.defaults("store") | (index.fact(transaction, "store") or {})
            self.publishes_at_once = self.settings["durability"] != "commit"
            self._settings_epoch = positions.catalogue

    def _roll(self, group: _Group, positions: Positions, needed: int) -> None:
        """Go over to the prepared segment; raises `NeedsSegment` when there is none, or a smaller one."""
        if needed > self.settings["max_commit_bytes"]:
            raise RecordTooLargeError(
                f"a commit of {needed} bytes exceeds the store's max_commit_bytes={self.settings['max_commit_bytes']}: split it"
            )
        if positions.spare_size < segment.HEADER_SIZE + needed + frame.HEADER_SIZE:
            raise NeedsSegment(needed, positions)
        with disk.translated("cannot begin a segment of the journal"):
            end, chain = frame.encode_end(positions.durable, positions.chain, positions.tail)
            self._journal.write(positions.tail, [end])
            header = self._journal.next_header(
                positions.spare_size, positions.era, positions.tail + frame.HEADER_SIZE, chain
            )
            self._journal.begin_segment(header)
        group.start = group.position = header.start
        group.chain = header.checksum
        group.segment_size, group.spare_size = positions.spare_size, 0
        group.rows.append(segment_row(header))

    def _add(self, transaction: lmdb.Transaction, positions: Positions, group: _Group, operation: Operation) -> None:
        """Check an operation as a whole, then add its frames and rows to the group."""
        ends: dict[int, LogEnd] = {}
        producers: dict[tuple[int, int], ProducerState] = {}
        placed: list[tuple[int, SealedBatch, int, int]] = []
        offsets: list[int] = []
        for log_id, batch, topic, expected_end in operation.appends:
            if topic is not None and topic.epoch != positions.catalogue:
                catalogue.revalidate(transaction, topic, positions.catalogue)
            end = ends.get(log_id) or group.ends.get(log_id) or self._ends.get(log_id)
            if end is None:
                end = index.log_end(transaction, log_id)
            offset, latest = end
            if expected_end is not None and expected_end != offset:
                raise conflict(topic, log_id, expected_end, offset)
            if batch.producer_id >= 0:
                key = (log_id, batch.producer_id)
                state = producers.get(key) or group.producers.get(key) or self._producers.get(key)
                if state is None:
                    state = index.producer_state(transaction, *key)
                repeated = known_batch(state, batch)
                if repeated is not None:
                    offsets.append(repeated)
                    continue
                producers[key] = next_state(state, batch, offset)
            latest = max(latest, batch.max_timestamp)
            offsets.append(offset)
            placed.append((log_id, batch, offset, latest))
            ends[log_id] = LogEnd(offset + batch.last_offset_delta + 1, latest)
        self._encode(group, positions, placed)
        for (log_id, producer_id), state in producers.items():
            group.rows.append((index.PRODUCER_KEY.pack(3, log_id, producer_id), state.encode()))
        group.ends.update(ends)
        group.producers.update(producers)
        operation.offsets = offsets
        operation.end = group.position

    def _encode(self, group: _Group, positions: Positions, placed: Sequence[tuple[int, SealedBatch, int, int]]) -> None:
        """The frames of an operation, and the row of each batch."""
        position, chain = group.position, group.chain
        last = len(placed) - 1
        for number, (log_id, batch, offset, latest) in enumerate(placed):
            length = BATCH_HEADER_SIZE + len(batch.payload)
            prefix = batch.prefix(offset, positions.era)
            flags = frame.COMMIT if number == last else 0
            buffers, chain = frame.encode_batch(batch, prefix, log_id, flags, positions.durable, chain, position)
            group.buffers += buffers
            group.rows.append(
                (
                    _pack_batch_key(1, log_id, offset + batch.last_offset_delta),
                    _pack_batch_row(position, length, latest),
                )
            )
            if log_id == CATALOGUE_LOG:
                group.rows += catalogue.rows(native.decode(parse(prefix + batch.fields + batch.payload), batch.payload))
            position += frame.HEADER_SIZE + length + (-length % frame.ALIGNMENT)
        group.position, group.chain = position, chain

    def _put(self, transaction: lmdb.Transaction, positions: Positions, group: _Group) -> None:
        """Write the group's frames, then its rows and the new tail."""
        if not group.buffers:
            return
        try:
            self._journal.write(group.start, group.buffers)
        except OSError as error:
            ours = disk.as_ours(error, "cannot append to the journal")
            if ours is error:
                ours = StoreFailedError(
                    f"cannot append to the journal: {error}; nothing was committed: mend the disk, try again"
                )
            raise ours from error
        disk.step("index put")
        for key, value in group.rows:
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)
        end = group.position
        catalogue_end = group.ends.get(CATALOGUE_LOG)
        transaction.put(
            index.POSITIONS,
            _pack_positions(
                end,
                group.chain,
                positions.durable,
                end if self.publishes_at_once else positions.published,
                positions.flushing,
                positions.flush_failed,
                positions.era,
                catalogue_end.offset if catalogue_end else positions.catalogue,
                group.segment_size,
                group.spare_size,
            ),
        )
        disk.step("index commit")

    def _settle(self, taken: list[Operation], count: int, group: _Group) -> None:
        """The transaction is committed: tell the operations, remember what was read and written."""
        if group.buffers:
            self._tail = group.position
        self._ends.update(group.ends)
        self._producers.update(group.producers)
        for operation in taken[:count]:
            operation.is_done = True
        del taken[:count]
        half = group.segment_size >> 1
        self.wants_segment = not group.spare_size and (group.position & segment.BYTE_MASK) > half


def segment_row(header: segment.Header) -> tuple[bytes, bytes]:
    """The index's row of a segment."""
    return index.SEGMENT_KEY.pack(5, header.number), index.SEGMENT_ROW.pack(header.size, header.era)


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
            f"producer {batch.producer_id} sent sequence {batch.base_sequence}, {expected} is next: open another producer"
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
        f"{name} ends at offset {actual}, not at {expected} as expected: read what is new from {expected}, then try again",
        expected,
        actual,
    )


def flush_failed(positions: Positions) -> StoreFailedError:
    if positions.flush_failed == FAILED_FOR_GOOD:
        return StoreFailedError(
            "the store failed: after a failed flush its unflushed frames no longer verify; close it everywhere and open "
            "it again, which rebuilds it up to what was acknowledged"
        )
    return StoreFailedError(
        "the store's last flush failed, and appends wait until it is mended: mend the disk and try again"
    )
