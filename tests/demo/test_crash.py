"""The crash proof: writers really killed, and a checker that would notice a loss."""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest

import kafkalite
from kafkalite.demo import DemoFailedError
from kafkalite.demo.checker import compare
from kafkalite.demo.child import Child
from kafkalite.demo.crash import Crashed, crash
from kafkalite.demo.writer import Acknowledgement, acknowledgements

PROVED = Crashed(
    kills=2,
    seconds=1.0,
    acknowledged=10,
    found=12,
    missing_count=0,
    missing=[],
    gaps=[],
    is_clean=True,
    report="",
)


def test_killed_writers_lose_nothing_acknowledged(store_path: Path, tmp_path: Path) -> None:
    with kafkalite.connect(store_path) as store:
        store.topic("proof", partitions=3)
    result = crash(store_path, "proof", tmp_path / "acknowledgements", kills=2)

    assert result.is_proved, result
    assert result.kills == 2
    assert result.acknowledged >= 2
    with kafkalite.connect(store_path) as store:
        # The last killed writer's append may have become visible when the checking process closed the store.
        assert sum(store.topic("proof").end_offsets().values()) in (result.found, result.found + 1)
        assert store.check().ok


def test_writer_that_cannot_write_fails_the_proof_with_its_reason(store_path: Path, tmp_path: Path) -> None:
    with kafkalite.connect(store_path):
        pass
    with pytest.raises(DemoFailedError, match=r"writer ended with status 1[\s\S]*nowhere"):
        crash(store_path, "nowhere", tmp_path / "acknowledgements", kills=1)


@pytest.mark.parametrize(
    "finding",
    [
        {"missing_count": 1},
        {"gaps": [0]},
        {"is_clean": False},
        {"found": 9},
        {"found": 13},
    ],
)
def test_any_finding_refutes_the_proof(finding: dict[str, int]) -> None:
    assert PROVED.is_proved
    assert PROVED.unacknowledged == 2
    assert not replace(PROVED, **finding).is_proved


def kept(partition: int, offset: int, value: bytes) -> bytes:
    return Acknowledgement(partition, offset, zlib.crc32(value)).line()


def test_checker_finds_missing_and_altered_records(store: kafkalite.Store) -> None:
    store.topic("proof", partitions=2).append_many([b"a", b"b"], partition=1)
    answer = compare(store, "proof", kept(1, 0, b"a") + kept(1, 1, b"other") + kept(1, 2, b"c") + kept(0, 0, b"d"))
    assert answer["acknowledged"] == 4
    assert answer["found"] == 2
    assert answer["missing_count"] == 3
    assert [entry[:2] for entry in answer["missing"]] == [(1, 1), (1, 2), (0, 0)]  # type: ignore[attr-defined]
    assert answer["gaps"] == []
    assert answer["is_clean"] is True


def test_checker_accepts_records_beyond_the_acknowledged(store: kafkalite.Store) -> None:
    store.topic("proof").append_many([b"a", b"b"])
    answer = compare(store, "proof", kept(0, 0, b"a"))
    assert (answer["acknowledged"], answer["found"], answer["missing_count"]) == (1, 2, 0)


def test_cut_off_last_line_is_no_acknowledgement() -> None:
    data = kept(0, 0, b"a") + kept(0, 1, b"b")
    assert len(list(acknowledgements(data))) == 2
    assert len(list(acknowledgements(data[:-1]))) == 1
    assert list(acknowledgements(b"")) == []


def test_orphaned_writer_ends_by_itself(store: kafkalite.Store, store_path: Path, tmp_path: Path) -> None:
    store.topic("proof")
    not_its_parent = 1
    with Child("writer", store_path, "proof", tmp_path / "acknowledgements", not_its_parent) as writer:
        assert writer.process.wait(timeout=60) == 0
