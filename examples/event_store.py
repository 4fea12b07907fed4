"""Event store: an account is what its records add up to, and two writers never overdraw it.

    python examples/event_store.py

Each account is a stream, here a topic of its own. To change one, read its records, decide, and append
with `expected_end_offset=`, the offset where your reading ended. If someone else appended meanwhile,
nothing is written and `OffsetConflictError` is raised: read again, decide again. That is optimistic
concurrency: no locks are held while you think.
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from threading import Barrier, Thread

import msgspec

import kafkalite
from kafkalite import Topic


class Deposited(msgspec.Struct, tag=True):
    """Money came in."""

    amount: int


class Withdrawn(msgspec.Struct, tag=True):
    """Money went out."""

    amount: int


Change = Deposited | Withdrawn
Account = Topic[bytes, Change]


def balance(changes: Iterable[Change]) -> int:
    """What the changes add up to: the whole state of an account."""
    return sum(change.amount if isinstance(change, Deposited) else -change.amount for change in changes)


def say(line: str) -> None:
    """Print in one piece, where `print` would write the line and its end apart: two threads speak here."""
    sys.stdout.write(f"{line}\n")


def withdraw(account: Account, amount: int, ready: Barrier) -> None:
    """Withdraw if the account has as much, whoever else is writing to it."""
    is_first_look = True
    while True:
        records = list(account.read())
        held = balance(record.value for record in records)
        if is_first_look:
            ready.wait()  # for the show: both see the same balance before either acts
            is_first_look = False
        if held < amount:
            say(f"withdrawing {amount}: refused, the balance is {held}")
            return
        try:
            account.append(Withdrawn(amount), expected_end_offset=records[-1].offset + 1)
        except kafkalite.OffsetConflictError as conflict:
            say(f"withdrawing {amount}: the end is {conflict.actual}, not {conflict.expected}; again")
        else:
            say(f"withdrawing {amount}: done")
            return


def main() -> None:
    """Two withdrawals of 80 from an account that holds 100."""
    with (
        tempfile.TemporaryDirectory() as directory,
        kafkalite.connect(Path(directory) / "bank.klite") as store,
    ):
        account: Account = store.topic("account-1", value=kafkalite.json(Change))
        account.append_many([Deposited(60), Deposited(40)], expected_end_offset=0)  # both or none; must be new

        ready = Barrier(2, timeout=30)
        threads = [Thread(target=withdraw, args=(account, 80, ready)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        for record in account.read():
            print(f"{record.offset}: {record.value}")
        print("balance:", balance(record.value for record in account.read()))


if __name__ == "__main__":
    main()
