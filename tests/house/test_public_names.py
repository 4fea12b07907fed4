"""What users see: the public names, pinned; what an import costs; tables without empty cells.

`public_names.txt` is rewritten by `REWRITE=1 python -m pytest tests/house/test_public_names.py`: a name that leaves
it breaks somebody's program.
"""

import inspect
from pathlib import Path

import pytest

import kafkalite
from kafkalite import config, errors
from kafkalite.testing import procs
from kafkalite.testing.golden import compare

PUBLIC_NAMES = Path(__file__).with_name("public_names.txt")
CORE = {"lmdb", "msgpack", "xxhash", "zstandard"}

THIRD_PARTY = """
import sys
before = set(sys.modules)
{code}
new = [name for name in set(sys.modules) - before if getattr(sys.modules[name], "__file__", None)]
print(*sorted({{name.partition(".")[0] for name in new}} - set(sys.stdlib_module_names) - {{"kafkalite"}}))
"""
USE = """
import kafkalite
with kafkalite.connect(sys.argv[1]) as store:
    topic = store.topic("orders", partitions=2)
    topic.append(b"1", key=b"alice")
    with store.producer() as producer:
        producer.send(topic, b"2").result()
    assert [record.value for record in topic.read()]
    assert store.check().ok
"""


def documented() -> list[str]:
    return [name for name in kafkalite.__all__ if not name.startswith("_")]


def imported(code: str, *arguments: object) -> set[str]:
    """The third-party packages that are in a fresh interpreter after this code and were not before."""
    with procs.python(THIRD_PARTY.format(code=code), *arguments) as child:
        return set(child.succeed()[-1].split())


def described(name: str) -> str:
    """A line of the golden file: the name, and its members or parameters."""
    value = getattr(kafkalite, name)
    if inspect.isclass(value):
        ours = [base for base in value.__mro__ if base.__module__.startswith("kafkalite")]
        members = {member for base in ours for member in vars(base) if not member.startswith("_")}
        return " ".join([name, *(f".{member}" for member in sorted(members))])
    if inspect.isfunction(value):
        return f"{name}({', '.join(inspect.signature(value).parameters)})"
    return name


def test_public_names_are_pinned() -> None:
    compare(PUBLIC_NAMES, "".join(f"{described(name)}\n" for name in sorted(kafkalite.__all__)))


def test_public_names_exist_once() -> None:
    assert len(set(kafkalite.__all__)) == len(kafkalite.__all__)
    assert [name for name in kafkalite.__all__ if not hasattr(kafkalite, name)] == []


def test_every_error_is_public() -> None:
    assert [row.__name__ for row in errors.ERRORS if row.__name__ not in kafkalite.__all__] == []


@pytest.mark.parametrize("name", documented())
def test_public_name_has_a_docstring(name: str) -> None:
    value = getattr(kafkalite, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}(")  # what the interpreter writes where there is none


@pytest.mark.parametrize("name", [name for name in documented() if inspect.isclass(getattr(kafkalite, name))])
def test_public_method_has_a_docstring(name: str) -> None:
    methods = [
        member for key, member in vars(getattr(kafkalite, name)).items() if not key.startswith("_") and callable(member)
    ]
    assert [method.__qualname__ for method in methods if inspect.isfunction(method) and not method.__doc__] == []


def test_import_pulls_the_core_libraries_only() -> None:
    assert imported("import kafkalite") <= CORE


def test_use_pulls_the_core_libraries_only(tmp_path: Path) -> None:
    assert imported(USE, tmp_path / "shop.klite") <= CORE


def test_import_and_use_leave_out_what_only_administrators_need(tmp_path: Path) -> None:
    code = """
import sys, kafkalite
with kafkalite.connect(sys.argv[1]) as store:
    store.topic("orders").append(b"1")
seldom = ("check", "repair", "salvage", "wreck", "backup", "transfer")
found = {"subprocess", "tempfile", "difflib", "kafkalite.copying", *(f"kafkalite.storage.{name}" for name in seldom)}
assert not found & set(sys.modules), found & set(sys.modules)
assert {"check", "repair", "copy_topics", "Report"} <= set(dir(kafkalite))
"""
    with procs.python(code, tmp_path / "shop.klite") as child:
        child.succeed()


def test_append_and_read_leave_out_the_dear_parts_of_the_standard_library(tmp_path: Path) -> None:
    """Each costs more than all of the engine: half the import was theirs."""
    code = """
import sys, kafkalite
with kafkalite.connect(sys.argv[1]) as store:
    topic = store.topic("orders")
    topic.append(b"1")
    assert [record.value for record in topic.read()] == [b"1"]
dear = {"dataclasses", "inspect", "logging", "traceback", "shutil", "socket", "zstandard", "asyncio", "msgspec"}
assert not dear & set(sys.modules), dear & set(sys.modules)
assert "Stats" in dir(kafkalite)
"""
    with procs.python(code, tmp_path / "shop.klite") as child:
        child.succeed()


def test_what_is_logged_is_silent_until_the_user_configures_it() -> None:
    code = """
from kafkalite.log import log
log().getChild("workers").error("nobody is to see this")
import logging
assert len(logging.getLogger("kafkalite").handlers) == 1
logging.basicConfig(format="seen: %(message)s")
log().error("this")
assert len(logging.getLogger("kafkalite").handlers) == 1
"""
    with procs.python(code) as child:
        child.succeed()
        assert child.complaints == ["seen: this"]


def test_import_starts_no_thread_and_configures_no_logging() -> None:
    code = """
import signal, threading, logging
handlers = [signal.getsignal(number) for number in signal.valid_signals()]
import kafkalite
assert threading.active_count() == 1, threading.enumerate()
assert not logging.getLogger().handlers
assert handlers == [signal.getsignal(number) for number in signal.valid_signals()]
"""
    with procs.python(code) as child:
        child.succeed()


@pytest.mark.parametrize("row", errors.ERRORS, ids=lambda row: row.__name__)
def test_every_error_says_what_it_means_and_how_to_mend_it(row: type[errors.KafkaliteError]) -> None:
    assert row.__doc__
    assert row.__doc__.strip().endswith(".")
    if row is not errors.KafkaliteError:
        assert "fix" in vars(row), f"{row.__name__} takes the fix of another row: write its own"
        assert row.fix
    assert isinstance(row.retriable, bool)


@pytest.mark.parametrize(
    "row",
    [row for rows in config.SETTINGS.values() for row in rows.values()],
    ids=lambda row: f"{row.scope}.{row.name}",
)
def test_every_setting_has_a_meaning_and_a_valid_default(row: config.Setting) -> None:
    assert row.meaning.endswith(".")
    assert row.check(row.default) == row.default
