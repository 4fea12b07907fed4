"""The demo's data: departures from New York as records.

A file of flights is CSV, the columns of nycflights13 in its order, plain or compressed (gzip, zip, zstandard;
told apart by their first bytes, not by the file's name). Each line after the header becomes one record:

    value      the line's bytes without the newline, untouched
    key        the aircraft's tail number; null where the file says NA (2,512 cancelled flights of the year)
    timestamp  the scheduled departure's hour in UTC (the column `time_hour`), in milliseconds

Invariant: the values, each with its newline, put in the file's order, are the file again, byte for byte.
Partitions keep that order only within each, so `weave` puts them back together along the source's own lines.

Why lines and not parsed rows: what went in can be compared with what comes out by a checksum that any tool
prints. January (27,004 lines) is packaged; see the README beside it for source and licence.
"""

import gzip
import hashlib
import io
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import zstandard

from kafkalite import ConfigError

PACKAGED: Final = "flights-2013-01.csv.zst"
PACKAGED_COUNT: Final = 27_004

HEADER: Final = (
    b"year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,"
    b"carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
)
COLUMN: Final = {name.decode(): index for index, name in enumerate(HEADER.split(b","))}
MISSING: Final = b"NA"

_TAIL_NUMBER: Final = COLUMN["tailnum"]
_TIME_HOUR: Final = COLUMN["time_hour"]


class Flight(NamedTuple):
    """One line of the file, as a record's value, key and timestamp."""

    line: bytes
    key: bytes | None
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Flights:
    """A file of flights, read whole: `rows` in the file's order; `name` is what to call the file."""

    name: str
    rows: Sequence[Flight]

    @property
    def size(self) -> int:
        """Bytes of all lines, newlines included, header apart."""
        return sum(len(row.line) + 1 for row in self.rows)


def read_flights(path: str | Path | None = None, *, limit: int | None = None) -> Flights:
    """Read the file at `path`, or January as packaged; at most the first `limit` lines.

    Raises `ConfigError` for a file that is not of this form, `OSError` for one that cannot be read.
    """
    if path is None:
        data = files(__package__).joinpath(PACKAGED).read_bytes()
        return Flights("New York, January 2013", _parsed(data, PACKAGED, limit))
    path = Path(path)
    return Flights(path.name, _parsed(path.read_bytes(), str(path), limit))


def csv_lines(lines: Iterable[bytes]) -> bytes:
    """The part of the file after its header, from its lines in order."""
    return b"".join(line + b"\n" for line in lines)


def sha256(lines: Iterable[bytes]) -> str:
    """SHA-256, in hex, of `csv_lines(lines)`: for a whole file what `tail -n +2 FILE | sha256sum` prints."""
    digest = hashlib.sha256()
    iterator = iter(lines)
    while chunk := list(islice(iterator, 4096)):
        digest.update(csv_lines(chunk))
    return digest.hexdigest()


def weave(source: Iterable[bytes], partitions: Sequence[Iterable[bytes]]) -> Iterator[bytes]:
    """The values of all partitions in the order of `source`'s lines.

    Each line must be the next value of some partition, and at the end nothing may be left over: the
    partitions are then a split of the file that keeps its order. Raises `ValueError` otherwise, naming the
    first line that differs.
    """
    rest = [iter(values) for values in partitions]
    heads: defaultdict[bytes, list[int]] = defaultdict(list)  # a partition's next value -> the partition
    for partition, values in enumerate(rest):
        for value in islice(values, 1):
            heads[value].append(partition)
    for number, line in enumerate(source, 1):
        if line not in heads:
            raise ValueError(f"line {number} is not the next value of any of {len(rest)} partitions: {line!r}")
        partition = heads[line].pop()
        if not heads[line]:
            del heads[line]
        yield line
        for value in islice(rest[partition], 1):
            heads[value].append(partition)
    for value, (partition, *_) in heads.items():
        raise ValueError(f"partition {partition} goes on after the last line: {value!r}")


def _parsed(data: bytes, name: str, limit: int | None) -> list[Flight]:
    header, *lines = _decompressed(data, name).split(b"\n")
    if header != HEADER:
        raise ConfigError(
            f"{name} is not a file of flights: its first line is {header[:80]!r} and should be {HEADER.decode()!r}"
        )
    if lines and not lines[-1]:
        lines.pop()  # what follows the last newline
    return [_flight(line, number, name) for number, line in enumerate(lines[:limit], 2)]


def _decompressed(data: bytes, name: str) -> bytes:
    try:
        if data.startswith(b"PK\x03\x04"):
            archive = zipfile.ZipFile(io.BytesIO(data))
            return archive.read(archive.namelist()[0])
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, zstandard.ZstdError) as error:
        raise ConfigError(f"{name} cannot be decompressed ({error}); give a whole file") from error
    return data


def _flight(line: bytes, number: int, name: str) -> Flight:
    fields = line.split(b",")
    if len(fields) != len(COLUMN):
        raise ConfigError(f"line {number} of {name} has {len(fields)} columns instead of {len(COLUMN)}: {line[:80]!r}")
    tail_number = fields[_TAIL_NUMBER]
    try:
        timestamp_ms = _milliseconds(fields[_TIME_HOUR])
    except ValueError as error:
        raise ConfigError(f"line {number} of {name}: {error}") from None
    return Flight(line, None if tail_number == MISSING else tail_number, timestamp_ms)


@cache
def _milliseconds(time_hour: bytes) -> int:
    """`2013-01-01T10:00:00Z` in milliseconds since 1970; each hour of the year is parsed once."""
    time = datetime.fromisoformat(time_hour.decode())
    if time.tzinfo is None:
        raise ValueError(f"time_hour {time_hour.decode()!r} has no time zone; write it in UTC, with a Z at its end")
    return round(time.timestamp() * 1000)
