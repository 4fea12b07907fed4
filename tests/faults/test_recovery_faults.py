"""Faults during recovery from faults, two deep (F11).

The machine stopped: the store was open, the boot id is another, the journal's end is torn or the index is gone. Its
recovery meets a crash or an error at each step; the recovery of that meets one as well, at a step that walks through
all of them as the first one does; the third finds everything that was acknowledged, and goes on.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from kafkalite.storage.commit import Append
from kafkalite.storage.place import resolve
from kafkalite.testing.faults import (
    INDEX_COMMIT,
    Crash,
    Injector,
    Kind,
    crash,
    failing,
    no_descriptor,
    short_then,
    torn,
)
from tests.storage.kit import batch, where

from .ledger import LEDGER
from .operations import append_over_partitions, fill, roll
from .test_errors import SAMPLED_FROM
from .test_steps import each_layout, thinning
from .world import Tasks, World, another_boot, is_clear

FAULT_CLASS = "F11"

KINDS = [
    crash(),
    torn(),
    failing(errno.EIO, lasting=False, looks=True),
    failing(errno.ENOSPC, lasting=False),
    failing(errno.ENOSPC, lasting=True),
    no_descriptor(lasting=False),
    short_then(errno.ENOSPC, lasting=False),
]
STRIDE = 7
"""The second fault is at step 1, 8, 15, … of the second recovery, shifted by one for each step of the first."""


def leave_torn_tail(world: World) -> None:
    """A frame of which the last part never reached the disk lies behind the journal's end."""
    positions = world.store._engine.index.positions()
    found = world.store._engine.journal.read(positions.tail - 64, 64)
    file, byte = where(world.path, positions.tail)
    world.crash()
    with file.open("r+b") as stream:
        stream.seek(byte)
        stream.write(b"klframe?" + found)


def leave_no_index(world: World) -> None:
    world.crash()
    resolve(world.path).index.unlink()


def leave_a_roll(world: World) -> None:
    """The last commit went over into another segment."""
    fill(world, prepared=True)
    roll(world)
    world.crash()


def leave_sealed_without_index(world: World) -> None:
    world.close()
    resolve(world.path).index.unlink()


def leave_torn_commit(world: World) -> None:
    """Of a commit of several frames the first half reached the journal."""
    with Injector(torn(), 1), pytest.raises(Crash):
        append_over_partitions(world)
    world.crash()


def leave_stale_frames(world: World) -> None:
    """A commit of two frames was never finished, and a shorter one stands where its first frame stood."""
    state = world.topic._state
    first, second = world.notes.values(2)
    pair = [Append(state.log_ids[number], batch(value), state) for number, value in enumerate((first, second))]
    kind = Kind("before the index", {INDEX_COMMIT}.__contains__, is_crash=True)
    with Injector(kind, 1), pytest.raises(Crash):
        world.store._engine.append(pair)
    world.crash()
    world.open()
    (value,) = world.notes.values(1)
    done = world.store._engine.append([Append(state.log_ids[0], batch(value), world.topic._state)])
    world.notes.acknowledge(0, done.offsets[0], value)
    world.crash()


DAMAGES = {
    "torn commit": leave_torn_commit,
    "stale frames": leave_stale_frames,
    "torn tail": leave_torn_tail,
    "no index": leave_no_index,
    "roll": leave_a_roll,
    "sealed, no index": leave_sealed_without_index,
}
Damage = Callable[[World], None]


def stricken(world: World, kind: Kind, at: int) -> str | None:
    """Open the store under a fault; the step that was struck, if any."""
    with Injector(kind, at) as fault:
        try:
            world.open()
            world.tasks.run()
        except Crash:
            assert fault.struck
        except Exception as error:
            if fault.struck is None or not is_clear(error, kind.code):
                raise
    return fault.struck


def sweep(world: World, leave: Damage, kinds: tuple[Kind, Kind], name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A fault at step 1, 2, … of recovery, another in the recovery after it; how many pairs there were."""
    first, second = kinds
    count = 0
    for at in thinning(SAMPLED_FROM):
        world.ensure_open()
        append_over_partitions(world)
        leave(world)
        another_boot(monkeypatch)
        step = stricken(world, first, at)
        if step is None:
            break
        LEDGER.fault(name, f"{at} {step}", first.name)
        world.crash()
        again = 1 + at % STRIDE
        deeper = stricken(world, second, again)
        if deeper is not None:
            LEDGER.fault(name, f"{at} {step}, then {again} {deeper}", f"{first.name}, then {second.name}")
        world.crash()
        world.prove()
        world.renew()
        count += 1
    return count


@pytest.mark.matrix
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("durability", ["commit", "none"])
@each_layout
def test_a_fault_at_every_step_of_recovery_and_of_the_recovery_after_it(
    damage: str, durability: str, layout: str, scratch: Path, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = list(zip(KINDS, [*KINDS[3:], *KINDS[:3]], strict=True))
    for number, kinds in enumerate(pairs if durability == "commit" else pairs[:2]):
        folder = scratch / str(number)
        folder.mkdir()
        world = World(folder, layout, durability, tasks)
        world.open()
        count = sweep(world, DAMAGES[damage], kinds, f"recovery: {damage}/{layout}/{durability}", monkeypatch)
        assert count >= 1
        world.end()
