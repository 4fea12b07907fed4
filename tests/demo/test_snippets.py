"""The Python that the demo prints is Python that works."""

import contextlib
import io
from pathlib import Path

import pytest

import kafkalite
from kafkalite.demo import snippets

VALUES = {"store": "flights.klite", "partitions": 4, "start": "2013, 1, 20", "source": "limit=3000"}


def test_printed_lines_run_in_the_demos_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    outputs = []
    for snippet in snippets.ALL:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(snippet.substitute(VALUES), namespace)
        outputs.append(output.getvalue().splitlines())
    ingest, read, replay, summary, crash, group = outputs
    assert ingest == []
    assert len(read) == 3000
    assert len(replay) < 3000
    assert summary[0].startswith("Counter({b'")
    assert len(crash) == 100
    assert len(group) == 3000
    with kafkalite.connect("flights.klite") as store:
        assert sorted(store.topics()) == ["crash-proof", "flights"]
        assert store.check().ok


@pytest.mark.parametrize("snippet", snippets.ALL)
def test_printed_lines_fit_into_a_terminal(snippet: object) -> None:
    assert max(map(len, str(snippet.template).splitlines())) <= 70  # type: ignore[attr-defined]
