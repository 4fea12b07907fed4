"""Code written for confluent-kafka, on a store: only the import is another.

    python examples/confluent_compat.py

`bootstrap.servers` names a file instead of a cluster; KAFKALITE_BOOTSTRAP=file:shop.klite in the environment would do
the same for a program that is not to be touched at all.
"""

import tempfile
from pathlib import Path

from kafkalite.compat.confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from kafkalite.compat.confluent_kafka.admin import AdminClient, NewTopic


def delivered(error: KafkaError | None, message: Message[bytes, bytes]) -> None:
    """What `poll` and `flush` call for each record."""
    if error is not None:
        raise KafkaException(error)
    print(f"delivered to {message.topic()} [{message.partition()}] @ {message.offset()}")


def main(servers: str) -> None:
    """Create a topic, produce, and consume in a group that goes on where it stopped."""
    conf = {"bootstrap.servers": servers}
    with AdminClient(conf) as admin:
        admin.create_topics([NewTopic("orders", num_partitions=1, replication_factor=1)])["orders"].result()

    producer = Producer(conf | {"acks": "all", "enable.idempotence": True})
    for number in range(3):
        producer.produce("orders", key="alice", value=f"order {number}", callback=delivered)
    producer.flush(timeout=10)
    producer.close()

    group = {"group.id": "billing", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    for count in (2, 1):
        with Consumer(conf | group) as consumer:
            consumer.subscribe(["orders"])
            for message in consumer.consume(count, timeout=10):
                print(f"consumed {message.value().decode()} of {message.key().decode()}")
            consumer.commit(asynchronous=False)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(f"file:{Path(directory) / 'shop.klite'}")
