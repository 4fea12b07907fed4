"""`kafkalite bench`: what is measured is done, and printed as Kafka's tools print it. No figure is judged."""

import json
import re
from pathlib import Path

import pytest

import kafkalite
from kafkalite.cli.bench import MAX_LATENCIES, Load, Result

from .conftest import Run

LINE = re.compile(
    r"(\d+) records (sent|read), [\d.]+ records/sec \([\d.]+ MB/sec\), [\d.]+ ms avg latency, [\d.]+ ms max latency, "
    r"[\d.]+ ms 50th, [\d.]+ ms 95th, [\d.]+ ms 99th, [\d.]+ ms 99\.9th\.\n"
)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the benchmarks' own stores go, which they leave empty."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.mark.parametrize("verb", ["produce", "append", "consume"])
def test_line_is_that_of_kafkas_tool_and_nothing_is_left(run: Run, temporary: Path, verb: str) -> None:
    result = run("bench", verb, "--num-records", 300, "--durability", "none", env={"KAFKALITE_STORE": "/nowhere/x"})
    assert result.exit_code == 0, result.output
    found = LINE.fullmatch(result.stdout)
    assert found
    assert int(found[1]) == 300
    assert "durability none" in result.stderr
    assert str(temporary) in result.stderr
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("verb", "partitions", "batches"), [("produce", 3, None), ("append", 1, 43)])
def test_what_was_measured_is_in_the_store_that_was_named(
    run: Run, path: Path, verb: str, partitions: int, batches: int | None
) -> None:
    options: tuple[object, ...] = ("--batch", 7) if verb == "append" else ("-c", "linger.ms=1")
    options = (*options, "--num-records", 300, "--record-size", 33, "--partitions", partitions)
    result = run("bench", verb, "-s", path, "--topic", "measured", "--durability", "interval", "--json", *options)
    found = json.loads(result.stdout)
    assert (found["records"], found["durability"], found["store"]) == (300, "interval", str(path))
    assert 0 < found["p50_latency_ms"] <= found["p99_latency_ms"] <= found["max_latency_ms"]
    with kafkalite.connect(path, create=False) as store:
        topic = store.topic("measured")
        assert topic.partition_count == partitions
        assert [len(record.value or b"") for record in topic.read()] == [33] * 300
        if batches:
            assert len(list(topic.batches())) == batches


def test_consume_reads_what_is_there_and_writes_only_what_is_missing(run: Run, orders: Path) -> None:
    found = json.loads(run("bench", "consume", "-s", orders, "--topic", "orders", "--num-records", 5, "--json").stdout)
    assert found["records"] == 5
    found = json.loads(run("bench", "consume", "-s", orders, "--topic", "orders", "--num-records", 9, "--json").stdout)
    assert found["records"] == 9


def test_throughput_is_kept_to(run: Run) -> None:
    result = run("bench", "append", "--num-records", 30, "--throughput", 200, "--durability", "none", "--json")
    assert json.loads(result.stdout)["records_per_second"] <= 200 * 1.01


def test_percentiles_of_known_latencies() -> None:
    result = Result("append", 1000, 1024 * 1024, 2.0, [n / 1000 for n in range(1000, 0, -1)], "a commit")
    assert [round(result.percentile(share)) for share in (50, 95, 99, 99.9, 100)] == [501, 951, 991, 1000, 1000]
    assert str(result).startswith("1000 records sent, 500.0 records/sec (500.00 MB/sec), 500.50 ms avg latency, ")
    assert Result("append", 1, 1, 1.0, [], "a commit").percentile(99) == 0


def test_values_are_the_same_in_each_run_and_few() -> None:
    load = Load(10_000, 20, -1)
    assert load.values() == load.values()
    assert len(set(load.values())) == 1000
    assert len(Load(MAX_LATENCIES, 20, -1).values()[0]) == 20


@pytest.mark.parametrize("options", [("--num-records", "0"), ("--record-size", "0"), ("--durability", "maybe")])
def test_options_that_make_no_sense_are_wrong_usage(run: Run, options: tuple[str, ...]) -> None:
    assert run("bench", "produce", *options).exit_code == 2


def test_unknown_producer_setting_is_told(run: Run) -> None:
    result = run("bench", "produce", "-c", "linger.mss=1")
    assert result.exit_code == 1
    assert "did you mean 'linger_ms'?" in result.stderr
