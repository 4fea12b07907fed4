"""`kafkalite work`: a pool of worker processes that hand a group's records to a function.

The command line follows dramatiq's and celery's: MODULE:FUNCTION, found from the working directory; `--processes`;
log lines on standard error; the first SIGTERM or Ctrl-C finishes the records in hand, the second ends at once. At a
terminal a table shows the workers and the lag meanwhile.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import rich_click as click
from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

import kafkalite
from kafkalite import workers as pool
from kafkalite.cli import output
from kafkalite.cli.app import CommandFailedError, examples
from kafkalite.cli.group import complete_group
from kafkalite.cli.options import complete_topic, get_topic, open_store, settings_option, store_option
from kafkalite.group_admin import group_lag

FORMAT: Final = "[%(asctime)s] [PID %(process)d] [%(name)s] [%(levelname)s] %(message)s"
TYPES: Final[dict[str, Any]] = {"bytes": None, "str": str, "json": kafkalite.JSON, "msgpack": kafkalite.MSGPACK}


@click.command(
    epilog=examples(
        "kafkalite work -s shop.klite billing:bill --group billing --topic orders --workers 4",
        "kafkalite work -s shop.klite billing:bill -g billing -t orders --retries 5 --dead-letter orders.failed",
        "kafkalite work -s shop.klite billing:bill -g billing -t orders --burst",
    )
)
@store_option
@click.argument("handler", metavar="MODULE:FUNCTION")
@click.option(
    "-g", "--group", required=True, metavar="GROUP", shell_complete=complete_group, help="The group that they join."
)
@click.option(
    "-t", "--topic", "topics", multiple=True, required=True, metavar="TOPIC", shell_complete=complete_topic,
    help="A topic to read. May be repeated.",
)  # fmt: skip
@click.option(
    "-w", "--workers", "--processes", "-p", "workers", type=click.IntRange(1, pool.MOST_WORKERS), default=1,
    show_default=True, metavar="N", help="Worker processes.",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(min=0), default=3, show_default=True, metavar="N",
    help="How often a record that failed is tried again, with back-off.",
)  # fmt: skip
@click.option(
    "--dead-letter", metavar="TOPIC", shell_complete=complete_topic,
    help="Where records go that failed for good, or killed three workers; without it they end the command.",
)  # fmt: skip
@click.option("--burst", is_flag=True, help="End when all that there was has been handled.")
@click.option(
    "--value", "value", type=click.Choice(list(TYPES)), default="bytes", show_default=True,
    help="What the function is given as a record's value.",
)  # fmt: skip
@click.option(
    "--path", "path", type=click.Path(exists=True, file_okay=False), default=".", show_default=True,
    help="Where the module is looked for first.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Log lines of level DEBUG as well.")
@settings_option
def work(
    store: str,
    handler: str,
    *,
    group: str,
    topics: Sequence[str],
    workers: int,
    retries: int,
    dead_letter: str | None,
    burst: bool,
    value: str,
    path: str,
    verbose: bool,
    settings: dict[str, str],
) -> None:
    """Hand the records of topics to a Python function, in worker processes that share the partitions.

    The function takes a record; when it returns the record is done. SIGTERM and Ctrl-C finish the records in hand. -c
    takes settings of the group's members, such as -c auto.offset.reset=latest.
    """
    found = load_handler(handler, path)
    level = logging.DEBUG if verbose else logging.INFO
    begun = monotonic()
    with open_store(store, write=True) as opened:
        types = {"value": TYPES[value]} if TYPES[value] is not None else {}
        handles = [opened.topic(get_topic(opened, name).name, create=False, **types) for name in topics]
        if dead_letter is not None:
            get_topic(opened, dead_letter)
        members = opened.consumer_group(group, handles, config=settings)
        with _shown(opened, group, level) as watch:
            status = pool.run(
                members, found, workers=workers, retries=retries, dead_letter=dead_letter,
                until="end" if burst else None, begin=partial(logging.basicConfig, format=FORMAT, level=level),
                watch=watch,
            )  # fmt: skip
    output.note(_summary(status, monotonic() - begun))


def load_handler(name: str, path: str) -> Callable[[Any], object]:
    """The function that MODULE:FUNCTION names; raises `CommandFailedError`."""
    module_name, separator, function_name = name.partition(":")
    if not separator or not module_name or not function_name:
        raise click.UsageError(f"{name!r} is not MODULE:FUNCTION, such as billing:bill")
    sys.path.insert(0, str(Path(path).absolute()))  # workers get this path as well
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise CommandFailedError(
            f"there is no module {module_name!r}: it is looked for in {Path(path).absolute()} (--path), then where "
            "Python looks"
        ) from error
    found: Any = module
    for part in function_name.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name a function at its top"
            raise CommandFailedError(f"module {module_name!r} has no {part!r}: {hint}")
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]  # whether it can be called, `run` says


def _summary(status: pool.Status, seconds: float) -> str:
    text = f"{output.plural(status.handled, 'record')} handled in {output.span(seconds)}"
    text += f", {output.plural(status.letters, 'dead letter')}" if status.letters else ""
    return text + (f", {output.plural(status.restarts, 'worker')} started anew" if status.restarts else "")


@contextmanager
def _shown(opened: kafkalite.Store, group: str, level: int) -> Iterator[Callable[[pool.Status], object] | None]:
    """Log lines on standard error; on a terminal above a table of the workers, which the block's callable redraws."""
    screen = Console(stderr=True)
    log = logging.getLogger()
    before = log.level
    handler: logging.Handler = logging.StreamHandler()
    if screen.is_terminal:
        handler = RichHandler(console=screen, show_path=False, log_time_format="%X")
    else:
        handler.setFormatter(logging.Formatter(FORMAT))
    log.addHandler(handler)
    log.setLevel(level)
    try:
        if not screen.is_terminal:
            yield None
            return
        with Live(console=screen, transient=True, auto_refresh=False) as live:
            view = _View(opened, group)
            yield lambda status: live.update(view.drawn(status), refresh=True)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


class _View:
    """The table of the workers, with rates since it was last drawn."""

    def __init__(self, opened: kafkalite.Store, group: str) -> None:
        self._opened = opened
        self._group = group
        self._handled = 0
        self._at = monotonic()

    def drawn(self, status: pool.Status) -> Group:
        """The pool as it is now."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("worker", "process", "state", "handled", "in hand"):
            table.add_column(column, justify="right" if column == "handled" else "left")
        for one in status.workers:
            held = "" if one.in_hand is None else "{}-{} @{}".format(*one.in_hand)
            table.add_row(str(one.number), str(one.pid or "-"), one.state, output.count(one.handled), held)
        return Group(table, Text(self._line(status), style="bold"))

    def _line(self, status: pool.Status) -> str:
        now, handled = monotonic(), status.handled
        rate = (handled - self._handled) / max(now - self._at, 1e-9)
        self._at, self._handled = now, handled
        try:
            lag = output.count(group_lag(self._opened, self._group))
        except kafkalite.KafkaliteError:  # the store is busy, or a topic was deleted: the next line knows
            lag = "?"
        text = f"{output.count(handled)} handled, {output.count(round(rate))}/s, lag {lag}"
        text += f", {output.count(status.retried)} retried" if status.retried else ""
        text += f", {output.plural(status.letters, 'dead letter')}" if status.letters else ""
        return text + ("; stopping" if status.is_stopping else "")
