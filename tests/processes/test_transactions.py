"""Transactions and processes: a pipeline killed at every step of its commits, and at random (F1); fork.

Whatever is killed when, the output topic equals the serial result exactly, in order.
"""

# ruff: noqa: SIM117  (a block in a block says what is in what)

import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.storage import keeper
from tests.storage.kit import values

from .conftest import Fork
from .forks import die_at, until
from .test_steps import keep_at_once, last_step, note_beside, remove

MANUAL: dict[str, Any] = {"enable_auto_commit": False}
COUNT = 12
KILLS = 30


def fill(path: Path, partitions: int, count: int) -> None:
    with kafkalite.connect(path) as store:
        store.topic("out", partitions=partitions)
        source = store.topic("in", partitions=partitions)
        for number in range(partitions):
            source.append_many([b"%d" % value for value in range(count)], partition=number)


def pipeline(path: Path, *, at_a_time: int = 1, until_end: bool = True, begins: Callable[[], object] = bool) -> None:
    """Squares what it reads, in transactions of so many records; `begins()` is called once it is a member."""
    with kafkalite.connect(path) as store, store.producer(transactional_id=f"p{os.getpid()}") as producer:
        with store.consumer_group("g", ["in"], **MANUAL) as group:
            begins()
            while True:
                with producer.transaction(group) as tx:
                    found = list(group.records(max_records=at_a_time))
                    for record in found:
                        tx.send("out", b"%d" % int(record.value) ** 2, partition=record.partition)
                if not found and until_end:
                    disk.on_step = None
                    return


def life(path: Path, acks: Path, step: int, at_a_time: int) -> int:
    keep_at_once_but_rounds()
    pipeline(path, at_a_time=at_a_time, begins=lambda: die_at(step, note_beside(acks)))
    return 0


def keep_at_once_but_rounds() -> None:
    """As `keep_at_once`, and the members' round, which asks for itself again, never comes."""
    keep_at_once()
    at_once = keeper.after
    keeper.after = lambda seconds, task: None if getattr(task, "__name__", "") == "round" else at_once(seconds, task)


def verify(path: Path, partitions: int, count: int) -> None:
    """Another process does the rest; the output equals the serial result exactly, in order."""
    pipeline(path, at_a_time=3)
    prove(path, partitions, count)


def prove(path: Path, partitions: int, count: int) -> None:
    with kafkalite.connect(path) as store:
        for number in range(partitions):
            found = [record.value for record in store.topic("out").read(number)]
            assert found == [b"%d" % value**2 for value in range(count)], f"partition {number}: {Counter(found)}"
        assert store.check().ok


@pytest.mark.parametrize("at_a_time", [1, 5])
def test_killed_at_every_step_the_output_equals_the_serial_result(fork: Fork, scratch: Path, at_a_time: int) -> None:
    killed: Counter[str] = Counter()
    count = 3 if at_a_time == 1 else COUNT
    template = scratch / "template"
    fork(fill, template, 1, count).result()
    for step in range(1, 500):
        path, acks = scratch / f"{step}", scratch / f"acks-{step}"
        shutil.copytree(template, path)
        name = last_step(fork(life, path, acks, step, at_a_time), acks)
        fork(verify, path, 1, count).result()
        remove(path)
        if name is None:
            break
        killed[name] += 1
    print(f"faults injected: {killed.total()} ({dict(killed)}), lost: 0, repeated: 0")
    assert killed["write"] >= 3
    assert killed["index"] >= 3


def test_two_processes_killed_at_random_leave_each_result_exactly_once(
    fork: Fork,
    scratch: Path,
) -> None:
    path, chance, count = scratch / "store", random.Random(5), 150
    fork(fill, path, 4, count).result()
    workers = [fork(pipeline, path, at_a_time=2, until_end=False) for _ in range(2)]
    kills = 0
    while kills < KILLS:
        chosen = chance.randrange(2)
        threading.Event().wait(0.02 + chance.random() * 0.08)
        workers[chosen].kill()
        kills += 1
        workers[chosen] = fork(pipeline, path, at_a_time=2, until_end=False)
    until(lambda: threading.Event().wait(0.1) or fork(written, path).result() >= 4 * count, "the pipeline's end")
    for worker in workers:
        worker.kill()
    fork(prove, path, 4, count).result()
    print(f"kills: {kills}, results: {4 * count}, lost: 0, repeated: 0")
    assert all(worker.wait() == -signal.SIGKILL for worker in workers)


def written(path: Path) -> int:
    with kafkalite.connect(path) as store:
        return sum(store.topic("out").end_offsets().values())


def in_child(tx: Any, topic: Any, delivery: Any) -> str:
    found = []
    for call in (lambda: tx.send(topic, b"x"), tx.abort, tx.__enter__, delivery.result):
        try:
            call()
        except kafkalite.ForkedError:
            found.append("forked")
    tx.__exit__(None, None, None)
    tx.close()
    with topic._store.transaction() as mine:
        mine.send(topic, b"child")
    return ",".join(found)


def test_in_a_forked_child_it_raises_and_its_end_does_nothing(
    open_store: Callable[..., kafkalite.Store], tmp_path: Path, fork: Fork
) -> None:
    store = open_store(tmp_path / "store.klite")
    topic = store.topic("t")
    with store.transaction() as tx:
        delivery = tx.send(topic, b"parent")
        assert fork(in_child, tx, topic, delivery).result() == "forked,forked,forked,forked"
    assert values(store) == [b"child", b"parent"]


def take_and_die(path: Path) -> None:
    """Two records handed out and not committed, and a third in hand."""
    with kafkalite.connect(path) as store, store.consumer_group("g", ["in"], **MANUAL) as group:
        for record in group.records():
            if record.offset == 2:
                os.kill(os.getpid(), signal.SIGKILL)


def next_offset(path: Path) -> int:
    with kafkalite.connect(path) as store, store.consumer_group("g", ["in"], **MANUAL) as group:
        found = group.poll(1, timeout=60)
        assert store.check().ok
    return found[0].offset


def test_nobody_commits_for_a_killed_member_that_commits_by_hand(fork: Fork, scratch: Path) -> None:
    path = scratch / "store"
    fork(fill, path, 1, 5).result()
    with_others = fork(hold_open, path)
    assert fork(take_and_die, path).wait() == -signal.SIGKILL
    assert fork(next_offset, path).result() == 0
    with_others.kill()


def hold_open(path: Path) -> None:
    with kafkalite.connect(path):
        signal.pause()
