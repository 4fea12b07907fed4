"""A crash of the process at each step of each operation, in process (F1).

The engine is let go as a killed process leaves it, opened again, and held to its promises: what was acknowledged is
there, what was not is there whole or not at all, and the check finds nothing. (A real SIGKILL at each step of the
longer operations is in tests/processes/test_steps.py.)
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkalite.testing.faults import Crash, Injector, Kind, crash, torn

from .ledger import LEDGER
from .operations import CASES, Work
from .world import Tasks, World

FAULT_CLASS = "F1"
MOST_STEPS = 2000

each_case = pytest.mark.parametrize(
    ("work", "durability"), CASES, ids=[f"{work.name}-{level}" for work, level in CASES]
)
each_layout = pytest.mark.parametrize("layout", ["directory", "file"])


def thinning(whole: int) -> Iterator[int]:
    """1, 2, 3, … up to `whole`, then further and further apart: long runs of one step, as a scan is, are sampled."""
    at = 1
    while at < MOST_STEPS:
        yield at
        at += 1 + at // whole
    raise AssertionError(f"it did not run through in {MOST_STEPS} steps")


def sweep(world: World, work: Work, kind: Kind, name: str) -> int:
    """Crash at step 1, 2, … until the work runs through; how many crashes there were."""
    count = 0
    for at in thinning(MOST_STEPS):
        work.prepare(world)
        with Injector(kind, at) as fault:
            try:
                work.act(world)
                world.tasks.run()
            except Crash:
                assert fault.struck
        if fault.struck is None:
            break
        LEDGER.fault(name, f"{at} {fault.struck}", kind.name)
        world.crash()
        world.prove()
        world.renew()
        count += 1
    return count


@pytest.mark.matrix
@each_case
@each_layout
def test_crash_at_every_step(work: Work, durability: str, layout: str, scratch: Path, tasks: Tasks) -> None:
    for kind in (crash(), torn()):
        world = World(scratch / kind.name, layout, durability, tasks)
        world.folder.mkdir()
        count = sweep(world, work, kind, f"{work.name}/{layout}/{durability}")
        world.end()
        assert count >= 1 or kind.is_short
