"""The system says no, at each step of each operation, once and for ever (F3).

The caller is told by an error that says what happened; what was acknowledged stays; as soon as the fault is lifted the
same engine works again, and what it then acknowledges rests on bytes that were written again after a failed flush. The
store is proved as the engine sees it and once more as the next opener does.
"""

import contextlib
import errno
import gc
import os
from pathlib import Path

import pytest

from kafkalite.storage import segment
from kafkalite.testing.faults import (
    Dirt,
    Injector,
    Kind,
    failing,
    no_descriptor,
    short,
    short_then,
)
from tests.storage.kit import where

from .ledger import LEDGER
from .operations import Work, change_durability
from .test_steps import each_case, each_layout, thinning
from .world import Tasks, World, is_clear

FAULT_CLASS = "F3"
SAMPLED_FROM = 8
"""Up to here every step; beyond, the looks of a scan among them, further and further apart."""


def is_last_of_opening(name: str) -> bool:
    """Whether a step opens the folder `run`; what happens when that fails has a test of its own."""
    return name.startswith("open ") and name.endswith("run")


FOR_A_WHILE = [
    kind(lasting=lasting)
    for lasting in (False, True)
    for kind in (
        lambda lasting: failing(errno.EIO, lasting=lasting, looks=not lasting),
        lambda lasting: failing(errno.ENOSPC, lasting=lasting),
        lambda lasting: failing(errno.EDQUOT, lasting=lasting),
        lambda lasting: no_descriptor(lasting=lasting),
        lambda lasting: short(lasting=lasting),
        lambda lasting: short_then(errno.ENOSPC, lasting=lasting),
    )
]


def suffer(world: World, work: Work, kind: Kind, at: int, dirt: Dirt) -> tuple[Injector, BaseException | None]:
    """Do the work under a fault; what it raised."""
    raised: BaseException | None = None
    with Injector(kind, at, dirt) as fault:
        try:
            work.act(world)
            world.tasks.run()
        except Exception as error:
            raised = error
    return fault, raised


def sweep(world: World, work: Work, kind: Kind, name: str) -> int:
    """Fail at step 1, 2, … until the work runs through; how many faults there were."""
    dirt = Dirt()
    count = 0
    for at in thinning(SAMPLED_FROM):
        work.prepare(world)
        fault, raised = suffer(world, work, kind, at, dirt)
        if fault.struck is None:
            assert raised is None, raised
            break
        LEDGER.fault(name, f"{at} {fault.struck}", kind.name)
        assert work.act is change_durability or not is_early(world)
        assert raised is None or is_clear(raised, kind.code), (fault.struck, raised)
        assert kind.code or raised is None, f"a short write is not an error, and was one: {raised!r}"
        go_on(world, work, dirt)
        if at % 2:
            world.close()
        else:
            world.crash()
        world.prove()
        world.renew()
        count += 1
    return count


def go_on(world: World, work: Work, dirt: Dirt) -> None:
    """The fault is lifted: the same engine, if there is one, does the work again, and everything is there."""
    with Injector(short(lasting=False), 0, dirt):
        work.act(world)
        world.tasks.run()
        world.ensure_open()
        world.store.flush()
        assert unsafe(world, dirt) == []
    world.prove(check=False)


def unsafe(world: World, dirt: Dirt) -> list[str]:
    """Ranges of the journal, said to be durable, that are not on the disk."""
    durable = world.store._engine.index.positions().durable
    file, end = where(world.path, durable)
    _, start = where(world.path, segment.position_of(segment.number_of(durable), 0))
    status = file.stat()
    return [f"{file.name}: {found}" for found in dirt.unsafe((status.st_dev, status.st_ino), start, end)]


def is_early(world: World) -> bool:
    """Whether readers see what is not durable yet, in a store that promises otherwise."""
    if world._store is None or world.store.settings["durability"] != "commit":
        return False
    positions = world.store._engine.index.positions()
    return positions.published > positions.durable


@pytest.mark.matrix
@each_case
@each_layout
def test_an_error_at_every_step(work: Work, durability: str, layout: str, scratch: Path, tasks: Tasks) -> None:
    for number, kind in enumerate(FOR_A_WHILE):
        folder = scratch / str(number)
        folder.mkdir()
        world = World(folder, layout, durability, tasks)
        sweep(world, work, kind, f"{work.name}/{layout}/{durability}")
        world.end()
    gc.collect()
    assert [name for name in open_files() if name.startswith(str(scratch))] == []


def open_files() -> list[str]:
    """What this process has open: an error must not leave a descriptor behind."""
    found = []
    for fd in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the one by which the folder is listed
            found.append(str(fd.readlink()))
    return found


@each_layout
@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_an_opening_that_fails_at_its_last_step_leaves_nothing_behind(
    layout: str, code: int, scratch: Path, tasks: Tasks
) -> None:
    world = World(scratch, layout, "commit", tasks)
    kind = Kind("the last step", is_last_of_opening, code, looks=True)
    with Injector(kind, 1) as fault, pytest.raises(OSError, match=os.strerror(code)):
        world.open()
    assert fault.struck
    LEDGER.fault(f"open/{layout}", fault.struck, kind.name)
    world.end()
    gc.collect()
    assert [name for name in open_files() if name.startswith(str(scratch))] == []
