"""Rules of the house that a reader relies on: imports go one way, public names are explained."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hpa_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# A part imports itself and what stands left of it.
PARTS = (
    *("core", "config", "data", "models", "training", "inference"),
    *("decision", "report", "pipeline", "api", "serve", "cli", "__main__"),
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


def test_imports_go_one_way():
    for path in SOURCES:
        module = module_of(path)
        if module == "__init__":
            continue
        here = PARTS.index(module.split(".")[0])
        for target in imports(path):
            if target != "__version__":
                assert PARTS.index(target.split(".")[0]) <= here, f"{module} reaches up to {target}"


def test_no_circle_of_imports():
    modules = {module_of(path).removesuffix(".__init__"): path for path in SOURCES}
    packages = {
        module_of(path.parent / "__init__.py").removesuffix(".__init__") for path in SOURCES
    }
    graph = {
        module: {name for name in imports(path) if name in modules.keys() - packages}
        | {name.rpartition(".")[0] for name in imports(path)} & (modules.keys() - packages)
        for module, path in modules.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_public_functions_have_docstrings():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module_of(path)}.{node.name}"


def test_the_number_of_classes_is_a_literal_in_classes_alone():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and type(node.value) is int and node.value == 28:
                assert module_of(path) == "core.classes", f"{module_of(path)}:{node.lineno}"
