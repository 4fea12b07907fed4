"""F5, the index: 200 random damages of each kind of store; right answers or a rebuild, never a dead process.

The index is derived, so there is nothing to lose in it; but LMDB has no checksums, and follows page numbers wherever
they lead. Each damage is done to a closed store, in a forked child that then opens it, reads all of it, appends and
checks: an answer may be an error, a wrong one may not be, and no damage may end the process.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import kafkalite
from kafkalite.storage import opening
from kafkalite.storage.place import resolve
from kafkalite.testing import damage
from tests.faults import small_store
from tests.faults.ledger import LEDGER
from tests.faults.small_store import LAYOUTS, Apart, Image, Truth, files_of, forked

FAULT_CLASS = "F5"
DAMAGES = 200
PAGE = damage.PAGE

Harm = Callable[[Path, random.Random], None]


def flipped(index: Path, choose: random.Random) -> None:
    """One to forty bits."""
    for _ in range(choose.choice([1, 1, 2, 5, 40])):
        damage.flip(index, choose.randrange(index.stat().st_size), choose.randrange(8))


def garbage(index: Path, choose: random.Random) -> None:
    """A page of random bytes, or a piece of one."""
    size = choose.choice([4, 16, 64, 512, PAGE])
    damage.overwrite(index, choose.randrange(index.stat().st_size // size) * size, choose.randbytes(size))


def zeroed(index: Path, choose: random.Random) -> None:
    size = choose.choice([damage.SECTOR, PAGE])
    damage.zero_block(index, choose.randrange(index.stat().st_size // size) * size, size)


def swapped(index: Path, choose: random.Random) -> None:
    """Two pages change places."""
    one, other = (page * PAGE for page in choose.sample(range(index.stat().st_size // PAGE), 2))
    data = index.read_bytes()
    damage.overwrite(index, one, data[other : other + PAGE])
    damage.overwrite(index, other, data[one : one + PAGE])


def duplicated(index: Path, choose: random.Random) -> None:
    one, other = (page * PAGE for page in choose.sample(range(index.stat().st_size // PAGE), 2))
    damage.duplicate_block(index, one, other, PAGE)


def truncated(index: Path, choose: random.Random) -> None:
    damage.cut(index, choose.randrange(index.stat().st_size))


HARMS: tuple[Harm, ...] = (flipped, flipped, garbage, garbage, zeroed, swapped, duplicated, truncated)


@pytest.fixture(params=LAYOUTS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found: Path = tmp_path / request.param
    return found


def use(truth: Truth) -> str:
    """Open a store, read all of it, append, check: "right", or what is wrong."""
    with kafkalite.connect(truth.path, create=False) as store:
        found = small_store.contents(store)
        if found != truth.answer:
            return f"wrong: {found}"
        if store.topic("plain").append(b"more", partition=1).offset != len(truth.answer[17]):
            return "wrong: an offset was given out twice"
        report = store.check()
        return "right" if report.ok else f"wrong: {report}"


def harmed(truth: Truth, vault: Path, seed: int, count: int) -> list[str]:
    """Do that many damages, each to a whole store; what came of those that were not answered rightly."""
    image = Image(truth.path, vault)
    index = resolve(truth.path).index
    bad = []
    with Apart(lambda: use(truth)) as apart:
        for number in range(count):
            image.restore()
            harm = HARMS[number % len(HARMS)]
            harm(index, random.Random(f"{seed}.{number}"))
            said = apart()
            LEDGER.fault(f"open {truth.path.name}", number, harm.__name__)
            LEDGER.dead(said.startswith("signal"))
            LEDGER.wrong(said.startswith("wrong"))
            if not said.startswith("right"):
                bad.append(f"{number}, {harm.__name__}: {said[:200]}")
    return bad


def test_a_damaged_index_of_a_closed_store(path: Path, tmp_path: Path) -> None:
    """The seal names the index byte for byte: one that is another is not opened."""
    truth = small_store.make(path)
    assert harmed(truth, tmp_path / "vault", 1, DAMAGES if path.is_dir() else DAMAGES // 3) == []
    LEDGER.acknowledged(truth.count)


@pytest.mark.long
def test_more_damages_of_the_index(path: Path, tmp_path: Path, seed: int) -> None:
    truth = small_store.make(path)
    assert harmed(truth, tmp_path / "vault", seed, 5_000) == []


def test_an_index_of_another_time(path: Path, tmp_path: Path) -> None:
    """An older index of the same store, written over the newer one, so that even the inode is right."""
    truth = small_store.make(path)
    index = resolve(path).index
    older = index.read_bytes()
    with kafkalite.connect(path) as store:
        store.topic("plain").append_many([b"newer"] * 100, partition=0)
        truth.answers.append(small_store.contents(store))
    put(index, older)
    assert forked(lambda: use(truth)) == "right"
    LEDGER.fault(f"open {path.name}", "older", "index of another time")


def test_an_index_of_another_store(path: Path, tmp_path: Path) -> None:
    """The same records in another store: the same tail, another chain."""
    truth = small_store.make(path)
    other = small_store.make(tmp_path / "other.klite")
    assert other.tails == truth.tails
    put(resolve(path).index, resolve(other.path).index.read_bytes())
    assert forked(lambda: use(truth)) == "right"
    LEDGER.fault(f"open {path.name}", "other", "index of another store")


@pytest.mark.parametrize("data", [b"", b"x", bytes(PAGE), bytes(32 * PAGE), b"text " * 10_000], ids=len)
def test_an_index_that_is_none(path: Path, data: bytes) -> None:
    truth = small_store.make(path)
    put(resolve(path).index, data)
    assert forked(lambda: use(truth)) == "right"
    LEDGER.fault(f"open {path.name}", len(data), "no index")


def put(file: Path, data: bytes) -> None:
    """Other bytes in the same file."""
    with file.open("r+b") as stream:
        stream.write(data)
        stream.truncate()


def test_canary_an_index_trusted_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened as it is, a damaged index kills, or lies."""
    truth = small_store.make(tmp_path / "s")
    monkeypatch.setattr(opening, "is_trusted", lambda *_: True)
    with LEDGER.apart() as mine:
        assert harmed(truth, tmp_path / "vault", 1, 40)
    assert mine.results["dead"] + mine.results["wrong"] > 0
    for file in files_of(tmp_path / "s"):
        file.unlink()
