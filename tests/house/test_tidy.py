"""Sizes, docstrings, and what must not lie around; and, on small bad files, that each of these is seen."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kafkalite"
CODE = ("kafkalite", "tests", "examples")
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 600

PRINTING = ("cli", "demo")
"""Rooms that talk to a terminal; the rest of a library has nothing to print."""

TEXT = {"", ".cfg", ".ini", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
NOT_OURS = re.compile(r"^(\..*|build|dist|site|.*\.egg-info|__pycache__)$")
OURS_ALL_THE_SAME = {".ci", ".github", ".gitignore"}

MARKS = ["TO_DO", "FIX_ME", "XX_X"]
UNFINISHED = re.compile(rf"\b({'|'.join(MARKS)})\b".replace("_", ""))
"""Marks of unfinished work, spelt so that this file has none."""
MACHINE_PATH = re.compile(r"(?<![\w.$}<-])/(home|root|Users|work|tmp/venv)/\w")
"""A path of somebody's machine: it means nothing on another."""


def python_files() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def text_files(tree: Path) -> Iterator[Path]:
    """Everything that belongs to the project and is meant to be read."""
    for path in sorted(tree.iterdir()):
        if NOT_OURS.match(path.name) and path.name not in OURS_ALL_THE_SAME:
            continue
        if path.is_dir():
            yield from text_files(path)
        elif path.suffix in TEXT:
            yield path


def size_complaints(path: Path) -> list[str]:
    """Modules and functions that are too long, modules without a docstring."""
    source = path.read_text(encoding="utf-8")
    syntax = ast.parse(source)
    found = []
    if len(source.splitlines()) > MAX_MODULE_LINES:
        found.append(f"{path}: {len(source.splitlines())} lines: cut it by noun below {MAX_MODULE_LINES}")
    if not ast.get_docstring(syntax) and source.strip():
        found.append(f"{path}: no docstring: open with the idea")
    for node in ast.walk(syntax):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > MAX_FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {size} lines: stop at {MAX_FUNCTION_LINES}")
    return found


def print_complaints(path: Path) -> list[str]:
    """Calls of `print`."""
    return [
        f"{path}:{node.lineno}: print: raise, return or log instead"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def stub_complaints(path: Path) -> list[str]:
    """Functions that are not written: a body of `...` or `NotImplementedError`, where no type or protocol says so."""
    syntax = ast.parse(path.read_text(encoding="utf-8"))
    protocols = [node for node in ast.walk(syntax) if isinstance(node, ast.ClassDef) and _is_protocol(node)]
    declared = {id(inner) for protocol in protocols for inner in ast.walk(protocol)}
    return [
        f"{path}:{node.lineno}: {node.name} is a stub: write it, or leave it out"
        for node in ast.walk(syntax)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and id(node) not in declared
        and not any("overload" in ast.unparse(mark) or "abstract" in ast.unparse(mark) for mark in node.decorator_list)
        and _is_stub(node)
    ]


def _is_protocol(node: ast.ClassDef) -> bool:
    return any("Protocol" in ast.unparse(base) for base in node.bases)


def _is_stub(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    last = ast.unparse(node.body[-1])
    return last == "..." or (len(node.body) <= 2 and last.startswith("raise NotImplementedError"))


def word_complaints(path: Path) -> list[str]:
    """Lines with marks of unfinished work, or with a path of somebody's machine."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if UNFINISHED.search(line):
            found.append(f"{path}:{number}: unfinished: do it, or write an issue")
        if MACHINE_PATH.search(line):
            found.append(f"{path}:{number}: a path of one machine: {line.strip()}")
    return found


def test_modules_and_functions_have_readable_sizes() -> None:
    assert [complaint for path in python_files() for complaint in size_complaints(path)] == []


def test_only_the_terminal_rooms_print() -> None:
    silent = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in PRINTING]
    assert [complaint for path in silent for complaint in print_complaints(path)] == []


def test_nothing_is_a_stub() -> None:
    assert [complaint for path in PACKAGE.rglob("*.py") for complaint in stub_complaints(path)] == []


def test_nothing_lies_around() -> None:
    read = list(text_files(ROOT))
    assert {ROOT / "README.md", ROOT / ".ci" / "run", Path(__file__)} <= set(read)
    assert [complaint for path in read for complaint in word_complaints(path)] == []


@pytest.mark.parametrize("suffix", [".pyc", ".klite", ".segment", ".log"])
def test_nothing_that_a_program_left_is_packaged(suffix: str) -> None:
    left = [path for path in PACKAGE.rglob(f"*{suffix}") if "__pycache__" not in path.parts]
    assert left == []


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return tmp_path / "bad.py"


def test_canary_long_function(bad: Path) -> None:
    bad.write_text('"""Idea."""\n\n\ndef f(x):\n' + "    x += 1\n" * (MAX_FUNCTION_LINES - 1))
    assert size_complaints(bad) == []
    bad.write_text(bad.read_text() + "    x += 1\n")
    assert len(size_complaints(bad)) == 1


def test_canary_long_method(bad: Path) -> None:
    bad.write_text('"""Idea."""\n\n\nclass C:\n    async def f(x):\n' + "        x += 1\n" * MAX_FUNCTION_LINES)
    assert len(size_complaints(bad)) == 1


def test_canary_long_module(bad: Path) -> None:
    bad.write_text('"""Idea."""\n' + "x = 1\n" * (MAX_MODULE_LINES - 1))
    assert size_complaints(bad) == []
    bad.write_text(bad.read_text() + "x = 1\n")
    assert len(size_complaints(bad)) == 1


def test_canary_no_docstring(bad: Path) -> None:
    bad.write_text("x = 1\n")
    assert len(size_complaints(bad)) == 1


def test_canary_print(bad: Path) -> None:
    bad.write_text("console.print('fine')\n'print()'\n")
    assert print_complaints(bad) == []
    bad.write_text("def f():\n    print('x')\n")
    assert len(print_complaints(bad)) == 1


@pytest.mark.parametrize(
    "stub",
    [
        "def f(): ...",
        "def f():\n    '''Idea.'''\n    raise NotImplementedError('soon')",
        "class C:\n    def f(self): ...",
    ],
)
def test_canary_stub(bad: Path, stub: str) -> None:
    bad.write_text(stub)
    assert len(stub_complaints(bad)) == 1


def test_protocols_and_overloads_are_no_stubs(bad: Path) -> None:
    bad.write_text("class C(Protocol[T]):\n    def f(self): ...\n@overload\ndef f(): ...\ndef f(): return 1\n")
    assert stub_complaints(bad) == []


@pytest.mark.parametrize("mark", MARKS)
def test_canary_unfinished(bad: Path, mark: str) -> None:
    bad.write_text(f"x = 1  # {mark.replace('_', '')}: later\n")
    assert len(word_complaints(bad)) == 1


@pytest.mark.parametrize("folder", ["home", "root", "Users", "work"])
def test_canary_machine_path(bad: Path, folder: str) -> None:
    bad.write_text(f'path = "/{folder}/somebody/shop.klite"\n')
    assert len(word_complaints(bad)) == 1


def test_paths_that_every_machine_has_are_fine(bad: Path) -> None:
    bad.write_text('a, b = "/dev/shm", "/tmp/x"\nc = "https://example.org/work/x"\nd = "a/work/b"\n')
    assert word_complaints(bad) == []
