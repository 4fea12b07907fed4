"""The pytest plugin: what a user's tests get by naming its fixture, seen from runs of pytest inside this one."""

from importlib.metadata import entry_points

import pytest

import kafkalite

pytest_plugins = ["pytester"]


def outcomes(pytester: pytest.Pytester, code: str) -> tuple[dict[str, int], str]:
    """What became of the tests in `code`, and what was printed."""
    pytester.makepyfile(code)
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    return done.parseoutcomes(), str(done.stdout)


def test_pytest_finds_it_by_its_entry_point() -> None:
    found = [entry.value for entry in entry_points(group="pytest11") if entry.name == "kafkalite"]
    assert set(found) == {"kafkalite.testing.plugin"}


def test_a_store_works_and_is_sound(kafkalite_store: kafkalite.Store) -> None:
    orders = kafkalite_store.topic("orders", partitions=2, key=str, value=int)
    orders.append(1, key="alice")
    with kafkalite_store.producer() as producer:
        producer.send(orders, 2, key="alice")
    assert [record.value for record in orders.read()] == [1, 2]
    assert kafkalite_store.settings["durability"] == "commit"


def test_each_test_has_an_empty_store_of_its_own_that_is_gone_afterwards(pytester: pytest.Pytester) -> None:
    code = """
        import pytest
        paths = []

        @pytest.mark.parametrize("turn", [1, 2])
        def test_empty(kafkalite_store, turn):
            assert kafkalite_store.topics() == []
            kafkalite_store.topic("orders").append(b"1")
            assert not any(path.exists() for path in paths)
            paths.append(kafkalite_store.path)

        def test_gone():
            assert len(set(paths)) == 2 and not any(path.exists() for path in paths)
    """
    assert outcomes(pytester, code)[0] == {"passed": 3}


def test_another_process_opens_it_by_its_path(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        writer="""
        import sys, kafkalite
        with kafkalite.connect(sys.argv[1], create=False) as store:
            store.topic("orders", create=False).append(b"theirs")
        """
    )
    code = """
        import subprocess, sys

        def test_it(kafkalite_store):
            orders = kafkalite_store.topic("orders")
            subprocess.run([sys.executable, "writer.py", str(kafkalite_store.path)], check=True)
            assert [record.value for record in orders.read()] == [b"theirs"]
    """
    assert outcomes(pytester, code)[0] == {"passed": 1}


def test_damage_is_an_error_of_the_test_that_left_it(pytester: pytest.Pytester) -> None:
    code = """
        def test_damages(kafkalite_store):
            kafkalite_store.topic("orders").append(b"a value to be found")
            segment, = kafkalite_store.path.glob("*.segment")
            data = segment.read_bytes()
            with segment.open("r+b") as file:
                file.seek(data.index(b"a value"))
                file.write(b"X")
    """
    found, said = outcomes(pytester, code)
    assert found == {"passed": 1, "errors": 1}
    assert "the test left a damaged store: " in said
    assert "can be followed only to" in said


def test_what_a_producer_could_not_deliver_is_an_error_of_the_test(pytester: pytest.Pytester) -> None:
    code = """
        def test_sends(kafkalite_store):
            orders = kafkalite_store.topic("orders")
            producer = kafkalite_store.producer(linger_ms=60_000)
            producer.send(orders, b"1")
            kafkalite_store.delete_topic("orders")
            globals()["kept"] = producer
    """
    found, said = outcomes(pytester, code)
    assert found == {"passed": 1, "errors": 1}
    assert "DeliveryError" in said


def test_a_test_may_close_its_store(pytester: pytest.Pytester) -> None:
    code = """
        def test_closes(kafkalite_store):
            kafkalite_store.topic("orders").append(b"1")
            kafkalite_store.close()
    """
    assert outcomes(pytester, code)[0] == {"passed": 1}


def test_a_test_that_names_no_fixture_opens_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a store was opened")

    monkeypatch.setattr(kafkalite, "connect", refuse)
    assert outcomes(pytester, "def test_nothing():\n    pass\n")[0] == {"passed": 1}
    assert outcomes(pytester, "def test_store(kafkalite_store):\n    pass\n")[0] == {"errors": 1}


def test_the_fixture_is_listed_with_its_meaning(pytester: pytest.Pytester) -> None:
    said = str(pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider").stdout)
    assert "kafkalite_store" in said
    assert "A new, empty store for one test" in said
