"""Tail -f: follow a topic, and get each record the moment another process has written it.

    python examples/tail_f.py

`read(until=None)` waits for more instead of ending. Waiting is sleeping, not polling: who writes wakes it.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path

import kafkalite


def write(path: Path) -> None:
    """Another process: log a line now and then."""
    with kafkalite.connect(path) as store:
        log = store.topic("log", value=str)
        for number in range(1, 6):
            log.append(f"line {number}")
            time.sleep(0.1)
        log.append("bye")


def main() -> None:
    """Follow the log until its writer says bye."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log.klite"
        with kafkalite.connect(path) as store:
            log = store.topic("log", value=str)
            log.append("line 0, from before")

            writer = multiprocessing.get_context("spawn").Process(target=write, args=(path,))
            writer.start()
            for record in log.read(start="earliest", until=None):  # "latest": only what comes from now on
                delay_ms = time.time() * 1000 - record.timestamp_ms
                print(f"{record.value}  ({delay_ms:.0f} ms after it was written)", flush=True)
                if record.value == "bye":
                    break  # following has no end of its own
            writer.join()


if __name__ == "__main__":
    main()
