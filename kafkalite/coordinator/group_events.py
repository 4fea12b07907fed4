"""What a consumer group is made of: members and their phases, the events, what follows from them, and THE table.

The machine that runs by it is `group`. An event is about one member (it has a `member_id`) or about the group; a
member's phase may change by either, and by what is said of another member.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

Partitions = frozenset[int]
NONE: Final[Partitions] = frozenset()
LEAVE_EPOCH: Final = -1
STATIC_LEAVE_EPOCH: Final = -2


class State(StrEnum):
    """Of a member, as its record has it; see the table above."""

    STABLE = "stable"
    UNREVOKED_PARTITIONS = "unrevoked partitions"
    UNRELEASED_PARTITIONS = "unreleased partitions"


class Phase(StrEnum):
    """A member's state, or why it has none: the states of the table."""

    ABSENT = "absent"
    STABLE = "stable"
    UNREVOKED = "unrevoked partitions"
    UNRELEASED = "unreleased partitions"
    AWAY = "away"


_PHASES: Final = {state: Phase(state) for state in State}


class GroupState(StrEnum):
    """Of a group, Kafka's words: follows from its members."""

    EMPTY = "empty"
    ASSIGNING = "assigning"
    RECONCILING = "reconciling"
    STABLE = "stable"


class GroupError(Exception):
    """An event was refused, for a reason that its sender is to be told: `reason` is one word for programs.

    unknown_member_id, fenced_member_epoch, stale_member_epoch, unreleased_instance_id, inconsistent_protocol,
    invalid_request (a member cannot change its instance id), invalid_assignment (a target gives a partition twice).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# Events


@dataclass(frozen=True, slots=True)
class Join:
    """A member joins, or says anew what it wants.

    `topics` are the names that it gave and those that its `patterns` mean now: the caller finds them, and says so
    with `TopicsChanged` when they mean something else. `assignors` are the strategies that it knows, the one it likes
    best first; none: it takes any.
    """

    member_id: str
    topics: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    instance_id: str | None = None
    assignors: tuple[str, ...] = ()
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 300_000
    client_id: str = ""
    client_host: str = ""


@dataclass(frozen=True, slots=True)
class Leave:
    """A member leaves; a static one that does not leave finally keeps its partitions for the time of its session."""

    member_id: str
    is_final: bool = True


@dataclass(frozen=True, slots=True)
class Gone:
    """A member's process has ended: a dynamic one is removed at once, a static one after its session's time."""

    member_id: str


@dataclass(frozen=True, slots=True)
class Fence:
    """A member neither heartbeats nor asks for records, or did so too late: it is removed, a static one too."""

    member_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Owns:
    """A heartbeat: the member is at `epoch` and has, of what it was given, exactly `owned`; None: as it was told."""

    member_id: str
    epoch: int
    owned: Partitions | None = None


@dataclass(frozen=True, slots=True)
class Install:
    """A target assignment, computed for `epoch`; ignored when the group has gone on since, or has it already."""

    epoch: int
    target: Mapping[str, Partitions]


@dataclass(frozen=True, slots=True)
class TopicsChanged:
    """A subscribed topic was created, deleted or given partitions; `existing` are all partitions that there are.

    With `topics` what members with patterns want now, by member: the names that they gave, which stay subscribed
    while there is no such topic, and what the patterns mean.
    """

    existing: Partitions
    topics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: deadlines are looked at.

    `is_late`: the caller itself was held up, so that nobody could be heard; what is over is granted once more.
    """

    is_late: bool = False


Event = Join | Leave | Gone | Fence | Owns | Install | TopicsChanged | Tick


# Outputs


@dataclass(frozen=True, slots=True)
class Assigned:
    """A member's assignment changed: it is at `epoch`, may use `assigned`, and is to give up `revoking`."""

    member_id: str
    epoch: int
    assigned: Partitions
    revoking: Partitions


@dataclass(frozen=True, slots=True)
class Removed:
    """A member is no longer one; `why` says for what reason, `owned` what it had."""

    member_id: str
    why: str
    owned: Partitions


@dataclass(frozen=True, slots=True)
class NeedsTarget:
    """The group has a new epoch, or nobody came with a target for it: compute one from `Group.wants`, `Install` it."""

    epoch: int


Output = Assigned | Removed | NeedsTarget


# The table

_LIVE: Final = (Phase.STABLE, Phase.UNREVOKED, Phase.UNRELEASED)
_S, _V, _L, _W, _X = Phase.STABLE, Phase.UNREVOKED, Phase.UNRELEASED, Phase.AWAY, Phase.ABSENT

Row = tuple[Phase, type[Event] | None]

_FOLLOWING: Final[dict[Row, tuple[Phase, ...]]] = {
    # What is said of the member itself.
    (_X, Join): (_S, _L),
    (_S, Join): (_S,),
    (_V, Join): (_V,),
    (_L, Join): (_L,),
    (_W, Join): (_S, _L),
    **{(phase, event): (_X, _W) for phase in _LIVE for event in (Leave, Gone)},
    (_W, Leave): (_X, _W),
    (_W, Gone): (_W,),
    **{(phase, Fence): (_X,) for phase in (*_LIVE, _W)},
    (_S, Owns): (_S,),
    (_V, Owns): (_V, _S, _L),
    (_L, Owns): (_L,),
    # What is said of the group.
    (_S, Install): (_S, _V, _L),
    (_V, Install): (_V,),
    (_L, Install): (_S, _V, _L),
    (_W, Install): (_W,),
    (_S, TopicsChanged): (_S,),
    (_V, TopicsChanged): (_V, _S, _L),
    (_L, TopicsChanged): (_L, _S),
    (_W, TopicsChanged): (_W,),
    (_S, Tick): (_S,),
    (_V, Tick): (_V, _X),
    (_L, Tick): (_L, _S),
    (_W, Tick): (_W, _X),
    # What is said of another member: it may free what this one waits for, or take the place of one that is away.
    (_S, None): (_S,),
    (_V, None): (_V,),
    (_L, None): (_L, _S),
    (_W, None): (_W, _X),
}

TRANSITIONS: Final[Mapping[Row, frozenset[Phase]]] = {row: frozenset(phases) for row, phases in _FOLLOWING.items()}
"""THE table: (phase of a member, event) to the phases that may follow; None is any event about another member.

A missing row is an event that is refused: of someone who is no member, and a heartbeat of one that is away.
"""


def picture() -> str:
    """The table as a mermaid state diagram, for the documentation; events that change nothing are left out."""
    labels: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, event), following in TRANSITIONS.items():
        for after in sorted(following - {phase}):
            labels.setdefault((phase, after), []).append(event.__name__ if event else "another's event")
    lines = [
        f"    {_node(before)} --> {_node(after)}: {', '.join(events)}" for (before, after), events in labels.items()
    ]
    names = [f'    state "{phase}" as {phase.name}' for phase in Phase if phase is not Phase.ABSENT]
    return "\n".join(["stateDiagram-v2", *names, *lines])


def _node(phase: Phase) -> str:
    return "[*]" if phase is Phase.ABSENT else phase.name


@dataclass(slots=True)
class Member:
    """A member as the group knows it. It owns `assigned` and `revoking`; `epoch` is -2 while a static one is away."""

    member_id: str
    topics: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    instance_id: str | None = None
    assignors: tuple[str, ...] = ()
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 300_000
    client_id: str = ""
    client_host: str = ""
    epoch: int = 0
    previous_epoch: int = 0
    """The last epoch that the member itself has named: it may be behind."""
    state: State = State.STABLE
    assigned: Partitions = NONE
    revoking: Partitions = NONE
    deadline_ms: int | None = None
    """When it is fenced unless it has given up by then what it was told to, or, a static one that is away, returned."""

    @property
    def owned(self) -> Partitions:
        """What nobody else may have."""
        return self.assigned | self.revoking

    @property
    def wanted(self) -> frozenset[str]:
        """The names of the topics that it wants, in no order."""
        return frozenset(self.topics)

    @property
    def is_away(self) -> bool:
        """Whether it is a static member whose process has ended."""
        return self.epoch == STATIC_LEAVE_EPOCH

    @property
    def phase(self) -> Phase:
        """Where it stands in the table."""
        return Phase.AWAY if self.is_away else _PHASES[self.state]

    @property
    def allowed_ms(self) -> int | None:
        """How long it has for what it owes; None when it owes nothing."""
        if self.is_away:
            return self.session_timeout_ms
        return self.rebalance_timeout_ms if self.revoking else None
