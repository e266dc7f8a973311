"""Prediction with the weights that the config names."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.inference import sweep
from hpa_jax.inference.predict import Outputs
from hpa_jax.pipeline import checks, predict, train
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows
from hpa_jax.training import checkpoint
from tests.models import pinned


@pytest.mark.parametrize(("which", "mean"), [("snapshots", 0.6), ("best", 0.3)])
def test_snapshots_predict_their_mean(tmp_path, monkeypatch, which, mean):
    """Three ends of cycles, of which one is the best; a network's step is what it predicts."""
    probabilities = {8: 0.3, 16: 0.6, 20: 0.9}
    monkeypatch.setattr(checkpoint, "snapshots", lambda folder: list(probabilities))
    monkeypatch.setattr(checkpoint, "find", lambda folder, which: 8)
    monkeypatch.setattr(checkpoint, "load", lambda folder, step: (step, SimpleNamespace(), ()))
    monkeypatch.setattr("hpa_jax.data.batches.Records", lambda folder: None)

    def seen(step, *rest, **options):
        table = np.full((2, 3), probabilities[step], np.float32)
        return Outputs(table, np.full((2, 4), step), table / 3)

    monkeypatch.setattr(sweep, "predict_records", seen)
    config = configs.default().unlock()
    config.models = {"m": configs.model(checkpoint=which)}
    context = Context(config.lock(), tmp_path)
    found = predict.predict_rows(
        context, config.models.m, tmp_path, np.array(["a", "b"]), "test", "m"
    )
    np.testing.assert_allclose(found.probs, mean, rtol=1e-6)
    np.testing.assert_allclose(found.plain, mean / 3, rtol=1e-6)
    assert (found.embeddings == (20 if which == "snapshots" else 8)).all()


def test_each_training_row_is_left_out_by_one_model_of_five_duplicates_together(tmp_path):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 2)
    rows = Rows(np.arange(100).astype(str), rng.random((100, 2)) < 0.4, groups, np.ones(100))
    config = configs.default().unlock()
    config.models = {f"m{k}": configs.model(left_out=(k, 5)) for k in range(5)}
    context = Context(config.lock(), tmp_path)
    seen = [train.fitted_rows(context, model, rows).ids for model in context.models().values()]
    left_out = [set(rows.ids) - set(ids) for ids in seen]
    assert set.union(*left_out) == set(rows.ids) and sum(map(len, left_out)) == 100
    assert all(15 <= len(part) <= 25 for part in left_out)
    for part in left_out:
        assert all(str(int(id) ^ 1) in part for id in part)
    assert train.fitted_rows(context, configs.model(), rows) is rows


def started_from(folder, **sources):
    """The context of a recipe whose small resnet18s start from files."""
    config = configs.default().unlock()
    small = dict(backbone="resnet18", width=1 / 16, depth=(1, 1, 1, 1))
    config.models = {
        name: configs.model(init_from=str(given), **small) for name, given in sources.items()
    }
    return Context(config.lock(), folder)


def test_missing_weight_files_are_told_before_any_work(tmp_path):
    save_file(pinned.tensors("resnet18"), tmp_path / "there.safetensors")
    (tmp_path / "trained" / "checkpoints").mkdir(parents=True)
    context = started_from(
        tmp_path,
        a=tmp_path / "there.safetensors",
        b="model:a",
        c=tmp_path / "trained",
        d="weights/absent.pth",
    )
    with pytest.raises(InputError, match=r"config\.models\.d\.init_from='weights/absent\.pth'"):
        checks.check_weights(context)
    (tmp_path / "models" / "d" / "checkpoints").mkdir(parents=True)
    checks.check_weights(context)  # it has begun: the file has been read


def test_weight_files_are_tried_before_any_work(tmp_path, monkeypatch):
    def told(given, match):
        with pytest.raises(InputError, match=rf"config\.models\.a\.init_from: .*{match}"):
            checks.check_weights(started_from(tmp_path, a=given))

    save_file(pinned.tensors("densenet121"), tmp_path / "other.safetensors")
    told(tmp_path / "other.safetensors", "is for another network")
    (tmp_path / "cut.safetensors").write_bytes(b"<html>")
    told(tmp_path / "cut.safetensors", "damaged safetensors")
    (tmp_path / "w.pth").touch()
    told(tmp_path / "w.pth", "damaged")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    told("hf:timm/resnet18.tv_in1k/model.safetensors", "needs huggingface_hub")


TINY = dict(backbone="se_resnext_tiny", width=0.25, image_size=32, batch_size=4)


def context_of(folder, **models):
    config = configs.default().unlock()
    config.models = {name: configs.model(**{**TINY, **own}) for name, own in models.items()}
    return Context(config, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(phases=(configs.phase(), configs.phase(lr=0.0))),
            r"phases\[1\]: lr: .* not 0",
        ),
        (dict(phases=(configs.phase(freeze="stem"),)), r"phases\[0\]: .*unknown group 'stem'"),
        (dict(phases=(configs.phase(freeze=9),)), "9 of . depth groups"),
        (dict(batch_size=6, accumulate=4), "batch_size=6: not divisible"),
        (dict(loss=dict(focl=1.0)), "did you mean 'focal'"),
        (dict(loss=dict(bce=dict(positive_weight=(1.0, 2.0)))), "2 numbers for 28 classes"),
        (dict(optimizer=dict(name="adm")), "did you mean 'adam'"),
        (dict(augment="d5"), "unknown augmentation 'd5'"),
        (dict(augment=dict(rotat=5.0)), "did you mean 'rotate'"),
        (dict(sampling="rarest"), "did you mean 'rare'"),
        (dict(average=dict(kind="sma")), "did you mean 'swa'"),
        (dict(backbone="se_resnext_tin"), "se_resnext_tiny"),
    ],
)
def test_a_later_networks_wrong_option_is_told_before_any_work(tmp_path, change, message):
    with pytest.raises(InputError, match=rf"config\.models\.second: .*{message}"):
        checks.check_plans(context_of(tmp_path, first={}, second=change))


def test_the_plan_of_metric_learning_is_checked_too(tmp_path):
    context = context_of(tmp_path, first={})
    context.config.retrieval.mode = "boost"
    context.config.retrieval.model = configs.embedding_model(**TINY)
    checks.check_plans(context)
    context.config.retrieval.model.phases = (configs.phase(lr=-1.0),)
    with pytest.raises(InputError, match=r"config\.retrieval\.model: phases\[0\]: lr:"):
        checks.check_plans(context)


def test_networks_of_one_outline_are_drawn_once(tmp_path, monkeypatch):
    from hpa_jax.training import network

    drawn, outline = [], network.outline
    monkeypatch.setattr(network, "outline", lambda *args: drawn.append(args) or outline(*args))
    folds = {f"m{seed}": dict(seed=seed, loss=dict(bce=1.0)) for seed in range(3)}
    checks.check_plans(context_of(tmp_path, **folds, wide=dict(width=0.5)))
    assert len(drawn) == 2


def test_all_networks_and_starts_share_what_is_compiled(tmp_path):
    """Whichever network is trained first in a process: the folder is the workdir's."""
    import jax

    from hpa_jax.training import compilation

    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        train.share_compiled(context_of(tmp_path, a={}))
        compilation.keep_programs(tmp_path / "models" / "a" / "compilation_cache")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ("d5", "unknown"),
        ({"name": "d4", "aggregate": "median"}, "aggregate 'median'"),
        ({"name": "d4", "wieghts": (1,)}, "no option 'wieghts'"),
        ({"name": "d4", "weights": (1.0, 2.0)}, "2 numbers for 8 views"),
    ],
)
def test_views_are_refused_before_any_work(tmp_path, views, words):
    config = configs.default().unlock()
    config.models = {"a": configs.model(), "b": configs.model()}
    context = Context(config, tmp_path)
    checks.check_views(context)
    with config.models.b.ignore_type():
        config.models.b.views = views
    with pytest.raises(InputError, match=words) as raised:
        checks.check_views(context)
    assert str(raised.value).startswith("config.models.b.views=")


def test_missing_leak_tables_are_told_before_any_work(tmp_path):
    config = configs.default().unlock()
    config.submission.leak_tables = ("matches", str(tmp_path / "leak.csv"))
    with pytest.raises(InputError, match=r"config\.submission\.leak_tables: no file .*leak\.csv"):
        checks.check_files(Context(config, tmp_path))
    (tmp_path / "leak.csv").touch()
    checks.check_files(Context(config, tmp_path))
