"""The table of steps says what the steps do."""

import json
from pathlib import Path

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.steps import STEPS


@pytest.fixture(scope="module")
def context(done):
    """The small run's context, as of a run that does everything."""
    stored = json.loads((done[0] / "run.json").read_text())["config"]
    config = configs.default().unlock()
    for name, model in stored["models"].items():
        config.models[name] = configs.model(**{k: v for k, v in model.items() if k != "phases"})
    config.models["frozen"] = configs.frozen_model()
    config.embeddings.pca = {"frozen": 2}
    config.retrieval.mode, config.refit = "boost", True
    for model in config.models.values():
        model.checkpoint = "last"  # else refit reads what the first training chose
    return Context(config.lock(), done[0])


@pytest.mark.parametrize("name", STEPS)
def test_a_steps_options_are_those_of_its_tasks(context, name):
    step = STEPS[name]
    tasks = step.tasks(context)
    assert tasks or name == "evaluate"
    if name == "report":  # depends on the whole config
        return
    used = {key for task in tasks for key in task.settings}
    for key in used:
        assert any(f"{key}.".startswith(f"{option}.") for option in step.options), key
    for option in step.options:
        assert any(f"{key}.".startswith(f"{option}.") for key in used) or option in LATER, option


# Options in the key of tasks that this run has not: folds, refitted networks.
LATER = ("fold", "refit")


def test_the_code_that_a_step_names_is_there():
    package = Path(configs.__file__).parents[1]
    for name, step in STEPS.items():
        assert step.code, name
        assert all((package / path).exists() for path in step.code), name
