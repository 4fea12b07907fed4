"""`kafkalite group`: what it shows of groups, and what it changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kafkalite

from .conftest import Run

DIES = """
import os, signal, sys
import kafkalite
with kafkalite.connect(sys.argv[1]) as store, store.consumer_group("billing", "orders") as group:
    records = group.records()
    next(records), next(records)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def billed(orders: Path) -> Path:
    """The store `orders` with a group that has read all of partition 0 and nothing of partition 1."""
    with kafkalite.connect(orders) as store:
        topic = store.topic("orders")
        with store.consumer_group("billing", [topic], enable_auto_commit=False) as group:
            group.poll(timeout=0)
            group.commit({kafkalite.TopicPartition("orders", 0): 3, kafkalite.TopicPartition("orders", 1): 0})
    return orders


def offsets(run: Run, path: Path, name: str = "billing") -> list[int | None]:
    described = json.loads(run("group", "describe", "-s", path, name, "--json").stdout)
    return [one["committed"] for one in described["partitions"]]


def test_list_shows_state_members_and_lag(run: Run, billed: Path) -> None:
    done = run("group", "list", billed)
    assert (done.exit_code, done.stdout.split()) == (
        0,
        ["GROUP", "STATE", "MEMBERS", "LAG", "billing", "Empty", "0", "2"],
    )
    assert json.loads(run("group", "list", billed, "--json").stdout) == {
        "group": "billing", "state": "Empty", "members": 0, "lag": 2
    }  # fmt: skip


def test_store_without_groups_has_an_empty_list(run: Run, orders: Path) -> None:
    assert run("group", "list", orders).stdout.split() == ["GROUP", "STATE", "MEMBERS", "LAG"]
    assert run("group", "list", orders, "--json").stdout == ""


def test_describe_shows_members_and_who_has_what(run: Run, billed: Path) -> None:
    with (
        kafkalite.connect(billed) as store,
        store.consumer_group("billing", ["orders"], client_id="bill", group_instance_id="desk") as group,
    ):
        next(group.records(timeout=0))
        text = run("group", "describe", "-s", billed, "billing").stdout
        found = json.loads(run("group", "describe", "-s", billed, "billing", "--json").stdout)
    (member,) = found["members"]
    assert (found["state"], found["lag"]) == ("Stable", 2)
    assert (member["client"], member["instance"], member["epoch"]) == ("bill", "desk", found["epoch"])
    assert member["partitions"] == ["orders-0", "orders-1"]
    assert [(one["committed"], one["end"], one["lag"], one["owner"]) for one in found["partitions"]] == [
        (3, 3, 0, member["member"]), (0, 2, 2, member["member"]),
    ]  # fmt: skip
    assert member["member"] in text
    assert "desk" in text


def test_unknown_group_is_told_and_the_others_are_shown(run: Run, billed: Path) -> None:
    done = run("group", "describe", "-s", billed, "nobody", "billing")
    assert done.exit_code == 1
    assert "there is no group 'nobody'" in done.stderr
    assert "billing" in done.stdout


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("earliest", [0, 0]),
        ("latest", [3, 2]),
        ("1", [1, 1]),
        ("-1", [2, 1]),
        ("@1970-01-01T00:00:02.500", [2, 0]),
        ("@1970-01-01T00:00:04.500", [3, 1]),
        ("@-1h", [3, 2]),
    ],
)
def test_seek_to_any_place(run: Run, billed: Path, place: str, expected: list[int]) -> None:
    done = run("group", "seek", "-s", billed, "billing", "-o", place)
    assert done.exit_code == 0, done.stderr
    assert offsets(run, billed) == expected


def test_seek_of_one_partition_leaves_the_others(run: Run, billed: Path) -> None:
    done = run("group", "seek", "-s", billed, "billing", "-t", "orders", "-p", "0", "-o", "1", "--json")
    assert json.loads(done.stdout) == {"topic": "orders", "partition": 0, "before": 3, "offset": 1}
    assert offsets(run, billed) == [1, 0]


def test_dry_run_of_seek_changes_nothing(run: Run, billed: Path) -> None:
    done = run("group", "seek", "-s", billed, "billing", "-o", "earliest", "--dry-run")
    assert done.stdout.split()[4:8] == ["orders", "0", "3", "0"]
    assert offsets(run, billed) == [3, 0]


def test_seek_makes_a_group_that_begins_there(run: Run, orders: Path) -> None:
    assert run("group", "seek", "-s", orders, "new", "-t", "orders", "-o", "latest").exit_code == 0
    assert offsets(run, orders, "new") == [3, 2]
    done = run("group", "seek", "-s", orders, "other", "-o", "latest")
    assert (done.exit_code, "there is no group 'other'" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["-t", "order", "-o", "1"], "did you mean 'orders'?"),
        (["-t", "orders", "-p", "7", "-o", "1"], "no partition 7"),
        (["-t", "orders", "-p", "0", "-o", "99"], "has offsets 0 to 3"),
    ],
)
def test_seek_to_nowhere_is_refused_and_changes_nothing(run: Run, billed: Path, given: list[str], why: str) -> None:
    done = run("group", "seek", "-s", billed, "billing", *given)
    assert (done.exit_code, why in done.stderr) == (1, True)
    assert offsets(run, billed) == [3, 0]


def test_seek_and_delete_are_refused_while_there_are_members(run: Run, billed: Path) -> None:
    with kafkalite.connect(billed) as store, store.consumer_group("billing", ["orders"]):
        for verb in (["seek", "-s", billed, "billing", "-o", "earliest"], ["delete", "-s", billed, "billing", "--yes"]):
            done = run("group", *verb)
            assert (done.exit_code, "end them first" in done.stderr) == (1, True)
    assert offsets(run, billed) == [3, 0]


def test_delete_removes_the_group_and_its_offsets(run: Run, billed: Path) -> None:
    done = run("group", "delete", "-s", billed, "nobody", "billing")
    assert (done.exit_code, done.stdout) == (1, "billing: deleted\n")
    assert "there is no group 'nobody'" in done.stderr
    assert run("group", "list", billed, "--json").stdout == ""
    with kafkalite.connect(billed) as store, store.consumer_group("billing", ["orders"]) as group:
        assert sum(1 for _ in group.records()) == 5  # from the beginning again


@pytest.mark.parametrize("is_open_elsewhere", [True, False])
def test_killed_member_is_no_member_and_what_it_confirmed_stays(
    run: Run, orders: Path, *, is_open_elsewhere: bool
) -> None:
    store = kafkalite.connect(orders) if is_open_elsewhere else None
    subprocess.run([sys.executable, "-c", DIES, str(orders)], check=False, timeout=60)
    if store is not None:
        store.close()
    assert run("group", "seek", "-s", orders, "billing", "-t", "orders", "-p", "1", "-o", "2").exit_code == 0
    found = json.loads(run("group", "list", orders, "--json").stdout)
    assert (found["state"], found["members"]) == ("Empty", 0)
