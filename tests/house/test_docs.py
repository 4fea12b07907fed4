"""The pages are true: their examples run, what they say is printed is printed, their links lead somewhere, the
reference is what the code says, and the README's commands are those of the gate.

The blocks of a page run top to bottom in one empty directory:

    python               in one module for the whole page
    python title="x.py"  (or any language) is written to the file x.py
    sh                   bash, ending at the first failure; `python` and `kafkalite` are those under test
    text                 below `<!-- output -->`: what the block before it printed; a `…` stands for anything in its
                         line, a line `…` for any lines

A block below `<!-- no-run -->` is left out, and so are blocks in other languages. Stores that a page leaves there are
checked, unless it says `<!-- leaves damage -->`.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import kafkalite
from kafkalite.testing.golden import compare

from . import reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
SITE_PAGES = [page for page in PAGES if page.is_relative_to(DOCS)]
NO_RUN = "<!-- no-run -->"
OUTPUT = "<!-- output -->"
LEAVES_DAMAGE = "<!-- leaves damage -->"
FENCE = re.compile(r"^( *)```(\w*)(?: +title=\"([^\"]+)\")?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^]]*\]\(([^)#\s]+)[^)]*\)")
ANCHORED = re.compile(r"\[[^]]*\]\(([^)#\s]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
SHELL = {"sh", "bash", "shell", "console"}
RUN_BY_THE_GATE = "python3 -m venv .venv"
PATIENCE_S = 120


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and file, its text, the line it begins in, what the page asks to do with it."""

    language: str
    title: str
    text: str
    line: int
    is_left_out: bool
    is_output: bool


def blocks(page: str) -> Iterator[Block]:
    for found in FENCE.finditer(page):
        before = page[: found.start()].rstrip()
        margin, language, title, text = found[1], found[2], found[3] or "", found[4]
        text = "".join(line.removeprefix(margin) for line in text.splitlines(keepends=True))
        line = page[: found.start()].count("\n") + 2
        yield Block(language, title, text, line, before.endswith(NO_RUN), before.endswith(OUTPUT))


def play(page: str, name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the page's blocks in the current directory, errors at the page's own lines; how many there were."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where decorators and serdes look up types
    said, played = "", 0
    for block in blocks(page):
        if block.is_left_out:
            continue
        if block.is_output:
            assert said_as(block.text, said), f"{name}:{block.line}: the page says\n{block.text}\nand it was\n{said}"
        elif block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            said = run_python(block, name, module)
        elif block.language in SHELL:
            said = run_shell(block, name)
        else:
            continue
        played += 1
    return played


def run_python(block: Block, name: str, module: types.ModuleType) -> str:
    code = compile("\n" * (block.line - 1) + block.text, name, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, vars(module))
    return said.getvalue()


def run_shell(block: Block, name: str) -> str:
    """What the block prints, errors among it; the programs of this Python's environment come first.

    What it leaves running in the background is ended with it.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("KAFKALITE_", "PYTEST_"))}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", block.text],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment | {"COLUMNS": "120", "NO_COLOR": "1"},
            start_new_session=True,
        )
        try:
            ended = f"exit status {child.wait(PATIENCE_S)}"
        except subprocess.TimeoutExpired:
            ended = f"not done after {PATIENCE_S} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        output.seek(0)
        said = output.read().decode(errors="backslashreplace")
    assert ended == "exit status 0", f"{name}:{block.line}: {ended}\n{block.text}\n{said}"
    return said


def said_as(expected: str, said: str) -> bool:
    """Whether a program said what the page says; spaces at the ends of lines do not count."""
    lines = [line.rstrip() for line in expected.strip("\n").splitlines()]
    pattern = "\n".join("(?s:.*)" if line == "…" else re.escape(line).replace("…", ".*") for line in lines)
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in said.strip("\n").splitlines())) is not None


def shell_commands(page: str) -> list[list[str]]:
    """The lines of each shell block."""
    return [block.text.splitlines() for block in blocks(page) if block.language in SHELL]


def without_the_gates_commands(page: str) -> str:
    """The README without the two blocks that `.ci/run` runs, each in an environment that it makes for it."""
    return page.replace(f"```sh\n{RUN_BY_THE_GATE}", f"{NO_RUN}\n```sh\n{RUN_BY_THE_GATE}")


def stores_in(directory: Path) -> list[Path]:
    files = [path for path in directory.rglob("*.klite") if path.is_file()]
    return [*files, *(path.parent for path in directory.rglob("superblock"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    play(without_the_gates_commands(text) if page.name == "README.md" else text, str(page), monkeypatch)
    if LEAVES_DAMAGE in text:
        return
    for store_path in stores_in(tmp_path):
        with kafkalite.connect(store_path, create=False) as store:
            assert store.check().ok


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_into_a_page_lead_to_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [(target, anchor) for target, anchor in ANCHORED.findall(text) if "://" not in target]
    assert [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in anchors((page.parent / target if target else page).read_text(encoding="utf-8"))
    ] == []


def anchors(page: str) -> set[str]:
    return {reference.slug(heading) for heading in HEADING.findall(FENCE.sub("", page))}


@pytest.mark.parametrize("page", SITE_PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_of_the_site_links_within_the_site(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).resolve().is_relative_to(DOCS)] == []


def test_every_page_is_in_the_navigation_once() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    named = sorted(targets_of(site["nav"]))
    decisions = {str(page.relative_to(DOCS)) for page in (DOCS / "decisions").glob("0*.md")}  # their index lists them
    assert named == sorted({str(page.relative_to(DOCS)) for page in SITE_PAGES} - decisions)


def targets_of(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, list | dict):
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from targets_of(entry)


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    compare(DOCS / "reference" / name, reference.PAGES[name]())


def test_every_public_name_is_on_a_page_of_the_reference() -> None:
    pages = "".join((DOCS / "reference" / name).read_text() for name in ("api.md", "errors.md"))
    public = [name for name in kafkalite.__all__ if not name.startswith("_")]
    assert [name for name in public if f"### kafkalite.{name}\n" not in pages and f"| `{name}` |" not in pages] == []


def test_the_readme_shows_python() -> None:
    assert [block for block in blocks((ROOT / "README.md").read_text()) if block.language == "python"]


def test_the_first_two_commands_of_the_readme_are_one_line_each() -> None:
    demo, tests, *_ = shell_commands((ROOT / "README.md").read_text())
    assert len(demo) == len(tests) == 1
    assert demo[0].startswith(f"{RUN_BY_THE_GATE} && ")
    assert demo[0].endswith(" && .venv/bin/kafkalite demo")
    assert tests[0].startswith(f"{RUN_BY_THE_GATE} && ")
    assert ".venv/bin/python -m pytest" in tests[0].rpartition(" && ")[2]


def test_the_gate_runs_what_the_readme_says() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    reading = re.search(r"^readme_command\(\) \{\n.*?^\}", gate, re.MULTILINE | re.DOTALL)
    assert reading is not None
    for number, lines in enumerate(shell_commands((ROOT / "README.md").read_text())[:2], start=1):
        script = f"{reading[0]}\nreadme_command {number}"
        said = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert said.stdout.splitlines() == lines


def test_every_module_of_the_engine_is_on_the_map_of_the_internals() -> None:
    internals = (DOCS / "internals.md").read_text()
    package = ROOT / "kafkalite"
    modules = [*package.glob("*.py"), *package.glob("storage/*.py"), *package.glob("records/*.py")]
    absent = [path.name for path in modules if f"`{path.name}`" not in internals and not path.name.startswith("__")]
    assert absent == []


def test_every_page_is_reached_from_the_front_page() -> None:
    front = (DOCS / "index.md").read_text()
    linked = {(DOCS / target).resolve() for target in LINK.findall(front)}
    pages = {page for page in SITE_PAGES if page.parent.name != "decisions" or page.name == "README.md"}
    assert {page.resolve() for page in pages} - {DOCS / "index.md"} <= linked


def test_every_decision_is_in_the_index_of_decisions() -> None:
    folder = DOCS / "decisions"
    linked = set(LINK.findall((folder / "README.md").read_text()))
    assert {page.name for page in folder.glob("0*.md")} == linked


def test_the_changelog_opens_with_this_version() -> None:
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert first.startswith(f"## {kafkalite.__version__},")


# Canaries: each of these checks can fail


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_canary_a_block_that_fails_names_the_line_of_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "# A page\n\n```python\nx = 1\n```\n\nand\n\n```python\nassert x == 1\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as raised:
        play(page, "page.md", monkeypatch)
    assert (raised.traceback[-1].path, raised.traceback[-1].lineno + 1) == ("page.md", 11)


def test_canary_a_block_is_left_out_only_where_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    page = f"{NO_RUN}\n```python\nassert False\n```\n\n```python\nx = 1\n```\n```text\nnot python\n```\n"
    assert play(page, "page.md", monkeypatch) == 1


def test_canary_a_shell_block_that_fails_names_its_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = '```sh\necho hello > said\n```\n\n```sh\ngrep -q hello said\nfalse | cat\necho "not reached"\n```\n'
    with pytest.raises(AssertionError, match=r"page\.md:6: exit status 1"):
        play(page, "page.md", monkeypatch)
    assert (here / "said").read_text() == "hello\n"


def test_canary_a_shell_block_that_hangs_is_ended(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PATIENCE_S", 0.2)
    with pytest.raises(AssertionError, match=r"page\.md:2: not done after 0\.2 s"):
        play("```sh\nsleep 600 & wait\n```\n", "page.md", monkeypatch)


def test_what_a_shell_block_leaves_in_the_background_ends_with_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play("```sh\nsleep 600 &\necho $! > pid\n```\n", "page.md", monkeypatch)
    pid = (here / "pid").read_text().strip()
    until = time.monotonic() + PATIENCE_S
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_running(pid)


def is_running(pid: str) -> bool:
    """Whether there is such a process; one that only waits to be collected has ended."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_titled_block_is_a_file_of_the_page(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = '1. Save\n\n   ```python title="hello.py"\n   print("hello")\n   ```\n\n```sh\npython hello.py\n```\n'
    assert play(f"{page}\n{OUTPUT}\n```text\nhello\n```\n", "page.md", monkeypatch) == 3
    assert (here / "hello.py").read_text() == 'print("hello")\n'


@pytest.mark.parametrize(
    ("expected", "said", "agrees"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("took … ms\n", "took 17 ms\n", True),
        ("took … ms\n", "took 17 s\n", False),
        ("took …\nb\n", "took 1\n2\nb\n", False),
        ("…\nb\n", "1\n2\nb\n", True),
        ("a.c\n", "abc\n", False),
    ],
)
def test_canary_output_that_differs_is_seen(expected: str, said: str, agrees: bool) -> None:
    assert said_as(expected, said) is agrees


def test_canary_a_page_that_misquotes_a_program_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = f'```python\nprint("one")\n```\n\n{OUTPUT}\n```text\ntwo\n```\n'
    with pytest.raises(AssertionError, match=r"page\.md:7: the page says"):
        play(page, "page.md", monkeypatch)


def test_canary_a_link_that_leads_nowhere_is_seen() -> None:
    assert LINK.findall("[a](b.md), [c](d/e.md#f), [g](#h)") == ["b.md", "d/e.md"]
    assert ANCHORED.findall("[a](b.md), [c](d/e.md#f), [g](#h)") == [("d/e.md", "f"), ("", "h")]
    assert anchors("# One `two`, three\n\n```sh\n# no heading\n```\n") == {"one-two-three"}
