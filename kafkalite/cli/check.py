"""`kafkalite check`: prove that a store is sound, or say what is wrong with it and where."""

import sys
from pathlib import Path
from typing import Any

import rich_click as click

import kafkalite
from kafkalite.cli.advance import advancing
from kafkalite.cli.app import FAILED, examples
from kafkalite.cli.options import json_option, store_argument
from kafkalite.cli.output import note, print_facts, print_heading, print_json, print_table, size

LOST_COLUMNS = ("topic", "partition", "log", "first offset", "last offset")
NUMBERS = LOST_COLUMNS[1:]


@click.command(epilog=examples("kafkalite check shop.klite", "kafkalite check data/ --json"))
@store_argument
@json_option
def check(store: str, *, as_json: bool) -> None:
    """Read all of a store, and prove it: every record, every offset, every row of the index.

    Others may go on using the store meanwhile. A store that cannot be opened is read as far as it can be, and what
    `repair` would do is said; nothing is changed. Exit status 0: sound; 1: it is not.
    """
    with advancing(f"reading {store}", "bytes") as tell:
        report = kafkalite.check(store, progress=tell)
    if as_json:
        print_json(facts(store, report))
    else:
        _print(store, report)
    if not report.ok:
        sys.exit(FAILED)


def facts(store: str, report: kafkalite.Report) -> dict[str, Any]:
    """A report as JSON has it."""
    return {
        "store": str(Path(store).absolute()),
        "ok": report.ok,
        "cannot_open": report.cannot_open or None,
        "segments": report.segments,
        "batches": report.frames,
        "records": report.records,
        "bytes": report.bytes,
        "index_rows": report.rows,
        "topics": report.topics,
        "logs": report.logs,
        "problems": report.problems,
        "lost": [lost_fact(one) for one in report.lost],
        "notes": report.notes,
    }


def lost_fact(one: Any) -> dict[str, Any]:
    """A range of lost offsets as JSON has it."""
    return {
        "topic": one.topic, "partition": one.partition, "log": one.log_id, "first_offset": one.first,
        "last_offset": one.last,
    }  # fmt: skip


def print_lost(heading: str, lost: Any) -> None:
    """A table of lost offsets, under a heading; nothing when there are none."""
    if lost:
        print_heading(heading)
        rows = [tuple(str(value) if value is not None else "-" for value in lost_fact(one).values()) for one in lost]
        print_table(LOST_COLUMNS, rows, right=NUMBERS)


def _print(store: str, report: kafkalite.Report) -> None:
    print_facts(
        {
            "store": store,
            "result": "ok" if report.ok else f"{len(report.problems)} problems",
            "segments": report.segments,
            "batches": report.frames,
            "records": report.records,
            "bytes": f"{report.bytes:,} ({size(report.bytes)})",
            "index rows": report.rows,
            "topics": report.topics,
            "logs": report.logs,
        }
    )
    if report.problems:
        print_heading("Cannot be opened" if report.cannot_open else "Problems")
        for problem in report.problems:
            click.echo(problem)
    print_lost("Lost, and given up by an earlier repair", report.lost)
    for line in report.notes:
        note(line)
    if report.cannot_open:
        note(f"kafkalite repair --dry-run {store}  shows what a repair would keep and give up")
