"""Forecasts grow with what causes them; they need no data but the split."""

from types import SimpleNamespace

import jax
import pandas as pd
import pytest

from configs import bestfitting, pudae
from configs.one_more_layer import solution
from hpa_jax.config import defaults as configs
from hpa_jax.core import classes
from hpa_jax.data import batches, catalog, records
from hpa_jax.pipeline import forecast
from hpa_jax.pipeline.context import Context
from hpa_jax.training import compilation, cost, distributed
from tests.data.layouts import competition


def context(tmp_path, epochs=2, train=100, size=32):
    config = configs.default().unlock()
    config.data.synthetic.update(train=train, test=0, external=0, image_size=size)
    phases = (configs.phase(epochs=epochs),)
    tiny = configs.model(backbone="se_resnext_tiny", width=0.25, image_size=size, phases=phases)
    config.models = {"m": tiny}
    write_tables(tmp_path, train)
    return Context(config.lock(), tmp_path)


def write_tables(tmp_path, train, valid=0, test=0, folds=0):
    """What `split` leaves: so many rows of each part, dealt over folds if there are any."""
    tmp_path.mkdir(exist_ok=True)
    count = train + valid + test
    ids = [f"i{number}" for number in range(count)]
    side = ["train"] * train + ["valid"] * valid + ["test"] * test
    fold = [k % folds if folds and side[k] != "test" else None for k in range(count)]
    labels = [[0] if part != "test" else None for part in side]
    antibodies = [f"a{number // 4}" for number in range(count)]
    catalog = pd.DataFrame({"id": ids, "labels": labels, "antibody": antibodies})
    catalog.to_parquet(tmp_path / "catalog.parquet")
    splits = pd.DataFrame({"id": ids, "split": side, "fold": pd.array(fold, "Int64")})
    splits.to_parquet(tmp_path / "splits.parquet")
    pd.DataFrame({"id": ids, "group": range(count)}).to_parquet(tmp_path / "groups.parquet")


def test_time_grows_with_epochs_and_images(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "_operations_per_second", lambda: 1e9)
    once = forecast.training_seconds(context(tmp_path))
    assert once > 0
    assert forecast.training_seconds(context(tmp_path, epochs=6)) == pytest.approx(3 * once)
    assert forecast.training_seconds(context(tmp_path, train=200)) == pytest.approx(2 * once)


def test_disk_counts_images_records_and_checkpoints(tmp_path):
    small, large = context(tmp_path), context(tmp_path, train=200)
    images = forecast.bytes_needed(large) - forecast.bytes_needed(small)
    assert images == 100 * 4 * (32**2 + large.config.records.image_size**2)
    assert forecast.bytes_needed(small) > 100 * 4 * 32**2


def test_images_are_those_of_the_split_wherever_they_lie(tmp_path):
    """One More Layer's layout: several sources, full-size images alone; nothing is listed."""
    solution_ = solution.get_config()
    write_tables(tmp_path, train=120, valid=16, test=24)
    found = {fit.name: fit for fit in forecast.to_train(Context(solution_, tmp_path))}
    assert list(found) == list(configs.in_training_order(solution_.models))
    assert all(fit.images == 120 for fit in found.values())
    assert found["se_resnext_v2"].passes == 17 * 120 and len(found["se_resnext_v2"].classes) == 28
    assert len(found["se_resnext_ovr"].classes) == 10
    sides = 512**2 + 768**2
    assert forecast.bytes_needed(Context(solution_, tmp_path)) > 160 * 4 * sides


def test_folds_left_out_parts_refit_and_metric_learning_count(tmp_path):
    config = bestfitting.get_config()
    write_tables(tmp_path, train=100, test=40, folds=5)
    fits = list(forecast.to_train(Context(config, tmp_path)))
    of_one = [fit for fit in fits if fit.name == "densenet121"]
    assert [fit.folder.name for fit in of_one] == ["fold_0", "fold_1", "fold_2"]
    assert [fit.images for fit in of_one] == [80, 80, 80]
    assert fits[-1].name == "retrieval" and len(fits[-1].classes) == 25
    assert fits[-1].passes == 50 * 95
    only = list(forecast.to_train(Context(config, tmp_path, {"only": "retrieval"})))
    assert only == fits[-1:]
    config = pudae.get_config()
    with config.unlocked():
        config.refit = True
    write_tables(tmp_path, train=100, valid=10)
    images = [(fit.name, fit.images) for fit in forecast.to_train(Context(config, tmp_path))]
    assert ("resnet34_3", 80) in images and ("resnet34_3", 88) in images
    assert ("inception_v3", 100) in images and ("inception_v3", 110) in images


def test_measured_steps_give_the_whole_time_of_what_is_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "seconds_per_image", lambda model, **rest: 0.5)
    said = []
    two_epochs = context(tmp_path, epochs=2, train=100)
    assert forecast.measured_seconds(two_epochs, said.append) == 0.5 * 2 * 100
    assert said == ["m: 2.0 images/s, 2 epochs: 0.0 h"]
    (tmp_path / "models" / "m" / "predictions").mkdir(parents=True)
    assert forecast.measured_seconds(two_epochs, said.append) == 0
    assert forecast.training_seconds(two_epochs) == 0


def test_a_slow_host_sets_the_time_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "seconds_per_image", lambda model, **rest: 1 / 1200)
    monkeypatch.setattr(cost, "seconds_per_read", lambda model, **rest: 1 / 300)
    monkeypatch.setattr(batches, "Records", lambda folder: None)
    monkeypatch.setattr(distributed, "cores", lambda: 8)
    tiny = context(tmp_path, epochs=2, train=100)
    folder = tiny.records_of(tiny.config.models.m)
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()
    said = []
    assert forecast.measured_seconds(tiny, said.append) == pytest.approx(200 / 300)
    line = "m: input-bound: 8 cores read 300 images/s, the devices train 1200; 32 cores suffice"
    assert said[0] == line and "300.0 images/s" in said[1]
    assert forecast.bound(20.0, 300.0, 2) == (
        "device-bound: 2 cores read 300 images/s, the devices train 20; 1 cores suffice"
    )


def test_reading_is_measured_on_the_real_records(tmp_path):
    root = competition(tmp_path / "data")
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    folder = records.write(table, tmp_path / "r", image_size=16, encoding="zstd")
    model = configs.model(batch_size=4, image_size=16)
    found = cost.seconds_per_read(
        model, records=batches.Records(folder), settings=configs.default().train
    )
    assert 1e-6 < found < 1


def test_a_batch_is_recommended_where_its_figure_is_known(monkeypatch):
    device = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
    monkeypatch.setattr(jax, "devices", lambda: [device] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    monkeypatch.setattr(compilation, "memory_limit", lambda: 16 * 2**30)
    model = configs.model(image_size=512, batch_size=64)
    found = forecast._recommended(model, 28)
    assert found == (
        "recommended batch_size on 4 TPU v5 lite devices: 128 (at accumulate=1); configured: 64"
    )
    monkeypatch.setattr(compilation, "memory_limit", lambda: 95 * 2**30)
    assert "1024 (at" in forecast._recommended(model, 28)
    assert forecast._recommended(configs.model(backbone="resnet34"), 28) == ""
    monkeypatch.setattr(compilation, "memory_limit", lambda: None)
    assert forecast._recommended(model, 28) == ""


def test_a_step_is_measured(tmp_path):
    tiny = context(tmp_path)
    said = []
    seconds = cost.seconds_per_image(
        tiny.config.models.m,
        directory=tmp_path,
        class_names=("a", "b"),
        settings=tiny.config.train,
        say=said.append,
    )
    assert 1e-6 < seconds < 10
    assert len(said) == 1 and "compiled" in said[0]
