"""What the tests of `kafkalite.aio` share: a loop for each test, and a disk that is slow on purpose."""

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafkalite import aio, disk

PATIENCE = 20.0

Test = Callable[..., Awaitable[None]]


def in_loop(test: Test) -> Callable[..., None]:
    """A test that is a coroutine, in a loop of its own that nothing may outlive."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(_alone(test(*arguments, **named)))

    return run


async def _alone(test: Awaitable[None]) -> None:
    await asyncio.wait_for(test, PATIENCE)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left


async def soon(is_so: Callable[[], bool]) -> None:
    """Return when it is so."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def turns(count: int) -> None:
    """Let the loop turn that often."""
    for _ in range(count):
        await asyncio.sleep(0)


def ours() -> list[str]:
    """The threads that work for loops."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kafkalite-aio")]


def sockets(store: aio.Store) -> list[str]:
    """The sockets of those who wait for this store."""
    return [path.name for path in run_directory(store).glob("*.wait")]


def run_directory(store: aio.Store) -> Path:
    directory = store._host.engine.wakeup._directory
    assert directory is not None
    return directory


async def values(topic: aio.Topic[Any, Any], **how: Any) -> list[Any]:
    return [record.value async for record in topic.read(**how)]


class Gate:
    """Holds the thread that comes to a step of the disk, until it is opened."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached = threading.Event()
        self._open = threading.Event()

    def on_step(self, name: str) -> None:
        if name == self.step:
            assert threading.current_thread() is not threading.main_thread(), f"the loop itself does {name!r}"
            self.reached.set()
            assert self._open.wait(PATIENCE), "the loop stood still"

    def open(self) -> None:
        self._open.set()


@contextmanager
def held(step: str) -> Iterator[Gate]:
    """A disk whose step waits until the test lets it go on; from any thread but the loop's."""
    gate = Gate(step)
    disk.on_step = gate.on_step
    try:
        yield gate
    finally:
        gate.open()
        disk.on_step = None
