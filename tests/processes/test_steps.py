"""SIGKILL at every step in turn: of appends that roll, of flushes, of creation, of closing, of recovery (F1, F11).

A child counts its steps (`kafkalite.disk.on_step`) and kills itself at number 1, then another in a fresh store at
number 2, and so on until one runs through. After each, another process opens the store, which finds what a crash of a
process left, proves it, appends to it; then the index is thrown away and what a rebuild makes of the journal is
proved as well: frames that were written and never committed must not come to life beside those that took their place.
"""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import disk
from kafkalite.storage import keeper
from kafkalite.storage.place import resolve
from kafkalite.testing.procs import AckFile

from . import history
from .conftest import Fork
from .forks import Forked, die_at

SEGMENT_BYTES = 512 * 1024
VALUE_BYTES = 64 * 1024
APPENDS = 16
"""Seven go into a segment: two rolls."""
AFTERWARDS = 9
"""Enough for a roll."""
AT_ONCE = 2
MOST_STEPS = 2000


def keep_at_once() -> None:
    """Let the keeper do what it is asked for in the thread that asks: the same steps in every run."""
    keeper.after = lambda seconds, task: task()


def appends(path: Path, acks: Path, step: int, settings: dict[str, Any]) -> int:
    """One-record appends over two rolls; returns how many steps they took."""
    keep_at_once()
    with kafkalite.connect(path, segment_bytes=SEGMENT_BYTES, **settings) as store:
        scribe = history.Scribe(store, 1, AckFile(acks))
        steps = die_at(step, note_beside(acks))
        for number in range(APPENDS):
            scribe.append(VALUE_BYTES, number % history.PARTITIONS)
        disk.on_step = None
        return steps()


def life(path: Path, acks: Path, step: int, settings: dict[str, Any]) -> int:
    """All of a store's life: its creation, a commit of each kind, its closing."""
    keep_at_once()
    steps = die_at(step, note_beside(acks))
    with kafkalite.connect(path, segment_bytes=SEGMENT_BYTES, **settings) as store:
        scribe = history.Scribe(store, 1, AckFile(acks))
        scribe.append()
        scribe.append_many()
        scribe.send_many()
    return steps()


def recovery(path: Path, acks: Path, step: int, settings: dict[str, Any]) -> int:
    """A crashed store is copied, so that it is another machine's, and opened: rebuilt from its journal."""
    template = path.with_stem("template")
    if not path.exists():
        (shutil.copytree if template.is_dir() else shutil.copyfile)(template, path)
        shutil.copyfile(template.with_name("acks-template"), acks)
    steps = die_at(step, note_beside(acks))
    with kafkalite.connect(path) as store:
        history.Scribe(store, os.getpid(), AckFile(acks)).append(100)
    return steps()


def note_beside(acks: Path) -> Path:
    """Where a victim writes the name of its last step."""
    return acks.with_suffix(".step")


def verify(path: Path, acks: Path, step: int) -> int:
    """What was acknowledged is there, now, after more appends, and after the index was thrown away."""
    if not acks.exists():
        history.create(path)
    history.prove(path, [acks] if acks.exists() else [])
    with kafkalite.connect(path) as store:
        scribe = history.Scribe(store, 1_000_000 + step, AckFile(acks))
        for number in range(AFTERWARDS):
            scribe.append(VALUE_BYTES, number % history.PARTITIONS)
    resolve(path).index.unlink()
    return history.prove(path, [acks]).acknowledged


def sweep(
    fork: Fork, scratch: Path, suffix: str, work: Callable[..., int], settings: dict[str, Any], *, times: int = 1
) -> Counter[str]:
    """Kill at step 1, 2, … until the work runs through; returns how many kills there were at steps of each name.

    `times` victims one after another are killed at the same step of the same store.
    """
    acknowledged = 0
    killed: Counter[str] = Counter()
    for first in range(1, MOST_STEPS, AT_ONCE):
        places = [
            (step, scratch / f"{step}{suffix}", scratch / f"acks-{step}") for step in range(first, first + AT_ONCE)
        ]
        names: list[str | None] = []
        for _ in range(times):
            victims = [fork(work, path, acks, step, settings) for step, path, acks in places]
            names += [last_step(victim, acks) for victim, (_, _, acks) in zip(victims, places, strict=True)]
        killed.update(filter(None, names))
        verifiers = [fork(verify, path, acks, step) for step, path, acks in places]
        acknowledged += sum(verifier.result() for verifier in verifiers)
        for _, path, _ in places:
            remove(path)
        if None in names[:AT_ONCE]:
            print(f"faults injected: {killed.total()} ({dict(killed)}), records acknowledged: {acknowledged}, lost: 0")
            return killed
    raise AssertionError(f"{work.__name__} did not run through in {MOST_STEPS} steps")


def last_step(victim: Forked, acks: Path) -> str | None:
    """The first word of the step that a victim died at; None if it ran through."""
    if victim.wait() == -signal.SIGKILL:
        return note_beside(acks).read_text().split()[0]
    assert victim.result() >= 0
    return None


def remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()


SUFFIXES = {"directory": "", "file": ".klite"}
suffixes = pytest.mark.parametrize("suffix", SUFFIXES.values(), ids=SUFFIXES)


DURABILITIES: dict[str, dict[str, Any]] = {
    "commit": {"durability": "commit"},
    "interval": {"durability": "interval"},
    "none": {"durability": "none"},
}


@pytest.mark.matrix
@suffixes
@pytest.mark.parametrize("settings", DURABILITIES.values(), ids=DURABILITIES)
def test_killed_at_every_step_of_appends_that_roll(
    fork: Fork, scratch: Path, suffix: str, settings: dict[str, Any]
) -> None:
    killed = sweep(fork, scratch, suffix, appends, settings)
    assert killed["write"] >= APPENDS
    assert killed["index"] >= APPENDS
    assert killed["zeros" if settings["durability"] != "none" else "reserve"] >= 1  # of preparing the next segment
    if settings["durability"] != "none":
        assert killed["flush"] >= APPENDS
        assert killed["flushed"] >= APPENDS


@pytest.mark.matrix
@suffixes
@pytest.mark.parametrize("durability", ["commit", "none"])
def test_killed_at_every_step_from_creation_to_closing(fork: Fork, scratch: Path, suffix: str, durability: str) -> None:
    killed = sweep(fork, scratch, suffix, life, {"durability": durability})
    assert {"create", "truncate" if suffix else "mkdir", "write", "index", "flush", "flushed", "unlink"} <= set(killed)


@pytest.mark.matrix
@suffixes
@pytest.mark.parametrize("crashed_at", [20, 60])
def test_killed_at_every_step_of_recovery(fork: Fork, scratch: Path, suffix: str, crashed_at: int) -> None:
    settings = {"durability": "commit"}
    template = scratch / f"template{suffix}"
    assert fork(appends, template, scratch / "acks-template", crashed_at, settings).wait() == -signal.SIGKILL
    killed = sweep(fork, scratch, suffix, recovery, settings, times=2)
    assert {"create", "zeros", "write", "flush", "rename", "unlink", "index"} <= set(killed)


@suffixes
def test_killed_at_every_step_of_recovery_of_a_closed_store(fork: Fork, scratch: Path, suffix: str) -> None:
    settings = {"durability": "commit"}
    fork(appends, scratch / f"template{suffix}", scratch / "acks-template", -1, settings).result()
    killed = sweep(fork, scratch, suffix, recovery, settings)
    assert {"create", "zeros", "write", "flush", "rename", "unlink", "index"} <= set(killed)
