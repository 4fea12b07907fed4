"""Producer: confluent_kafka's, on a store. `produce` hands a record over; `poll` and `flush` report deliveries.

Every record stays counted (`len(producer)`) from `produce` until `poll` or `flush` has reported it, with a callback or
without, and `queue.buffering.max.messages` bounds that count: who never polls gets `BufferError`, as with librdkafka.

Below stands a `kafkalite.Producer`, which batches and commits; its deliveries wait here in one line:

    produce --> kafkalite's batches --> committed --> reported by poll, in the order of produce
"""
# ruff: noqa: SLF001  (as error.py)

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final, NamedTuple, Self

import kafkalite
from kafkalite.compat.confluent_kafka import properties
from kafkalite.compat.confluent_kafka.absent import absent_method
from kafkalite.compat.confluent_kafka.client import Local
from kafkalite.compat.confluent_kafka.cluster import Cluster
from kafkalite.compat.confluent_kafka.constants import (
    OFFSET_INVALID,
    PARTITION_UA,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
)
from kafkalite.compat.confluent_kafka.hashing import PARTITIONERS
from kafkalite.compat.confluent_kafka.kafka_error import (
    Code,
    KafkaError,
    KafkaException,
    error_of,
    exception_of,
    failed,
)
from kafkalite.compat.confluent_kafka.model import HeaderList, Message, TopicPartition
from kafkalite.compat.confluent_kafka.statistics import Statistics
from kafkalite.compat.confluent_kafka.transactions import Transactions

DeliveryCallback = Callable[[KafkaError | None, Message[bytes, bytes]], object]
Payload = str | bytes | None

CODECS: Final[Mapping[str, Any]] = {"none": "none", "gzip": "zstd", "snappy": "zstd", "lz4": "zstd", "zstd": "zstd"}
"""Kafka's codecs as a store's: it knows one, and readers never see which."""

INT64_MAX: Final = 2**63 - 1
BATCH_KEYS: Final = frozenset({"value", "key", "partition", "headers", "timestamp", "callback", "on_delivery"})
QUEUE_FULL: Final = "Local: Queue full"
ENDED: Final = (kafkalite.TransactionStateError, kafkalite.ProducerFencedError, kafkalite.FencedMemberError)
"""Why nothing of a transaction was written, other than that it could not be."""


class _Sent(NamedTuple):
    """A record on its way, and what its report will say."""

    delivery: Any
    report: DeliveryCallback | None
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    size: int
    began: float


class Producer(Local):
    """Sends records; confluent_kafka.Producer's methods, errors and callbacks. Safe to share between threads."""

    _client: ClassVar[properties.Client] = "producer"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take a configuration dictionary, keywords, or both; raises `KafkaException` (`_INVALID_ARG`), `TypeError`."""
        config = self._connect(args, kwargs)
        cluster = self._use_handle()
        self._config = config
        self._default_report: DeliveryCallback | None = config.callback("on_delivery")
        self._most = config["queue.buffering.max.messages"] or INT64_MAX
        self._most_bytes = config["queue.buffering.max.kbytes"] * 1024
        self._most_size: int = config["message.max.bytes"]
        self._choose = PARTITIONERS[config["partitioner"]]
        self._line: deque[_Sent] = deque()
        self._bytes = 0
        self._serving = threading.Lock()
        self._arrival = threading.Event()
        settings = _settings(config)
        self._producer = cluster.store.producer(**settings)
        self._end = weakref.finalize(self, _closed_quietly, self._producer)
        self._statistics = Statistics(config, "producer")
        own_id, limit = config["transactional.id"], config["transaction.timeout.ms"]
        self._transactions = Transactions(cluster, settings, own_id, limit)

    def __len__(self) -> int:
        return len(self._line) if self._lease is not None else 0

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()

    def _use(self) -> Cluster:
        if self._lease is None:
            raise RuntimeError("Producer has been closed")
        return self._lease.cluster

    # Producing

    def produce(
        self,
        topic: str,
        value: Payload = None,
        key: Payload = None,
        partition: int = PARTITION_UA,
        callback: DeliveryCallback | None = None,
        on_delivery: DeliveryCallback | None = None,
        timestamp: int = 0,
        headers: HeaderList | None = None,
    ) -> None:
        """Hand a record over; its delivery is reported by `poll` or `flush`, to `callback` (or `on_delivery`).

        Text is sent as UTF-8. `timestamp` is in milliseconds since 1970 UTC, 0 is now. A topic that is not there is
        created, with one partition. Raises `BufferError` when too many records are unreported, `KafkaException`
        (`_UNKNOWN_PARTITION`, `MSG_SIZE_TOO_LARGE`, `_STATE` outside of a transaction), `TypeError`, `RuntimeError`
        when the producer is closed.
        """
        cluster = self._use()
        if not isinstance(topic, str):
            raise TypeError(f"argument 1 must be str, not {type(topic).__name__}")
        value = value if value.__class__ is bytes else _payload(value)
        key = key if key is None or key.__class__ is bytes else _payload(key)
        for number in (partition, timestamp):
            if number.__class__ is not int:
                raise TypeError(f"{type(number).__name__!r} object cannot be interpreted as an integer")
        pairs = _pairs(headers) if headers is not None else ()
        size = (len(value) if value else 0) + (len(key) if key else 0)
        self._refuse(size)
        try:
            delivery = self._sent(cluster, topic, value, key, partition, pairs, timestamp)
        except kafkalite.KafkaTimeoutError as error:
            raise BufferError(QUEUE_FULL) from error
        except kafkalite.KafkaliteError as error:
            raise _refused(error) from error
        report = callback or on_delivery or self._default_report
        self._line.append(_Sent(delivery, report, topic, partition, key, value, size, time.monotonic()))
        self._bytes += size
        self._arrival.set()

    def _refuse(self, size: int) -> None:
        """Raise for a record that is too large, and when too many are unreported."""
        is_full = len(self._line) >= self._most or (self._line and self._bytes + size > self._most_bytes)
        if is_full and not self._transactions.is_open:  # only its end makes room, and it has a limit of its own
            raise BufferError(QUEUE_FULL)
        if size > self._most_size:
            raise failed(Code.MSG_SIZE_TOO_LARGE, "Unable to produce message: Broker: Message size too large")

    def _sent(
        self,
        cluster: Cluster,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        pairs: Any,
        timestamp: int,
    ) -> Any:
        """The delivery of a record that kafkalite's producer took; a topic may have been made anew since last time."""
        send = self._transactions.sender(self._producer.send)
        stamp = timestamp or None
        for attempt in (1, 2):
            count = cluster.known_count(topic)
            chosen = partition if partition != PARTITION_UA else self._choose(key, count)
            if chosen is not None and not 0 <= chosen < count:
                cluster.forget_topic(topic)
                if attempt == 1:
                    continue
                raise failed(Code.UNKNOWN_PARTITION, "Unable to produce message: Local: Unknown partition")
            try:
                return send(topic, value, key=key, partition=chosen, timestamp_ms=stamp, headers=pairs)
            except (kafkalite.UnknownTopicError, kafkalite.UnknownPartitionError):
                cluster.forget_topic(topic)
                if attempt == 2:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def produce_batch(
        self,
        topic: str,
        messages: list[dict[str, Any]],
        partition: int = PARTITION_UA,
        callback: DeliveryCallback | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> int:
        """Hand many records over: dictionaries of `value`, `key`, `headers`, `partition` and `callback`.

        Returns how many were taken; one that was refused bears its `KafkaError` under `_error`.
        """
        self._use()
        if not isinstance(messages, list):
            raise TypeError("messages must be a list")
        for message in messages:
            if not isinstance(message, dict):
                raise TypeError("messages must be a list of dicts")
            if message.get("timestamp"):
                raise NotImplementedError("Message timestamps are not currently supported in batch mode")
        return sum(self._produced(topic, message, partition, callback or on_delivery) for message in messages)

    def _produced(self, topic: str, message: dict[str, Any], partition: int, report: DeliveryCallback | None) -> bool:
        fields = {name: value for name, value in message.items() if name in BATCH_KEYS}
        own = fields.pop("callback", None) or fields.pop("on_delivery", None)
        try:
            self.produce(topic, **{"partition": partition, **fields, "callback": own or report})
        except BufferError:
            message["_error"] = KafkaError(KafkaError._QUEUE_FULL)
        except KafkaException as error:
            message["_error"] = error.args[0]
        else:
            return True
        return False

    # Reporting

    def poll(self, timeout: float = -1) -> int:
        """Report what was delivered or failed, waiting up to `timeout` seconds (-1: for ever) for something to report.

        Returns how many were reported. What a callback raises is raised here.
        """
        self._use()
        deadline = _deadline(timeout)
        self._statistics.emit_if_due(self._counters)
        while True:
            served = self._serve()
            left = deadline - time.monotonic()
            if served or left <= 0:
                return served
            self._wait(left)

    def _wait(self, seconds: float) -> None:
        """Wait until the first in line is delivered, or for one to come."""
        seconds = min(seconds, self._statistics.seconds_left(), threading.TIMEOUT_MAX)
        self._arrival.clear()
        if not self._line:
            self._arrival.wait(seconds)
        elif self._transactions.is_open:  # its records are delivered when it is committed, by another call
            time.sleep(min(seconds, 0.01))
        else:
            with suppress(IndexError, kafkalite.KafkaTimeoutError):
                self._line[0].delivery.exception(seconds)

    def _serve(self) -> int:
        """Report all that is done, in order."""
        served = 0
        while True:
            with self._serving:
                if not self._line or not self._line[0].delivery.done():
                    return served
                sent = self._line.popleft()
                self._bytes -= sent.size
            served += 1
            self._report(sent)

    def _report(self, sent: _Sent) -> None:
        error = sent.delivery.exception(0)
        if error is not None and isinstance(error, kafkalite.StoreFailedError | kafkalite.StoreFullError):
            tell = self._config.callback("error_cb")
            if tell is not None:
                tell(error_of(error))
        if sent.report is not None:
            sent.report(None if error is None else _report_error(error), self._message(sent, error))

    def _message(self, sent: _Sent, error: BaseException | None) -> Message[bytes, bytes]:
        latency = time.monotonic() - sent.began
        if error is not None:
            where = (sent.topic, sent.partition, OFFSET_INVALID, sent.key, sent.value, None, _report_error(error))
            return Message(*where, (TIMESTAMP_NOT_AVAILABLE, -1), latency)
        done: kafkalite.RecordMetadata = sent.delivery.result(0)
        kind = TIMESTAMP_CREATE_TIME
        with suppress(kafkalite.KafkaliteError):
            if self._use().known_topic(sent.topic).settings["message_timestamp_type"] == "LogAppendTime":
                kind = TIMESTAMP_LOG_APPEND_TIME
        place = (sent.topic, done.partition, done.offset, sent.key, sent.value, None, None)
        return Message(*place, (kind, done.timestamp_ms), latency)

    def flush(self, timeout: float = -1) -> int:
        """Commit and report all records, waiting up to `timeout` seconds (-1: for ever); how many are left."""
        self._use()
        deadline = _deadline(timeout)
        if not self._transactions.is_open:
            with suppress(kafkalite.KafkaTimeoutError):
                self._producer.flush(None if timeout < 0 else timeout)
        while self._line:
            self._serve()
            left = deadline - time.monotonic()
            if not self._line or left <= 0 or self._transactions.is_open:
                break
            self._wait(left)
        return len(self._line)

    purge = absent_method("Producer.purge")

    def _counters(self) -> dict[str, Any]:
        return {
            "msg_cnt": len(self._line),
            "msg_size": self._bytes,
            "msg_max": self._most,
            "msg_size_max": self._most_bytes,
        }

    # Transactions

    def init_transactions(self, timeout: float = -1) -> None:
        """Claim the `transactional.id`; whoever had it is fenced.

        As all calls of transactions it raises `KafkaException`: `_NOT_CONFIGURED` without `transactional.id`, `_STATE`
        where it has no place, and otherwise the error says what to do about it: `retriable()`, `txn_requires_abort()`,
        or `fatal()`, such as `_FENCED`.
        """
        self._use()
        self._transactions.init(timeout)

    def begin_transaction(self) -> None:
        """From now on what is produced belongs to a transaction."""
        self._use()
        self._transactions.begin()

    def commit_transaction(self, timeout: float = -1) -> None:
        """Commit what was produced and the offsets that were sent with it, as one; reports the deliveries.

        Waits up to `timeout` seconds for the store to be free (-1: `transaction.timeout.ms`). After `_TIMED_OUT`
        nothing has happened, and it may be called again.
        """
        self._use()
        self._transactions.commit(timeout)
        self._serve()

    def abort_transaction(self, timeout: float = -1) -> None:
        """Drop what was produced since the transaction began; reports it as purged."""
        self._use()
        self._transactions.abort(timeout)
        self._serve()

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: object, timeout: float = -1
    ) -> None:
        """Commit a consumer's positions with the transaction; `group_metadata` is `consumer_group_metadata()`'s.

        The member must be the one that it was then, now and at the commit: else `UNKNOWN_MEMBER_ID`,
        `ILLEGAL_GENERATION`, and the transaction must be aborted.
        """
        self._use()
        self._transactions.send_offsets(positions, group_metadata, timeout)

    # Ending

    def close(self) -> bool:
        """Deliver and report what is left, then let go of the store; True."""
        if self._lease is None:
            return True
        self._transactions.close()
        self.flush()
        self._end()
        self._release()
        return True


def _settings(config: properties.Config) -> dict[str, Any]:
    """Properties of librdkafka as settings of a `kafkalite.Producer`."""
    return {
        "linger_ms": config["queue.buffering.max.ms"],
        "batch_size": config["batch.size"],
        "buffer_memory": max(1, config["queue.buffering.max.kbytes"]) * 1024,
        "delivery_timeout_ms": config["message.timeout.ms"] or INT64_MAX // 1_000_000,
        "compression_type": CODECS[config["compression.codec"]],
        "acks": 0 if config["request.required.acks"] == 0 else "all",
    }


def _closed_quietly(producer: kafkalite.Producer) -> None:
    """Commit what is left of a producer that nobody closed; nobody is there to be told of a failure."""
    with suppress(kafkalite.KafkaliteError):
        producer.close()


def _deadline(timeout: float) -> float:
    if not isinstance(timeout, int | float):
        raise TypeError(f"must be real number, not {type(timeout).__name__}")
    return time.monotonic() + timeout if timeout >= 0 else float("inf")


def _payload(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytearray | memoryview):
        raise TypeError(f"argument 2 must be read-only bytes-like object, not {type(value).__name__}")
    raise TypeError(f"a bytes-like object is required, not {type(value).__name__!r}")


def _pairs(headers: Any) -> list[tuple[str, bytes | None]]:
    """Headers as kafkalite takes them; text is UTF-8."""
    if not isinstance(headers, dict | list):
        raise TypeError(f"expected headers to be dict or list of (key, value) tuples, not {type(headers).__name__}")
    pairs: list[tuple[str, bytes | None]] = []
    for pair in headers.items() if isinstance(headers, dict) else headers:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError("Headers are expected to be a list of (key, value) tuples")
        name, value = pair
        if value is not None and not isinstance(value, str | bytes):
            raise TypeError(f"expected header value to be None, binary, or unicode string, not {type(value).__name__}")
        pairs.append((name.decode() if isinstance(name, bytes) else name, _payload(value)))
    return pairs


def _refused(error: kafkalite.KafkaliteError) -> Exception:
    if isinstance(error, kafkalite.ClosedError):
        return RuntimeError("Producer has been closed")
    if isinstance(error, kafkalite.TransactionStateError):  # another thread has just ended it
        return failed(Code.STATE, "Unable to produce message: Local: Erroneous state")
    return exception_of(error, "Unable to produce message: ")


def _report_error(error: BaseException) -> KafkaError:
    """What a delivery report says of a failure: some have a name of their own there."""
    if isinstance(error, kafkalite.KafkaTimeoutError):
        return KafkaError(Code.MSG_TIMED_OUT)
    if isinstance(error, ENDED):
        return KafkaError(Code.PURGE_QUEUE)
    return error_of(error)
