"""F4: the disk full under the index's map and under the journal, at many fill levels; a file cut before it is read.

A small tmpfs is mounted in a child process, in mounts of its own. For each number of bytes that are left free, a store
that is open appends until it is refused, and a store that is closed is opened: an error that says so, or an answer;
what was acknowledged is there, and once there is space the store goes on. No level may end the process.
"""

import sys
from pathlib import Path

import pytest

import kafkalite
from kafkalite.storage.journal import Journal
from kafkalite.storage.segment import BYTE_MASK
from kafkalite.testing import damage
from kafkalite.testing.procs import Child
from tests.faults import small_store
from tests.faults.ledger import LEDGER
from tests.faults.small_store import LAYOUTS, forked
from tests.storage.kit import extents_of

FAULT_CLASS = "F4"

CHILD = """
import os, subprocess, sys
from pathlib import Path
import kafkalite
from kafkalite import disk
from tests.faults.small_store import forked

where, name, durability = sys.argv[1:4]
path, ballast = f"{where}/disk/{name}", f"{where}/disk/ballast"
os.mkdir(f"{where}/disk")
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", f"{where}/disk"], check=True)

def fill(left):
    free = disk.free_bytes(Path(f"{where}/disk"))
    with open(ballast, "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - left))

def values(store):
    if "t" not in store.topics():
        return []
    return [record.value for record in store.topic("t", create=False).read()]

def append_until_full(left, size):
    acknowledged = []
    with kafkalite.connect(path, durability=durability) as store:
        topic = store.topic("t", partitions=2)
        acknowledged += values(store)
        before = len(acknowledged)
        fill(left)
        refused = ""
        try:
            for number in range(3000):
                value = b"%d.%d " % (left, number) + bytes(size)
                topic.append(value, partition=0)
                acknowledged.append(value)
        except kafkalite.KafkaliteError as error:
            refused = type(error).__name__
        if values(store) != acknowledged:
            return "wrong: while full"
        os.unlink(ballast)
        topic.append(b"goes on", partition=0)
        acknowledged.append(b"goes on")
        if values(store) != acknowledged or not store.check().ok:
            return f"wrong: once there was space, {refused} {len(acknowledged)} {len(values(store))} {store.check()}"
    with kafkalite.connect(path) as store:
        if values(store) != acknowledged or not store.check().ok:
            return "wrong: opened again"
    return f"right {refused} {len(acknowledged) - before}"

def open_when_full(left, rebuild):
    with kafkalite.connect(path, durability=durability) as store:
        store.topic("t", partitions=2)
        expected = values(store)
    if rebuild:
        os.unlink(f"{path}/index" if os.path.isdir(path) else f"{path}-index")
    fill(left)
    refused = ""
    try:
        with kafkalite.connect(path) as store:
            if values(store) != expected:
                return "wrong: opened on a full disk"
    except (kafkalite.KafkaliteError, OSError) as error:
        refused = type(error).__name__
    os.unlink(ballast)
    with kafkalite.connect(path) as store:
        if values(store) != expected or not store.check().ok:
            return "wrong: once there was space"
    return f"right {refused} {len(expected)}"

def clear():
    for entry in os.listdir(f"{where}/disk"):
        subprocess.run(["rm", "-r", f"{where}/disk/{entry}"], check=True)

for size in (10, 3000, 60_000):
    for left in (0, 4096, 12_288, 40_960, 120_000, 300_000, 600_000, 1_200_000):
        print("append", size, left, forked(lambda: append_until_full(left, size)), flush=True)
        clear()
for left in range(0, 200_000, 8192):
    for rebuild in (False, True):
        print("open", rebuild, left, forked(lambda: open_when_full(left, rebuild)), flush=True)
        clear()
"""


@pytest.mark.needs("root", "mount", "unshare")
@pytest.mark.parametrize(
    ("name", "durability"),
    [
        ("s.klite", "commit"),
        ("s", "none"),
        pytest.param("s", "commit", marks=pytest.mark.long),
        pytest.param("s.klite", "none", marks=pytest.mark.long),
    ],
)
def test_a_full_disk_at_every_level(tmp_path: Path, name: str, durability: str) -> None:
    """Refused with a word about space, nothing acknowledged lost, and on it goes; however much was free.

    Of level `commit` too: what was appended needs no more space to be published.
    """
    command = ["unshare", "--mount", sys.executable, "-u", "-c", CHILD, str(tmp_path), name, durability]
    with Child(command, cwd=Path(__file__).parents[2]) as child:
        said = child.succeed(timeout=300)
    assert len(said) == 3 * 8 + 2 * 25
    bad = []
    for line in said:
        what, how, left, result = line.split(" ", 3)
        LEDGER.fault(f"{what} {how} {name} {durability}", left, "disk full")
        LEDGER.dead(result.startswith("signal"))
        LEDGER.wrong(result.startswith("wrong"))
        if not result.startswith("right"):
            bad.append(line)
        else:
            LEDGER.acknowledged(int(result.split()[-1]))
    assert bad == []
    assert sum("StoreFullError" in line for line in said) > 10, said


# A file that is cut while the store is open


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_segment_cut_under_an_open_store_before_it_is_read(tmp_path: Path, name: str) -> None:
    """The size is compared before each read: an error that names the segment, never SIGBUS; whole again, it is read."""
    path = tmp_path / name
    truth = small_store.make(path)
    for is_mapped in (False, True):
        for length in (*range(0, small_store.SEGMENT_SIZE, 512), 95, 97, 4095):
            said = forked(lambda: cut_and_read(truth, length, is_mapped=is_mapped))  # noqa: B023  (called at once)
            LEDGER.fault(f"read {name} {is_mapped}", length, "cut in use")
            LEDGER.dead(said.startswith("signal"))
            assert said == "right", (length, is_mapped, said)
    with kafkalite.connect(path) as store:
        assert small_store.contents(store) == truth.answer
        assert store.check().ok


def cut_and_read(truth: small_store.Truth, length: int, *, is_mapped: bool) -> str:
    """Cut the newest segment, and read all: in a child."""
    last = extents_of(truth.path)[-1]
    file = truth.path if truth.path.is_file() else max(truth.path.glob("*.segment"))
    with kafkalite.connect(truth.path) as store:
        if is_mapped and small_store.contents(store) != truth.answer:
            return "wrong: before"
        with damage.cut(file, last.start + length):
            try:
                small_store.contents(store)
            except kafkalite.CorruptRecordError as error:
                if "segment" not in str(error):
                    return f"wrong: {error}"
            else:
                return "wrong: no error"
        return "right" if small_store.contents(store) == truth.answer else "wrong: after"


def test_canary_a_segment_whose_size_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Touched all the same, a map beyond its file's end kills the process: the child's death is seen."""
    truth = small_store.make(tmp_path / "s")
    monkeypatch.setattr(
        Journal,
        "read",
        lambda self, at, size: (self._maps.get(at >> 32) or self._map(at)).data[at & BYTE_MASK :][:size],
    )
    assert forked(lambda: cut_and_read(truth, 0, is_mapped=True)) == "signal 7"
    file = max((tmp_path / "s").glob("*.segment"))
    assert file.stat().st_size == 0  # the child died before it could put it back
