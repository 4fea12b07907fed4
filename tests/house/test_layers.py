"""The layer law is kept; and, on small houses built to break it, the checker sees each kind of break."""

from pathlib import Path

import pytest

from .layers import EXCEPTIONS, FLOORS, GUARDED, LIBRARIES, Floor, Law, complaints

PACKAGE = Path(__file__).parents[2] / "kafkalite"

UPWARDS = "which stands on it"
SMALL = Law(
    floors=(
        Floor(("errors", "disk", "clock"), joined=True),
        Floor(("records",), pure=True),
        Floor(("storage", "cache")),
        Floor(("kafkalite", "store"), joined=True),
        Floor(("cli", "demo"), outside=True),
    ),
    libraries={"storage": {"lmdb": "the index"}},
    guarded={"os": {"disk": "files"}, "open": {"disk": "files"}, "time": {"clock": "time"}},
)


def house(tmp_path: Path, **modules: str) -> Path:
    """A package of these modules; `__` in a name stands for a folder."""
    for name, source in modules.items():
        path = tmp_path / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    (tmp_path / "__init__.py").touch()
    return tmp_path


def breaks(tmp_path: Path, **modules: str) -> list[str]:
    """Complaints about a small house, those about unused permissions left out."""
    return [line for line in complaints(house(tmp_path, **modules), SMALL) if "does not need it" not in line]


def test_the_law_is_kept() -> None:
    assert complaints(PACKAGE) == []


def test_every_room_stands_on_one_floor() -> None:
    rooms = [room for floor in FLOORS for room in floor.rooms]
    assert len(rooms) == len(set(rooms))


def test_every_permission_gives_its_reason() -> None:
    reasons = [
        *EXCEPTIONS.values(),
        *(why for row in LIBRARIES.values() for why in row.values()),
        *(why for row in GUARDED.values() for why in row.values()),
    ]
    assert all(reasons)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        pytest.param("records__a", "from kafkalite.storage import b", UPWARDS, id="upwards"),
        pytest.param("records__a", "def f():\n    import kafkalite.storage.b", UPWARDS, id="in_a_function"),
        pytest.param("records__a", "from ..storage.b import x", UPWARDS, id="relative"),
        pytest.param("errors", "from kafkalite import store", UPWARDS, id="submodule_of_the_root"),
        pytest.param("storage__c", "from kafkalite import connect", UPWARDS, id="root_from_below"),
        pytest.param("storage__c", "import kafkalite", UPWARDS, id="plain_root_from_below"),
        pytest.param("cache__c", "from kafkalite.storage import b", "its neighbour storage", id="neighbour"),
        pytest.param("demo__c", "from kafkalite.cli import x", "stands outside", id="other_application"),
        pytest.param("cli__c", "from kafkalite.storage.b import x", "stands outside", id="behind_the_face"),
        pytest.param("cli__c", "from kafkalite.errors import x", "stands outside", id="ground_from_outside"),
        pytest.param("store", "from kafkalite.storage.b import _x", "private to storage", id="private_name"),
        pytest.param("store", "from kafkalite.testing import b", "stands apart", id="testing"),
        pytest.param("records__a", "from kafkalite import clock", "is pure", id="pure"),
        pytest.param("records__a", "import lmdb", "library lmdb", id="library_of_another_room"),
        pytest.param("errors", "import lmdb.tool", "library lmdb", id="library_on_the_ground"),
        pytest.param("storage__c", "import os\nos.pwrite(1, b'', 0)", "os.pwrite", id="os"),
        pytest.param("storage__c", "from os import pwrite", "os.pwrite", id="from_os"),
        pytest.param("storage__c", "open('x')", "open", id="open"),
        pytest.param("storage__c", "def f(path): path.write_bytes(b'')", ".write_bytes", id="path_method"),
        pytest.param("storage__c", "def f(place): place.path.unlink()", ".unlink", id="path_method_of_field"),
        pytest.param("storage__c", "import time", "may not use time", id="time"),
        pytest.param("storage__c", "from time import sleep", "time.sleep", id="from_time"),
        pytest.param("storage__c", "def f(datetime): datetime.now()", "datetime.now", id="time_by_datetime"),
        pytest.param("attic", "x = 1", "no place in the law", id="room_without_a_floor"),
    ],
)
def test_canary(tmp_path: Path, module: str, source: str, complaint: str) -> None:
    others = {"clock": "", "storage__b": "x = _x = 1", "testing__b": "", "store": "", "cli__d": "x = 1"}
    found = breaks(tmp_path, **(others | {module: source}))
    assert len(found) == 1
    assert found[0].startswith(module.replace("__", "."))
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("storage__c", "from kafkalite.records.a import x", id="downwards"),
        pytest.param("storage__c", "from . import b\nfrom .b import _x", id="own_room"),
        pytest.param("storage__c", "import lmdb", id="library"),
        pytest.param("storage__c", "import os\nx = os.fspath('a') + os.sep", id="os_on_values"),
        pytest.param("storage__c", "from kafkalite import disk\ndisk.unlink('x')", id="files_through_disk"),
        pytest.param("disk", "import os\nos.open('x', 0)\nopen('x')", id="disk"),
        pytest.param("clock", "import time\nfrom datetime import datetime\ndatetime.now()", id="clock"),
        pytest.param("store", "import kafkalite", id="joined"),
        pytest.param("cli__c", "import kafkalite\nfrom kafkalite import connect", id="application"),
        pytest.param("testing__c", "import pytest\nfrom kafkalite.storage.b import _x", id="testing"),
        pytest.param("storage__c", "import struct\nfrom . import b", id="standard_library"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, module: str, source: str) -> None:
    others = {"disk": "", "storage__b": "_x = 1", "records__a": "x = 1"}
    assert breaks(tmp_path, **(others | {module: source})) == []


def test_an_exception_that_nothing_needs_is_a_complaint(tmp_path: Path) -> None:
    law = Law(SMALL.floors, exceptions={("cli", "storage"): "argued, once"})
    tree = house(tmp_path, cli__c="", storage__b="")
    assert complaints(tree, law) == ["cli is allowed storage and does not need it: take it out of the table"]


def test_an_exception_holds_for_what_it_names_only(tmp_path: Path) -> None:
    law = Law(SMALL.floors, exceptions={("cli.c", "storage"): "argued"})
    importing = "from kafkalite.storage import b"
    (complaint,) = complaints(house(tmp_path, cli__c=importing, cli__d=importing, storage__b=""), law)
    assert complaint.startswith("cli.d:1: ")
