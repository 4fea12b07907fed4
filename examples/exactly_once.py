"""Exactly once: a step that reads, works and writes, and is killed in the middle of it again and again.

    python examples/exactly_once.py

Each payment is booked in one transaction with the offset of the record that asked for it. Three workers are killed
after they sent a booking and before it was committed; the fourth comes to the end. Every payment is booked once.
"""

import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

import kafkalite

PAYMENTS = 40
FATAL = (7, 19, 31)
"""The first worker that gets one of these is killed by it."""


def book(path: Path) -> None:
    """A worker: books what is there."""
    with kafkalite.connect(path) as store, store.producer(transactional_id="bookkeeper") as producer:
        payments, bookings = store.topic("payments", value=int), store.topic("bookings", value=int)
        deaths = store.topic("deaths", value=int)
        with store.consumer_group("bookkeeping", payments, enable_auto_commit=False) as group:
            for payment in group.records(until="end"):
                with producer.transaction(group) as tx:
                    tx.send(bookings, payment.value)
                    if payment.value in FATAL and payment.value not in [death.value for death in deaths.read()]:
                        deaths.append(payment.value)
                        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Ask for payments, let workers book them, look at the books."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bank.klite"
        with kafkalite.connect(path) as store:
            store.topic("bookings", value=int)
            store.topic("deaths", value=int)
            store.topic("payments", value=int).append_many(range(PAYMENTS))

        killed = 0
        while True:
            worker = spawn.Process(target=book, args=(path,))
            worker.start()
            worker.join()
            if worker.exitcode == 0:
                break
            killed += 1
        print("workers killed:", killed)

        with kafkalite.connect(path) as store:
            booked = Counter(record.value for record in store.topic("bookings", value=int).read())
            print("payments booked:", len(booked), "more than once:", sum(count > 1 for count in booked.values()))
            print("check:", "clean" if store.check().ok else "damaged")


if __name__ == "__main__":
    main()
