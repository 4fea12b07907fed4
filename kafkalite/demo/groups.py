"""A group of processes shares the partitions of a topic; one is killed, and its partitions move to the others.

The members (`member`) are processes that know nothing of each other. Each keeps a file of what it has done and when, so
that the killed one's last moments are known too. The one that has done most is killed when a part of the records is
done. Then the others have to do the rest: every record, and only the one that the killed member had in hand twice.

What is measured: from the kill to the next record of each partition that it had (the *takeover*), and the longest time
between two records of a survivor, before the kill and in the second after it, which shows whether those that are not
concerned pause.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import Final

from kafkalite.demo import DemoFailedError
from kafkalite.demo.child import Child
from kafkalite.demo.member import Done, done

WORK_S: Final = 1.2
"""How long the members are to have work, all together."""
SLOWEST_S: Final = 0.02
KILL_AFTER: Final = 0.2
AFTERMATH_NS: Final = 1_000_000_000
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """What one process did, in its order."""

    pid: int
    was_killed: bool
    done: tuple[Done, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """What the members of a group did. Times in seconds; those of the survivors' gaps are None where they had none."""

    members: tuple[Member, ...]
    total: int
    killed_at: int
    takeovers: tuple[float, ...]
    gap_before: float | None
    gap_after: float | None

    @property
    def missing(self) -> int:
        """Records that nobody did."""
        return self.total - len(self._counts())

    @property
    def repeats(self) -> int:
        """Records that were done once more."""
        return sum(self._counts().values()) - len(self._counts())

    @property
    def is_proved(self) -> bool:
        """All were done, and none twice but the one that the killed member had in hand."""
        return self.missing == 0 and self.repeats <= 1

    def _counts(self) -> Counter[tuple[int, int]]:
        return Counter(one[:2] for member in self.members for one in member.done)


def share(store: Path, topic: str, total: int, directory: Path, *, members: int) -> Shared:
    """Let so many processes share a topic of `total` records, and kill one. Their files stand in `directory`."""
    pace = min(SLOWEST_S, members * WORK_S / max(total, 1))
    logs = [directory / f"member-{number}" for number in range(members)]
    with ExitStack() as stack:
        children = [stack.enter_context(Child("member", store, topic, "demo", log, pace)) for log in logs]
        for child in children:
            child.await_line()
        for child in children:
            child.say("go")
        _await(children, logs, round(KILL_AFTER * total))
        counts = [len(_read(log)) for log in logs]
        victim = counts.index(max(counts))
        killed_at = monotonic_ns()
        children[victim].kill()
        _await([child for child in children if child is not children[victim]], logs, total)
        for child in children:
            if child is not children[victim]:
                child.answer()
        found = [
            Member(child.process.pid, number == victim, tuple(_read(log)))
            for number, (child, log) in enumerate(zip(children, logs, strict=True))
        ]
    return measured(found, total, killed_at)


def _await(children: Sequence[Child], logs: Sequence[Path], count: int) -> None:
    """Until so many records are done."""
    deadline = monotonic() + PATIENCE_S
    while len({one[:2] for log in logs for one in _read(log)}) < count:
        for child in children:
            if not child.is_running():
                child.answer()
        if monotonic() > deadline:
            raise DemoFailedError(f"the members of the group did not do {count} records in {PATIENCE_S:g} s")
        sleep(0.02)


def _read(log: Path) -> list[Done]:
    return list(done(log.read_bytes())) if log.exists() else []


def measured(members: Sequence[Member], total: int, killed_at: int) -> Shared:
    """Takeovers and gaps, out of what the members noted."""
    survivors = [member for member in members if not member.was_killed]
    victims = {one.partition for member in members if member.was_killed for one in member.done}
    later = [one for member in survivors for one in member.done if one.at > killed_at]
    firsts = {one.partition: one.at for one in sorted(later, key=lambda one: -one.at) if one.partition in victims}
    before = [gap for member in survivors for gap in _gaps(member, 0, killed_at)]
    after = [gap for member in survivors for gap in _gaps(member, killed_at, killed_at + AFTERMATH_NS)]
    return Shared(
        tuple(members), total, killed_at, tuple(sorted((at - killed_at) / 1e9 for at in firsts.values())),
        max(before, default=None), max(after, default=None),
    )  # fmt: skip


def _gaps(member: Member, start: int, end: int) -> list[float]:
    """Seconds between two records of a member, where the second one lies between these moments."""
    return [(two.at - one.at) / 1e9 for one, two in pairwise(member.done) if start < two.at <= end]
