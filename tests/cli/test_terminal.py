"""The program as people and pipes meet it: real processes, a real terminal, Ctrl-C, a reader that goes away."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import kafkalite

HOME = Path(kafkalite.__file__).parent.parent
PROGRAM = (sys.executable, "-P", "-m", "kafkalite")


def environment(**variables: str) -> dict[str, str]:
    dropped = {"COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "KAFKALITE_STORE", "PYTHONUNBUFFERED"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(HOME), "TERM": "xterm-256color", **variables}


def shell(script: str, store: Path) -> subprocess.CompletedProcess[bytes]:
    """A bash script in which `kafkalite` is the program and $S the store."""
    words = " ".join(PROGRAM)
    return subprocess.run(
        ["bash", "-c", f'kafkalite() {{ {words} "$@"; }}\n{script}'],
        capture_output=True,
        env=environment(S=str(store)),
        timeout=60,
        check=False,
    )


def in_terminal(
    *arguments: object, columns: int = 80, type_in: bytes = b"", when: Callable[[bytes], bool] | None = None,
    **variables: str,
) -> tuple[int, bytes]:  # fmt: skip
    """Exit status and what a terminal was sent; `type_in` is typed once `when` is true of that."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdin=follower, stdout=follower, stderr=follower, env=environment(**variables), start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (no threads in this process)
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while chunk := read_terminal(leader):
        shown += chunk
        if type_in and when is not None and when(shown):
            os.write(leader, type_in)
            type_in = b""
    os.close(leader)
    return process.wait(timeout=30), shown


def read_terminal(leader: int) -> bytes:
    """What the program wrote next; nothing once it has ended (Linux says EIO then)."""
    try:
        return os.read(leader, 65536)
    except OSError:
        return b""


@pytest.fixture
def many(path: Path) -> Path:
    """A store with more records than fit into a pipe."""
    with kafkalite.connect(path) as store, store.producer() as producer:
        producer.send_many(store.topic("t"), [b"%099d" % number for number in range(20_000)])
    return path


@pytest.mark.parametrize("verb", ["consume -s $S t", "consume -s $S t --json", "log dump $S --records"])
def test_reader_that_goes_away_ends_it_quietly_with_141(many: Path, verb: str) -> None:
    done = shell(f"kafkalite {verb} | head -1; exit ${{PIPESTATUS[0]}}", many)
    assert (done.returncode, done.stderr) == (141, b"")
    assert done.stdout.count(b"\n") == 1


def test_short_output_into_a_closed_pipe_says_nothing_either(orders: Path) -> None:
    done = shell("kafkalite topic list $S | exec true; exit ${PIPESTATUS[0]}", orders)
    assert done.returncode in (0, 141)  # `true` may read before it ends, or not
    assert done.stderr == b""


def test_full_disk_under_the_output_is_an_error(many: Path) -> None:
    done = shell("kafkalite consume -s $S t > /dev/full", many)
    assert done.returncode == 1
    assert done.stderr == b"kafkalite: [Errno 28] No space left on device\n"


def test_produce_and_consume_are_a_pipe(path: Path) -> None:
    done = shell("seq 1 3000 | kafkalite produce -s $S t --create -q && kafkalite consume -s $S t | tail -1", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"3000\n", b"")


def test_follower_gets_what_another_process_produces(orders: Path) -> None:
    script = """
        kafkalite consume -s $S orders -F -n 6 > $S.out & follower=$!
        echo later | kafkalite produce -s $S orders -q; wait $follower && sort $S.out
    """
    done = shell(script, orders)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [b"a", b"b", b"c", b"d", b"e", b"later"], b"")


def test_terminal_gets_a_table_in_colour_within_its_width(many: Path) -> None:
    with kafkalite.connect(many) as store:
        store.topic("a-topic-with-a-name-" + "x" * 100)
    for columns in (80, 120):
        status, shown = in_terminal("topic", "list", many, columns=columns)
        assert status == 0
        assert b"\x1b[1m" in shown
        plain = shown.replace(b"\x1b[1m", b"").replace(b"\x1b[0m", b"").decode()
        assert all(len(line) <= columns for line in plain.splitlines())
        assert "20,000" in plain


def test_no_color_is_honoured(many: Path) -> None:
    _, shown = in_terminal("info", many, NO_COLOR="1")
    assert b"\x1b[3" not in shown
    _, shown = in_terminal("info", Path("/nowhere/absent.klite"), NO_COLOR="1")
    assert b"\x1b[3" not in shown


def test_long_verb_draws_its_bar_and_ctrl_c_wipes_it(tmp_path: Path) -> None:
    status, shown = in_terminal(
        "bench", "produce", "--num-records", 100_000_000, "--durability", "none",
        type_in=b"\x03", when=lambda seen: b"/100000000" in seen, TMPDIR=str(tmp_path),
    )  # fmt: skip
    assert status == 130
    assert b"sending" in shown
    assert shown.endswith(b"\x1b[2K")  # the bar's line is empty again
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_a_follower_without_a_word(orders: Path) -> None:
    status, shown = in_terminal(
        "consume", "-s", orders, "orders", "-F", "-n", "99", type_in=b"\x03", when=lambda seen: b"e\r\n" in seen
    )
    assert status == 130
    assert shown.replace(b"^C", b"").split() == [b"a", b"b", b"c", b"d", b"e"]


def test_ctrl_c_while_typing_keeps_what_was_typed(orders: Path) -> None:
    def is_there(_: bytes) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with kafkalite.connect(orders) as store:
                if sum(store.topic("orders").end_offsets().values()) == 6:
                    return True
            time.sleep(0.05)
        return False

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "produce", "-s", str(orders), "orders", "-q"], stdin=follower, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    os.write(leader, b"typed\n")
    assert is_there(b"")  # committed while the next line is waited for
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130
    os.close(leader)
    os.close(follower)


def test_delete_asks_in_a_terminal(orders: Path) -> None:
    status, shown = in_terminal(
        "topic", "delete", "-s", orders, "orders", type_in=b"n\n", when=lambda seen: b"[y/N]" in seen
    )
    assert status == 0
    assert b"and its 5 records?" in shown
    assert b"orders: kept" in shown


@pytest.mark.needs("root", "nobody")
def test_store_that_may_only_be_read_is_shown_and_not_written(orders: Path, tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == 0 and place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(0o755)
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    script = (
        "import os, sys, kafkalite.cli.consume, kafkalite.cli.info, kafkalite.cli.produce, encodings.unicode_escape;"
        "from kafkalite.__main__ import main;"  # all before it loses the right to read what it is made of
        "os.setgid(65534); os.setuid(65534); sys.argv = ['kafkalite', *sys.argv[1:]]; main()"
    )

    def as_nobody(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-c", script, *map(str, arguments)],
            capture_output=True, text=True, env=environment(), timeout=60, check=False, input="x\n",
        )  # fmt: skip

    read = as_nobody("consume", "-s", orders, "orders", "-n", 1)
    assert (read.returncode, read.stdout, read.stderr) == (0, "a\n", "")
    assert as_nobody("info", orders).returncode == 0
    written = as_nobody("produce", "-s", orders, "orders")
    assert written.returncode == 1
    assert written.stderr.count("\n") == 1
    assert "ermission" in written.stderr or "may not be" in written.stderr
