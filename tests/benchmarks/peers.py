"""The contestants beside kafkalite: SQLite, and prototypes: the same design without any structure.

*Prototypes* are three files in a directory that the caller names (nothing is assumed about where): `j.py`
(`Store.commit`, `.records`: a journal with an index), `send.py` (`Producer.send`) and `flush.py` (`work`:
processes that share flushes). They are executed here, not imported by name, so nothing is written beside them
and no module of theirs shadows another; of `send.py` only the definitions, as its measurements run at module
level.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sqlite3
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

SQLITE_ROWS = 1000
SQLITE_BUSY_SECONDS = 60
NEEDED = ("j.py", "send.py", "flush.py")

SqliteRow = tuple[bytes | None, int, bytes]


class Sqlite:
    """A table of records in WAL mode; `synchronous` is SQLite's word: NORMAL or FULL."""

    def __init__(self, directory: Path, synchronous: str) -> None:
        self.connection = sqlite3.connect(directory / "peer.db", isolation_level=None, timeout=SQLITE_BUSY_SECONDS)
        self.execute = self.connection.execute
        self.execute("pragma journal_mode=wal")
        self.execute(f"pragma synchronous={synchronous}")
        self.execute("create table if not exists records(id integer primary key, k blob, ts int, v blob)")

    def insert(self, row: SqliteRow) -> None:
        """One row, one transaction."""
        self.execute("insert into records(k, ts, v) values(?, ?, ?)", row)

    def insert_each(self, rows: Iterable[SqliteRow]) -> None:
        """One transaction, one `execute` per row."""
        execute = self.execute
        execute("begin")
        for row in rows:
            execute("insert into records(k, ts, v) values(?, ?, ?)", row)
        execute("commit")

    def insert_many(self, rows: Iterable[SqliteRow]) -> None:
        """One transaction, one `executemany`."""
        self.execute("begin")
        self.connection.executemany("insert into records(k, ts, v) values(?, ?, ?)", rows)
        self.execute("commit")

    def scan(self) -> Iterator[tuple[Any, ...]]:
        return self.execute("select id, k, ts, v from records order by id")

    def chunks(self) -> Iterator[list[Any]]:
        cursor = self.scan()
        while rows := cursor.fetchmany(SQLITE_ROWS):  # type: ignore[attr-defined]
            yield rows


@contextlib.contextmanager
def sqlite(directory: Path, synchronous: str = "normal") -> Iterator[Sqlite]:
    """A new or existing SQLite store in the directory, closed on leaving."""
    peer = Sqlite(directory, synchronous)
    try:
        yield peer
    finally:
        peer.connection.close()


class Prototypes:
    """The definitions of the three prototype files."""

    def __init__(self, directory: Path) -> None:
        missing = [name for name in NEEDED if not (directory / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{directory} holds no {' and no '.join(missing)}: --prototypes names a directory with "
                f"{', '.join(NEEDED)}"
            )
        self.journal: Any = _load(directory / "j.py", {})
        self.flush: Any = _load(directory / "flush.py", {})
        self.send: Any = _load(directory / "send.py", {"j": self.journal}, definitions_only=True)

    @contextlib.contextmanager
    def store(self, directory: Path, *, sync: bool = False) -> Iterator[Any]:
        """A journal store in the directory, its index and descriptors closed on leaving."""
        store = self.journal.Store(str(directory / "store"), sync)
        try:
            yield store
        finally:
            store.env.close()
            store.maps.clear()
            for descriptor in store.fds.values():
                os.close(descriptor)

    def batches(self, store: Any) -> Iterator[tuple[list[bytes], Any]]:
        """The columns of each batch of log 0, found, checked and decoded as `Store.records` does it."""
        journal, offset = self.journal, 0
        while places := store.read(0, offset):
            for segment, position, length in places:
                frame = store.map(segment)[position + journal.FR.size : position + length]
                header = journal.HDR.unpack_from(frame)
                payload = frame[journal.HDR.size :]
                if journal.xxhash.xxh32_intdigest(payload) != header[4]:
                    raise ValueError(f"the prototype's batch at {segment}:{position} fails its checksum")
                values, keys = journal.msgpack.unpackb(payload)
                yield values, keys
                offset = header[0] + header[12]


def _load(path: Path, imports: Mapping[str, types.ModuleType], *, definitions_only: bool = False) -> Any:
    """The module of a file, with `imports` visible to its import statements."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    if definitions_only:
        kept = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
        tree.body = [statement for statement in tree.body if isinstance(statement, kept)]
    module = types.ModuleType(f"prototype_{path.stem}")
    hidden = {name: sys.modules[name] for name in imports if name in sys.modules}
    sys.modules.update(imports)
    try:
        exec(compile(tree, str(path), "exec"), module.__dict__)
    finally:
        for name in imports:
            del sys.modules[name]
        sys.modules.update(hidden)
    return module
