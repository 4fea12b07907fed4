"""Quick start: write records of a type into a topic, read them back.

    python examples/quick_start.py

A store is one file. Nothing runs beside this script: no server, no daemon.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import kafkalite


@dataclass
class Order:
    """What the topic's values are: stored as JSON, checked when read."""

    id: int
    amount: float


def main() -> None:
    """Write three orders, read them back."""
    with (
        tempfile.TemporaryDirectory() as directory,
        kafkalite.connect(Path(directory) / "shop.klite") as store,
    ):
        orders = store.topic("orders", partitions=3, key=str, value=Order)  # get or create

        # append: one record, on disk when the call returns.
        metadata = orders.append(Order(1, 42.0), key="alice")
        print(f"order 1 is record {metadata.offset} of partition {metadata.partition}")

        # A producer batches: fast for many records. Leaving the block flushes, and raises what failed.
        with store.producer() as producer:
            producer.send(orders, Order(2, 7.5), key="bob")
            producer.send(orders, Order(3, 12.0), key="alice")

        # The same key goes to the same partition, and a partition keeps its order.
        for record in orders.read():
            print(f"{record.key} ordered {record.value.id} for {record.value.amount}")

        print("total:", sum(record.value.amount for record in orders.read()))


if __name__ == "__main__":
    main()
