"""The asynchronous face has the names of the synchronous one, with the same parameters, and says what each does."""

import inspect
from typing import Any

import pytest

import kafkalite
from kafkalite import aio

NOT_HERE: dict[str, set[str]] = {
    "Store": set(),
    "ConsumerGroup": {"run"},
    "ShareGroup": set(),
    "Topic": set(),
    "Producer": set(),
    "Transaction": set(),
}
"""What only the synchronous face has; `docs/how-to/asyncio.md` says so."""

BOTH = [(name, getattr(kafkalite, name), getattr(aio, name)) for name in NOT_HERE if hasattr(kafkalite, name)]


def names(face: type) -> set[str]:
    return {name for name in dir(face) if not name.startswith("_")}


@pytest.mark.parametrize(("name", "face", "ours"), BOTH)
def test_every_name_of_the_synchronous_face_is_here(name: str, face: type, ours: type) -> None:
    assert names(face) - names(ours) <= NOT_HERE[name]
    assert names(ours) - names(face) == set()


@pytest.mark.parametrize(("name", "face", "ours"), BOTH)
def test_its_methods_take_the_same_parameters(name: str, face: Any, ours: Any) -> None:
    assert name
    for one in names(face) & names(ours):
        if inspect.isfunction(getattr(face, one)):
            expected = list(inspect.signature(getattr(face, one)).parameters)
            assert list(inspect.signature(getattr(ours, one)).parameters) == expected, one
    assert list(inspect.signature(aio.connect).parameters) == list(inspect.signature(kafkalite.connect).parameters)


@pytest.mark.parametrize("name", sorted(aio.__all__))
def test_every_public_name_says_what_it_does(name: str) -> None:
    value = getattr(aio, name)
    assert value.__doc__
    for one, member in vars(value).items() if inspect.isclass(value) else ():
        if not one.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert member.__doc__, one
