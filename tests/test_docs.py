"""Every command and recipe of README and docs is one that the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from hpa_jax import cli
from hpa_jax.config import defaults, validation
from hpa_jax.core.errors import InputError

ROOT = Path(__file__).parent.parent
# What stands for a name of the reader's own.
STANDS_FOR = {"RECIPE": "configs/demo.py", "NAME": "tiny", "PART": "input"}


def commands():
    """(file:line, command) of what stands in a block or in code within a line."""
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        text = path.read_text("utf-8").replace("\\\n", " ")
        for number, line in enumerate(text.split("\n"), 1):
            block = [line.strip()] if line.startswith("    ") else []
            for code in block + re.findall(r"`([^`]+)`", line):
                begun = re.match(r"(?:python -m hpa_jax|hpa-jax) (?=[a-z])", code)
                if begun and "VERB" not in code and "…" not in code:
                    yield pytest.param(code[begun.end() :], id=f"{path.name}:{number}")


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_docs_parses(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)
    name, *rest = [
        "=".join(STANDS_FOR.get(part, part) for part in re.sub(r"\[=.*\]", "", word).split("="))
        for word in words
    ]
    assert name in cli.VERBS
    try:
        cli.parse(name, cli.VERBS[name], rest)
    except InputError as error:
        # A folder or file of the reader's is not here; anything else is the docs' fault.
        assert re.search(r"no file|No such file", str(error)), error


def recipes():
    for path in sorted((ROOT / "docs").glob("*.md")):
        for code in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            yield pytest.param(code.replace(", ...)", ")"), id=path.name)


@pytest.mark.parametrize("code", recipes())
def test_a_recipe_of_the_docs_is_valid(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"config": defaults.default().unlock()}
    exec(code, names)
    validation.validate(names["get_config"]() if "get_config" in names else names["config"])


def test_scripts_of_the_docs_are_there():
    named = set()
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named |= set(re.findall(r"`?(scripts/[\w./-]+\w)", path.read_text("utf-8")))
    assert named and not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_links_of_the_docs_lead_somewhere():
    lost = [
        f"{path.name}: {target}"
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
        if not (path.parent / target).exists()
    ]
    assert not lost


def test_tests_that_coverage_names_are_there():
    text = (ROOT / "docs/coverage.md").read_text("utf-8")
    named = set(re.findall(r"(?<![\w/])((?:\w+/)*test_\w+\.py)", text))
    assert named
    assert not [name for name in sorted(named) if not (ROOT / "tests" / name).is_file()]
