"""A user's program, as a type checker must see it: it is checked, never run.

Every `assert_type` holds, and every line marked error is rejected: `warn_unused_ignores` complains when it is not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, assert_type

import msgspec

import kafkalite
from kafkalite import Delivery, Record, RecordBatch, RecordMetadata, Serde, Topic


@dataclass
class Order:
    id: int
    amount: float


class Placed(msgspec.Struct, tag=True):
    id: int


class Paid(msgspec.Struct, tag=True):
    id: int


class Line(TypedDict):
    text: str


class Reversed:
    """A serde of the user's own."""

    def serialize(self, value: str, /) -> bytes:
        return value[::-1].encode()

    def deserialize(self, data: bytes | None, /) -> str:
        return (data or b"").decode()[::-1]


def handle(record: Record[bytes, Order]) -> None: ...


with kafkalite.connect("shop.klite", durability="interval", flush_interval_ms=50) as store:
    # Topics
    assert_type(store.topic("raw"), Topic[bytes, bytes | None])
    orders = store.topic("orders", partitions=3, value=Order)
    assert_type(orders, Topic[bytes, Order])
    assert_type(store.topic("orders", key=str, value=Order), Topic[str, Order])
    assert_type(store.topic("keyed", key=str), Topic[str, bytes | None])
    assert_type(store.topic("names", value=str, retention_ms=5), Topic[bytes, str])
    assert_type(store.topic("lines", value=Line), Topic[bytes, Line])
    assert_type(store.topic("own", value=Reversed()), Topic[bytes, str])
    assert_type(store.topic("anything", value=kafkalite.JSON), Topic[bytes, Any])
    assert_type(store.topic("packed", value=kafkalite.MSGPACK), Topic[bytes, Any])
    assert_type(store.topic("table", key=str, value=kafkalite.optional(Order)), Topic[str, Order | None])
    events: Topic[str, Placed | Paid] = store.topic("events", key=str, value=kafkalite.json(Placed | Paid))
    serde: Serde[str] = Reversed()
    store.topic("dotted", config={"retention.ms": 5})
    store.topic("typo", retenton_ms=5)  # type: ignore[call-overload]  # error
    store.topic("typed", retention_ms="5")  # type: ignore[call-overload]  # error
    orders.alter(partitions=6, retention_ms=5)
    orders.alter(partitions="6")  # type: ignore[arg-type]  # error
    store.alter(durability="sometimes")  # type: ignore[arg-type]  # error
    assert_type(store.topics(), list[str])

    # Appending
    assert_type(orders.append(Order(1, 42.0), key=b"alice", headers={"source": b"web"}), RecordMetadata)
    assert_type(orders.append_many([Order(1, 2.0)], keys=[None]), dict[int, range])
    events.append(Placed(1), key="alice")
    events.append(Paid(1), key="alice", expected_end_offset=1, partition=0)
    orders.append(None)  # type: ignore[arg-type]  # error: nulls need optional()
    orders.append(Order(1, 42.0), key="alice")  # type: ignore[arg-type]  # error
    store.topic("table", key=str, value=kafkalite.optional(Order)).append(None, key="gone")

    # Producing
    with store.producer(linger_ms=1, compression_type="zstd") as producer:
        assert_type(producer.send(orders, Order(1, 42.0), key=b"alice"), Delivery[RecordMetadata])
        assert_type(producer.send(orders, Order(1, 42.0)).result(timeout=5), RecordMetadata)
        producer.send("orders", b"{}")
        producer.send("orders", None, key=b"gone")
        producer.send(orders, Placed(1))  # type: ignore[misc]  # error
        producer.send("orders", "text")  # type: ignore[call-overload]  # error
        assert_type(producer.send_many(orders, [Order(1, 2.0)]).result(), dict[int, range])
        producer.send_many(orders, (Order(number, 1.0) for number in range(9)), keys=[b"k"] * 9)
        producer.send(orders, Order(1, 1.0)).add_done_callback(lambda delivery: print(delivery.result().offset))
    store.producer(linger=1)  # type: ignore[call-arg]  # error

    # Reading
    for record in orders.read(start="earliest", until="end"):
        assert_type(record, Record[bytes, Order])
        assert_type(record.key, bytes | None)
        assert_type(record.timestamp, datetime)
        handle(record)
    assert_type(orders.read(0, start=5, until=9), Iterator[Record[bytes, Order]])
    orders.read(start={0: 5}, until={0: 9})
    orders.read(start=timedelta(hours=1), until=datetime.now(UTC))
    orders.read(start="first")  # type: ignore[arg-type]  # error
    for batch in orders.batches():
        assert_type(batch, RecordBatch[bytes, Order])
        assert_type(batch.values, Sequence[Order])
        assert_type(batch.keys, Sequence[bytes | None])
        assert_type(batch[0], Record[bytes, Order])
        assert_type(batch[1:], list[Record[bytes, Order]])
    for event in events.tail(3):
        match event.value:
            case Placed(id=number) | Paid(id=number):
                assert_type(number, int)
    for raw in store.topic("raw").read(0, start=5, until=None):
        if raw.value is not None:
            print(raw.value.decode(), raw.timestamp.isoformat())
    for mixed in store.read([orders, "raw"]):
        assert_type(mixed, Record[Any, Any])
    try:
        next(orders.read())
    except kafkalite.DeserializationError as error:
        print(error.record)
    assert_type(store.check().ok, bool)
