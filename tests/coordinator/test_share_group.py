"""The share partition: golden scripts, the table walked, a simulator of members that take, say, die and are late."""

import random
from collections import Counter
from pathlib import Path

import pytest

from kafkalite.coordinator.share_group import (
    DONE,
    MAX_SPANS,
    OF_OWNER,
    TRANSITIONS,
    Acknowledge,
    Acknowledgement,
    Acquire,
    Acquired,
    Archived,
    Batch,
    Bury,
    Event,
    Freed,
    Gone,
    Lock,
    LogStart,
    Output,
    Refused,
    SharePartition,
    Snapshot,
    State,
    Tick,
    Verb,
)
from kafkalite.testing import golden
from kafkalite.testing.golden import Command

SCRIPTS = sorted((Path(__file__).parent / "golden_share").glob("*.txt"))


def step(partition: SharePartition, event: Event, now_ms: int = 0) -> list[Output]:
    """One step, after which nothing may be wrong."""
    outputs = partition.step(event, now_ms)
    assert partition.check() == []
    return outputs


def accept(first: int, last: int, owner: str = "a") -> Acknowledge:
    return Acknowledge(owner, [Acknowledgement(first, last, Verb.ACCEPT)])


# Golden scripts


class Script:
    """Commands on one partition; see the scripts."""

    def __init__(self) -> None:
        self.partition = SharePartition()
        self.now_ms = 0

    def __call__(self, command: Command) -> str:
        partition, words, options = self.partition, command.words, command.options
        match command.name:
            case "partition":
                self.partition = SharePartition(**{name: int(value) for name, value in options.items()})
                return ""
            case "at":
                self.now_ms = int(words[0])
                event: Event = Tick()
            case "acquire":
                event = Acquire(words[0], int(options["max"]), int(options["end"]), is_fresh="fresh" in words)
            case "accept" | "release" | "return" | "reject" | "skip":
                spans = [tuple(map(int, word.split("-"))) for word in words[1:]]
                delay = int(options.get("delay", 0))
                event = Acknowledge(words[0], [Acknowledgement(a, b, Verb(command.name), delay) for a, b in spans])
            case "gone":
                event = Gone(frozenset(words))
            case "bury":
                event = Bury([(int(a), int(b)) for a, b in (word.split("-") for word in words)])
            case "log-start":
                event = LogStart(int(words[0]))
            case "reload":
                return self.reload(with_locks="locks" in words)
            case _:
                return "\n".join(self.shown())
        outputs = step(partition, event, self.now_ms)
        return "\n".join([*map(self.said, outputs), *self.shown()])

    def reload(self, *, with_locks: bool) -> str:
        snapshot, locks = self.partition.snapshot(), self.partition.locks()
        self.partition = SharePartition(
            max_delivery_count=self.partition.max_delivery_count, acquire_timeout_ms=self.partition.acquire_timeout_ms
        )
        self.partition.restore(snapshot, locks if with_locks else ())
        assert self.partition.check() == []
        return "\n".join(self.shown())

    @staticmethod
    def said(output: Output) -> str:
        name = f"-> {type(output).__name__.lower()} {output.first}-{output.last}"
        match output:
            case Acquired():
                return f"{name}, delivery {output.delivery_count}, until {output.until_ms}"
            case Archived():
                return f"{name} after {output.delivery_count}"
            case Refused() | Freed():
                return f"{name}: {output.verb}"

    def shown(self) -> list[str]:
        lines = [f"from {self.partition.start_offset}"]
        for span in self.partition.spans:
            line = f"{span.first}-{span.last} {span.state.name} {span.delivery_count}"
            line += f" {span.owner}" * bool(span.owner) + f" until {span.until_ms}" * bool(span.until_ms)
            lines.append(line)
        return lines


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    golden.run(path, Script())


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 5


# The table


def in_state(state: State) -> SharePartition:
    """A partition whose record 1 is in that state, between two that others hold, at its last delivery but one."""
    partition = SharePartition(max_delivery_count=3)
    batches = (Batch(1, 1, State.AVAILABLE if state is State.ACQUIRED else state, 1),)
    locks = [Lock(0, 0, 1, "other", 10), Lock(2, 2, 1, "other", 10)]
    locks += [Lock(1, 1, 1, "a", 10)] if state is State.ACQUIRED else []
    partition.restore(Snapshot(0, batches if state not in DONE else (Batch(1, 1, state, 0),)), locks)
    assert partition.check() == []
    assert partition.spans[1].state is state
    return partition


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", sorted(OF_OWNER))
def test_what_an_owner_says_follows_the_table_and_is_refused_otherwise(state: State, verb: Verb) -> None:
    partition = in_state(state)
    outputs = step(partition, Acknowledge("a", [Acknowledgement(1, 1, verb)]), 5)
    expected = TRANSITIONS.get((state, verb), state)
    refusals = [one for one in outputs if isinstance(one, Refused)]
    assert refusals == ([] if (state, verb) in TRANSITIONS else [Refused(1, 1, verb)])
    assert next(span.state for span in partition.spans if span.first <= 1 <= span.last) is expected


@pytest.mark.parametrize("state", State)
def test_nobody_says_anything_about_what_another_holds(state: State) -> None:
    partition = in_state(state)
    before = partition.spans
    for verb in OF_OWNER:
        refused = step(partition, Acknowledge("b", [Acknowledgement(0, 5, verb)]), 5)
        assert all(isinstance(one, Refused) for one in refused)
        covered = [number for one in refused for number in range(one.first, one.last + 1)]
        assert sorted(covered) == list(range(6)), "each offset is refused once, those beyond the window too"
    assert partition.spans == before


def test_every_row_of_the_table_is_reached() -> None:
    seen = set()
    for (state, verb), target in TRANSITIONS.items():
        partition = in_state(state)
        events: dict[Verb, tuple[Event, int]] = {
            Verb.ACQUIRE: (Acquire("a", 1, 3), 5),
            Verb.TIME_OUT: (Tick(), 10),
            Verb.ABANDON: (Gone(frozenset("a")), 5),
            Verb.BURY: (Bury([(1, 1)]), 5),
        }
        if verb is Verb.EXHAUST:
            partition.max_delivery_count = 1
        event, now_ms = events.get(verb, (Acknowledge("a", [Acknowledgement(1, 1, verb)]), 5))
        if verb is Verb.EXHAUST:
            event = Tick()
        partition.step(event, now_ms)
        assert next(span.state for span in partition.spans if span.first <= 1 <= span.last) is target, (state, verb)
        seen.add((state, verb))
    assert seen == set(TRANSITIONS)


# Edges


def test_ten_thousand_records_are_one_span_and_their_acceptance_moves_the_start() -> None:
    partition = SharePartition()
    [acquired] = step(partition, Acquire("a", 10_000, 10_000))
    assert acquired == Acquired(0, 9999, 1, 30_000)
    assert len(partition.spans) == 1
    assert step(partition, accept(0, 9999)) == []
    assert (partition.start_offset, partition.spans, partition.snapshot()) == (10_000, [], Snapshot(10_000))


def test_window_does_not_grow_beyond_its_spans_until_old_records_are_done() -> None:
    partition = SharePartition()
    step(partition, Acquire("a", 3 * MAX_SPANS, 10 * MAX_SPANS))
    odd = [Acknowledgement(n, n, Verb.ACCEPT) for n in range(1, 3 * MAX_SPANS, 2)]
    step(partition, Acknowledge("a", odd))
    assert len(partition.spans) >= MAX_SPANS
    assert step(partition, Acquire("b", 1, 10 * MAX_SPANS)) == []
    assert not partition.is_available(10 * MAX_SPANS, 0)
    even = [Acknowledgement(n, n, Verb.ACCEPT) for n in range(0, 3 * MAX_SPANS, 2)]
    step(partition, Acknowledge("a", even))
    assert partition.start_offset == 3 * MAX_SPANS
    assert step(partition, Acquire("b", 1, 10 * MAX_SPANS)) != []


def test_lower_limit_of_another_member_archives_what_was_delivered_as_often() -> None:
    partition = SharePartition(max_delivery_count=2)
    partition.restore(Snapshot(0, (Batch(0, 4, State.AVAILABLE, 4),)))
    assert partition.is_available(5, 0)
    assert step(partition, Acquire("a", 5, 5)) == []
    assert [span.state for span in partition.archiving()] == [State.ARCHIVING]


def test_lock_counts_only_where_the_snapshot_has_an_available_record() -> None:
    partition = SharePartition()
    partition.restore(
        Snapshot(2, (Batch(4, 5, State.ACKNOWLEDGED, 0),)), [Lock(0, 7, 1, "a", 10), Lock(9, 9, 2, "", 20)]
    )
    assert partition.check() == []
    assert [(span.first, span.last, span.state.name) for span in partition.spans] == [
        (2, 3, "ACQUIRED"), (4, 5, "ACKNOWLEDGED"), (6, 7, "ACQUIRED"), (8, 8, "AVAILABLE"), (9, 9, "AVAILABLE"),
    ]  # fmt: skip
    assert partition.next_deadline() == 10


@pytest.mark.parametrize("damage", ["overlap", "owner", "done", "fresh", "alike", "deadline", "count"])
def test_check_finds_what_is_wrong(damage: str) -> None:
    partition = in_state(State.ACQUIRED)
    spans = partition.spans
    match damage:
        case "overlap":
            spans[1] = spans[1]._replace(first=0)
        case "owner":
            spans[1] = spans[1]._replace(owner="")
        case "done":
            spans[0] = spans[0]._replace(state=State.ACKNOWLEDGED, owner="", until_ms=0)
        case "fresh":
            spans[-1] = spans[-1]._replace(state=State.AVAILABLE, owner="", delivery_count=0, until_ms=0)
        case "alike":
            spans[1] = spans[1]._replace(owner="other")
        case "deadline":
            spans[1] = spans[1]._replace(until_ms=0)
        case "count":
            spans[1] = spans[1]._replace(delivery_count=0)
    assert partition.check() != []


def test_unfinished_counts_what_is_not_done_before_an_offset() -> None:
    partition = SharePartition()
    step(partition, Acquire("a", 10, 10))
    step(partition, accept(2, 5))
    assert [partition.unfinished(end) for end in (0, 2, 4, 10, 20)] == [0, 2, 2, 6, 16]


def test_describe_is_plain_data() -> None:
    assert in_state(State.ACQUIRED).describe() == {
        "start offset": 0, "end offset": 3,
        "spans": [
            {"first": 0, "last": 0, "state": "ACQUIRED", "deliveries": 1, "owner": "other", "until": 10},
            {"first": 1, "last": 1, "state": "ACQUIRED", "deliveries": 1, "owner": "a", "until": 10},
            {"first": 2, "last": 2, "state": "ACQUIRED", "deliveries": 1, "owner": "other", "until": 10},
        ],
    }  # fmt: skip


# The simulator


class World:
    """Members of one share partition, and what really happened to each record.

    `loses_locks`: now and then what may be lost is lost; a delivery that was under way then does not count.
    """

    def __init__(self, seed: int, *, loses_locks: bool) -> None:
        self.random = random.Random(seed)
        self.most = self.random.choice([1, 2, 5])
        self.timeout_ms = 1000
        self.loses_locks = loses_locks
        self.end = self.random.choice([1, 40, 400])
        self.now_ms = 1
        self.snapshot = Snapshot(0)
        self.locks: list[Lock] = []
        self.hands: dict[str, dict[int, int]] = {name: {} for name in "abcd"}
        """Per member its records, and until when it has them."""
        self.deliveries: Counter[int] = Counter()
        self.finished: dict[int, str] = {}
        self.counts: Counter[str] = Counter()

    def step(self, event: Event) -> list[Output]:
        """Load, step, save, as a store does; then hold the outputs against what is known."""
        partition = SharePartition(max_delivery_count=self.most, acquire_timeout_ms=self.timeout_ms)
        partition.restore(self.snapshot, self.locks)
        outputs = step(partition, event, self.now_ms)
        self.snapshot, self.locks = partition.snapshot(), partition.locks()
        for hand in self.hands.values():
            for offset in [offset for offset, until_ms in hand.items() if until_ms <= self.now_ms]:
                del hand[offset]
        for output in outputs:
            self.counts[type(output).__name__] += 1
            if isinstance(output, Acquired) and isinstance(event, Acquire):
                self.acquired(event.owner, output)
            elif isinstance(output, Archived):
                for offset in range(output.first, output.last + 1):
                    self.finish(offset, "archived")
        return outputs

    def acquired(self, owner: str, output: Acquired) -> None:
        for offset in range(output.first, output.last + 1):
            assert offset not in self.finished, "done is done"
            holders = [name for name, hand in self.hands.items() if offset in hand]
            assert holders == [], f"{offset} is in the hands of {holders} as well as {owner}"
            self.deliveries[offset] += 1
            assert self.deliveries[offset] == output.delivery_count <= self.most
            self.hands[owner][offset] = output.until_ms

    def finish(self, offset: int, how: str) -> None:
        assert offset not in self.finished
        self.finished[offset] = how

    def say(self, owner: str, offsets: list[int], verb: Verb) -> None:
        """Say it of offsets, those that the owner has no more included: just these are refused."""
        delay = self.random.choice([0, 0, 300]) if verb is Verb.RELEASE else 0
        said = [Acknowledgement(offset, offset, verb, delay) for offset in offsets]
        valid = {offset for offset in offsets if self.hands[owner].get(offset, 0) > self.now_ms}
        outputs = self.step(Acknowledge(owner, said))
        refused = [n for one in outputs if isinstance(one, Refused) for n in range(one.first, one.last + 1)]
        assert sorted(refused) == sorted(set(offsets) - valid), "what is late is refused, and nothing else"
        for offset in valid:
            del self.hands[owner][offset]
            if verb is Verb.ACCEPT:
                self.finish(offset, "accepted")
            elif verb is Verb.SKIP:
                self.finish(offset, "skipped")
            elif verb is Verb.RETURN:
                self.deliveries[offset] -= 1

    def act(self) -> None:
        owner = self.random.choice(list(self.hands))
        hand = self.hands[owner]
        some = [offset for offset in sorted(hand) if self.random.random() < 0.6]
        match self.random.randrange(12):
            case 0 | 1 | 2 | 3:
                self.step(Acquire(owner, self.random.choice([1, 3, 50]), self.end, self.random.random() < 0.2))
            case 4 | 5:
                self.say(owner, some, Verb.ACCEPT)
            case 6:
                self.say(owner, some, self.random.choice([Verb.RELEASE, Verb.RETURN, Verb.REJECT, Verb.SKIP]))
            case 7:  # late, or about what is another's
                self.now_ms += self.random.choice([0, self.timeout_ms])
                self.say(owner, sorted({*some, self.random.randrange(self.end)}), Verb.ACCEPT)
            case 8:
                self.step(Gone(frozenset({owner})))
                hand.clear()
            case 9:
                self.now_ms += self.random.choice([1, 100, 400])
                self.step(Tick())
            case 10:
                self.bury()
            case 11 if self.loses_locks and self.random.random() < 0.3:
                self.lose()

    def bury(self) -> None:
        partition = SharePartition(max_delivery_count=self.most)
        partition.restore(self.snapshot, self.locks)
        self.step(Bury([(span.first, span.last) for span in partition.archiving()]))

    def lose(self) -> None:
        self.locks = []
        for hand in self.hands.values():
            self.deliveries.subtract(hand.keys())
            hand.clear()

    def drain(self) -> None:
        """Now one member works on quietly until nothing is left."""
        for _ in range(20 * self.end + 100):
            self.now_ms += self.timeout_ms
            self.step(Tick())
            self.bury()
            self.step(Acquire("a", 50, self.end))
            self.say("a", sorted(self.hands["a"]), Verb.ACCEPT)
            if self.snapshot.start_offset >= self.end:
                return
        raise AssertionError(f"not done: {self.snapshot}, {self.locks}")


def simulate(seed: int, steps: int, *, loses_locks: bool) -> Counter[str]:
    world = World(seed, loses_locks=loses_locks)
    for _ in range(steps):
        world.act()
    world.drain()
    assert sorted(world.finished) == list(range(world.end)), "no record is lost, none is done twice"
    return world.counts


def simulate_many(count: int, *, loses_locks: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in range(count):
        counts += simulate(seed, 150, loses_locks=loses_locks)
    return counts


@pytest.mark.parametrize("loses_locks", [False, True])
def test_no_record_is_lost_or_in_two_hands_or_delivered_too_often(loses_locks: bool) -> None:
    counts = simulate_many(60, loses_locks=loses_locks)
    assert all(counts[name] > 100 for name in ("Acquired", "Refused", "Freed", "Archived")), counts


@pytest.mark.long
def test_no_record_is_lost_or_in_two_hands_or_delivered_too_often_in_many_worlds(seed: int) -> None:
    for number in range(3000):
        simulate(seed + number, 400, loses_locks=bool(number % 2))


def test_simulator_notices_a_partition_that_forgets_who_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: without locks the same record goes to two members."""
    monkeypatch.setattr(SharePartition, "locks", lambda _partition: [])
    with pytest.raises(AssertionError, match=r"in the hands of|is late is refused|delivery_count"):
        simulate_many(20, loses_locks=False)


def test_simulator_notices_deliveries_that_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: a snapshot without delivery counts."""
    honest = SharePartition.snapshot

    def forgetful(partition: SharePartition) -> Snapshot:
        snapshot = honest(partition)
        return snapshot._replace(batches=tuple(one for one in snapshot.batches if one.state is not State.AVAILABLE))

    monkeypatch.setattr(SharePartition, "snapshot", forgetful)
    with pytest.raises(AssertionError, match="delivery_count"):
        simulate_many(20, loses_locks=False)
