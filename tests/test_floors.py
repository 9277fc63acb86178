"""The architecture, enforced: who imports whom, what pure parts never import, how big files and functions may be.

Source of the rules: the architecture document ("Tree", "Floors") and the house style. The checkers are functions of
source text, so that the last tests can show each of them a bad snippet and see it go red.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "canaryproxy"

BASE = {"errors", "clock", "config"}
PURE = {"stats", "analysis", "rollout", "http1", "routing"}
BELOW_PLANES = BASE | PURE | {"shared", "store"}

#: What each part of canaryproxy may import, besides itself. `canaryproxy` stands for the package's own `__init__`: the version.
MAY_IMPORT: dict[str, set[str]] = {
    "canaryproxy": set(),
    "errors": set(),
    "clock": set(),
    "config": {"errors", "clock"},
    "stats": BASE,
    "analysis": BASE | {"stats"},
    "rollout": BASE | {"stats", "analysis"},
    "http1": BASE,
    "routing": BASE,
    "shared": BASE | PURE,
    "store": BASE | PURE,
    "proxy": BASE | {"http1", "routing", "shared"},
    "control": BELOW_PLANES - {"http1"},
    "admin": BELOW_PLANES | {"proxy", "control"},
    "supervisor": BELOW_PLANES | {"proxy", "control", "admin"},
    "cli": BELOW_PLANES | {"proxy", "control", "admin", "supervisor"},
    "__main__": {"cli"},
}

#: Modules of the standard library that act, wait, guess or ask for the time.
ACTING = {
    *("asyncio", "concurrent", "multiprocessing", "threading", "subprocess", "signal"),
    *("socket", "select", "selectors", "ssl", "urllib", "os", "pathlib", "shutil", "tempfile", "mmap", "fcntl", "sqlite3"),
    *("time", "random", "secrets", "logging"),
}
#: Packages from outside that compute and do nothing else.
PURE_PACKAGES = {"mmh3"}

FILE_LINES = 400
FUNCTION_LINES = 65
USUAL_FUNCTION_LINES = 40  # for nine functions in ten


def part_of(module: str) -> str:
    """The part (a key of `MAY_IMPORT`) that a dotted module name of canaryproxy belongs to."""
    return module.split(".")[1] if "." in module else "canaryproxy"


def imported_modules(module: str, is_package: bool, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every import anywhere in the file, type-checking blocks and functions included: (line, absolute dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join(start + ([node.module] if node.module else []))
            for alias in node.names:
                is_part = source == "canaryproxy" and alias.name in MAY_IMPORT
                yield node.lineno, f"{source}.{alias.name}" if is_part else source


def import_problems(module: str, source: str, is_package: bool = False) -> list[str]:
    """Imports of `module` that go up or sideways, and what a pure part must not import."""
    part = part_of(module)
    if part not in MAY_IMPORT:
        return [f"{module}: part {part!r} has no floor; give it one in MAY_IMPORT and in docs/architecture.md"]
    problems = []
    for line, name in imported_modules(module, is_package, ast.parse(source)):
        top = name.split(".")[0]
        if top == "canaryproxy":
            other = part_of(name)
            if other not in MAY_IMPORT[part] | {part, "canaryproxy"}:
                problems.append(f"{module}:{line}: {part} imports {other}, which is not below it")
        elif part in PURE and top in ACTING:
            problems.append(f"{module}:{line}: {part} is pure and imports {top}; take its result as an argument")
        elif part in PURE and top not in sys.stdlib_module_names | PURE_PACKAGES:
            problems.append(f"{module}:{line}: {part} is pure and imports the package {top}")
    return problems


def function_sizes(source: str) -> list[tuple[str, int, int]]:
    """(name, line, number of lines) of every function."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1) for node in nodes]


def size_problems(path: str, source: str) -> list[str]:
    """The file and its functions that are longer than the ceilings."""
    length = len(source.splitlines())
    problems = [f"{path}: {length} lines, the ceiling is {FILE_LINES}"] if length > FILE_LINES else []
    for name, line, size in function_sizes(source):
        if size > FUNCTION_LINES:
            problems.append(f"{path}:{line}: {name} has {size} lines, the ceiling is {FUNCTION_LINES}")
    return problems


def modules() -> list[tuple[str, Path]]:
    """(dotted name, path) of every module of the product."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path) for path in paths]


def test_imports_go_down_only() -> None:
    problems = []
    for module, path in modules():
        problems += import_problems(module, path.read_text(), is_package=path.name == "__init__.py")
    assert not problems, "\n".join(problems)


def test_files_and_functions_are_small() -> None:
    problems = [problem for _, path in modules() for problem in size_problems(str(path.relative_to(ROOT)), path.read_text())]
    assert not problems, "\n".join(problems)


def test_nine_functions_in_ten_are_short() -> None:
    sizes = [size for _, path in modules() for _, _, size in function_sizes(path.read_text())]
    long = sum(size > USUAL_FUNCTION_LINES for size in sizes)
    assert long <= len(sizes) / 10, f"{long} of {len(sizes)} functions have more than {USUAL_FUNCTION_LINES} lines"


def test_the_product_is_seen_at_all() -> None:
    names = {part_of(module) for module, _ in modules()}
    assert names >= BASE | PURE


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("canaryproxy.proxy.worker", "from canaryproxy.stats.histogram import index", "proxy imports stats"),
        ("canaryproxy.proxy.worker", "from canaryproxy import store", "proxy imports store"),
        ("canaryproxy.control.apply", "import canaryproxy.http1.head", "control imports http1"),
        ("canaryproxy.control.apply", "from ..proxy import pool", "control imports proxy"),
        ("canaryproxy.stats.mean", "def f():\n    from canaryproxy.analysis import judge", "stats imports analysis"),
        (
            "canaryproxy.analysis.judge",
            "if TYPE_CHECKING:\n    from canaryproxy.rollout import model",
            "analysis imports rollout",
        ),
        ("canaryproxy.config.load", "import canaryproxy.stats", "config imports stats"),
        ("canaryproxy.supervisor", "from canaryproxy.cli import main", "supervisor imports cli"),
        ("canaryproxy.admin.app", "import canaryproxy.supervisor", "admin imports supervisor"),
        ("canaryproxy.surprise.x", "", "has no floor"),
        ("canaryproxy.http1.head", "import os.path", "pure and imports os"),
        ("canaryproxy.rollout.machine", "from time import monotonic", "pure and imports time"),
        ("canaryproxy.routing.split", "def f():\n    import random", "pure and imports random"),
        ("canaryproxy.http1.head", "from httptools import HttpRequestParser", "pure and imports the package httptools"),
        ("canaryproxy.stats.mean", "import numpy as np", "pure and imports the package numpy"),
    ],
)
def test_the_import_checker_goes_red(module: str, source: str, words: str) -> None:
    assert any(words in problem for problem in import_problems(module, source)), import_problems(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "canaryproxy.proxy.worker",
            "import asyncio\nfrom canaryproxy.http1 import head\nfrom canaryproxy.shared.board import Board",
        ),
        ("canaryproxy.control.apply", "import time\nfrom canaryproxy.rollout import model\nfrom ..shared import board"),
        ("canaryproxy.http1.head", "import re\nfrom . import framing\nfrom canaryproxy.errors import Problem"),
        ("canaryproxy.routing.split", "import mmh3"),
        ("canaryproxy.cli.run", "from canaryproxy import __version__, supervisor"),
    ],
)
def test_the_import_checker_lets_good_imports_pass(module: str, source: str) -> None:
    assert import_problems(module, source) == []


def test_the_size_checker_goes_red() -> None:
    long_function = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
    assert size_problems("x.py", long_function) == ["x.py:1: f has 66 lines, the ceiling is 65"]
    assert size_problems("x.py", "x = 1\n" * 401) == ["x.py: 401 lines, the ceiling is 400"]
    assert size_problems("x.py", "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)) == []
