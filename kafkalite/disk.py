"""The disk and the machine: the one module that calls the system for files, maps and locks.

Everything the engine does to a file goes through a function here, so a test can count the steps, make one fail, or
kill the process at it: `on_step`, when set, is called with the step's name before each one that changes anything,
`on_look` before each one that only opens, maps or reads a file. What either raises is treated as the system's error.

What differs on macOS (best effort, not tested): `F_FULLFSYNC` for a flush, `flock`-free OFD locks are missing there,
so opening a store raises `UnsupportedError` unless the platform has them.
"""

import contextlib
import errno
import functools
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from kafkalite.errors import NotAStoreError, StoreFullError, StorePermissionError, UnsupportedError

if sys.platform == "win32":  # pragma: no cover
    raise UnsupportedError(
        "kafkalite runs on Linux (and, best effort, macOS): Windows lacks the file locks it rests on"
    )

import fcntl  # not above: absent on Windows, where that sentence is what is to be read

on_step: Callable[[str], None] | None = None
"""A test's hook: called with the name of each step that changes the disk, before it happens."""
on_look: Callable[[str], None] | None = None
"""A test's hook: called with the name of each step that changes nothing, and may fail all the same."""

IOV_MAX: Final = 1024
_pwritev: Callable[[int, Sequence[bytes | memoryview], int], int] = os.pwritev
ZEROS: Final = bytes(1024 * 1024)
PAGE: Final = mmap.PAGESIZE
NETWORK_FILE_SYSTEMS: Final = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "ncpfs",
        "9p",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "ocfs2",
        "gfs2",
        "beegfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "fuse.rclone",
    )
)

_READ_ONLY_ERRNOS: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def step(name: str) -> None:
    """Tell the hook, if there is one, what comes next."""
    if on_step is not None:
        on_step(name)


def look(name: str) -> None:
    """Tell the other hook, if there is one, what comes next."""
    if on_look is not None:
        on_look(name)


def as_ours(error: OSError, doing: str) -> Exception:
    """The system's errors for "full" and "not allowed" as ours, any other as it is; `doing` names action and path."""
    if error.errno in _FULL_ERRNOS:
        return StoreFullError(f"{doing}: {error.strerror}: free space, then try again")
    if error.errno in _READ_ONLY_ERRNOS:
        return StorePermissionError(
            f"{doing}: {error.strerror}: grant the permission, or open a cleanly closed store with read_only=True"
        )
    return error


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """`as_ours` for whatever a block raises."""
    try:
        yield
    except OSError as error:
        ours = as_ours(error, doing)
        if ours is error:
            raise
        raise ours from error


# Files


def open_file(path: Path, *, write: bool, create: bool = False) -> int:
    """A descriptor, never inherited by programs that are started."""
    flags = os.O_RDWR if write else os.O_RDONLY
    with translated(f"cannot open {path}"):
        if create:
            step(f"create {path.name}")
        else:
            look(f"open {path.name}")
        return os.open(path, flags | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)


def close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


def write(fd: int, buffers: Sequence[bytes | memoryview], position: int, size: int) -> None:
    """Write all buffers, of `size` bytes together, from `position` on, however the system slices it."""
    if on_step is not None:
        on_step("write")
    written = _pwritev(fd, buffers if len(buffers) <= IOV_MAX else buffers[:IOV_MAX], position)
    if written != size:
        _write_rest(fd, buffers, position, written)


def _write_rest(fd: int, buffers: Sequence[bytes | memoryview], position: int, written: int) -> None:
    rest = [memoryview(buffer) for buffer in buffers]
    while True:
        position += written
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if not rest:
            return
        rest[0] = rest[0][written:]
        step("write on")
        written = _pwritev(fd, rest[:IOV_MAX], position)


def read(fd: int, size: int, position: int) -> bytes:
    """At most `size` bytes from `position` on; fewer only at the file's end."""
    parts = []
    while size > 0:
        look("read")
        part = os.pread(fd, min(size, 1 << 30), position)
        if not part:
            break
        parts.append(part)
        size -= len(part)
        position += len(part)
    return b"".join(parts)


def flush(fd: int) -> None:
    """Return when the file's bytes, and what is needed to find them, are on the disk; raises OSError when not."""
    step("flush")
    if sys.platform == "darwin":  # pragma: no cover
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def flush_directory(path: Path) -> None:
    """Make creations, renames and removals in a directory durable."""
    step("flush directory")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fill_with_zeros(fd: int, start: int, end: int) -> None:
    """Write zeros over [start, end): written extents survive a failed write-back where preallocated ones do not."""
    while start < end:
        step("zeros")
        start += _pwritev(fd, (ZEROS[: end - start],), start)


def reserve(fd: int, start: int, end: int) -> None:
    """Give [start, end) space on the disk, reading as zeros, without writing it."""
    step("reserve")
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, end - start)
    else:  # pragma: no cover
        fill_with_zeros(fd, start, end)


def truncate(fd: int, size: int) -> None:
    step("truncate")
    os.ftruncate(fd, size)


def file_size(fd: int) -> int:
    """The file's size, without `fstat`.

    On kernels with multigrain timestamps a stat makes the next write stamp the inode anew, and the flush after that
    commit the file system's journal too: 60 µs more on a flush of 120.
    """
    return os.lseek(fd, 0, os.SEEK_END)


class OpenFile:
    """A descriptor that is closed when nobody holds it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        close(self.fd)


def identity(fd: int) -> tuple[int, int]:
    """(device, inode): the file itself, whatever its names."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def path_identity(path: Path) -> tuple[int, int] | None:
    """(device, inode) of what a path names now, or None."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def path_size(path: Path) -> int:
    """The size of what a path names; 0 when there is nothing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def link_count(fd: int) -> int:
    return os.fstat(fd).st_nlink


def rename(source: Path, target: Path) -> None:
    step(f"rename {source.name}")
    source.rename(target)


def unlink(path: Path) -> None:
    """Remove a file if it is there."""
    step(f"unlink {path.name}")
    path.unlink(missing_ok=True)


def make_directory(path: Path, mode: int = 0o755) -> None:
    with translated(f"cannot create the directory {path}"):
        step(f"mkdir {path.name}")
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError) as error:
            raise NotAStoreError(f"{error.filename} is a file and no directory: choose another path") from error


def remove_files(directory: Path) -> None:
    """Remove a directory of files, of which none counts; what cannot be removed stays, and the directory with it."""
    with contextlib.suppress(OSError):
        for entry in list(directory.iterdir()):
            with contextlib.suppress(OSError):
                entry.unlink()
        directory.rmdir()


def open_directory(path: Path) -> int:
    look(f"open {path.name}")
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def may_write(path: Path) -> bool:
    return os.access(path, os.W_OK)


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def used_bytes(path: Path) -> int:
    """Bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


# Maps

Map = mmap.mmap


def map_read_only(fd: int, start: int, size: int) -> Map:
    """A read-only map of [start, start + size); `start` is a multiple of the page size."""
    look("map")
    return mmap.mmap(fd, size, access=mmap.ACCESS_READ, offset=start)


def find(data: bytes | Map, what: bytes, start: int) -> int:
    """Where something longer than a byte is, from `start` on; -1 when nowhere, and where it ends with the last byte.

    That byte is left out because Python before 3.11.5 looks at one more than it searches (python/cpython#105235), and
    behind a map there may be nothing: SIGSEGV.
    """
    return data.find(what, start, len(data) - 1)


def map_shared(fd: int, size: int) -> Map:
    """A map that all processes write and read."""
    look("map")
    return mmap.mmap(fd, size)


# Locks: open file description byte ranges (fcntl(2), F_OFD_SETLK)

_FLOCK: Final = struct.Struct("@hhqqi4x")
_SET_LOCK: Final = getattr(fcntl, "F_OFD_SETLK", None)
_GET_LOCK: Final = getattr(fcntl, "F_OFD_GETLK", None)
LOCK_CONFLICTS: Final = (errno.EAGAIN, errno.EACCES)


def lock_call(fd: int, byte: int, *, exclusive: bool = True) -> Callable[[], object]:
    """A call that takes the lock now, or raises OSError with one of `LOCK_CONFLICTS`: made once, called often."""
    if _SET_LOCK is None:  # pragma: no cover
        raise UnsupportedError("this platform has no open-file-description locks (Linux has them since 3.15)")
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    return functools.partial(fcntl.fcntl, fd, _SET_LOCK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def unlock_call(fd: int, byte: int) -> Callable[[], object]:
    """A call that lets the lock go; harmless when it is not held."""
    if _SET_LOCK is None:  # pragma: no cover
        raise UnsupportedError("this platform has no open-file-description locks (Linux has them since 3.15)")
    return functools.partial(fcntl.fcntl, fd, _SET_LOCK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))


def is_taken(take: Callable[[], object]) -> bool:
    """Call a `lock_call`; False when another open file description has the lock."""
    try:
        take()
    except OSError as error:
        if error.errno in LOCK_CONFLICTS:
            return False
        raise
    return True


def is_locked(fd: int, byte: int) -> bool:
    """Whether another open file description has a lock on the byte; takes none."""
    if _GET_LOCK is None:  # pragma: no cover
        raise UnsupportedError("this platform has no open-file-description locks (Linux has them since 3.15)")
    said = fcntl.fcntl(fd, _GET_LOCK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return bool(_FLOCK.unpack(said)[0] != fcntl.F_UNLCK)


# The machine


def process_id() -> int:
    return os.getpid()


def process_state(pid: int) -> str:
    """A word for what a process is doing, for error messages: running, stopped, gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone or of another user"
    return {"T": "stopped", "t": "stopped by a debugger", "Z": "ended", "D": "waiting for its disk"}.get(
        fields[0], "running"
    )


def boot_id() -> bytes:
    """16 bytes that change with every boot; zeros where the system does not say."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def pid_namespace() -> int:
    """The number of this process's PID namespace; 0 where there are none."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def file_system_type(path: Path) -> str:
    """The type of the file system that a real path lies on, as mount(8) names it; "" when unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, found = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].encode().decode("unicode_escape"))
        depth = len(mount.parts)
        if depth >= best and (path == mount or mount in path.parents):
            best, found = depth, after.split()[0]
    return found


def random_bytes(size: int) -> bytes:
    return os.urandom(size)


at_fork = os.register_at_fork


# Copies

_NOT_COPIED_BY_THE_KERNEL: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100


def copy_range(source: int, start: int, target: int, at: int, size: int) -> int:
    """Copy at most `size` bytes from `source` at `start` to `target` at `at`; returns how many, 0 at the source's end.

    The kernel copies, and where it can it shares the blocks; between file systems that it cannot, through memory.
    """
    step("copy")
    if hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, target, size, start, at)
        except OSError as error:
            if error.errno not in _NOT_COPIED_BY_THE_KERNEL:
                raise
        else:
            if copied:  # 0 is the end, or a file system that cannot: reading tells which
                return copied
    data = os.pread(source, min(size, len(ZEROS)), start)
    return os.pwrite(target, data, at) if data else 0


def rename_new(source: Path, target: Path) -> None:
    """Rename; raises `FileExistsError` when something has the new name, and replaces nothing."""
    step(f"rename {source.name}")
    import ctypes  # noqa: PLC0415  (rarely used, and not cheap to import)

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        if not call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):  # the file system, the kernel: cannot promise it
            raise OSError(number, os.strerror(number), os.fspath(target))
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
    source.rename(target)


def remove_directory(path: Path) -> None:
    """Remove an empty directory."""
    step(f"rmdir {path.name}")
    path.rmdir()


def exchange(one: Path, other: Path) -> None:
    """Exchange what two names of one file system mean, in one step; raises `UnsupportedError` where that cannot be."""
    step(f"exchange {one.name}")
    import ctypes  # noqa: PLC0415  (rarely used, and not cheap to import)

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    number = errno.ENOSYS
    if call is not None:
        if not call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
            return
        number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), os.fspath(one))
    raise UnsupportedError(
        f"the file system of {one} cannot exchange two names in one step: copy the store to one that can (ext4, xfs, "
        "btrfs, tmpfs) and repair it there"
    )


def link(existing: Path, name: Path) -> None:
    """Give a file a second name."""
    step(f"link {existing.name}")
    name.hardlink_to(existing)
