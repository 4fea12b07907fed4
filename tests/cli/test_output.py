"""Tables, facts, JSON and numbers, in a pipe. What a terminal sees: test_terminal."""

import json

import pytest

from kafkalite.cli import output


def test_piped_table_is_aligned_plain_text_of_any_width(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["NAME", "N"], [("x" * 200, 1234567), ("[red]", None), ("", True)], right=["N"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{'NAME':200}          N", f"{'x' * 200}  1,234,567", f"{'[red]':200}          -",
                     f"{'':200}        yes"]  # fmt: skip


def test_table_without_rows_has_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["A", "B"], [])
    assert capsys.readouterr().out == "A  B\n"


def test_facts_stand_below_each_other_and_keep_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_facts({"a": "[bold]x[/]", "long": "one\ntwo", "none": None})
    assert capsys.readouterr().out == "a     [bold]x[/]\nlong  one\n      two\nnone  -\n"


def test_json_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"text": "ä\n", "bytes": b"\xffx", "range": range(2), "other": 1 + 2j})
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"text": "ä\n", "bytes": "\\xffx", "range": [0, 1], "other": "(1+2j)"}


def test_bytes_that_are_no_text_are_base64() -> None:
    assert [output.plain("key", data) for data in (None, b"", "ä".encode(), b"\xff")] == [
        {"key": None}, {"key": ""}, {"key": "ä"}, {"key_base64": "/w=="},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1024**2 - 1, "1.0 MiB"),
        (1024**2, "1.0 MiB"), (5 * 1024**4, "5.0 TiB"), (2**70, "1048576.0 PiB"),
    ],
)  # fmt: skip
def test_sizes(number: int, text: str) -> None:
    assert output.size(number) == text


def test_spans_counts_and_plurals() -> None:
    assert [output.span(seconds) for seconds in (0.0123, 1, 59.94, 125)] == ["12 ms", "1.0 s", "59.9 s", "2 min 05 s"]
    assert [output.plural(n, "record") for n in (0, 1, 2000)] == ["0 records", "1 record", "2,000 records"]


def test_moments_are_utc_and_absurd_timestamps_numbers() -> None:
    assert output.moment(1_357_016_400_123) == "2013-01-01T05:00:00.123Z"
    assert output.moment(2**60) == str(2**60)


def test_progress_in_a_pipe_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("copying", 10, "bytes") as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
