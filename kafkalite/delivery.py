"""Delivery: what `send` gives back, a light future of the record's place.

A `Delivery` is two words: the batch its record is in, and which record it is. Everything that happens to a record
happens to its batch: committed with all others in it, or failed with them.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast, final

from kafkalite.clock import Deadline
from kafkalite.errors import KafkaTimeoutError
from kafkalite.model import Record, RecordMetadata
from kafkalite.records.native import NO_HEADERS, HeaderTuple
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Append

T = TypeVar("T")
NO_OFFSET: Final = -1

_log = logging.getLogger("kafkalite")


class Pending(Protocol):
    """What a delivery looks at: something that is done at some time, and has an outcome for each index then."""

    @property
    def is_done(self) -> bool: ...
    def wait(self, deadline: Deadline) -> None: ...
    def error_of(self, index: int) -> BaseException | None: ...
    def outcome_of(self, index: int) -> Any: ...
    def when_done(self, call: Callable[[], None]) -> None: ...


@final
class Delivery(Generic[T]):
    """The outcome of a `send` (`RecordMetadata`) or `send_many` (`dict[int, range]`), once it is committed."""

    __slots__ = ("_index", "_pending")

    def __init__(self, pending: Pending, index: int) -> None:
        self._pending = pending
        self._index = index

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
        return pending.error_of(self._index)

    def result(self, timeout: float | None = None) -> T:
        """Where the record was committed; raises the error that kept it from being so; commits the batch at once."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return cast("T", self._pending.outcome_of(self._index))

    def add_done_callback(self, fn: "Callable[[Delivery[T]], object]", /) -> None:
        """Call `fn` with this delivery once it is done, at once if it is; in whichever thread commits it."""

        def call() -> None:
            try:
                fn(self)
            except Exception:
                _log.exception("a delivery's callback failed")

        self._pending.when_done(call)


class Sender(Protocol):
    """What a batch needs of its producer."""

    def deliver(self, batch: "PendingBatch", deadline: Deadline) -> None: ...


class PendingBatch:
    """Records of one partition on their way: columns that grow until the batch is sealed, then its outcome."""

    __slots__ = (
        "_calls",
        "append",
        "base",
        "deltas",
        "error",
        "expires",
        "headers",
        "is_done",
        "is_sealed",
        "keys",
        "offset",
        "partition",
        "producer",
        "seen",
        "size",
        "topic",
        "values",
    )

    def __init__(self, producer: Sender, topic: TopicState, partition: int, base: int, expires: float) -> None:
        self.producer = producer
        self.topic = topic
        self.partition = partition
        self.base = base
        self.expires = expires
        self.values: Sequence[bytes | None] = []
        self.keys: Sequence[bytes | None] | None = []
        self.deltas: Sequence[int] | None = []
        self.headers: Sequence[HeaderTuple | None] | None = None
        self.size = 0
        self.append: Append | None = None
        self.is_sealed = False
        self.is_done = False
        self.offset = NO_OFFSET
        self.error: BaseException | None = None
        self.seen: set[int] = set()
        self._calls: list[Callable[[], None]] | None = None

    def wait(self, deadline: Deadline) -> None:
        self.producer.deliver(self, deadline)

    def error_of(self, index: int) -> BaseException | None:
        if self.error is not None:
            self.seen.add(index)
        return self.error

    def outcome_of(self, index: int) -> RecordMetadata:
        assert self.append is not None or self.offset == NO_OFFSET
        offset = self.offset + index if self.offset != NO_OFFSET else NO_OFFSET
        return RecordMetadata(self.topic.name, self.partition, offset, self.timestamp_of(index))

    def timestamp_of(self, index: int) -> int:
        """The record's timestamp; that of the append where the topic says so."""
        if self.append is not None and self.topic.settings["message_timestamp_type"] == "LogAppendTime":
            return self.append.batch.max_timestamp
        return self.base + (self.deltas[index] if self.deltas else 0)

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

    def failures(self) -> list[tuple[Record[Any, Any], BaseException]]:
        """The records of a failed batch whose failure nobody looked at."""
        if self.error is None:
            return []
        return [(self.record(index), self.error) for index in range(len(self.values)) if index not in self.seen]

    def record(self, index: int) -> Record[bytes, bytes | None]:
        """A record that was not committed: its offset is -1."""
        key = self.keys[index] if self.keys else None
        headers = (self.headers[index] or NO_HEADERS) if self.headers else NO_HEADERS
        return Record(
            self.topic.name, self.partition, NO_OFFSET, self.timestamp_of(index), key, self.values[index], headers
        )


_settling = threading.Lock()
"""Between a batch's being done and its callbacks' list; held for a few instructions, so one serves all."""


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

    def error_of(self, index: int) -> BaseException | None:
        found = None
        for batch in self._batches:
            if batch.error is not None:
                batch.seen.update(range(len(batch.values)))
                found = found or batch.error
        return found

    def outcome_of(self, index: int) -> dict[int, range]:
        """Offsets by partition, from the first record's to the last one's."""
        ranges: dict[int, range] = {}
        for batch in self._batches:
            end = batch.offset + len(batch.values)
            start = ranges[batch.partition].start if batch.partition in ranges else batch.offset
            ranges[batch.partition] = range(start, end)
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
