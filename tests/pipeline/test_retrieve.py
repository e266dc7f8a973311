"""Neighbours: whose may lend labels to whom, and what a loan does to a decision."""

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.data import embeddings
from hpa_jax.inference.tables import write_embeddings
from hpa_jax.pipeline import inputs, retrieve
from hpa_jax.pipeline.context import Context

ANGLES = {  # degrees: near in angle is near in cosine
    "t0": 0, "t1": 90, "t2": 180, "t3": 270, "v0": 5, "v1": 95, "v2": 186, "v3": 276,
    "x0": 1, "x1": 93, "x2": 184, "x3": 272,
}  # fmt: skip
AUDITED = {"a0": 1, "a1": 93, "a2": 184, "a3": 272}  # where the test rows lie: nearest of all


def make(tmp_path, folds=False, duplicates=(), audit=False, **options):
    """Four training, validation and test rows; xk lies between tk and vk, nearer to tk."""
    tmp_path.mkdir(exist_ok=True)
    config = configs.default().unlock()
    config.classes = ("a", "b", "c", "d")
    config.models = {"m": configs.model()}
    config.retrieval.update(mode="replace", **options)
    if folds:
        config.split.update(scheme="folds", folds=2)
    config.split.audit = 0.1 if audit else 0.0
    context = Context(config.lock(), tmp_path)
    angles = ANGLES | AUDITED if audit else ANGLES
    ids = list(angles)
    labels = [[int(id[1])] if id[0] != "x" else None for id in ids]
    specimens = [f"ab{id[1]}" for id in ids]
    pd.DataFrame({"id": ids, "labels": labels, "antibody": specimens}).to_parquet(
        context.path("catalog.parquet")
    )
    side = {"t": "train", "v": "valid", "x": "test", "a": "audit"}
    splits = pd.DataFrame({"id": ids, "split": [side[id[0]] for id in ids]})
    fold = [None if id[0] in "xa" or not folds else int(id[0] == "v") for id in ids]
    splits["fold"] = pd.array(fold, "Int64")
    splits.to_parquet(context.path("splits.parquet"))
    groups = pd.DataFrame({"id": ids, "group": range(len(ids))})
    for one, other in duplicates:
        number = groups.loc[groups["id"] == one, "group"].item()
        groups.loc[groups["id"] == other, "group"] = number
    groups.to_parquet(context.path("groups.parquet"))
    parts = {"train": "tv" if folds else "t", "valid": "" if folds else "v", "test": "x"}
    parts["audit"] = "a"
    for part, letters in parts.items():
        own = [id for id in ids if id[0] in letters]
        if own:
            radians = np.deg2rad([angles[id] for id in own])
            write_embeddings(
                context.path("retrieval", "embeddings", f"{part}.parquet"),
                own,
                np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32),
            )
    artifacts.write_json(context.path("retrieval", "network", "held_out.json"), ["t0"])
    return context


def neighbours(context, part):
    table = retrieve._nearest(context, part)
    return dict(zip(table["id"], table["neighbour"]))


def test_validation_borrows_from_training_and_test_from_all_labelled(tmp_path):
    context = make(tmp_path)
    assert neighbours(context, "valid") == {f"v{k}": f"t{k}" for k in range(4)}
    assert set(neighbours(context, "test").values()) <= {
        *["t0", "t1", "t2", "t3", "v0", "v1", "v2", "v3"]
    }
    assert neighbours(context, "test")["x0"] in ("t0", "v0")


def test_duplicates_are_no_neighbours(tmp_path):
    free = neighbours(make(tmp_path / "free"), "test")["x1"]
    barred = neighbours(make(tmp_path / "barred", duplicates=[("x1", free)]), "test")["x1"]
    assert free in ("t1", "v1") and barred in ("t1", "v1") and barred != free


def test_with_folds_a_row_borrows_from_the_other_folds(tmp_path):
    found = neighbours(make(tmp_path, folds=True), "valid")
    assert found == {**{f"v{k}": f"t{k}" for k in range(4)}, **{f"t{k}": f"v{k}" for k in range(4)}}


@pytest.mark.parametrize("folds", [False, True])
def test_audit_rows_lend_no_labels(tmp_path, folds):
    context = make(tmp_path, folds, audit=True)
    task = retrieve._neighbours(context)
    task.work()
    before = {path.name: path.read_bytes() for path in task.outputs}
    assert before.keys() == {"valid.parquet", "test.parquet", "audit.parquet", "scores.json"}
    for part in ("valid", "test", "audit"):
        lenders = set(neighbours(context, part).values())
        assert lenders and lenders <= ANGLES.keys() - {"x0", "x1", "x2", "x3"}
    catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")
    for id in AUDITED:
        catalog.at[id, "labels"] = [0, 1, 2, 3]
        catalog.at[id, "antibody"] = "another"
    artifacts.write_table(context.path("catalog.parquet"), catalog.reset_index())
    task.work()
    assert {path.name: path.read_bytes() for path in task.outputs} == before


@pytest.mark.parametrize("folds", [False, True])
def test_metric_learning_is_not_shown_audit_rows(tmp_path, folds, monkeypatch):
    context = make(tmp_path, folds, audit=True)
    shown = {}

    def train(model, *, ids, antibodies, groups, **others):
        shown.update(ids=list(ids), antibodies=antibodies)
        return None, np.zeros(len(ids), bool)

    monkeypatch.setattr("hpa_jax.training.metric_learning.train", train)
    monkeypatch.setattr("hpa_jax.data.batches.Records", lambda folder: None)
    retrieve._train(context).work()
    assert len(shown["ids"]) == (8 if folds else 4)
    assert not set(shown["ids"]) & set(AUDITED)
    assert shown["antibodies"] == [f"ab{id[1]}" for id in shown["ids"]]


def write_neighbours(context, rows):
    table = pd.DataFrame(rows, columns=["id", "neighbour", "similarity"])
    artifacts.write_table(context.path("retrieval", "test.parquet"), table)


def test_a_near_neighbour_replaces_the_whole_decision(tmp_path):
    context = make(tmp_path, tau=0.65)
    write_neighbours(context, [("x1", "t3", 0.7), ("x0", "t2", 0.6), ("x2", None, -np.inf)])
    decided = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], bool)
    found, count = retrieve.replaced(context, "test", np.array(["x0", "x1", "x2"]), decided)
    assert count == 1
    np.testing.assert_array_equal(found[[0, 2]], decided[[0, 2]])
    assert found[1].tolist() == [False, False, False, True]
    with pytest.raises(InputError, match="x3"):
        retrieve.replaced(context, "test", np.array(["x3"]), decided[:1])


def test_off_changes_nothing_and_has_no_tasks(tmp_path):
    context = make(tmp_path)
    context.config.retrieval.mode = "off"
    decided = np.ones((1, 4), bool)
    assert retrieve.replaced(context, "test", np.array(["x0"]), decided)[0] is decided
    assert retrieve.retrieve(context) == [] and retrieve.files(context) == ()


def test_boost_moves_probabilities_by_how_near_the_neighbour_is(tmp_path):
    context = make(tmp_path, tau=0.6)
    context.config.retrieval.mode = "boost"
    write_neighbours(context, [("x0", "t2", 0.8), ("x1", "t3", 0.5)])
    probs = np.full((2, 4), 0.4)
    found = retrieve.boosted(context, "test", np.array(["x0", "x1"]), probs)
    np.testing.assert_allclose(found[0], [0.2, 0.2, 0.7, 0.2])
    np.testing.assert_allclose(found[1], 0.4)


def test_recall_is_of_the_held_out_images(tmp_path):
    context = make(tmp_path)
    catalog = artifacts.read_table(context.path("catalog.parquet"))
    catalog["antibody"] = ["p", "p", "q", "q"] + [None] * 8
    artifacts.write_table(context.path("catalog.parquet"), catalog)
    found = retrieve._recall(context)
    assert found["queries"] == 1 and found["recall"] in (0.0, 1.0)


def test_each_set_is_standardised_by_itself(tmp_path):
    """Test embeddings that are shifted and stretched as a whole keep their neighbours."""
    context = make(tmp_path)
    expected = retrieve._nearest(context, "test")
    path = context.path("retrieval", "embeddings", "test.parquet")
    table = pd.read_parquet(path)
    columns = [name for name in table if name != "id"]
    table[columns] = np.float32([7.0, 0.2]) * table[columns] + np.float32([5.0, -3.0])
    table.to_parquet(path)
    found = retrieve._nearest(context, "test")
    assert found["neighbour"].tolist() == expected["neighbour"].tolist()
    np.testing.assert_allclose(found["similarity"], expected["similarity"], atol=1e-5)


@pytest.mark.parametrize("folds", [False, True])
def test_stored_embeddings_lend_as_learnt_ones_do(tmp_path, folds):
    """The same vectors in a frozen network's store: the same neighbours, and nothing is trained."""
    learnt = make(tmp_path, folds)
    before = {part: neighbours(learnt, part) for part in ("valid", "test")}
    with learnt.config.unlocked():
        learnt.config.models.frozen = configs.frozen_model(views="identity")
        learnt.config.retrieval.embeddings_of = "frozen"
    folder = learnt.embeddings_of(learnt.config.models.frozen) / inputs.VECTORS
    ids = list(ANGLES)[::-1]
    radians = np.deg2rad([ANGLES[id] for id in ids])
    values = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    embeddings.write_part(folder, 0, values[:, None, None])
    embeddings.finish(folder, ids, (1, 1, 2))
    artifacts.remove(tmp_path / "retrieval")  # metric learning's are not there
    assert {part: neighbours(learnt, part) for part in ("valid", "test")} == before
    (task,) = retrieve.retrieve(learnt)
    assert all(path.exists() for path in task.files) and not learnt.trains_retrieval
    task.work()
    scores = artifacts.read_json(tmp_path / "retrieval" / "scores.json")
    assert scores["recall_at_1"]["queries"] == (8 if folds else 0)  # all whose antibody recurs


def test_stored_embeddings_are_those_of_a_frozen_network():
    config = configs.default().unlock()
    config.models = {"m": configs.model()}
    for name, words in (("n", "unknown model 'n'"), ("m", "m has no frozen.head")):
        config.retrieval.embeddings_of = name
        with pytest.raises(InputError, match=rf"retrieval\.embeddings_of='{name}': {words}"):
            validation.validate(config)
