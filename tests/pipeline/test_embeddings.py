"""The step `embeddings` and what stands on it: computed once, shared, no more than is needed."""

import shutil

import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.inference import embeddings as computing
from hpa_jax.pipeline import bundles, runner, seen, tables
from hpa_jax.pipeline.context import Context
from hpa_jax.training import loop
from tests.data.layouts import competition, picture, save

STEPS = ["catalog", "duplicates", "split", "records", "embeddings", "train", "predict"]
TINY = dict(backbone="resnet18", width=1 / 16, depth=(1, 1, 1, 1), image_size=32)


class Runner:
    """Runs the steps over 14 images with a linear head and an MLP on one frozen network."""

    def __init__(self, folder):
        self.root, self.workdir, self.flags = folder / "data", folder / "w", {}
        self.steps, self.pca = STEPS, {}

    def context(self, **changes):
        config = configs.default().unlock()
        config.data.update(source="kaggle", root=str(self.root))
        config.records.update(image_size=32, shard_images=4, encoding="raw")
        config.split.fraction = 0.3
        config.train.tensorboard = False
        short = dict(batch_size=4, phases=(configs.phase(epochs=1),), views="identity", **TINY)
        config.models = {
            "linear": configs.frozen_model("linear", **{**short, **changes}),
            "mlp": configs.frozen_model("mlp", 8, **short),
        }
        config.embeddings.pca = self.pca
        flags = {"workdir": str(self.workdir), **self.flags}
        return Context(config.lock(), self.workdir, flags)

    def __call__(self, capsys, **changes):
        context = self.context(**changes)
        capsys.readouterr()
        runner.run(context.config, context.flags, self.steps)
        lines = capsys.readouterr().out.splitlines()
        done = {line[1:].split("]")[0] for line in lines if " reads " in line}
        return {"embeddings" if name.startswith("embeddings-") else name for name in done}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished workdir, of which each test gets a copy."""
    folder = tmp_path_factory.mktemp("whole")
    competition(folder / "data", 12, 2, side=32)
    context = Runner(folder).context()
    runner.run(context.config, context.flags, STEPS)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return Runner(tmp_path)


HEADS = {"train-linear", "train-mlp", "predict-linear", "predict-mlp"}


def test_two_heads_share_one_pass_and_nothing_is_done_twice(run, capsys):
    assert len(list((run.workdir / "embeddings").iterdir())) == 1
    assert run(capsys) == set()
    found = artifacts.read_table(run.workdir / "models/linear/predictions/valid.parquet")
    assert len(found) == len(tables.split_rows(run.context(), "valid").ids) > 0


def test_another_rate_trains_a_head_and_embeds_nothing(run, capsys, monkeypatch):
    monkeypatch.setattr(computing, "write", None)
    phases = (configs.phase(epochs=1, lr=0.1),)
    assert run(capsys, phases=phases) == {"train-linear", "predict-linear"}


def test_other_views_are_another_pass_of_that_model_alone(run, capsys):
    assert run(capsys, views="d4") == {"embeddings", "train-linear", "predict-linear"}
    assert run(capsys) == set()  # both are kept


def test_a_new_test_image_is_embedded_alone_and_trains_no_head(run, capsys, monkeypatch):
    embedded, plain = [], computing.eval_batches

    def counts(records, ids, *others, **options):
        embedded.extend(ids)
        return plain(records, ids, *others, **options)

    monkeypatch.setattr(computing, "eval_batches", counts)
    save(run.root / "test", "x9", picture(99, 32))
    table = run.root / "sample_submission.csv"
    table.write_text(table.read_text() + "x9,0\n")
    again = run(capsys)
    assert {"embeddings", "predict-linear", "predict-mlp"} <= again
    assert not {"train-linear", "train-mlp"} & again
    assert embedded == ["x9"]


def test_another_training_image_trains_the_heads_again(run, capsys):
    train = tables.split_rows(run.context(), "train").ids
    save(run.root / "train", str(train[0]), picture(77, 32))
    assert {"embeddings", *HEADS} <= run(capsys)


def test_a_corrected_label_embeds_nothing(run, capsys, monkeypatch):
    monkeypatch.setattr(computing, "write", None)
    table = run.root / "train.csv"
    table.write_text(table.read_text().replace("t3,3 25", "t3,7"))
    assert HEADS & run(capsys)


def test_only_the_pass_of_one_model(run, capsys):
    run.flags = {"only": "mlp", "force": "embeddings"}
    assert {name for name in run(capsys) if name != "records"} == {"embeddings"}


def test_the_trained_network_predicts_images_as_the_run_did(run):
    predicts_as_the_run(run, "mlp")


def predicts_as_the_run(run, name, **changes):
    """`predict --model=WORKDIR/models/NAME` and `export` take the whole network."""
    from hpa_jax.data.batches import Records
    from hpa_jax.inference import sweep

    context = run.context(**changes)
    (member,) = bundles.named(str(run.workdir / "models" / name)).members
    stored = artifacts.read_table(run.workdir / f"models/{name}/predictions/test.parquet")
    found = sweep.predict_records(
        member.network,
        member.config,
        Records(context.records),
        stored["id"].to_numpy(str),
        batch_size=2,
        views=member.views,
    )
    np.testing.assert_allclose(found.probs, stored.drop(columns="id").to_numpy(), atol=1e-5)


def test_attention_is_trained_on_all_views_and_predicts_images(run, capsys, monkeypatch):
    from hpa_jax.training import augment

    def refused(*_):
        raise AssertionError("one view of an image")

    monkeypatch.setattr(augment, "random_view", refused)
    head = {**configs.model().frozen, "head": "gated_attention", "hidden": 8}
    done = run(capsys, views="d4", frozen=head)
    assert done == {"embeddings", "train-linear", "predict-linear"}
    predicts_as_the_run(run, "linear", views="d4", frozen=head)


def test_the_head_learns_from_embeddings_alone(run, monkeypatch):
    """The loop's images are the stored embeddings, of the fitted rows."""
    given = {}
    monkeypatch.setattr(loop, "train", lambda model, **rest: given.update(rest))
    from hpa_jax.pipeline import train

    context = run.context()
    train.train(context)[0].work()
    assert given["records"].shape == (1, 1, 64)  # both pools of 32 features
    assert set(given["train_ids"]) == set(tables.split_rows(context, "train").ids)
    assert not set(given["train_ids"]) & set(given["valid_ids"])


def validated(**differences):
    config = configs.default().unlock()
    config.models = {"a": configs.model(), "b": configs.frozen_model(**{**TINY, **differences})}
    validation.validate(config)


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        (dict(init_from="model:a"), r"models\.b\.init_from.*in another run"),
        (dict(augment="d4"), r"models\.b\.augment='d4'.*stored"),
        (dict(phases=(configs.phase(augment="d4"),)), r"models\.b\.phases\[0\]\.augment"),
        (dict(frozen={**configs.model().frozen, "head": "lineer"}), "did you mean 'linear'"),
        (
            dict(trained="gated_attention", views=dict(name="d4", aggregate="max")),
            r"models\.b\.views\.aggregate: .*weighs",
        ),
    ],
)
def test_what_a_frozen_network_can_not_have_is_refused(differences, message):
    with pytest.raises(InputError, match=message):
        validated(**differences)


def test_metric_learning_trains_its_network_whole():
    config = configs.default().unlock()
    config.retrieval.model.frozen.head = "linear"
    with pytest.raises(InputError, match=r"retrieval\.model\.frozen\.head"):
        validation.validate(config)


def test_a_head_on_a_network_that_has_seen_the_images_is_in_sample(tmp_path):
    config = configs.default().unlock()
    config.data.update(source="kaggle", root="x")
    config.models = {"a": configs.frozen_model(**TINY, init_from="published:hpa_densenet121")}
    context = Context(config.lock(), tmp_path, {})
    assert seen.notes(context)["a"] == "in sample"
    with pytest.raises(InputError, match="--allow-seen"):
        seen.check(context)


def components(run):
    with np.load(run.workdir / "features/pca/linear.npz") as stored:
        return stored["mean"], stored["axes"]


def test_components_are_those_of_training_rows_alone(run, capsys):
    """Other validation and test images change their own columns, and no component."""
    run.steps, run.pca = [*STEPS, "features"], {"linear": 3}
    assert "features-pca" in run(capsys)
    before = components(run)
    rows = {part: tables.split_rows(run.context(), part).ids for part in ("train", "valid", "test")}
    unseen = [str(rows["valid"][0]), str(rows["test"][0])]
    tables_of = [artifacts.read_table(run.workdir / f"features/pca/{part}.parquet")
                 for part in ("valid", "test")]  # fmt: skip
    for name in unseen:
        save(run.root / ("train" if name.startswith("t") else "test"), name, picture(77, 32))
    assert "features-pca" in run(capsys)
    now = {part: tables.split_rows(run.context(), part).ids for part in rows}
    assert all((now[part] == rows[part]).all() for part in rows)  # else the test says nothing
    for one, other in zip(before, components(run), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for part, table, name in zip(("valid", "test"), tables_of, unseen, strict=True):
        other = artifacts.read_table(run.workdir / f"features/pca/{part}.parquet")
        moved = (table.set_index("id") - other.set_index("id")).abs().max(axis=1) > 1e-4
        assert list(moved.index[moved]) == [name]
    save(run.root / "train", str(rows["train"][0]), picture(78, 32))
    run(capsys)
    assert not np.allclose(before[1], components(run)[1], atol=1e-3)


def test_the_stack_reads_the_components(run, capsys):
    run.steps, run.pca = [*STEPS, "features"], {"linear": 3, "mlp": 2}
    run(capsys)
    context = run.context()
    ids = tables.split_rows(context, "valid").ids[::-1]
    inputs = tables.stack_inputs(context, "valid", ids)
    names = [f"linear.pc0{k}" for k in range(3)] + ["mlp.pc00", "mlp.pc01"]
    assert list(inputs.metafeatures[-5:]) == names
    stored = artifacts.read_table(run.workdir / "features/pca/valid.parquet").set_index("id")
    np.testing.assert_array_equal(inputs.meta[:, -5:], stored.loc[ids, names])


@pytest.mark.parametrize(
    ("pca", "message"),
    [
        ({"linaer": 2}, r"embeddings\.pca\.linaer.*did you mean 'linear'"),
        ({"plain": 2}, r"embeddings\.pca\.plain.*frozen\.head"),
        ({"linear": 0}, r"embeddings\.pca\.linear=0"),
    ],
)
def test_components_are_of_stored_embeddings(pca, message):
    config = configs.default().unlock()
    config.models = {"plain": configs.model(), "linear": configs.frozen_model(**TINY)}
    config.embeddings.pca = pca
    with pytest.raises(InputError, match=message):
        validation.validate(config)
