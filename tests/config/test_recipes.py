"""Variants of a recipe, and that `smoke` keeps its structure while everything gets small."""

import pytest

from hpa_jax.config import defaults as base
from hpa_jax.config import recipes, validation
from hpa_jax.core.errors import InputError
from hpa_jax.training import phases, schedules


def recipe():
    """Three models: restarts and a partial one, a step table with an average, cycles."""
    config = base.default().unlock()
    config.data.update(source="kaggle", root="competition")
    config.records.update(image_size=512, also=(768,))
    config.split.update(scheme="folds", force_valid="ids.csv")
    parts = (
        base.phase(epochs=4, freeze="backbone"),
        base.phase(epochs=16, dropout=0.6, batch_size=22),
        base.phase(epochs=8, start_from="0", augment={"name": "oml", "warp": 0.05}),
        base.phase(epochs=8, start_from="2", div_factor=50.0),
    )
    config.models = {
        "long": base.model(
            image_size=512,
            batch_size=20,
            phases=parts,
            init_from="weights/x.safetensors",
            views={"name": "oml", "rounds": 4},
        ),
        "table": base.model(
            image_size=768,
            batch_size=32,
            accumulate=8,
            phases=(base.phase(epochs=45, schedule="25: 3e-4, 30: 1.5e-4, 45: 1e-5"),),
            average={"kind": "last", "count": 10, "epochs": (), "decay": 0.999},
            augment={"name": "bestfitting", "output_size": 512},
        ),
        "cycles": base.model(
            init_from="model:long",
            classes=("Rods & rings",),
            phases=(base.phase(epochs=40, schedule="cyclic_cosine", cycles=4),),
        ),
    }
    return config


@pytest.fixture
def smoke():
    config = recipe()
    recipes.smoke(config)
    return config


def test_a_phase_may_be_a_plain_mapping():
    (made,) = base.model(phases=({"epochs": 7},)).phases
    assert made == base.phase(epochs=7)
    with pytest.raises(InputError, match="phase has no option 'epoch', did you mean 'epochs'"):
        base.model(phases=({"epoch": 7},))


def test_variants_are_a_comma_list():
    assert recipes.variants("") == frozenset()
    assert recipes.variants("smoke,as_run", "as_run") == {"smoke", "as_run"}
    with pytest.raises(InputError, match=r"smok'.*'smoke'"):
        recipes.variants("smok")
    with pytest.raises(InputError, match="as_run"):
        recipes.variants("as_run")


def test_a_smoke_recipe_is_valid_and_asks_for_nothing_from_outside(smoke):
    validation.validate(smoke)
    assert smoke.data.source == "synthetic" and not smoke.data.root
    assert not smoke.split.force_valid
    assert smoke.models.long.init_from == "" and smoke.models.cycles.init_from == "model:long"


def test_models_phases_and_differences_stay(smoke):
    assert list(smoke.models) == list(recipe().models)
    laid = smoke.models.long.phases
    assert [phase.start_from for phase in laid] == ["", "", "0", "2"]
    assert laid[1].dropout == 0.6 and laid[3].div_factor == 50.0
    assert laid[2].augment.to_dict() == {"name": "oml", "warp": 0.05}
    assert smoke.models.cycles.classes == ("Rods & rings",)
    assert smoke.models.table.average.kind == "last"


def test_everything_is_small(smoke):
    for model in smoke.models.values():
        assert model.image_size <= 112 and model.batch_size <= 32
        assert phases.epochs_of(model.phases[0]) <= 4
    assert smoke.models.long.views["rounds"] == 1
    assert smoke.models.table.average["count"] == 2
    assert smoke.models.table.accumulate == 2
    assert smoke.split.folds == 2


def test_sides_keep_their_order(smoke):
    long, table = smoke.models.long.image_size, smoke.models.table.image_size
    assert (smoke.records.image_size, *smoke.records.also) == (long, table)
    assert long < table
    assert smoke.models.table.augment["output_size"] == long
    assert smoke.data.synthetic.image_size == table


def test_batches_of_phases_keep_their_share(smoke):
    assert smoke.models.long.batch_size == 16
    assert smoke.models.long.phases[1].batch_size == round(16 * 22 / 20)


def test_a_step_table_is_run_through_in_the_epochs_left(smoke):
    phase = smoke.models.table.phases[0]
    rate = schedules.table(phase.schedule)
    assert phase.epochs == 2
    assert [rate(epoch) for epoch in (0.0, 1.2, 1.9)] == [3e-4, 1.5e-4, 1e-5]


def test_cycles_still_divide_the_epochs(smoke):
    assert smoke.models.cycles.phases[0].epochs == 4


def test_a_solution_keeps_some_models_and_phases():
    config = recipe()
    recipes.smoke(config, models=("long",), phases=2)
    assert list(config.models) == ["long"]
    first, last = config.models.long.phases
    assert first.freeze == "backbone" and last.div_factor == 50.0
    assert last.start_from == ""  # the phase it began from is gone
    with pytest.raises(InputError, match="'long'"):
        recipes.smoke(recipe(), models=("logn",))


def test_the_embedding_network_is_small_and_weights_are_of_the_models_kept():
    config = recipe()
    config.ensemble.weights = {"long": 1.0, "table": 0.5}
    recipes.smoke(config, models=("table",))
    assert config.ensemble.weights.to_dict() == {"table": 0.5}
    assert config.retrieval.model.width < 1 and config.retrieval.model.image_size <= 112
    validation.validate(config)
