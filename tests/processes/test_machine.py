"""What the machine does to several processes at once: PID namespaces, a disk that is full (F3, F4)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite.errors import OutcomeUnknownError, StoreFullError
from kafkalite.testing.procs import AckFile, Child, python

from . import history
from .conftest import Fork
from .forks import Board, until

TRY_TO_OPEN = """
import sys, kafkalite
try:
    with kafkalite.connect(sys.argv[1]) as store:
        print("opened", store.topic("history").append(b"1 1 0 1 ", key=b"1.0", partition=0).offset)
except kafkalite.KafkaliteError as error:
    print("refused", type(error).__name__, error)
"""
IN_A_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc"]


def in_a_namespace(path: Path) -> str:
    """What opening a store says in a PID namespace of its own."""
    with python("") as child:  # for the environment in which a child finds kafkalite
        child.wait()
    with Child([*IN_A_NAMESPACE, sys.executable, "-u", "-c", TRY_TO_OPEN, str(path)]) as child:
        return child.succeed()[-1]


@pytest.mark.needs("root", "unshare")
def test_a_store_open_in_one_pid_namespace_is_refused_in_another(fork: Fork, place: Path) -> None:
    """Pids and LMDB's readers mean nothing across namespaces; one after another is well."""
    fork(history.create, place).result()
    with kafkalite.connect(place) as store:
        said = in_a_namespace(place)
        assert said.startswith("refused StoreLocationError")
        assert "PID namespace" in said
        assert str(place) in said
        store.topic(history.TOPIC).append(b"2 1 0 1 ", key=b"2.0", partition=0)
        assert store.check().ok
    assert in_a_namespace(place) == "opened 1"
    assert fork(history.prove, place, []).result().records == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, 2 MiB of which a ballast takes that can be thrown off."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    try:
        (path / "ballast").write_bytes(bytes(2 << 20))
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> None:
    """Not a page is left."""
    fd = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(OSError, match="No space"):
            fill_file(fd)
    finally:
        os.close(fd)


def fill_file(fd: int) -> None:
    while os.write(fd, bytes(4096)):
        pass


def make_room(disk: Path) -> None:
    (disk / "ballast").unlink()
    (disk / "filler").unlink(missing_ok=True)


READY, FULL, GO, FREED = 100, 200, 300, 301
"""Cells of the board: FULL + writer once it met the full disk; GO and FREED are for all."""


def append_until_full(scribe: history.Scribe, size: int) -> str:
    """What the error says."""
    while True:
        try:
            scribe.append(size)
        except (StoreFullError, OutcomeUnknownError) as error:  # refused, or appended and not published
            return str(error)


def write_until_full_and_on(path: Path, writer: int, acks: Path, board: Board) -> str:
    """Commits until the disk is full, and again once there is room; returns the error's message."""
    with kafkalite.connect(path, create=False) as store:
        scribe = history.Scribe(store, writer, AckFile(acks))
        said = append_until_full(scribe, 20_000)
        for _ in range(3):  # it stays full, and says so each time
            append_until_full(scribe, 20_000)
        board[FULL + writer] = 1
        until(lambda: board[FREED], "room on the disk")
        for _ in range(5):
            scribe.append(1_000)
        return said


@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("durability", ["commit", "none"])
@pytest.mark.parametrize("name", ["store", "store.klite"])
def test_a_disk_that_fills_up_refuses_all_and_loses_nothing(
    fork: Fork, board: Board, small_disk: Path, tmp_path: Path, name: str, durability: str
) -> None:
    path = small_disk / name
    fork(history.create, path, durability=durability, segment_bytes=1 << 20).result()
    follower = fork(history.follow, path, board, 0)
    writers = [fork(write_until_full_and_on, path, writer, tmp_path / f"acks-{writer}", board) for writer in (1, 2, 3)]
    until(
        lambda: all(board[FULL + writer] or not one.is_running() for writer, one in enumerate(writers, 1)),
        "a full disk",
    )
    make_room(small_disk)
    board[FREED] = 1
    for writer in writers:
        assert "free space" in writer.result()
    fork(history.stop_followers, path).result()
    seen = follower.result()
    proof = fork(history.prove, path, list(history.ack_paths(tmp_path))).result()
    assert seen == proof.digests
    assert proof.acknowledged >= 3 * 5 + 100
    print(f"faults injected: 12, {proof}")


@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("name", ["store", "store.klite"])
def test_a_store_on_a_full_disk_can_be_read(
    fork: Fork, board: Board, small_disk: Path, tmp_path: Path, name: str
) -> None:
    """Opened by somebody who comes when it is full, with what is left of the disk: nothing."""
    path = small_disk / name
    fork(history.create, path, segment_bytes=1 << 20).result()
    board[FREED] = 0
    writer = fork(write_until_full_and_on, path, 1, tmp_path / "acks-1", board)
    until(lambda: board[FULL + 1] or not writer.is_running(), "a full disk")
    fill(small_disk)
    proof = fork(history.prove, path, [tmp_path / "acks-1"]).result()
    assert proof.acknowledged > 50
    make_room(small_disk)
    board[FREED] = 1
    writer.result()
    assert fork(history.prove, path, [tmp_path / "acks-1"]).result().acknowledged == proof.acknowledged + 5


def write_into_a_segment_with_room(path: Path, writer: int, acks: Path, board: Board) -> str:
    """Small commits whose frames have room, while the index has none; then on, once there is."""
    with kafkalite.connect(path, create=False) as store:
        scribe = history.Scribe(store, writer, AckFile(acks))
        scribe.append()
        board[READY + writer] = 1
        until(lambda: board[GO], "a full disk")
        said = append_until_full(scribe, 30)
        board[FULL + writer] = 1
        until(lambda: board[FREED], "room on the disk")
        for _ in range(20):
            scribe.append_many()
        return said


@pytest.mark.needs("root", "mount")
@pytest.mark.parametrize("durability", ["commit", "none"])
@pytest.mark.parametrize("name", ["store", "store.klite"])
def test_a_disk_full_under_the_index_refuses_all_and_kills_nobody(
    fork: Fork, board: Board, small_disk: Path, tmp_path: Path, name: str, durability: str
) -> None:
    path = small_disk / name
    fork(history.create, path, durability=durability).result()
    writers = [
        fork(write_into_a_segment_with_room, path, writer, tmp_path / f"acks-{writer}", board) for writer in (1, 2, 3)
    ]
    until(lambda: all(board[READY + writer] or not one.is_running() for writer, one in enumerate(writers, 1)), "all")
    fill(small_disk)
    board[GO] = 1
    until(lambda: all(board[FULL + writer] or not one.is_running() for writer, one in enumerate(writers, 1)), "errors")
    make_room(small_disk)
    board[FREED] = 1
    for writer in writers:
        assert "free space" in writer.result()
    proof = fork(history.prove, path, list(history.ack_paths(tmp_path))).result()
    assert proof.acknowledged >= 3 * 20
    print(f"faults injected: 3, {proof}")
