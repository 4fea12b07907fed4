"""The flights loader: the packaged file byte for byte, every container, and files that are not of this
form."""

import gzip
import hashlib
import os
import zipfile
from pathlib import Path

import pytest
import zstandard

from kafkalite import ConfigError
from kafkalite.demo.flights import (
    HEADER,
    MISSING,
    PACKAGED_COUNT,
    Flights,
    csv_lines,
    read_flights,
    sha256,
    weave,
)

JANUARY_SHA256 = "a07b68f99deaefb99fde8f8b21fdc075217f72117a052339f348b1b3ec928985"
YEAR_SHA256 = "563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4"
YEAR_COUNT = 336_776

LINES = [
    b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z",
    b"2013,1,2,NA,1545,NA,NA,1910,NA,AA,133,NA,JFK,LAX,NA,2475,15,45,2013-01-02T20:00:00Z",
]
SOURCE = csv_lines([HEADER, *LINES])


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def whole_file(flights: Flights) -> bytes:
    return csv_lines([HEADER, *(row.line for row in flights.rows)])


def test_packaged_january_is_the_source_file_byte_for_byte(january: Flights) -> None:
    assert len(january.rows) == PACKAGED_COUNT == 27_004
    assert hashlib.sha256(whole_file(january)).hexdigest() == JANUARY_SHA256
    assert all(row.line.startswith(b"2013,1,") for row in january.rows)


@pytest.mark.long
@pytest.mark.skipif("KAFKALITE_FLIGHTS" not in os.environ, reason="KAFKALITE_FLIGHTS names no file of the whole year")
def test_whole_year_is_the_source_file_byte_for_byte() -> None:
    flights = read_flights(os.environ["KAFKALITE_FLIGHTS"])
    assert len(flights.rows) == YEAR_COUNT
    assert hashlib.sha256(whole_file(flights)).hexdigest() == YEAR_SHA256
    assert sum(row.key is None for row in flights.rows) == 2_512


def test_key_is_the_tail_number_and_null_where_the_file_says_na(january: Flights) -> None:
    for row in january.rows:
        tail_number = row.line.split(b",")[11]
        assert row.key == (None if tail_number == MISSING else tail_number)
    assert sum(row.key is None for row in january.rows) == 155


def test_timestamp_is_the_departures_hour_in_utc(january: Flights) -> None:
    assert january.rows[0].timestamp_ms == 1_357_034_400_000  # 2013-01-01T10:00:00Z
    assert all(row.timestamp_ms % 3_600_000 == 0 for row in january.rows)


def test_size_counts_newlines_and_not_the_header(january: Flights) -> None:
    assert january.size == len(whole_file(january)) - len(HEADER) - 1


def test_sha256_is_of_the_lines_after_the_header(january: Flights) -> None:
    lines = [row.line for row in january.rows]
    assert sha256(lines) == hashlib.sha256(csv_lines(lines)).hexdigest()
    assert sha256([]) == hashlib.sha256().hexdigest()


def test_limit_takes_the_first_lines_and_may_exceed_the_file(tmp_path: Path, january: Flights) -> None:
    assert read_flights(limit=3).rows == january.rows[:3]
    assert len(read_flights(write(tmp_path / "f.csv", SOURCE), limit=99).rows) == 2


def zipped(data: bytes, path: Path) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flights.csv", data)
    return path.read_bytes()


@pytest.mark.parametrize("form", ["plain", "gzip", "zip", "zstd", "zstd of unknown size", "two zstd frames"])
def test_every_container_gives_the_same_rows_whatever_the_name(tmp_path: Path, form: str) -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=form != "zstd of unknown size")
    data = {
        "plain": lambda: SOURCE,
        "gzip": lambda: gzip.compress(SOURCE),
        "zip": lambda: zipped(SOURCE, tmp_path / "z"),
        "zstd": lambda: compressor.compress(SOURCE),
        "zstd of unknown size": lambda: compressor.compress(SOURCE),
        "two zstd frames": lambda: compressor.compress(SOURCE[:100]) + compressor.compress(SOURCE[100:]),
    }[form]()
    flights = read_flights(write(tmp_path / "some.file", data))
    assert [row.line for row in flights.rows] == LINES
    assert [row.key for row in flights.rows] == [b"N14228", None]
    assert flights.name == "some.file"


def test_last_line_without_newline_is_a_line(tmp_path: Path) -> None:
    assert [row.line for row in read_flights(write(tmp_path / "f", SOURCE[:-1])).rows] == LINES


def test_header_alone_is_a_file_without_rows(tmp_path: Path) -> None:
    assert list(read_flights(write(tmp_path / "f", HEADER)).rows) == []
    assert list(read_flights(write(tmp_path / "f", HEADER + b"\n")).rows) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "its first line is b''"),
        (b"a,b,c\n1,2,3\n", "its first line is b'a,b,c'"),
        (SOURCE.replace(b"\n", b"\r\n"), "not a file of flights"),
        (SOURCE + b"2013,2\n", "line 4 of .* has 2 columns instead of 19: b'2013,2'"),
        (SOURCE + b"\n", "line 4 of .* has 1 columns"),
        (SOURCE.replace(b"2013-01-02T20:00:00Z", b"yesterday"), "line 3 of .*yesterday"),
        (SOURCE.replace(b"20:00:00Z", b"20:00:00"), "line 3 of .* has no time zone"),
        (gzip.compress(SOURCE)[:-20], "cannot be decompressed"),
        (b"\x1f\x8b not gzip after all", "cannot be decompressed"),
        (b"\x28\xb5\x2f\xfd not zstandard after all", "cannot be decompressed"),
        (b"PK\x03\x04 not zip after all", "cannot be decompressed"),
    ],
)
def test_file_of_another_form_is_refused_with_its_name_and_the_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = write(tmp_path / "strange.csv", data)
    with pytest.raises(ConfigError, match=said) as caught:
        read_flights(path)
    assert str(path) in str(caught.value)


def test_absent_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        read_flights(tmp_path / "absent.csv")


def test_weave_puts_partitions_back_into_the_files_order() -> None:
    source = [b"a", b"b", b"c", b"d", b"e"]
    assert list(weave(source, [[b"b", b"e"], [], [b"a", b"c", b"d"]])) == source
    assert list(weave([], [[], []])) == []


def test_weave_accepts_equal_lines_in_several_partitions() -> None:
    assert list(weave([b"a", b"a", b"b"], [[b"a"], [b"a", b"b"]])) == [b"a", b"a", b"b"]


@pytest.mark.parametrize(
    ("partitions", "said"),
    [
        ([[b"a"], [b"c"]], "line 2 is not the next value of any of 2 partitions: b'b'"),
        ([[b"b", b"a"], [b"c"]], "line 1 .*: b'a'"),
        ([[b"a", b"b", b"c", b"c"]], "partition 0 goes on after the last line: b'c'"),
        ([[b"a", b"b", b"c"], [b"x"]], "partition 1 goes on after the last line: b'x'"),
    ],
)
def test_weave_refuses_what_is_missing_out_of_order_or_too_much(partitions: list[list[bytes]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(weave([b"a", b"b", b"c"], partitions))
