"""The keeper: tasks run once, when due, whatever the others do; the thread goes and comes back."""

import logging
import threading

import pytest

from kafkalite import clock
from kafkalite.storage import keeper
from kafkalite.storage.keeper import Keeper

PATIENCE = 60


def test_tasks_run_in_the_order_in_which_they_are_due() -> None:
    ran: list[str] = []
    done = threading.Event()
    tasks = Keeper()
    start = clock.monotonic()
    tasks.after(0.20, done.set)
    tasks.after(0.15, lambda: ran.append("last"))
    tasks.after(0.10, lambda: ran.append("second"))
    tasks.after(0.05, lambda: ran.append("first"))
    assert done.wait(PATIENCE)
    assert ran == ["first", "second", "last"]
    assert clock.monotonic() - start >= 0.20


def test_tasks_due_at_once_keep_their_order() -> None:
    ran: list[int] = []
    done = threading.Event()
    tasks = Keeper()
    for number in range(100):
        tasks.after(0, lambda number=number: ran.append(number))  # type: ignore[misc]
    tasks.after(0, done.set)
    assert done.wait(PATIENCE)
    assert ran == sorted(ran)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_task_that_raises_is_logged_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def fail() -> None:
        raise error

    done = threading.Event()
    tasks = Keeper()
    with caplog.at_level(logging.ERROR, "kafkalite"):
        tasks.after(0, fail)
        tasks.after(0, done.set)
        assert done.wait(PATIENCE)
    assert error.__name__ in caplog.text


def test_the_thread_goes_when_idle_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "IDLE_SECONDS", 0.01)
    tasks = Keeper()
    for _ in range(3):
        done = threading.Event()
        tasks.after(0, done.set)
        assert done.wait(PATIENCE)
        thread = tasks._thread
        if thread is not None:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert tasks._thread is None


def test_a_task_may_ask_for_another() -> None:
    done = threading.Event()
    tasks = Keeper()
    tasks.after(0, lambda: tasks.after(0, done.set))
    assert done.wait(PATIENCE)


def test_a_child_starts_without_the_tasks_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_keeper", Keeper())
    keeper.after(3600, lambda: None)
    before = keeper._keeper
    keeper.forget()
    assert keeper._keeper is not before
    assert keeper._keeper._tasks == []
