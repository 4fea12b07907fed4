"""The pages are true: their Python runs, their links lead somewhere, the README's commands are those of the gate.

Python blocks of a page share one module and run in an empty directory, top to bottom; a block below `<!-- no-run -->`
is left out. Stores that a page leaves there are checked.
"""

import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import kafkalite

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NO_RUN = "<!-- no-run -->"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^]]*\]\(([^)#\s]+)[^)]*\)")
SHELL = {"sh", "bash", "shell", "console"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins in, whether the page asks to leave it out."""

    language: str
    text: str
    line: int
    is_left_out: bool


def blocks(page: str) -> Iterator[Block]:
    for found in FENCE.finditer(page):
        before = page[: found.start()]
        left_out = before.rstrip().endswith(NO_RUN)
        yield Block(found[1], found[2], before.count("\n") + 2, left_out)


def play(page: str, name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the page's Python blocks, errors at the page's own lines; how many there were."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where decorators and serdes look up types
    played = [block for block in blocks(page) if block.language == "python" and not block.is_left_out]
    for block in played:
        exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), vars(module))
    return len(played)


def shell_commands(page: str) -> list[list[str]]:
    """The lines of each shell block."""
    return [block.text.splitlines() for block in blocks(page) if block.language in SHELL]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    play(page.read_text(encoding="utf-8"), str(page), monkeypatch)
    for store_path in tmp_path.glob("*.klite"):
        with kafkalite.connect(store_path, create=False) as store:
            assert store.check().ok


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_shows_python() -> None:
    assert [block for block in blocks((ROOT / "README.md").read_text()) if block.language == "python"]


def test_the_first_two_commands_of_the_readme_are_one_line_each() -> None:
    demo, tests, *_ = shell_commands((ROOT / "README.md").read_text())
    assert len(demo) == len(tests) == 1
    assert demo[0].startswith("python3 -m venv .venv && ")
    assert demo[0].endswith(" && .venv/bin/kafkalite demo")
    assert tests[0].startswith("python3 -m venv .venv && ")
    assert ".venv/bin/python -m pytest" in tests[0].rpartition(" && ")[2]


def test_the_gate_runs_what_the_readme_says() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    reading = re.search(r"^readme_command\(\) \{\n.*?^\}", gate, re.MULTILINE | re.DOTALL)
    assert reading is not None
    for number, lines in enumerate(shell_commands((ROOT / "README.md").read_text())[:2], start=1):
        script = f"{reading[0]}\nreadme_command {number}"
        said = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert said.stdout.splitlines() == lines


def test_every_page_is_reached_from_the_front_page() -> None:
    front = (ROOT / "docs" / "index.md").read_text()
    linked = {(ROOT / "docs" / target).resolve() for target in LINK.findall(front)}
    pages = set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "index.md"}
    assert {page.resolve() for page in pages} <= linked


def test_every_decision_is_in_the_index_of_decisions() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = set(LINK.findall((folder / "README.md").read_text()))
    assert {page.name for page in folder.glob("0*.md")} == linked


def test_the_changelog_opens_with_this_version() -> None:
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert first.startswith(f"## {kafkalite.__version__},")


def test_canary_a_block_that_fails_names_the_line_of_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "# A page\n\n```python\nx = 1\n```\n\nand\n\n```python\nassert x == 1\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as raised:
        play(page, "page.md", monkeypatch)
    assert (raised.traceback[-1].path, raised.traceback[-1].lineno + 1) == ("page.md", 11)


def test_canary_a_block_is_left_out_only_where_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    page = f"{NO_RUN}\n```python\nassert False\n```\n\n```python\nx = 1\n```\n```text\nnot python\n```\n"
    assert play(page, "page.md", monkeypatch) == 1


def test_canary_a_link_that_leads_nowhere_is_seen() -> None:
    assert LINK.findall("[a](b.md), [c](d/e.md#f), [g](#h)") == ["b.md", "d/e.md"]
