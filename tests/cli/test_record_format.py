"""Formats of records: printed, and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkalite import Record
from kafkalite.cli.consume import as_json_line
from kafkalite.cli.record_format import FormatError, Line, LineFormat, delimited, header, printer, read_json

RECORD = Record("shop", 3, 300, 1_357_016_400_123, b"k\xff", b'say "hi"', (("a", b"1"), ("b", None)))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (r"%v\n", b'say "hi"\n'),
        (r"%t/%p/%o/%d/%i", b"shop/3/300/1357016400123/7"),
        ("%T %K %V %H", b"4 2 8 2"),
        ("%k{hex} %k{base64}", b"6bff a/8="),
        ("%v{json}", b'"say \\"hi\\""'),
        ("%o{big8}", b"\0\0\0\0\0\0\x01\x2c"),
        ("%o{big2}%p{byte}%o{hex}%p{ascii}", b"\x01\x2c\x0312c3"),
        ("%d{iso}", b"2013-01-01T05:00:00.123Z"),
        ("%d{strftime[%Y/%m/%d %H%%]}", b"2013/01/01 05%"),
        ("%h", b"a=1,b="),
        ("%h{%k:%v;}", b"a:1;b:;"),
        ("%%%{%}", b"%{}"),
        (r"\t\r\n\\\x41\0", b"\t\r\n\\A\0"),
        ("äöü %p", "äöü 3".encode()),
        ("", b""),
    ],
)
def test_fields_and_modifiers(template: str, expected: bytes) -> None:
    assert printer(template)(RECORD, 7) == expected


def test_null_is_nothing_or_what_is_asked_for() -> None:
    tombstone = RECORD._replace(value=None, key=None)
    assert printer("<%k|%v|%V>")(tombstone, 0) == b"<||0>"
    assert printer("<%k|%v|%h>", b"NULL")(tombstone, 0) == b"<NULL|NULL|a=1,b=NULL>"


@pytest.mark.parametrize(
    "template", ["%", "%q", "%v{hexx}", "%o{base64}", "%d{strftime}", "%h{%t}", "\\", r"\q", r"\x4", "%h{%q}"]
)
def test_strange_format_is_refused(template: str) -> None:
    with pytest.raises(FormatError):
        printer(template)


@pytest.mark.parametrize(
    ("template", "line", "expected"),
    [
        ("%v", b"a\tb", Line(b"a\tb")),
        (r"%k\t%v\n", b"a\tb\tc", Line(b"b\tc", b"a")),
        ("%p:%d:%k=%v", b"2:77:a=b", Line(b"b", b"a", 2, timestamp_ms=77)),
        ("<%v> %t", b"<x> other", Line(b"x", topic="other")),
        ("%k{hex},%v{base64}", b"6bff,aGk=", Line(b"hi", b"k\xff")),
        ("%h %v", b"a=1,b x", Line(b"x", headers=(("a", b"1"), ("b", None)))),
        ("%k,%v", b",", Line(b"", b"")),
    ],
)
def test_line_is_split_at_what_stands_between_fields(template: str, line: bytes, expected: Line) -> None:
    assert LineFormat(template).read(line) == expected


def test_what_follows_the_last_field_ends_a_record() -> None:
    assert [LineFormat(text).end for text in ("%v", r"%v\n", r"%k:%v;\0")] == [b"\n", b"\n", b";\0"]


@pytest.mark.parametrize("template", ["", "text", "%k%v", "%v,%v", "%o %v", "%v{json}", "%p{big4} %v", "%d{iso} %v"])
def test_format_that_cannot_be_read_is_refused(template: str) -> None:
    with pytest.raises(FormatError):
        LineFormat(template)


@pytest.mark.parametrize(
    ("template", "line", "complaint"),
    [
        (r"%k\t%v", b"no tab", "there is no"),
        ("<%v", b"v", "does not begin with '<'"),
        ("%p %v", b"x y", "'x' is not a whole number"),
        ("%v{hex}", b"abc", "not hexadecimal"),
        ("%v{base64}", b"a*", "not base64"),
        ("%t %v", b"\xff v", "not UTF-8"),
        ("%h %v", b"=x v", "not a header"),
    ],
)
def test_line_that_does_not_fit_says_why(template: str, line: bytes, complaint: str) -> None:
    with pytest.raises(FormatError, match=complaint):
        LineFormat(template).read(line)


def test_header_value_may_be_null_empty_or_hold_the_separator() -> None:
    assert [header(text) for text in ("a", "a=", "a:b=c", "a=b:c")] == [
        ("a", None), ("a", b""), ("a", b"b=c"), ("a", b"b:c"),
    ]  # fmt: skip


def test_delimiter_takes_escapes_and_percent_signs() -> None:
    assert [delimited(text) for text in (r"\t", "%", ", ", r"\x00")] == [b"\t", b"%", b", ", b"\0"]
    with pytest.raises(FormatError):
        delimited("")


RAW = st.none() | st.binary(max_size=20) | st.text(max_size=10).map(lambda text: text.encode())


@given(RAW, RAW, st.lists(st.tuples(st.text(max_size=5), RAW), max_size=3), st.integers(0, 2**50))
def test_json_line_is_read_back_as_it_was(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], stamp: int
) -> None:
    line = as_json_line(Record("t", 1, 2, stamp, key, value, tuple(headers)), 0)
    assert line.count(b"\n") == 1
    assert read_json(line) == Line(value, key, timestamp_ms=stamp, headers=tuple(headers))


def test_json_that_is_no_text_is_sent_as_it_is_written() -> None:
    assert read_json(b'{"value": {"a": [1, "\xc3\xa4"]}, "key": 7}') == Line('{"a":[1,"ä"]}'.encode(), b"7")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"valeu": "x"}', "unknown member 'valeu'"),
        (b'{"timestamp_ms": "x"}', "timestamp_ms is 'x', not int"),
        (b'{"timestamp_ms": true}', "not int"),
        (b'{"value_base64": "*"}', "not base64"),
        (b'{"value_base64": 5}', "not base64"),
        (b'{"headers": {"a": 1}}', "not list"),
        (b'{"headers": ["a"]}', "a header is written"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_strange_json_says_why(line: bytes, complaint: str) -> None:
    with pytest.raises(FormatError, match=complaint):
        read_json(line)
