"""`kafkalite repair`."""

import json
from pathlib import Path

import kafkalite
from tests.storage.kit import LOG, flip, frames_of, values

from .conftest import Run


def damaged(orders: Path) -> Path:
    flip(orders, frames_of(orders, LOG)[0].position + 105)
    return orders


def test_a_sound_store_is_left_as_it_is(run: Run, orders: Path) -> None:
    before = orders.read_bytes()
    result = run("repair", orders)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "sound: nothing was changed" in result.stdout
    assert json.loads(run("repair", orders, "--json").stdout)["outcome"] == "healthy"
    assert orders.read_bytes() == before


def test_a_dry_run_says_what_would_be_lost_and_changes_nothing(run: Run, orders: Path) -> None:
    before = damaged(orders).read_bytes()
    result = run("repair", orders, "--dry-run")
    assert result.exit_code == 1
    assert "would be rebuilt around the damage" in result.stdout
    assert [line.split() for line in result.stdout.splitlines() if line.startswith("orders")] == [
        ["orders", "0", "16", "0", "2"]
    ]
    assert orders.read_bytes() == before
    assert run("repair", orders).exit_code == 0


def test_a_repair_keeps_the_original_and_lists_what_is_lost(run: Run, orders: Path) -> None:
    before = damaged(orders).read_bytes()
    result = run("repair", orders, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    kept = orders.with_name("shop.klite.damaged-1")
    assert (found["outcome"], found["dry_run"], found["kept"]) == ("journal", False, str(kept))
    assert found["lost"] == [{"topic": "orders", "partition": 0, "log": 16, "first_offset": 0, "last_offset": 2}]
    assert found["damages"][0]["size"] == found["damaged_bytes"]
    assert kept.read_bytes() == before
    with kafkalite.connect(orders, create=False) as store:
        assert values(store, "orders") == [b"d", b"e"]
    checked = run("check", orders)
    assert checked.exit_code == 0
    assert "Lost, and given up by an earlier repair" in checked.stdout


def test_names_of_logs_without_a_topic_are_told(run: Run, orders: Path) -> None:
    flip(orders, frames_of(orders, 0)[0].position + 105)
    result = run("repair", orders)
    assert result.exit_code == 0
    assert "recovered-log-16" in result.stderr
    with kafkalite.connect(orders, create=False) as store:
        assert store.topics() == ["recovered-log-16", "recovered-log-17"]


def test_a_store_in_use_is_one_line(run: Run, orders: Path) -> None:
    with kafkalite.connect(orders):
        result = run("repair", orders)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is open: close it there" in result.stderr
