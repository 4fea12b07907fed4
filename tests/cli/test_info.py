"""`kafkalite info`."""

import json
import os
from pathlib import Path

import kafkalite
from kafkalite.cli.info import disk_bytes, processes_with

from .conftest import Run


def test_info_says_what_there_is_in_either_layout(run: Run, layout_path: Path) -> None:
    with kafkalite.connect(layout_path, durability="interval") as store:
        store.topic("a", partitions=3).append_many([b"x"] * 10)
        store.topic("b")
    result = run("info", layout_path, "--json")
    found = json.loads(result.stdout)
    assert (found["store"], found["state"]) == (str(layout_path), "sealed")
    assert found["layout"] == ("single file" if layout_path.suffix else "directory")
    assert found["settings"]["durability"] == "interval"
    assert found["topics"] == [
        {"topic": "a", "partitions": 3, "records": 10}, {"topic": "b", "partitions": 1, "records": 0},
    ]  # fmt: skip
    assert [each["segment"] for each in found["segments"]] == [1]
    assert found["positions"]["unflushed"] is False
    assert found["positions"]["tail"] == found["positions"]["durable"]
    assert found["disk_bytes"]["journal"] >= 512 * 1024
    shown = run("info", layout_path).stdout
    for expected in ("2 topics, 4 partitions, 10 records", "closed cleanly", "1 segment, era 0", "nobody else"):
        assert expected in shown


def test_info_names_who_has_it_open(run: Run, orders: Path) -> None:
    with kafkalite.connect(orders):
        found = json.loads(run("info", orders, "--json").stdout)
        assert [each["pid"] for each in found["open_by"]] == [os.getpid()]
        shown = run("info", orders).stdout
    assert "state       in use" in shown
    assert f"open by     {os.getpid()} " in shown
    assert list(processes_with(orders)) == []


def test_info_of_a_store_without_topics(run: Run, path: Path) -> None:
    kafkalite.connect(path).close()
    result = run("info", path)
    assert result.exit_code == 0
    assert "0 topics, 0 partitions, 0 records" in result.stdout


def test_files_that_are_gone_take_nothing(tmp_path: Path) -> None:
    assert disk_bytes(tmp_path / "absent") == 0
    assert list(processes_with(tmp_path / "absent")) == []
