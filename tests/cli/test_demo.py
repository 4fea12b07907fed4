"""`kafkalite demo`, end to end on a slice of the data, as its users start it: a process of its own."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kafkalite
from kafkalite.demo.flights import read_flights, sha256

HOME = Path(kafkalite.__file__).parent.parent
SMALL = ("--limit", "1500", "--partitions", "3", "--readers", "2", "--kills", "1")


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo's temporary files go."""
    path = tmp_path / "temporary"
    path.mkdir()
    return path


def environment(temporary: Path, **variables: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"KAFKALITE_FLIGHTS", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM"}
    }
    return {**kept, "PYTHONPATH": str(HOME), "TMPDIR": str(temporary), "TERM": "xterm-256color", **variables}


def demo(temporary: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "kafkalite", "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(temporary, **variables),
        timeout=120,
        check=False,
    )


def test_demo_shows_all_its_parts_and_leaves_nothing(temporary: Path) -> None:
    done = demo(temporary, *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    digest = sha256(row.line for row in read_flights(limit=1500).rows)
    for expected in (
        "1,500 records into 3 partitions",
        "2. Read, in 2 processes at once",
        f"SHA-256 {digest}",
        "3. Replay, from 2013-01-",
        "UA United Air Lines",
        "5. Crash proof",
        "ok  0 acknowledged records missing or altered",
        "ok  store.check() finds nothing wrong",
        "the store was removed",
    ):
        assert expected in done.stdout
    assert "WRONG" not in done.stdout
    assert list(temporary.iterdir()) == []


def test_piped_demo_is_plain_text_within_80_columns(temporary: Path) -> None:
    lines = demo(temporary, *SMALL).stdout.splitlines()
    assert not any("\x1b" in line or "\r" in line for line in lines)
    assert [line for line in lines if len(line) > 80 and str(temporary) not in line] == []


def test_named_store_stays_and_holds_the_flights(temporary: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.klite"
    done = demo(temporary, *SMALL, "--store", path)
    assert done.returncode == 0, done.stderr
    assert f"the store stays at {path}" in " ".join(done.stdout.split())
    assert list(temporary.iterdir()) == []
    with kafkalite.connect(path, create=False) as store:
        assert sum(store.topic("flights").end_offsets().values()) == 1500
        assert store.check().ok


def test_keep_leaves_the_temporary_store(temporary: Path) -> None:
    assert demo(temporary, *SMALL, "--keep").returncode == 0
    (workshop,) = temporary.iterdir()
    with kafkalite.connect(workshop / "flights.klite", create=False) as store:
        assert store.check().ok


def test_existing_store_is_refused_and_untouched(temporary: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.klite"
    path.write_bytes(b"precious")
    done = demo(temporary, *SMALL, "--store", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"kafkalite: {path} exists, and the demo writes only to a store of its own; name a new path\n"
    )
    assert path.read_bytes() == b"precious"
    assert list(temporary.iterdir()) == []


def test_data_comes_from_the_option_or_the_environment(temporary: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    rows = read_flights(limit=40).rows
    header = b"year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,"
    header += b"tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n"
    path.write_bytes(header + b"".join(row.line + b"\n" for row in rows))
    by_option = demo(temporary, "--data", path, "--kills", "1", "--readers", "1")
    by_environment = demo(temporary, "--kills", "1", "--readers", "1", KAFKALITE_FLIGHTS=str(path))
    for done in (by_option, by_environment):
        assert done.returncode == 0, done.stderr
        assert "some.csv: 40 departures" in done.stdout


def test_absent_data_is_a_usage_error_and_strange_data_a_line(temporary: Path, tmp_path: Path) -> None:
    assert demo(temporary, "--data", tmp_path / "absent").returncode == 2
    strange = tmp_path / "strange.csv"
    strange.write_text("a,b\n1,2\n")
    done = demo(temporary, "--data", strange)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"kafkalite: {strange} is not a file of flights")
    assert done.stderr.count("\n") == 1


def test_data_without_lines_is_refused(temporary: Path, tmp_path: Path) -> None:
    header = (tmp_path / "header.csv").resolve()
    header.write_bytes(
        b"year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,"
        b"flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n"
    )
    done = demo(temporary, "--data", header)
    assert done.returncode == 1
    assert "holds no flights" in done.stderr


def test_ctrl_c_ends_with_130_and_leaves_neither_words_nor_files_nor_children(temporary: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "kafkalite", "demo", *SMALL[:-1], "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(temporary),
    )
    while not list(temporary.glob("*/acknowledgements")):  # the crash proof has begun: 1,000 kills take minutes
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "")
    assert list(temporary.iterdir()) == []
    deadline = time.monotonic() + 30  # one interrupted while it was being started ends by itself
    while processes_naming(temporary):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_naming(path: Path) -> list[str]:
    """The processes of this machine whose command line names `path`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended while we looked
            found.append(entry.read_bytes())
    return [command.decode() for command in found if str(path).encode() in command]


def test_terminal_gets_colour_and_a_progress_bar(temporary: Path) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "kafkalite", "demo", *SMALL],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        env=environment(temporary, COLUMNS="80"),
    ) as process:
        os.close(follower)
        shown = b""
        while chunk := read_terminal(leader):
            shown += chunk
    os.close(leader)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    assert b"1500/1500" in shown


def read_terminal(leader: int) -> bytes:
    """What the program wrote next; nothing once it has ended (Linux says EIO then)."""
    try:
        return os.read(leader, 65536)
    except OSError:
        return b""
