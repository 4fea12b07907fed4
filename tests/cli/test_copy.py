"""`kafkalite copy`: what it prints, and how it ends."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kafkalite
from kafkalite.cli import cli


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["copy", *map(str, arguments)])


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with kafkalite.connect(tmp_path / "shop.klite") as store:
        store.topic("orders-1", partitions=2).append_many([b"1", b"2", b"3"])
        store.topic("orders-2").append(b"4")
        store.topic("users").append(b"alice")
        assert store.check().ok
    return tmp_path / "shop.klite"


def topics(path: Path) -> list[str]:
    with kafkalite.connect(path, create=False) as store:
        assert store.check().ok
        return store.topics()


def test_all_topics_go_into_the_other_layout(shop: Path, tmp_path: Path) -> None:
    result = run(shop, f"{tmp_path}/copy/")
    assert result.exit_code == 0
    assert result.stderr == f"3 topics, 5 records to {tmp_path}/copy/\n"
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        ["topic", "partitions", "records"],
        ["orders-1", "2", "3"],
        ["orders-2", "1", "1"],
        ["users", "1", "1"],
    ]
    assert topics(tmp_path / "copy") == ["orders-1", "orders-2", "users"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--topic", "orders-*"], ["orders-1", "orders-2"]),
        (["-t", "orders-1", "-t", "users"], ["orders-1", "users"]),
        (["--exclude", "orders-*"], ["users"]),
        (["--regex"], ["orders-1", "orders-2", "users"]),
        (["--regex", "-t", "orders-[2-9]"], ["orders-2"]),
        (["--regex", "-x", ".*[12]"], ["users"]),
    ],
)
def test_patterns_choose_topics(shop: Path, tmp_path: Path, options: list[str], expected: list[str]) -> None:
    assert run(shop, tmp_path / "copy.klite", *options).exit_code == 0
    assert topics(tmp_path / "copy.klite") == expected


def test_json_is_an_object_for_each_topic(shop: Path, tmp_path: Path) -> None:
    result = run(shop, tmp_path / "copy.klite", "--json", "-t", "orders-*")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["name"], one["partitions"], one["records"]) for one in said] == [
        ("orders-1", 2, 3),
        ("orders-2", 1, 1),
    ]
    assert all(one["bytes"] > 0 for one in said)
    assert topics(tmp_path / "copy.klite") == ["orders-1", "orders-2"]


def test_topics_that_are_there_are_refused_or_appended_to(shop: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.klite"
    assert run(shop, target, "-t", "users").exit_code == 0
    refused = run(shop, target)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "has topic 'users' already" in refused.stderr
    assert topics(target) == ["users"]
    assert run(shop, target, "--append").exit_code == 0
    with kafkalite.connect(target, create=False) as store:
        assert [record.value for record in store.topic("users").read()] == [b"alice"] * 2
        assert store.topics() == ["orders-1", "orders-2", "users"]
        assert store.check().ok


def test_a_pattern_without_a_topic_makes_no_store(shop: Path, tmp_path: Path) -> None:
    result = run(shop, tmp_path / "copy.klite", "-t", "order")
    assert result.exit_code == 1
    assert "fits 'order': there are orders-1, orders-2, users" in result.stderr
    assert not (tmp_path / "copy.klite").exists()


def test_help_shows_examples() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "kafkalite copy shop.klite shop/" in result.stdout
    assert "--append" in result.stdout
