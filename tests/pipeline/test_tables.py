"""Joins on id: order of the caller, missing and doubled ids named, folds read as out-of-fold."""

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.data import splits
from hpa_jax.decision.stack import stacking
from hpa_jax.pipeline import scores, stack, tables
from hpa_jax.pipeline.context import Context


@pytest.fixture
def context(tmp_path):
    config = configs.default().unlock()
    config.classes = ("a", "b", "c")
    config.models = {"m": configs.model()}
    return Context(config.lock(), tmp_path)


def write_catalog(context, rows):
    """rows: (id, labels, split, fold, group)."""
    ids = [row[0] for row in rows]
    pd.DataFrame({"id": ids, "labels": [row[1] for row in rows]}).to_parquet(
        context.path("catalog.parquet")
    )
    sides = pd.DataFrame({"id": ids, "split": [row[2] for row in rows]})
    sides["fold"] = pd.array([row[3] for row in rows], "Int64")
    sides.sample(frac=1, random_state=0).to_parquet(context.path("splits.parquet"))
    groups = pd.DataFrame({"id": ids, "group": [row[4] for row in rows]})
    groups.to_parquet(context.path("groups.parquet"))


def test_rows_of_a_hold_out(context):
    write_catalog(
        context,
        [
            ("x", [0, 2], "train", None, 5),
            ("y", [1], "valid", None, 6),
            ("z", None, "test", None, 7),
        ],
    )
    train = tables.split_rows(context, "train")
    assert train.ids.tolist() == ["x"] and train.groups.tolist() == [5]
    assert train.labels.tolist() == [[True, False, True]]
    assert tables.split_rows(context, "valid").ids.tolist() == ["y"]
    test = tables.split_rows(context, "test")
    assert test.ids.tolist() == ["z"] and not test.labels.any()


def test_rows_of_folds(context):
    context.config.split.update(scheme="folds", folds=3)
    rows = [(f"i{n}", [n % 3], "train", n % 3, n) for n in range(6)]
    others = [("t", None, "test", None, 9), ("a", [0], "audit", None, 10)]
    others.append(("copy", [1], splits.VALID_ONLY, 2, 11))  # of a test image: trains in no fold
    write_catalog(context, [*rows, *others])
    assert tables.split_rows(context, "valid", 0).ids.tolist() == ["i0", "i3"]
    assert tables.split_rows(context, "train", 0).ids.tolist() == ["i1", "i2", "i4", "i5"]
    assert tables.split_rows(context, "valid", 2).ids.tolist() == ["i2", "i5", "copy"]
    assert len(tables.split_rows(context, "valid").ids) == 7
    assert tables.split_rows(context, "test").ids.tolist() == ["t"]
    assert tables.split_rows(context, tables.AUDIT).ids.tolist() == ["a"]
    context.config.split.trained_folds = (1, 0)  # the third is only ever trained on
    assert context.folds() == [0, 1]
    assert tables.split_rows(context, "valid").ids.tolist() == ["i0", "i1", "i3", "i4"]
    assert len(tables.split_rows(context, "train").ids) == 6


def test_training_shares_are_those_of_train_csv_without_what_scores_are_of(context):
    context.config.split.audit = 0.2
    rows = [("a", [0, 1], "train"), ("b", [1], "train"), ("c", [2], "train"),
            ("x", [2], "external"), ("y", [2], "external"), ("t", None, "test"),
            ("u", [0], "test")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["id", "labels", "source"])
    table.to_parquet(context.path("catalog.parquet"))
    splits = table[["id"]].assign(
        split=["train", "valid", "audit", "train", "train", "test", "test"]
    )
    splits.to_parquet(context.path("splits.parquet"))
    assert tables.training_shares(context).tolist() == [0.5, 1.0, 0.0]
    table.replace("train", "own").to_parquet(context.path("catalog.parquet"))
    assert tables.training_shares(context).tolist() == [0.25, 0.5, 0.5]


def test_the_stack_restores_these_shares(context, monkeypatch):
    class Fitted(Exception):
        pass

    def fit(*arguments, prior, **options):
        raise Fitted(prior)

    monkeypatch.setattr(tables, "training_shares", lambda context: "of train.csv")
    monkeypatch.setattr(tables, "stack_inputs", lambda *arguments: None)
    monkeypatch.setattr(stacking, "fit", fit)
    write_catalog(context, [("x", [0], "valid", None, 5), ("t", None, "test", None, 7)])
    with pytest.raises(Fitted, match=r"of train\.csv"):
        stack.stack(context)[0].work()


def test_duplicates_of_test_images_by_their_own_matches(context):
    pairs = [("a", "b"), ("b", "c"), ("d", "train"), ("e", "train")]
    pd.DataFrame(pairs, columns=["id_a", "id_b"]).to_parquet(context.path("duplicates.parquet"))
    found = tables.duplicate_groups(context, np.array(["e", "c", "d", "a", "b"]))
    assert found[1] == found[3] == found[4]
    assert len(set(found)) == 3  # d and e match one train image, not each other


def test_probabilities_come_in_the_asked_order_with_nan_for_unknown_classes(context):
    path = context.path("p.parquet")
    pd.DataFrame({"id": ["x", "y"], "p00": [0.1, 0.2], "p02": [0.3, 0.4]}).to_parquet(path)
    found = tables.probabilities(path, np.array(["y", "x"]), context)
    np.testing.assert_allclose(found, np.float32([[0.2, np.nan, 0.4], [0.1, np.nan, 0.3]]))


@pytest.mark.parametrize(
    ("ids", "values", "word"),
    [
        (["x"], [0.1], "'y'"),
        (["x", "y", "x"], [0.1, 0.2, 0.3], "more than once"),
        (["x", "y"], [0.1, np.nan], "nan for id 'y', p00"),
        (["x", "y"], [np.inf, 0.2], "'x'"),
    ],
)
def test_bad_probability_tables_are_refused(context, ids, values, word):
    path = context.path("p.parquet")
    pd.DataFrame({"id": ids, "p00": values}).to_parquet(path)
    with pytest.raises(InputError, match=word):
        tables.probabilities(path, np.array(["x", "y"]), context)


def write_features(context, split, **columns):
    count = len(columns["green_mean"])
    ids = np.array([f"x{row}" for row in range(count)])
    path = context.path("features", f"{split}.parquet")
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame({"id": ids, **columns}).to_parquet(path)
    probs = np.full((count, 3), 0.1, np.float32)
    tables.write_probabilities(tables.predictions(context, "m", split), ids, probs)
    return ids


def test_an_unknown_size_becomes_the_median_of_the_fitted_rows(context):
    valid = write_features(
        context, "valid", green_mean=[0.5] * 4, size=[512.0, np.nan, 2048.0, 1728.0]
    )
    test = write_features(context, "test", green_mean=[0.5] * 2, size=[np.nan, 9999.0])
    found = tables.stack_inputs(context, "valid", valid)
    assert found.metafeatures == ("green_mean", "size") and len(found.names) == 5
    np.testing.assert_array_equal(found.meta[:, 1], [512, 1728, 2048, 1728])
    other = tables.stack_inputs(context, "test", test)
    assert other.names == found.names
    np.testing.assert_array_equal(other.meta[:, 1], [1728, 9999])


def test_sizes_that_no_fitted_row_has_are_left_out_others_are_errors(context):
    ids = write_features(context, "valid", green_mean=[0.5], size=[np.nan])
    test = write_features(context, "test", green_mean=[0.5, np.nan], size=[512.0, 512.0])
    found = tables.stack_inputs(context, "valid", ids)
    assert found.names[:2] == ("meta/green_mean", "m/p00")
    with pytest.raises(InputError, match="row 1 of meta/green_mean"):
        tables.stack_inputs(context, "test", test).filled({})  # as `fit` and `predict` do


def test_truth_names_what_is_wrong(context):
    path = context.path("truth.csv")
    path.write_text("Id,Target\nx,0 2\n")
    assert tables.truth(path, np.array(["x"]), context).tolist() == [[True, False, True]]
    with pytest.raises(InputError, match="'y'"):
        tables.truth(path, np.array(["y"]), context)
    path.write_text("Id,Target\nx,3\n")
    with pytest.raises(InputError, match=r"'x'.*3"):
        tables.truth(path, np.array(["x"]), context)


def test_scores_beside_classes_that_are_absent(context):
    labels = np.array([[1, 0, 0], [1, 1, 0]], bool)
    found = scores.score(labels, labels)
    assert found["macro_f1"] == pytest.approx(2 / 3)
    assert found["macro_f1_classes_present"] == 1
    assert scores.absent_classes(context, labels) == ["c"]
    probs = np.array([[0.9, 0.1, 0.5], [0.9, 0.8, 0.5]])
    ranked = scores.ranking(labels, probs)
    assert ranked["mean_average_precision"] == 1
    assert ranked["mean_average_precision_of_chance"] == pytest.approx(0.75)


def test_scores_have_an_interval_of_rows_drawn_anew(context):
    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < 0.3
    decided = labels ^ (rng.random((200, 3)) < 0.1)
    rows = tables.Rows(np.arange(200).astype(str), labels, np.arange(200) // 2, np.ones(200))
    found = scores.score(labels, decided, scores.resamples(rows))
    low, high = found["macro_f1_interval"]
    assert low < found["macro_f1"] < high < low + 0.15
    assert "macro_f1_interval" not in scores.score(labels, decided)


def test_decisions_come_back_in_the_asked_order(context):
    path = context.path("decisions.parquet")
    decided = {"m": np.eye(3, dtype=bool), "stack": np.zeros((3, 3), bool)}
    scores.write_decisions(path, np.array(["x", "y", "z"]), decided)
    found = scores.read_decisions(path, ["stack", "m"], np.array(["z", "x"]), context)
    assert found["m"].tolist() == decided["m"][[2, 0]].tolist()
    assert not found["stack"].any() and found["stack"].shape == (2, 3)


BEST = "the epoch of m was chosen by the best loss on these rows"


@pytest.mark.parametrize(
    ("checkpoint", "average", "said"),
    [
        ("final", "none", BEST),
        ("best", "none", BEST),
        ("best", "ema", BEST),
        ("final", "ema", "the weights of m are an average (ema) of epochs, not chosen"),
        ("final", "chosen", "the weights of m are an average (chosen) of epochs, not chosen"),
        ("last", "none", "the weights of m are the last ones, not chosen"),
        ("last", "swa", "the weights of m are the last ones, not chosen"),
        ("snapshots", "none", "the snapshots of m (ends of cycles and phases), not chosen"),
    ],
)
def test_how_weights_were_chosen_is_said(checkpoint, average, said):
    config = configs.default().unlock()
    config.models = {"m": configs.model(checkpoint=checkpoint)}
    config.models.m.average.kind = average
    text = scores.checkpoint_choice(Context(config, None))
    assert text.startswith(said) and ";" not in text
    config.train.patience = 3
    assert "the end of training was chosen" in scores.checkpoint_choice(Context(config, None))


def test_a_choice_in_the_middle_of_training_is_said():
    config, last = configs.default().unlock(), {"checkpoint": "last"}
    phases = (configs.phase(), configs.phase(start_from="best"))
    config.models = {
        "a": configs.model(),
        "b": configs.model(phases=phases, **last),
        "c": configs.model(init_from="model:a", **last),
        "d": configs.model(init_from="model:e", **last),
        "e": configs.model(),
    }
    config.models.e.average.kind = "swa"  # d begins with an average that nobody chose
    text = scores.checkpoint_choice(Context(config, None))
    assert "the weights of b and c and d are the last ones" in text
    assert "a phase of b began at the epoch of the best loss on these rows" in text
    assert "c began with weights of a that were chosen on these rows" in text
    assert "d began" not in text and "phase of c" not in text


def test_sizes_are_of_the_catalog_and_of_the_files(tmp_path):
    for name, weight in (("a", 3), ("b", 4)):
        (tmp_path / name).write_bytes(b"x" * weight)
    a, b, gone = (str(tmp_path / name) for name in ("a", "b", "gone"))
    catalog = pd.DataFrame(
        {"red": [a, a], "green": [b, a], "blue": [b, a], "yellow": [None, a]}
    ).assign(original_size=pd.array([2048, None], "Int32"))
    sides, weights = tables.sizes(catalog, with_bytes=True)
    np.testing.assert_array_equal(sides, [2048, np.nan])
    np.testing.assert_array_equal(weights, [7, 3])  # one file of several channels counts once
    assert tables.sizes(catalog.assign(red=gone), with_bytes=False)[1] is None
