r"""`kafkalite produce`: records from standard input or files, a line each.

A line that cannot be sent is told with its file and number, and the rest is sent all the same; the verb fails at the
end. Lines go through a `Producer`, so they are committed in batches, each within `linger_ms` of its first line: what
somebody types is there at once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BufferedIOBase
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final, cast

import rich_click as click

import kafkalite
from kafkalite.cli import output
from kafkalite.cli.app import CommandFailedError, examples, fail, show_error
from kafkalite.cli.options import complete_topic, get_topic, open_store, settings_option, store_option
from kafkalite.cli.record_format import FormatError, Line, LineFormat, delimited, header, read_json

SHOWN_FAILURES: Final = 10
CHUNK_BYTES: Final = 1 << 18
STANDARD_INPUT: Final = "-"

Read = Callable[[bytes], Line]


@click.command(
    epilog=examples(
        "echo hello | kafkalite produce -s shop.klite greetings --create",
        "kafkalite produce -s shop.klite orders -K , orders.csv",
        r"kafkalite produce -s shop.klite orders -f '%k\t%v' -z zstd < orders.tsv",
        "kafkalite consume -s old.klite orders --json | kafkalite produce -s shop.klite orders --json",
        "echo | kafkalite produce -s shop.klite orders -k alice -Z",
    )
)
@store_option
@click.argument("topic", shell_complete=complete_topic)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-f",
    "--format",
    "template",
    metavar="FORMAT",
    help=r"What a line is: %v value, %k key, %p partition, %d timestamp in ms, %t topic, %h headers (a=1,b=2), with "
    r"something between them; %v{hex}, %v{base64}. The default is %v\n.",
)
@click.option("-K", "--key-delimiter", metavar="TEXT", help="A line is a key, this text and a value; or only a value.")
@click.option("--json", "is_json", is_flag=True, help="A line is a JSON object, as `consume --json` prints it.")
@click.option("-k", "--key", metavar="TEXT", help="The key of records whose line has none.")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header for each record. May be repeated."
)
@click.option("-p", "--partition", type=click.IntRange(min=0), metavar="N", help="The partition of all records.")
@click.option("-z", "--compression", type=click.Choice(["none", "zstd"]), help="How batches are compressed.")
@click.option("-Z", "--nulls", is_flag=True, help="Send empty values and keys as nulls (tombstones).")
@click.option("--create", is_flag=True, help="Create the store and the topic if they are not there.")
@click.option("-q", "--quiet", is_flag=True, help="No summary.")
@settings_option
def produce(
    store: str,
    topic: str,
    files: Sequence[str],
    *,
    template: str | None,
    key_delimiter: str | None,
    is_json: bool,
    key: str | None,
    headers: Sequence[str],
    partition: int | None,
    compression: str | None,
    nulls: bool,
    create: bool,
    quiet: bool,
    settings: dict[str, str],
) -> None:
    r"""Send the lines of FILES, or of standard input, to a topic.

    Each line is a value, unless --format, --key-delimiter or --json say what it is. The key chooses the partition as
    in Kafka. JSON lines keep key, value, headers and timestamp_ms; their topic, partition and offset do not count.

    -c takes settings of the producer, such as -c linger.ms=100.
    """  # fmt: skip
    try:
        read, end = _reader(template, key_delimiter, is_json=is_json)
        common = Line(key=None if key is None else key.encode(), headers=tuple(map(header, headers)))
    except FormatError as error:
        raise click.UsageError(str(error)) from error
    if compression:
        settings = {**settings, "compression.type": compression}
    with kafkalite.connect(store) if create else open_store(store, write=True) as opened:
        opened.topic(topic) if create else get_topic(opened, topic)
        begun = perf_counter()
        with opened.producer(config=settings) as producer:
            sender = _Sender(producer, topic, common._replace(partition=partition), read, nulls=nulls)
            for name in files or [STANDARD_INPUT]:
                sender.send_all(name, end)
        if not quiet:
            output.note(sender.summary(perf_counter() - begun))
    if sender.failed:
        fail()


def _reader(template: str | None, key_delimiter: str | None, *, is_json: bool) -> tuple[Read, bytes]:
    """How to read a line, and what ends one."""
    if sum([template is not None, key_delimiter is not None, is_json]) > 1:
        raise click.UsageError("--format, --key-delimiter and --json each say what a line is: give one of them")
    if is_json:
        return read_json, b"\n"
    if key_delimiter is not None:
        separator = delimited(key_delimiter)
        return lambda line: _keyed(line, separator), b"\n"
    form = LineFormat(template or r"%v\n")
    return form.read, form.end


def _keyed(line: bytes, separator: bytes) -> Line:
    """A line as kcat -K reads it: without the separator it has no key."""
    first, found, rest = line.partition(separator)
    return Line(value=rest, key=first) if found else Line(value=first)


class _Sender:
    """Sends lines, and keeps count."""

    def __init__(self, producer: kafkalite.Producer, topic: str, common: Line, read: Read, *, nulls: bool) -> None:
        self._producer = producer
        self._topic = topic
        self._common = common
        self._read = read
        self._nulls = nulls
        self.sent = 0
        self.bytes = 0
        self.failed = 0

    def send_all(self, name: str, end: bytes) -> None:
        """Send every line of a file."""
        with click.open_file(name, "rb") as stream:
            total = None if name == STANDARD_INPUT else Path(name).stat().st_size
            shown = "standard input" if name == STANDARD_INPUT else name
            with _watched(stream, shown, total) as advance:
                for number, line in enumerate(pieces(cast("BufferedIOBase", stream), end), start=1):
                    self._send(line, shown, number)
                    advance(len(line) + len(end))

    def _send(self, line: bytes, name: str, number: int) -> None:
        try:
            self._send_record(self._read(line))
        except kafkalite.ClosedError:
            raise
        except (FormatError, kafkalite.KafkaliteError) as error:
            self.failed += 1
            if self.failed <= SHOWN_FAILURES:
                show_error(CommandFailedError(f"{name}, line {number}: {error}"))
        else:
            self.sent += 1
            self.bytes += len(line)

    def _send_record(self, record: Line) -> None:
        common = self._common
        value, key = record.value, common.key if record.key is None else record.key
        if self._nulls:
            value, key = value or None, key or None
        self._producer.send(
            record.topic or self._topic,
            value,
            key=key,
            partition=common.partition if record.partition is None else record.partition,
            timestamp_ms=record.timestamp_ms,
            headers=(*common.headers, *record.headers),
        )

    def summary(self, seconds: float) -> str:
        """What was done, for people."""
        rate = output.count(round(self.sent / max(seconds, 1e-9)))
        text = f"{output.plural(self.sent, 'record')} ({output.size(self.bytes)}) to {self._topic}"
        text += f" in {output.span(seconds)}, {rate} records/s"
        return text + (f"; {output.plural(self.failed, 'line')} failed" if self.failed else "")


def _watched(stream: IO[Any], name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar, unless somebody types what is read."""
    return nullcontext(lambda _: None) if stream.isatty() else output.progress(name, total, "bytes")


def pieces(stream: BufferedIOBase, end: bytes) -> Iterator[bytes]:
    """What lies between ends; what follows the last one counts unless it is empty."""
    if end == b"\n":
        for line in stream:
            yield line[:-1] if line.endswith(b"\n") else line
        return
    rest = b""
    while chunk := stream.read1(CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(end)
        yield from whole
    if rest:
        yield rest
