"""One More Layer's recipes against their scripts: epochs, parts, and what `as_run` undoes."""

import importlib

import pytest

from configs.one_more_layer import se_resnext_ovr, solution
from hpa_jax.core import classes
from hpa_jax.decision.stack import protocols
from hpa_jax.models.registry import BACKBONES
from hpa_jax.training import phases

# Epochs of each script, counted by hand from its calls of fit; 572 in all.
EPOCHS = dict(
    se_resnext_v2=17,
    se_resnext_v3=17,
    se_resnext_v5=33,
    se_resnext_v6=36,
    se_resnext_v7=25,
    se_resnext_v10=49,
    se_resnext_v14=88,
    se_resnext_lsep=4,
    se_resnext_ovr=17,
    bn_inception_v3=94,
    bn_inception_v4=76,
    xception=44,
    inception_v4_v1=36,
    inception_v4_v2=36,
)


@pytest.fixture(scope="module")
def full():
    return solution.get_config()


@pytest.fixture(scope="module")
def as_run():
    return solution.get_config("as_run")


def test_thresholds_are_the_teams_5_folds_20_repeats_50_points(full):
    own = full.thresholds
    found = (own.method, own.folds, own.repeats, own.grid, own.search, own.combine, own.shrink)
    assert found == ("cross_validated", 5, 20, 50, "grid", "mean", 0.0)


def test_fourteen_networks_of_572_epochs(full):
    found = {
        name: sum(phases.epochs_of(phase) for phase in model.phases)
        for name, model in full.models.items()
    }
    assert found == EPOCHS and sum(found.values()) == 572


def test_weights_are_those_of_the_table(full):
    for name, model in full.models.items():
        if not model.init_from.startswith("model:"):
            file = model.init_from.removeprefix("weights/")
            assert any(file in row for row in BACKBONES[model.backbone].weights), name


def test_one_vs_rest_knows_the_ten_worst_classes(full):
    names = full.models.se_resnext_ovr.classes
    assert names == se_resnext_ovr.WORST and len(set(names)) == 10
    assert {names[0], names[-1]} == {"Mitotic spindle", "Rods & rings"}
    assert set(names) < set(classes.NAMES)


def test_one_network_has_four_channels_and_one_768_pixels(full):
    assert [n for n, m in full.models.items() if len(m.channels) == 4] == ["se_resnext_v14"]
    assert [n for n, m in full.models.items() if m.image_size == 768] == ["bn_inception_v4"]
    assert full.records.also == (768,) and full.data.sources[0]["full_size"]
    assert "bn_inception_v4" not in solution.get_config("no_full_size").models


def test_views_are_36_passes_or_9(full):
    rounds = {name: model.views["rounds"] for name, model in full.models.items()}
    few = {name for name, count in rounds.items() if count == 1}
    assert few == {"se_resnext_v2", "se_resnext_v3", "inception_v4_v1"}
    assert full.models.xception.views["warp"] == 0.1  # the last phase's


def test_views_are_those_of_the_phase_whose_weights_predict(full, as_run):
    keys = ("warp", "brightness", "p_lighting")
    found = [[c.models.se_resnext_v14.views[key] for key in keys] for c in (full, as_run)]
    assert found == [[0.05, 0.25, 0.72], [0.0, 0.25, 0.7]]
    assert as_run.models.bn_inception_v4.views["warp"] == 0.07


def test_as_run_trains_on_cross_entropy_everywhere(full, as_run):
    for name, model in as_run.models.items():
        assert model.loss.to_dict() == {"bce_mean": 1.0}, name
        assert all(phase.loss is None for phase in model.phases), name
    assert full.models.se_resnext_v7.phases[2].loss.to_dict() == {"focal": {"gamma": 5.0}}
    assert as_run.models.bn_inception_v3.normalize == "bn_inception_as_run"
    ends = {name: model.checkpoint for name, model in as_run.models.items()}
    assert ends.pop("bn_inception_v4") == "phase:6" and ends.pop("se_resnext_v14") == "phase:3"
    assert {*ends.values(), *(model.checkpoint for model in full.models.values())} == {"last"}
    assert as_run.models.xception.as_run and not full.models.xception.as_run
    assert as_run.features.legacy_corr_bug and not full.features.legacy_corr_bug


def test_every_network_can_be_had_alone(full):
    for name, model in full.models.items():
        alone = importlib.import_module(f"configs.one_more_layer.{name}").get_config()
        assert alone.models[name].to_dict() == model.to_dict()


def test_smoke_keeps_a_network_a_backbone_and_what_others_start_from():
    small = solution.get_config("smoke")
    assert {m.backbone for m in small.models.values()} == {
        "se_resnext50_32x4d", "bn_inception", "xception", "inception_v4"
    }  # fmt: skip
    assert {"se_resnext_lsep", "se_resnext_ovr"} < set(small.models)
    assert all(len(model.phases) <= 2 for model in small.models.values())


def test_the_stack_counts_models_by_frequency_and_as_run_by_the_released_script(full, as_run):
    intended, script, talk = (
        protocols.of_config(config.stack.to_dict(), config.classes)
        for config in (full, as_run, solution.get_config("talk"))
    )
    assert [intended.models(n) for n in (14, 15, 110, 250, 1000)] == [6000, 2500, 1715, 1225, 441]
    assert [talk.models(n) for n in (14, 1000)] == [375, 375]
    config = solution.get_config("talk_20")
    repeated = protocols.of_config(config.stack.to_dict(), config.classes)
    assert [repeated.counts(n) for n in (14, 1000)] == [(20, 5, 1, 3)] * 2
    assert repeated.of(27).models(14) == 300 and repeated.vote == "binary"
    assert [script.models(n) for n in (14, 15)] == [6000, 225]
    assert (script.ridge_alpha, intended.ridge_alpha) == (0.1, 10.0)
    assert (script.colsample, intended.colsample) == (1.0, 0.6)
    for protocol in (intended, script, talk):
        assert (protocol.rare_learner, protocol.rare_below) == ("ridge", 15)
        assert protocol.rare_features == ("own", "meta", "others")  # not the image's side
        assert list(protocol.of_class) == [27]
        of_27 = protocol.of(27)
        assert (of_27.rare_features, of_27.vote_factor) == (("own",), 1.05)
    assert [p.of(27).models(14) for p in (intended, script, talk)] == [24000, 24000, 375]
    config = solution.get_config("smoke,as_run")
    small = protocols.of_config(config.stack.to_dict(), config.classes)
    assert {one.models(n) for one in (small, small.of(27)) for n in (1, 15, 1000)} == {6}
