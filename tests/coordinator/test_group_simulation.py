"""Groups from seeds (F9): INV-5 after every event, rest after every storm, and broken groups that must be noticed."""

import os
import random
import time
from collections.abc import Mapping

import pytest

from kafkalite.coordinator.group import NONE, Group, Install, Member, Output, Owns, State, Tick
from tests.coordinator.simulation import EVERY_ENTRY, ViolationError, World

SEEDS = range(1, 121)
EVENTS = 250


def test_storms_leave_no_partition_with_two_owners_or_none() -> None:
    """... and they take every entry of the table, so that it allows nothing that cannot happen."""
    seen, refused = set(), 0
    for seed in SEEDS:
        world = World(seed)
        world.run(EVENTS)
        seen |= world.seen
        refused += world.refused
    assert seen == EVERY_ENTRY, f"never taken: {sorted(map(str, EVERY_ENTRY - seen))}"
    assert refused > len(SEEDS)


@pytest.mark.long
def test_storms_for_long() -> None:
    """KAFKALITE_LONG_SECONDS (300) says for how long."""
    end = time.monotonic() + float(os.environ.get("KAFKALITE_LONG_SECONDS", "300"))
    seed = random.SystemRandom().randrange(2**40)
    while time.monotonic() < end:
        seed += 1
        print(f"group simulation: seed {seed}")
        World(seed).run(EVENTS * 4)


# Canaries: each breaks one rule of the group


class TakesBeforeRelease(Group):
    """What the target says is taken, whoever has it."""

    def _settle(self, member: Member, owners: dict[int, str], now_ms: int) -> bool:
        return super()._settle(member, {}, now_ms)


class ForgetsToRevoke(Group):
    """What is not in the target is dropped, and the member not asked."""

    def _settle(self, member: Member, owners: dict[int, str], now_ms: int) -> bool:
        did = super()._settle(member, owners, now_ms)
        if member.revoking:
            member.revoking, member.state, member.deadline_ms = NONE, State.STABLE, None
        return did


class StopsTheWorld(Group):
    """The eager protocol: everything is given up before anything is taken."""

    def _settle(self, member: Member, owners: dict[int, str], now_ms: int) -> bool:
        did = super()._settle(member, owners, now_ms)
        if did and member.revoking:
            member.revoking, member.assigned = member.owned, NONE
        return did


class WaitsForEver(Group):
    """Nobody is fenced for not giving up."""

    def _tick(self, event: Tick, now_ms: int) -> list[Output]:
        for member in self.members.values():
            if member.revoking:
                member.deadline_ms = now_ms + 10_000
        return super()._tick(event, now_ms)


class AsksOnce(Group):
    """A target that nobody computed is not asked for again."""

    def _tick(self, event: Tick, now_ms: int) -> list[Output]:
        self.target_deadline_ms = None
        return super()._tick(event, now_ms)


class BelievesAnOldEpoch(Group):
    """A target for an epoch that is over is installed."""

    def _install(self, event: Install, now_ms: int) -> list[Output]:
        return super()._install(Install(self.epoch, event.target), now_ms)


class ReleasesAll(Group):
    """A heartbeat that says what it has is taken for one that has given everything up."""

    def _owns(self, event: Owns, now_ms: int) -> list[Output]:
        member = self.members[event.member_id]
        return super()._owns(Owns(event.member_id, event.epoch, event.owned and event.owned - member.revoking), now_ms)


class RemovesInSilence(Group):
    """Nobody computes a new target when a member is gone."""

    def _raise_epoch(self, now_ms: int) -> list[Output]:
        told = super()._raise_epoch(now_ms)
        if self._is_removing:
            self.target_epoch, self.target_deadline_ms = self.epoch, None
        return told if not self._is_removing else []

    _is_removing = False

    def _remove(self, removed: object, now_ms: int) -> list[Output]:
        self._is_removing = True
        try:
            return super()._remove(removed, now_ms)  # type: ignore[arg-type]
        finally:
            self._is_removing = False


class LosesTheStatic(Group):
    """A static member that returns starts with nothing, and its target is forgotten."""

    def _forget(self, member: Member) -> None:
        if member.is_away:
            self.target = dict.fromkeys(self.target, NONE)
        super()._forget(member)


CANARIES: Mapping[str, type[Group]] = {
    broken.__name__: broken
    for broken in (
        TakesBeforeRelease, ForgetsToRevoke, StopsTheWorld, WaitsForEver, AsksOnce, BelievesAnOldEpoch,
        ReleasesAll, RemovesInSilence, LosesTheStatic,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", CANARIES)
def test_a_broken_group_is_noticed(name: str) -> None:
    broken = CANARIES[name]
    handlers = {event: getattr(broken, handler.__name__) for event, handler in Group.HANDLERS.items()}
    with_its_handlers = type(name, (broken,), {"HANDLERS": handlers})
    with pytest.raises(ViolationError):
        run_all(with_its_handlers)


def run_all(kind: type[Group]) -> None:
    for seed in SEEDS:
        World(seed, kind("g")).run(EVENTS)
