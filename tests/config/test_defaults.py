"""Every option is read: no leaf of the default config is a knob that turns nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import hpa_jax
from hpa_jax.config import defaults as configs

PACKAGE = Path(hpa_jax.__file__).parent
STATING = ("config.py", "config_check.py", "recipes.py")  # where options are not used


def leaves(config: ConfigDict, path: str = "") -> Iterator[str]:
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict) and len(value):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def all_leaves() -> list[str]:
    """Of the whole config, of a model and of a phase."""
    return [
        *leaves(configs.default()),
        *(f"models.*.{name}" for name in leaves(configs.model())),
        *(f"models.*.phases[*].{name}" for name in leaves(configs.phase())),
    ]


def read_names(folder: Path) -> set[str]:
    """Names that code could read an option by: an attribute, a string, an argument or a field."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        if path.relative_to(folder).as_posix() in STATING:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            elif isinstance(node, ast.arg):  # sections are handed on as **options
                names.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


@pytest.fixture(scope="module")
def names():
    return read_names(PACKAGE)


def unread(options: list[str], names: set[str]) -> list[str]:
    return [option for option in options if option.rpartition(".")[2] not in names]


def test_every_leaf_is_read_by_some_code(names):
    options = all_leaves()
    assert len(options) > 150
    assert unread(options, names) == []


def test_an_option_without_a_reader_would_be_found(names):
    assert unread(["split.fraction", "split.turns_nothing"], names) == ["split.turns_nothing"]
