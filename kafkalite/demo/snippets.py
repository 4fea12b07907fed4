"""The few lines of Python that do what the demo did, as it prints them.

Each goes on where the one before stopped, and the tests run them in this order: what is printed is what
works. `$source`, `$store`, `$partitions` and `$start` stand for the demo's own; lines stay within 70 columns.
"""

from string import Template
from typing import Final

INGEST: Final = Template("""\
import kafkalite
from kafkalite.demo.flights import read_flights

rows = read_flights($source).rows
lines, keys, times = zip(*rows)   # bytes, bytes or None, milliseconds
with kafkalite.connect("$store") as store:
    flights = store.topic("flights", partitions=$partitions)
    with store.producer() as producer:
        producer.send_many(flights, lines, keys=keys,
                           timestamps_ms=times)
""")

READ: Final = Template("""\
with kafkalite.connect("$store") as store:     # any process
    for record in store.topic("flights").read():
        print(record.partition, record.offset, record.value)
""")

REPLAY: Final = Template("""\
from datetime import UTC, datetime

with kafkalite.connect("$store") as store:
    start = datetime($start, tzinfo=UTC)
    for record in store.topic("flights").read(start=start):
        print(record.timestamp, record.value)
""")

SUMMARY: Final = Template("""\
from collections import Counter

with kafkalite.connect("$store") as store:
    records = store.topic("flights").read()
    print(Counter(record.value.split(b",")[9] for record in records))
""")

CRASH: Final = Template("""\
with kafkalite.connect("$store") as store:
    proof = store.topic("crash-proof")
    for line in lines[:100]:
        metadata = proof.append(line)  # returns when it is on disk
        print(metadata.partition, metadata.offset)
    assert store.check().ok            # after SIGKILL as well
""")

GROUP: Final = Template("""\
with kafkalite.connect("$store") as store:     # in each process
    with store.consumer_group("delays", ["flights"]) as group:
        for record in group.records(until="end"):
            print(record.partition, record.offset)
""")

ALL: Final = (INGEST, READ, REPLAY, SUMMARY, CRASH, GROUP)
"""In the order of the demo."""
