"""THE layer law: who may import whom, as a table, and the program that reads it.

`FLOORS` is the house from the ground up. A room (a package or a top-level module of kafkalite) imports only
rooms of the floors before its own, never a neighbour's, and never another room's private names. A floor may
vary that:

    joined   its rooms are one thing cut by noun, and see each other
    pure     values in, values out: neither `disk` nor `clock`
    outside  stands where a user stands: sees the public face `kafkalite`, and nothing behind it

Libraries are given per room, the system's modules per module (`GUARDED`), exceptions one by one
(`EXCEPTIONS`), each with its reason. What no longer needs its permission loses it: an unused row is a
complaint as well. Imports count wherever they stand, in functions and under TYPE_CHECKING too: the law is
about what a reader has to know.

Rooms that are not built yet keep their place in the table: it says where they go.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PACKAGE: Final = "kafkalite"


@dataclass(frozen=True)
class Floor:
    """A floor, its rooms, and what is special about it. The room `kafkalite` is `kafkalite/__init__.py`."""

    rooms: tuple[str, ...]
    joined: bool = False
    pure: bool = False
    outside: bool = False


@dataclass(frozen=True)
class Law:
    """All tables together, so that the checker can be shown another house than this one."""

    floors: tuple[Floor, ...]
    libraries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    guarded: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    exceptions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    apart: str = "testing"

    def floor_of(self, room: str) -> int | None:
        """The number of the room's floor; `None` if it has no place."""
        return next((number for number, floor in enumerate(self.floors) if room in floor.rooms), None)


FLOORS: Final = (
    Floor(("errors", "config", "model", "disk", "clock", "log"), joined=True),
    Floor(("records",), pure=True),
    Floor(("storage",)),
    Floor(("coordinator", "partitioner"), pure=True),
    Floor(("serde",), pure=True),
    Floor(
        (
            "kafkalite",
            "store",
            "topic",
            "producer",
            "columns",
            "commit_queue",
            "delivery",
            "iteration",
            "copying",
            "group_state",
            "group_step",
            "group_runs",
            "group_share",
            "group_use",
            "group_transaction",
            "membership",
            "members",
            "subscription",
            "consumer_group",
            "share_group",
            "share_member",
            "share_records",
            "share_state",
            "transaction",
            "transactional_id",
            "worker",
            "workers",
            "group_admin",
            "aio",
        ),
        joined=True,
    ),
    Floor(("remote",)),
    Floor(("protocol",), pure=True),
    Floor(("server",)),
    Floor(("raft",), pure=True),
    Floor(("replication",)),
    Floor(("cluster",)),
    Floor(
        ("compat", "streams", "sql", "connect", "registry", "metrics", "console", "cli", "demo", "__main__"),
        outside=True,
    ),
)

LIBRARIES: Final = {
    "records": {
        "msgpack": "the native payload is msgpack of columns",
        "xxhash": "the native batch's checksum",
        "zstandard": "compression of batches",
        "crc32c": "the checksum of Kafka's v2 batches (extra `wire`)",
    },
    "share_state": {"lmdb": "is handed the index's transaction"},
    "group_state": {"lmdb": "is handed the index's transaction", "msgpack": "topics' rows, to find them by id"},
    "membership": {"lmdb": "is handed the index's transaction"},
    "members": {"lmdb": "is handed the index's transaction"},
    "group_admin": {"lmdb": "is handed the index's transaction"},
    "group_transaction": {"lmdb": "is handed the index's transaction"},
    "worker": {"lmdb": "is handed the index's transaction"},
    "storage": {
        "lmdb": "the index",
        "msgpack": "rows of the index, records of the internal logs",
    },
    "serde": {"msgspec": "typed JSON and MessagePack, imported when a typed topic is first used"},
    "cli": {
        "rich_click": "the command line (extra `cli`)",
        "click": "what rich_click stands on, and does not hand on: shell completion, exits",
        "rich": "what it prints (extra `cli`)",
        "msgpack": "`log` reads the catalogue's records as they pass, to name logs",
    },
    "demo": {
        "rich": "what it prints (extra `cli`)",
        "zstandard": "the packaged flights are compressed with it",
    },
}

_OF_THE_DEMO: Final = "an application, not the engine: its processes are a user's own"

GUARDED: Final[Mapping[str, Mapping[str, str]]] = {
    "os": {
        "disk": "the one module that calls the system for files, maps and locks",
        "compat.confluent_kafka.cluster": "reads KAFKALITE_BOOTSTRAP, for programs that are not to be changed",
        "demo": _OF_THE_DEMO,
        "testing": "drives real processes and files from outside",
    },
    "mmap": {"disk": "as above"},
    "fcntl": {"disk": "as above"},
    "open": {"disk": "as above", "demo": _OF_THE_DEMO, "testing": "golden files", "cli.info": "names processes"},
    "shutil": {
        "storage.backup": "removes what a backup that was killed left",
        "store": "removes the temporary store that `:memory:` was",
        "demo": _OF_THE_DEMO,
        "testing.power": "a disk that lost its power is removed and brought back",
    },
    "tempfile": {
        "store": "where the temporary store of `:memory:` lies",
        "cli.bench": "where the store lies that is made to be measured",
        "storage.check": "the index that a check derives for comparison lives and dies with the check",
        "demo": _OF_THE_DEMO,
        "testing.power": "where it is brought back",
    },
    "socket": {
        "storage.wakeup": "pokes are datagrams between sockets in run/; a lost one costs a look, no record",
    },
    "subprocess": {
        "storage.check": "an index that may be damaged can end who reads it: for a closed store a child does",
        "demo": _OF_THE_DEMO,
        "testing": "drives real processes",
    },
    "signal": {
        "worker": "a worker ends when told to",
        "workers": "the supervisor of processes tells them, and is told",
        "demo": _OF_THE_DEMO,
        "testing": "drives real processes",
    },
    "time": {
        "clock": "the one module that asks what time it is",
        "compat": "time-outs and latencies of another library's calls; stamps no record",
        "demo": "prints how fast it was",
        "cli": "prints how fast it was",
    },
}

EXCEPTIONS: Final = {
    ("__main__", "cli"): "the program: its command line, if the extra is installed",
    ("cli.demo", "demo"): "a verb is the thin shell of its application",
    ("cli.group", "group_admin"): "a verb is the thin shell of what it shows",
    ("cli.work", "workers"): "watches the pool of workers that it runs",
    ("cli.work", "group_admin"): "shows the group's lag meanwhile",
    ("compat.confluent_kafka.hashing", "partitioner"): "Kafka's murmur2 is written once",
    ("compat.confluent_kafka.groups", "errors"): "what the store's groups raise",
    ("compat.confluent_kafka.groups", "group_admin"): "a thin shell of what it shows, as cli.group",
    ("compat.confluent_kafka.serde_config", "log"): "one log, silent until somebody listens",
    ("cli.info", "storage"): "says where the journal stands",
    ("cli.log", "storage"): "shows frames",
    ("cli.log", "records"): "shows what is in frames",
    ("cli.journal_walk", "storage"): "walks frames without index and locks",
    ("cli.journal_walk", "records"): "reads the catalogue's records",
    ("cli.journal_walk", "disk"): "opens files of a store that may not open",
    ("cli.journal_walk", "model"): "the names of internal logs",
}

LAW: Final = Law(FLOORS, LIBRARIES, GUARDED, EXCEPTIONS)

HARMLESS: Final = {"os": {"PathLike", "fspath", "path", "pathsep", "sep"}}
"""Names in guarded modules that only handle values."""

FILE_METHODS: Final = {
    *("read_bytes", "read_text", "write_bytes", "write_text", "touch", "unlink"),
    *("mkdir", "rmdir", "hardlink_to", "symlink_to"),
}
"""Methods of a path that do what `open` does: guarded with it."""

CLOCK_CALLS: Final = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
"""Calls that ask for the time without importing `time`: guarded with it."""


@dataclass(frozen=True)
class Use:
    """That a module, in some line, imports a module of the house or a library, or uses a guarded name."""

    module: str
    line: int
    target: str
    name: str = ""

    @property
    def room(self) -> str:
        return room_of(self.module)


def room_of(module: str) -> str:
    """The room of a dotted module inside the package: its first part; the package itself is its own room."""
    return module.split(".", maxsplit=1)[0] or PACKAGE


def complaints(tree: Path, law: Law = LAW) -> list[str]:
    """What breaks the law in the package at `tree`, one line each; none if it is kept."""
    judge = _Judge(law, _modules(tree))
    found = [complaint for module in judge.modules for complaint in judge.of_module(module)]
    return [*dict.fromkeys(found), *judge.of_unused_rows()]


def _modules(tree: Path) -> dict[str, Path]:
    """Every module of the package by dotted name inside it; "" is the package itself."""
    named = {}
    for path in sorted(tree.rglob("*.py")):
        parts = path.relative_to(tree).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


class _Judge:
    """Reads modules against a law and remembers which permissions were needed."""

    def __init__(self, law: Law, modules: Mapping[str, Path]) -> None:
        self.law = law
        self.modules = modules
        self.packages = {name for name, path in modules.items() if path.name == "__init__.py"}
        self.needed: set[tuple[str, str]] = set()

    def of_module(self, module: str) -> Iterator[str]:
        room = room_of(module)
        if room != self.law.apart and self.law.floor_of(room) is None:
            yield f"{self._place(module, 1)}: {room} has no place in the law: give it a floor in FLOORS"
            return
        syntax = ast.parse(self.modules[module].read_bytes())
        for use in self._uses(module, syntax):
            complaint = self._judged(use)
            if complaint:
                yield f"{self._place(module, use.line)}: {complaint}"

    def of_unused_rows(self) -> list[str]:
        """Permissions of rooms that exist, which nothing needs."""
        granted = [(who, what) for who, whats in self.law.libraries.items() for what in whats]
        granted += [(who, what) for what, whos in self.law.guarded.items() for who in whos]
        granted += list(self.law.exceptions)
        rooms = {room_of(module) for module in self.modules}
        return [
            f"{who} is allowed {what} and does not need it: take it out of the table"
            for who, what in granted
            if room_of(who) in rooms and (who, what) not in self.needed
        ]

    def _uses(self, module: str, syntax: ast.AST) -> Iterator[Use]:
        for node in ast.walk(syntax):
            if isinstance(node, ast.Import):
                yield from (Use(module, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = self._source(module, node)
                yield from (self._imported(module, node.lineno, source, alias.name) for alias in node.names)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                dotted = f"{node.value.id}.{node.attr}"
                if node.value.id == "os" or dotted in CLOCK_CALLS or node.attr in FILE_METHODS:
                    yield Use(module, node.lineno, node.value.id, node.attr)
            elif isinstance(node, ast.Attribute) and node.attr in FILE_METHODS:
                yield Use(module, node.lineno, "", node.attr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                yield Use(module, node.lineno, "open")

    def _source(self, module: str, node: ast.ImportFrom) -> str:
        """The absolute name of the module after `from`."""
        if not node.level:
            return node.module or ""
        here = [PACKAGE, *filter(None, module.split("."))]
        kept = len(here) - node.level + (module in self.packages)
        return ".".join([*here[:kept], *filter(None, [node.module])])

    def _imported(self, module: str, line: int, source: str, name: str) -> Use:
        """`from source import name` imports the module of that name if there is one, else a name."""
        inside = f"{source}.{name}".removeprefix(f"{PACKAGE}.")
        if source.split(".", maxsplit=1)[0] == PACKAGE and inside in self.modules:
            return Use(module, line, f"{PACKAGE}.{inside}")
        return Use(module, line, source, name)

    def _judged(self, use: Use) -> str | None:
        """What is wrong with it, or `None`."""
        if use.name in FILE_METHODS and use.target.split(".")[0] != PACKAGE:
            return None if use.target == "disk" else self._guard(use, "open", f".{use.name}")
        if f"{use.target}.{use.name}" in CLOCK_CALLS:
            return self._guard(use, "time", f"{use.target}.{use.name}")
        top = use.target.split(".")[0]
        if top == PACKAGE:
            return self._neighbour(use, use.target.removeprefix(PACKAGE).removeprefix("."))
        if top in self.law.guarded:
            return self._system(use, top)
        if top in sys.stdlib_module_names or use.room == self.law.apart:
            return None
        if top in self.law.libraries.get(use.room, {}):
            self.needed.add((use.room, top))
            return None
        return f"{use.room} may not import the library {top}"

    def _system(self, use: Use, top: str) -> str | None:
        """A bare `import os` is judged by the names that are used of it, `from os import …` by each name."""
        if top in HARMLESS and (not use.name or use.name in HARMLESS[top]):
            return None
        return self._guard(use, top, f"{use.target}.{use.name}".rstrip("."))

    def _guard(self, use: Use, what: str, shown: str) -> str | None:
        for who in self.law.guarded.get(what, {}):
            if use.module == who or use.module.startswith(f"{who}."):
                self.needed.add((who, what))
                return None
        users = ", ".join(self.law.guarded.get(what, {}))
        return f"{use.module or PACKAGE} may not use {shown}: that is for {users}"

    def _neighbour(self, use: Use, target: str) -> str | None:
        room = room_of(target)
        if use.room in {room, self.law.apart}:
            return None
        if use.name.startswith("_") and not use.name.endswith("__"):
            return f"{use.name} is private to {room}"
        if room == self.law.apart:
            return f"{room} stands apart: only tests import it"
        for who, what in self.law.exceptions:
            if _is_within(use.module, who) and _is_within(target, what):
                self.needed.add((who, what))
                return None
        return self._between(use.room, room)

    def _between(self, room: str, other: str) -> str | None:
        here, there = self.law.floor_of(room), self.law.floor_of(other)
        assert here is not None
        floor = self.law.floors[here]
        if there is None:
            return f"{other} has no place in the law"
        if floor.outside:
            return None if other == PACKAGE else f"{room} stands outside: it sees public names, not {other}"
        if floor.pure and other in ("disk", "clock"):
            return f"{room} is pure: it does not see {other}"
        if there == here:
            return None if floor.joined else f"{room} may not see its neighbour {other}"
        return None if there < here else f"{room} may not import {other}, which stands on it"

    def _place(self, module: str, line: int) -> str:
        return f"{module or PACKAGE}:{line}"


def _is_within(module: str, outer: str) -> bool:
    return module == outer or module.startswith(f"{outer}.")
