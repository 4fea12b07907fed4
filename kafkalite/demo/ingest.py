"""Ingestion: a file of flights into the partitions of a topic, through a producer.

The rows go in by `send_many`, a chunk at a time, and each chunk is waited for: the progress shown and the
time taken are of acknowledged records, on disk as the store's durability says, not of records handed over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from kafkalite import Store, Topic
from kafkalite.demo.flights import Flight

CHUNK: Final = 3_000
"""Rows between two acknowledgements: some 35 KB for each of 8 partitions."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What went in: `counts` by partition; `seconds` from the first send to the last acknowledgement."""

    counts: dict[int, int]
    seconds: float


def ingest(store: Store, topic: Topic[Any, Any], rows: Sequence[Flight], advance: Callable[[int], object]) -> Ingested:
    """Send all rows to `topic`; `advance(n)` is called when n more are acknowledged."""
    counts = dict.fromkeys(range(topic.partition_count), 0)
    started = perf_counter()
    with store.producer() as producer:
        for base in range(0, len(rows), CHUNK):
            lines, keys, timestamps_ms = zip(*rows[base : base + CHUNK], strict=True)
            delivery = producer.send_many(topic, lines, keys=keys, timestamps_ms=timestamps_ms)
            for partition, offsets in delivery.result().items():
                counts[partition] += len(offsets)
            advance(len(lines))
    return Ingested(counts, perf_counter() - started)
