"""Programs written for confluent-kafka run on a store with one import changed, and nothing else.

`samples/` holds them as they were published: they name a cluster at localhost:9092, and `KAFKALITE_BOOTSTRAP`
replaces it. On Apache Kafka the same programs, unchanged but for the address, say the same.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite

SAMPLES = Path(__file__).with_name("samples")
HOME = Path(kafkalite.__file__).parent.parent
CHANGED = "from kafkalite.compat.confluent_kafka import"
RECORD = 'value=b\'{"type": "OrderPlaced", "orderId": "order-7829"}\', partition=0, offset=0'


def started(name: str, old: str, new: str, **variables: str) -> "subprocess.Popen[str]":
    """A sample with one thing changed."""
    text = (SAMPLES / f"{name}.txt").read_text()
    assert text.count(old) == 1
    return subprocess.Popen(
        [sys.executable, "-u", "-c", text.replace(old, new)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HOME), **variables},
    )


def on_store(name: str, store: Path) -> "subprocess.Popen[str]":
    return started(name, "from confluent_kafka import", CHANGED, KAFKALITE_BOOTSTRAP=f"file:{store}")


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize("layout", ["shop.klite", "shop"])
def test_samples_of_a_producer_and_a_consumer(tmp_path: Path, layout: str) -> None:
    store = tmp_path / layout
    with on_store("producer", store) as producer:
        out, err = producer.communicate(timeout=60)
    assert (out, err, producer.returncode) == ("Delivered to order-events [0] @ 0\n", "", 0)
    with on_store("consumer", store) as consumer:
        assert RECORD in first_line(consumer)
        with on_store("producer", store) as producer:
            assert producer.communicate(timeout=60)[0] == "Delivered to order-events [0] @ 1\n"
        assert "offset=1" in first_line(consumer)
        consumer.send_signal(signal.SIGINT)
        _, err = consumer.communicate(timeout=60)
    assert err.rstrip().endswith("KeyboardInterrupt")
    with kafkalite.connect(store, create=False) as opened:
        with opened.consumer_group("order-processing-group", ["order-events"]) as group:
            assert set(group.committed().values()) <= {1, 2}
        assert opened.check().ok


@pytest.mark.long
@pytest.mark.needs("java", "mvn")
def test_samples_say_the_same_on_apache_kafka(kafka: str) -> None:
    with started("producer", "localhost:9092", kafka) as producer:
        delivered, _ = producer.communicate(timeout=60)
    partition = int(delivered.partition("[")[2].partition("]")[0])
    assert delivered == f"Delivered to order-events [{partition}] @ 0\n"
    with started("consumer", "localhost:9092", kafka) as consumer:
        assert RECORD.replace("partition=0", f"partition={partition}") in first_line(consumer)
        consumer.send_signal(signal.SIGINT)
        assert consumer.communicate(timeout=60)[1].rstrip().endswith("KeyboardInterrupt")
