"""Rules of the house that a reader relies on: imports go one way, one idea a file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hpa_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# A room imports itself and what stands left of it.
ROOMS = ("data", "models", "training", "inference", "decision", "report", "stages")
BELOW_ALL = (
    *("__init__", "errors", "classes", "config", "artifacts", "host_memory"),
    *("contents", "settings", "provenance"),
)
ABOVE_ALL = (
    *("config_check", "context", "stamps", "replaced", "pipeline", "commands", "ablate", "clean"),
    "__main__",
)
LONG_FUNCTIONS = {
    "config.default": "states every option once",
    "config.model": "states every option once",
    "config.stage": "states every option once",
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Modules of the package, without its name, that a file imports at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("hpa_jax.") for name in names if name.startswith("hpa_jax."))


def rank(module: str) -> int:
    first = module.split(".")[0]
    if first in ROOMS:
        return 1 + ROOMS.index(first)
    of_stages = first in ("config_check", "context", "stamps", "replaced")
    return len(ROOMS) if of_stages else 1 + len(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_one_way(path):
    module = module_of(path)
    here = 0 if module in BELOW_ALL else rank(module)
    for target in imports(path):
        first = target.split(".")[0]
        if first in BELOW_ALL or first.startswith("__version__"):
            continue
        assert first in ROOMS + ABOVE_ALL, f"{module} imports {target}: no room of the house"
        assert rank(target) <= here, f"{module} reaches up to {target}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_file_is_one_idea_and_a_function_fits_a_screen(path):
    text = path.read_text()
    assert text.count("\n") <= 420
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{module_of(path)}.{node.name}"
            assert name in LONG_FUNCTIONS or lines_of_code(node) <= 60, name


def lines_of_code(node: ast.FunctionDef) -> int:
    """Of the body, without its docstring and without nested functions, which count alone."""
    body = node.body[ast.get_docstring(node) is not None :]
    if not body:  # abstract
        return 0
    nested = [child for child in body if isinstance(child, ast.FunctionDef)]
    return node.end_lineno - body[0].lineno + 1 - sum(map(length, nested))


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_public_functions_have_docstrings(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module_of(path)}.{node.name}"


def test_the_number_of_classes_is_a_literal_in_classes_alone():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and type(node.value) is int and node.value == 28:
                assert module_of(path) == "classes", f"{module_of(path)}:{node.lineno}"
