"""A work queue: three worker processes share the jobs of one topic; one is killed, one job is broken.

    python examples/work_queue.py

Each job is done by one worker at a time. What the killed worker had in hand is delivered again to another; the job that
fails each time ends in the dead letter topic; all others are done.
"""

import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

import kafkalite

JOBS = 60
WORKERS = 3
BROKEN = 13
FATAL = 7
"""The first worker that gets this job is killed by it."""


def work(path: Path, name: str) -> None:
    """A worker: does jobs until none is left, by whomever."""
    with kafkalite.connect(path) as store:
        jobs, done = store.topic("jobs", value=int), store.topic("done", key=str, value=int)
        with store.share_group("workers", jobs, max_delivery_count=3, dead_letter="failed") as group:
            for job in group.records(until="end"):
                if job.value == FATAL and job.delivery_count == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                if job.value == BROKEN:
                    group.release(job)  # it is tried again, perhaps elsewhere
                else:
                    done.append(job.value, key=name)


def main() -> None:
    """Fill the queue, let the workers work it off, look at what they did."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "queue.klite"
        with kafkalite.connect(path) as store:
            store.topic("failed", value=int)
            store.topic("done", key=str, value=int)
            store.topic("jobs", partitions=2, value=int).append_many(range(JOBS))

        workers = [spawn.Process(target=work, args=(path, f"worker {number}")) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print("killed:", sum(worker.exitcode == -signal.SIGKILL for worker in workers))

        with kafkalite.connect(path) as store:
            done = Counter(record.value for record in store.topic("done", key=str, value=int).read())
            print("jobs done:", len(done), "without the broken one:", BROKEN not in done)
            for letter in store.topic("failed", value=int).read():
                deliveries = dict(letter.headers)["_dlq.errors.delivery.count"]
                print("given up: job", letter.value, "after", (deliveries or b"").decode(), "deliveries")
            print("check:", "clean" if store.check().ok else "damaged")


if __name__ == "__main__":
    main()
