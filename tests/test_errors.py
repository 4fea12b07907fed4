"""The error table: complete, documented, and true to Python's and Kafka's own errors."""

import inspect
import pickle

import pytest

from kafkalite import errors
from kafkalite.errors import ERRORS, KafkaliteError

# https://kafka.apache.org/protocol#protocol_error_codes
KAFKA_CODES = {
    1: "OFFSET_OUT_OF_RANGE",
    2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION",
    7: "REQUEST_TIMED_OUT",
    10: "MESSAGE_TOO_LARGE",
    17: "INVALID_TOPIC_EXCEPTION",
    24: "INVALID_GROUP_ID",
    35: "UNSUPPORTED_VERSION",
    36: "TOPIC_ALREADY_EXISTS",
    37: "INVALID_PARTITIONS",
    40: "INVALID_CONFIG",
    45: "OUT_OF_ORDER_SEQUENCE_NUMBER",
    56: "KAFKA_STORAGE_ERROR",
    48: "INVALID_TXN_STATE",
    68: "NON_EMPTY_GROUP",
    69: "GROUP_ID_NOT_FOUND",
    90: "PRODUCER_FENCED",
    110: "FENCED_MEMBER_EPOCH",
    113: "STALE_MEMBER_EPOCH",
    121: "INVALID_RECORD_STATE",
}

PYTHONS_BASES = {
    "ConfigError": ValueError,
    "InvalidPartitionsError": ValueError,
    "InvalidTopicError": ValueError,
    "InvalidGroupIdError": ValueError,
    "StoreNotFoundError": FileNotFoundError,
    "NotAStoreError": OSError,
    "StoreExistsError": FileExistsError,
    "StorePermissionError": PermissionError,
    "StoreLocationError": OSError,
    "StoreSettingsError": ValueError,
    "StoreBusyError": TimeoutError,
    "StoreFullError": OSError,
    "TopicSettingsError": ValueError,
    "UnknownTopicError": LookupError,
    "UnknownPartitionError": LookupError,
    "GroupNotFoundError": LookupError,
    "WorkerError": RuntimeError,
    "RecordTooLargeError": ValueError,
    "SerializationError": TypeError,
    "DeserializationError": ValueError,
    "OffsetOutOfRangeError": LookupError,
    "KafkaTimeoutError": TimeoutError,
    "ConcurrentUseError": RuntimeError,
    "ClosedError": ValueError,
    "ForkedError": RuntimeError,
    "UnsupportedError": NotImplementedError,
}

RETRIABLE = {
    "StoreFailedError",
    "StoreBusyError",
    "StoreFullError",
    "OutcomeUnknownError",
    "KafkaTimeoutError",
}

every = pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)


def test_the_table_has_every_error_of_the_module_and_nothing_else() -> None:
    defined = {
        row
        for _, row in inspect.getmembers(errors, inspect.isclass)
        if issubclass(row, BaseException) and row.__module__ == errors.__name__
    }
    assert set(ERRORS) == defined
    assert len(ERRORS) == len(set(ERRORS))
    assert ERRORS[0] is KafkaliteError
    assert set(errors.__all__) == {"ERRORS", *(row.__name__ for row in ERRORS)}


def test_the_table_stands_in_the_order_of_the_source() -> None:
    lines = [inspect.getsourcelines(row)[1] for row in ERRORS]
    assert lines == sorted(lines)


@every
def test_a_row_says_what_it_means_and_how_to_mend_it(error: type[KafkaliteError]) -> None:
    assert issubclass(error, KafkaliteError)
    assert error.__doc__
    assert error.__doc__ != error.__base__.__doc__
    if error is not KafkaliteError:
        assert error.__name__.endswith("Error")
        assert "fix" in vars(error)
        assert error.fix.endswith(".")


@every
def test_whether_trying_again_can_help_is_said(error: type[KafkaliteError]) -> None:
    assert error.retriable is (error.__name__ in RETRIABLE)


@every
def test_a_code_is_one_of_kafkas(error: type[KafkaliteError]) -> None:
    assert error.code is None or error.code in KAFKA_CODES


def test_the_codes_that_clients_act_on() -> None:
    assert errors.OffsetOutOfRangeError.code == 1
    assert errors.UnknownTopicError.code == errors.UnknownPartitionError.code == 3
    assert errors.RecordTooLargeError.code == 10
    assert errors.SequenceError.code == 45
    assert errors.ProducerFencedError.code == 90
    assert errors.OffsetConflictError.code is None


@every
def test_an_error_is_also_the_python_error_that_a_caller_would_catch(error: type[KafkaliteError]) -> None:
    expected: type[BaseException] = PYTHONS_BASES.get(error.__name__, KafkaliteError)
    assert issubclass(error, expected)
    if error.__name__ not in PYTHONS_BASES:
        assert not issubclass(error, (OSError, ValueError, LookupError, TypeError, RuntimeError))


@every
def test_the_message_is_what_was_said(error: type[KafkaliteError]) -> None:
    raised = error("what, which value, how to fix")
    assert str(raised) == "what, which value, how to fix"


@every
def test_an_error_crosses_to_another_process(error: type[KafkaliteError]) -> None:
    raised = error("what, which value, how to fix")
    back = pickle.loads(pickle.dumps(raised))
    assert type(back) is error
    assert str(back) == str(raised)


def test_what_an_error_carries_crosses_with_it() -> None:
    conflict = pickle.loads(pickle.dumps(errors.OffsetConflictError("conflict", expected=3, actual=5)))
    assert (conflict.expected, conflict.actual) == (3, 5)
    undecodable = pickle.loads(pickle.dumps(errors.DeserializationError("undecodable", ("raw", 1))))
    assert undecodable.record == ("raw", 1)
    failures = (("record", errors.RecordTooLargeError("too large")),)
    delivery = pickle.loads(pickle.dumps(errors.DeliveryError("one failed", failures)))
    assert delivery.failures[0][0] == "record"
    assert isinstance(delivery.failures[0][1], errors.RecordTooLargeError)


def test_catching_the_base_catches_nothing_of_pythons() -> None:
    assert KafkaliteError.__bases__ == (Exception,)
    assert not any(issubclass(base, KafkaliteError) for base in PYTHONS_BASES.values())
