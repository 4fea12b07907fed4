"""Every error of kafkalite: THE error table.

A class is a row: its name, what it means, how to mend it, whether trying again can help (`retriable`), and Kafka's
protocol code where Kafka has the same error (`code`; https://kafka.apache.org/protocol#protocol_error_codes).
The message of an instance names the thing, the value and the fix. `ERRORS` lists the rows, in the order of the
reference page.

An operating error is one of these; a programmer's error inside kafkalite is an `AssertionError` and a defect.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

__all__ = ["ERRORS"]  # extended below, as the table is


class KafkaliteError(Exception):
    """Base of all errors of kafkalite; catching it catches nothing else."""

    retriable: ClassVar[bool] = False
    code: ClassVar[int | None] = None
    fix: ClassVar[str] = ""


class ConfigError(KafkaliteError, ValueError):
    """A setting or an argument is unknown, of the wrong type or outside its valid values."""

    code = 40
    fix = "The message names the setting, the value and what is valid; `docs/reference/settings` lists all."


class InvalidTopicError(ConfigError):
    """A topic name breaks Kafka's rules: 1 to 249 of the characters a-z A-Z 0-9 . _ -, and neither "." nor ".."."""

    code = 17
    fix = "Choose another name."


class InvalidGroupIdError(ConfigError):
    """A group id is empty, longer than 249 bytes of UTF-8, or has a NUL in it."""

    code = 24
    fix = "Choose another name."


class StoreNotFoundError(KafkaliteError, FileNotFoundError):
    """There is no store at this path, and none may be created there."""

    fix = "Check the path, or open it with create=True."


class NotAStoreError(KafkaliteError, OSError):
    """Something is at this path, and it is not a store of kafkalite."""

    fix = "Choose an absent or empty path; kafkalite never writes over what it does not know."


class StoreExistsError(KafkaliteError, FileExistsError):
    """Something is at the path at which a backup is to be made."""

    fix = "Choose another path, or remove what is there; a backup replaces nothing."


class StoreVersionError(KafkaliteError):
    """The store was written by a newer kafkalite, in a format that this one does not know."""

    fix = "Upgrade kafkalite; nothing was changed."


class StorePermissionError(KafkaliteError, PermissionError):
    """A file of the store may not be read or written by this user, or lies on a read-only medium."""

    fix = "Grant the permission, or open with read_only=True a store that was closed cleanly."


class StoreLocationError(KafkaliteError, OSError):
    """The store's place cannot keep the promises: a network file system, a hard link, another PID namespace."""

    fix = "Put the store on a local disk and open it from one PID namespace, under one name."


class StoreSettingsError(ConfigError):
    """A setting that belongs to the store was given, and the store has another value."""

    fix = "Leave it out to take the store's value, or change it for all with store.alter()."


class StoreFailedError(KafkaliteError):
    """A flush failed: what was appended since the last good flush may not be on disk; the outcome is unknown."""

    retriable = True
    code = 56
    fix = "Mend the disk and try again: the store verifies, rewrites and flushes by itself, then goes on."


class StoreBusyError(KafkaliteError, TimeoutError):
    """A lock of the store was not free within the time allowed; the message names the process that holds it."""

    retriable = True
    code = 7
    fix = "Continue or end the stopped process, or allow more time (max_block_ms)."


class StoreFullError(KafkaliteError, OSError):
    """The disk is full, or a quota or limit of the system is used up; nothing was appended."""

    retriable = True
    code = 56
    fix = "Free space, then try again; nothing acknowledged is lost."


class CorruptRecordError(KafkaliteError):
    """Bytes of the journal fail their checksum where good ones were acknowledged."""

    code = 2
    fix = "`kafkalite check` locates the damage, `kafkalite repair` keeps what is whole; the rest is in a backup."


class TopicSettingsError(ConfigError):
    """A topic exists with other settings than the ones given."""

    code = 36
    fix = "Leave the setting out to take what the topic has, or change it with topic.alter()."


class UnknownTopicError(KafkaliteError, LookupError):
    """There is no topic of this name (any more), and none may be created."""

    code = 3
    fix = "Create it with store.topic(name); store.topics() lists what there is."


class UnknownPartitionError(ConfigError, LookupError):
    """The topic has no partition of this number."""

    code = 3
    fix = "Partitions count from 0 to topic.partition_count - 1."


class InvalidPartitionsError(ConfigError):
    """A topic cannot have that many partitions: none, too many, or not more than it has already."""

    code = 37
    fix = "Give more than topic.partition_count, up to the limit: partitions are added, never taken away."


class RecordTooLargeError(KafkaliteError, ValueError):
    """One record, with key and headers, is larger than the topic's max_message_bytes; or a commit than the limit."""

    code = 10
    fix = "Raise max_message_bytes with topic.alter(), or split the value."


class SerializationError(KafkaliteError, TypeError):
    """A key or value cannot be turned into bytes by the topic's serde."""

    fix = "Send what the topic's key= and value= types say; nulls need the default type or kafkalite.optional()."


class DeserializationError(KafkaliteError, ValueError):
    """The bytes of a record cannot be turned into the topic's type; `.record` is the raw record."""

    fix = "Read it with the type it was written with, or go on: the next record follows."

    def __init__(self, message: str, record: Any = None) -> None:
        super().__init__(message)
        self.record = record


class OffsetOutOfRangeError(KafkaliteError, LookupError):
    """The offset asked for was removed, or lies beyond the end of the partition."""

    code = 1
    fix = "Start within [topic.beginning_offsets(), topic.end_offsets()], or from 'earliest' or 'latest'."


class OffsetConflictError(KafkaliteError):
    """`expected_end_offset` differs from the partition's end: another writer was first; nothing was written."""

    fix = "Read what is new from `.expected` on, decide again, append again."

    def __init__(self, message: str, expected: int = -1, actual: int = -1) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class SequenceError(KafkaliteError):
    """A producer's batch skips ahead of the sequence expected of it, or is older than those remembered."""

    code = 45
    fix = "Close this producer and open another; records are in order up to the last one acknowledged."


class ProducerFencedError(KafkaliteError):
    """A newer producer with the same identity took over."""

    code = 90
    fix = "End this producer: the newer one goes on in its place."


class FencedMemberError(KafkaliteError):
    """This member is no longer one of its group, or what it commits is another's by now."""

    code = 110
    fix = "Iterate again, which joins again; what was not committed is handed out again, to somebody."


class StaleMemberEpochError(FencedMemberError):
    """This member's group has gone on: what it commits is of an epoch that the member is not at any more."""

    code = 113
    fix = "Abort, iterate again, and do again what was not committed, with the group's metadata as it is then."


class GroupNotFoundError(KafkaliteError, LookupError):
    """There is no consumer group of this name: it has neither members nor offsets."""

    code = 69
    fix = "Check the name; store.groups() lists what there is. A group comes to be when its first member joins."


class GroupNotEmptyError(KafkaliteError):
    """The group has members, and what was asked for is for a group without any."""

    code = 68
    fix = "End its members first; a process that was killed counts for as long as nobody else has noticed."


class WorkerError(KafkaliteError, RuntimeError):
    """A pool of workers ended: a record failed for good and there is no dead letter topic, or no worker can start.

    `.record` is (topic, partition, offset) of the record, or None.
    """

    fix = "Mend the handler, or give dead_letter=; the record is handed out again by the next run."

    def __init__(self, message: str, record: tuple[str, int, int] | None = None) -> None:
        super().__init__(message)
        self.record = record


class TransactionStateError(KafkaliteError):
    """The call does not fit the state that the transaction is in."""

    code = 48
    fix = "Send through the transaction while one is open; begin another when it is over."


class DeliveryError(KafkaliteError):
    """Records sent by this producer were not committed; `.failures` holds one (record, error) each."""

    fix = "Look at each delivery's error; send again those that are retriable."

    def __init__(self, message: str, failures: tuple[tuple[Any, BaseException], ...] = ()) -> None:
        super().__init__(message)
        self.failures = failures


class OutcomeUnknownError(KafkaliteError):
    """The wait for a commit was cut short after its append: it may have happened or not."""

    retriable = True
    fix = "Read back before you append it again; a producer repeats by itself, and its repeats are recognised."


class KafkaTimeoutError(KafkaliteError, TimeoutError):
    """The time allowed ran out."""

    retriable = True
    code = 7
    fix = "Allow more time, or find out what holds it up: the message says."


class InvalidRecordStateError(KafkaliteError):
    """A record of a share group was acknowledged by somebody who does not hold it any more, or never did."""

    code = 121
    fix = "It is somebody else's by now, or done: allow more time with acquire_timeout_ms=, or take fewer at a time."


class ConcurrentUseError(KafkaliteError, RuntimeError):
    """Two threads use an object at once that serves one at a time."""

    fix = "Give each thread its own."


class ClosedError(KafkaliteError, ValueError):
    """The store, producer or iterator was closed."""

    fix = "Open it again; inside `with` blocks this cannot happen."


class ForkedError(KafkaliteError, RuntimeError):
    """The object belongs to the parent process of this forked child."""

    fix = "Make a new one in the child; stores and topics go on working there."


class UnsupportedError(KafkaliteError, NotImplementedError):
    """What was asked for cannot be done on this kind of store or platform."""

    code = 35
    fix = "The message says what can be done instead."


ERRORS: tuple[type[KafkaliteError], ...] = tuple(
    row for row in list(globals().values()) if isinstance(row, type) and issubclass(row, KafkaliteError)
)
__all__ += [row.__name__ for row in ERRORS]


@contextlib.contextmanager
def noted_on(error: BaseException | None, what: str) -> Iterator[None]:
    """An end that comes with `error`, if there is one: what fails in it is noted there, and raised otherwise."""
    try:
        yield
    except KafkaliteError as failure:
        if error is None:
            raise
        error.add_note(f"{what} failed as well: {failure}")
