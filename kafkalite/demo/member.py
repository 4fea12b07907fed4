"""A member of a consumer group: `python -m kafkalite.demo.member STORE TOPIC GROUP LOG PACE`.

Joins, says "ready", waits for a line on its standard input, then works on what its partitions hold, taking PACE seconds
for each record, until its input ends. When a record is done it adds a line to the file LOG: partition, offset, and the
monotonic clock in nanoseconds, which all processes of a machine share. One `write` each: once made it survives the
process, which is made to be killed.
"""

import os
import sys
import threading
from collections.abc import Iterator
from time import monotonic_ns, sleep
from typing import Any, NamedTuple

import kafkalite


class Done(NamedTuple):
    """One record that was worked on, as a line of the file; `at` in nanoseconds."""

    partition: int
    offset: int
    at: int

    def line(self) -> bytes:
        """As it stands in the file."""
        return b"%d %d %d\n" % self


def done(data: bytes) -> Iterator[Done]:
    """Those in a file's contents; a last line without its newline was cut off and does not count."""
    for line in data.split(b"\n")[:-1]:
        yield Done(*map(int, line.split()))


def main(path: str, name: str, group_id: str, log_path: str, pace: str) -> None:
    """Join, say "ready", wait for the word, work until the input ends."""
    file = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with kafkalite.connect(path, create=False) as store, store.consumer_group(group_id, name) as group:
        print("ready", flush=True)
        if not sys.stdin.readline():
            return
        threading.Thread(target=_stop_at_end, args=(group,), daemon=True).start()
        for record in group:
            sleep(float(pace))
            os.write(file, Done(record.partition, record.offset, monotonic_ns()).line())
    print("{}")


def _stop_at_end(group: Any) -> None:
    """End the loop when the input ends."""
    sys.stdin.read()
    group.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
