"""`kafkalite check`."""

import json
from pathlib import Path

from tests.storage.kit import LOG, copy, flip, frames_of

from .conftest import Run


def test_a_sound_store_ends_with_status_0(run: Run, orders: Path) -> None:
    result = run("check", orders)
    assert (result.exit_code, result.stderr) == (0, "")
    shown = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert (shown["result"], shown["records"], shown["topics"]) == ("ok", "7", "1")


def test_the_store_may_come_from_the_option_or_the_environment(run: Run, orders: Path) -> None:
    assert run("check", "--store", orders).exit_code == 0
    assert run("check", env={"KAFKALITE_STORE": str(orders)}).exit_code == 0
    result = run("check")
    assert result.exit_code == 2
    assert "no store is named" in result.stderr


def test_json_has_all_that_was_looked_at(run: Run, orders: Path) -> None:
    result = run("check", orders, "--json")
    found = json.loads(result.stdout)
    assert found.pop("bytes") > 100
    assert found.pop("index_rows") > 5
    assert found == {
        "store": str(orders), "ok": True, "cannot_open": None, "segments": 1, "batches": 3, "records": 7,
        "topics": 1, "logs": 3, "problems": [], "lost": [], "notes": [],
    }  # fmt: skip


def test_damage_ends_with_status_1_and_is_located(run: Run, orders: Path) -> None:
    at = frames_of(orders, LOG)[0].position
    flip(orders, at + 105)
    result = run("check", orders)
    assert result.exit_code == 1
    assert "unreadable: topic 'orders', partition 0: offsets 0 to 2" in result.stdout
    found = json.loads(run("check", orders, "--json").stdout)
    assert (found["ok"], found["cannot_open"]) == (False, None)
    flip(orders, at + 105)


def test_a_store_that_cannot_be_opened_is_explained(run: Run, orders: Path, tmp_path: Path) -> None:
    damaged = copy(orders, tmp_path / "damaged.klite")
    flip(damaged, frames_of(orders, LOG)[0].position + 105)
    result = run("check", damaged)
    assert result.exit_code == 1
    assert "Cannot be opened" in result.stdout
    assert "repair would give up topic 'orders', partition 0: offsets 0 to 2" in result.stdout
    assert "kafkalite repair --dry-run" in result.stderr
    assert json.loads(run("check", damaged, "--json").stdout)["cannot_open"]


def test_what_is_no_store_is_one_line(run: Run, tmp_path: Path) -> None:
    result = run("check", tmp_path / "absent.klite")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("kafkalite: there is no store at")
    assert not (tmp_path / "absent.klite").exists()
