"""A consumer group and its clients from a seed: everything that may happen to them, in any order.

Each client has in hand what it was told to use, hears the group's word late or never, gives up slowly, dies, stops,
comes back. Targets are computed, installed late, or lost. After every event the group must be sound (`Group.check`,
which is INV-5, and what is said in `World.judge`); when the storm is over the group must come to rest with every
partition of every subscribed topic in somebody's hand.
"""

import random
from dataclasses import dataclass, field, replace

from kafkalite.coordinator.assignors import assign
from kafkalite.coordinator.group import (
    NONE,
    TRANSITIONS,
    Event,
    Fence,
    Gone,
    Group,
    GroupError,
    GroupState,
    Install,
    Join,
    Leave,
    Member,
    NeedsTarget,
    Output,
    Owns,
    Partitions,
    Phase,
    State,
    Tick,
    TopicsChanged,
)

REBALANCE_TIMEOUT_MS = 500
SESSION_TIMEOUT_MS = 1_000
CALM_ROUNDS = 60


class ViolationError(AssertionError):
    """Something happened that must never happen; the message is the seed's story up to there."""


@dataclass
class Client:
    """What runs in the member's process: `knows` is the epoch it was last told; a stubborn one gives nothing up."""

    member_id: str
    instance_id: str | None
    topics: tuple[str, ...]
    pattern: str
    knows: int = 0
    in_hand: set[int] = field(default_factory=set)
    is_stopped: bool = False
    is_stubborn: bool = False


@dataclass
class World:
    """One group and all that befalls it; `seen` are the table's entries that were taken."""

    seed: int
    group: Group = field(default_factory=lambda: Group("g"))
    now_ms: int = 0
    clients: dict[str, Client] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    topics: dict[str, list[int]] = field(default_factory=dict)
    computed: list[Install] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    seen: set[tuple[Phase, type[Event] | None, Phase]] = field(default_factory=set)
    made: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.topics = {"orders-0": [self.number() for _ in range(self.rng.randrange(1, 9))]}

    # The storm

    def run(self, count: int) -> None:
        """So many random events, then calm."""
        actions, weights = zip(*ACTIONS.items(), strict=True)
        for action in self.rng.choices(actions, weights, k=count):
            getattr(self, action)()
        self.calm_down()

    def number(self) -> int:
        self.made += 1
        return self.made

    def some(self, among: list[str] | None = None) -> Client | None:
        names = sorted(self.clients) if among is None else among
        return self.clients[self.rng.choice(names)] if names else None

    def join(self) -> None:
        instance = f"i{self.rng.randrange(3)}" if self.rng.random() < 0.4 else None
        client = Client(f"m{self.number()}", instance, *self.wishes())
        try:
            self.step(self.join_of(client))
        except GroupError as error:
            self.expect("unreleased_instance_id", error)
            return
        self.clients[client.member_id] = client
        client.is_stubborn = self.rng.random() < 0.1

    def wishes(self) -> tuple[tuple[str, ...], str]:
        pattern = self.rng.choice(["", "", "orders", "bills"])
        names = [*self.topics, "later-0"]
        return tuple(self.rng.sample(names, self.rng.randrange(0 if pattern else 1, len(names) + 1))), pattern

    def wanted(self, client: Client) -> tuple[str, ...]:
        matched = [name for name in self.topics if client.pattern and name.startswith(client.pattern)]
        return tuple(dict.fromkeys([*client.topics, *matched]))

    def join_of(self, client: Client) -> Join:
        return Join(
            client.member_id, self.wanted(client), (client.pattern,) if client.pattern else (), client.instance_id,
            self.rng.choice([(), ("sticky",), ("sticky", "range"), ("range", "sticky")]),
            SESSION_TIMEOUT_MS, REBALANCE_TIMEOUT_MS,
        )  # fmt: skip

    def resubscribe(self) -> None:
        client = self.some()
        if client is None or client.member_id not in self.group.members:
            return
        if self.rng.random() < 0.5:
            client.topics, client.pattern = self.wishes()
        self.step(self.join_of(client))

    def poll(self) -> None:
        """A client is told what there is, gives up what it has to (or only some of it), and says so."""
        client = self.some()
        if client is None or client.is_stopped:
            return
        self.hear(client, how_much=self.rng.choice([0.0, 0.5, 1.0, 1.0]))

    def hear(self, client: Client, how_much: float) -> None:
        member = self.group.members.get(client.member_id)
        if member is None:
            del self.clients[client.member_id]
            return
        how_much *= not client.is_stubborn
        going = sorted(member.revoking & client.in_hand)
        kept = self.rng.sample(going, len(going) - round(how_much * len(going)))
        client.in_hand = {*member.assigned, *kept}
        client.knows = member.epoch
        self.step(Owns(client.member_id, client.knows, frozenset(client.in_hand)))

    def heartbeat_of_old(self) -> None:
        """A heartbeat of what the client last knew: it crossed with what the group did since."""
        client = self.some()
        if client is None or client.is_stopped:
            return
        owned = None if self.rng.random() < 0.5 else frozenset(client.in_hand)
        try:
            self.step(Owns(client.member_id, client.knows, owned))
        except GroupError as error:
            is_unknown = client.member_id not in self.group.members
            self.expect("unknown_member_id" if is_unknown else "fenced_member_epoch", error)
            if not is_unknown and self.is_up_to_date(client):
                raise self.violation(f"{client.member_id} was fenced and has done nothing wrong") from error

    def is_up_to_date(self, client: Client) -> bool:
        return client.knows == self.group.members[client.member_id].epoch

    def expect(self, reason: str, error: GroupError) -> None:
        if error.reason != reason:
            raise self.violation(f"refused with {error.reason}, not {reason}") from error

    def leave(self) -> None:
        client = self.some()
        if client is not None and client.member_id in self.group.members:
            del self.clients[client.member_id]
            self.step(Leave(client.member_id, is_final=self.rng.random() < 0.5))

    def die(self) -> None:
        client = self.some()
        if client is not None:
            self.dead.append(self.clients.pop(client.member_id).member_id)

    def notice_death(self) -> None:
        if self.dead:
            member_id = self.dead[0] if self.rng.random() < 0.2 else self.dead.pop(0)
            if member_id in self.group.members:
                self.step(Gone(member_id))

    def come_back(self) -> None:
        """A static member that is away returns, under its own id or under another."""
        away = [one for one in self.group.members.values() if one.is_away]
        if away:
            member = self.rng.choice(away)
            member_id = member.member_id if self.rng.random() < 0.3 else f"m{self.number()}"
            wishes = (member.topics, "".join(member.patterns)) if self.rng.random() < 0.7 else self.wishes()
            client = Client(member_id, member.instance_id, *wishes)
            self.dead = [one for one in self.dead if one != member.member_id]
            self.clients[member_id] = client
            self.step(self.join_of(client))

    def say_again_of_the_away(self) -> None:
        """Leaving and dying twice, and being fenced while away."""
        away = [one.member_id for one in self.group.members.values() if one.is_away]
        if away:
            name = self.rng.choice(away)
            events = [Leave(name, is_final=False), Leave(name), Gone(name), Fence(name, "test")]
            self.step(self.rng.choices(events, [4, 1, 4, 1])[0])

    def stop(self) -> None:
        client = self.some()
        if client is not None:
            client.is_stopped = not client.is_stopped

    def fence(self) -> None:
        client = self.some(sorted(name for name, one in self.clients.items() if one.is_stopped))
        if client is not None and client.member_id in self.group.members:
            self.step(Fence(client.member_id, "it stopped"))

    def stranger(self) -> None:
        event = self.rng.choice([Leave("x"), Gone("x"), Fence("x", ""), Owns("x", 0)])
        try:
            self.step(event)
        except GroupError as error:
            self.expect("unknown_member_id", error)

    def compute(self) -> None:
        if self.group.members:
            target = assign(self.group.assignor("cooperative-sticky"), self.group.wants(), self.topics)
            self.computed.append(Install(self.group.epoch, target))

    def install(self) -> None:
        if self.computed:
            self.step(self.computed.pop(self.rng.randrange(len(self.computed))))

    def assign(self) -> None:
        self.compute()
        if self.computed:
            self.step(self.computed.pop())

    def create_topic(self) -> None:
        name = f"{self.rng.choice(['orders', 'bills', 'later'])}-{self.rng.randrange(3)}"
        ids = self.topics.setdefault(name, [])
        ids += [self.number() for _ in range(self.rng.randrange(1, 4))]
        self.tell_topics()

    def delete_topic(self) -> None:
        if len(self.topics) > 1:
            gone = self.topics.pop(self.rng.choice(sorted(self.topics)))
            for client in self.clients.values():
                client.in_hand -= {*gone}
            self.tell_topics()

    def delete_unheard(self) -> None:
        """A topic goes while nobody has the group loaded: its partitions are missing when it comes back."""
        if len(self.topics) > 1:
            gone = frozenset(self.topics.pop(self.rng.choice(sorted(self.topics))))
            for client in self.clients.values():
                client.in_hand -= gone
            for member in self.group.members.values():
                member.assigned, member.revoking = member.assigned - gone, member.revoking - gone
                if member.state is State.UNREVOKED_PARTITIONS and not member.revoking:
                    member.state = State.STABLE
            self.group.target = {name: target - gone for name, target in self.group.target.items()}
            self.reload()

    def existing(self) -> Partitions:
        return frozenset(one for ids in self.topics.values() for one in ids)

    def tell_topics(self) -> None:
        wanted = {name: self.wanted(one) for name, one in self.clients.items() if name in self.group.members}
        self.step(TopicsChanged(self.existing(), wanted))

    def wait(self) -> None:
        self.now_ms += self.rng.choice([1, 50, 200, 700])
        self.step(Tick(is_late=self.rng.random() < 0.1))

    def reload(self) -> None:
        """The group goes through its records; deadlines may be lost."""
        old = self.group
        members = [replace(member) for member in old.members.values()]
        for member in members:
            member.deadline_ms = None if self.rng.random() < 0.5 else member.deadline_ms
        self.group = type(old).load("g", old.epoch, old.target_epoch, members, old.target, self.now_ms)

    # What must hold

    def step(self, event: Event) -> list[Output]:
        before = {name: replace(member) for name, member in self.group.members.items()}
        described, outputs = self.group.describe(), list[Output]()
        is_first = not self.group._is_current
        self.story.append(f"{self.now_ms} {event}")
        try:
            outputs = self.group.step(event, self.now_ms)
        except GroupError:
            self.refused += 1
            if self.group.describe() != described and not is_first:
                raise self.violation("a refused event changed the group") from None
            raise
        except AssertionError as error:
            raise self.violation(str(error)) from None
        self.judge(event, before, outputs)
        if not is_first:
            self.note(event, before)
        return outputs

    def violation(self, what: str) -> ViolationError:
        return ViolationError("\n".join([f"seed {self.seed}: {what}", *self.story[-12:], str(self.group.describe())]))

    def judge(self, event: Event, before: dict[str, Member], outputs: list[Output]) -> None:
        problems = self.group.check()
        problems += self.in_hand_problems()
        for name in before.keys() & self.group.members.keys():
            problems += self.leaving_problems(event, before[name], self.group.members[name])
        for output in outputs:
            if isinstance(output, NeedsTarget) and output.epoch != self.group.epoch:
                problems.append(f"asks for a target of {output.epoch}")
        if problems:
            raise self.violation("; ".join(problems))

    def in_hand_problems(self) -> list[str]:
        """A client's hand holds what the group says, and no two hold the same. A fenced one has not heard yet."""
        found, holders = [], dict[int, str]()
        for name, client in self.clients.items():
            if name not in self.group.members:
                continue
            if client.in_hand - self.group.members[name].owned:
                found.append(f"{name} has {client.in_hand - self.group.members[name].owned} in hand unowned")
            found += [f"{one} is in the hands of {name} and {holders[one]}" for one in client.in_hand & holders.keys()]
            holders |= dict.fromkeys(client.in_hand, name)
        return found

    def leaving_problems(self, event: Event, before: Member, after: Member) -> list[str]:
        """What stays in the target never leaves; what is to be given up leaves by the member's own word."""
        name, existing = after.member_id, self.existing()
        target = self.group.target.get(name, NONE)
        found = [f"{name} lost {one}, which is its target" for one in (before.assigned - after.assigned) & target]
        is_own_word = isinstance(event, Owns | Leave | Gone) and event.member_id == name
        if not is_own_word and not before.revoking & existing <= after.revoking:
            found.append(f"{name} has not given up {before.revoking - after.revoking}")
        away = after.is_away or before.is_away
        if not is_own_word and not away and not before.owned & existing <= after.owned:
            found.append(f"{before.owned - after.owned} were taken from {name}")
        return found

    def note(self, event: Event, before: dict[str, Member]) -> None:
        subject = getattr(event, "member_id", None)
        for name in before.keys() | self.group.members.keys():
            was = before[name].phase if name in before else Phase.ABSENT
            member = self.group.members.get(name)
            after = Phase.ABSENT if member is None else member.phase
            self.seen.add((was, type(event) if subject in (None, name) else None, after))

    # Calm

    def calm_down(self) -> None:
        """Nothing new happens: the group comes to rest, and then stays as it is."""
        self.computed.clear()
        self.tell_topics()
        for _ in range(CALM_ROUNDS):
            self.calm_round()
        if self.group.state not in (GroupState.STABLE, GroupState.EMPTY) or self.group.next_deadline() is not None:
            raise self.violation(f"no rest: {self.group.state}")
        owners = {one: name for name, client in self.clients.items() for one in client.in_hand}
        for client in self.clients.values():
            for topic in self.wanted(client):
                if missing := {*self.topics.get(topic, ())} - owners.keys():
                    raise self.violation(f"nobody has {missing} of {topic}")
        for one, name in owners.items():
            wanted = self.group.members[name].wanted
            if not any(one in ids for topic, ids in self.topics.items() if topic in wanted):
                raise self.violation(f"{name} has {one}, which it does not want")

    def calm_round(self) -> None:
        while self.dead:
            self.notice_death()
        self.now_ms += 100
        if any(isinstance(output, NeedsTarget) for output in self.step(Tick())):
            self.assign()
        for client in list(self.clients.values()):
            if client.is_stopped:
                if client.member_id in self.group.members:
                    self.step(Fence(client.member_id, "it stopped"))
                del self.clients[client.member_id]
            else:
                self.hear(client, how_much=1.0)


ACTIONS = {
    "join": 8, "poll": 30, "heartbeat_of_old": 10, "resubscribe": 3, "leave": 3, "die": 3, "notice_death": 5,
    "come_back": 4, "say_again_of_the_away": 2, "stop": 2, "fence": 2, "stranger": 1, "compute": 4, "install": 4,
    "assign": 12, "create_topic": 2, "delete_topic": 3, "delete_unheard": 2, "wait": 6, "reload": 4,
}  # fmt: skip

EVERY_ENTRY = {(phase, event, after) for (phase, event), following in TRANSITIONS.items() for after in following}
