"""The proof itself: it finds what these tests are there to find (canaries, each a break on purpose)."""

import signal
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import ChildFailedError, die_at


@pytest.fixture
def proved(place: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A store with a history, and its acknowledgements."""
    history.write(place, 1, tmp_path / "acks", 20)
    return place, tmp_path / "acks"


def append(path: Path, data: bytes, **named: Any) -> None:
    with kafkalite.connect(path) as store:
        store.topic(history.TOPIC).append(data, **({"partition": 0, "key": b"9.0"} | named))


def test_a_sound_history_is_proved(proved: tuple[Path, Path]) -> None:
    proof = history.prove(proved[0], [proved[1]])
    assert proof.records == proof.acknowledged >= 20


def test_an_acknowledgement_without_its_record_is_a_loss(proved: tuple[Path, Path]) -> None:
    AckFile(proved[1]).append(1, 1000, 1)
    with pytest.raises(AssertionError, match=r"lost: 1 of 1 records of \(1, 1000, 1\)"):
        history.prove(proved[0], [proved[1]])


def test_a_record_at_another_offset_than_acknowledged_is_found(proved: tuple[Path, Path]) -> None:
    append(proved[0], history.value(9, 1, 0, 1, 50))
    AckFile(proved[1]).append(9, 1, 1, 0, 0, 1)
    with pytest.raises(AssertionError, match="elsewhere"):
        history.prove(proved[0], [proved[1]])


def test_half_a_commit_is_found(proved: tuple[Path, Path]) -> None:
    append(proved[0], history.value(9, 1, 0, 2, 50))
    with pytest.raises(AssertionError, match="torn"):
        history.prove(proved[0], [proved[1]])


def test_a_record_that_is_there_twice_is_found(proved: tuple[Path, Path]) -> None:
    append(proved[0], history.value(9, 1, 0, 1, 50))
    append(proved[0], history.value(9, 1, 0, 1, 50), partition=1)
    with pytest.raises(AssertionError, match="twice"):
        history.prove(proved[0], [proved[1]])


def test_a_key_out_of_order_is_found(proved: tuple[Path, Path]) -> None:
    append(proved[0], history.value(9, 2, 0, 1, 50))
    append(proved[0], history.value(9, 1, 0, 1, 50))
    with pytest.raises(AssertionError, match="order"):
        history.prove(proved[0], [proved[1]])


def test_an_altered_value_is_found(proved: tuple[Path, Path]) -> None:
    append(proved[0], history.value(9, 1, 0, 1, 50)[:-1] + b"?")
    with pytest.raises(AssertionError, match="altered"):
        history.prove(proved[0], [proved[1]])


def acknowledge_too_early(path: Path, acks: Path, step: int) -> None:
    """A writer that notes the acknowledgement before it has it."""
    with kafkalite.connect(path) as store:
        topic = store.topic(history.TOPIC, partitions=history.PARTITIONS)
        die_at(step, acks.with_suffix(".step"))
        AckFile(acks).append(1, 1, 1)
        topic.append(history.value(1, 1, 0, 1, 50), key=b"1.0")
        disk.on_step = None


@pytest.mark.parametrize("step", [1, 2])
def test_killed_between_an_early_acknowledgement_and_the_commit_is_a_loss(
    fork: Fork, place: Path, tmp_path: Path, step: int
) -> None:
    """Killed before the frames are written, and before the index commits: the record is not there."""
    victim = fork(acknowledge_too_early, place, tmp_path / "acks", step)
    assert victim.wait() == -9
    with pytest.raises(ChildFailedError, match="lost"):
        fork(history.prove, place, [tmp_path / "acks"]).result()


def test_a_kill_after_the_victims_own_end_is_an_error(fork: Fork) -> None:
    """A hunt whose victims die of errors must not count them as killed."""
    child = fork(int, "not a number")
    child.wait()
    with pytest.raises(ChildFailedError, match="not a number"):
        child.kill()


def test_a_child_that_hangs_is_named(fork: Fork) -> None:
    child = fork(signal.pause)
    with pytest.raises(ChildFailedError, match=r"pause in process \d+ did not answer within 0.1 s"):
        child.result(0.1)
