"""`kafkalite log`, and the walk along the journal that it rests on: sound stores, stores in use, and damaged ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite.cli.journal_walk import Damage, open_journal
from kafkalite.storage import frame, segment

from .conftest import Run


def dumped(run: Run, path: Path, *options: object) -> list[dict[str, Any]]:
    result = run("log", "dump", path, "--json", *options)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_dump_names_logs_offsets_and_codecs(run: Run, orders: Path) -> None:
    with kafkalite.connect(orders) as store, store.producer(compression_type="zstd") as producer:
        producer.send_many("orders", [b"z" * 1000] * 3, partition=1)
    rows = [line.split() for line in run("log", "dump", orders).stdout.splitlines()]
    assert rows[0] == ["POSITION", "KIND", "LOG", "OFFSETS", "COUNT", "SIZE", "TIMESTAMP", "CODEC", "CHAIN"]
    assert rows[1][:4] == ["1:96", "batch", "__cluster_metadata", "0-1"]  # the topic
    assert [row[2:5] for row in rows[2:]] == [
        ["orders-0", "0-2", "3"], ["orders-1", "0-1", "2"], ["orders-1", "2-4", "3"],
    ]  # fmt: skip
    assert [row[7] for row in rows[2:]] == ["none", "none", "zstd"]
    assert rows[2][6] == "1970-01-01T00:00:03.000Z"


def test_dump_follows_the_chain_frame_by_frame(run: Run, orders: Path) -> None:
    frames = dumped(run, orders)
    assert [each["previous"] for each in frames[1:]] == [each["chain"] for each in frames[:-1]]
    assert all(each["kind"] == "batch" and each["commit"] for each in frames)
    assert frames[-1]["name"] == "orders-1"


def test_dump_of_a_topic_with_records(run: Run, orders: Path) -> None:
    (first, second) = dumped(run, orders, "--topic", "orders", "--records")
    assert first["records"][1] == {"offset": 1, "timestamp_ms": 2000, "key": None, "value": "b"}
    assert [record["value"] for record in second["records"]] == ["d", "e"]
    shown = run("log", "dump", orders, "--topic", "orders", "--records").stdout
    assert "  | offset 0  1970-01-01T00:00:01.000Z  key k  value a\n" in shown
    assert {each["name"] for each in dumped(run, orders, "--topic", "__cluster_metadata")} == {"__cluster_metadata"}


def test_dump_stops_after_a_count_of_frames(run: Run, orders: Path) -> None:
    assert len(dumped(run, orders, "-n", 2)) == 2
    assert dumped(run, orders, "-n", 0) == []


def with_segments(path: Path) -> None:
    """A store whose journal goes on in a second and third segment, closed."""
    with kafkalite.connect(path, segment_bytes=512 * 1024) as store:
        topic = store.topic("t")
        for number in range(24):
            topic.append(bytes([number]) * 50_000)


def test_dump_of_one_segment(run: Run, layout_path: Path) -> None:
    with_segments(layout_path)
    everything = dumped(run, layout_path)
    second = dumped(run, layout_path, "--segment", 2)
    assert second == [each | {"name": f"log {each['log']}"} if "log" in each else each
                      for each in everything if each["segment"] == 2]  # fmt: skip
    assert second[-1]["kind"] == "end"
    result = run("log", "dump", layout_path, "--segment", 9)
    assert result.exit_code == 1
    assert "there are 1, 2, 3" in result.stderr


def test_dump_and_verify_beside_a_store_in_use(run: Run, orders: Path) -> None:
    with kafkalite.connect(orders) as store:
        store.topic("orders").append(b"just now")
        assert any(each.get("name") == "orders-0" for each in dumped(run, orders))
        result = run("log", "verify", orders)
        assert (result.exit_code, result.stderr) == (0, "")


def test_verify_says_what_it_looked_at(run: Run, layout_path: Path) -> None:
    with_segments(layout_path)
    found = json.loads(run("log", "verify", layout_path, "--json").stdout)
    assert (found["ok"], found["segments"], found["damages"]) == (True, 3, [])
    assert found["records"] >= 24 + 2
    assert run("log", "verify", layout_path).stdout.startswith("ok: 3 segments, ")


def test_verify_of_a_store_that_was_recovered_ends_segments_where_recovery_did(run: Run, path: Path) -> None:
    with_segments(path)
    path.with_name(path.name + "-index").unlink()
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"after")
    found = json.loads(run("log", "verify", path, "--json").stdout)
    assert found["ok"], found["damages"]
    assert found["segments"] == 4


def journal_file(path: Path, number: int) -> tuple[Path, int]:
    """The file that a segment lies in, and where it begins."""
    with open_journal(str(path)) as opened:
        (start,) = [each.start for each in opened.journal.segments.extents() if each.number == number]
    return (path, start) if path.is_file() else (path / f"{number:020d}.segment", start)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture(params=["file", "directory"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store of three segments, still sound, that is not proved so at the end."""
    path = tmp_path / ("damaged.klite" if request.param == "file" else "damaged")
    with_segments(path)
    return path


def positions(path: Path) -> list[int]:
    with open_journal(str(path)) as opened:
        return [found.position for found in opened.walk() if not isinstance(found, Damage)]


@pytest.mark.parametrize("which", ["first", "middle", "last of a segment", "last"])
def test_flipped_bit_is_located_and_all_other_frames_are_read(run: Run, damaged: Path, which: str) -> None:
    whole = positions(damaged)
    at = {
        "first": whole[0],
        "middle": whole[len(whole) // 2],
        "last of a segment": [each for each in whole if segment.number_of(each) == 1][-1],
        "last": whole[-1],
    }[which]
    file, start = journal_file(damaged, segment.number_of(at))
    flip(file, start + segment.byte_of(at) + frame.HEADER_SIZE - 1)
    assert positions(damaged) == [each for each in whole if each != at]
    result = run("log", "verify", damaged)
    assert result.exit_code == 1
    assert f"segment {segment.number_of(at)}, byte {segment.byte_of(at)}: " in result.stderr
    assert result.stdout.startswith("1 damage: 3 segments, ")
    dump = run("log", "dump", damaged)
    assert dump.exit_code == 1
    assert dump.stderr == result.stderr
    assert len(dump.stdout.splitlines()) == len(whole)


def test_damaged_segment_header_is_told(run: Run, damaged: Path) -> None:
    file, start = journal_file(damaged, 2)
    flip(file, start + 20)
    result = run("log", "verify", damaged)
    assert result.exit_code == 1
    assert "its header is damaged, frames begin at byte 96" in result.stderr


def test_missing_segment_is_told(run: Run, tmp_path: Path) -> None:
    with_segments(tmp_path / "gone")
    (tmp_path / "gone" / f"{2:020d}.segment").unlink()
    result = run("log", "verify", tmp_path / "gone")
    assert result.exit_code == 1
    assert "segment 3 does not follow the end of this one" in result.stderr


def test_cut_segment_and_lost_superblock_are_one_line_each(run: Run, damaged: Path) -> None:
    file, start = journal_file(damaged, 3)
    file.write_bytes(file.read_bytes()[: start + 5000])
    result = run("log", "verify", damaged)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    first = damaged if damaged.is_file() else damaged / "superblock"
    data = bytearray(first.read_bytes())
    data[100] ^= 1
    data[4196] ^= 1
    first.write_bytes(data)
    result = run("log", "verify", damaged)
    assert result.exit_code == 1
    assert "both superblocks" in result.stderr


def test_creation_that_was_not_finished_holds_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "empty.klite"
    path.write_bytes(b"")
    result = run("log", "verify", path)
    assert result.exit_code == 1
    assert "creation was not finished" in result.stderr


def killed(path: Path) -> list[int]:
    """A store whose process ended without a word, and where its frames lie."""
    program = (
        "import os, sys, kafkalite; store = kafkalite.connect(sys.argv[1]); topic = store.topic('t');"
        "[topic.append(b'x' * 100) for _ in range(5)]; os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=False, timeout=60)
    return positions(path)


def test_what_follows_the_tail_of_a_killed_store_is_no_damage(run: Run, path: Path) -> None:
    whole = killed(path)
    file, start = journal_file(path, 1)
    with file.open("r+b") as stream:
        stream.seek(start + segment.byte_of(whole[-1]) + 300)
        stream.write(b"klfr a write that was not finished")
    result = run("log", "verify", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert positions(path) == whole


def test_damage_before_the_tail_of_a_killed_store_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "damaged.klite"  # not proved sound at the end: it is not
    whole = killed(path)
    file, start = journal_file(path, 1)
    flip(file, start + segment.byte_of(whole[2]) + 60)
    result = run("log", "verify", path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"kafkalite: segment 1, byte {segment.byte_of(whole[2])}: ")
    assert positions(path) == [each for each in whole if each != whole[2]]
