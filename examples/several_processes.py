"""Several processes: some write to a topic, others read it, all at the same time.

    python examples/several_processes.py

Any number of processes open the same file. Each writer's records come out in the order in which it wrote them
(its key puts them into one partition), and every reader sees all records.
"""

import multiprocessing
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import kafkalite

WRITERS = 3
READERS = 2
RECORDS = 2_000
"""By each writer."""


def write(path: Path, name: str) -> None:
    """A writing process."""
    with kafkalite.connect(path) as store, store.producer() as producer:
        numbers = store.topic("numbers", key=str, value=int)
        for number in range(RECORDS):
            producer.send(numbers, number, key=name)


def read(path: Path) -> Counter[str | None]:
    """A reading process: follows the topic until it has everything, and checks the order."""
    with kafkalite.connect(path) as store:
        numbers = store.topic("numbers", key=str, value=int)
        seen: Counter[str | None] = Counter()
        for record in numbers.read(until=None):
            assert record.value == seen[record.key], "each writer's numbers come in order"
            seen[record.key] += 1
            if seen.total() == WRITERS * RECORDS:
                break
        return seen


def main() -> None:
    """Start readers and writers together, wait for all of them."""
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as directory,
        ProcessPoolExecutor(READERS + WRITERS, mp_context=spawn) as processes,
    ):
        path = Path(directory) / "numbers.klite"
        with kafkalite.connect(path) as store:
            store.topic("numbers", partitions=4)

        readers = [processes.submit(read, path) for _ in range(READERS)]
        writers = [processes.submit(write, path, f"writer {n}") for n in range(WRITERS)]
        for writer in writers:
            writer.result()
        for reader in readers:
            seen = reader.result()
            print(f"a reader got {seen.total()} records, each writer's in order: {dict(sorted(seen.items()))}")

        with kafkalite.connect(path) as store:
            print("records in the topic:", sum(store.topic("numbers").end_offsets().values()))
            print("check:", "clean" if store.check().ok else "damaged")


if __name__ == "__main__":
    main()
