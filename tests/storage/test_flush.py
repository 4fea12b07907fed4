"""Publish: what readers see moves with the flush; a flush that failed is never believed, and mends itself."""

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import kafkalite
from kafkalite import clock, disk
from kafkalite.errors import OutcomeUnknownError, StoreFailedError, StoreFullError
from kafkalite.storage import index, locks
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.flush import Flusher
from kafkalite.storage.index import Index
from kafkalite.storage.journal import Journal
from kafkalite.storage.place import resolve
from kafkalite.storage.superblock import State

from .kit import LOG, Fault, Killed, abandon, append, batch, copied, flip, sized, state_of, values


class BadDisk:
    """Flushes that fail with EIO while `broken`; counts them. `file` limits it to one file's flushes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.times = -1
        self.good = self.bad = 0
        self._flush: Callable[[int], None] = disk.flush
        monkeypatch.setattr(disk, "flush", self)

    def __call__(self, fd: int) -> None:
        if self.broken and self.times:
            self.times -= 1
            self.bad += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._flush(fd)
        self.good += 1


@pytest.fixture
def bad_disk(monkeypatch: pytest.MonkeyPatch) -> BadDisk:
    return BadDisk(monkeypatch)


@pytest.fixture
def rewritten(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was written again after a flush that failed or was abandoned."""
    calls: list[tuple[int, int]] = []
    real = Journal.write_again

    def spy(self: Journal, start: int, end: int) -> None:
        calls.append((start, end))
        real(self, start, end)

    monkeypatch.setattr(Journal, "write_again", spy)
    return calls


def test_a_commit_is_visible_when_it_is_durable(engine: Engine) -> None:
    operation = append(b"x")
    engine.committer.submit(operation, 60)
    positions = engine.index.positions()
    assert positions.published == positions.durable < operation.end == positions.tail
    engine.flush()
    positions = engine.index.positions()
    assert positions.published == positions.durable == positions.tail
    assert (positions.flush_failed, engine.wakeup.page.flush_state()[1]) == (0, 0)


def test_one_flush_serves_all_that_was_appended(engine: Engine, bad_disk: BadDisk) -> None:
    for _ in range(20):
        engine.committer.submit(append(b"x"), 60)
    bad_disk.good = 0
    engine.flush()
    assert bad_disk.good == 1
    engine.flush()
    assert bad_disk.good == 1


def test_a_flush_after_a_roll_covers_both_segments(engine: Engine, bad_disk: BadDisk) -> None:
    engine.committer.submit(Operation([Append(LOG, sized(400_000))]), 60)
    engine._prepare_now()
    engine.committer.submit(Operation([Append(LOG, sized(300_000))]), 60)
    bad_disk.good = 0
    engine.flush()
    assert bad_disk.good == (2 if engine.place.is_directory else 1)


@pytest.mark.parametrize("durability", ["interval", "none"])
def test_without_a_wait_for_the_disk_a_commit_is_visible_at_once(
    path: Path, bad_disk: BadDisk, durability: str
) -> None:
    with kafkalite.connect(path, durability=durability, flush_interval_ms=3_600_000) as store:  # type: ignore[arg-type]
        topic = store.topic("t")
        bad_disk.good = 0
        for number in range(10):
            topic.append(b"%d" % number)
            assert topic.end_offsets() == {0: number + 1}
        assert bad_disk.good == 0
        positions = store._engine.index.positions()
        assert positions.durable < positions.published == positions.tail
        store.flush()
        positions = store._engine.index.positions()
        assert positions.durable == positions.tail
        assert store.check().ok
    assert state_of(path).state is State.SEALED


def test_an_interval_store_is_flushed_by_the_keeper(path: Path) -> None:
    with kafkalite.connect(path, durability="interval", flush_interval_ms=1) as store:
        topic = store.topic("t")
        topic.append(b"x")
        for _ in range(6000):
            positions = store._engine.index.positions()
            if positions.durable == positions.tail:
                break
            threading.Event().wait(0.01)
        assert positions.durable == positions.tail
        assert store.check().ok


@pytest.mark.parametrize("durability", ["interval", "none"])
def test_a_store_that_begins_to_promise_more_flushes_first(path: Path, durability: str) -> None:
    with kafkalite.connect(path, durability=durability, flush_interval_ms=3_600_000) as store:  # type: ignore[arg-type]
        store.topic("t").append(b"x")
        store.alter(durability="commit")
        positions = store._engine.index.positions()
        assert positions.durable == positions.published == positions.tail
        store.topic("t").append(b"y")
        assert store._engine.index.positions().durable == store._engine.index.positions().tail
        assert store.check().ok


# A flush that fails


def test_a_flush_that_fails_once_is_said_and_then_mended(
    engine: Engine, bad_disk: BadDisk, rewritten: list[tuple[int, int]]
) -> None:
    durable = engine.index.positions().durable
    bad_disk.broken, bad_disk.times = True, 1
    with pytest.raises(StoreFailedError, match="could not be flushed") as caught:
        engine.commit(append(b"unknown"))
    assert caught.value.retriable
    failed = engine.index.positions()
    assert failed.flush_failed
    assert failed.published == failed.durable == durable
    assert engine.commit(append(b"next")).offsets == [1]
    assert rewritten == [(durable, failed.tail)]
    positions = engine.index.positions()
    assert (positions.flush_failed, engine.wakeup.page.flush_state()[1]) == (0, 0)


def test_while_the_disk_is_broken_appends_are_refused_and_readers_go_on(path: Path, bad_disk: BadDisk) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t", partitions=2)
        for number in range(3):
            topic.append(b"%d" % number, partition=0)
        bad_disk.broken = True
        for _ in range(5):
            with pytest.raises(StoreFailedError):
                topic.append(b"refused", partition=0)
            assert [record.value for record in topic.read()] == [b"0", b"1", b"2"]
            assert topic.end_offsets() == {0: 3, 1: 0}
        with pytest.raises(StoreFailedError):
            store.flush()
        bad_disk.broken = False
        assert topic.append(b"accepted", partition=1).offset == 0
        assert [record.value for record in topic.read(0)] == [b"0", b"1", b"2", b"refused"]
        assert store.check().ok


def test_appends_after_a_failed_flush_are_not_written(engine: Engine, bad_disk: BadDisk) -> None:
    bad_disk.broken = True
    with pytest.raises(StoreFailedError):
        engine.commit(append(b"first"))
    tail = engine.index.positions().tail
    for _ in range(3):
        with pytest.raises(StoreFailedError):
            engine.commit(append(b"not appended"))
    assert engine.index.positions().tail == tail
    bad_disk.broken = False


def test_store_flush_mends_too(engine: Engine, bad_disk: BadDisk, rewritten: list[tuple[int, int]]) -> None:
    bad_disk.broken = True
    with pytest.raises(StoreFailedError):
        engine.commit(append(b"x"))
    bad_disk.broken = False
    engine.flush()
    assert len(rewritten) == 1
    assert engine.index.positions().flush_failed == 0


def test_an_idempotent_batch_is_recognised_when_it_is_sent_again(engine: Engine, bad_disk: BadDisk) -> None:
    fields = {"producer_id": 7, "producer_epoch": 0, "base_sequence": 0}
    bad_disk.broken, bad_disk.times = True, 1
    with pytest.raises(StoreFailedError):
        engine.commit(append(b"x", **fields))
    assert engine.commit(append(b"x", **fields)).offsets == [0]
    assert engine.commit(append(b"y")).offsets == [1]


def test_a_store_closed_while_its_disk_is_broken_goes_on_when_it_is_mended(path: Path, bad_disk: BadDisk) -> None:
    store = kafkalite.connect(path)
    topic = store.topic("t")
    topic.append(b"good")
    bad_disk.broken = True
    with pytest.raises(StoreFailedError):
        topic.append(b"unknown")
    with pytest.raises(StoreFailedError):
        store.close()
    bad_disk.broken = False
    assert state_of(path).state is State.OPEN
    with kafkalite.connect(path) as store:
        assert values(store)[:1] == [b"good"]
        store.topic("t").append(b"after")
        assert values(store)[0] == b"good"
        assert values(store)[-1] == b"after"
        assert store.check().ok


def test_a_failed_flush_over_a_roll_writes_both_segments_again(
    engine: Engine, bad_disk: BadDisk, rewritten: list[tuple[int, int]]
) -> None:
    engine.committer.submit(Operation([Append(LOG, sized(400_000))]), 60)
    engine._prepare_now()
    engine.committer.submit(Operation([Append(LOG, sized(300_000))]), 60)
    bad_disk.broken, bad_disk.times = True, 1
    with pytest.raises(StoreFailedError):
        engine.flush()
    engine.flush()
    assert len(rewritten) == 1
    assert engine.index.positions().durable == engine.index.positions().tail


@pytest.mark.parametrize("step", [1, 2])
def test_a_flush_abandoned_at_each_step_is_written_again_by_the_next(
    engine: Engine, rewritten: list[tuple[int, int]], step: int
) -> None:
    """Its owner died, and may have swallowed the disk's only report."""
    engine.committer.submit(append(b"x"), 60)
    with pytest.raises(Killed), Fault(step, Killed):
        engine.flush()
    assert engine.wakeup.page.flush_state()[1] > 0
    assert engine.commit(append(b"y")).offsets == [1]
    assert len(rewritten) == 1
    assert engine.wakeup.page.flush_state()[1] == 0


def test_an_interrupt_while_it_flushes_is_raised_when_the_outcome_is_known(engine: Engine) -> None:
    operation = append(b"x")
    with pytest.raises(KeyboardInterrupt), Fault(3, KeyboardInterrupt):
        engine.commit(operation)
    positions = engine.index.positions()
    assert positions.published == positions.tail == operation.end


def test_time_that_runs_out_while_another_flushes_leaves_the_outcome_unknown(engine: Engine) -> None:
    fd = os.open(engine.place.file, os.O_RDWR)
    assert disk.is_taken(disk.lock_call(fd, locks.FIRST_BYTE + locks.FLUSH))
    with pytest.raises(OutcomeUnknownError, match="not yet flushed"):
        engine.commit(append(b"x"), timeout=0.02)
    os.close(fd)
    assert engine.commit(append(b"y")).offsets == [1]


@pytest.mark.parametrize("due_in_s", [0.02, 3600.0, -3600.0])
def test_who_was_killed_while_it_flushed_is_believed_until_that_was_due(engine: Engine, due_in_s: float) -> None:
    engine.wakeup.page.set_flush_due(clock.boot_ns() + int(due_in_s * 1e9))
    assert engine.commit(append(b"x"), timeout=30).offsets == [0]
    assert engine.wakeup.page.flush_state() == (engine.index.positions().tail, 0)


def test_who_tries_in_vain_leaves_it_on_the_page_that_another_flushes(engine: Engine) -> None:
    fd = os.open(engine.place.file, os.O_RDWR)
    assert disk.is_taken(disk.lock_call(fd, locks.FIRST_BYTE + locks.FLUSH))
    engine.wakeup.page.set_flush_due(1)  # long ago: it takes longer than it should
    with pytest.raises(OutcomeUnknownError, match="not yet flushed"):
        engine.commit(append(b"x"), timeout=0.02)
    assert engine.wakeup.page.flush_state()[1] == 1
    os.close(fd)


def test_time_that_runs_out_before_it_is_mended_leaves_the_outcome_unknown(
    engine: Engine, bad_disk: BadDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a failed flush is mended is said in the index: of all flushes only such a one needs WRITE."""
    engine.committer.submit(append(b"x"), 60)
    bad_disk.broken = True
    with pytest.raises(StoreFailedError):
        engine.flush()
    bad_disk.broken = False
    fd = os.open(engine.place.file, os.O_RDWR)

    def flush_then_somebody_takes_write(file: int) -> None:
        bad_disk(file)
        disk.is_taken(disk.lock_call(fd, locks.FIRST_BYTE + locks.WRITE))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "flush", flush_then_somebody_takes_write)
        with pytest.raises(OutcomeUnknownError, match=r"could not be published in the time .* write lock is held"):
            engine.flush(timeout=0.05)
    assert engine.index.positions().published < engine.index.positions().tail
    os.close(fd)
    assert engine.commit(append(b"y")).offsets == [1]


def test_a_durable_commit_is_one_transaction(engine: Engine) -> None:
    """How far the flush came stands in the page, is seen at once, and goes into the index with the next append."""

    def row() -> index.Positions:
        with engine.index.snapshot() as transaction:
            return index.read_positions(transaction)

    engine.commit(append(b"x"))
    before = engine.index.env.info()["last_txnid"]
    end = engine.commit(append(b"y")).end
    assert engine.index.env.info()["last_txnid"] == before + 1
    assert row().published == row().durable < end
    seen = engine.index.positions()
    assert (seen.published, seen.durable, seen.flushes) == (end, end, row().flushes + 1)
    engine.committer.submit(append(b"z"), 60)
    assert (row().published, row().durable, row().flushes) == (end, end, seen.flushes)


@pytest.mark.parametrize("killed", [True, False])
def test_what_the_index_does_not_say_yet_outlives_the_process(
    path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kafkalite.connect(path)
    store.topic("t").append(b"x")
    before = store._engine.index.positions()
    if killed:
        abandon(store)
    else:
        store.close()
        with contextlib.closing(Index(resolve(path).index, read_only=True)) as environment:
            assert environment.positions() == before
    monkeypatch.setattr(Journal, "flush", None)  # nothing need be flushed for it to be seen
    with kafkalite.connect(path) as store:
        assert store._engine.index.positions() == before
        assert values(store) == [b"x"]
        assert store.check().ok


def test_a_full_disk_at_the_last_close_leaves_it_to_the_next_opener(path: Path) -> None:
    """All is acknowledged and on the disk: there is nothing that closing could report."""

    def full(self: Flusher, *_: object) -> None:
        raise StoreFullError("the disk is full")

    store = kafkalite.connect(path)
    store.topic("t").append(b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flusher, "_change", full)
        store.close()
    assert state_of(path).state is State.OPEN
    with kafkalite.connect(path) as store:
        assert values(store) == [b"x"]
        assert store.check().ok
    assert state_of(path).state is State.SEALED


def test_a_page_that_says_more_than_was_appended_is_not_believed(engine: Engine) -> None:
    end = engine.commit(append(b"x")).end
    engine.wakeup.page.set_flushed(end + 8, 0)
    assert engine.index.positions().published == engine.index.positions().tail == end
    operation = append(b"y")
    engine.committer.submit(operation, 60)
    with engine.index.snapshot() as transaction:
        assert index.read_positions(transaction).published < operation.end
    engine.wakeup.page.set_flushed(end, 0)
    engine.flush()


@pytest.mark.parametrize("says", ["flush under way", "nothing under way", "no page"])
def test_who_opens_after_all_were_killed_hears_of_a_flush_that_did_not_end(
    path: Path, rewritten: list[tuple[int, int]], says: str
) -> None:
    store = kafkalite.connect(path, durability="none")
    store.topic("t").append(b"x")
    before = store._engine.index.positions()
    if says == "flush under way":
        with pytest.raises(Killed), Fault(1, Killed):
            store._engine.flush()
    run = store._engine.place.run
    abandon(store)
    if says == "no page":
        shutil.rmtree(run)
    with kafkalite.connect(path) as store:
        store.flush()
        assert rewritten == ([] if says == "nothing under way" else [(before.durable, before.tail)])
        assert values(store) == [b"x"]
        assert store.check().ok


# Fails as long as the in-process half of a lock is waited for without a limit of time.
def test_time_runs_out_also_while_a_thread_of_this_process_flushes(engine: Engine) -> None:
    """A disk that hangs must not hold a caller beyond the time he allowed (`max_block_ms`)."""
    let_go, answered = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def commit() -> None:
        try:
            engine.commit(append(b"x"), timeout=0.02)
        except OutcomeUnknownError as error:
            errors.append(error)
        answered.set()

    thread = threading.Thread(target=commit)
    with engine.locks.flush.threads:
        thread.start()
        was_in_time = answered.wait(2)
    let_go.set()
    thread.join(60)
    assert was_in_time
    assert len(errors) == 1


# Beyond mending


def test_frames_that_no_longer_verify_fail_the_store_and_a_new_era_begins(
    path: Path, tmp_path: Path, bad_disk: BadDisk
) -> None:
    store = kafkalite.connect(path)
    topic = store.topic("t")
    for number in range(3):
        topic.append(b"%d" % number)
    durable = store._engine.index.positions().durable
    bad_disk.broken, bad_disk.times = True, 1
    with pytest.raises(StoreFailedError):
        topic.append(b"lost")
    flip(path, durable + 50)
    for _ in range(2):
        with pytest.raises(StoreFailedError, match="no longer verify"):
            topic.append(b"refused")
    assert state_of(path).state is State.FAILED
    assert values(store) == [b"0", b"1", b"2"]
    copy = copied(path, tmp_path, "copy")
    with pytest.raises(StoreFailedError):
        store.close()
    for target in (path, copy):
        with kafkalite.connect(target) as again:
            assert values(again) == [b"0", b"1", b"2"]
            assert state_of(target).era == 1
            assert again.topic("t").append(b"3").offset == 3
            assert again.check().ok


def test_a_failed_store_is_not_joined(path: Path, bad_disk: BadDisk) -> None:
    store = kafkalite.connect(path)
    topic = store.topic("t")
    topic.append(b"good")
    durable = store._engine.index.positions().durable
    bad_disk.broken, bad_disk.times = True, 1
    with pytest.raises(StoreFailedError):
        topic.append(b"lost")
    flip(path, durable + 50)
    with pytest.raises(StoreFailedError):
        store.flush()
    abandon(store)
    with kafkalite.connect(path) as again:
        assert values(again) == [b"good"]
        assert again.check().ok


def test_a_batch_of_many_logs_is_published_at_once(engine: Engine) -> None:
    engine.create_topic("t", 50, {})
    operation = Operation([Append(LOG + number, batch(b"x")) for number in range(50)])
    engine.committer.submit(operation, 60)
    published = engine.index.positions().published
    assert published <= operation.end - 50 * 100
    engine.flush()
    assert engine.index.positions().published == operation.end
