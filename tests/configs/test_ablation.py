"""The talk's list as variations: rows that differ from the base by what they name alone."""

import pytest

from configs import ablation
from hpa_jax.pipeline import ablate


@pytest.mark.parametrize("variant", ["", "smoke"])
def test_every_row_is_accepted_and_there_are_enough_of_them(variant):
    config = ablation.get_config(variant)
    assert len(ablate.checked(config)) >= 8 and len(config.ablate.seeds) >= 3


@pytest.mark.parametrize("variant", ["", "smoke"])
def test_the_snapshots_train_as_long_as_the_base(variant):
    config = ablation.get_config(variant)
    base = {name: model.phases[0].epochs for name, model in config.models.items()}
    row = next(row for row in ablate.checked(config) if row["name"] == "snapshots")
    changed = ablate.changed(config, row["set"])
    for name, model in changed.models.items():
        (phase,) = model.phases
        assert phase.epochs == base[name], name
        assert phase.cycles > 1 and phase.epochs % phase.cycles == 0


@pytest.mark.parametrize(("name", "factor"), [("half the width", 0.5), ("twice the width", 2.0)])
def test_a_row_of_another_width_holds_for_each_network_by_its_own(name, factor):
    config = ablation.get_config()
    row = next(row for row in ablate.checked(config) if row["name"] == name)
    for of, model in ablate.changed(config, row["set"]).models.items():
        assert model.width == factor * config.models[of].width, of


def test_the_smoke_form_sees_less_of_the_same_rows():
    full, smoke = ablation.get_config(), ablation.get_config("smoke")
    names = [[row["name"] for row in ablate.checked(config)] for config in (full, smoke)]
    assert names[0] == names[1]
    assert smoke.models.tiny.phases[0].epochs < full.models.tiny.phases[0].epochs
    assert smoke.data.synthetic.train < full.data.synthetic.train


def test_one_vs_all_adds_a_network_of_ten_classes_begun_from_the_first():
    config = ablation.get_config("smoke")
    rows = {row["name"]: row for row in ablate.checked(config)}
    new = ablate.varied(config, rows["one-vs-all"]).models
    assert set(new) == {"tiny", "second"} and new.tiny == config.models.tiny
    assert len(set(new.second.classes)) == 10 and new.second.init_from == "model:tiny"
    assert [phase.epochs for phase in new.second.phases] == [1, 3, 3]
    assert rows["one-vs-all"]["method"] == "mean of models"
    # what a second network does, whatever it knows, is told by a row that differs in that alone
    other = ablate.varied(config, rows["one more for all"]).models.second
    assert other.classes == () and {**other, "classes": new.second.classes} == {**new.second}
