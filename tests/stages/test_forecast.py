"""Forecasts grow with what causes them; they need no data but the number of pictures."""

import pytest

from hpa_jax import config as configs
from hpa_jax.context import Context
from hpa_jax.stages import forecast
from hpa_jax.training import trial


def context(tmp_path, epochs=2, train=100, size=32):
    config = configs.default().unlock()
    config.data.synthetic.update(train=train, test=0, external=0, image_size=size)
    stages = (configs.stage(epochs=epochs),)
    tiny = configs.model(backbone="se_resnext_tiny", width=0.25, image_size=size, stages=stages)
    config.models = {"m": tiny}
    return Context(config.lock(), tmp_path)


def test_time_grows_with_epochs_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "_operations_per_second", lambda: 1e9)
    once = forecast.training_seconds(context(tmp_path))
    assert once > 0
    assert forecast.training_seconds(context(tmp_path, epochs=6)) == pytest.approx(3 * once)
    assert forecast.training_seconds(context(tmp_path, train=200)) == pytest.approx(2 * once)


def test_disk_counts_pictures_records_and_checkpoints(tmp_path):
    small, large = context(tmp_path), context(tmp_path, train=200)
    pictures = forecast.bytes_needed(large) - forecast.bytes_needed(small)
    assert pictures == 100 * 4 * (32**2 + large.config.records.image_size**2)
    assert forecast.bytes_needed(small) > 100 * 4 * 32**2


def test_measured_steps_give_the_whole_time_of_what_is_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "seconds_per_picture", lambda model, **rest: 0.5)
    said = []
    two_epochs = context(tmp_path, epochs=2, train=100)
    assert forecast.measured_seconds(two_epochs, said.append) == 0.5 * 2 * 100
    assert said == ["m: 2.0 pictures/s, 2 epochs: 0.0 h"]
    (tmp_path / "models" / "m" / "predictions").mkdir(parents=True)
    assert forecast.measured_seconds(two_epochs, said.append) == 0
    assert forecast.training_seconds(two_epochs) == 0


def test_a_step_is_measured(tmp_path):
    tiny = context(tmp_path)
    said = []
    seconds = trial.seconds_per_picture(
        tiny.config.models.m,
        directory=tmp_path,
        class_names=("a", "b"),
        settings=tiny.config.train,
        say=said.append,
    )
    assert 1e-6 < seconds < 10
    assert len(said) == 1 and "compiled" in said[0]
