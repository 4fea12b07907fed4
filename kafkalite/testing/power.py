"""A disk that can lose its power: every change that an engine makes is recorded, and any moment can be cut.

    with Machine(root) as machine:                      # from here on this process believes to run on it
        use(kafkalite.connect(root / "store.klite"))
    disk = Disk()
    for change in machine.changes:                      # a cut after each change
        disk.apply(change)
        image = disk.cut(Fate("torn", sectors=0.5, seed=7))
        with Machine(place, image) as rebooted:         # its files as the power cut left them, another boot id
            prove(kafkalite.connect(place / "store.klite"))

`Machine` stands in for the functions of `kafkalite.disk`. Files keep their identity (device and inode) when an image
is brought back, and an index always has the same one, as where the file system gives a freed inode out again: so
nothing but what the store itself wrote down may decide whether an index is trusted. The index (LMDB writes it past
`kafkalite.disk`) and `run/` are no part of a disk: a machine only keeps what the index looked like before each change.

`Disk` is the strictest reading of POSIX. A flush of a file makes its bytes and its size durable, not its name; a flush
of a directory makes the names in it durable, not the name of the directory itself. Of what was not flushed, a power
cut keeps what a `Fate` says, and each on its own:

    sectors   each sector of a file holds what it held after any one of the writes to it since the last flush, the
              flushed bytes included: writes are dropped, reordered and torn, but two writes to one sector are one
    sizes     any that the file has had since, or one between; bytes beyond it are gone, what was never written is zeros
    names     each creation, removal and renaming happened or did not; what lies in a lost directory is lost
"""

import contextlib
import itertools
import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from kafkalite import disk

SECTOR: Final = 512
PAGE: Final = 4096
DIRECTORY: Final = -1
"""What a name means that is a directory's."""
DEVICE: Final = 42
INDEX_INODE: Final = 1
_FIRST_INODE: Final = 100
_DERIVED: Final = re.compile(r"(^|[/-])(index(-new)?(-lock)?|run)(/|$)")


class Change(NamedTuple):
    """One change to a disk. `inode` is the file's, `name` and `target` are paths below the machine's root.

    A flush stands where it ended; its `size` says how many of the changes before it were made after it had begun.
    """

    kind: str
    inode: int = 0
    position: int = 0
    size: int = 0
    data: bytes = b""
    name: str = ""
    target: str = ""


class Image(NamedTuple):
    """What is on a disk: directories, and files by name with inode and bytes."""

    directories: Sequence[str]
    files: Mapping[str, tuple[int, bytes]]

    def digest(self) -> bytes:
        """The same for equal images only."""
        found = blake2b(repr((self.directories, [(name, one[0]) for name, one in self.files.items()])).encode())
        for _, data in self.files.values():
            found.update(blake2b(data).digest())
        return found.digest()


@dataclass(frozen=True, slots=True)
class Fate:
    """What a power cut keeps of what was not flushed: a share of it, drawn from `seed`; 0 nothing, 1 all of it.

    `unit` is how much the disk writes in one piece; 0 writes whole. `sizes`: the share of files whose newest size was
    kept; of the others the flushed size, or one between.
    """

    name: str
    sectors: float = 0.0
    names: float = 0.0
    sizes: float = 0.0
    unit: int = SECTOR
    seed: int = 0


LOST: Final = Fate("all lost")
KEPT: Final = Fate("all kept", sectors=1.0, names=1.0, sizes=1.0)
WITHOUT_NAMES: Final = Fate("names lost", sectors=1.0, sizes=1.0)
WITHOUT_BYTES: Final = Fate("bytes lost", names=1.0, sizes=1.0)
WITHOUT_SIZES: Final = Fate("sizes lost", sectors=1.0, names=1.0)


def _chance(seed: int | str) -> random.Random:
    """Chance that repeats."""
    return random.Random(seed)  # noqa: S311  (no secret)


def torn(seed: int) -> Fate:
    """A fate by chance: torn into sectors of 512 bytes or of 4 KiB, or whole writes dropped and reordered."""
    draw = _chance(seed)
    unit = draw.choice((SECTOR, PAGE, 0))
    share = draw.choice((0.2, 0.5, 0.8, 0.95))
    kind = f"torn at {unit}" if unit else "reordered"
    return Fate(f"{kind}, seed {seed}", share, draw.choice((0.0, 0.5, 1.0)), draw.choice((0.0, 0.7, 1.0)), unit, seed)


# The disk


class _File:
    """A file's bytes as flushed, and what was done to them since."""

    def __init__(self, data: bytes = b"") -> None:
        self.durable = data
        self.cache = bytearray(data)
        self.pending: list[tuple[int, Change]] = []

    def apply(self, number: int, change: Change) -> None:
        _change(self.cache, change)
        self.pending.append((number, change))

    def flush(self, began: int) -> None:
        """What came before change number `began` is on the disk."""
        late = [(number, change) for number, change in self.pending if number >= began]
        if late:
            flushed = bytearray(self.durable)
            for _, change in self.pending[: -len(late)]:
                _change(flushed, change)
            self.durable = bytes(flushed)
        elif self.pending:
            self.durable = bytes(self.cache)
        self.pending = late

    def cut(self, fate: Fate, draw: random.Random) -> bytes:
        """The bytes that a power cut leaves."""
        if not self.pending:
            return self.durable
        if fate.sectors == fate.sizes == 1:
            return bytes(self.cache)
        cache, left, sizes = bytearray(self.durable), bytearray(self.durable), [len(self.durable)]
        for _, change in self.pending:
            start, end = _change(cache, change, len(self.durable))
            left.extend(bytes(max(0, len(cache) - len(left))))
            sizes.append(len(cache))
            for piece in _pieces(start, end, fate.unit) if fate.sectors else ():
                if draw.random() < fate.sectors:
                    left[piece] = cache[piece].ljust(len(left[piece]), b"\0")
        size = sizes[-1] if fate.sizes and draw.random() < fate.sizes else _size(sizes, fate, draw)
        return bytes(left[:size]).ljust(size, b"\0")


def _change(data: bytearray, change: Change, durable: int = 0) -> tuple[int, int]:
    """Do to bytes what a change does; returns the range whose sectors may differ from what was flushed of it.

    Zeros over zeros beyond the `durable` size are none: most of a new segment.
    """
    start, end = change.position, change.position + change.size
    if change.kind == "truncate":
        before = len(data)
        del data[change.size :]
        data.extend(bytes(change.size - len(data)))
        return change.size, max(before, change.size)
    data.extend(bytes(max(0, end - len(data))))
    if change.kind == "write":
        data[start:end] = change.data
    elif change.kind == "reserve" or (start >= durable and data.count(0, start, end) == change.size):
        return start, start
    else:
        data[start:end] = bytes(change.size)
    return start, end


def _pieces(start: int, end: int, unit: int) -> Iterator[slice]:
    """A range cut where sectors begin; as a whole with unit 0, and then as sectors that are written as a whole."""
    if not unit:
        if start < end:
            yield slice(start - start % SECTOR, -(-end // SECTOR) * SECTOR)
        return
    for at in range(start - start % unit, end, unit):
        yield slice(at, at + unit)


def _size(sizes: Sequence[int], fate: Fate, draw: random.Random) -> int:
    """The flushed size, or with sizes by chance any that the file had, or a sector between."""
    if not fate.sizes or draw.random() < 0.5:
        return sizes[0]
    between = draw.randint(min(sizes), max(sizes)) // SECTOR * SECTOR
    return draw.choice((draw.choice(sizes), max(between, min(sizes))))


class _Directory:
    """Names as flushed, and what was done to them since: each step gives meanings to names, None removes one."""

    def __init__(self, names: Mapping[str, int] | None = None) -> None:
        self.durable: dict[str, int] = dict(names or {})
        self.pending: list[dict[str, int | None]] = []

    def flush(self) -> None:
        self.durable = self.cut(KEPT, _chance(0))
        self.pending.clear()

    def cut(self, fate: Fate, draw: random.Random) -> dict[str, int]:
        names: dict[str, int | None] = dict(self.durable)
        for step in self.pending:
            if fate.names and draw.random() < fate.names:
                names |= step
        return {name: inode for name, inode in names.items() if inode is not None}


class Disk:
    """A disk, change by change; `cut` says what a power cut now would leave.

    `lies(change)` makes a disk that reports a flush as done and has not done it.
    """

    def __init__(self, image: Image | None = None, lies: Callable[[Change], bool] | None = None) -> None:
        self._lies = lies
        self._count = 0
        self._files: dict[int, _File] = {}
        self._directories: dict[str, _Directory] = {"": _Directory()}
        if image is not None:
            self._directories |= {name: _Directory() for name in image.directories}
            for name in image.directories:
                self._name(name, DIRECTORY)
            for name, (inode, data) in image.files.items():
                self._files[inode] = _File(data)
                self._name(name, inode)
            for directory in self._directories.values():
                directory.flush()

    def apply(self, change: Change) -> None:
        """Take notice of one change."""
        self._count += 1
        if change.kind in ("flush", "flush directory") and self._lies is not None and self._lies(change):
            return
        if change.kind == "flush":
            self._files[change.inode].flush(self._count - 1 - change.size)
        elif change.kind == "flush directory":
            self._directories[change.name].flush()
        elif change.kind in ("create", "unlink", "mkdir"):
            self._entry(change)
        elif change.kind == "rename":
            self._rename(change)
        else:
            self._files[change.inode].apply(self._count - 1, change)

    def _entry(self, change: Change) -> None:
        if change.kind == "create":
            self._files[change.inode] = _File()
        if change.kind == "mkdir":
            self._directories[change.name] = _Directory()
        meaning = {"create": change.inode, "unlink": None, "mkdir": DIRECTORY}
        self._name(change.name, meaning[change.kind])

    def _name(self, name: str, inode: int | None) -> None:
        parent, _, last = name.rpartition("/")
        self._directories[parent].pending.append({last: inode})

    def _rename(self, change: Change) -> None:
        parent, _, last = change.name.rpartition("/")
        there, _, target = change.target.rpartition("/")
        assert parent == there, "an engine renames within a directory"
        self._directories[parent].pending.append({last: None, target: change.inode})

    def cut(self, fate: Fate) -> Image:
        """What is on the disk when the power comes back."""
        draw = _chance(fate.seed)
        directories = []
        files = {}
        for name, directory in sorted(self._directories.items()):
            parent, _, last = name.rpartition("/")
            if name:
                if parent and parent not in directories:
                    continue
                if self._directories[parent].cut(fate, _chance(f"{fate.seed} {parent}")).get(last) != DIRECTORY:
                    continue
                directories.append(name)
            for entry, inode in directory.cut(fate, _chance(f"{fate.seed} {name}")).items():
                if inode != DIRECTORY:
                    files[f"{name}/{entry}".lstrip("/")] = (inode, self._files[inode].cut(fate, draw))
        return Image(directories, files)


# The machine


class Machine:
    """While it lasts, this process runs on a machine of its own, whose disk is what lies below `root`.

    `changes` is what was done to it, `indexes[n]` the bytes of the index as it was when `changes[n]` was made, None
    where there was none. With an image, `root` holds its files when the block begins, and nothing else.
    """

    def __init__(self, root: Path, image: Image | None = None, *, boot: int = 0, index: Path | None = None) -> None:
        self.root = root
        self.changes: list[Change] = []
        self.indexes: list[bytes | None] = []
        self._boot = blake2b(f"boot {boot}".encode(), digest_size=16).digest()
        self._index = index
        self._inodes: dict[tuple[int, int], int] = {}
        self._lock = threading.RLock()
        self._real: dict[str, Any] = {}
        self._image = image
        used = [inode for inode, _ in image.files.values()] if image else []
        self._numbers = itertools.count(max(used, default=_FIRST_INODE) + 1)

    def __enter__(self) -> Self:
        if self._image is not None:
            self._bring_back(self._image)
        for name in ("identity", "path_identity", "boot_id", *_CHANGING):
            self._real[name] = getattr(disk, name)
            setattr(disk, name, getattr(self, f"_{name}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, function in self._real.items():
            setattr(disk, name, function)

    def _bring_back(self, image: Image) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        for name in image.directories:
            (self.root / name).mkdir()
        for name, (inode, data) in image.files.items():
            path = self.root / name
            path.write_bytes(data)
            status = path.stat()
            self._inodes[status.st_dev, status.st_ino] = inode

    def image(self) -> Image:
        """What lies below the root now: with power, and without what is derived."""
        found = [path for path in sorted(self.root.rglob("*")) if self._name(path) is not None]
        return Image(
            [str(path.relative_to(self.root)) for path in found if path.is_dir()],
            {
                str(path.relative_to(self.root)): (self._inode(path.stat()), path.read_bytes())
                for path in found
                if path.is_file()
            },
        )

    # What is recorded

    def _record(self, change: Change) -> None:
        self.indexes.append(self._look_at_index())
        self.changes.append(change)

    def _look_at_index(self) -> bytes | None:
        if self._index is None:
            return None
        try:
            found = self._index.read_bytes()
        except FileNotFoundError:
            return None
        return self.indexes[-1] if self.indexes and self.indexes[-1] == found else found

    def _name(self, path: Path) -> str | None:
        """A path as a disk's changes name it; None for what is not on it."""
        text, root = str(path), str(self.root)
        if text == root:
            return ""
        name = text.removeprefix(f"{root}/")
        return None if name == text or _DERIVED.search(name) else name

    def _inode(self, status: os.stat_result) -> int:
        key = (status.st_dev, status.st_ino)
        if key not in self._inodes:
            self._inodes[key] = next(self._numbers)
        return self._inodes[key]

    def _inode_of(self, fd: int) -> int | None:
        """The file of a descriptor if it is on this disk."""
        status = os.fstat(fd)
        return self._inodes.get((status.st_dev, status.st_ino))

    # In place of the functions of `disk`

    def _boot_id(self) -> bytes:
        return self._boot

    def _identity(self, fd: int) -> tuple[int, int]:
        with self._lock:
            return DEVICE, self._inode(os.fstat(fd))

    def _path_identity(self, path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        with self._lock:
            return DEVICE, INDEX_INODE if _DERIVED.search(path.name) else self._inode(status)

    def _open_file(self, path: Path, *, write: bool, create: bool = False) -> int:
        with self._lock:
            name = self._name(path)
            is_new = create and name is not None and not path.exists()
            fd: int = self._real["open_file"](path, write=write, create=create)
            if is_new and name is not None:
                status = os.fstat(fd)
                self._inodes.pop((status.st_dev, status.st_ino), None)  # of a file that was removed
                self._record(Change("create", self._inode(status), name=name))
            return fd

    def _write(self, fd: int, buffers: Sequence[bytes | memoryview], position: int, size: int) -> None:
        with self._lock:
            self._real["write"](fd, buffers, position, size)
            self._note(fd, Change("write", position=position, size=size, data=b"".join(buffers)))

    def _fill_with_zeros(self, fd: int, start: int, end: int) -> None:
        with self._lock:
            self._real["fill_with_zeros"](fd, start, end)
            self._note(fd, Change("zeros", position=start, size=end - start))

    def _reserve(self, fd: int, start: int, end: int) -> None:
        with self._lock:
            self._real["reserve"](fd, start, end)
            self._note(fd, Change("reserve", position=start, size=end - start))

    def _truncate(self, fd: int, size: int) -> None:
        with self._lock:
            self._real["truncate"](fd, size)
            self._note(fd, Change("truncate", size=size))

    def _flush(self, fd: int) -> None:
        began = len(self.changes)
        self._real["flush"](fd)  # others write meanwhile
        with self._lock:
            self._note(fd, Change("flush", size=len(self.changes) - began))

    def _note(self, fd: int, change: Change) -> None:
        inode = self._inode_of(fd)
        if inode is not None:
            self._record(change._replace(inode=inode))

    def _flush_directory(self, path: Path) -> None:
        with self._lock:
            self._real["flush_directory"](path)
            name = self._name(path)
            if name is not None:
                self._record(Change("flush directory", name=name))

    def _rename(self, source: Path, target: Path) -> None:
        with self._lock:
            inode = self._inode(source.stat())
            self._real["rename"](source, target)
            names = self._name(source), self._name(target)
            if names[0] is not None and names[1] is not None:
                self._record(Change("rename", inode, name=names[0], target=names[1]))

    def _unlink(self, path: Path) -> None:
        with self._lock:
            was_there = path.exists()
            self._real["unlink"](path)
            name = self._name(path)
            if was_there and name is not None:
                self._record(Change("unlink", name=name))

    def _make_directory(self, path: Path, mode: int = 0o755) -> None:
        with self._lock:
            new = [one for one in (path, *path.parents) if self._name(one) and not one.exists()]
            self._real["make_directory"](path, mode)
            for one in reversed(new):
                name = self._name(one)
                if name is not None:
                    self._record(Change("mkdir", name=name))


_CHANGING: Final = (
    "open_file", "write", "fill_with_zeros", "reserve", "truncate", "flush", "flush_directory", "rename", "unlink",
    "make_directory",
)  # fmt: skip


# The index beside it


def mixed(moments: Sequence[bytes], draw: random.Random) -> bytes:
    """An index whose pages are each of another moment, as a power cut may leave one that was not flushed."""
    newest = bytearray(moments[-1])
    for at in range(0, len(newest), PAGE):
        found = draw.choice(moments)[at : at + PAGE]
        newest[at : at + len(found)] = found
    return bytes(newest)


@contextlib.contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A directory for images, in memory where the system has such a place; removed at the end."""
    import tempfile  # noqa: PLC0415  (only here)

    memory = Path("/dev/shm")  # noqa: S108  (a private directory is made in it)
    base = parent or (memory if memory.is_dir() and os.access(memory, os.W_OK) else None)
    path = Path(tempfile.mkdtemp(prefix="kafkalite-power-", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
