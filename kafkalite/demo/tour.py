"""The whole demo, part after part; this module only composes.

The store is made for the occasion: an existing one is never touched. Without a path it stands in a temporary
directory and goes with it. It is closed before the crash proof, so that the killed writers have it to themselves.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import kafkalite
from kafkalite.demo import DemoFailedError, snippets
from kafkalite.demo.crash import crash
from kafkalite.demo.flights import Flight, Flights, read_flights, sha256, weave
from kafkalite.demo.groups import share
from kafkalite.demo.ingest import ingest
from kafkalite.demo.readers import Reading, read_at_once
from kafkalite.demo.replay import midnight_near_the_end, replay
from kafkalite.demo.report import Report
from kafkalite.demo.summary import summarize

TOPIC: Final = "flights"
CRASH_TOPIC: Final = "crash-proof"
STORE_NAME: Final = "flights.klite"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `store` None: a temporary one, removed at the end unless `keep`."""

    data: Path | None = None
    limit: int | None = None
    store: Path | None = None
    keep: bool = False
    partitions: int = 8
    readers: int = 3
    kills: int = 3
    members: int = 4


def run(report: Report, options: Options) -> None:
    """Walk through the demo. Raises `DemoFailedError` if a proof fails, `KafkaliteError` for bad input."""
    started = perf_counter()
    flights = read_flights(options.data, limit=options.limit)
    if not flights.rows:
        raise kafkalite.ConfigError(f"{flights.name} holds no flights; give a file with lines after its header")
    with _workshop(keep=options.keep) as workshop:
        path = _new_store_path(options.store or workshop / STORE_NAME)
        report.opening(kafkalite.__version__, path, flights)
        with kafkalite.connect(path) as store:
            topic = store.topic(TOPIC, partitions=options.partitions)
            _ingest(report, store, topic, flights, options)
            _read(report, topic, flights.rows, path, options.readers)
            _replay(report, topic, flights.rows)
            _summarize(report, topic)
            store.topic(CRASH_TOPIC, partitions=options.partitions)
        _crash(report, path, workshop, options.kills)
        _share(report, path, len(flights.rows), workshop, max(2, min(options.members, options.partitions)))
        report.closing(perf_counter() - started, path if options.store or options.keep else None)


def _ingest(
    report: Report,
    store: kafkalite.Store,
    topic: kafkalite.Topic[Any, Any],
    flights: Flights,
    options: Options,
) -> None:
    with report.progress(len(flights.rows)) as advance:
        result = ingest(store, topic, flights.rows, advance)
    report.ingested(result, flights.size)
    source = [repr(str(options.data))] if options.data else []
    limit = [f"limit={options.limit}"] if options.limit else []
    report.code(snippets.INGEST, source=", ".join(source + limit), partitions=topic.partition_count)


def _read(report: Report, topic: kafkalite.Topic[Any, Any], rows: Sequence[Flight], path: Path, processes: int) -> None:
    with report.working(f"{processes} processes read"):
        readings = read_at_once(path, topic.name, processes)
        digest = _proved_digest(topic, rows, readings)
    report.read_at_once(readings, digest)
    report.code(snippets.READ)


def _proved_digest(topic: kafkalite.Topic[Any, Any], rows: Sequence[Flight], readings: list[Reading]) -> str:
    """SHA-256 of the file, woven from the partitions, once it is sure that all have read just that."""
    partitions = [[record.value for record in topic.read(partition)] for partition in range(topic.partition_count)]
    if {reading.digests for reading in readings} != {tuple(map(sha256, partitions))}:
        raise DemoFailedError(f"the processes did not read the same bytes: {readings}")
    try:
        return sha256(weave((row.line for row in rows), partitions))
    except ValueError as error:
        raise DemoFailedError(f"what was read is not the file: {error}") from None


def _replay(report: Report, topic: kafkalite.Topic[Any, Any], rows: Sequence[Flight]) -> None:
    start = midnight_near_the_end(rows)
    report.replayed(replay(topic, start))
    report.code(snippets.REPLAY, start=f"{start.year}, {start.month}, {start.day}")


def _summarize(report: Report, topic: kafkalite.Topic[Any, Any]) -> None:
    report.summarized(summarize(topic.read()))
    report.code(snippets.SUMMARY)


def _crash(report: Report, path: Path, workshop: Path, kills: int) -> None:
    with report.working("writing, and killed"):
        result = crash(path, CRASH_TOPIC, workshop / "acknowledgements", kills=kills)
    report.crashed(result)
    report.code(snippets.CRASH)
    if not result.is_proved:
        raise DemoFailedError(f"the crash proof failed: {result}")


def _share(report: Report, path: Path, total: int, workshop: Path, members: int) -> None:
    with report.working(f"{members} processes share the partitions, and one is killed"):
        result = share(path, TOPIC, total, workshop, members=members)
    report.shared(result)
    report.code(snippets.GROUP)
    if not result.is_proved:
        raise DemoFailedError(f"the group left {result.missing} records undone, and did {result.repeats} twice")


def _new_store_path(path: Path) -> Path:
    if path.exists():
        raise kafkalite.ConfigError(f"{path} exists, and the demo writes only to a store of its own; name a new path")
    return path


@contextmanager
def _workshop(*, keep: bool) -> Iterator[Path]:
    """A temporary directory, removed at the end; kept on request, and as evidence when a proof fails."""
    path = Path(tempfile.mkdtemp(prefix="kafkalite-demo-"))
    try:
        yield path
    except DemoFailedError as error:
        keep = True
        raise DemoFailedError(f"{error}; the evidence stays in {path}") from error
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
