"""`kafkalite backup`: the whole store at another place, while others write."""

import rich_click as click

from kafkalite.cli.advance import advancing
from kafkalite.cli.app import CommandFailedError, examples
from kafkalite.cli.options import json_option, open_store
from kafkalite.cli.output import print_facts, print_json, size


@click.command(
    epilog=examples(
        "kafkalite backup shop.klite shop-monday.klite",
        "kafkalite backup shop.klite backups/shop/",
        "kafkalite backup --check shop.klite shop-monday.klite",
    )
)
@click.argument("store", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--check", "is_checked", is_flag=True, help="Then read all of the backup, and prove it sound.")
@json_option
def backup(store: str, target: str, *, is_checked: bool, as_json: bool) -> None:
    """Copy the store STORE, as it is at one moment, to TARGET, which must not exist. Others may go on writing.

    A TARGET without a suffix, or with a separator at its end, is a directory; any other a single file, whatever STORE
    is. A backup is a store: open it, or copy it to where it is to be restored. An interrupted one leaves
    TARGET-unfinished, never half a TARGET.
    """
    with open_store(store) as opened, advancing(f"copying {store}", "bytes") as tell:
        made = opened.backup(target, progress=tell)
    records = _checked(target) if is_checked else None
    if as_json:
        facts: dict[str, object] = {"path": str(made.path), "segments": made.segments, "bytes": made.bytes}
        print_json(facts if records is None else facts | {"checked_records": records})
        return
    shown: dict[str, object] = {"backup": made.path, "segments": made.segments, "journal": size(made.bytes)}
    print_facts(shown if records is None else shown | {"check": f"ok, {records:,} records"})


def _checked(target: str) -> int:
    """How many records the backup holds; fails when it is not sound."""
    with open_store(target) as made:
        report = made.check()
    if not report.ok:
        raise CommandFailedError(f"the backup {target} was made, and holds the damage that the store has: {report}")
    return report.records
