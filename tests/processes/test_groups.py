"""Consumer groups across processes and threads: members that join, leave, are killed and stopped, while producers run.

Who handled what, and when, is kept outside of the store (`AckFile`), a line for each record as its body begins:

    member, partition, offset, microseconds since boot

What the group itself did is read from its own log: the records of `__consumer_offsets`, frame by frame, replayed.
"""

import itertools
import random
import signal
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import kafkalite
from kafkalite import clock
from kafkalite.coordinator.group_records import ConsumerGroupCurrentMemberAssignment
from kafkalite.coordinator.records import OffsetCommit, decode
from kafkalite.records import native
from kafkalite.records.envelope import HEADER_SIZE, parse
from kafkalite.storage.internal import OFFSETS_LOG
from kafkalite.testing.procs import AckFile
from tests.storage.kit import frames_of

from .conftest import Fork
from .forks import Board, Forked, results, until

PARTITIONS: Final = 8
READY, PRODUCED, STOPS = 0, 1, 2
"""Cells of the board; members' own cells come behind."""
FIRST_MEMBER: Final = 8
MOST_MEMBERS: Final = 480
SLACK_US: Final = 2000
"""Between a record's timestamp, in whole ms, and the clock of the notes."""


def now_us() -> int:
    return clock.boot_ns() // 1000


def make(path: Path, records: int = 0) -> None:
    """A store with so many records in each partition."""
    with kafkalite.connect(path, durability="none") as store:
        topic = store.topic("t", partitions=PARTITIONS)
        for partition in range(PARTITIONS if records else 0):
            topic.append_many([b"x"] * records, partition=partition)


def produce(path: Path, board: Board, pace_s: float, log: Path) -> list[int]:
    """Append to all partitions until told to stop; returns how many records each has of this producer.

    When each append has returned is noted: partition, end offset, microseconds since boot.
    """
    counts = [0] * PARTITIONS
    with kafkalite.connect(path) as store, AckFile(log) as notes:
        topic = store.topic("t")
        while not board[STOPS]:
            for partition in range(PARTITIONS):
                topic.append_many([b"x"] * 3, partition=partition)
                counts[partition] += 3
                notes.append(partition, counts[partition], now_us())
            board[PRODUCED] = sum(counts)
            time.sleep(pace_s)
    return counts


def consume(path: Path, log: Path, number: int, board: Board, settings: dict[str, Any], threads: int = 1) -> None:
    """A member, or several in threads, until its cell of the board says that it is to leave."""
    with kafkalite.connect(path) as store:
        running = [
            threading.Thread(target=member, args=(store, log, number, board, settings)) for _ in range(threads - 1)
        ]
        for thread in running:
            thread.start()
        member(store, log, number, board, settings)
        for thread in running:
            thread.join()


def member(store: kafkalite.Store, log: Path, number: int, board: Board, settings: dict[str, Any]) -> None:
    with AckFile(log) as notes, store.consumer_group("g", "t", client_id=f"m{number}", **settings) as group:
        board[READY] = number + 1
        while not board[FIRST_MEMBER + number]:
            for record in group.records(until=None, timeout=0.02):
                notes.append(number, record.partition, record.offset, now_us())
                if board[FIRST_MEMBER + number]:
                    group.stop()  # not `break`, which would leave the record in hand to be repeated


class Handled(NamedTuple):
    """A line of the notes."""

    member: int
    partition: int
    offset: int
    at_us: int


def handled(log: Path) -> list[Handled]:
    return [Handled(*line) for line in AckFile(log).read()]


class Tail:
    """The notes, read on from where the last look ended."""

    def __init__(self, log: Path) -> None:
        self._log, self._at = log, 0

    def __call__(self) -> list[Handled]:
        with self._log.open("rb") as stream:
            stream.seek(self._at)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [Handled(*map(int, line.split())) for line in whole.splitlines()]


# The group's own log


class Owners:
    """The group's log replayed: who has what; raises where a partition would have two owners."""

    def __init__(self) -> None:
        self.owned: dict[str, frozenset[tuple[bytes, int]]] = {}
        self.changes = 0
        self.members: set[str] = set()
        self.commits: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.moves: dict[str, list[int]] = defaultdict(list)
        """When partitions came to a member or went, by client id, in ms since 1970."""
        self._now = 0

    def replay(self, batches: Iterable[tuple[int, Sequence[tuple[bytes, bytes | None]]]]) -> None:
        """Batch by batch, each with its time: one is a step of the group, whole."""
        for self._now, records in batches:
            for key, value in records:
                self._take(key, value)
            seen: dict[tuple[bytes, int], str] = {}
            for name, partitions in self.owned.items():
                for partition in partitions:
                    assert seen.setdefault(partition, name) == name, f"{partition} is {seen[partition]}'s and {name}'s"

    def _take(self, key: bytes, value: bytes | None) -> None:
        record = decode(OFFSETS_LOG, key, value if value is not None else b"") if value is not None else None
        if isinstance(record, OffsetCommit):
            self.commits[record.topic, record.partition].append(record.offset)
        if isinstance(record, ConsumerGroupCurrentMemberAssignment):
            self.changes += 1
            self.members.add(record.member_id)
            before = self.owned.get(record.member_id)
            self.owned[record.member_id] = frozenset(
                (topic_id, number)
                for part in (record.assigned_partitions, record.partitions_pending_revocation)
                for topic_id, numbers in part.items()
                for number in numbers
            )
            if self.owned[record.member_id] != before:
                self.moves[record.member_id.partition("-")[0]].append(self._now)
        elif value is None:
            for name in list(self.owned):
                if ConsumerGroupCurrentMemberAssignment("g", name, 0, 0, 0, {}, {}).key() == key:
                    del self.owned[name]


def replayed(path: Path) -> Owners:
    owners = Owners()
    frames = sorted(frames_of(path, OFFSETS_LOG), key=lambda frame: frame.position)
    owners.replay(_records(frame.batch) for frame in frames)
    return owners


def _records(batch: bytes) -> tuple[int, list[tuple[bytes, bytes | None]]]:
    envelope = parse(batch)
    columns = native.decode(envelope, memoryview(batch)[HEADER_SIZE:])
    records = [(key, value) for key, value in zip(columns.keys, columns.values, strict=True) if key]
    return envelope.max_timestamp, records


# What was handled, against what was promised


def assert_all_handled(lines: Sequence[Handled], ends: dict[int, int], deaths: int) -> Counter[tuple[int, int]]:
    """Every record at least once, and at most one repeat for each death; in order for each member and partition."""
    times = Counter((line.partition, line.offset) for line in lines)
    expected = {(partition, offset) for partition, end in ends.items() for offset in range(end)}
    assert expected - times.keys() == set(), "records were never handled"
    assert times.keys() <= expected
    repeats = times.total() - len(expected)
    assert repeats <= deaths, f"{repeats} repeats of {deaths} deaths: {[one for one in times if times[one] > 1][:20]}"
    return times


def assert_in_order(lines: Sequence[Handled]) -> None:
    """Each member handles a partition's records in order, but for those that it was given anew."""
    last: dict[tuple[int, int], int] = {}
    for line in lines:
        place = line.member, line.partition
        assert line.offset >= last.get(place, 0), f"{line} after {last[place]}"
        last[place] = line.offset


def longest_gaps_ms(
    lines: Sequence[Handled], there_at: dict[int, list[int]], moves_us: Sequence[int], start_us: int, end_us: int
) -> tuple[float, float]:
    """The longest time in which a member began no record although there was one: while none of its partitions came or
    went, and in any case. `lines` are its own.

    A gap counts from the end of the append of the record that it began next, or from the one that it began before:
    `there_at` says of each partition when each record was there. (A producer stands still as well when somebody is
    stopped while he appends; then there is nothing to be begun.)
    """
    mine = [line for line in lines if start_us <= line.at_us <= end_us]
    gaps = [
        (max(earlier.at_us, there_at[later.partition][later.offset]), later.at_us)
        for earlier, later in itertools.pairwise(mine)
    ]
    unmoved = [gap for gap in gaps if not any(gap[0] - SLACK_US <= at <= gap[1] + SLACK_US for at in moves_us)]
    longest = [max((end - start for start, end in some), default=0) / 1000 for some in (unmoved, gaps)]
    return longest[0], longest[1]


def times_there(log: Path) -> dict[int, list[int]]:
    """When each record of each partition was there, in the order of offsets."""
    found: dict[int, list[int]] = defaultdict(list)
    for partition, end, at_us in AckFile(log).read():
        found[partition] += [at_us] * (end - len(found[partition]))
    return found


class Crowd:
    """Members as processes, started and ended at random; member 0 and 1 stay."""

    def __init__(self, fork: Fork, path: Path, log: Path, board: Board, settings: dict[str, Any]) -> None:
        self._fork, self._path, self._log, self._board, self._settings = fork, path, log, board, settings
        self.running: dict[int, Forked] = {}
        self.count = 0
        self.kills = 0
        self.stops = 0
        self.killed: list[tuple[int, int]] = []
        """Who was killed, and when."""

    def join(self, threads: int = 1) -> int:
        number, self.count = self.count, self.count + 1
        self.running[number] = self._fork(
            consume, self._path, self._log, number, self._board, self._settings, threads=threads
        )
        return number

    def leave(self, number: int) -> None:
        self._board[FIRST_MEMBER + number] = 1
        self.running.pop(number).result()

    def kill(self, number: int, members: int = 1) -> None:
        self.killed.append((number, now_us()))
        self.running.pop(number).kill()
        self.kills += members

    def freeze(self, number: int, seconds: float) -> None:
        child = self.running[number]
        child.stop()
        time.sleep(seconds)
        child.signal(signal.SIGCONT)
        self.stops += 1


def turmoil(crowd: Crowd, chance: random.Random, events: int, pause_s: float) -> Counter[str]:
    """So many joins, leaves, kills and stops, among at least two members that stay."""
    threads: dict[int, int] = {}
    done: Counter[str] = Counter()
    for _ in range(events):
        others = sorted(number for number in crowd.running if number > 1)
        what = chance.choice(["join", "leave", "kill", "stop"]) if len(others) > 1 else "join"
        if len(others) > 4:
            what = chance.choice(["leave", "kill"])
        done[what] += 1
        if what == "join":
            count = chance.choice([1, 1, 2])
            threads[crowd.join(count)] = count
        elif what == "leave":
            crowd.leave(chance.choice(others))
        elif what == "kill":
            number = chance.choice(others)
            crowd.kill(number, threads[number])
        else:
            crowd.freeze(chance.choice(others), chance.random() / 5)
        time.sleep(chance.random() * 2 * pause_s)
    return done


def run_turmoil(fork: Fork, board: Board, scratch: Path, chance: random.Random, events: int, pause_s: float) -> None:
    path, log, produced = scratch / "store", scratch / "handled", scratch / "produced"
    make(path)
    crowd = Crowd(fork, path, log, board, {"auto_commit_interval_ms": 200})
    producers = [fork(produce, path, board, 0.01, produced)]
    crowd.join()
    crowd.join()
    until(lambda: len({line.member for line in handled(log)}) == 2, "both members that stay have begun")
    quiet = now_us()
    time.sleep(max(1.0, pause_s * 10))
    start = now_us()
    done = turmoil(crowd, chance, events, pause_s)
    end = now_us()
    board[STOPS] = 1
    results(producers)
    with kafkalite.connect(path) as store:
        ends = store.topic("t").end_offsets()
    until(lambda: len({(line.partition, line.offset) for line in handled(log)}) >= sum(ends.values()), "all is handled")
    for number in list(crowd.running):
        crowd.leave(number)
    lines = handled(log)
    repeats = assert_all_handled(lines, ends, crowd.kills).total() - sum(ends.values())
    assert_in_order(lines)
    owners = replayed(path)
    print(
        f"{events} events {dict(done)}: {len(lines)} records handled, {repeats} repeats of {crowd.kills} members "
        f"killed, {len(owners.members)} members, {owners.changes} changes of assignments, no partition owned twice"
    )
    there, since = times_there(produced), now_us() - clock.now_ms() * 1000
    for number in (0, 1):
        mine = [line for line in lines if line.member == number]
        moves = [at_ms * 1000 + since for at_ms in owners.moves[f"m{number}"]]
        _, in_quiet = longest_gaps_ms(mine, there, moves, quiet, start)
        unmoved, in_all = longest_gaps_ms(mine, there, moves, start, end)
        print(
            f"member {number}: longest gap {in_quiet:.0f} ms in quiet; in turmoil {unmoved:.0f} ms where nothing of it "
            f"moved, {in_all:.0f} ms in all"
        )
    with kafkalite.connect(path) as store:
        with store.consumer_group("g", "t") as group:
            assert len(group.members()) == 1
            assert group.committed() == {kafkalite.TopicPartition("t", number): end for number, end in ends.items()}
        assert store.check().ok


def test_members_come_and_go_while_producers_run(fork: Fork, board: Board, scratch: Path, seed: int) -> None:
    run_turmoil(fork, board, scratch, random.Random(seed), 40, 0.1)


@pytest.mark.long
def test_members_come_and_go_for_long(fork: Fork, board: Board, scratch: Path, seed: int) -> None:
    run_turmoil(fork, board, scratch, random.Random(seed), 250, 0.3)


def takeovers(fork: Fork, board: Board, scratch: Path, kills: int) -> list[float]:
    """Kill one of two members so many times: how long each time, in ms, until all it had is consumed again."""
    path, log = scratch / "store", scratch / "handled"
    make(path)
    crowd = Crowd(fork, path, log, board, {})
    producer = fork(produce, path, board, 0.002, scratch / "produced")
    crowd.join()
    found, tail = [], Tail(log)
    until(log.exists, "the first member has begun")
    for _ in range(kills):
        victim = crowd.join()
        mine: set[int] = set()

        def has_half(victim: int = victim, mine: set[int] = mine) -> bool:
            mine |= {line.partition for line in tail() if line.member == victim}
            return len(mine) == PARTITIONS // 2

        until(has_half, "the new member has its half")
        crowd.kill(victim)
        killed_at = crowd.killed[-1][1]
        back: dict[int, int] = {}

        def is_back(mine: set[int] = mine, killed_at: int = killed_at, back: dict[int, int] = back) -> bool:
            for line in tail():
                if line.member == 0 and line.partition in mine and line.at_us > killed_at:
                    back.setdefault(line.partition, line.at_us)
            return len(back) == len(mine)

        until(is_back, "its partitions are consumed again")
        found.append((max(back.values()) - killed_at) / 1000)
    board[STOPS] = 1
    counts = producer.result()
    until(lambda: len({(line.partition, line.offset) for line in handled(log)}) >= sum(counts), "all is handled")
    crowd.leave(0)
    assert_all_handled(handled(log), dict(enumerate(counts)), kills)
    assert_in_order(handled(log))
    replayed(path)
    with kafkalite.connect(path) as store:
        assert store.check().ok
    return found


def show_takeovers(found: list[float]) -> None:
    ordered = sorted(found)
    p99 = ordered[max(0, round(len(ordered) * 0.99) - 1)]
    print(
        f"{len(found)} kills, session_timeout_ms=45000: consumed again after {statistics.median(found):.0f} ms "
        f"(median), {p99:.0f} ms (p99), {ordered[-1]:.0f} ms (most)"
    )


def test_what_a_killed_member_had_is_consumed_again(fork: Fork, board: Board, scratch: Path) -> None:
    show_takeovers(takeovers(fork, board, scratch, 10))


@pytest.mark.long
def test_a_hundred_members_are_killed(fork: Fork, board: Board, scratch: Path) -> None:
    show_takeovers(takeovers(fork, board, scratch, 100))


def test_a_lone_process_that_is_killed_repeats_the_record_in_hand(fork: Fork, board: Board, scratch: Path) -> None:
    """Nobody lives to commit what it had confirmed: that is done by who opens the store next."""
    path, log = scratch / "store", scratch / "handled"
    make(path, 100)
    settings = {"auto_commit_interval_ms": 3_600_000}
    for number, enough in enumerate((50, 250, 600)):
        victim = fork(consume, path, log, number, board, settings)
        until(lambda enough=enough: len(handled(log)) > enough, "some more are handled")
        victim.kill()
    with kafkalite.connect(path) as store, store.consumer_group("g", "t") as group, AckFile(log) as notes:
        for record in group.records(until="end"):
            notes.append(99, record.partition, record.offset, now_us())
        assert store.check().ok
    repeats = assert_all_handled(handled(log), dict.fromkeys(range(PARTITIONS), 100), deaths=3)
    print(f"{repeats.total() - 100 * PARTITIONS} repeats of 3 deaths")


def hang_in(path: Path, log: Path, board: Board, number: int, settings: dict[str, Any]) -> list[int]:
    """A member that begins a record each 10 ms."""
    seen: list[int] = []
    with kafkalite.connect(path) as store, store.consumer_group("g", "t", **settings) as group, AckFile(log) as notes:
        while not board[FIRST_MEMBER + number]:
            for record in group.records(until=None, timeout=0.02):
                notes.append(number, record.partition, record.offset, now_us())
                seen.append(record.offset)
                time.sleep(0.01)
                if board[FIRST_MEMBER + number]:
                    break
    return seen


def test_a_stopped_member_is_fenced_and_comes_back(fork: Fork, board: Board, scratch: Path) -> None:
    path, log = scratch / "store", scratch / "handled"
    make(path, 100)
    settings = {"session_timeout_ms": 1200, "auto_commit_interval_ms": 10}
    stopped = fork(hang_in, path, log, board, 0, settings)
    until(lambda: len(handled(log)) > 5, "the first one works")
    stopped.stop()
    other = fork(hang_in, path, log, board, 1, settings)
    until(lambda: {line.partition for line in handled(log) if line.member == 1} == set(range(PARTITIONS)), "all move")
    stopped.signal(signal.SIGCONT)
    until(lambda: len({(line.partition, line.offset) for line in handled(log)}) == 800, "all is handled")
    back_at = len(handled(log))
    board[FIRST_MEMBER] = board[FIRST_MEMBER + 1] = 1
    assert results([stopped, other])
    assert back_at >= 800
    repeats = assert_all_handled(handled(log), dict.fromkeys(range(PARTITIONS), 100), deaths=3)
    print(f"{repeats.total() - 800} repeats of one fencing")
    assert len(replayed(path).members) == 3, "the stopped one joined again, as another"
    with kafkalite.connect(path) as store:
        assert store.check().ok


def test_a_process_that_had_no_members_for_long_is_not_taken_for_a_stopped_one(
    fork: Fork, board: Board, scratch: Path
) -> None:
    path, log = scratch / "store", scratch / "handled"
    make(path)
    with kafkalite.connect(path) as store:
        for partition in range(PARTITIONS):
            store.topic("t").append(b"x", partition=partition)
    neighbour = fork(consume, path, log, 0, board, {})
    until(lambda: board[READY] == 1, "the neighbour watches")
    lost: list[object] = []
    with kafkalite.connect(path) as store:
        with store.consumer_group("g", "t"):
            pass
        time.sleep(1.3)
        settings: dict[str, Any] = {"session_timeout_ms": 1100, "on_lost": lambda *_: lost.append(1)}
        with store.consumer_group("g", "t", **settings) as group:
            for _ in range(4):
                group.poll(timeout=0.05)
        assert not lost
        board[FIRST_MEMBER] = 1
        neighbour.result()
        assert store.check().ok


def step_of(*records: Any) -> list[tuple[bytes, bytes | None]]:
    return [(record.key(), record.value()) for record in records]


def test_canary_a_partition_with_two_owners_is_seen() -> None:
    one = ConsumerGroupCurrentMemberAssignment("g", "one", 1, 0, 0, {b"t" * 16: (0, 1)}, {})
    gives = ConsumerGroupCurrentMemberAssignment("g", "one", 1, 0, 1, {b"t" * 16: (0,)}, {b"t" * 16: (1,)})
    other = ConsumerGroupCurrentMemberAssignment("g", "other", 1, 0, 0, {b"t" * 16: (1,)}, {})
    Owners().replay(enumerate([step_of(one), [(one.key(), None)], step_of(other)]))
    with pytest.raises(AssertionError, match="one's and other's"):
        Owners().replay(enumerate([step_of(one), step_of(gives), step_of(other)]))


def test_canary_lost_repeated_and_unordered_records_are_seen() -> None:
    lines = [Handled(0, 0, offset, offset) for offset in range(3)]
    assert_all_handled(lines, {0: 3}, 0)
    assert_in_order(lines)
    with pytest.raises(AssertionError, match="never handled"):
        assert_all_handled(lines, {0: 4}, 0)
    with pytest.raises(AssertionError, match="1 repeats of 0 deaths"):
        assert_all_handled([*lines, lines[0]], {0: 3}, 0)
    with pytest.raises(AssertionError, match="after 2"):
        assert_in_order([*lines, lines[0]])
