"""`kafkalite produce`."""

import io
import json
from pathlib import Path

import pytest

import kafkalite
from kafkalite.cli.produce import pieces

from .conftest import Run


def sent(path: Path, topic: str = "orders") -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values of a topic that was empty before."""
    with kafkalite.connect(path, create=False) as store:
        return [(record.key, record.value) for record in store.topic(topic, create=False).read()]


def test_lines_of_standard_input_become_values(run: Run, layout_path: Path) -> None:
    result = run("produce", "-s", layout_path, "orders", "--create", input=b"a\n\n\xff\r\nlast")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("4 records (7 B) to orders in ")
    assert sent(layout_path) == [(None, b"a"), (None, b""), (None, b"\xff\r"), (None, b"last")]


def test_files_are_sent_in_order_and_a_dash_is_standard_input(run: Run, path: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1\n2\n")
    (tmp_path / "two").write_bytes(b"4\n")
    result = run("produce", "-s", path, "t", "--create", "-q", tmp_path / "one", "-", tmp_path / "two", input="3\n")
    assert (result.exit_code, result.output) == (0, "")
    assert [value for _, value in sent(path, "t")] == [b"1", b"2", b"3", b"4"]


def test_file_that_is_not_there_is_wrong_usage_and_sends_nothing(run: Run, orders: Path, tmp_path: Path) -> None:
    assert run("produce", "-s", orders, "orders", tmp_path / "absent").exit_code == 2
    assert len(sent(orders)) == 5


@pytest.mark.parametrize(
    ("options", "line", "record"),
    [
        (("-K", ","), b"a,1,2", (b"a", b"1,2")),
        (("-K", r"\t"), b"no key", (None, b"no key")),
        (("-K", ",", "-k", "x"), b"no key", (b"x", b"no key")),
        (("-f", r"%k\t%v"), b"a\tb", (b"a", b"b")),
        (("-f", "%v{hex}"), b"00ff", (None, b"\0\xff")),
        (("-k", "x"), b"v", (b"x", b"v")),
        (("-k", "x", "-Z"), b"", (b"x", None)),
        (("-K", ",", "-Z"), b",", (None, None)),
        (("--json",), b'{"key": "k", "value": null, "topic": "gone", "partition": 99}', (b"k", None)),
        (("-z", "zstd"), b"v" * 500, (None, b"v" * 500)),
    ],
)
def test_what_a_line_is(
    run: Run, path: Path, options: tuple[str, ...], line: bytes, record: tuple[bytes | None, bytes | None]
) -> None:
    assert run("produce", "-s", path, "orders", "--create", *options, input=line + b"\n").exit_code == 0
    assert sent(path) == [record]


def test_headers_partition_and_timestamp(run: Run, path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t", partitions=3)
    run("produce", "-s", path, "t", "-p", 1, "-H", "a=1", "-H", "b", "-f", "%d %h %v", input="77 c=3 x\n")
    with kafkalite.connect(path) as store:
        (record,) = store.topic("t").read()
    assert (record.partition, record.timestamp_ms) == (1, 77)
    assert record.headers == (("a", b"1"), ("b", None), ("c", b"3"))


def test_line_may_name_partition_and_topic(run: Run, orders: Path) -> None:
    with kafkalite.connect(orders) as store:
        store.topic("other", partitions=4)
    assert run("produce", "-s", orders, "orders", "-f", "%t/%p/%v", input="other/3/x\n").exit_code == 0
    with kafkalite.connect(orders) as store:
        assert store.topic("other").end_offsets() == {0: 0, 1: 0, 2: 0, 3: 1}


def test_lines_that_fail_are_told_the_rest_is_sent_and_the_verb_fails(run: Run, orders: Path) -> None:
    lines = ["0:good", "bad", "7:no such partition", "x:y", "1:" + "z" * 2_000_000, "1:fine"]
    result = run("produce", "-s", orders, "orders", "-f", "%p:%v", input="\n".join(lines))
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert [line.partition("line ")[2][:1] for line in told[:4]] == ["2", "3", "4", "5"]
    assert told[4].startswith("2 records ")
    assert told[4].endswith("; 4 lines failed")
    assert {value for _, value in sent(orders)} == {b"a", b"b", b"c", b"d", b"e", b"good", b"fine"}


def test_only_the_first_failures_are_told_and_all_are_counted(run: Run, orders: Path) -> None:
    result = run("produce", "-s", orders, "orders", "--json", input="x\n" * 500)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 11
    assert result.stderr.endswith("500 lines failed\n")


def test_header_name_that_is_no_text_is_a_failed_line(run: Run, orders: Path) -> None:
    line = '{"value": "x", "headers": [{"key": "\\ud800", "value": "x"}]}\n'
    result = run("produce", "-s", orders, "orders", "--json", input=line)
    assert result.exit_code == 1
    assert "standard input, line 1: " in result.stderr


def test_topic_that_is_not_there_fails_unless_it_may_be_created(run: Run, orders: Path) -> None:
    result = run("produce", "-s", orders, "order", input="x\n")
    assert result.exit_code == 1
    assert "did you mean 'orders'?" in result.stderr


@pytest.mark.parametrize(
    "options", [("-f", "%v", "--json"), ("-K", ",", "--json"), ("-f", "%o"), ("-K", ""), ("-H", "=x"), ("-p", "-1")]
)
def test_options_that_make_no_sense_are_wrong_usage(run: Run, orders: Path, options: tuple[str, ...]) -> None:
    assert run("produce", "-s", orders, "orders", *options, input="x\n").exit_code == 2
    assert len(sent(orders)) == 5


def test_consumed_json_produces_the_same_records(run: Run, orders: Path, tmp_path: Path) -> None:
    with kafkalite.connect(orders) as store:
        store.topic("orders").append(b"\xff", key=b"\0", headers=[("h", b"\xfe"), ("n", None)], timestamp_ms=9)
        store.topic("orders").append(None, key=b"gone", timestamp_ms=10)
    lines = run("consume", "-s", orders, "orders", "--json").stdout
    assert all(json.loads(line)["topic"] == "orders" for line in lines.splitlines())
    other = tmp_path / "other"
    assert run("produce", "-s", other, "copy", "--create", "--json", input=lines).exit_code == 0
    with kafkalite.connect(orders) as store, kafkalite.connect(other, create=False) as copied:
        was = sorted(record[3:] for record in store.topic("orders").read())
        assert sorted(record[3:] for record in copied.topic("copy").read()) == was
        assert copied.check().ok


@pytest.mark.parametrize("end", [b"\n", b";", b"--", b"\0"])
def test_pieces_lie_between_ends_wherever_chunks_end(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kafkalite.cli.produce.CHUNK_BYTES", 3)
    assert list(pieces(io.BytesIO(end.join([b"one", b"", b"three", b""])), end)) == [b"one", b"", b"three"]
    assert list(pieces(io.BytesIO(b"x" + end + b"rest"), end)) == [b"x", b"rest"]
    assert list(pieces(io.BytesIO(b""), end)) == []
