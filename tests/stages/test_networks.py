"""Prediction with the weights that the config names."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpa_jax import config as configs
from hpa_jax.context import Context
from hpa_jax.errors import InputError
from hpa_jax.inference import predict, sweep
from hpa_jax.stages import networks
from hpa_jax.stages.tables import Rows
from hpa_jax.training import checkpoint


@pytest.mark.parametrize(("which", "mean"), [("snapshots", 0.6), ("best", 0.3)])
def test_snapshots_predict_their_mean(tmp_path, monkeypatch, which, mean):
    """Three ends of cycles, of which one is the best; a network's step is what it predicts."""
    probabilities = {8: 0.3, 16: 0.6, 20: 0.9}
    monkeypatch.setattr(checkpoint, "snapshots", lambda folder: list(probabilities))
    monkeypatch.setattr(checkpoint, "find", lambda folder, which: 8)
    monkeypatch.setattr(checkpoint, "load", lambda folder, step: (step, SimpleNamespace(), ()))
    monkeypatch.setattr("hpa_jax.data.input.Records", lambda folder: None)

    def seen(step, *rest, **options):
        table = np.full((2, 3), probabilities[step], np.float32)
        return predict.Seen(table, np.full((2, 4), step), table / 3)

    monkeypatch.setattr(sweep, "predict_records", seen)
    config = configs.default().unlock()
    config.models = {"m": configs.model(checkpoint=which)}
    context = Context(config.lock(), tmp_path)
    found = networks._seen(context, config.models.m, tmp_path, np.array(["a", "b"]), "test", "m")
    np.testing.assert_allclose(found.probs, mean, rtol=1e-6)
    np.testing.assert_allclose(found.plain, mean / 3, rtol=1e-6)
    assert (found.embeddings == (20 if which == "snapshots" else 8)).all()


def test_each_training_row_is_left_out_by_one_model_of_five_twins_together(tmp_path):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 2)
    rows = Rows(np.arange(100).astype(str), rng.random((100, 2)) < 0.4, groups, np.ones(100))
    config = configs.default().unlock()
    config.models = {f"m{k}": configs.model(left_out=(k, 5)) for k in range(5)}
    context = Context(config.lock(), tmp_path)
    seen = [networks.fitted_rows(context, model, rows).ids for model in context.models().values()]
    left_out = [set(rows.ids) - set(ids) for ids in seen]
    assert set.union(*left_out) == set(rows.ids) and sum(map(len, left_out)) == 100
    assert all(15 <= len(part) <= 25 for part in left_out)
    for part in left_out:
        assert all(str(int(id) ^ 1) in part for id in part)
    assert networks.fitted_rows(context, configs.model(), rows) is rows


def test_missing_weight_files_are_told_before_any_work(tmp_path):
    config = configs.default().unlock()
    there = tmp_path / "there.pth"
    there.touch()
    config.models = {
        "a": configs.model(init_from=str(there)),
        "b": configs.model(init_from="model:a"),
        "c": configs.model(init_from="weights/absent.pth"),
    }
    context = Context(config.lock(), tmp_path)
    with pytest.raises(InputError, match=r"config\.models\.c\.init_from='weights/absent\.pth'"):
        networks.check_weights(context)
    (tmp_path / "models" / "c" / "checkpoints").mkdir(parents=True)
    networks.check_weights(context)  # it has begun: the file has been read
