"""The consumer group's state machine, case by case; stories are in `golden`, storms in `test_group_simulation`."""

from pathlib import Path
from typing import get_args

import pytest

from kafkalite.coordinator.assignors import Wants
from kafkalite.coordinator.group import (
    NONE,
    TARGET_TIMEOUT_MS,
    TRANSITIONS,
    Assigned,
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
    Phase,
    Removed,
    State,
    Tick,
    TopicsChanged,
    picture,
)
from kafkalite.testing.golden import compare


def parts(*ids: int) -> frozenset[int]:
    return frozenset(ids)


def group_of(**targets: frozenset[int]) -> Group:
    """Members who subscribe `t` and have reached their targets."""
    group = Group("g")
    for name in targets:
        group.step(Join(name, ("t",), rebalance_timeout_ms=500), 0)
    group.step(Install(group.epoch, targets), 0)
    assert group.state is GroupState.STABLE
    group.changed.clear()
    return group


def retarget(group: Group, **targets: frozenset[int]) -> None:
    """A new epoch, and a target for it."""
    group.step(TopicsChanged(frozenset(range(100))), 0)
    group.step(Install(group.epoch, targets), 0)
    assert group.check() == []


# The table


def test_every_event_is_in_the_table_for_every_phase_or_is_refused() -> None:
    rows = {(phase, event) for phase in Phase for event in get_args(Event)}
    about_members = {Join, Leave, Gone, Fence, Owns}
    missing = {(phase, event) for phase, event in rows - TRANSITIONS.keys() if event in about_members}
    assert missing == {(Phase.ABSENT, event) for event in about_members - {Join}} | {(Phase.AWAY, Owns)}
    assert TRANSITIONS.keys() - rows == {(phase, None) for phase in Phase if phase is not Phase.ABSENT}
    assert set(Group.HANDLERS) == set(get_args(Event))


def test_a_phase_that_the_table_does_not_allow_stops_the_machine() -> None:
    class Hasty(Group):
        def _settle_all(self, now_ms: int) -> list[Output]:
            for member in self.members.values():
                member.revoking, member.state, member.deadline_ms = NONE, State.STABLE, None
            return super()._settle_all(now_ms)

    group = group_of(a=parts(1), b=parts())
    retarget(group, a=parts(), b=parts(1))
    group.__class__ = Hasty
    with pytest.raises(AssertionError, match=r"a: .* went to stable, which is not in the table"):
        group.step(Leave("b"), 0)


def test_the_picture_is_drawn_from_the_table() -> None:
    compare(Path(__file__).with_name("golden") / "picture.mermaid", picture() + "\n")
    assert picture().count("-->") == sum(
        len(
            {after for (phase, _), following in TRANSITIONS.items() if phase is before for after in following}
            - {before}
        )
        for before in Phase
    )


@pytest.mark.parametrize("event", [Leave("x"), Gone("x"), Fence("x", "why"), Owns("x", 1)])
def test_a_stranger_is_told_to_join(event: Event) -> None:
    group = group_of(a=parts(1))
    with pytest.raises(GroupError, match="x is not, or no longer, a member of group 'g': join again") as caught:
        group.step(event, 0)
    assert caught.value.reason == "unknown_member_id"
    assert group.changed == set()


# Giving up and taking


def test_each_partition_given_up_is_free_at_once_while_others_are_not_yet() -> None:
    group = group_of(a=parts(1, 2, 3), b=parts())
    retarget(group, a=parts(1), b=parts(2, 3))
    group.changed.clear()
    assert group.step(Owns("a", 2, parts(1, 3)), 7) == [Assigned("b", 3, parts(2), parts())]
    assert (group.members["a"].revoking, group.members["a"].deadline_ms) == (parts(3), 500)
    assert group.changed == {"a", "b"}
    assert group.step(Owns("a", 2, parts(1)), 8) == [
        Assigned("a", 3, parts(1), parts()),
        Assigned("b", 3, parts(2, 3), parts()),
    ]
    assert group.members["a"].deadline_ms is None


def test_what_does_not_move_is_not_even_written() -> None:
    group = group_of(a=parts(1), b=parts(2))
    assert group.step(Owns("a", 2, parts(1)), 0) == []
    assert group.step(Owns("b", 2), 0) == []
    assert group.changed == set()


def test_a_heartbeat_of_an_old_epoch_gives_nothing_up() -> None:
    """It was sent before the member knew what it is to give up, and says nothing of it."""
    group = group_of(a=parts(), b=parts())
    group.step(Owns("a", 2), 0)
    retarget(group, a=parts(1), b=parts())  # to epoch 3, and a does not know
    retarget(group, a=parts(), b=parts(1))
    assert group.step(Owns("a", 2, parts()), 0) == []
    assert group.owner(1) == "a"
    group.step(Owns("a", 3, parts()), 0)
    assert group.owner(1) == "b"


def test_a_claim_on_what_another_owns_is_fenced_and_on_what_is_deleted_is_not() -> None:
    group = group_of(a=parts(1), b=parts(2))
    with pytest.raises(GroupError, match="says that it has partition 2, and b owns it"):
        group.step(Owns("a", 2, parts(1, 2)), 0)
    assert group.step(Owns("a", 2, parts(1, 77)), 0) == []


def test_a_member_without_a_target_stays_at_epoch_0_and_is_told_nothing() -> None:
    """Its first `Assigned` is its first assignment: who reads until the end waits for it."""
    group = group_of(a=parts(1))
    assert group.step(Join("b", ("t",)), 0) == [NeedsTarget(2)]
    assert group.step(Owns("b", 0), 0) == []
    assert group.step(Install(2, {"a": parts(1)}), 0) == [
        Assigned("a", 2, parts(1), parts()), Assigned("b", 2, parts(), parts()),
    ]  # fmt: skip


def test_a_target_for_an_older_epoch_and_the_same_target_again_are_ignored() -> None:
    group = group_of(a=parts(1))
    assert group.step(Install(0, {"a": parts(2)}), 0) == []
    assert group.step(Install(1, {"a": parts(2)}), 0) == []
    assert (group.owner(2), group.changed) == (None, set())


# Joining


def test_a_static_member_that_returns_with_the_same_wishes_leaves_the_epoch() -> None:
    group = Group("g")
    group.step(Join("a", ("t", "u"), instance_id="A"), 0)
    group.step(Install(1, {"a": parts(1)}), 0)
    group.step(Gone("a"), 0)
    group.changed.clear()
    assert group.step(Join("b", ("u", "t"), instance_id="A"), 1) == [
        Removed("a", "replaced", parts()), Assigned("b", 1, parts(1), parts()),
    ]  # fmt: skip
    assert (group.epoch, group.changed, group.next_deadline()) == (1, {"a", "b"}, None)


def test_a_refused_join_of_a_static_member_leaves_its_place() -> None:
    """The new one knows no strategy of the others: the one that is away is still there, with what is its own."""
    group = Group("g")
    group.step(Join("a", ("t",), instance_id="A", assignors=("range",)), 0)
    group.step(Join("b", ("t",), assignors=("range",)), 0)
    group.step(Install(2, {"a": parts(1), "b": parts(2)}), 0)
    group.step(Gone("a"), 0)
    described = group.describe()
    with pytest.raises(GroupError, match=r"no assignment strategy in common .range; sticky.: give partition_assign"):
        group.step(Join("c", ("t",), instance_id="A", assignors=("sticky",)), 1)
    assert group.describe() == described
    assert group.owner(1) == "a"


def test_a_member_cannot_change_its_instance_id() -> None:
    group = group_of(a=parts(1))
    with pytest.raises(GroupError, match="has group_instance_id=None, not 'A': leave first") as caught:
        group.step(Join("a", ("t",), instance_id="A"), 0)
    assert caught.value.reason == "invalid_request"


def test_leaving_twice_for_now_prolongs_nothing() -> None:
    group = Group("g")
    group.step(Join("a", ("t",), instance_id="A", session_timeout_ms=100), 0)
    group.step(Leave("a", is_final=False), 0)
    group.step(Leave("a", is_final=False), 90)
    assert group.step(Tick(), 100)[0] == Removed("a", "it did not come back within its session's 100 ms", parts())
    assert group.state is GroupState.EMPTY


def test_members_whose_time_is_over_together_make_one_new_epoch() -> None:
    group = Group("g")
    for name in ("a", "b", "c"):
        group.step(Join(name, ("t",), instance_id=name, session_timeout_ms=100), 0)
    for name in ("a", "b"):
        group.step(Gone(name), 0)
    assert group.step(Tick(), 100)[-1] == NeedsTarget(4)


# Topics


def test_a_member_is_told_that_its_topic_is_gone() -> None:
    group = group_of(a=parts(1, 2), b=parts(3))
    assert group.step(TopicsChanged(parts(2, 3)), 0) == [NeedsTarget(3), Assigned("a", 2, parts(2), parts())]
    assert group.changed == {"", "a"}
    assert group.target["a"] == parts(2)


def test_topics_that_change_do_not_wake_an_empty_group() -> None:
    group = Group("g")
    assert group.step(TopicsChanged(parts()), 0) == []
    assert (group.epoch, group.changed) == (0, set())


def test_patterns_that_mean_something_else_change_what_the_member_wants() -> None:
    group = Group("g")
    group.step(Join("a", ("t", "u1"), patterns=("u.*",), instance_id="A"), 0)
    group.step(TopicsChanged(parts(), {"a": ("t", "u2")}), 0)
    assert group.wants() == {"a": Wants(frozenset({"t", "u2"}), frozenset(), "A")}


def test_a_group_whose_topic_went_while_it_was_not_loaded_catches_up_with_the_first_step() -> None:
    """What b waits for, and what a was to give up, is not there any more; nobody else says so."""
    a = Member("a", ("t",), epoch=3, deadline_ms=7)
    b = Member("b", ("t",), epoch=4, state=State.UNRELEASED_PARTITIONS)
    group = Group.load("g", 4, 4, [a, b], {"a": parts(), "b": parts()}, now_ms=0)
    assert group.step(Owns("b", 4, parts()), 0) == [
        Assigned("a", 4, parts(), parts()), Assigned("b", 4, parts(), parts()),
    ]  # fmt: skip
    assert (group.check(), group.changed, group.next_deadline()) == ([], {"a", "b"}, None)
    assert group.step(Owns("b", 4, parts()), 0) == []


# What an assignor is given, and who is asked


def test_an_assignor_is_told_the_target_and_not_what_is_in_hand() -> None:
    """A move that is under way is not undone by the next target."""
    group = group_of(a=parts(1, 2), b=parts())
    retarget(group, a=parts(1), b=parts(2))
    assert {name: one.owned for name, one in group.wants().items()} == {"a": parts(1), "b": parts(2)}


@pytest.mark.parametrize(
    ("lists", "chosen"),
    [
        ([()], "default"),
        ([("range",), ()], "range"),
        ([("range", "sticky"), ("sticky", "range"), ("sticky",)], "sticky"),
        ([("range", "sticky"), ("sticky", "range")], "range"),
    ],
)
def test_the_strategy_is_a_common_one_that_most_like_best(lists: list[tuple[str, ...]], chosen: str) -> None:
    group = Group("g")
    for number, names in enumerate(lists):
        group.step(Join(f"m{number}", ("t",), assignors=names), 0)
    assert group.assignor("default") == chosen


def test_a_new_vote_needs_a_new_target_and_an_idle_change_of_mind_does_not() -> None:
    group = Group("g")
    group.step(Join("a", ("t",), assignors=("range",)), 0)
    group.step(Install(1, {}), 0)
    assert group.step(Join("a", ("t",), assignors=("range", "sticky")), 0) == []
    assert group.step(Join("a", ("t",), assignors=("sticky", "range")), 0) == [NeedsTarget(2)]


# Loading


def test_a_loaded_group_gives_those_who_owe_something_one_more_interval() -> None:
    members = [
        Member("a", ("t",), rebalance_timeout_ms=500, epoch=3, state=State.UNREVOKED_PARTITIONS, revoking=parts(1)),
        Member("b", ("t",), epoch=4, state=State.UNRELEASED_PARTITIONS),
        Member("c", ("t",), instance_id="C", epoch=-2, session_timeout_ms=200),
        Member("d", ("t",), instance_id="D", epoch=-2, deadline_ms=9_000),
    ]
    target = {"a": parts(), "b": parts(1), "c": parts(), "d": parts(), "left long ago": parts(7)}
    group = Group.load("g", 5, 4, members, target, now_ms=10_000)
    assert group.check() == []
    deadlines = {one.member_id: one.deadline_ms for one in group.members.values()}
    assert deadlines == {"a": 10_500, "b": None, "c": 10_200, "d": 9_000}
    assert group.target_deadline_ms == 10_000 + TARGET_TIMEOUT_MS
    assert group.next_deadline() == 9_000
    assert group.changed == set()
    assert Group.load("g", 5, 4, members, target, 10_000, target_deadline_ms=3).next_deadline() == 3


def test_an_empty_group_is_loaded_with_its_epoch_and_owes_nothing() -> None:
    group = Group.load("g", 7, 3, [], {}, now_ms=0)
    assert (group.state, group.next_deadline()) == (GroupState.EMPTY, None)
    assert group.step(Join("a", ("t",)), 0) == [NeedsTarget(8)]


# The checker


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda group: setattr(group.members["b"], "assigned", parts(1, 2)), "partition 1 is owned by a and b"),
        (lambda group: group.target.update(b=parts(1, 2)), "partition 1 is the target of a and b"),
        (lambda group: setattr(group.members["a"], "epoch", 9), "a: epoch 9 beyond the target's, 2"),
        (lambda group: setattr(group.members["a"], "revoking", parts(1)), "a: both has and gives up .1."),
        (lambda group: setattr(group.members["a"], "revoking", parts(5)), "a: stable, giving up .5."),
        (lambda group: setattr(group.members["a"], "deadline_ms", 5), "a: stable, with the deadline 5"),
        (lambda group: setattr(group.members["a"], "epoch", -2), "a: away, and has no instance id"),
        (lambda group: group.target.pop("a"), "a: at epoch 2 with .1., and has no target"),
        (lambda group: group.target.update(a=parts()), "a: has .1. beyond its target"),
        (lambda group: group.target.update(a=parts(1, 8)), "a: waits for 8, which nobody has"),
        (lambda group: group.target.update(x=parts()), "the target of epoch 2 is not of this group at 2"),
        (
            lambda group: [setattr(one, "instance_id", "A") for one in group.members.values()],
            "instance id A is used twice",
        ),
    ],
)
def test_the_checker_sees(broken: object, complaint: str) -> None:
    group = group_of(a=parts(1), b=parts(2))
    assert group.check() == []
    broken(group)  # type: ignore[operator]
    with pytest.raises(AssertionError, match=complaint):
        assert not group.check(), "; ".join(group.check())
