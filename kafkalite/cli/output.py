"""What verbs print, and how it looks: to people on a terminal, to programs in a pipe.

Results go to standard output, everything else (notes, progress) to standard error.

    print_table(columns, rows)      a table; in a pipe aligned columns of plain text, never cut off
    print_facts(pairs)              names and values, one a line
    print_json(value)               one JSON value on one line; bytes as text, see `plain`
    note(text)                      a line for people
    progress(what, total, unit)     a bar that appears after a second, only on a terminal
    count  size  moment  span       numbers for people

A terminal gets colour unless NO_COLOR is set (rich sees to that). Standard output in a pipe whose reader has gone
raises BrokenPipeError, which the root command ends quietly.
"""

import base64
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

Unit = Literal["bytes", "items"]
SILENT_SECONDS: Final = 1.0
STEP_SECONDS: Final = 0.1
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def console() -> Console:
    """Standard output, as it is at the moment."""
    return Console(highlight=False, soft_wrap=True)


def is_terminal() -> bool:
    """Whether a person looks at standard output."""
    return console().is_terminal


# Results


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table: on a terminal rich's, in a pipe aligned plain columns. Columns named in `right` are numbers."""
    texts = [[_cell(value) for value in row] for row in rows]
    screen = console()
    if not screen.is_terminal:
        _print_plain(columns, texts, right)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in texts:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return count(value) if isinstance(value, int) else str(value)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def print_facts(pairs: Mapping[str, object]) -> None:
    """Names and values, one a line, the values below each other."""
    width = max(map(len, pairs), default=0)
    screen = console()
    for name, value in pairs.items():
        first, *more = _cell(value).splitlines() or [""]
        screen.print(Text.assemble((name.ljust(width), "bold"), "  ", first))
        for line in more:
            screen.print(Text(" " * (width + 2) + line))


def print_heading(text: str) -> None:
    """A line that stands over a table, with an empty one before it."""
    screen = console()
    screen.print()
    screen.print(Text(text, style="bold"))


def print_json(value: object) -> None:
    """One JSON value on a line of its own. Bytes become text; `plain` does that without loss."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=_as_json))


def _as_json(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset | range):
        return sorted(value)
    return str(value)


def plain(name: str, value: bytes | None) -> dict[str, str | None]:
    """Bytes as a member of a JSON object, without loss: `name` as text, or `name_base64` where they are not UTF-8."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def note(text: str) -> None:
    """A line for people, on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text))


# Progress


@contextlib.contextmanager
def progress(what: str, total: int | None = None, unit: Unit = "items") -> Iterator[Callable[[int], None]]:
    """Show how far something is: the block calls what it is given with how much was done since the last call.

    Drawn on standard error once a second has passed, and wiped at the end; nothing where that is no terminal.
    """
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield lambda _: None
        return
    bar = Progress(*_columns(total, unit), console=screen, transient=True)
    task = bar.add_task(escape(what), total=total)
    step = _Step(bar, lambda n: bar.advance(task, n))
    try:
        yield step
    finally:
        bar.stop()


class _Step:
    """Advances a bar a few times a second, however often it is called, and begins to draw it after the first one."""

    def __init__(self, bar: Progress, advance: Callable[[int], None]) -> None:
        self._bar = bar
        self._advance = advance
        self._owed = 0
        self._due = bar.get_time() + SILENT_SECONDS
        self._is_shown = False

    def __call__(self, done: int) -> None:
        self._owed += done
        now = self._bar.get_time()
        if now < self._due:
            return
        self._due = now + STEP_SECONDS
        self._advance(self._owed)
        self._owed = 0
        if not self._is_shown:
            self._is_shown = True
            self._bar.start()


def _columns(total: int | None, unit: Unit) -> list[Any]:
    done: list[Any] = [DownloadColumn(binary_units=True), TransferSpeedColumn()]
    if unit == "items":
        done = [MofNCompleteColumn() if total is not None else TextColumn("{task.completed:,.0f}"), _Rate()]
    return [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *([BarColumn(bar_width=None)] if total is not None else []),
        *done,
        TimeElapsedColumn(),
    ]


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """The rate, once it is known."""
        return Text(f"{count(round(task.speed))}/s" if task.speed else "", style="progress.data.speed")


# Numbers


def count(number: int) -> str:
    """A number with commas."""
    return f"{number:,}"


def size(number: float) -> str:
    """Bytes: 512 B, 1.5 KiB, 12.3 MiB."""
    value, unit = float(number), 0
    while abs(value) >= 1023.95 and unit < len(_SIZES) - 1:  # it would be written as 1024.0
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_SIZES[unit]}" if unit else f"{number:.0f} B"


def moment(timestamp_ms: int) -> str:
    """A timestamp (ms since 1970) as UTC with milliseconds; the bare number outside of the years 1 to 9999."""
    try:
        found = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """A duration: 12 ms, 3.4 s, 2 min 05 s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def plural(number: int, noun: str) -> str:
    """1 record, 2 records, 1 index row."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def flush() -> None:
    """Hand on what was printed, so that a reader that has gone is noticed here."""
    sys.stdout.flush()
