"""The language of the golden scripts of groups: what is typed at the margin, and what the group answers."""

from typing import Any

from kafkalite.coordinator.assignors import assign
from kafkalite.coordinator.group import (
    Assigned,
    Event,
    Fence,
    Gone,
    Group,
    GroupError,
    Install,
    Join,
    Leave,
    NeedsTarget,
    Output,
    Owns,
    Removed,
    Tick,
    TopicsChanged,
)
from kafkalite.testing.golden import Command


class GroupScript:
    """A group, the topics there are, and a clock: partitions are written `orders-0` here, log ids inside."""

    def __init__(self) -> None:
        self.group = Group("g")
        self.topics: dict[str, list[int]] = {}
        self.names: dict[int, str] = {}
        self.now_ms = 0

    def step(self, command: Command) -> str:
        """Answer one command; after each the group must be sound."""
        try:
            answer = getattr(self, f"do_{command.name.replace('-', '_')}")(command)
        except GroupError as error:
            answer = f"refused, {error.reason}: {error}"
        assert self.group.check() == []
        return str(answer)

    def do_topic(self, command: Command) -> str:
        """topic NAME partitions=N: creates it, or gives it more partitions; the group is not told."""
        ids = self.topics.setdefault(command.words[0], [])
        while len(ids) < int(command.options["partitions"]):
            self.names[100 + len(self.names)] = f"{command.words[0]}-{len(ids)}"
            ids.append(99 + len(self.names))
        return ""

    def do_delete(self, command: Command) -> str:
        del self.topics[command.words[0]]
        return ""

    def do_join(self, command: Command) -> str:
        """join MEMBER [topics=a,b] [patterns=…] [instance=…] [assignors=…] [session=ms] [rebalance=ms]."""
        lists = {
            name: tuple(command.options.get(name, "").split(",") if command.options.get(name) else ())
            for name in ("topics", "patterns", "assignors")
        }
        return self._told(
            Join(
                command.words[0],
                **lists,
                instance_id=command.options.get("instance"),
                session_timeout_ms=int(command.options.get("session", 45_000)),
                rebalance_timeout_ms=int(command.options.get("rebalance", 300_000)),
            )
        )

    def do_leave(self, command: Command) -> str:
        return self._told(Leave(command.words[0], is_final="for-now" not in command.words))

    def do_gone(self, command: Command) -> str:
        return self._told(Gone(command.words[0]))

    def do_fence(self, command: Command) -> str:
        return self._told(Fence(command.words[0], command.options["why"]))

    def do_heartbeat(self, command: Command) -> str:
        """heartbeat MEMBER [epoch=N] [owns=a-0,a-1 | owns=]: at its present epoch, if none is given."""
        owned = command.options.get("owns")
        ids = {name: one for one, name in self.names.items()}
        return self._told(
            Owns(
                command.words[0],
                int(command.options.get("epoch", self._epoch(command.words[0]))),
                None if owned is None else frozenset(ids[one] for one in owned.split(",") if one),
            )
        )

    def do_assign(self, command: Command) -> str:
        """assign [epoch=N]: compute the target by the strategy that the members chose, and install it."""
        name = self.group.assignor("cooperative-sticky")
        target = assign(name, self.group.wants(), self.topics)
        return f"by {name}\n" + self._told(Install(int(command.options.get("epoch", self.group.epoch)), target))

    def do_install(self, command: Command) -> str:
        """install MEMBER=a-0,a-1 …: a target by hand."""
        ids = {name: one for one, name in self.names.items()}
        target = {name: frozenset(ids[one] for one in text.split(",")) for name, text in command.options.items()}
        return self._told(Install(self.group.epoch, target))

    def do_topics_changed(self, command: Command) -> str:
        """topics-changed [MEMBER=a,b …]: with what members with patterns want now."""
        wanted = {name: tuple(text.split(",")) for name, text in command.options.items()}
        return self._told(TopicsChanged(frozenset(one for ids in self.topics.values() for one in ids), wanted))

    def do_wait(self, command: Command) -> str:
        """wait MS [late]: time passes; the group is ticked at the end."""
        self.now_ms += int(command.words[0])
        return self._told(Tick(is_late="late" in command.words))

    def do_reload(self, _command: Command) -> str:
        """The group as it comes back from its records, which hold no deadlines."""
        old = self.group
        for member in old.members.values():
            member.deadline_ms = None
        self.group = Group.load("g", old.epoch, old.target_epoch, old.members.values(), old.target, self.now_ms)
        return f"next deadline {self.group.next_deadline()}"

    def do_group(self, _command: Command) -> str:
        described = self.group.describe()
        lines = [f"{described['state']}, epoch {described['epoch']}, target of epoch {described['target epoch']}"]
        lines += [f"{name}: {self._member(one)}" for name, one in described["members"].items()]
        return "\n".join([*lines, f"next deadline {self.group.next_deadline()}"])

    def _member(self, one: dict[str, Any]) -> str:
        topics = ",".join(one["topics"]) or "nothing"
        return f"{one['state']} at {one['epoch']}, wants {topics}{self._sets(**{k: one[k] for k in SETS if one[k]})}"

    def _told(self, event: Event) -> str:
        self.group.changed.clear()
        outputs = self.group.step(event, self.now_ms)
        changed = self.group.changed
        written = ", ".join(name or "the group" for name in sorted(changed)) or "nothing"
        return "\n".join([*map(self._output, outputs), f"written: {written}"])

    def _output(self, output: Output) -> str:
        match output:
            case Assigned(member_id, epoch, assigned, revoking):
                sets = {"assigned": assigned} | ({"revoking": revoking} if revoking else {})
                return f"-> {member_id} at {epoch}{self._sets(**sets)}"
            case Removed(member_id, why, owned):
                return f"-> {member_id} removed ({why}){self._sets(**({'owned': owned} if owned else {}))}"
            case NeedsTarget(epoch):
                return f"-> needs a target for epoch {epoch}"

    def _epoch(self, member_id: str) -> int:
        member = self.group.members.get(member_id)
        return 0 if member is None else member.epoch

    def _sets(self, **sets: Any) -> str:
        """Partitions by name, `orders-0,2-4` in full: they are few."""
        return "".join(
            f", {name} {' '.join(map(self.names.__getitem__, sorted(ids))) or '-'}" for name, ids in sets.items()
        )


SETS = ("assigned", "revoking", "target")
