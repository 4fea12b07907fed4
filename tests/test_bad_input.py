"""Bad input: what users, disks and signals do to a store, and what the error says: the thing, the value and the fix."""

import contextlib
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import (
    ConfigError,
    ForkedError,
    KafkaliteError,
    NotAStoreError,
    Store,
    StoreLocationError,
    StorePermissionError,
    StoreVersionError,
    disk,
)
from kafkalite.records.checksum import hash64
from kafkalite.storage import superblock
from kafkalite.testing import procs
from kafkalite.testing.procs import Child

OpenStore = Callable[..., Store]


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


# Settings


SCOPES: dict[str, Callable[..., Any]] = {
    "store": lambda store, **given: kafkalite.connect(store.path, **given),
    "store alter": lambda store, **given: store.alter(**given),
    "topic": lambda store, **given: store.topic("t", **given),
    "topic alter": lambda store, **given: store.topic("altered").alter(**given),
    "producer": lambda store, **given: store.producer(**given),
}
TYPOS = {
    "store": ("flush_intervall_ms", "flush_interval_ms"),
    "store alter": ("segment_byte", "segment_bytes"),
    "topic": ("retenton_ms", "retention_ms"),
    "topic alter": ("max_mesage_bytes", "max_message_bytes"),
    "producer": ("linger", "linger_ms"),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_an_unknown_setting_asks_did_you_mean_in_both_forms(store: Store, scope: str) -> None:
    wrong, right = TYPOS[scope]
    for given, shown in (({wrong: 1}, wrong), ({"config": {wrong.replace("_", "."): 1}}, wrong.replace("_", "."))):
        with pytest.raises(ConfigError) as caught:
            SCOPES[scope](store, **given)
        assert f"unknown {scope.split(maxsplit=1)[0]} setting {shown!r}: did you mean {right!r}?" in str(caught.value)
    assert "t" not in store.topics()


VALID = {
    "store": ("flush_interval_ms", 1000),
    "store alter": ("flush_interval_ms", 5),
    "topic": ("retention_ms", 5),
    "topic alter": ("retention_ms", 5),
    "producer": ("linger_ms", 5),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_setting_given_in_both_forms_is_refused(store: Store, scope: str) -> None:
    name, value = VALID[scope]
    with pytest.raises(ConfigError, match=f"{name.replace('_', '.')}.*given twice"):
        SCOPES[scope](store, **{name: value, "config": {name.replace("_", "."): value}})


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("value", [None, [], {}, True, b"5", "soon", -2, 2**70])
def test_a_wrong_value_is_named_with_its_setting(store: Store, scope: str, value: Any) -> None:
    name, _ = VALID[scope]
    with pytest.raises(ConfigError) as caught:
        SCOPES[scope](store, **{name: value})
    assert f"{name}={value!r}" in str(caught.value) or f"{name}={float(value)!r}" in str(caught.value)
    assert "give" in str(caught.value)


@pytest.mark.parametrize("durability", ["always", "", 5, True, b"commit"])
def test_a_durability_that_is_none_is_refused_and_nothing_is_created(tmp_path: Path, durability: Any) -> None:
    with pytest.raises(ConfigError, match="durability="):
        kafkalite.connect(tmp_path / "s.klite", durability=durability)
    assert list(tmp_path.iterdir()) == []


# Paths


def sound(path: Path) -> bytes:
    """A sound store with one record, closed; gives the bytes of the file."""
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"v")
        assert store.check().ok
    return path.read_bytes()


def _text(path: Path) -> None:
    path.write_bytes(b"not a store, and long enough to be one: " * 1000)


def _short(path: Path) -> None:
    path.write_bytes(b"x")


def _sqlite(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("create table t (a)")
    database.close()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
        server.bind(path.name)  # an absolute path may be too long for a socket


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


# Once broken: the system's ENXIO comes out as it is.
@pytest.mark.parametrize(
    "make", [_text, _short, _sqlite, _fifo, _socket, _directory], ids=lambda make: make.__name__[1:]
)
@pytest.mark.parametrize("settings", [{}, {"create": False}, {"read_only": True}], ids=str)
def test_what_is_no_store_is_named_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], settings: dict[str, Any]
) -> None:
    path = tmp_path / "thing.klite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises((NotAStoreError, StorePermissionError), match=r"thing\.klite") as caught:
        kafkalite.connect(path, **settings)
    assert isinstance(caught.value, OSError)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["thing.klite"]


# Once broken: a directory `superblock-run` is made beside the superblock, and stays.
def test_a_file_of_a_store_is_not_the_store(open_store: OpenStore, tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.topic("t").append(b"v")
    before = sorted(path.name for path in (tmp_path / "s").iterdir())
    for name in before:
        with pytest.raises(KafkaliteError):
            kafkalite.connect(tmp_path / "s" / name)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == before
    with open_store(tmp_path / "s") as store:
        assert [record.value for record in store.topic("t").read()] == [b"v"]


# Once broken: mkdir's NotADirectoryError, FileExistsError and their like come out as they are.
@pytest.mark.parametrize("rest", ["s.klite", "deeper/s.klite", "s/"])
def test_a_path_that_leads_through_a_file_is_an_error_that_names_it(tmp_path: Path, rest: str) -> None:
    (tmp_path / "file.txt").write_text("in the way")
    with pytest.raises(KafkaliteError, match=r"file\.txt"):
        kafkalite.connect(f"{tmp_path}/file.txt/{rest}")


@pytest.mark.parametrize("wrong", [None, 5, b"path.klite", ["s.klite"], 1.5])
def test_a_target_that_is_no_path_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError):
        kafkalite.connect(wrong)


def test_an_empty_path_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KafkaliteError):
        kafkalite.connect("").close()
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.klite"
    sound(path)
    data = newer(path)
    for settings in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(StoreVersionError, match="format 2, this kafkalite knows 1: upgrade") as caught:
            kafkalite.connect(path, **settings)
        assert "s.klite" in str(caught.value)  # fails: which store it is, is not said
    assert path.read_bytes() == data


def newer(path: Path) -> bytes:
    """Make a store one of a later format version, its checksums being right."""
    data = bytearray(path.read_bytes())
    for start in range(0, superblock.SIZE, superblock.SLOT_SIZE):
        if data[start : start + 8] == superblock.MAGIC:
            struct.pack_into(">H", data, start + 8, superblock.FORMAT_VERSION + 1)
            end = start + superblock.SLOT_SIZE - 8
            struct.pack_into(">Q", data, end, hash64(bytes(data[start:end])))
    path.write_bytes(data)
    return bytes(data)


# Once broken: the page of `run/` stays open, and mapped for writing, while anything refers to the closed store.
def test_a_closed_store_holds_nothing_of_the_disk(tmp_path: Path) -> None:
    with kafkalite.connect(tmp_path / "s") as store:
        store.topic("t").append(b"v")
        assert store.check().ok
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    open_files = subprocess.run(["ls", "-l", f"/proc/{os.getpid()}/fd"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in open_files.stdout


def test_a_hard_link_is_refused_with_the_reason(tmp_path: Path) -> None:
    sound(tmp_path / "s.klite")
    (tmp_path / "second.klite").hardlink_to(tmp_path / "s.klite")
    with pytest.raises(StoreLocationError, match="2 hard links: remove the others, or copy the store"):
        kafkalite.connect(tmp_path / "s.klite")
    (tmp_path / "second.klite").unlink()
    sound(tmp_path / "s.klite")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(disk, "file_system_type", lambda _: kind)
    for path in (tmp_path / "s.klite", tmp_path / "no" / "such" / "place"):
        with pytest.raises(StoreLocationError, match=rf"network file system \({kind}\).*local disk"):
            kafkalite.connect(path)
    assert list(tmp_path.iterdir()) == []


# Calls


def test_one_name_where_several_belong_is_not_taken_for_its_letters(store: Store) -> None:
    store.topic("a")
    store.topic("b")
    name: Any = "ab"
    with pytest.raises(ConfigError, match=r"\['ab'\]"):
        store.read(name)


@pytest.mark.parametrize("wrong", [5, None, b"t", [5], [None]])
def test_topics_that_are_none_are_refused(store: Store, wrong: Any) -> None:
    with pytest.raises((KafkaliteError, TypeError)):
        store.read(wrong)


# Permissions


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that other users may read, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="kafkalite-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


AS_NOBODY = """
import os, pwd, sys
sys.dont_write_bytecode = True
import kafkalite
with kafkalite.connect(":memory:") as warm:  # all that is imported late: nobody may not read where Python lies
    warm.topic("t").append(b"v")
    list(warm.topic("t").read())
nobody = pwd.getpwnam("nobody")
os.setgroups([]); os.setgid(nobody.pw_gid); os.setuid(nobody.pw_uid)
path, read_only = sys.argv[1], sys.argv[2] == "True"
try:
    with kafkalite.connect(path, read_only=read_only) as store:
        print("read", [record.value for record in store.topic("t", create=False).read()])
        store.topic("t", create=False).append(b"written")
except kafkalite.KafkaliteError as error:
    print("error", type(error).__name__, error)
"""


def as_nobody(path: Path, *, read_only: bool = False) -> list[str]:
    with procs.python(AS_NOBODY, path, read_only, cwd=Path("/")) as child:
        return child.succeed()


def make_sound(path: Path) -> Path:
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"v")
        assert store.check().ok
    return path


@pytest.mark.needs("root", "nobody")
@pytest.mark.parametrize("name", ["s.klite", "s"])
def test_a_store_that_may_only_be_read_is_read_and_not_written(open_to_all: Path, name: str) -> None:
    path = make_sound(open_to_all / name)
    (opened,) = as_nobody(path)
    assert opened.startswith("error StorePermissionError"), opened
    assert name in opened
    assert "read_only=True" in opened
    found, refused = as_nobody(path, read_only=True)
    assert found == "read [b'v']"
    assert refused.startswith("error StorePermissionError"), refused
    assert "read_only" in refused or "reading only" in refused


@pytest.mark.needs("root", "nobody")
@pytest.mark.parametrize("name", ["s.klite", "s"])
def test_a_store_that_may_not_even_be_read_is_refused(open_to_all: Path, name: str) -> None:
    path = make_sound(open_to_all / name)
    (path if path.is_file() else path / "superblock").chmod(0o600)
    for read_only in (False, True):
        (refused,) = as_nobody(path, read_only=read_only)
        assert refused.startswith("error StorePermissionError"), refused
        assert name in refused


@pytest.mark.needs("root", "nobody")
@pytest.mark.parametrize("name", ["new.klite", "new", "deep/new.klite"])
def test_a_place_that_may_not_be_written_gets_no_store(open_to_all: Path, name: str) -> None:
    (refused,) = as_nobody(open_to_all / name)
    assert refused.startswith("error StorePermissionError"), refused
    assert "Permission denied" in refused
    assert list(open_to_all.iterdir()) == []


@pytest.mark.needs("root", "nobody")
@pytest.mark.parametrize("name", ["s.klite", "s"])
def test_a_store_that_is_open_elsewhere_is_not_read_without_permission_to_lock_it(open_to_all: Path, name: str) -> None:
    with kafkalite.connect(open_to_all / name) as store:
        store.topic("t").append(b"v")
        (refused,) = as_nobody(open_to_all / name, read_only=True)
        assert refused.startswith("error StorePermissionError"), refused
        assert "not closed cleanly" in refused
        assert store.check().ok


# Mounted file systems


IN_OWN_MOUNTS = """
import gc, os, subprocess, sys
import kafkalite

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

where = sys.argv[1]
mount("--make-rprivate", "/")
"""

READ_ONLY = """
mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", where)
for name in ("s.klite", "s"):
    with kafkalite.connect(f"{where}/{name}") as store:
        store.topic("t").append(b"v")
del store
gc.collect()
mount("-o", "remount,ro", where)
for name in ("s.klite", "s"):
    with kafkalite.connect(f"{where}/{name}", read_only=True) as store:
        print("read", [record.value for record in store.topic("t").read()], store.check().ok)
        try:
            store.topic("t").append(b"w")
        except kafkalite.StorePermissionError as error:
            print("append", error)
    try:
        kafkalite.connect(f"{where}/{name}")
    except kafkalite.StorePermissionError as error:
        print("connect", error)
try:
    kafkalite.connect(f"{where}/new.klite")
except kafkalite.StorePermissionError as error:
    print("create", error)
"""

FULL = """
mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", where)
for name in ("s.klite", "s"):
    with kafkalite.connect(f"{where}/{name}") as store:
        topic = store.topic("t")
        topic.append(b"first")
        with open(f"{where}/ballast", "wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass
        count = 1
        try:
            while True:
                topic.append(bytes(100_000))
                count += 1
        except kafkalite.StoreFullError as error:
            print("full", error.errno, error)
        print("read", len(list(topic.read())) == count, store.check().ok)
        with store.producer(delivery_timeout_ms=50) as producer:
            error = producer.send(topic, bytes(100_000)).exception(30)
            print("send", type(error).__name__)
        os.unlink(f"{where}/ballast")
        print("again", topic.append(b"last").offset == count, store.check().ok)
    for path in os.listdir(where):
        subprocess.run(["rm", "-r", f"{where}/{path}"], check=True)
"""


def in_own_mounts(code: str, where: Path) -> list[str]:
    """What a child prints that may mount what it likes, for itself alone."""
    command = ["unshare", "--mount", sys.executable, "-u", "-c", IN_OWN_MOUNTS + code, str(where)]
    with Child(command) as child:
        return child.succeed()


@pytest.mark.needs("root", "mount")
def test_a_store_on_a_read_only_medium_is_read_and_not_written(tmp_path: Path) -> None:
    said = in_own_mounts(READ_ONLY, tmp_path)
    assert [line for line in said if line.startswith("read")] == ["read [b'v'] True"] * 2
    refused = [line for line in said if not line.startswith("read")]
    assert [line.split()[0] for line in refused] == ["append", "connect", "append", "connect", "create"]
    for line in refused:
        assert str(tmp_path) in line
        assert "reading only" in line or "Read-only file system" in line or "read_only=True" in line


@pytest.mark.needs("root", "mount")
def test_a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    said = in_own_mounts(FULL, tmp_path)
    assert [line.split()[0] for line in said] == ["full", "read", "send", "again"] * 2
    for line in said:
        if line.startswith("full"):
            assert "free space" in line
        elif line.startswith("send"):
            assert line == "send StoreFullError"
        else:
            assert line.endswith("True True")


@pytest.mark.needs("root", "unshare")
def test_a_store_open_in_another_pid_namespace_is_refused(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "s.klite"
    code = "import kafkalite, sys\nwith kafkalite.connect(sys.argv[1]) as store:\n    print('ready')\n    input()\n"
    unshare = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
        "-u",
        "-c",
        code,
        str(path),
    ]
    with Child(unshare) as child:
        child.wait_for("ready")
        with pytest.raises(StoreLocationError, match=r"s\.klite is open in another PID namespace .*one namespace"):
            kafkalite.connect(path)
        child.say("")
        child.succeed()
    assert open_store(path).topics() == []


# Forks


def in_fork(work: Callable[[], object]) -> str:
    """What `work` gives, or raises, in a forked child."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            try:
                said = repr(work())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(send, said.encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_in_a_forked_child_topics_work_and_iterators_and_deliveries_do_not(store: Store) -> None:
    topic = store.topic("t")
    topic.append_many([b"1"])
    topic.append_many([b"2"])
    records, batches = topic.read(until=None), topic.batches()
    next(records), next(batches)
    producer = store.producer(linger_ms=3_600_000)
    delivery = producer.send(topic, b"the parent's")
    assert in_fork(lambda: topic.append(b"3").offset) == "2"
    assert in_fork(lambda: [record.value for record in topic.read()]) == "[b'1', b'2', b'3']"
    for use in (lambda: next(batches), lambda: next(records), lambda: delivery.result(5)):
        said = in_fork(use)
        assert said.startswith(ForkedError.__name__), said
        assert "parent" in said
    assert next(records).value == b"2"
    assert delivery.result(60).offset == 3
    producer.close()
    assert [record.value for record in topic.read()] == [b"1", b"2", b"3", b"the parent's"]


def test_in_a_forked_child_a_producer_begins_empty_with_another_identity(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=3_600_000) as producer:
        producer.send(topic, b"1").result()
        producer.send(topic, b"the parent's")

        def work() -> int:
            producer.send(topic, b"the child's")
            producer.flush(60)
            return producer._queue._producer_id

        said = in_fork(work)
        assert said.isdigit(), said
        assert int(said) != producer._queue._producer_id
        assert [record.value for record in topic.read()] == [b"1", b"the child's"]
    assert [record.value for record in topic.read()] == [b"1", b"the child's", b"the parent's"]
