"""Every public name of confluent_kafka 2.16, its admin, errors and serializers exists, or is listed as absent.

`names.txt` was taken from the real library: a name a line, with its value where it is a number.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kafkalite.compat import confluent_kafka as ck
from kafkalite.compat.confluent_kafka.absent import ABSENT
from kafkalite.compat.confluent_kafka.properties import PROPERTIES

NAMES = Path(__file__).with_name("names.txt").read_text().splitlines()
PACKAGE = "kafkalite.compat.confluent_kafka"


def found(name: str) -> Any:
    """What a dotted name of confluent_kafka is here."""
    value: Any = ck
    path = PACKAGE
    for part in name.split("."):
        path = f"{path}.{part}"
        known = getattr(value, part, value)
        value = importlib.import_module(path) if known is value else known
    return value


def is_listed(name: str) -> bool:
    """Whether a name, or what it is part of, stands in the list."""
    inner = name.removeprefix("admin.").removeprefix("cimpl.")
    parts = inner.split(".")
    inherited = inner.replace("SerializingProducer.", "Producer.")
    return any(".".join(parts[:count]) in ABSENT for count in range(1, len(parts) + 1)) or inherited in ABSENT


@pytest.mark.parametrize("line", NAMES)
def test_name_exists_or_is_listed_as_absent(line: str) -> None:
    name, _, number = line.partition(" = ")
    if is_listed(name):
        return
    value = found(name)
    if number:
        assert str(int(value) if isinstance(value, int) else value.value) == number


def test_what_is_listed_is_little_and_of_the_real_library() -> None:
    plain = {line.partition(" = ")[0].removeprefix("admin.") for line in NAMES}
    assert len(ABSENT) <= 20
    assert set(ABSENT) <= plain


@pytest.mark.parametrize("name", [name for name in ABSENT if name[0].isupper() and "transaction" not in name])
def test_absent_name_says_why_when_it_is_used(name: str) -> None:
    owner, _, method = name.partition(".")
    target = getattr(ck, owner, None) or getattr(ck.admin, owner)
    with pytest.raises(ck.KafkaException) as raised:
        getattr(target, method)(None) if method else target({})
    assert raised.value.args[0] == ck.KafkaError._UNSUPPORTED_FEATURE
    assert ABSENT[name] in raised.value.args[0].str()


def test_the_list_is_printed_by_the_module() -> None:
    done = subprocess.run([sys.executable, "-m", PACKAGE], capture_output=True, text=True, check=True, timeout=60)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(ABSENT)


def test_the_table_of_properties_has_no_alias_of_what_it_lacks() -> None:
    assert [row.name for row in PROPERTIES.values() if row.alias_of and row.alias_of not in PROPERTIES] == []
