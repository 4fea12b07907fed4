"""KafkaError and KafkaException, and what an error of kafkalite is called in them."""

import builtins
from typing import Final

import kafkalite
from kafkalite.compat.confluent_kafka.codes import ROWS

NAMES: Final = {code: name for code, name, _ in ROWS}
TEXTS: Final = {code: text for code, _, text in ROWS}


class _Codes(type):
    """Tells type checkers that every code of the table is an attribute of the class: `KafkaError._TIMED_OUT`."""

    def __getattr__(cls, name: str) -> int:
        raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")


class KafkaError(metaclass=_Codes):
    """An error as a value: a code, what it says, and whether it is fatal or worth trying again.

    It equals its code and orders by it. A message or a callback carries one; what is raised is `KafkaException`.
    """

    __slots__ = ("_code", "_fatal", "_reason", "_retriable", "_txn_requires_abort")

    def __init__(
        self,
        error: int,
        reason: str | None = None,
        fatal: bool = False,
        retriable: bool = False,
        txn_requires_abort: bool = False,
    ) -> None:
        if not isinstance(error, int):
            raise TypeError(f"{type(error).__name__!r} object cannot be interpreted as an integer")
        self._code = error
        self._reason = reason
        self._fatal = bool(fatal)
        self._retriable = bool(retriable)
        self._txn_requires_abort = bool(txn_requires_abort)

    def code(self) -> int:
        """The error code: Kafka's where it is above zero, librdkafka's own below."""
        return self._code

    def name(self) -> builtins.str:
        """The name of the code, such as "_TIMED_OUT"."""
        return NAMES.get(self._code, f"ERR_{self._code}?")

    def str(self) -> builtins.str:
        """What happened, in words."""
        return self._reason if self._reason is not None else TEXTS.get(self._code, f"Err-{self._code}?")

    def fatal(self) -> bool:
        """Whether the client cannot go on."""
        return self._fatal

    def retriable(self) -> bool:
        """Whether trying again can help."""
        return self._retriable

    def txn_requires_abort(self) -> bool:
        """Whether the transaction must be aborted."""
        return self._txn_requires_abort

    def __str__(self) -> builtins.str:
        fatal = "FATAL," if self._fatal else ""
        return f'KafkaError{{{fatal}code={self.name()},val={self._code},str="{self.str()}"}}'

    __repr__ = __str__

    def __bool__(self) -> bool:
        return True

    def __hash__(self) -> int:
        return self._code

    def __eq__(self, other: object) -> bool:
        return self._code == _code_of(other)

    def __ne__(self, other: object) -> bool:
        return self._code != _code_of(other)

    def __lt__(self, other: object) -> bool:
        return self._code < _code_of(other)

    def __le__(self, other: object) -> bool:
        return self._code <= _code_of(other)

    def __gt__(self, other: object) -> bool:
        return self._code > _code_of(other)

    def __ge__(self, other: object) -> bool:
        return self._code >= _code_of(other)


def _code_of(other: object) -> int:
    if isinstance(other, KafkaError):
        return other.code()
    if isinstance(other, int):
        return other
    raise TypeError(f"{type(other).__name__!r} object cannot be interpreted as an integer")


for _code, _name, _ in ROWS:
    setattr(KafkaError, _name, _code)


class KafkaException(Exception):  # noqa: N818  (the name is confluent-kafka's)
    """What calls raise; `args[0]` is the `KafkaError`."""


class IllegalStateException(RuntimeError):  # noqa: N818  (the name is confluent-kafka's)
    """A call that the state of a share consumer does not allow."""


class ConcurrentModificationException(RuntimeError):  # noqa: N818  (the name is confluent-kafka's)
    """Two threads use a share consumer at once."""


class Code:
    """The codes that this package itself gives, by name; all there are are attributes of `KafkaError`."""

    BAD_MSG: Final = -199
    FAIL: Final = -196
    UNKNOWN_PARTITION: Final = -190
    INVALID_ARG: Final = -186
    TIMED_OUT: Final = -185
    CONFLICT: Final = -173
    STATE: Final = -172
    NO_OFFSET: Final = -168
    NOENT: Final = -156
    PURGE_QUEUE: Final = -152
    FATAL: Final = -150
    UNSUPPORTED_FEATURE: Final = -165
    NOT_CONFIGURED: Final = -145
    FENCED: Final = -144
    AUTO_OFFSET_RESET: Final = -140
    PARTITION_EOF: Final = -191
    MSG_TIMED_OUT: Final = -192
    OFFSET_OUT_OF_RANGE: Final = 1
    UNKNOWN_TOPIC_OR_PART: Final = 3
    MSG_SIZE_TOO_LARGE: Final = 10
    ILLEGAL_GENERATION: Final = 22
    UNKNOWN_MEMBER_ID: Final = 25
    TOPIC_ALREADY_EXISTS: Final = 36
    INVALID_PARTITIONS: Final = 37
    INVALID_REPLICA_ASSIGNMENT: Final = 39
    INVALID_CONFIG: Final = 40
    INVALID_REQUEST: Final = 42
    SECURITY_DISABLED: Final = 54
    NON_EMPTY_GROUP: Final = 68
    GROUP_ID_NOT_FOUND: Final = 69
    ELECTION_NOT_NEEDED: Final = 84


def failed(code: int, reason: str | None = None) -> KafkaException:
    """A `KafkaException` of this code."""
    return KafkaException(KafkaError(code, reason))


def error_of(error: BaseException, prefix: str = "") -> KafkaError:
    """What an error of kafkalite is called here: Kafka's code where it has one, kafkalite's own words."""
    code = getattr(error, "code", None)
    if isinstance(error, kafkalite.KafkaTimeoutError):
        code = Code.TIMED_OUT
    if not isinstance(code, int):
        code = Code.FAIL
    return KafkaError(code, f"{prefix}{error}", retriable=bool(getattr(error, "retriable", False)))


def exception_of(error: BaseException, prefix: str = "") -> KafkaException:
    """The same as an exception."""
    return KafkaException(error_of(error, prefix))
