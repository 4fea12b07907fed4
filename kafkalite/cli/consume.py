"""`kafkalite consume`: records to standard output, as lines, in a format, or as JSON.

What is printed goes out a batch of records at a time, as bytes, untouched by terminals' encodings; a follower hands
on what it has before it waits.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from queue import Queue
from threading import Thread
from typing import Any, Final, NamedTuple

import rich_click as click

import kafkalite
from kafkalite.cli import output
from kafkalite.cli.app import examples
from kafkalite.cli.options import (
    complete_topic,
    get_topic,
    json_option,
    open_store,
    start_option,
    store_option,
    until_option,
)
from kafkalite.cli.position import Place, bounds_of
from kafkalite.cli.record_format import FormatError, Printer, printer

PLAIN: Final = r"%v\n"

Batch = kafkalite.RecordBatch[bytes, bytes | None]


@click.command(
    epilog=examples(
        "kafkalite consume -s shop.klite orders",
        "kafkalite consume -s shop.klite orders -o -10 --follow",
        "kafkalite consume -s shop.klite orders refunds -o @-1h --until @-30m --json",
        r"kafkalite consume -s shop.klite orders -p 0 -o 42 -n 1 -f '%p %o %d{iso} %k %v %h\n'",
        r"kafkalite consume -s shop.klite blobs -f '%V{big4}%v' > blobs.bin",
    )
)
@store_option
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...", shell_complete=complete_topic)
@start_option
@until_option
@click.option("-F", "--follow", is_flag=True, help="Go on when the end is reached, until Ctrl-C.")
@click.option("-n", "--count", type=click.IntRange(min=0), metavar="N", help="Stop after so many records.")
@click.option(
    "-p",
    "--partition",
    "partitions",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Read only this partition. May be repeated.",
)
@click.option(
    "-f",
    "--format",
    "template",
    metavar="FORMAT",
    default=PLAIN,
    show_default=True,
    help=r"How to print a record: %t topic, %p partition, %o offset, %d timestamp, %k key, %v value, %h headers, "
    r"%K and %V lengths; \n \t \xNN; modifiers %v{hex}, {base64}, {json}, %d{iso}, %o{big8}.",
)
@click.option("-Z", "--nulls", is_flag=True, help="Print a null key or value as NULL; otherwise it is nothing.")
@json_option
def consume(
    store: str,
    topics: Sequence[str],
    *,
    start: Place,
    until: Place | None,
    follow: bool,
    count: int | None,
    partitions: Sequence[int],
    template: str,
    nulls: bool,
    as_json: bool,
) -> None:
    r"""Print the records of topics.

    From the first record to the last one there is, unless --offset, --until, --count or --follow say otherwise. Order
    holds within a partition. By default values, each with a newline.

    A key or value that is not UTF-8 stands in JSON as key_base64 or value_base64; `produce --json` reads it back.
    """  # fmt: skip
    if follow and until is not None:
        raise click.UsageError("--follow never ends, and --until says where: leave one out")
    if as_json and template != PLAIN:
        raise click.UsageError("--format and --json each say how to print a record: leave one out")
    try:
        show = as_json_line if as_json else printer(template, b"NULL" if nulls else b"")
    except FormatError as error:
        raise click.UsageError(str(error)) from error
    with open_store(store) as opened:
        runs = list(_runs(opened, topics, partitions, start, until, follow=follow))
        _print(_all(runs, follow=follow), show, count, at_once=follow or output.is_terminal())


def as_json_line(record: kafkalite.Record[Any, Any], _: int) -> bytes:
    """A record as one line of JSON, from which `produce --json` makes the same."""
    members: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        **output.plain("key", record.key),
        **output.plain("value", record.value),
    }
    if record.headers:
        members["headers"] = [{"key": name, **output.plain("value", value)} for name, value in record.headers]
    return json.dumps(members, ensure_ascii=False).encode() + b"\n"


class Run(NamedTuple):
    """A topic, or one partition of it, to be read from a start to an end; an end of None follows."""

    topic: kafkalite.Topic[bytes, bytes | None]
    partition: int | None
    start: Any
    until: Any

    def batches(self) -> Iterator[Batch]:
        """Read it; raises as `Topic.batches`."""
        return self.topic.batches(self.partition, start=self.start, until=self.until)


def _runs(
    opened: kafkalite.Store,
    names: Sequence[str],
    partitions: Sequence[int],
    start: Place,
    until: Place | None,
    *,
    follow: bool,
) -> Iterator[Run]:
    """What to read, in order. Where a place is a time, each partition that was asked for is a run of its own."""
    for name in dict.fromkeys(names):
        topic = get_topic(opened, name)
        known = bounds_of(topic)
        for number in partitions:
            if number not in known:
                raise kafkalite.UnknownPartitionError(
                    f"topic {name!r} has partitions 0 to {topic.partition_count - 1}, and no {number}"
                )
        wanted = sorted(set(partitions) or set(known))
        bounds = {number: known[number] for number in wanted}
        is_whole = follow and not partitions and start.kind in ("earliest", "latest")
        begin = start.kind if is_whole else start.position(bounds)  # a mapping would leave out what is added later
        finish = None if follow else "end" if until is None else until.position(bounds)
        if partitions and not isinstance(begin, dict):
            yield from (Run(topic, number, begin, _part(finish, number)) for number in wanted)
        else:
            yield Run(topic, None, begin, finish)


def _part(finish: Any, partition: int) -> Any:
    return finish[partition] if isinstance(finish, dict) else finish


def _all(runs: Sequence[Run], *, follow: bool) -> Iterator[Batch]:
    """One run after another; several that are followed at once have a thread each, and come as they come."""
    if not follow or len(runs) == 1:
        return chain.from_iterable(run.batches() for run in runs)
    arrived: Queue[Batch | BaseException] = Queue(maxsize=2 * len(runs))
    for run in runs:
        Thread(target=_follow, args=(run, arrived), daemon=True).start()
    return _arriving(arrived)


def _follow(run: Run, arrived: "Queue[Batch | BaseException]") -> None:
    try:
        for batch in run.batches():
            arrived.put(batch)
    except BaseException as error:  # noqa: BLE001  (raised where it is read)
        arrived.put(error)


def _arriving(arrived: "Queue[Batch | BaseException]") -> Iterator[Batch]:
    while True:
        found = arrived.get()
        if isinstance(found, BaseException):
            raise found
        yield found


def _print(batches: Iterator[Batch], show: Printer, most: int | None, *, at_once: bool) -> None:
    """Write records to standard output, at most so many, each batch at once or many together."""
    stream = sys.stdout.buffer
    write, flush = stream.write, stream.flush
    done = 0
    for batch in batches if most != 0 else ():
        found = batch if most is None else batch[: most - done]
        write(b"".join([show(record, number) for number, record in enumerate(found, done)]))
        done += len(found)
        if at_once:
            flush()
        if done == most:
            break
    flush()
