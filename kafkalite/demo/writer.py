"""A writing process, made to be killed: `python -m kafkalite.demo.writer STORE TOPIC ACKNOWLEDGEMENTS PARENT`.

Appends January's flights to the topic, one commit each, again and again until it is killed (or orphaned: PARENT is
its parent's pid). After each acknowledgement, and only then, it adds a line to a file outside the store: partition,
offset and CRC-32 of the value. One `write` per line, straight to the system: once made it survives the process, so
at the kill the file may lack the acknowledgement of the one append in hand, never hold one too many.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

import kafkalite
from kafkalite.demo.flights import read_flights


class Acknowledgement(NamedTuple):
    """One acknowledged append, as a line of the file."""

    partition: int
    offset: int
    checksum: int

    def line(self) -> bytes:
        """As it stands in the file."""
        return b"%d %d %d\n" % self


def acknowledgements(data: bytes) -> Iterator[Acknowledgement]:
    """Those in a file's contents; a last line without its newline was cut off and does not count."""
    for line in data.split(b"\n")[:-1]:
        yield Acknowledgement(*map(int, line.split()))


def main(path: str, name: str, acknowledgement_path: str, parent: str) -> None:
    """Append and acknowledge until killed, or until `parent` is no longer the parent process."""
    flights = read_flights()
    file = os.open(acknowledgement_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with kafkalite.connect(path, create=False) as store:
        topic = store.topic(name, create=False)
        for row in cycle(flights.rows):
            metadata = topic.append(row.line, key=row.key, timestamp_ms=row.timestamp_ms)
            checksum = zlib.crc32(row.line)
            os.write(file, Acknowledgement(metadata.partition, metadata.offset, checksum).line())
            if os.getppid() != int(parent):
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
