"""What the demo prints: in a wide terminal, a narrow one, a pipe, and without block characters."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from kafkalite import Record
from kafkalite.demo import snippets
from kafkalite.demo.crash import Crashed
from kafkalite.demo.flights import Flights
from kafkalite.demo.ingest import Ingested
from kafkalite.demo.readers import Reading
from kafkalite.demo.replay import Replayed
from kafkalite.demo.report import Report, bar, megabytes, rate
from kafkalite.demo.summary import summarize

CRASHED = Crashed(
    kills=3,
    seconds=1.5,
    acknowledged=3000,
    found=3001,
    missing_count=0,
    missing=[],
    gaps=[],
    is_clean=True,
    report="clean",
)


def record(line: bytes) -> Record[bytes, bytes]:
    return Record("flights", 3, 17, 1_357_034_400_000, None, line, ())


def printed(flights: Flights, width: int, crashed: Crashed = CRASHED, encoding: str = "utf-8") -> str:
    """The whole report, as piped into a file of this encoding."""
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding, errors="strict")
    report = Report(Console(file=file, width=width, highlight=False))
    records = [record(row.line) for row in flights.rows]
    report.opening("1.2.3", Path("/tmp/kafkalite-demo-abcdefgh/flights.klite"), flights)
    with report.progress(10) as advance:
        advance(10)
    report.ingested(Ingested({0: 20_000, 1: 7_004}, 0.25), flights.size)
    with report.working("reading"):
        report.read_at_once([Reading(4711, 27_004, 2_400_000, 0.02, ("0",))] * 3, "ab" * 32)
    report.replayed(Replayed(datetime(2013, 1, 20, tzinfo=UTC), 900, 12, records[0], 0.001))
    report.summarized(summarize(records))
    report.crashed(crashed)
    report.code(snippets.READ)
    report.closing(3.2, None)
    file.flush()
    return buffer.getvalue().decode(encoding)


def test_piped_output_is_plain_and_fits_80_columns(january: Flights) -> None:
    text = printed(january, 80)
    assert "\x1b" not in text
    assert "\r" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())
    for expected in (
        "27,004 departures, 2.5 MB",
        "27,004 records into 2 partitions in 0.250 s: 108,000 records/s, 9.9 MB/s.",
        "UA United Air Lines          4,605  \u2588",
        "+24.2        182",
        'with kafkalite.connect("flights.klite") as store:',
        "Done in 3.2 s; the store was removed",
    ):
        assert expected in text


@pytest.mark.parametrize("width", [20, 40, 49, 50, 60, 72, 80, 200])
def test_every_width_keeps_the_numbers_and_the_tables_within_it(january: Flights, width: int) -> None:
    text = printed(january, width)
    assert ("United Air Lines" in text) == (width >= 72)
    assert ("\u2588" in text) == (width >= 50)
    if width >= 40:
        united = next(line for line in text.splitlines() if line.strip().startswith("UA"))
        assert united.split()[-2:] == ["+8.3", "32"]
        assert "4,605" in united
        assert len(united) <= width


def test_encoding_without_block_characters_draws_with_hashes(january: Flights) -> None:
    text = printed(january, 80, encoding="ascii")
    assert "UA United Air Lines          4,605  ####" in text


def test_terminal_gets_colour(january: Flights) -> None:
    file = io.StringIO()
    report = Report(Console(file=file, width=80, force_terminal=True, color_system="standard", _environ={}))
    report.summarized(summarize(record(row.line) for row in january.rows[:100]))
    report.code(snippets.READ)
    assert "\x1b[36m" in file.getvalue()


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"missing_count": 2}, "2 acknowledged records missing"),
        ({"gaps": [1]}, "offsets without a gap"),
        ({"is_clean": False}, "store.check()"),
        ({"found": 3004}, "4 records beyond"),
    ],
)
def test_refuted_proof_is_said_to_be_wrong(january: Flights, changes: dict[str, int], wrong: str) -> None:
    fields = {name: getattr(CRASHED, name) for name in CRASHED.__slots__}
    text = printed(january, 80, crashed=Crashed(**{**fields, **changes}))
    assert [line for line in text.splitlines() if line.startswith("   WRONG  ") and wrong in line]


def test_bar_is_empty_full_and_exact_to_an_eighth() -> None:
    assert bar(0, 10) == ""
    assert bar(1, 10) == "\u2588" * 10
    assert bar(0.5, 3) == "\u2588\u258c"
    assert bar(0.01, 10) == "\u258f"
    assert bar(0.5, 10, is_ascii=True) == "#####"


def test_rates_say_no_more_than_three_figures() -> None:
    assert rate(123_456, 1.0) == "123,000 records/s"
    assert rate(1_234_567, 0.5) == "2,470,000 records/s"
    assert rate(7, 2.0) == "4 records/s"
    assert rate(5, 0.0) == "5 records at once"
    assert megabytes(2_481_331) == "2.5 MB"
