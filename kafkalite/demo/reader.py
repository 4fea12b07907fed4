"""A reading process: `python -m kafkalite.demo.reader STORE TOPIC`.

Opens the store, says "ready", waits for a line on its standard input, then reads the whole topic as fast as it can
and prints one line of JSON: `count`, `size` (bytes of the values), `seconds` of the reading alone, and `digests`,
the SHA-256 of each partition's values in the order of their offsets. The digests are made after the clock has
stopped: they are the proof, not the work.
"""

import json
import sys
from time import perf_counter

import kafkalite
from kafkalite.demo.flights import sha256


def read_whole(store: kafkalite.Store, name: str) -> dict[str, object]:
    """Read every record of the topic and return the answer described above."""
    topic = store.topic(name, create=False)
    values: list[list[bytes]] = [[] for _ in range(topic.partition_count)]
    started = perf_counter()
    for record in topic.read():
        values[record.partition].append(record.value or b"")
    seconds = perf_counter() - started
    return {
        "count": sum(map(len, values)),
        "size": sum(len(value) for partition in values for value in partition),
        "seconds": seconds,
        "digests": [sha256(partition) for partition in values],
    }


def main(path: str, name: str) -> None:
    """Say "ready", wait for the word, read, answer."""
    with kafkalite.connect(path, create=False) as store:
        print("ready", flush=True)
        if sys.stdin.readline():  # the end of the input instead: whoever asked is gone
            print(json.dumps(read_whole(store, name)))


if __name__ == "__main__":
    main(*sys.argv[1:])
