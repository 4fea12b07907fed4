"""The pytest plugin: fixtures for tests of an application that uses kafkalite.

It ships in the wheel and is found by its entry point (`pytest11`): nothing has to be imported or configured. A test
that names the fixture `kafkalite_store` gets a store of its own; no other test opens one. `-p no:kafkalite` leaves the
plugin out.
"""

from collections.abc import Iterator

import pytest

import kafkalite


@pytest.fixture
def kafkalite_store() -> Iterator[kafkalite.Store]:
    """A new, empty store for one test: closed when the test is over, and proved sound before.

    It is a `":memory:"` store, with the code and the promises of one on a disk; other processes of the test open it by
    its `path`. Closing raises what a producer could not deliver. A test that closes the store itself has it checked no
    more: the store went with its closing.
    """
    with kafkalite.connect(":memory:") as store:
        yield store
        try:
            report = store.check()
        except kafkalite.ClosedError:
            return
    if not report.ok:
        pytest.fail(f"the test left a damaged store: {report}", pytrace=False)
