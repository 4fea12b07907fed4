"""The consumer group: who owns which partition, as a pure state machine after KIP-848.

Every join, leave and change of subscriptions or topics raises the *group epoch*. For the group epoch somebody computes
a *target assignment*, outside of any lock, and installs it. Each member then goes to its target on its own: first it
gives up what is no longer its own, then it takes what the others have given up. What does not move is never touched.

    phase                  the member                                              left by
    ABSENT                 is none                                                 `Join`
    STABLE                 has all of its target, or has no target yet (epoch 0)   a new target
    UNREVOKED_PARTITIONS   was told to give partitions up, and keeps its epoch     `Owns` without them, or fencing
    UNRELEASED_PARTITIONS  is at the target's epoch, and waits for partitions      the others' releasing them
                           that others have not given up yet
    AWAY                   is a static one (KIP-345) whose process ended: what     `Join` with its instance id, or the
                           the target leaves it waits for it, the rest is free     end of its session

`TRANSITIONS` (`group_events`) says which phase may follow which on which event. It runs: `step` refuses an event whose
row is missing and asserts every change of every member; `picture` draws it.

A partition is an opaque number, here a log id, never used again. So is a member's id. Time comes in with each event,
in ms of one monotonic clock; deadlines are kept here and lost without harm: `load` gives everyone who owes something
one more interval.

`step` takes one event, changes the group and returns what is to be told to whom; what has to be recorded is in
`changed`. An event that makes no sense is a `GroupError`, and leaves the group as it was.

Where this departs from Kafka, and why:
- Kafka moves a member only in its own heartbeat. Here each step moves everyone as far as can be: members of one
  process share a thread, and waiting for the other's heartbeat would be waiting for ever. So a member can be several
  epochs behind what it knows. `previous_epoch` is therefore the last epoch that the member itself has named, and any
  from there to `epoch` is good for a heartbeat; but only at its present epoch can a member give something up: an older
  heartbeat says nothing of what it was given since.
- Kafka frees what is given up when all of it is. Here each partition is free at once.
- Kafka keeps for an absent static member even what its target gives to others. Here that is free: nobody reads it.
- A change of `assignors` counts when it changes the group's choice, and then at once, not with the next rebalance.

INV-5: a partition has at most one owner at any moment; being asked to give one up is still owning it. `check` proves
it, and that every member's state says what its sets say.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, cast

from kafkalite.coordinator.assignors import Wants
from kafkalite.coordinator.group_events import (
    LEAVE_EPOCH,
    NONE,
    STATIC_LEAVE_EPOCH,
    TRANSITIONS,
    Assigned,
    Event,
    Fence,
    Gone,
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
    Removed,
    State,
    Tick,
    TopicsChanged,
    picture,
)

__all__ = [
    "LEAVE_EPOCH",
    "NONE",
    "STATIC_LEAVE_EPOCH",
    "TARGET_TIMEOUT_MS",
    "TRANSITIONS",
    "Assigned",
    "Event",
    "Fence",
    "Gone",
    "Group",
    "GroupError",
    "GroupState",
    "Install",
    "Join",
    "Leave",
    "Member",
    "NeedsTarget",
    "Output",
    "Owns",
    "Partitions",
    "Phase",
    "Removed",
    "State",
    "Tick",
    "TopicsChanged",
    "picture",
]

TARGET_TIMEOUT_MS: Final = 1_000
"""How long whoever was told `NeedsTarget` may take before another one is."""

WISHES: Final = (
    "topics", "patterns", "assignors",
    "session_timeout_ms", "rebalance_timeout_ms", "client_id", "client_host",
)  # fmt: skip
"""What a `Join` may change."""


class Group:
    """One consumer group. Loaded from its records, stepped, and thrown away again; or kept, by a server."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.epoch = 0
        self.target_epoch = 0
        self.members: dict[str, Member] = {}
        self.target: dict[str, Partitions] = {}
        self.target_deadline_ms: int | None = None
        """When somebody else is asked for the target that is missing."""
        self.changed: set[str] = set()
        """Members whose records are to be written anew, or removed; "" stands for the group itself."""
        self._is_current = False
        self._unsaid: list[Output] = []

    @classmethod
    def load(
        cls,
        group_id: str,
        epoch: int,
        target_epoch: int,
        members: Iterable[Member],
        target: Mapping[str, Partitions],
        now_ms: int,
        target_deadline_ms: int | None = None,
    ) -> "Group":
        """A group from what was recorded of it; it takes the `members` over.

        A member without a `deadline_ms` that owes something gets one more interval from `now_ms` on, and so does a
        missing target: who knows the deadlines fills them in before.
        """
        group = cls(group_id)
        group.epoch, group.target_epoch = epoch, target_epoch
        group.members = {member.member_id: member for member in members}
        group.target = {name: partitions for name, partitions in target.items() if name in group.members}
        for member in group.members.values():
            if member.deadline_ms is None and member.allowed_ms is not None:
                member.deadline_ms = now_ms + member.allowed_ms
        if target_epoch < epoch and group.members:
            group.target_deadline_ms = now_ms + TARGET_TIMEOUT_MS if target_deadline_ms is None else target_deadline_ms
        return group

    # What there is

    @property
    def state(self) -> GroupState:
        """As Kafka names it."""
        if not self.members:
            return GroupState.EMPTY
        if self.target_epoch < self.epoch:
            return GroupState.ASSIGNING
        is_settled = all(self._is_settled(member) for member in self.members.values())
        return GroupState.STABLE if is_settled else GroupState.RECONCILING

    def owner(self, partition: int) -> str | None:
        """Who has a partition now, being asked to give it up included."""
        return next((member.member_id for member in self.members.values() if partition in member.owned), None)

    def wants(self) -> dict[str, Wants]:
        """What an assignor has to know; what a member "has" is its target: a move that is under way is not undone."""
        return {
            member.member_id: Wants(
                member.wanted, self.target.get(member.member_id, member.assigned), member.instance_id
            )
            for member in self.members.values()
        }

    def assignor(self, default: str) -> str:
        """The strategy that all members know and most like best; `default` when none of them minds."""
        return _vote(member.assignors for member in self.members.values()) or default

    def next_deadline(self) -> int | None:
        """When a `Tick` is due, in ms; None when nothing waits for time to pass."""
        deadlines = [self.target_deadline_ms, *(member.deadline_ms for member in self.members.values())]
        return min((one for one in deadlines if one is not None), default=None)

    def refuse_stale(self, member_id: str, epoch: int) -> None:
        """Raise `GroupError` unless the member is there and at that epoch: it may have lost what it had at another."""
        self._refuse_stranger(member_id, Owns)
        if self.members[member_id].epoch != epoch:
            raise GroupError(
                "stale_member_epoch",
                f"member {member_id} of group {self.group_id!r} is at epoch {self.members[member_id].epoch}, and what "
                f"it commits is of epoch {epoch}",
            )

    def describe(self) -> dict[str, Any]:
        """The group for people: plain data."""
        return {
            "group": self.group_id, "state": str(self.state), "epoch": self.epoch, "target epoch": self.target_epoch,
            "members": {
                member.member_id: {
                    "epoch": member.epoch, "state": str(member.phase), "topics": sorted(member.wanted),
                    "assigned": sorted(member.assigned), "revoking": sorted(member.revoking),
                    "target": sorted(self.target.get(member.member_id, NONE)),
                }
                for member in self.members.values()
            },
        }  # fmt: skip

    def check(self) -> list[str]:
        """What is wrong with the group: nothing, ever (INV-5)."""
        problems = [problem for member in self.members.values() for problem in self._problems(member)]
        problems += _twice("owned by", {one.member_id: one.owned for one in self.members.values()})
        problems += _twice("the target of", self.target)
        instances = [one.instance_id for one in self.members.values() if one.instance_id is not None]
        problems += [f"instance id {name} is used twice" for name in {*instances} if instances.count(name) > 1]
        if self.target_epoch > self.epoch or self.target.keys() - self.members.keys():
            problems.append(f"the target of epoch {self.target_epoch} is not of this group at {self.epoch}")
        return problems

    def _problems(self, member: Member) -> Iterable[str]:
        """Where a member's state does not say what its sets say."""
        name, target = member.member_id, self.target.get(member.member_id)
        if member.epoch > self.target_epoch or not member.previous_epoch <= max(member.epoch, self.target_epoch):
            yield f"{name}: epoch {member.epoch} beyond the target's, {self.target_epoch}"
        if member.assigned & member.revoking:
            yield f"{name}: both has and gives up {sorted(member.assigned & member.revoking)}"
        if bool(member.revoking) != (member.phase is Phase.UNREVOKED):
            yield f"{name}: {member.phase}, giving up {sorted(member.revoking)}"
        if (member.deadline_ms is None) != (member.allowed_ms is None):
            yield f"{name}: {member.phase}, with the deadline {member.deadline_ms}"
        if member.is_away and member.instance_id is None:
            yield f"{name}: away, and has no instance id to come back by"
        if target is None and (member.assigned or member.epoch > 0):
            yield f"{name}: at epoch {member.epoch} with {sorted(member.assigned)}, and has no target"
        if target is not None and member.phase is not Phase.UNREVOKED:
            yield from self._unsettled(member, target)

    def _unsettled(self, member: Member, target: Partitions) -> Iterable[str]:
        """Where a member could go on and did not."""
        missing = target - member.assigned
        if member.assigned - target:
            yield f"{member.member_id}: has {sorted(member.assigned - target)} beyond its target"
        if member.is_away:
            return
        if member.epoch != self.target_epoch or bool(missing) != (member.state is State.UNRELEASED_PARTITIONS):
            yield f"{member.member_id}: {member.state} at epoch {member.epoch}, and lacks {sorted(missing)}"
        for partition in missing:
            if self.owner(partition) is None:
                yield f"{member.member_id}: waits for {partition}, which nobody has"

    # What happens

    def step(self, event: Event, now_ms: int) -> list[Output]:
        """Take one event; returns what follows. Raises `GroupError`, changing nothing.

        The first step lets everyone go on first: topics may have been deleted since the group was recorded.
        """
        if not self._is_current:
            self._unsaid, self._is_current = self._settle_all(now_ms), True
        subject = getattr(event, "member_id", None)
        if subject is not None:
            self._refuse_stranger(subject, type(event))
        before = {member.member_id: member.phase for member in self.members.values()}
        outputs = self.HANDLERS[type(event)](self, event, now_ms)
        for member_id in before.keys() | self.members.keys():
            member = self.members.get(member_id)
            row = before.get(member_id, Phase.ABSENT), None if subject not in (None, member_id) else type(event)
            after = Phase.ABSENT if member is None else member.phase
            assert after in TRANSITIONS[row], f"{member_id}: {row} went to {after}, which is not in the table"
        unsaid, self._unsaid = self._unsaid, []
        return unsaid + outputs

    def _refuse_stranger(self, member_id: str, event: type[Event]) -> None:
        member = self.members.get(member_id)
        if (Phase.ABSENT if member is None else member.phase, event) in TRANSITIONS:
            return
        if member is None:
            raise GroupError(
                "unknown_member_id",
                f"{member_id} is not, or no longer, a member of group {self.group_id!r}: join again",
            )
        raise GroupError(
            "fenced_member_epoch",
            f"static member {member_id} of group {self.group_id!r} was said to have ended: join again",
        )

    def _join(self, event: Join, now_ms: int) -> list[Output]:
        former = self.members.get(event.member_id) or self._instance(event.instance_id)
        self._refuse_join(event, former)
        vote, wanted = self._vote(), None if former is None else former.wanted
        outputs: list[Output] = []
        if event.member_id not in self.members:
            outputs += self._admit(event, former)
        member = self.members[event.member_id]
        if member.is_away:
            member.epoch, member.previous_epoch, member.deadline_ms = 0, 0, None
            self.changed.add(member.member_id)
        for name in WISHES:
            if getattr(member, name) != getattr(event, name):
                setattr(member, name, getattr(event, name))
                self.changed.add(member.member_id)
        if wanted != member.wanted or vote != self._vote():
            outputs += self._raise_epoch(now_ms)
        return [*outputs, *self._settle_all(now_ms)]

    def _refuse_join(self, event: Join, former: Member | None) -> None:
        holder = self._instance(event.instance_id)
        if holder is not None and holder.member_id != event.member_id and not holder.is_away:
            raise GroupError(
                "unreleased_instance_id",
                f"group {self.group_id!r} has a member with group_instance_id={event.instance_id!r} already "
                f"({holder.member_id}): end it first, or give this one another",
            )
        if former is not None and former.instance_id != event.instance_id:
            raise GroupError(
                "invalid_request",
                f"member {event.member_id} of group {self.group_id!r} has group_instance_id={former.instance_id!r}, "
                f"not {event.instance_id!r}: leave first, then join as another",
            )
        lists = [one.assignors for one in self.members.values() if one is not former] + [event.assignors]
        if not _common(lists) and any(lists):
            raise GroupError("inconsistent_protocol", _nothing_in_common(self.group_id, lists))

    def _admit(self, event: Join, former: Member | None) -> list[Output]:
        """A new member; one with the instance id of another that is away takes its place, partitions and all.

        Kafka starts it at epoch 0, and so it is told its assignment although nothing moves.
        """
        member = Member(event.member_id, event.topics, instance_id=event.instance_id)
        self.members[member.member_id] = member
        self.changed.add(member.member_id)
        if former is None:
            return []
        member.assigned, member.assignors = former.assigned, former.assignors
        if former.member_id in self.target:
            self.target[member.member_id] = self.target[former.member_id]
        self._forget(former)
        return [Removed(former.member_id, "replaced", NONE)]

    def _instance(self, instance_id: str | None) -> Member | None:
        if instance_id is None:
            return None
        return next((one for one in self.members.values() if one.instance_id == instance_id), None)

    def _leave(self, event: Leave, now_ms: int) -> list[Output]:
        member = self.members[event.member_id]
        if member.instance_id is not None and not event.is_final:
            return self._send_away(member, now_ms)
        return self._remove([(member, "left")], now_ms)

    def _gone(self, event: Gone, now_ms: int) -> list[Output]:
        member = self.members[event.member_id]
        if member.instance_id is not None:
            return self._send_away(member, now_ms)
        return self._remove([(member, "its process ended")], now_ms)

    def _fence(self, event: Fence, now_ms: int) -> list[Output]:
        return self._remove([(self.members[event.member_id], event.why)], now_ms)

    def _send_away(self, member: Member, now_ms: int) -> list[Output]:
        """A static member's process ended: its partitions wait for it, those that it was giving up do not."""
        if member.is_away:
            return []
        member.epoch, member.revoking, member.state = STATIC_LEAVE_EPOCH, NONE, State.STABLE
        member.deadline_ms = now_ms + member.session_timeout_ms
        self.changed.add(member.member_id)
        return self._settle_all(now_ms)

    def _owns(self, event: Owns, now_ms: int) -> list[Output]:
        member = self.members[event.member_id]
        self._refuse_claim(member, event)
        member.previous_epoch = event.epoch  # not worth a record: an older one only allows more
        if event.owned is None or event.epoch != member.epoch or not member.revoking - event.owned:
            return []
        member.revoking &= event.owned
        if not member.revoking:
            member.state, member.deadline_ms = State.STABLE, None
        self.changed.add(member.member_id)
        return self._settle_all(now_ms)

    def _refuse_claim(self, member: Member, event: Owns) -> None:
        if not member.previous_epoch <= event.epoch <= member.epoch:
            raise GroupError(
                "fenced_member_epoch",
                f"member {member.member_id} of group {self.group_id!r} is at epoch {member.epoch}, not {event.epoch}: "
                "join again",
            )
        for partition in (event.owned or NONE) - member.owned:
            owner = self.owner(partition)
            if owner is not None:
                raise GroupError(
                    "fenced_member_epoch",
                    f"member {member.member_id} of group {self.group_id!r} says that it has partition {partition}, "
                    f"and {owner} owns it: drop it and join again",
                )

    def _install(self, event: Install, now_ms: int) -> list[Output]:
        problem = next(iter(_twice("the target of", event.target)), None)
        if problem is not None:
            raise GroupError("invalid_assignment", f"group {self.group_id!r}: {problem}: give it to one of them")
        if event.epoch != self.epoch or event.epoch == self.target_epoch:
            return []
        self.target_epoch, self.target_deadline_ms = event.epoch, None
        for member_id in self.members:
            partitions = event.target.get(member_id, NONE)
            if self.target.get(member_id) != partitions:
                self.changed.add(member_id)
            self.target[member_id] = partitions
        self.changed.add("")
        return self._settle_all(now_ms)

    def _topics_changed(self, event: TopicsChanged, now_ms: int) -> list[Output]:
        if not self.members:
            return []
        cut: list[str] = []
        for member in self.members.values():
            member_id, topics = member.member_id, event.topics.get(member.member_id, member.topics)
            target = self.target.get(member_id, NONE)
            if not event.existing >= member.owned | target or topics != member.topics:
                self.changed.add(member_id)
            cut += [member_id] * (not event.existing >= member.owned)
            member.topics = topics
            member.assigned, member.revoking = member.assigned & event.existing, member.revoking & event.existing
            if not member.revoking and member.state is State.UNREVOKED_PARTITIONS:
                member.state, member.deadline_ms = State.STABLE, None
            if member_id in self.target:
                self.target[member_id] = target & event.existing
        outputs = [*self._raise_epoch(now_ms), *self._settle_all(now_ms)]
        told = {output.member_id for output in outputs if isinstance(output, Assigned)}
        left = [self.members[member_id] for member_id in cut if member_id not in told]
        return outputs + [_assigned(member) for member in left if not member.is_away]

    def _tick(self, event: Tick, now_ms: int) -> list[Output]:
        over = [one for one in self.members.values() if one.deadline_ms is not None and one.deadline_ms <= now_ms]
        if event.is_late:
            for member in over:
                member.deadline_ms = now_ms + cast("int", member.allowed_ms)
        elif over:
            return self._remove([(member, _why_over(member)) for member in over], now_ms)
        if self.target_deadline_ms is None or self.target_deadline_ms > now_ms:
            return []
        self.target_deadline_ms = now_ms + TARGET_TIMEOUT_MS
        return [NeedsTarget(self.epoch)]

    HANDLERS: ClassVar[Mapping[type[Event], Callable[["Group", Any, int], list[Output]]]] = {
        Join: _join,
        Leave: _leave,
        Gone: _gone,
        Fence: _fence,
        Owns: _owns,
        Install: _install,
        TopicsChanged: _topics_changed,
        Tick: _tick,
    }

    # What follows

    def _remove(self, removed: Iterable[tuple[Member, str]], now_ms: int) -> list[Output]:
        outputs: list[Output] = []
        for member, why in removed:
            outputs.append(Removed(member.member_id, why, member.owned))
            self._forget(member)
        return [*outputs, *self._raise_epoch(now_ms), *self._settle_all(now_ms)]

    def _forget(self, member: Member) -> None:
        del self.members[member.member_id]
        self.target.pop(member.member_id, None)
        self.changed.add(member.member_id)

    def _raise_epoch(self, now_ms: int) -> list[Output]:
        self.epoch += 1
        self.changed.add("")
        if not self.members:
            self.target_epoch, self.target_deadline_ms = self.epoch, None
            return []
        self.target_deadline_ms = now_ms + TARGET_TIMEOUT_MS
        return [NeedsTarget(self.epoch)]

    def _vote(self) -> str | None:
        return _vote(member.assignors for member in self.members.values())

    def _settle_all(self, now_ms: int) -> list[Output]:
        """Let every member go as far towards its target as it can now: what one gives up another may take.

        One pass is enough: nobody's step frees anything, since what is to be given up is owned until `Owns`.
        """
        for member in self.members.values():
            if member.is_away and not self.target.get(member.member_id, member.assigned) >= member.assigned:
                member.assigned &= self.target[member.member_id]
                self.changed.add(member.member_id)
        owners = {partition: one.member_id for one in self.members.values() for partition in one.owned}
        outputs: list[Output] = []
        for member in self.members.values():
            if not member.is_away and self._settle(member, owners, now_ms):
                outputs.append(_assigned(member))
                self.changed.add(member.member_id)
        return outputs

    def _settle(self, member: Member, owners: dict[int, str], now_ms: int) -> bool:
        """One member's next step; whether it took one. Who has no target yet stays at epoch 0."""
        target = self.target.get(member.member_id)
        if target is None or member.revoking or self._is_settled(member):
            return False
        surplus = member.assigned - target
        if surplus:
            member.assigned -= surplus
            member.revoking, member.state = surplus, State.UNREVOKED_PARTITIONS
            member.deadline_ms = now_ms + member.rebalance_timeout_ms
            return True
        free = frozenset(one for one in target if owners.get(one, member.member_id) == member.member_id)
        state = State.STABLE if free == target else State.UNRELEASED_PARTITIONS
        if (member.epoch, member.assigned, member.state) == (self.target_epoch, free, state):
            return False
        owners.update(dict.fromkeys(free, member.member_id))
        member.epoch, member.assigned, member.state, member.deadline_ms = self.target_epoch, free, state, None
        return True

    def _is_settled(self, member: Member) -> bool:
        """Whether it is where the target wants it."""
        if member.is_away:
            return True
        is_there = member.epoch == self.target_epoch and member.state is State.STABLE
        return is_there and member.assigned == self.target.get(member.member_id)


def _assigned(member: Member) -> Assigned:
    return Assigned(member.member_id, member.epoch, member.assigned, member.revoking)


def _why_over(member: Member) -> str:
    if member.is_away:
        return f"it did not come back within its session's {member.session_timeout_ms} ms"
    return f"it did not give up its partitions within {member.rebalance_timeout_ms} ms"


def _twice(what: str, sets: Mapping[str, Partitions]) -> Iterable[str]:
    """A sentence for each partition that is in two sets."""
    owners: dict[int, str] = {}
    for name, partitions in sets.items():
        for partition in partitions:
            if owners.setdefault(partition, name) != name:
                yield f"partition {partition} is {what} {owners[partition]} and {name}"


def _common(lists: Iterable[tuple[str, ...]]) -> frozenset[str]:
    """The strategies in all lists; an empty list minds nothing."""
    minding = [frozenset(names) for names in lists if names]
    return minding[0].intersection(*minding[1:]) if minding else frozenset()


def _vote(lists: Iterable[tuple[str, ...]]) -> str | None:
    """The common strategy that most like best, by name if they tie; None if nobody minds."""
    lists = [names for names in lists if names]
    common = _common(lists)
    votes = [next(name for name in names if name in common) for names in lists]
    return max(sorted(common), key=votes.count, default=None)


def _nothing_in_common(group_id: str, lists: Iterable[tuple[str, ...]]) -> str:
    known = "; ".join(", ".join(names) for names in dict.fromkeys(lists) if names)
    return (
        f"the members of group {group_id!r} know no assignment strategy in common ({known}): give "
        "partition_assignment_strategy= of this member one that the others know"
    )
