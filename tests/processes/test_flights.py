"""A month of flights in, all of it out: byte for byte, in order, from another process, in all layouts, after SIGKILL.

Each row is a record, its key the tail number. Writers append the rows in chunks, each one atomic commit, so that a
successor sees from the end offsets how far the one before it came, whatever killed it. `KAFKALITE_FLIGHTS` names
another file, such as the whole year, for the same tests.
"""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any, Final

import pytest

import kafkalite
from kafkalite.demo.flights import PACKAGED_COUNT, Flights, read_flights, sha256, weave
from kafkalite.storage.place import resolve

from .conftest import Fork
from .forks import Board, Forked, until

PARTITIONS: Final = 4
CHUNK: Final = 300
KILLS: Final = 25


@pytest.fixture(scope="module")
def flights() -> Flights:
    """January, as packaged, or what KAFKALITE_FLIGHTS names."""
    path = os.environ.get("KAFKALITE_FLIGHTS")
    found = read_flights(path)
    assert path or len(found.rows) == PACKAGED_COUNT
    return found


def append_from(store: kafkalite.Store, flights: Flights, board: Board | None = None) -> int:
    """Append the rows that are not there yet; returns how many those were."""
    topic = store.topic("flights", partitions=PARTITIONS)
    there = sum(topic.end_offsets().values())
    for base in range(there, len(flights.rows), CHUNK):
        lines, keys, timestamps_ms = zip(*flights.rows[base : base + CHUNK], strict=True)
        topic.append_many(lines, keys=keys, timestamps_ms=timestamps_ms)
        if board is not None:
            board[0] += 1
    return len(flights.rows) - there


def write(path: Path | str, flights: Flights, board: Board | None = None, **settings: Any) -> int:
    with kafkalite.connect(path, **settings) as store:
        return append_from(store, flights, board)


def write_until_killed(path: Path | str, flights: Flights, board: Board) -> None:
    with kafkalite.connect(path) as store:
        append_from(store, flights, board)
        while True:  # the kill is late
            time.sleep(1)


def kill_after(writer: Forked, board: Board, chunks: int) -> None:
    """Kill a writer once it has made so many commits more."""
    enough = board[0] + chunks
    until(lambda: board[0] >= enough or not writer.is_running(), f"{chunks} chunks")
    writer.kill()


def compare(store: kafkalite.Store, flights: Flights) -> str:
    """The file's digest as its lines come out of the store; order, keys and timestamps compared on the way."""
    topic = store.topic("flights", create=False)
    partitions = [list(topic.read(partition)) for partition in range(topic.partition_count)]
    rows = {row.line: row for row in flights.rows}
    for records in partitions:
        assert [record.offset for record in records] == list(range(len(records)))
        for record in records:
            row = rows[record.value]
            assert (record.key, record.timestamp_ms) == (row.key, row.timestamp_ms)
    by_key = [{record.key for record in records if record.key is not None} for records in partitions]
    assert sum(map(len, by_key)) == len(set.union(*by_key)), "a key is in two partitions"
    values = [[record.value for record in records] for records in partitions]
    assert store.check().ok
    return sha256(weave((row.line for row in flights.rows), values))


def digest(path: Path | str, flights: Flights, **settings: Any) -> str:
    with kafkalite.connect(path, create=False, **settings) as store:
        return compare(store, flights)


@pytest.fixture(scope="module")
def expected(flights: Flights) -> str:
    return sha256(row.line for row in flights.rows)


def test_all_flights_come_out_as_they_went_in(fork: Fork, place: Path, flights: Flights, expected: str) -> None:
    assert fork(write, place, flights).result() == len(flights.rows)
    assert fork(digest, place, flights).result() == expected
    assert fork(digest, place, flights, read_only=True).result() == expected


def test_all_flights_come_out_of_memory(fork: Fork, flights: Flights, expected: str) -> None:
    def parent() -> tuple[str, str]:
        with kafkalite.connect(":memory:") as store:
            append_from(store, flights)
            child = fork(compare, store, flights)
            return compare(store, flights), child.result()

    assert fork(parent).result() == (expected, expected)


def test_all_flights_come_out_of_a_copied_file(fork: Fork, tmp_path: Path, flights: Flights, expected: str) -> None:
    """The file alone is the store: neither its index nor anything else goes along."""
    fork(write, tmp_path / "flights.klite", flights).result()
    shutil.copyfile(tmp_path / "flights.klite", tmp_path / "copy.klite")
    assert fork(digest, tmp_path / "copy.klite", flights).result() == expected


def test_all_flights_come_out_of_a_copy_taken_of_a_store_whose_writer_was_killed(
    fork: Fork, board: Board, place: Path, flights: Flights, expected: str
) -> None:
    kill_after(fork(write, place, flights, board), board, 20)
    copy = place.with_stem("copy")
    if resolve(place).is_directory:
        shutil.copytree(place, copy, ignore=shutil.ignore_patterns("index*", "run"))
    else:
        shutil.copyfile(place, copy)
    for path in (place, copy):
        assert 0 < fork(write, path, flights).result() <= len(flights.rows) - 20 * CHUNK
        assert fork(digest, path, flights).result() == expected


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_all_flights_come_out_after_their_writers_were_killed(
    fork: Fork, board: Board, place: Path, flights: Flights, expected: str, durability: str
) -> None:
    """One writer after another is killed after a few chunks; each goes on where the last one was cut off."""
    draw = random.Random(2013)
    fork(write, place, Flights("none", []), durability=durability, segment_bytes=512 * 1024).result()
    most = len(flights.rows) // CHUNK // KILLS
    for _ in range(KILLS):
        kill_after(fork(write_until_killed, place, flights, board), board, draw.randint(0, most))
    written = board[0] * CHUNK
    rest = fork(write, place, flights).result()
    assert rest <= len(flights.rows) - written
    assert fork(digest, place, flights).result() == expected
    print(f"faults injected: {KILLS}, records acknowledged: {written + rest}, lost: 0")
