"""The index: one LMDB tree, derived from the journal, from which every look-up starts.

A key's first byte is its table; all else is big-endian. One tree, because each further tree costs a commit two more
pages (1 µs of 3). LMDB commits are not flushed: after a power cut the index is thrown away and built again.

    table          key after the first byte      value
    1 logs         log id (4)                    log start offset (8), log end offset if no batch is left (8)
    2 topics       name                          msgpack map: the topic's state, as its record in log 0 says
    3 segments     number (8)                    size (8), era (4)
    4 catalogue    name of a fact                msgpack: `store` (settings), `next_log` (first log id not given out)
    5 batches      log id (4), last offset (8)   position (8), batch length (4), running maximum timestamp (8):
                                                 the offset index, one row a batch
    6 producers    log id (4), producer id (8)   epoch (2), then base and last sequence (4 each) and base offset
                                                 (8) of the last five batches, oldest first
    7 positions    (nothing)                     `Positions`: where the journal stands; volatile. What was flushed since
                                                 the last append stands in the shared page (`Index.seen`)
    8 state        log id (1), record key        record value: the last one of each key of internal logs 1 to 3
    9 locks        record key                    locks of share groups (`share_state`); volatile, not derived

What every commit writes comes last, side by side: fewer pages to copy (0.6 µs of a commit to the newest log).
The end of a log is the last row of its batches, not a row of its own. The running maximum timestamp never falls
along a log, so a time is found by bisecting offsets: there is no table of times.

LMDB has no checksums: what is followed is checked against the frame it names, and an index that is not trusted is
deleted unopened.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple, cast

import lmdb
import msgpack

from kafkalite import disk
from kafkalite.errors import ClosedError, StoreFailedError, StoreFullError
from kafkalite.storage.page import Flushed, SharedPage

SCHEMA: Final = 4
MAP_SIZE: Final = 1 << 40
MAX_READERS: Final = 1024
LOCK_FILE_SIZE: Final = 128 + 64 * MAX_READERS
"""LMDB's header, and a cache line for each reader."""

LOGS: Final = b"\x01"
TOPICS: Final = b"\x02"
SEGMENTS: Final = b"\x03"
CATALOGUE: Final = b"\x04"
BATCHES: Final = b"\x05"
PRODUCERS: Final = b"\x06"
POSITIONS: Final = b"\x07"
STATE: Final = b"\x08"
LOG, SEGMENT, BATCH, PRODUCER = LOGS[0], SEGMENTS[0], BATCHES[0], PRODUCERS[0]
"""The same as numbers, to pack keys with."""

BATCH_KEY: Final = Struct(">BIQ")
BATCH_ROW: Final = Struct(">QIq")
LOG_KEY: Final = Struct(">BI")
LOG_ROW: Final = Struct(">QQ")
PRODUCER_KEY: Final = Struct(">BIq")
PRODUCER_EPOCH: Final = Struct(">h")
PRODUCER_BATCH: Final = Struct(">iiQ")
SEGMENT_KEY: Final = Struct(">BQ")
SEGMENT_ROW: Final = Struct(">QI")
POSITIONS_ROW: Final = Struct(">QQQQBIQQQQQQQQQ")
OFFSET_MAX: Final = 2**63 - 1
NO_TIMESTAMP: Final = -(2**63)


class Positions(NamedTuple):
    """Where the journal stands. `durable` and `published` only ever rise; all but `chain` are positions or numbers."""

    tail: int
    """Where the next frame goes."""
    chain: int
    """Chain of the frame before the tail."""
    durable: int
    """Everything before is on the disk."""
    published: int
    """Everything before is visible."""
    flush_failed: int
    """1 while the last flush is known to have failed, 2 when it is beyond rewriting."""
    era: int
    catalogue: int
    """End offset of log 0: changes with every change of topics and settings."""
    segment_size: int
    """Of the segment that the tail is in."""
    spare_size: int
    """Of the next segment, once prepared; 0 before."""
    commits: int = 0
    """Here and below: counted since the index was made, by all processes; volatile. Operations that appended."""
    batches: int = 0
    records: int = 0
    bytes: int = 0
    """Of frames, padding included."""
    flushes: int = 0
    """That succeeded."""
    flush_us: int = 0
    """What they took together, in microseconds."""

    def after(self, flushed: Flushed) -> "Positions":
        """With what was flushed since."""
        end = min(flushed.end, self.tail)
        return self._replace(
            durable=max(self.durable, end), published=max(self.published, end),
            flushes=flushed.count, flush_us=flushed.took_us,
        )  # fmt: skip


class BatchRow(NamedTuple):
    """A batch in the offset index. `max_timestamp` is the greatest of its log up to and including it."""

    last_offset: int
    position: int
    length: int
    max_timestamp: int


_new: Callable[[type[Positions], tuple[int, ...]], Positions] = tuple.__new__
_unpack_positions = POSITIONS_ROW.unpack
_pack_batch_key = BATCH_KEY.pack
_unpack_batch_key = BATCH_KEY.unpack
_unpack_batch_row = BATCH_ROW.unpack


class Index:
    """The LMDB environment of one process. Reads go through `snapshot`, writes through `write` under WRITE.

    `gate` is held by every transaction for as long as it lasts, so that a fork can wait until there is none.
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False) -> None:
        self.path = path
        self.gate = threading.Lock()
        if not read_only:
            _reserve_lock_file(path.with_name(path.name + "-lock"))
        try:
            self.env = lmdb.open(
                str(path),
                subdir=False,
                map_size=MAP_SIZE,
                max_readers=MAX_READERS,
                sync=False,
                metasync=False,
                writemap=False,
                max_dbs=0,
                mode=0o644,
                max_spare_txns=0,
                create=create,
                readonly=read_only,
                lock=not read_only,
                readahead=False,
            )
        except lmdb.Error as error:
            raise self.translated(error) from error
        self.begin = self.env.begin
        self.is_closed = False
        self._page: SharedPage | None = None
        self._last: Positions | None = None

    def close(self) -> None:
        """Close, once no transaction of this process is open; remembers where the journal stood."""
        with self.gate:
            if self.is_closed:
                return
            try:
                with self.begin() as transaction:
                    self._last = self.seen(transaction) if transaction.get(POSITIONS) else None
            finally:
                self.is_closed = True
                self.env.close()

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's; the fork waited until there was no transaction."""
        self.is_closed = True
        self.env.close()

    def last_positions(self) -> Positions | None:
        """Where the journal stood when this was closed; None while it is open."""
        return self._last if self.is_closed else None

    def translated(self, error: lmdb.Error) -> Exception:
        """LMDB's error as ours: a full disk shows as EIO or as a failed write."""
        if isinstance(error, lmdb.MapFullError) or disk.free_bytes(self.path.parent) < 1 << 20:
            return StoreFullError(f"the disk of {self.path.parent} is full: free space, then try again ({error})")
        return StoreFailedError(f"the index {self.path} failed: {error}; close the store everywhere and open it again")

    def positions(self) -> Positions:
        """Where the journal stands; raises `ClosedError`."""
        with self.gate:  # as `snapshot`, which costs more than the look
            if not self.is_closed:
                with self.begin() as transaction:
                    return self.seen(transaction)
        raise self._closed()

    def attach(self, page: SharedPage) -> None:
        """Have the page that tells what was flushed."""
        self._page = page

    def seen(self, transaction: lmdb.Transaction) -> Positions:
        """Where the journal stands, for who reads: what was flushed counts, be it in the index yet or not."""
        positions = read_positions(transaction)
        if self._page is None:
            return positions
        flushed = self._page.flushed()
        is_known = flushed.end <= positions.durable and flushed.count == positions.flushes
        return positions if is_known else positions.after(flushed)

    @contextlib.contextmanager
    def writing(self) -> Iterator[lmdb.Transaction]:
        """A write transaction, under WRITE: committed at the end of the block, LMDB's errors as ours."""
        try:
            with self.begin(write=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise self.translated(error) from error

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[lmdb.Transaction]:
        """A read transaction, to be short: the index keeps every page that one may still see."""
        with self.gate:
            if self.is_closed:
                raise self._closed()
            with self.begin() as transaction:
                yield transaction

    def _closed(self) -> ClosedError:
        return ClosedError(f"the store of {self.path} was closed meanwhile: open it again")

    def sync(self) -> None:
        self.env.sync(True)


def _reserve_lock_file(path: Path) -> None:
    """Give LMDB's lock file its bytes: LMDB would make it sparse and write it through a map, which kills the process
    when the disk is full.
    """
    fd = disk.open_file(path, write=True, create=True)
    try:
        with disk.translated(f"cannot write {path}"):
            if disk.file_size(fd) < LOCK_FILE_SIZE:
                disk.fill_with_zeros(fd, disk.file_size(fd), LOCK_FILE_SIZE)
    finally:
        disk.close(fd)


def get(transaction: lmdb.Transaction, key: bytes) -> bytes | None:
    """A row's value, or None. (LMDB's types allow for buffers, which are never asked for.)"""
    return cast("bytes | None", transaction.get(key))


def read_positions(transaction: lmdb.Transaction) -> Positions:
    """Where the journal stood at the last append; every index in use has the row."""
    row: Any = transaction.get(POSITIONS)
    return _new(Positions, _unpack_positions(row))


def write_positions(transaction: lmdb.Transaction, positions: tuple[int, ...]) -> None:
    """Write all fields of `Positions`."""
    transaction.put(POSITIONS, POSITIONS_ROW.pack(*positions))


def _items(rows: Any) -> Iterator[tuple[bytes, bytes]]:
    """A cursor's rows from where it stands."""
    return cast("Iterator[tuple[bytes, bytes]]", iter(rows))


def batch_at(transaction: lmdb.Transaction, log_id: int, offset: int) -> BatchRow | None:
    """The first batch of a log whose last offset is at or after `offset`."""
    return next(batches(transaction, log_id, offset), None)


def batches(transaction: lmdb.Transaction, log_id: int, offset: int) -> Iterator[BatchRow]:
    """A log's batches in order, from the first whose last offset is at or after `offset`."""
    cursor = transaction.cursor()
    if not cursor.set_range(_pack_batch_key(BATCH, log_id, offset)):
        return
    prefix = LOG_KEY.pack(BATCH, log_id)
    for key, value in _items(cursor):
        if not key.startswith(prefix):
            return
        yield BatchRow(_unpack_batch_key(key)[2], *_unpack_batch_row(value))


def batches_backward(transaction: lmdb.Transaction, log_id: int) -> Iterator[BatchRow]:
    """A log's batches from the last to the first."""
    cursor = transaction.cursor()
    found = cursor.set_range(_pack_batch_key(BATCH, log_id, OFFSET_MAX))
    if not (cursor.prev() if found else cursor.last()):
        return
    prefix = LOG_KEY.pack(BATCH, log_id)
    for key, value in _items(cursor.iterprev()):
        if not key.startswith(prefix):
            return
        yield BatchRow(_unpack_batch_key(key)[2], *_unpack_batch_row(value))


def log_bounds(transaction: lmdb.Transaction, log_id: int) -> tuple[int, int]:
    """A log's start offset, and the end offset that holds when no batch is left."""
    row = get(transaction, LOG_KEY.pack(LOG, log_id))
    return LOG_ROW.unpack(row) if row else (0, 0)


def log_end(transaction: lmdb.Transaction, log_id: int) -> tuple[int, int]:
    """The end of a log as appended, published or not: its next offset, and its greatest timestamp so far."""
    cursor = transaction.cursor()
    if cursor.prev() if cursor.set_range(_pack_batch_key(BATCH, log_id, OFFSET_MAX)) else cursor.last():
        table, owner, last_offset = (
            _unpack_batch_key(cursor.key()) if len(cursor.key()) == BATCH_KEY.size else (0, 0, 0)
        )
        if (table, owner) == (BATCH, log_id):
            return last_offset + 1, _unpack_batch_row(cursor.value())[2]
    return log_bounds(transaction, log_id)[1], NO_TIMESTAMP


def published_end(transaction: lmdb.Transaction, log_id: int, published: int) -> int:
    """The end offset that readers see: walk back to the first batch that lies before `published`."""
    for row in batches_backward(transaction, log_id):
        if row.position < published:
            return row.last_offset + 1
    return log_bounds(transaction, log_id)[1]


def first_batch_since(transaction: lmdb.Transaction, log_id: int, timestamp_ms: int, end: int) -> BatchRow | None:
    """The first batch of a log, below offset `end`, in which the log's maximum timestamp reaches `timestamp_ms`."""
    low, high = log_bounds(transaction, log_id)[0], end
    while low < high:
        middle = (low + high) // 2
        row = batch_at(transaction, log_id, middle)
        if row is not None and row.last_offset < end and row.max_timestamp < timestamp_ms:
            low = row.last_offset + 1
        else:
            high = middle
    row = batch_at(transaction, log_id, low)
    return row if row is not None and row.last_offset < end and row.max_timestamp >= timestamp_ms else None


class ProducerState(NamedTuple):
    """What is remembered of a producer in a log: (base sequence, last sequence, base offset) of its last batches."""

    epoch: int
    batches: tuple[tuple[int, int, int], ...]

    def encode(self) -> bytes:
        return PRODUCER_EPOCH.pack(self.epoch) + b"".join(PRODUCER_BATCH.pack(*batch) for batch in self.batches)


def producer_state(transaction: lmdb.Transaction, log_id: int, producer_id: int) -> ProducerState | None:
    row = get(transaction, PRODUCER_KEY.pack(PRODUCER, log_id, producer_id))
    if row is None:
        return None
    (epoch,) = PRODUCER_EPOCH.unpack_from(row)
    return ProducerState(epoch, tuple(PRODUCER_BATCH.iter_unpack(row[PRODUCER_EPOCH.size :])))


def topic_key(name: str) -> bytes:
    return TOPICS + name.encode()


def fact(transaction: lmdb.Transaction, name: str) -> Any:
    """A fact of the catalogue, or None."""
    row = get(transaction, CATALOGUE + name.encode())
    return None if row is None else msgpack.unpackb(row)


def rows(transaction: lmdb.Transaction, table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All rows of a table."""
    cursor = transaction.cursor()
    if cursor.set_range(table):
        for key, value in _items(cursor):
            if not key.startswith(table):
                return
            yield key, value
