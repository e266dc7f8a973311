"""Options are stated once: names from where they are defined, help and docs from the statement."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import options, reference
from hpa_jax.config.options import option

ROOT = Path(__file__).parent.parent.parent


def places():
    """Every import string of choices and checks."""
    sources = [configs.SOURCE, *configs.OF_SOURCE.values(), configs.VARIATION]
    stated = [o for _, o in reference.entries()]
    stated += [o for source in sources for _, o in reference.entries(source)]
    choices, checks = set(), {o.check for o in stated if o.check}
    for o in stated:
        given = (o.choices,) if isinstance(o.choices, str) else o.choices
        choices |= {place for place in given if ":" in place}
    return sorted(choices), sorted(checks)


@pytest.mark.parametrize("place", places()[0])
def test_names_read_from_the_source_are_those_of_the_module(place):
    module, _, path = place.partition(":")
    name, *keys = path.split(".")
    value = getattr(importlib.import_module(module), name)
    for key in keys:
        value = value[key]
    assert options._names_in_source(module, name, tuple(keys)) == tuple(value)
    assert options.names_at(place) == tuple(value) and value


@pytest.mark.parametrize("place", places()[1])
def test_functions_that_check_are_there(place):
    assert callable(options.at(place))


def test_a_name_that_the_source_does_not_state_is_an_error():
    with pytest.raises(LookupError, match="nothing can't be read"):
        options._names_in_source("hpa_jax.core.classes", "nothing", ())


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        (dict(low=1), (1, 5), (0,), "at least 1"),
        (dict(low=2, high=127), (2, 127), (1, 128), "2 to 127"),
        (dict(above=0, below=1), (0.5,), (0, 1), "between 0 and 1"),
        (dict(above=0, high=10), (10,), (0, 11), "above 0, at most 10"),
        (dict(), (-1e9,), (float("nan"), float("inf")), ""),
    ],
)
def test_a_range_and_its_words(limits, inside, outside, words):
    made = option(1.0, "", **limits)
    assert made.range() == words
    assert all(map(made.inside, inside)) and not any(map(made.inside, outside))


def test_a_default_that_is_made_is_not_shared():
    configs.model().phases[0].lr = 5.0
    configs.default().unlock().retrieval.model.width = 9.0
    assert configs.model().phases[0].lr == 1e-3
    assert configs.default().retrieval.model.width == 1.0


def test_help_describes_what_a_step_reads():
    (line,) = reference.described(("split.fraction",))
    assert line.startswith("--config.split.fraction=0.2 ") and line.endswith("(between 0 and 1)")
    lines = reference.described(("split", "models"))
    assert all(line.startswith(("--config.split.", "--config.models")) for line in lines)
    assert any("phases[K].schedule=one_cycle" in line and "constant" in line for line in lines)


def test_every_option_has_a_help():
    assert [path for path, stated in reference.entries() if not stated.help] == []


def test_help_of_all_options_imports_nothing_heavy():
    code = (
        "import sys; from hpa_jax.config import reference; reference.described(); "
        "sys.exit(({'jax', 'flax', 'pandas', 'xgboost'} & set(sys.modules) or 0))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_the_docs_table_is_the_statement():
    assert (ROOT / "docs/options.md").read_text("utf-8") == reference.table(), (
        "python -m hpa_jax.config.reference docs/options.md"
    )
