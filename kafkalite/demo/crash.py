"""The crash proof: a writing process is killed with SIGKILL, another process looks whether anything is missing.

The writer (`writer`) keeps its acknowledgements in a file outside the store, so that the proof does not rest on
what is to be proved. It is killed at a random moment, several times over: each next writer opens the store that the
one before left behind. Nobody else has the store open meanwhile, so each opening is a recovery. The last process
(`checker`) must find every acknowledged record at its place with its value. It may find more: at most one per kill,
the append whose acknowledgement the kill cut off.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from kafkalite.demo import DemoFailedError
from kafkalite.demo.child import Child

FIRST_ACKNOWLEDGEMENT_TIMEOUT_S: Final = 60.0
LIFE_S: Final = (0.05, 0.4)
"""A writer is killed a random time between these after its first acknowledgement."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """What the checking process found after `kills` writers; `missing` holds the first few lost."""

    kills: int
    seconds: float
    acknowledged: int
    found: int
    missing_count: int
    missing: list[list[int]]
    gaps: list[int]
    is_clean: bool
    report: str

    @property
    def unacknowledged(self) -> int:
        """Records found beyond the acknowledged ones."""
        return self.found + self.missing_count - self.acknowledged

    @property
    def is_proved(self) -> bool:
        """Nothing acknowledged is missing, nothing is too much, offsets are dense, the check is clean."""
        return self.missing_count == 0 and not self.gaps and self.is_clean and 0 <= self.unacknowledged <= self.kills


def crash(store: Path, topic: str, acknowledgement_path: Path, *, kills: int) -> Crashed:
    """Kill `kills` writers to `topic` one after another, then let another process check it.

    Nobody should have the store open, this process included.
    """
    acknowledgement_path.touch()
    seconds = sum(_kill_one(store, topic, acknowledgement_path) for _ in range(kills))
    with Child("checker", store, topic, acknowledgement_path) as checker:
        return Crashed(kills=kills, seconds=seconds, **checker.answer())


def _kill_one(store: Path, topic: str, acknowledgement_path: Path) -> float:
    """Start a writer and kill it; returns the seconds from its first acknowledgement to its death."""
    size = acknowledgement_path.stat().st_size
    with Child("writer", store, topic, acknowledgement_path, os.getpid()) as writer:
        deadline = monotonic() + FIRST_ACKNOWLEDGEMENT_TIMEOUT_S
        while acknowledgement_path.stat().st_size == size:
            if not writer.is_running():
                writer.answer()
            if monotonic() > deadline:
                raise DemoFailedError(f"writer acknowledged nothing in {FIRST_ACKNOWLEDGEMENT_TIMEOUT_S:g} s")
            sleep(0.005)
        started = monotonic()
        sleep(random.uniform(*LIFE_S))
        writer.kill()
        return monotonic() - started
