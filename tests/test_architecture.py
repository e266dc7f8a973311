"""Rules of the house that a reader relies on: imports go one way, public names are explained."""

import ast
from collections.abc import Iterator
from pathlib import Path

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


def test_imports_go_one_way():
    for path in SOURCES:
        module = module_of(path)
        here = 0 if module in BELOW_ALL else rank(module)
        for target in imports(path):
            first = target.split(".")[0]
            if first in BELOW_ALL or first.startswith("__version__"):
                continue
            assert first in ROOMS + ABOVE_ALL, f"{module} imports {target}: no room of the house"
            assert rank(target) <= here, f"{module} reaches up to {target}"


def test_public_functions_have_docstrings():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module_of(path)}.{node.name}"


def test_the_number_of_classes_is_a_literal_in_classes_alone():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and type(node.value) is int and node.value == 28:
                assert module_of(path) == "classes", f"{module_of(path)}:{node.lineno}"
