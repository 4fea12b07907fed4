"""`kafkalite demo`: the tour of `kafkalite.demo`, with what the command line says."""

from pathlib import Path

import rich_click as click
from rich.console import Console

from kafkalite.cli.app import CommandFailedError, examples
from kafkalite.demo import DemoFailedError
from kafkalite.demo.report import Report
from kafkalite.demo.tour import Options, run

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


@click.command(
    epilog=examples(
        "kafkalite demo",
        "kafkalite demo --store flights.klite --partitions 32",
        "kafkalite demo --data flights.csv.zip --readers 4",
    )
)
@click.option(
    "--data",
    type=_FILE,
    envvar="KAFKALITE_FLIGHTS",
    show_envvar=True,
    help="Another file of flights: csv, or csv in gzip, zip or zstandard. January 2013 is packaged.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take only so many lines of the file.")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Make the store here, and leave it. It must not exist. Otherwise: a temporary place.",
)
@click.option("--keep", is_flag=True, help="Leave the temporary store, too.")
@click.option(
    "--partitions",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=8,
    show_default=True,
    help="Partitions of the topic.",
)
@click.option(
    "--readers",
    type=click.IntRange(1, 64),
    metavar="N",
    default=3,
    show_default=True,
    help="Processes that read at once.",
)
@click.option(
    "--kills",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=3,
    show_default=True,
    help="Writers to kill.",
)
def demo(
    data: Path | None,
    limit: int | None,
    store: Path | None,
    *,
    keep: bool,
    partitions: int,
    readers: int,
    kills: int,
) -> None:
    """Take a month of flights through a store, and try to lose some.

    Writes 27,004 departures into partitions, reads them in several processes at once, replays from a point in
    time, tabulates them, then kills writing processes and has another look for what is missing. Takes a few
    seconds.
    """
    options = Options(
        data=data, limit=limit, store=store, keep=keep, partitions=partitions, readers=readers, kills=kills
    )
    try:
        run(Report(Console(highlight=False)), options)
    except DemoFailedError as error:
        raise CommandFailedError(str(error)) from error
