"""Share groups under SIGKILL: workers that die and come back, poison that kills them, a kill at every step of a member.

Who took what, and when, is kept outside of the store (`AckFile`), one line for each delivery and each end of one:

    pid, what (0 taken, 1 accepted, 2 released), partition, offset, delivery count, microseconds since boot
"""

import os
import random
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import pytest

import kafkalite
from kafkalite import clock, disk
from kafkalite.coordinator.share_group import SharePartition
from kafkalite.storage.place import resolve
from kafkalite.testing.procs import AckFile

from .conftest import Fork
from .forks import Board, Forked, die_at, until
from .test_steps import keep_at_once, last_step, note_beside, remove

TAKEN, ACCEPTED, RELEASED = range(3)
PARTITIONS: Final = 3
MOST_DELIVERIES: Final = 4
MOST_STEPS: Final = 400


def now_us() -> int:
    return clock.boot_ns() // 1000


def fill(path: Path, count: int) -> None:
    with kafkalite.connect(path, durability="none") as store:
        store.topic("dead")
        jobs = store.topic("jobs", partitions=PARTITIONS)
        for partition in range(PARTITIONS):
            jobs.append_many([b"%d" % number for number in range(count)], partition=partition)


def work(path: Path, log: Path, seed: int) -> int:
    """A worker that takes its time now and then, and releases what it does not like at first."""
    chance = random.Random(seed)
    notes, pid, handled = AckFile(log), os.getpid(), 0
    with (
        kafkalite.connect(path) as store,
        store.share_group("g", ["jobs"], max_delivery_count=MOST_DELIVERIES, dead_letter="dead") as group,
    ):
        for record in group.records("end"):
            where = (record.partition, record.offset, record.delivery_count)
            notes.append(pid, TAKEN, *where, now_us())
            if chance.random() < 0.02:
                time.sleep(chance.random() / 50)
            handled += 1
            if chance.random() < 0.05 and record.delivery_count == 1:
                notes.append(pid, RELEASED, *where, now_us())
                group.release(record)
            else:
                notes.append(pid, ACCEPTED, *where, now_us())
    return handled


def read(log: Path) -> dict[tuple[int, int], list[tuple[int, int, int, int]]]:
    """By partition and offset what happened, in order: when, what, who, and the delivery count."""
    found: dict[tuple[int, int], list[tuple[int, int, int, int]]] = defaultdict(list)
    for pid, what, partition, offset, count, at in AckFile(log).read():
        found[partition, offset].append((at, what, pid, count))
    return {place: sorted(events) for place, events in found.items()}


def assert_one_at_a_time(log: Path, deaths: dict[int, int]) -> Counter[int]:
    """No record was taken while somebody had it who lived; returns how often each was delivered."""
    deliveries: Counter[int] = Counter()
    for place, events in read(log).items():
        holder = 0
        for at, what, pid, count in events:
            if what == TAKEN:
                deliveries[count] += 1
                assert count <= MOST_DELIVERIES
                assert not holder or deaths.get(holder, at + 1) <= at, f"{place}: {pid} took it, and {holder} has it"
                holder = pid
            elif holder == pid:
                holder = 0
    return deliveries


def undone(path: Path) -> int:
    with kafkalite.connect(path) as store, store.share_group("g", ["jobs"]) as group:
        return sum(group.lag().values())


def check(path: Path) -> None:
    with kafkalite.connect(path) as store:
        report = store.check()
        assert report.ok, report


def test_workers_that_are_killed_and_replaced_lose_nothing_and_take_nothing_twice_at_once(
    fork: Fork, scratch: Path, seed: int
) -> None:
    path, log, count, chance = scratch / "store", scratch / "log", 400, random.Random(seed)
    fork(fill, path, count).result()
    workers = [fork(work, path, log, chance.randrange(2**32)) for _ in range(4)]
    deaths: dict[int, int] = {}
    for _ in range(25):
        time.sleep(chance.random() / 50)
        number = chance.randrange(len(workers))
        victim = workers[number]
        at = now_us()
        victim.signal(signal.SIGKILL)
        if victim.wait() != -signal.SIGKILL:
            break
        deaths[victim.pid] = at
        workers[number] = fork(work, path, log, chance.randrange(2**32))
    for worker in workers:
        if worker.wait() == 0:
            worker.result()
    fork(work, path, log, 0).result()
    assert fork(undone, path).result() == 0
    deliveries = assert_one_at_a_time(log, deaths)
    dead = fork(dead_letters, path).result()
    accepted = {place for place, events in read(log).items() if any(what == ACCEPTED for _, what, *_ in events)}
    everything = {(partition, offset) for partition in range(PARTITIONS) for offset in range(count)}
    assert accepted | set(dead) == everything
    print(f"kills: {len(deaths)}, deliveries by count: {dict(deliveries)}, dead letters: {len(dead)}, lost: 0")
    fork(check, path).result()


def work_without_locks(path: Path, log: Path) -> int:
    SharePartition.locks = lambda _partition: []  # type: ignore[method-assign]
    return work(path, log, 1)


def test_it_is_noticed_when_two_have_the_same_record(fork: Fork, scratch: Path) -> None:
    """A canary: members that write no locks."""
    path, log = scratch / "store", scratch / "log"
    fork(fill, path, 300).result()
    for _ in range(3):
        fork(work_without_locks, path, log)
    until(lambda: two_have_the_same(log), "the proof to notice it")


def two_have_the_same(log: Path) -> bool:
    try:
        assert_one_at_a_time(log, {})
    except AssertionError as error:
        return "has it" in str(error)
    return False


def dead_letters(path: Path) -> list[tuple[int, int]]:
    with kafkalite.connect(path) as store:
        found = [dict(record.headers) for record in store.topic("dead").read()]
    return [(int(one["_dlq.errors.partition"] or 0), int(one["_dlq.errors.offset"] or 0)) for one in found]


def work_until_poison(path: Path, log: Path) -> None:
    notes = AckFile(log)
    with (
        kafkalite.connect(path) as store,
        store.share_group("g", ["jobs"], max_delivery_count=MOST_DELIVERIES, dead_letter="dead") as group,
    ):
        for record in group.records("end"):
            notes.append(os.getpid(), TAKEN, record.partition, record.offset, record.delivery_count, now_us())
            if record.value == b"13":
                os.kill(os.getpid(), signal.SIGKILL)


def test_poison_that_kills_its_worker_goes_to_the_dead_letters_and_takes_nobody_with_it(
    fork: Fork, scratch: Path
) -> None:
    path, log = scratch / "store", scratch / "log"
    fork(fill, path, 40).result()
    kills = 0
    while fork(work_until_poison, path, log).wait() == -signal.SIGKILL:
        kills += 1
    assert kills == PARTITIONS * MOST_DELIVERIES
    assert sorted(fork(dead_letters, path).result()) == [(partition, 13) for partition in range(PARTITIONS)]
    counts = {place: max(count for *_, count in events) for place, events in read(log).items()}
    assert len(counts) == PARTITIONS * 40
    innocent = [count for (_, offset), count in counts.items() if offset != 13]
    assert max(innocent) <= 1 + PARTITIONS, "at most one delivery is lost to each poison that was acquired with it"
    assert fork(undone, path).result() == 0
    fork(check, path).result()


def take_and_wait(path: Path) -> None:
    with kafkalite.connect(path) as store, store.share_group("g", ["jobs"]) as group:
        for _ in group:
            print("taken", flush=True)
            signal.pause()


def next_after(path: Path) -> tuple[int, int]:
    with kafkalite.connect(path) as store, store.share_group("g", ["jobs"]) as group:
        [record] = group.poll(1, timeout=60)
        return record.offset, record.delivery_count


def test_stopped_member_keeps_what_it_has_and_a_killed_one_does_not(fork: Fork, scratch: Path) -> None:
    path = scratch / "store"
    fork(fill_one, path).result()
    holder = fork(take_and_wait, path)
    until(lambda: fork_locked(fork, path), "the record to be taken")
    holder.stop()
    waiting = fork(next_after, path)
    time.sleep(0.2)
    assert waiting.is_running()
    began = time.monotonic()
    holder.kill()
    assert waiting.result() == (0, 2)
    print(f"taken over {1000 * (time.monotonic() - began):.0f} ms after the kill")
    fork(check, path).result()


def take_and_accept_late(path: Path, board: Board) -> str:
    with kafkalite.connect(path) as store, store.share_group("g", ["jobs"], acquire_timeout_ms=300) as group:
        [record] = group.poll(1)
        board[0] = 1
        while not board[1]:
            time.sleep(0.001)
        try:
            group.accept(record)
        except kafkalite.InvalidRecordStateError as error:
            return str(error)
        return "taken"


def test_member_that_was_stopped_for_too_long_comes_too_late(fork: Fork, board: Board, scratch: Path) -> None:
    path = scratch / "store"
    fork(fill_one, path).result()
    holder = fork(take_and_accept_late, path, board)
    until(lambda: board[0], "the record to be taken")
    holder.stop()
    assert fork(next_after, path).result() == (0, 2)
    board[1] = 1
    holder.resume()
    assert "its lock has ended" in holder.result()
    fork(check, path).result()


def fill_one(path: Path) -> None:
    with kafkalite.connect(path, durability="none") as store:
        store.topic("jobs").append(b"0")


def fork_locked(fork: Fork, path: Path) -> bool:
    return bool(fork(locked, path).result())


def locked(path: Path) -> bool:
    with kafkalite.connect(path) as store, store.share_group("g", ["jobs"]) as group:
        return "ACQUIRED" in str(group.describe())


def interrupted(path: Path) -> list[tuple[int, int]]:
    """Ctrl-C while a record is in hand, then while it waits."""
    with kafkalite.connect(path) as store:
        jobs = store.topic("jobs")
        for hold in (True, False):
            try:
                with store.share_group("g", [jobs]) as group:
                    signal.setitimer(signal.ITIMER_REAL, 0.05)
                    signal.signal(signal.SIGALRM, signal.default_int_handler)
                    for _ in group:
                        if hold:
                            signal.pause()
            except KeyboardInterrupt:
                continue
            raise AssertionError("the loop ended by itself")
        jobs.append(b"1")
        with store.share_group("g", [jobs]) as group:
            return [(record.offset, record.delivery_count) for record in group.records("end")]


def test_ctrl_c_releases_what_is_in_hand_and_ends_a_wait(fork: Fork, scratch: Path) -> None:
    fork(fill_one, scratch / "store").result()
    assert fork(interrupted, scratch / "store").result() == [(1, 1)]
    fork(check, scratch / "store").result()


# At every step


def life(path: Path, acks: Path, step: int) -> int:
    """All that a member can say, killed at a step; notes what was certain before: offset, and what became of it."""
    keep_at_once()
    notes = AckFile(acks)
    with kafkalite.connect(path) as store:
        store.topic("dead")
        jobs = store.topic("jobs")
        jobs.append_many([b"%d" % number for number in range(8)])
        notes.append(0, TAKEN)
        steps = die_at(step, note_beside(acks))
        with store.share_group("g", [jobs], max_delivery_count=2, dead_letter="dead") as group:
            records = group.poll(6)
            for record in records[:2]:
                group.accept(record)
            group.release(records[2])
            group.reject(records[3])
            group.commit()
            notes.append(1, ACCEPTED)
            list(group.records(max_records=2))
            notes.append(2, ACCEPTED)
        disk.on_step = None
    return steps()


def verify(path: Path, acks: Path, without_index: bool) -> dict[str, int]:
    """Another process works off what is left, and everything became of every record that should."""
    done = [number for number, _ in AckFile(acks).read()]
    if without_index:
        resolve(path).index.unlink()
    seen: Counter[int] = Counter()
    with kafkalite.connect(path) as store:
        assert store.check().ok
        with store.share_group("g", ["jobs"], max_delivery_count=5, dead_letter="dead") as group:
            for record in group.records("end"):
                seen[record.offset] += 1
            assert sum(group.lag().values()) == 0
        dead = [record.value for record in store.topic("dead").read()]
        assert store.check().ok
    assert max(seen.values(), default=1) == 1, "the one member left gets each once"
    if 1 in done:
        assert not seen.keys() & {0, 1}, "accepted and acknowledged as such: never again"
        assert dead == [b"3"], "rejected: one letter, not two"
        assert 3 not in seen
    assert seen.keys() | {0, 1, 2, 3, 4, 5} == set(range(8)) or 2 in done
    assert (3 in seen) + len(dead) == 1, (
        "the rejected record is delivered again, or a letter, never both, never neither"
    )
    return {"delivered": len(seen), "letters": len(dead)}


@pytest.mark.parametrize("without_index", [False, True], ids=["killed", "power"])
def test_killed_at_every_step_of_a_members_life(fork: Fork, scratch: Path, without_index: bool) -> None:
    killed: Counter[str] = Counter()
    for step in range(1, MOST_STEPS):
        path, acks = scratch / f"{step}", scratch / f"acks-{step}"
        victim: Forked = fork(life, path, acks, step)
        name = last_step(victim, acks)
        fork(verify, path, acks, without_index).result()
        remove(path)
        if name is None:
            print(f"faults injected: {killed.total()} ({dict(killed)}), lost: 0")
            break
        killed[name] += 1
    assert killed["write"] >= 4
    assert killed["index"] >= 4
