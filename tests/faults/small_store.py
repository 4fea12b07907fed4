"""A small store to be damaged: all that a journal may hold in a few kilobytes, and the records it must give.

    make(path)           tiny segments, two topics: keys, nulls, headers, zstd, commits over several logs, a roll,
                         each commit flushed; left closed, or `killed` as a process crash leaves it
    derive(path)         what a rebuild would take from the journal, by log, without building the index: the same
                         code in a tenth of the time
    Image                all files of a store, put back in place between one damage and the next
    forked(work)         a call in a forked child, for damage that may kill the process; `Apart` for many of them

`Truth` is kept outside the store: what was acknowledged, commit by commit, and where each commit ends.
"""

import faulthandler
import functools
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, Self

import kafkalite
from kafkalite import disk
from kafkalite.records import batch
from kafkalite.storage import opening, recovery, segment, superblock
from kafkalite.storage.journal import Journal
from kafkalite.storage.place import resolve
from kafkalite.storage.recovery import End, Scan
from kafkalite.storage.superblock import State
from tests.storage.kit import abandon

LAYOUTS = ("s.klite", "s")
SEGMENT_SIZE = 4096
NOON = 1_357_041_600_000
LOGS = {16: ("plain", 0), 17: ("plain", 1), 18: ("typed", 0)}

Row = tuple[int, int, bytes | None, bytes | None, Any]
"""Offset, timestamp, key, value, headers."""
Answer = dict[int, list[Row]]
"""The records of each log of a user, in the order of their offsets."""


class Truth(NamedTuple):
    """What a store must give: its records after each commit, and the journal's tail there."""

    path: Path
    answers: list[Answer]
    tails: list[int]

    @property
    def answer(self) -> Answer:
        """All that was acknowledged."""
        return self.answers[-1]

    @property
    def count(self) -> int:
        """How many records were acknowledged."""
        return sum(map(len, self.answer.values()))


def make(path: Path, *, killed: bool = False, segment_size: int = SEGMENT_SIZE) -> Truth:
    """A store of nine commits in two segments, the first one of that size."""
    kept, segment.FIRST_SIZE = segment.FIRST_SIZE, segment_size  # type: ignore[misc]  # small on purpose
    try:
        store = kafkalite.connect(path)
        store._engine._prepare_is_due = True
        truth = Truth(path, [], [])
        _fill(store, lambda: _note(store, truth), bytes(range(256)) * ((segment_size - 1400) // 256))
        if killed:
            abandon(store)
        else:
            assert store.check().ok
            store.close()
    finally:
        segment.FIRST_SIZE = kept  # type: ignore[misc]  # as it was
    return truth


def _fill(store: kafkalite.Store, note: Callable[[], None], large: bytes) -> None:
    plain, typed = store.topic("plain", partitions=2), store.topic("typed", value=str)
    for number in range(3):
        plain.append(b"%d" % number, key=b"k", partition=number % 2, timestamp_ms=NOON + number)
        note()
    headers: list[Any] = [{"h": b"\x00", "n": None}, (), [("a", b""), ("a", b"2")]]
    plain.append_many(
        [None, b"", b"x" * 30], keys=[None, b"", b"k"], headers=headers, timestamps_ms=[NOON, 0, NOON * 2], partition=0
    )
    note()
    with store.producer(compression_type="zstd", linger_ms=60_000) as producer:
        for number in range(6):
            producer.send(plain, b"compressed " * 20, partition=number % 2, timestamp_ms=NOON)
            producer.send(typed, "of one commit", timestamp_ms=NOON)
    note()
    plain.append(b"klfr" + large, partition=1, timestamp_ms=NOON)  # does not fit: the segment rolls
    note()
    for number in range(3):
        typed.append(f"last {number}", timestamp_ms=NOON + number)
        note()


def _note(store: kafkalite.Store, truth: Truth) -> None:
    truth.answers.append(contents(store))
    truth.tails.append(store._engine.index.positions().tail)


def contents(store: kafkalite.Store) -> Answer:
    """What the public face reads of every log."""
    return {
        log_id: [
            (one.offset, one.timestamp_ms, one.key, one.value, one.headers)
            for one in store.topic(name, create=False).read(number)
        ]
        for log_id, (name, number) in LOGS.items()
    }


# Without the index


@functools.lru_cache(4096)
def _rows(data: bytes) -> tuple[Row, ...]:
    _, columns = batch.decode(data)
    return tuple(
        zip(columns.offsets, columns.timestamps_ms, columns.keys, columns.values, columns.headers, strict=True)
    )


def derive(path: Path, *, sealed: bool | None = None) -> Answer:
    """What a rebuild takes from the journal; `sealed` overrules what the superblock says of its state.

    Raises what a rebuild raises. It leaves no trace.
    """
    place = resolve(path)
    fd = disk.open_file(place.file, write=False)
    try:
        found = superblock.read(fd, str(path))
        if found is None:  # as a creation that was not finished: begun anew if nothing is in it
            opening._check_holds_nothing(place, fd)
            return {}
    finally:
        disk.close(fd)
    is_sealed = found.state is State.SEALED if sealed is None else sealed
    end = End(found.tail, found.tail_chain) if is_sealed else None
    journal = Journal(place.segments(found.store_id), found.store_id)
    answer: Answer = {log_id: [] for log_id in LOGS}
    try:
        for frame in Scan(journal, recovery.find_path(journal, found.era_segment, end), end).frames():
            if frame.log_id in answer:
                answer[frame.log_id] += _rows(frame.batch)
    finally:
        journal.close()
    return answer


# Put back


class Image:
    """The files of a store as they were; hard links keep the inodes that the superblock names."""

    def __init__(self, path: Path, vault: Path) -> None:
        self._path = path
        self._vault = vault
        vault.mkdir()
        self._files = {file: file.read_bytes() for file in files_of(path)}
        for number, file in enumerate(self._files):
            if file.name.endswith("index"):  # whoever rebuilds it gives it another inode
                (vault / str(number)).hardlink_to(file)

    def restore(self) -> None:
        """Files that are new go, the others get their bytes, and the index its inode."""
        for file in [*files_of(self._path)]:
            if file not in self._files:
                file.unlink()
        run = resolve(self._path).run
        shutil.rmtree(run, ignore_errors=True)
        for number, (file, data) in enumerate(self._files.items()):
            if file.name.endswith("index"):
                self._relink(file, self._vault / str(number))
            file.write_bytes(data)

    @staticmethod
    def _relink(file: Path, kept: Path) -> None:
        with suppress(FileNotFoundError):
            if file.stat().st_ino == kept.stat().st_ino:
                return
            file.unlink()
        file.hardlink_to(kept)


def files_of(path: Path) -> list[Path]:
    """All files of a store: journal, index, its lock."""
    found = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sorted(file for file in found if file.is_file())


def journal_files(path: Path) -> list[Path]:
    """The superblock and the segments; of a single file itself."""
    return [path] if path.is_file() else [path / "superblock", *sorted(path.glob("*.segment"))]


# Apart

PATIENCE_S = 60
MOST_SAID = 60_000
SIZE = Struct("<I")


def forked(work: Callable[[], str]) -> str:
    """What `work` gives in a forked child, or "error: …" with what it raised; "signal N" when that killed the child.

    A child that takes longer than `PATIENCE_S` seconds ends with SIGALRM. The caller has no store open.
    """
    with Apart(work) as apart:
        return apart()


class Apart:
    """`forked`, again and again: the child that answered "right" does the work once more, any other is replaced.

    For work that sees its cases on the disk: forking a process as large as a test's costs more than opening a store.
    """

    def __init__(self, work: Callable[[], str]) -> None:
        self._work = work
        self._child = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self) -> str:
        if not self._child:
            self._begin()
        self._ask.write(b"?")
        head = self._answer.read(SIZE.size)
        said = self._answer.read(*SIZE.unpack(head)).decode() if len(head) == SIZE.size else ""
        return said if said == "right" else self._end() or said

    def _begin(self) -> None:
        asked, ask = os.pipe()
        answer, answered = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(ask)
            _serve(self._work, asked, answered)
        os.close(asked)
        os.close(answered)
        self._ask, self._answer = os.fdopen(ask, "wb", buffering=0), os.fdopen(answer, "rb")

    def _end(self) -> str:
        """Let the child go; "signal N" when one has killed it."""
        if not self._child:
            return ""
        self._ask.close()
        _, status = os.waitpid(self._child, 0)
        self._answer.close()
        self._child = 0
        return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""


def _serve(work: Callable[[], str], asked: int, answered: int) -> None:
    """In the child: no word to the terminal, no way back into pytest."""
    try:
        faulthandler.disable()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        while os.read(asked, 1):
            signal.alarm(PATIENCE_S)
            try:
                said = work()
            except BaseException as error:
                said = f"error: {type(error).__name__}: {error}"
            signal.alarm(0)
            data = said.encode()[:MOST_SAID]
            os.write(answered, SIZE.pack(len(data)) + data)
    finally:
        os._exit(0)
