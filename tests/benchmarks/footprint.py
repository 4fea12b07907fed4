"""What kafkalite weighs: import time, a new store's disk, opening a store with 100,000 partitions.

SQLite stands beside it with `import sqlite3` and a database of one table.
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import kafkalite
from tests.benchmarks.measure import VALUE, Effort, Figures, Row, Subject, latencies
from tests.benchmarks.peers import sqlite

IMPORT_PAIRS = 3
OPENINGS = 5
# Coprime to the partition count, so that consecutive appends go to partitions far apart.
STRIDE = 7919

IMPORT = Row("import, over a bare interpreter", "ms", is_cost=True)
DIRECTORY = Row("disk of a new store, directory", "KiB", is_cost=True)
FILE = Row("disk of a new store, one file", "KiB", is_cost=True)
CREATE = Row("create store and topic", "ms", is_cost=True)
OPEN = Row("open the store and the topic", "ms", is_cost=True)
FIRST = Row("first append after opening", "ms", is_cost=True)
APPEND = Row("append to any partition, median", "µs", is_cost=True)

PROJECT = Path(kafkalite.__file__).parent.parent


def subjects(_prototypes: object = None) -> list[Subject]:
    return [
        Subject(
            "import",
            "Import time",
            (IMPORT,),
            {
                "kafkalite": functools.partial(_import, "import kafkalite"),
                "SQLite": functools.partial(_import, "import sqlite3"),
            },
        ),
        Subject(
            "disk",
            "A new store with one record, still open",
            (DIRECTORY, FILE),
            {"kafkalite": _kafkalite_disk, "SQLite": _sqlite_disk},
            rounds=1,
        ),
        Subject(
            "partitions",
            "One topic with 100,000 partitions, a record in each",
            (CREATE, OPEN, FIRST, APPEND),
            {"kafkalite": _wide, "kafkalite, 1 partition": _narrow},
            rounds=1,
        ),
    ]


def _import(statement: str, directory: Path, _effort: Effort) -> Figures:
    """Imports from cached bytecode, as an installed package is; some environments keep none beside the source."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(directory)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    _interpreter_ms(statement, environment)
    pairs = [
        _interpreter_ms(statement, environment) - _interpreter_ms("pass", environment) for _ in range(IMPORT_PAIRS)
    ]
    return {IMPORT.name: statistics.median(pairs)}


def _interpreter_ms(statement: str, environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], cwd=PROJECT, env=environment, check=True)
    return (time.perf_counter() - begin) * 1e3


def _disk_kib(directory: Path) -> float:
    """KiB of disk that everything below the directory takes; holes are not counted."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file()) / 1024


def _kafkalite_disk(directory: Path, _effort: Effort) -> Figures:
    figures: Figures = {}
    for row, name in ((DIRECTORY, "store"), (FILE, "store.klite")):
        place = directory / row.name
        place.mkdir()
        with kafkalite.connect(place / name) as store:
            store.topic("records").append(VALUE)
            figures[row.name] = _disk_kib(place)
    return figures


def _sqlite_disk(directory: Path, _effort: Effort) -> Figures:
    with sqlite(directory) as peer:
        peer.insert((None, 1, VALUE))
        return {FILE.name: _disk_kib(directory)}


def _wide(directory: Path, effort: Effort) -> Figures:
    return _opened(directory, effort, effort.partitions)


def _narrow(directory: Path, effort: Effort) -> Figures:
    return _opened(directory, effort, 1)


def _opened(directory: Path, effort: Effort, partitions: int) -> Figures:
    opens, firsts, appends = [], [], []
    begin = time.perf_counter()
    with kafkalite.connect(directory / "store", durability="none") as store:
        topic = store.topic("records", partitions=partitions)
        create = time.perf_counter() - begin
        # A partition takes room in the index only once it holds something.
        for partition in range(partitions):
            topic.append(VALUE, partition=partition)
    for opening in range(OPENINGS):
        begin = time.perf_counter()
        with kafkalite.connect(directory / "store") as store:
            topic = store.topic("records")
            opens.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            topic.append(VALUE, partition=partitions - 1)
            firsts.append(time.perf_counter() - begin)
            steps = iter(range(opening, sys.maxsize, STRIDE))
            appends += latencies(
                lambda: topic.append(VALUE, partition=next(steps) % partitions),  # noqa: B023 (called at once)
                effort.seconds / OPENINGS,
            )
    return {
        CREATE.name: create * 1e3,
        OPEN.name: statistics.median(opens) * 1e3,
        FIRST.name: statistics.median(firsts) * 1e3,
        APPEND.name: statistics.median(appends) * 1e6,
    }
