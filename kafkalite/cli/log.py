"""`kafkalite log`: what the journal of a store holds, frame by frame, as kafka-dump-log shows segments.

Reads the journal's files and nothing else: neither the index nor any lock, so it works beside a store that is in use
and on one that no longer opens. `dump` prints, `verify` only looks; both tell what is damaged and go on behind it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import rich_click as click

from kafkalite import CorruptRecordError
from kafkalite.cli import output
from kafkalite.cli.app import CommandFailedError, LazyGroup, examples, fail, show_error
from kafkalite.cli.journal_walk import Damage, Logs, OpenJournal, open_journal
from kafkalite.cli.options import json_option, store_argument
from kafkalite.records import batch
from kafkalite.records.compression import CODEC_NAMES
from kafkalite.records.envelope import Envelope, parse
from kafkalite.storage import frame, segment
from kafkalite.storage.frame import Frame

COLUMNS: Final = (
    ("POSITION", 11), ("KIND", 6), ("LOG", 20), ("OFFSETS", 15), ("COUNT", 6), ("SIZE", 8), ("TIMESTAMP", 24),
    ("CODEC", 5), ("CHAIN", 16),
)  # fmt: skip
NUMBERS: Final = ("COUNT", "SIZE")


@click.group(cls=LazyGroup, epilog=examples("kafkalite log dump shop.klite", "kafkalite log verify shop.klite"))
def log() -> None:
    """Look into the journal of a store, frame by frame."""


@log.command(
    epilog=examples(
        "kafkalite log dump shop.klite",
        "kafkalite log dump shop.klite --topic orders --records",
        "kafkalite log dump data/ --segment 3 --json",
    )
)
@store_argument
@click.option("--segment", "segments", type=click.IntRange(1), multiple=True, metavar="N", help="Only this segment.")
@click.option("--topic", "topics", multiple=True, metavar="TOPIC", help="Only frames of this topic, internal or not.")
@click.option("--records", is_flag=True, help="Also print the records in each batch.")
@click.option("-n", "--count", type=click.IntRange(min=0), metavar="N", help="Stop after so many frames.")
@json_option
def dump(
    store: str, *, segments: Sequence[int], topics: Sequence[str], records: bool, count: int | None, as_json: bool
) -> None:
    """Print the frames of the journal: position, kind, log, offsets, sizes, times, codec, chain.

    A position is SEGMENT:BYTE; a kind with a + is part of a commit that goes on in the next frame. Works on a store
    that is in use or damaged: what fails its check is told on standard error, what lies behind it is printed, and the
    verb fails at the end.
    """
    with open_journal(store) as opened:
        logs = Logs()
        shown = damaged = 0
        if not as_json:
            click.echo(_line([name for name, _ in COLUMNS]))
        for found in opened.walk(segments):
            if isinstance(found, Damage):
                show_error(CommandFailedError(str(found)))
                damaged += 1
                continue
            logs.learn(found)
            if topics and not logs.is_of(found.log_id, topics):
                continue
            if shown == count:
                break
            _show(found, logs, records=records, as_json=as_json)
            shown += 1
    if damaged:
        fail()


def _show(found: Frame, logs: Logs, *, records: bool, as_json: bool) -> None:
    if as_json:
        output.print_json(_members(found, logs, records=records))
        return
    click.echo(_line(_cells(found, logs)))
    if records and found.length:
        _show_records(found)


def place(position: int) -> str:
    """A position as SEGMENT:BYTE."""
    return f"{segment.number_of(position)}:{segment.byte_of(position)}"


def _line(cells: Sequence[str]) -> str:
    aligned = [
        cell.rjust(width) if name in NUMBERS else cell.ljust(width)
        for cell, (name, width) in zip(cells, COLUMNS, strict=True)
    ]
    return " ".join(aligned).rstrip()


def kind_of(found: Frame) -> str:
    """A frame's kind, and what its flags say."""
    kind = {frame.BATCH: "batch", frame.END: "end"}.get(found.kind, str(found.kind))
    kind += "" if found.is_commit else "+"  # its commit goes on in the next frame
    return kind + (" moved" if found.flags & frame.RELOCATED else "")


def _cells(found: Frame, logs: Logs) -> list[str]:
    if not found.length:
        return [place(found.position), kind_of(found), "", "", "", "0", "", "", f"{found.chain:016x}"]
    envelope = parse(found.batch)
    return [
        place(found.position),
        kind_of(found),
        logs.name(found.log_id),
        f"{envelope.base_offset}-{envelope.last_offset}",
        str(envelope.count),
        str(found.length),
        output.moment(envelope.max_timestamp),
        codec_of(envelope),
        f"{found.chain:016x}",
    ]


def codec_of(envelope: Envelope) -> str:
    """The name of a batch's compression."""
    return CODEC_NAMES.get(envelope.codec, str(envelope.codec))


def _members(found: Frame, logs: Logs, *, records: bool) -> dict[str, Any]:
    members: dict[str, Any] = {
        "segment": segment.number_of(found.position),
        "byte": segment.byte_of(found.position),
        "kind": "end" if found.kind == frame.END else "batch" if found.kind == frame.BATCH else found.kind,
        "commit": found.is_commit,
        "relocated": bool(found.flags & frame.RELOCATED),
        "length": found.length,
        "durable": place(found.durable),
        "previous": f"{found.previous:016x}",
        "chain": f"{found.chain:016x}",
    }
    if found.length:
        envelope = parse(found.batch)
        members |= {"log": found.log_id, "name": logs.name(found.log_id), "codec": codec_of(envelope)}
        members |= {"last_offset": envelope.last_offset, **envelope._asdict()}
    if records and found.length:
        members["records"] = [
            {"offset": offset, "timestamp_ms": stamp, **output.plain("key", key), **output.plain("value", value)}
            for offset, stamp, key, value in _rows(found)
        ]
    return members


def _rows(found: Frame) -> Iterator[tuple[int, int, bytes | None, bytes | None]]:
    _, columns = batch.decode(found.batch)
    return zip(columns.offsets, columns.timestamps_ms, columns.keys, columns.values, strict=True)


def _show_records(found: Frame) -> None:
    for offset, stamp, key, value in _rows(found):
        click.echo(f"  | offset {offset}  {output.moment(stamp)}  key {_shown(key)}  value {_shown(value)}")


def _shown(data: bytes | None) -> str:
    return "null" if data is None else data.decode("utf-8", "backslashreplace").replace("\n", "\\n")


@log.command(epilog=examples("kafkalite log verify shop.klite", "kafkalite log verify data/ --json"))
@store_argument
@json_option
def verify(store: str, *, as_json: bool) -> None:
    """Check every frame of the journal: checksums, chain, the links between segments, each batch.

    Needs no index and takes no lock. `kafkalite check` proves the index against the journal as well.
    """
    with open_journal(store) as opened:
        counts = {"segments": len(opened.headers), "frames": 0, "records": 0, "bytes": 0}
        damages: list[str] = []
        with output.progress("verifying", opened.size, "bytes") as advance:
            for found in opened.walk():
                advance(found.end - found.position)
                if isinstance(found, Damage):
                    damages.append(str(found))
                else:
                    damages += _count(found, counts)
        _report(opened, counts, damages, as_json=as_json)
    if damages:
        fail()


def _count(found: Frame, counts: dict[str, int]) -> list[str]:
    """Count a frame; what is wrong with the batch in it."""
    counts["frames"] += 1
    counts["bytes"] += found.end - found.position
    if not found.length:
        return []
    try:
        envelope, columns = batch.decode(found.batch)
        if len(columns.values) != envelope.count:
            raise CorruptRecordError(f"{len(columns.values)} records where its header says {envelope.count}")
    except CorruptRecordError as error:
        return [f"the batch at {place(found.position)} cannot be read: {error}"]
    counts["records"] += envelope.count
    return []


def _report(opened: OpenJournal, counts: dict[str, int], damages: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        output.print_json({"store": str(opened.place.path), "ok": not damages, **counts, "damages": damages})
        return
    for text in damages:
        show_error(CommandFailedError(text))
    looked_at = f"{output.plural(counts['segments'], 'segment')}, {output.plural(counts['frames'], 'frame')}, "
    looked_at += f"{output.plural(counts['records'], 'record')}, {output.size(counts['bytes'])}"
    verdict = "ok" if not damages else output.plural(len(damages), "damage")
    output.console().print(f"{verdict}: {looked_at}", markup=False)
