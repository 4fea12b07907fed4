"""Real processes: nothing they say is missed, they end when told to, and their notes outlive them."""

import os
import signal
from pathlib import Path

import pytest

import kafkalite
from kafkalite import clock
from kafkalite.testing import procs
from kafkalite.testing.procs import AckFile, ChildError

COUNT_FOR_EVER = """
import itertools, sys
from pathlib import Path
from kafkalite.testing.procs import AckFile
with AckFile(Path(sys.argv[1])) as file:
    for number in itertools.count():
        file.append(number, number * number)
        if number == 100:
            print("counting")
"""
ECHO = """
import sys
for line in sys.stdin:
    print("heard", line, end="")
"""


def test_a_line_is_waited_for_and_those_before_it_are_passed_over() -> None:
    with procs.python("print('noise'); print('ready 1'); print('ready 2')") as child:
        assert child.wait_for("ready") == "ready 1"
        assert child.wait_for("ready") == "ready 2"
        assert child.succeed() == ["noise", "ready 1", "ready 2"]


def test_a_line_printed_before_anyone_waits_is_not_missed() -> None:
    with procs.python("print('ready')") as child:
        assert child.wait() == 0
        assert child.wait_for("ready") == "ready"


def test_waiting_for_a_line_that_never_comes_ends_with_the_child() -> None:
    with (
        procs.python("import sys; print('something else'); sys.exit('my reason')") as child,
        pytest.raises(ChildError, match=r"status 1 before it printed 'ready'(.|\n)*something else(.|\n)*my reason"),
    ):
        child.wait_for("ready")


def test_waiting_for_a_silent_child_ends_after_the_timeout() -> None:
    with procs.python("input()") as child:
        with pytest.raises(ChildError, match=r"did not print 'ready' within 0\.1 s(.|\n)*nothing"):
            child.wait_for("ready", timeout=0.1)
        with pytest.raises(ChildError, match=r"did not end within 0\.1 s"):
            child.wait(timeout=0.1)


def test_a_child_that_fails_does_not_succeed() -> None:
    with (
        procs.python("raise ZeroDivisionError") as child,
        pytest.raises(ChildError, match=r"ended with status 1(.|\n)*ZeroDivisionError"),
    ):
        child.succeed()


def test_a_child_is_spoken_to() -> None:
    with procs.python(ECHO) as child:
        child.say("hello")
        assert child.wait_for("heard") == "heard hello"
        child.kill()
        child.say("nobody there")


def test_arguments_reach_code_as_strings() -> None:
    with procs.python("import sys; print(sys.argv[1:])", 1, "two words", Path("x")) as child:
        assert child.succeed() == ["['1', 'two words', 'x']"]


def test_arguments_reach_a_function_as_they_are() -> None:
    with procs.function("builtins:print", 1, None, ["a", {"b": 2.5}], Path("x")) as child:
        assert child.succeed() == ["1 None ['a', {'b': 2.5}] x"]


def test_a_child_finds_the_kafkalite_that_runs_here() -> None:
    with procs.python("import kafkalite; print(kafkalite.__file__)", cwd=Path("/")) as child:
        assert child.succeed() == [kafkalite.__file__]


def test_the_environment_of_a_child_is_this_one_and_more() -> None:
    with procs.python("import os; print(os.environ['MORE'], os.environ['PATH'])", env={"MORE": "1"}) as child:
        assert child.succeed() == [f"1 {os.environ['PATH']}"]


def test_a_stopped_child_stands_still_until_it_is_resumed() -> None:
    with procs.python(ECHO) as child:
        child.say("one")
        child.wait_for("heard one")
        child.stop()
        child.say("two")
        assert child.is_running()
        with pytest.raises(ChildError):
            child.wait_for("heard two", timeout=0.2)
        child.resume()
        assert child.wait_for("heard two") == "heard two"


def test_a_stopped_child_can_be_killed() -> None:
    with procs.python(ECHO) as child:
        child.stop()
        child.kill()
        assert child.wait() == -signal.SIGKILL
        assert not child.is_running()


def test_a_signal_reaches_the_child() -> None:
    handler = "lambda *_: asked.append(print('asked to end'))"
    handled = f"import signal, time\nasked = []\nsignal.signal(signal.SIGTERM, {handler})\n"
    with procs.python(f"{handled}print('ready')\nwhile not asked:\n    time.sleep(0.01)") as child:
        child.wait_for("ready")
        child.signal(signal.SIGTERM)
        assert child.succeed() == ["ready", "asked to end"]


def test_leaving_the_block_kills_the_child_and_what_it_started() -> None:
    with procs.python(
        "import subprocess, sys\nprint('ready', subprocess.Popen([sys.executable, '-c', 'input()']).pid)\ninput()"
    ) as child:
        grandchild = int(child.wait_for("ready").split()[1])
    assert not child.is_running()
    deadline = clock.Deadline(procs.PATIENCE_S)
    while not is_gone(grandchild) and not deadline.passed():  # killed, and on its way out
        clock.sleep(0.01)
    assert is_gone(grandchild)


def is_gone(pid: int) -> bool:
    """Whether the process has ended, waited for by its parent or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def test_notes_outlive_the_kill_of_their_writer(tmp_path: Path) -> None:
    with procs.python(COUNT_FOR_EVER, tmp_path / "acks") as child:
        child.wait_for("counting")
        child.kill()
    noted = list(AckFile(tmp_path / "acks").read())
    assert len(noted) > 100
    assert noted == [(number, number * number) for number in range(len(noted))]


def test_a_torn_last_line_does_not_count(tmp_path: Path) -> None:
    with AckFile(tmp_path / "acks") as file:
        file.append(0, 17, -1)
        file.append(1)
        whole = file.path.read_bytes()
        for size in range(len(whole) - 2, len(whole)):
            file.path.write_bytes(whole[:size])
            assert list(file.read()) == [(0, 17, -1)]


def test_nothing_noted_is_an_empty_file(tmp_path: Path) -> None:
    assert list(AckFile(tmp_path / "acks").read()) == []


def test_several_writers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "acks"
    code = (
        "import sys\nfrom pathlib import Path\nfrom kafkalite.testing.procs import AckFile\n"
        "file = AckFile(Path(sys.argv[1]))\nfor n in range(500): file.append(int(sys.argv[2]), n)"
    )
    with procs.python(code, path, 1) as one, procs.python(code, path, 2) as two:
        one.succeed()
        two.succeed()
    for writer in (1, 2):
        assert [number for who, number in AckFile(path).read() if who == writer] == list(range(500))


def test_a_closed_file_opens_again(tmp_path: Path) -> None:
    file = AckFile(tmp_path / "acks")
    file.append(1)
    file.close()
    file.append(2)
    file.close()
    assert list(file.read()) == [(1,), (2,)]
