"""Delivery: what `send` gives back, a light future of the record's place.

A `Delivery` is two words: the batch its record is in, and a token that marks the record there. Everything that happens
to a record happens to its batch: committed with all others in it, or failed with them.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast, final

from kafkalite import disk
from kafkalite.clock import Deadline
from kafkalite.columns import RawColumns
from kafkalite.errors import KafkaTimeoutError
from kafkalite.log import log
from kafkalite.model import Record, RecordMetadata
from kafkalite.records.native import NO_HEADERS
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Append

T = TypeVar("T")
NO_OFFSET: Final = -1


class Pending(Protocol):
    """What a delivery looks at: something that is done at some time, and has an outcome for each of its
    records then.
    """

    @property
    def is_done(self) -> bool: ...
    def wait(self, deadline: Deadline) -> None: ...
    def error_of(self, token: Any) -> BaseException | None: ...
    def outcome_of(self, token: Any) -> Any: ...
    def when_done(self, call: Callable[[], None]) -> None: ...


@final
class Delivery(Generic[T]):
    """The outcome of a `send` (`RecordMetadata`) or `send_many` (`dict[int, range]`), once it is committed."""

    __slots__ = ("_pending", "_token")

    _pending: Pending
    _token: Any

    # Its two words are set by who makes it, `send` itself or `delivery_of`: calling an `__init__` costs more than both.

    def __repr__(self) -> str:
        return f"<Delivery, {'done' if self._pending.is_done else 'pending'}>"

    def done(self) -> bool:
        """Whether the record was committed, or failed."""
        return self._pending.is_done

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that kept the record from being committed, or None; commits the batch at once.

        `timeout` in seconds, None for ever; raises `KafkaTimeoutError`, `ForkedError`.
        """
        pending = self._pending
        if not pending.is_done:
            pending.wait(Deadline(timeout))
            if not pending.is_done:
                raise KafkaTimeoutError(
                    f"the record was not committed within {timeout} s: allow more time, or look at the store"
                )
        return pending.error_of(self._token)

    def result(self, timeout: float | None = None) -> T:
        """Where the record was committed; raises the error that kept it from being so; commits the batch at once."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return cast("T", self._pending.outcome_of(self._token))

    def add_done_callback(self, fn: "Callable[[Delivery[T]], object]", /) -> None:
        """Call `fn` with this delivery once it is done, at once if it is; in whichever thread commits it."""

        def call() -> None:
            try:
                fn(self)
            except Exception:  # noqa: BLE001  (a user's callback may raise anything, and harms nobody else)
                log().exception("a delivery's callback failed")

        self._pending.when_done(call)


def delivery_of(pending: Pending, token: Any = None) -> Delivery[Any]:
    """The outcome of what `token` marks, or of all."""
    delivery: Delivery[Any] = Delivery()
    delivery._pending = pending  # noqa: SLF001  (in place of an __init__)
    delivery._token = token  # noqa: SLF001  (likewise)
    return delivery


tokens: Iterator[int] = itertools.count()
"""What marks a record in its batch: a number of its own in this process, taken with `next`."""

ROW: Final = 5
"""Entries of a record in `PendingBatch.rows`: value, key, timestamp, headers, and a token."""

Deliver = Callable[["PendingBatch", Deadline], None]
"""A producer's: commit a batch now; return when it is done or the deadline passes."""


class PendingBatch:
    """Records of one partition on their way: rows until the batch is sealed, then its outcome.

    `rows` is one flat list, `ROW` entries a record: nothing in it is what the garbage collector looks at (a tuple for
    each record costs `send` a third of its speed), and a column is a slice. Rows are appended without a lock, each by
    one atomic call, and counted under the producer's lock when the batch is sealed: whoever appended looks at
    `is_sealed` afterwards, and if it is set whether his row was still counted.
    """

    __slots__ = (
        "_calls", "_deliver", "_places", "_seen", "append", "columns", "count", "error", "expires",
        "has_headers", "is_done", "is_sealed", "offset", "partition", "queue", "queued_size", "rows", "size",
        "topic",
    )  # fmt: skip

    def __init__(self, queue: object, deliver: "Deliver", topic: TopicState, partition: int, expires: float) -> None:
        self.queue = queue
        self._deliver = deliver
        self.topic = topic
        self.partition = partition
        self.expires = expires
        self.rows: list[Any] = []
        self.columns: RawColumns | None = None
        self.count = 0
        self.size = self.queued_size = 0
        self.has_headers = False
        self.append: Append | None = None
        self.is_sealed = False
        self.is_done = False
        self.offset = NO_OFFSET
        self.error: BaseException | None = None
        self._seen: set[int] = set()
        self._places: dict[int, int] | None = None
        self._calls: list[Callable[[], None]] | None = None

    def seal(self, columns: RawColumns | None = None) -> None:
        """No more records: those there are, or `columns` that came as such. Under the producer's lock."""
        self.is_sealed = True
        self.columns = columns
        self.count = len(columns.values) if columns else len(self.rows) // ROW

    def sealed_columns(self) -> RawColumns:
        """The records of a sealed batch as columns."""
        if self.columns is None:
            rows, end = self.rows, self.count * ROW
            values, keys, stamps, headers = (rows[column:end:ROW] for column in range(ROW - 1))
            has_keys = keys.count(None) < len(keys)
            pairs = [one or NO_HEADERS for one in headers] if self.has_headers else None
            self.columns = RawColumns(values, keys if has_keys else None, pairs, stamps)
        return self.columns

    def holds(self, token: object) -> bool:
        """Whether a record is among those counted when the batch was sealed."""
        return not any(one is token for one in self.rows[self.count * ROW :])

    def place_of(self, token: object) -> int:
        """The place of a record in the batch."""
        if self._places is None:
            self._places = {id(one): place for place, one in enumerate(self.rows[ROW - 1 :: ROW])}
        return self._places[id(token)]

    def wait(self, deadline: Deadline) -> None:
        self._deliver(self, deadline)

    def error_of(self, token: object) -> BaseException | None:
        if self.error is not None:
            self._seen.add(self.place_of(token))
        return self.error

    def outcome_of(self, token: object) -> RecordMetadata:
        place = self.place_of(token)
        offset = self.offset + place if self.offset != NO_OFFSET else NO_OFFSET
        timestamp = self.rows[place * ROW + 2]
        if self.append is not None and self.topic.settings["message_timestamp_type"] == "LogAppendTime":
            timestamp = self.append.batch.max_timestamp
        return RecordMetadata(self.topic.name, self.partition, offset, timestamp)

    def settle(self, offset: int = NO_OFFSET, error: BaseException | None = None) -> None:
        """It is committed, or failed: tell whoever asked to be told."""
        self.offset = offset
        self.error = error
        with _settling:
            self.is_done = True
            calls, self._calls = self._calls, None
        for call in calls or ():
            call()

    def when_done(self, call: Callable[[], None]) -> None:
        with _settling:
            if not self.is_done:
                self._calls = [*(self._calls or ()), call]
                return
        call()

    def mark_seen(self) -> None:
        """Somebody looked at the failure of all its records."""
        self._seen.update(range(self.count))

    def failures(self) -> list[tuple[Record[Any, Any], BaseException]]:
        """The records of a failed batch whose failure nobody looked at; their offset is -1."""
        if self.error is None:
            return []
        columns = self.sealed_columns()
        name, partition, error = self.topic.name, self.partition, self.error
        return [
            (Record(name, partition, NO_OFFSET, stamp, key, value, headers), error)
            for place, (stamp, key, value, headers) in enumerate(columns.rows())
            if place not in self._seen
        ]


_settling = threading.Lock()
"""Between a batch's being done and its callbacks' list; held for a few instructions, so one serves all."""


def _new_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _settling  # noqa: PLW0603  (one for a process, and this is a new process)
    _settling = threading.Lock()


disk.at_fork(after_in_child=_new_lock)


class PendingGroup:
    """The batches of one `send_many`."""

    def __init__(self, batches: Sequence[PendingBatch]) -> None:
        self._batches = batches

    @property
    def is_done(self) -> bool:
        return all(batch.is_done for batch in self._batches)

    def wait(self, deadline: Deadline) -> None:
        for batch in self._batches:
            if not batch.is_done:
                batch.wait(deadline)

    def error_of(self, _token: None) -> BaseException | None:
        failed = [batch for batch in self._batches if batch.error is not None]
        for batch in failed:
            batch.mark_seen()
        return failed[0].error if failed else None

    def outcome_of(self, _token: None) -> dict[int, range]:
        """Offsets by partition, from the first record's to the last one's."""
        ranges: dict[int, range] = {}
        for batch in self._batches:
            if batch.offset == NO_OFFSET:  # nobody waits for it (acks=0)
                continue
            start = ranges[batch.partition].start if batch.partition in ranges else batch.offset
            ranges[batch.partition] = range(start, batch.offset + batch.count)
        return ranges

    def when_done(self, call: Callable[[], None]) -> None:
        left = len(self._batches)
        if not left:
            call()

        def one_done() -> None:
            nonlocal left
            with _settling:
                left -= 1
                is_last = left == 0
            if is_last:
                call()

        for batch in self._batches:
            batch.when_done(one_done)
