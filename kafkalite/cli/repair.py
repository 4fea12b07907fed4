"""`kafkalite repair`: make a damaged store open again, keep what it was, and say what is lost."""

import sys

import rich_click as click

import kafkalite
from kafkalite.cli.advance import advancing
from kafkalite.cli.app import FAILED, examples
from kafkalite.cli.check import lost_fact, print_lost
from kafkalite.cli.options import json_option, store_argument
from kafkalite.cli.output import note, print_facts, print_heading, print_json, print_table, size

OUTCOMES = {
    "healthy": "sound: nothing was changed",
    "index": "the journal is whole; the index {was} built anew",
    "journal": "{was} rebuilt around the damage",
}


@click.command(
    epilog=examples(
        "kafkalite repair --dry-run shop.klite", "kafkalite repair shop.klite", "kafkalite repair data/ --json"
    )
)
@store_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be done. Exit status 1 if there is something to do.")
@json_option
def repair(store: str, *, dry_run: bool, as_json: bool) -> None:
    """Repair a store that nobody has open.

    A wrong index is built anew. A damaged journal is copied around the damage into a new store that takes its place;
    the original is kept beside it, as STORE.damaged-1. What is lost is listed: topic, partition, offsets, bytes. A
    sound store is left as it is.
    """
    with advancing(f"reading {store}", "bytes") as tell:
        report = kafkalite.repair(store, dry_run=dry_run, progress=tell)
    if as_json:
        print_json(_facts(report))
    else:
        _print(report)
    if dry_run and not report.ok:
        sys.exit(FAILED)


def _facts(report: kafkalite.RepairReport) -> dict[str, object]:
    return {
        "store": str(report.path),
        "outcome": report.outcome,
        "dry_run": report.dry_run,
        "kept": None if report.kept is None else str(report.kept),
        "segments": report.segments,
        "batches": report.batches,
        "records": report.records,
        "bytes": report.bytes,
        "damaged_bytes": report.damaged_bytes,
        "is_exact": report.is_exact,
        "problems": report.problems,
        "damages": [one._asdict() for one in report.damages],
        "lost": [lost_fact(one) for one in report.lost],
        "torn": [
            {"position": one.position, "is_certain": one.is_certain, "kept": [lost_fact(kept) for kept in one.kept]}
            for one in report.torn
        ],
        "recovered": report.recovered,
    }


def _print(report: kafkalite.RepairReport) -> None:
    shown: dict[str, object] = {
        "store": report.path,
        "result": OUTCOMES[report.outcome].format(was="would be" if report.dry_run else "was"),
        "segments": report.segments,
        "batches": report.batches,
        "records": report.records,
        "bytes": f"{report.bytes:,} ({size(report.bytes)})",
    }
    if report.kept is not None:
        shown["original"] = report.kept
    print_facts(shown)
    if report.problems:
        print_heading("Why")
        for line in report.problems:
            click.echo(line)
    if report.damages:
        print_heading(f"Damage: {report.damaged_bytes:,} bytes")
        rows = [(str(one.segment), str(one.byte), str(one.size), one.what) for one in report.damages]
        print_table(("segment", "byte", "bytes", "what"), rows, right=("segment", "byte", "bytes"))
    print_lost("Lost", report.lost)
    if report.torn:
        print_heading("Commits of which a part is lost")
        for torn in report.torn:
            click.echo(str(torn))
    for line in report.warnings():
        note(line)
