"""`kafkalite copy`: topics of one store into another."""

import rich_click as click

import kafkalite
from kafkalite.cli.advance import advancing
from kafkalite.cli.app import examples
from kafkalite.cli.options import json_option
from kafkalite.cli.output import note, plural, print_json, print_table, size


@click.command(
    epilog=examples(
        "kafkalite copy shop.klite shop/",
        "kafkalite copy shop.klite small.klite -t 'orders-*' -t users --exclude '*-test'",
        "kafkalite copy shop.klite archive.klite --regex -t 'orders-[0-9]+'",
        "kafkalite copy monday.klite week.klite --append -t orders",
    )
)
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option(
    "-t",
    "--topic",
    "topics",
    multiple=True,
    metavar="PATTERN",
    help="Topics to copy: a name, or a shell pattern in quotes. May be repeated; all topics when left out.",
)
@click.option("-x", "--exclude", multiple=True, metavar="PATTERN", help="Topics to leave out. May be repeated.")
@click.option("--regex", is_flag=True, help="Patterns are regular expressions that fit the whole name.")
@click.option(
    "--append",
    is_flag=True,
    help="Append to topics that TARGET has already: offsets are new, an interrupted copy leaves what it appended, and "
    "once more is twice.",
)
@json_option
def copy(
    source: str,
    target: str,
    *,
    topics: tuple[str, ...],
    exclude: tuple[str, ...],
    regex: bool,
    append: bool,
    as_json: bool,
) -> None:
    """Copy topics of the store SOURCE into the store TARGET, which is created if need be. Both may be in use.

    Records keep their bytes, headers, timestamps and offsets, topics their settings. All topics appear in TARGET at
    one moment, the end: an interrupted copy shows none, and the same command goes on where it was. A topic that
    TARGET has already is refused, unless --append is given. Internal topics are left out; `kafkalite backup` takes
    everything.
    """  # fmt: skip
    patterns = topics or (".*" if regex else "*",)
    with advancing(f"copying {source}", "items") as tell:
        copied = kafkalite.copy_topics(
            source, target, patterns, exclude=exclude, regex=regex, append=append, progress=tell
        )
    if as_json:
        for topic in copied:
            print_json(topic._asdict())
        return
    rows = [(one.name, one.partitions, one.records, size(one.bytes)) for one in copied]
    print_table(("topic", "partitions", "records", "size"), rows, right=("partitions", "records", "size"))
    note(f"{plural(len(copied), 'topic')}, {plural(sum(one.records for one in copied), 'record')} to {target}")
