"""Child processes: their answers, their failures, and that none outlives its block."""

import os
from pathlib import Path

import pytest

from kafkalite.demo import DemoFailedError
from kafkalite.demo.child import Child


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_failure_carries_the_childs_complaint(tmp_path: Path) -> None:
    with (
        Child("reader", tmp_path / "absent.klite", "flights") as child,
        pytest.raises(DemoFailedError, match=r"reader ended with status 1, saying:[\s\S]*absent\.klite"),
    ):
        child.await_line()


def test_child_that_prints_nothing_has_failed(tmp_path: Path) -> None:
    with Child("snippets") as child, pytest.raises(DemoFailedError, match="status 0, saying: nothing"):
        child.answer()


def test_speaking_to_a_child_that_has_ended_is_not_an_error() -> None:
    with Child("snippets") as child:
        child.process.wait()
        child.say("go")
        assert not child.is_running()


def test_leaving_the_block_kills_and_reaps_a_running_child(store_path: Path, store: object) -> None:
    with pytest.raises(KeyboardInterrupt), Child("reader", store_path, "flights") as child:  # noqa: PT012
        assert child.is_running()
        raise KeyboardInterrupt
    assert child.process.returncode is not None
    assert not is_alive(child.process.pid)


def test_child_stands_in_a_process_group_of_its_own(store_path: Path, store: object) -> None:
    with Child("reader", store_path, "flights") as child:
        assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)


def test_module_names_in_the_working_directory_do_not_shadow_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store_path: Path, store: object
) -> None:
    for name in ("json.py", "kafkalite.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    with Child("reader", store_path, "flights") as child:
        assert child.await_line() == "ready"
