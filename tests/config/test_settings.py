"""Settings of then and of now: what a user changed, and what only the program did."""

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import renamed, settings


def of(**differences):
    return settings.flat({"models.tiny": configs.model(**differences), "seed": 0, "fold": None})


def test_equal_settings_do_not_differ_also_as_json():
    import json

    stored = json.loads(json.dumps(of(left_out=(0, 5), depth=(1, 2))))
    assert settings.differences(stored, of(left_out=(0, 5), depth=(1, 2))) == ([], [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(dropout=0.1), "models.tiny.dropout: 0.5 -> 0.1"),
        (dict(phases=[dict(lr=0.5)]), "models.tiny.phases[0].lr: 0.001 -> 0.5"),
        (dict(phases=[{}, {}]), "models.tiny.phases.count: 1 -> 2"),
        (dict(loss={"bce": 1.0}), "models.tiny.loss: {'focal': 1.0} -> {'bce': 1.0}"),
        (dict(optimizer={**configs.model().optimizer, "b1": 0.8}), "optimizer.b1: 0.9 -> 0.8"),
    ],
)
def test_what_a_user_changes_is_told(change, said):
    changed, gone = settings.differences(of(), of(**change))
    assert changed and said in changed[0] and not gone
    assert settings.differences(of(**change), of())[0]  # and back


def without(stored, *paths):
    return {path: value for path, value in stored.items() if path not in paths}


def test_an_option_that_was_added_changes_nothing_until_it_is_set():
    paths = ("models.tiny.dropout", "models.tiny.phases[0].lr", "models.tiny.optimizer.b1", "seed")
    old = without(of(), *paths)
    assert settings.differences(old, of()) == ([], [])
    assert settings.differences(old, of(dropout=0.1))[0] == ["models.tiny.dropout: 0.5 -> 0.1"]
    assert settings.differences(old, of(phases=[dict(lr=0.5)]))[0]


def test_an_option_whose_default_changed_has_the_default_of_then(monkeypatch):
    old = without(of(), "models.tiny.dropout")
    monkeypatch.setattr(settings, "FORMER", {"models.*.dropout": 0.25})
    assert settings.differences(old, of())[0] == ["models.tiny.dropout: 0.25 -> 0.5"]
    assert settings.differences(old, of(dropout=0.25)) == ([], [])


def test_an_option_that_moved_is_the_same(monkeypatch):
    old = {path.replace("tiny.dropout", "tiny.head.drop").replace(".lr", ".rate"): value
           for path, value in of(phases=[dict(lr=0.5)]).items()}  # fmt: skip
    moved = {"models.*.head.drop": "models.*.dropout"}
    moved |= {"models.*.phases[*].rate": "models.*.phases[*].lr"}
    moved |= {f"models.*.phases[*].rate_{end}": f"models.*.phases[*].lr_{end}"
              for end in ("decay", "noise", "noise_every")}  # fmt: skip
    monkeypatch.setattr(renamed, "RENAMED", moved)
    assert settings.differences(old, of(phases=[dict(lr=0.5)])) == ([], [])
    assert settings.differences(old, of())[0] == ["models.tiny.phases[0].lr: 0.5 -> 0.001"]


def test_a_section_moves_with_all_that_is_in_it(monkeypatch):
    monkeypatch.setattr(renamed, "RENAMED", {"cuts": "thresholds"})
    now = settings.flat({"thresholds": configs.default().thresholds})
    old = {path.replace("thresholds", "cuts"): value for path, value in now.items()}
    assert settings.differences(old, now) == ([], [])


def test_an_option_that_is_gone_is_told_unless_it_had_its_default(monkeypatch):
    old = of() | {"models.tiny.magic": 3}
    assert settings.differences(old, of()) == ([], ["models.tiny.magic=3"])
    monkeypatch.setattr(settings, "FORMER", {"models.*.magic": 3})
    assert settings.differences(old, of()) == ([], [])


def test_a_section_that_is_no_longer_read_counts_if_it_was_set():
    folder = configs.default().data.folder
    old = settings.flat({"data.folder": folder, "seed": 0})
    assert settings.differences(old, settings.flat({"seed": 0})) == ([], [])
    folder.pattern = "{id}"
    old = settings.flat({"data.folder": folder, "seed": 0})
    assert settings.differences(old, settings.flat({"seed": 0}))[0]


def test_every_option_of_the_config_is_known_to_have_a_default():
    config = configs.default().unlock()
    config.models = {"tiny": configs.model()}
    for path in settings.flat(settings.without_places(config)):
        if not path.endswith("phases.count"):
            assert settings._default(path) is not settings._UNKNOWN, path
