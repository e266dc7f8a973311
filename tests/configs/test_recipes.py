"""Every recipe, in every variant: its options exist, and each phase of its full networks runs.

Nothing is computed: `jax.eval_shape` traces the training step of each phase at its real sizes.
"""

import functools
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from hpa_jax.config import validation
from hpa_jax.core.errors import InputError
from hpa_jax.training import distributed, phases
from hpa_jax.training import setup as setups
from hpa_jax.training.examples import Examples, OneClass

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "configs").rglob("*.py"))
RECIPES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if "def get_config" in path.read_text()
]
ROWS = 64


@functools.cache
def recipe(name, arg=""):
    return importlib.import_module(name).get_config(arg)


# The networks of a solution are those of its parts.
NETWORKS = {
    (network, settings.to_json_best_effort()): (name, network)
    for name in RECIPES
    for network, settings in recipe(name).models.items()
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_says_its_command(name):
    validation.validate(recipe(name))
    module = importlib.import_module(name)
    assert f"--config={name.replace('.', '/')}.py" in module.__doc__ or "Command:" in module.__doc__


@pytest.mark.parametrize("name", [name for name in RECIPES if "one_more_layer" in name])
@pytest.mark.parametrize("variant", ["as_run", "smoke", "as_run,smoke"])
def test_variants_are_valid(name, variant):
    validation.validate(recipe(name, variant))
    with pytest.raises(InputError, match="smoke"):
        recipe(name, "smok")


def setup_of(config, network):
    """The training of one network on rows that are not there."""
    model = config.models[network]
    names = tuple(model.classes or config.classes)
    ids, labels = np.array([f"i{k}" for k in range(ROWS)]), np.zeros((ROWS, len(names)), np.uint8)
    labels[np.arange(ROWS), np.arange(ROWS) % len(names)] = 1
    examples = Examples(None, ids, labels, ids, labels)
    return setups.build(model, config.train, distributed.layout(), examples, names, config.seed)


ARCHITECTURE = (
    "backbone", "width", "depth", "head", "head_options", "large_stem", "as_run", "channels",
    "image_size", "normalize", "dtype", "accumulate", "classes", "optimizer", "average",
)  # fmt: skip


def trace(setup, phase, seen):
    """Shapes of what a phase's step returns; phases that differ in numbers alone are one program,
    which is traced once for all networks (a second or three each)."""
    program = repr(
        [setup.config[key] for key in ARCHITECTURE] + [phase.plan.trainable, list(phase.loss)]
    )
    if program not in seen:
        seen[program] = jax.eval_shape(setup.jitted_step(phase), *setup.step_shapes(phase))
    return seen[program]


@pytest.fixture(scope="module")
def seen():
    return {}


def of_each_backbone():
    """All networks; those whose backbone an earlier one has are slow."""
    backbones = set()
    for name, network in NETWORKS.values():
        backbone = recipe(name).models[network].backbone
        marks = [pytest.mark.slow] if backbone in backbones else []
        backbones.add(backbone)
        yield pytest.param(name, network, marks=marks)


@pytest.mark.parametrize(("name", "network"), of_each_backbone())
def test_every_phase_of_the_full_networks_can_be_traced(name, network, seen):
    setup = setup_of(recipe(name), network)
    for phase in setup.phases:
        batch = setup.batch_shapes(phase.batch_size)
        augment = phases.augmentation(phase.augment, setup.config.channels)
        if augment is not None:
            images = jax.ShapeDtypeStruct(batch["image"].shape, np.float32)
            images, _ = jax.eval_shape(augment, jax.random.key(0), images, batch["label"])
            assert images.shape[0] == phase.batch_size and images.shape[1] >= 32
        after, loss = trace(setup, phase, seen)
        assert loss.shape == ()
        assert {k: v.shape for k, v in after.params.items()} == {
            k: v.shape for k, v in setup.outline.params.items()
        }


ANTIBODIES = 12815  # of the external set


def test_the_embedding_network_of_bestfitting_can_be_traced_with_all_antibodies():
    config = recipe("configs.bestfitting")
    ids, names = np.array([f"i{k}" for k in range(ROWS)]), [f"a{k}" for k in range(ANTIBODIES)]
    labels = OneClass(np.arange(ROWS), ANTIBODIES)
    examples = Examples(None, ids, labels, ids, labels)
    model = config.retrieval.model
    setup = setups.build(model, config.train, distributed.layout(), examples, names, config.seed)
    (phase,) = setup.phases
    after, loss = jax.eval_shape(setup.jitted_step(phase), *setup.step_shapes(phase))
    assert loss.shape == () and after.params["head.weight"].shape == (512, ANTIBODIES)
    assert setup.step_shapes(phase)[1]["image"].shape == (32, 768, 768, 4)
    assert (model.optimizer.name, model.optimizer.b2, model.optimizer.clip_norm) == (
        "adam", 0.999, 1.0,
    )  # fmt: skip
