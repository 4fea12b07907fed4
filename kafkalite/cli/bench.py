"""`kafkalite bench`: how fast this machine's disk and processor make a store, in the lines of kafka-producer-perf-test.

    produce   records through a Producer; latency from `send` to its acknowledgement
    append    commits of a few records each, one after another; latency of a commit
    consume   reading back; latency of a batch

What is measured is all there is: values are random bytes made before the clock starts. Latencies are taken of at most
10,000 records, evenly spread, so that taking them costs the rate nothing. Without --store it happens in a store of
its own in the system's temporary folder, which may be memory: then a flush costs nothing, and the line says where it
was.
"""

import random
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Final, NamedTuple

import rich_click as click

import kafkalite
from kafkalite.cli import output
from kafkalite.cli.app import LazyGroup, examples
from kafkalite.cli.options import ENVIRONMENT, json_option, settings_option

MAX_LATENCIES: Final = 10_000
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)
DISTINCT_VALUES: Final = 1000
MB: Final = 1024 * 1024
FILL_STEP: Final = 1000
SEED: Final = 1


class Load(NamedTuple):
    """What to do: so many records of so many bytes, at most so many a second (-1: as fast as can be)."""

    num_records: int
    record_size: int
    throughput: float

    def values(self) -> list[bytes]:
        """Values to choose from, the same in each run."""
        source = random.Random(SEED)  # noqa: S311  (bytes that do not compress, no secret)
        return [source.randbytes(self.record_size) for _ in range(min(DISTINCT_VALUES, self.num_records))]

    def pause(self, done: int, begun: float) -> None:
        """Sleep until so many records are due."""
        if self.throughput > 0:
            early = done / self.throughput - (perf_counter() - begun)
            if early > 0:
                sleep(early)


class Result(NamedTuple):
    """What was measured. `latencies` are seconds, in no order."""

    verb: str
    records: int
    size: int
    seconds: float
    latencies: Sequence[float]
    what: str

    def percentile(self, share: float) -> float:
        """The latency in ms below which this share (0 to 100) of the measured ones lies."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] if ordered else 0.0

    def members(self) -> dict[str, Any]:
        """As JSON shows it."""
        rate = self.records / self.seconds
        return {
            "benchmark": self.verb, "records": self.records, "seconds": self.seconds, "records_per_second": rate,
            "mb_per_second": rate * self.size / MB, "latency_of": self.what, "avg_latency_ms": self._average(),
            "max_latency_ms": self.percentile(100),
            **{f"p{share:g}_latency_ms": self.percentile(share) for share in PERCENTILES},
        }  # fmt: skip

    def _average(self) -> float:
        return 1000 * sum(self.latencies) / len(self.latencies) if self.latencies else 0.0

    def __str__(self) -> str:
        rate = self.records / self.seconds
        parts = ", ".join(f"{self.percentile(share):.2f} ms {share:g}th" for share in PERCENTILES)
        done = {"produce": "sent", "append": "sent", "consume": "read"}[self.verb]
        return (
            f"{self.records} records {done}, {rate:.1f} records/sec ({rate * self.size / MB:.2f} MB/sec), "
            f"{self._average():.2f} ms avg latency, {self.percentile(100):.2f} ms max latency, {parts}."
        )


@click.group(
    cls=LazyGroup,
    epilog=examples("kafkalite bench produce", "kafkalite bench append --batch 1", "kafkalite bench consume"),
)
def bench() -> None:
    """Measure throughput and latency of a store, as kafka-producer-perf-test prints them."""


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of all benchmarks."""
    decorators = [
        click.option("--num-records", type=click.IntRange(1), default=200_000, show_default=True, metavar="N",
                     help="How many records."),
        click.option("--record-size", type=click.IntRange(1), default=100, show_default=True, metavar="BYTES",
                     help="Bytes of a value."),
        click.option("--partitions", type=click.IntRange(1), default=1, show_default=True, metavar="N",
                     help="Partitions of the topic, where it is created."),
        click.option("-s", "--store", type=click.Path(), metavar="PATH",
                     help="Use this store and leave what was written. Otherwise: a temporary one. "
                          f"{ENVIRONMENT} does not count."),
        click.option("--topic", default="bench", show_default=True, metavar="TOPIC", help="The topic."),
        click.option("--durability", type=click.Choice(["commit", "interval", "none"]),
                     help="Of the store. A new one has commit."),
        json_option,
    ]  # fmt: skip
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


throughput_option = click.option(
    "--throughput", type=float, default=-1.0, show_default="unlimited", metavar="N", help="At most N records a second."
)


@bench.command(
    epilog=examples(
        "kafkalite bench produce",
        "kafkalite bench produce --num-records 1000000 --record-size 1000 --durability interval",
        "kafkalite bench produce --throughput 5000 -c linger.ms=1",
    )
)
@shared_options
@throughput_option
@settings_option
def produce(*, settings: dict[str, str], throughput: float, as_json: bool, **options: Any) -> None:
    """Send records through a producer; latency is from a send to its acknowledgement.

    -c takes settings of the producer: linger.ms, batch.size, compression.type, acks.
    """
    load = Load(options["num_records"], options["record_size"], throughput)
    with _store(options) as (store, topic):
        _tell(_produced(store, topic, load, settings), store, as_json=as_json)


def _produced(store: kafkalite.Store, topic: kafkalite.Topic[Any, Any], load: Load, settings: dict[str, str]) -> Result:
    latencies = array("d")
    values = load.values()
    every = -(-load.num_records // MAX_LATENCIES)
    with _watched("sending", load.num_records) as watch, store.producer(config=settings) as producer:
        begun = perf_counter()
        for number in range(load.num_records):
            delivery = producer.send(topic, values[number % len(values)])
            if number % every == 0:
                delivery.add_done_callback(_stopwatch(latencies))
                watch(number)
            load.pause(number, begun)
        producer.flush()
        seconds = perf_counter() - begun
    return Result("produce", load.num_records, load.record_size, seconds, latencies, "a record")


def _stopwatch(latencies: "array[float]") -> Callable[[object], None]:
    """Begins to run now; the call notes how long it ran."""
    begun = perf_counter()
    return lambda _: latencies.append(perf_counter() - begun)


@bench.command(
    epilog=examples(
        "kafkalite bench append --num-records 2000 --batch 1",
        "kafkalite bench append --batch 100 --durability interval",
    )
)
@shared_options
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Records in a commit.")
@throughput_option
def append(*, batch: int, throughput: float, as_json: bool, **options: Any) -> None:
    """Commit records directly, one commit after another; latency is that of a commit.

    With durability "commit" each waits for the disk: this measures its flush.
    """
    load = Load(options["num_records"], options["record_size"], throughput)
    with _store(options) as (store, topic):
        _tell(_appended(topic, load, batch), store, as_json=as_json)


def _appended(topic: kafkalite.Topic[Any, Any], load: Load, batch: int) -> Result:
    latencies = array("d")
    values = load.values()
    with _watched("appending", load.num_records) as watch:
        begun = perf_counter()
        for first in range(0, load.num_records, batch):
            chosen = [values[n % len(values)] for n in range(first, min(first + batch, load.num_records))]
            before = perf_counter()
            topic.append_many(chosen)
            latencies.append(perf_counter() - before)
            watch(first)
            load.pause(first + batch, begun)
        seconds = perf_counter() - begun
    return Result("append", load.num_records, load.record_size, seconds, latencies, "a commit")


@bench.command(
    epilog=examples("kafkalite bench consume", "kafkalite bench consume -s shop.klite --topic orders --num-records 1")
)
@shared_options
def consume(*, as_json: bool, **options: Any) -> None:
    """Read records back; latency is that of a batch.

    Records are written first, unless the topic has --num-records already.
    """
    load = Load(options["num_records"], options["record_size"], -1)
    with _store(options) as (store, topic):
        there = sum(topic.end_offsets().values()) - sum(topic.beginning_offsets().values())
        if there < load.num_records:
            _fill(store, topic, load._replace(num_records=load.num_records - there))
        _tell(_consumed(topic, max(there, load.num_records)), store, as_json=as_json)


def _fill(store: kafkalite.Store, topic: kafkalite.Topic[Any, Any], load: Load) -> None:
    values = load.values()
    with _watched("writing", load.num_records) as watch, store.producer() as producer:

        def watched() -> Iterator[bytes]:
            for number in range(load.num_records):
                if number % FILL_STEP == 0:
                    watch(number)
                yield values[number % len(values)]

        producer.send_many(topic, watched())


def _consumed(topic: kafkalite.Topic[Any, Any], expected: int) -> Result:
    latencies = array("d")
    records = size = 0
    with _watched("reading", expected) as watch:
        begun = before = perf_counter()
        for batch in topic.batches():
            records += len(batch)
            size += sum(len(record.value or b"") + len(record.key or b"") for record in batch)
            now = perf_counter()
            latencies.append(now - before)
            before = now
            watch(records)
        seconds = perf_counter() - begun
    return Result("consume", records, round(size / max(1, records)), seconds, latencies, "a batch")


# What they share


@contextmanager
def _store(options: dict[str, Any]) -> Iterator[tuple[kafkalite.Store, kafkalite.Topic[Any, Any]]]:
    """The store that was named, or one that goes at the end; and the topic in it."""
    with tempfile.TemporaryDirectory(prefix="kafkalite-bench-") as temporary:
        path = options["store"] or Path(temporary) / "bench.klite"
        with kafkalite.connect(path, durability=options["durability"]) as store:
            there = options["topic"] in store.topics()
            yield store, store.topic(options["topic"], partitions=None if there else options["partitions"])


@contextmanager
def _watched(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A live line, told how much is done in all."""
    with output.progress(what, total) as advance:
        reached = 0

        def watch(done: int) -> None:
            nonlocal reached
            advance(done - reached)
            reached = done

        yield watch


def _tell(result: Result, store: kafkalite.Store, *, as_json: bool) -> None:
    durability = store.settings["durability"]
    if as_json:
        output.print_json({**result.members(), "durability": durability, "store": str(store.path)})
        return
    click.echo(str(result))
    output.note(f"durability {durability}, store {store.path}, latency of {result.what}")
