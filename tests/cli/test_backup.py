"""`kafkalite backup`: what it prints, and how it ends."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kafkalite
from kafkalite.cli import cli
from kafkalite.testing.procs import Child
from tests.storage import kit


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["backup", *map(str, arguments)])


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with kafkalite.connect(tmp_path / "shop.klite") as store:
        store.topic("orders", partitions=2).append_many([b"1", b"2", b"3"])
        assert store.check().ok
    return tmp_path / "shop.klite"


@pytest.mark.parametrize("name", ["copy.klite", "copy", "copy.d/"])
def test_a_backup_is_a_store(shop: Path, name: str, tmp_path: Path) -> None:
    result = run(shop, f"{tmp_path}/{name}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert str(tmp_path / name.rstrip("/")) in result.stdout
    assert (tmp_path / name).is_dir() is not name.endswith(".klite")
    with kafkalite.connect(tmp_path / name, create=False) as copy:
        assert {record.value for record in copy.topic("orders").read()} == {b"1", b"2", b"3"}
        assert copy.check().ok


def test_a_store_in_use_is_copied_as_it_is(shop: Path, tmp_path: Path) -> None:
    with kafkalite.connect(shop) as store:
        store.topic("orders").append(b"4")
        child = Child([sys.executable, "-m", "kafkalite", "backup", str(shop), str(tmp_path / "copy.klite")])
        with child:
            child.succeed()
        assert store.check().ok
    with kafkalite.connect(tmp_path / "copy.klite", create=False) as copy:
        assert sum(copy.topic("orders").end_offsets().values()) == 4
        assert copy.check().ok


def test_json_is_one_object(shop: Path, tmp_path: Path) -> None:
    result = run(shop, tmp_path / "a.klite", "--json")
    with kafkalite.connect(tmp_path / "a.klite", create=False) as copy:
        assert copy.check().ok
    said = json.loads(result.stdout)
    assert said == {"path": str(tmp_path / "a.klite"), "segments": 1, "bytes": said["bytes"]}
    assert said["bytes"] > 100
    checked = json.loads(run(shop, tmp_path / "b.klite", "--json", "--check").stdout)
    assert checked == said | {"path": str(tmp_path / "b.klite"), "checked_records": 5}  # the topic's facts are two


def test_an_existing_target_fails_with_one_line(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "there.klite").write_text("not yours")
    result = run(shop, tmp_path / "there.klite")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("kafkalite: ")
    assert "replaces nothing" in result.stderr
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "there.klite").read_text() == "not yours"


def test_no_store_is_no_backup(tmp_path: Path) -> None:
    result = run(tmp_path / "nothing.klite", tmp_path / "copy.klite")
    assert result.exit_code == 1
    assert "there is no store" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_fails_when_the_store_was_damaged(shop: Path, tmp_path: Path) -> None:
    frame = kit.frames_of(shop, kit.LOG)[0]
    kit.flip(shop, frame.position + 80)
    assert run(shop, tmp_path / "unchecked.klite").exit_code == 0
    result = run(shop, tmp_path / "checked.klite", "--check")
    assert result.exit_code == 1
    assert "damage" in result.stderr


def test_both_places_are_needed(shop: Path) -> None:
    result = run(shop)
    assert result.exit_code == 2
    assert "TARGET" in result.stderr
