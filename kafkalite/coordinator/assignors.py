"""Assignors: which member is to have which partition, computed from what each member wants.

An assignor is a pure function, `(wants, topics) -> assignment`:

    wants        member id -> `Wants`: the topics it subscribes, what it has (its present target), its instance id
    topics       topic name -> its partitions' log ids, in order of partition number; a topic that is missing has none
    assignment   member id -> its partitions; every member of `wants` has an entry

Members count in Kafka's order: those with an instance id first, by it, then the others by member id; so that static
members get the same after a restart. All are deterministic: whoever computes a target computes the same one.

    range                       per topic: partitions in a row, the first members get one more; topics with as many
                                partitions and the same subscribers are co-partitioned
    roundrobin                  all partitions of all topics in turn
    sticky, cooperative-sticky  balanced, and of all balanced assignments one that moves least. The two are one
                                function: what sets them apart in Kafka, giving up everything before the rebalance or
                                only what moves, is the group's business here, and it always does the latter.

*Balanced* means: no member has two partitions more than another that could take one from it, be it through a third
member. Among members with equal subscriptions, counts differ by one at most. The sticky assignor keeps what members
have, gives what nobody has to whoever has least (topics with few subscribers first, they leave less choice), then
moves single partitions along the shortest path from the fullest member to an emptier one until it is balanced. What
was just given is moved before what a member had. Topics with the same subscribers are one *pool*: the paths are
searched over pools, which are few, not over partitions, which are many.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from heapq import heapify, heapreplace
from typing import Final

from kafkalite.errors import ConfigError

Partitions = frozenset[int]


@dataclass(frozen=True, slots=True)
class Wants:
    """What an assignor knows of a member: the names of its topics, the log ids it has, its `group_instance_id`."""

    topics: tuple[str, ...] | frozenset[str]
    owned: Partitions = frozenset()
    instance_id: str | None = None


Topics = Mapping[str, Sequence[int]]
Assignment = dict[str, Partitions]
Assignor = Callable[[Mapping[str, Wants], Topics], Assignment]


def range_assignor(wants: Mapping[str, Wants], topics: Topics) -> Assignment:
    """Kafka's RangeAssignor (without racks)."""
    given: dict[str, list[int]] = {member_id: [] for member_id in wants}
    for topic, members in _subscribers(wants, topics).items():
        share, extra = divmod(len(topics[topic]), len(members))
        start = 0
        for number, member_id in enumerate(members):
            end = start + share + (number < extra)
            given[member_id] += topics[topic][start:end]
            start = end
    return _frozen(given)


def round_robin_assignor(wants: Mapping[str, Wants], topics: Topics) -> Assignment:
    """Kafka's RoundRobinAssignor: the turn passes over members that do not subscribe the topic."""
    given: dict[str, list[int]] = {member_id: [] for member_id in wants}
    subscribers = {topic: frozenset(members) for topic, members in _subscribers(wants, topics).items()}
    members = _in_order(wants)
    turn = 0
    for topic in sorted(subscribers):
        for partition in topics[topic]:
            while members[turn % len(members)] not in subscribers[topic]:
                turn += 1
            given[members[turn % len(members)]].append(partition)
            turn += 1
    return _frozen(given)


def sticky_assignor(wants: Mapping[str, Wants], topics: Topics) -> Assignment:
    """As Kafka's StickyAssignor promises: balanced, and moving as little as can be; see the module's docstring."""
    balance = _Balance(_in_order(wants), wants)
    for subscribers, partitions in _pools(wants, topics).items():
        balance.keep(subscribers, partitions)
    balance.hand_out()
    balance.even_out()
    return balance.assignment()


ASSIGNORS: Final[Mapping[str, Assignor]] = {
    "range": range_assignor,
    "roundrobin": round_robin_assignor,
    "sticky": sticky_assignor,
    "cooperative-sticky": sticky_assignor,
}
"""By the name that `partition_assignment_strategy` takes, Kafka's names."""


def named(strategy: "str | Assignor") -> tuple[str, Assignor]:
    """An assignor and the name under which its members vote for it; a function's is `module.qualname`.

    Raises `ConfigError` for a name that there is not.
    """
    if not isinstance(strategy, str):
        if not callable(strategy):
            raise ConfigError(f"partition_assignment_strategy={strategy!r} is not valid: give a name or a function")
        return f"{strategy.__module__}.{getattr(strategy, '__qualname__', type(strategy).__qualname__)}", strategy
    if strategy in ASSIGNORS:
        return strategy, ASSIGNORS[strategy]
    near = get_close_matches(strategy.lower().replace("_", "-"), ASSIGNORS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(ASSIGNORS)}, or a function of your own"
    raise ConfigError(f"unknown partition_assignment_strategy {strategy!r}: {hint}")


def assign(strategy: "str | Assignor", wants: Mapping[str, Wants], topics: Topics) -> Assignment:
    """The assignment that `strategy` makes, verified: each partition that is subscribed goes to one subscriber.

    Raises `ConfigError` for an unknown name, and for a function that leaves a partition out, gives it twice or to a
    member that does not want it: a partition that nobody reads is not noticed for weeks.
    """
    name, assignor = named(strategy)
    made = assignor(wants, topics)
    if not isinstance(made, Mapping):
        raise ConfigError(f"assignor {name} returned {type(made).__name__}: return a dict, member id to log ids")
    assignment = {member_id: frozenset(made.get(member_id, ())) for member_id in wants}
    problem = next(iter(_problems(made, assignment, wants, topics)), None)
    if problem is not None:
        raise ConfigError(f"assignor {name} {problem}")
    return assignment


def _problems(
    made: Mapping[str, Iterable[int]], assignment: Assignment, wants: Mapping[str, Wants], topics: Topics
) -> Iterable[str]:
    """What is wrong with an assignment, in words."""
    for member_id in made.keys() - wants.keys():
        yield f"gave partitions to {member_id}, which is no member: give them to one of {', '.join(wants)}"
    owners: dict[int, str] = {}
    for member_id, partitions in assignment.items():
        for partition in partitions:
            if partition in owners:
                yield f"gave log {partition} to {owners[partition]} and to {member_id}: give it to one of them"
            owners[partition] = member_id
    for topic, members in _subscribers(wants, topics).items():
        for number, partition in enumerate(topics[topic]):
            owner = owners.pop(partition, None)
            if owner is None:
                yield f"gave {topic}-{number} (log {partition}) to nobody: give it to one of {', '.join(members)}"
            elif owner not in members:
                yield f"gave {topic}-{number} to {owner}, which does not subscribe it: one of {', '.join(members)} does"
    for partition, owner in owners.items():
        yield f"gave log {partition} to {owner}, which is of no topic that anyone subscribes: leave it out"


# The sticky one


Pool = int
"""Topics with the same subscribers, numbered: a tuple of subscribers as a key would be hashed at each step."""


@dataclass(slots=True)
class _Balance:
    """An assignment in the making. `held` lists a member's partitions by pool, what it had first."""

    members: list[str]
    wants: Mapping[str, Wants]
    load: dict[str, int] = field(default_factory=dict)
    rank: dict[str, int] = field(default_factory=dict)
    held: dict[str, dict[Pool, list[int]]] = field(default_factory=dict)
    pools: list[tuple[str, ...]] = field(default_factory=list)
    homeless: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.load = dict.fromkeys(self.members, 0)
        self.rank = {member_id: number for number, member_id in enumerate(self.members)}
        self.held = {member_id: defaultdict(list) for member_id in self.members}

    def keep(self, subscribers: tuple[str, ...], partitions: Sequence[tuple[int, int]]) -> None:
        """A new pool: each member keeps what it had of it, the first of several; the rest is homeless.

        It is kept in the order of partition numbers, not topic by topic, and given away from the end: so what a
        member gives away is of all of its topics.
        """
        pool = len(self.pools)
        self.pools.append(subscribers)
        left = {log_id: number for number, log_id in partitions}
        for member_id in subscribers:
            kept = self.wants[member_id].owned & left.keys()
            for log_id in sorted((one for one in left if one in kept), key=left.__getitem__) if kept else ():
                self.held[member_id][pool].append(log_id)
                self.load[member_id] += 1
                del left[log_id]
        self.homeless.append(list(left))

    def hand_out(self) -> None:
        """The homeless go, one by one, to whoever of their subscribers has least."""
        for pool in sorted(range(len(self.pools)), key=lambda pool: len(self.pools[pool])):
            heap = [(self.load[member_id], self.rank[member_id], member_id) for member_id in self.pools[pool]]
            heapify(heap)
            for partition in self.homeless[pool]:
                load, rank, member_id = heap[0]
                self._put(member_id, pool, partition)
                heapreplace(heap, (load + 1, rank, member_id))

    def even_out(self) -> None:
        """Move partitions from the fullest to emptier members until it is balanced.

        A member from which no path leads to one with two less is done for good: moves among the others, all less
        full, never open such a path, since they move nothing into what it reaches.
        """
        left = set(self.members)
        while left:
            fullest = max(left, key=lambda member_id: (self.load[member_id], -self.rank[member_id]))
            if not self._relieve(fullest):
                left.remove(fullest)

    def assignment(self) -> Assignment:
        return {
            member_id: frozenset(one for partitions in self.held[member_id].values() for one in partitions)
            for member_id in self.wants
        }

    def _relieve(self, fullest: str) -> bool:
        """Move something away from `fullest`; whether it could be."""
        came = self._reachable(fullest)
        emptier = [one for one in came if self.load[one] <= self.load[fullest] - 2]
        if not emptier:
            return False
        paths = {one: _path(one, fullest, came) for one in emptier}
        chosen = min(emptier, key=lambda one: (len(paths[one]), self.load[one], self.rank[one]))
        path = paths[chosen]
        for _ in range(self._bulk(fullest, chosen, came) if len(path) == 1 else 1):
            for giver, pool, taker in path:
                self._move(giver, pool, taker)
        return True

    def _bulk(self, giver: str, taker: str, came: Iterable[str]) -> int:
        """How many to move at once: neither passes the mean of all that can share, so nothing moves twice."""
        share = [self.load[giver], *(self.load[one] for one in came)]
        mean, rest = divmod(sum(share), len(share))
        return max(1, min(self.load[giver] - mean - bool(rest), mean - self.load[taker]))

    def _reachable(self, start: str) -> dict[str, tuple[str, Pool]]:
        """Members that `start` can give to, be it through others: by whom, from which pool; the nearest first."""
        came: dict[str, tuple[str, Pool]] = {}
        queue, seen_pools = [start], set[Pool]()
        for giver in queue:
            for pool in self.held[giver]:
                if len(came) == len(self.members) - 1:
                    return came
                if pool in seen_pools:
                    continue
                seen_pools.add(pool)
                fresh = [one for one in self.pools[pool] if one != start and one not in came]
                came.update(dict.fromkeys(fresh, (giver, pool)))
                queue += fresh
        return came

    def _move(self, giver: str, pool: Pool, taker: str) -> None:
        partitions = self.held[giver].get(pool)
        if not partitions:  # a bulk may use a pool up: the next round finds another
            return
        self.load[giver] -= 1
        self._put(taker, pool, partitions.pop())
        if not partitions:
            del self.held[giver][pool]

    def _put(self, member_id: str, pool: Pool, partition: int) -> None:
        """What a member had stands first, so that what it was just given is moved on before."""
        held = self.held[member_id][pool]
        held.insert(0 if partition in self.wants[member_id].owned else len(held), partition)
        self.load[member_id] += 1


def _path(end: str, start: str, came: Mapping[str, tuple[str, Pool]]) -> list[tuple[str, Pool, str]]:
    """The moves, first from `start`, that take one partition less there and one more to `end`."""
    moves: list[tuple[str, Pool, str]] = []
    while end != start:
        giver, pool = came[end]
        moves.append((giver, pool, end))
        end = giver
    return moves[::-1]


def _pools(wants: Mapping[str, Wants], topics: Topics) -> dict[tuple[str, ...], list[tuple[int, int]]]:
    """The partitions, as (number, log id), of the topics that have the same subscribers, by these."""
    pools: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for topic, members in sorted(_subscribers(wants, topics).items()):
        pools[tuple(members)] += enumerate(topics[topic])
    return pools


# Common ground


def _in_order(wants: Mapping[str, Wants]) -> list[str]:
    """Kafka's order of members."""
    return sorted(wants, key=lambda one: (wants[one].instance_id is None, wants[one].instance_id or "", one))


def _subscribers(wants: Mapping[str, Wants], topics: Topics) -> dict[str, list[str]]:
    """The subscribers, in order, of each topic that has some and has partitions."""
    subscribers: dict[str, list[str]] = defaultdict(list)
    for member_id in _in_order(wants):
        for topic in dict.fromkeys(wants[member_id].topics):
            if topics.get(topic):
                subscribers[topic].append(member_id)
    return subscribers


def _frozen(given: Mapping[str, Iterable[int]]) -> Assignment:
    return {member_id: frozenset(partitions) for member_id, partitions in given.items()}
