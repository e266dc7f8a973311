"""A bundle opened elsewhere predicts what was exported, and refuses what is broken."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from hpa_jax.config import defaults as config
from hpa_jax.core.errors import InputError
from hpa_jax.decision import blends, bundle, projection, unlike
from hpa_jax.decision.calibration import Calibration
from hpa_jax.decision.stack import inputs, stacking
from hpa_jax.decision.validated import Validated
from hpa_jax.inference import predict
from hpa_jax.training import network
from tests.training import tiny


@pytest.fixture(scope="module", autouse=True)
def tiny_networks():
    """Networks that are made at once, in place of the factory's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "from_config", tiny.make)
        yield


NAMES = ("Nucleoplasm", "Cytosol", "Rods & rings")
N, SIZE = 5, tiny.SIDE


def member(name, model=None, class_numbers=(0, 1, 2), seed=0, **options):
    settings = config.model(
        channels=("red", "green", "blue", "yellow"), image_size=SIZE, dtype="float32"
    )  # fmt: skip
    made = network.from_config(settings, len(class_numbers), seed=seed)
    made.eval()
    return bundle.Member(
        name=name, model=model or name, config=settings, network=made,
        class_numbers=class_numbers, views="identity", **options,
    )  # fmt: skip


def seen(made):
    """Probabilities and embeddings of each network for N images."""
    pictures = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 4), np.uint8)
    batches = [dict(image=pictures, mask=np.ones(N, bool), index=np.arange(N))]
    found = {m.name: predict.predict(m.network, m.config, batches, ids()) for m in made.members}
    return tuple({name: both[k] for name, both in found.items()} for k in (0, 1))


def ids():
    return [f"own{number}" for number in range(N)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    rng = np.random.default_rng(0)
    first = member("tiny/fold_0", "tiny", reference=unlike.fit(rng.normal(size=(20, 4))))
    second = member("worst", class_numbers=(2,), seed=1)
    made = bundle.Bundle(
        NAMES,
        [first, second],
        np.array([0.4, np.inf, 0.3]),
        blend=blends.Formula("mean", (1.0, 3.0)),
        training_images=dict(original_size=2048),
        validated=Validated(
            Calibration(np.array([[0.1, 1, 1], [0.2, 1, 2], [0.3, 2, 1]])),
            np.array([0.5, np.nan, 0.7]),
            np.array([9, 0, 4]),
        ),
    )
    folder = bundle.write(tmp_path_factory.mktemp("b") / "bundle", made)
    return made, folder


def test_what_is_read_predicts_what_was_written(exported):
    made, folder = exported
    again = bundle.read(folder)
    assert again.class_names == NAMES and again.training_images["original_size"] == 2048
    assert again.versions["hpa_jax"] and np.isinf(again.thresholds[1])
    probs, embeddings = seen(made)
    probs_again, embeddings_again = seen(again)
    for name in probs:
        np.testing.assert_array_equal(probs[name], probs_again[name])
        np.testing.assert_array_equal(embeddings[name], embeddings_again[name])
    scores, labels = again.decide(probs_again)
    np.testing.assert_allclose(scores[:, 0], probs["tiny/fold_0"][:, 0], atol=1e-6)
    both = (probs["tiny/fold_0"][:, 2] + 3 * probs["worst"][:, 0]) / 4
    np.testing.assert_allclose(scores[:, 2], both, atol=1e-6)
    assert labels.any(axis=1).all() and not labels[:, 1].all()
    written = bundle.table(again, ids(), scores, labels, np.zeros(N, bool), [""] * N)
    assert list(written.columns[:3]) == ["id", "labels", "class_numbers"]
    row = written.iloc[0]
    assert row["labels"] == "; ".join(NAMES[c] for c in np.flatnonzero(labels[0]))


def test_a_bundle_of_an_earlier_version_knows_no_calibration(exported, tmp_path):
    made, folder = exported
    shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old" / "bundle.json"
    stored = json.loads(path.read_text())
    del stored["validated"]
    path.write_text(json.dumps(stored))
    old, new = bundle.read(path.parent), bundle.read(folder)
    assert old.validated is None and old.class_names == NAMES
    scores = np.random.default_rng(0).random((4, 3))
    np.testing.assert_array_equal(
        new.validated.probabilities(scores), made.validated.probabilities(scores)
    )
    stored["validated"] = {**made.validated.as_json(), "f1": [0.5]}
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="for 3 classes"):
        bundle.read(path.parent)


def test_the_stack_gets_its_columns_by_name(tmp_path):
    rng = np.random.default_rng(0)
    names = ["meta/green_mean", "tiny/p00", "tiny/p01", "tiny/p02"]
    # Without boosters a stack votes by the mean of the models' logits: enough to see the columns.
    stack = stacking.Stack(
        protocol=stacking.resolve("quick"), columns=inputs.named(names, 3),
        oof=rng.random((6, 3)), thresholds=np.full(3, 0.5), scores={},
        nested_decisions=np.zeros((6, 3), bool),
    )  # fmt: skip
    folds = [member("tiny/fold_0", "tiny"), member("tiny/fold_1", "tiny", seed=1)]
    made = bundle.Bundle(NAMES, folds, stack.thresholds, rule="stack", stack=stack)
    again = bundle.read(bundle.write(tmp_path / "b", made))
    probs = {"tiny/fold_0": rng.random((4, 3)), "tiny/fold_1": rng.random((4, 3))}
    table = pd.DataFrame({"green_mean": rng.random(4)})
    scores, _ = again.decide(probs, table)
    mean = (probs["tiny/fold_0"] + probs["tiny/fold_1"]) / 2
    want = stack.predict(np.concatenate([table.to_numpy(), mean], axis=1), names)
    np.testing.assert_allclose(scores, want, atol=1e-9)
    with pytest.raises(InputError, match="green_mean"):
        again.decide(probs)
    with pytest.raises(InputError, match="fold_1"):
        again.decide({"tiny/fold_0": probs["tiny/fold_0"]}, table)


def test_judgement_needs_half_of_the_networks():
    rng = np.random.default_rng(0)
    reference = unlike.fit(rng.normal(size=(200, 4)))
    one, other = (member(name, reference=reference) for name in ("a", "b"))
    made = bundle.Bundle(NAMES, [one, other], np.full(3, 0.5))
    near, far = np.zeros((1, 4)), np.full((1, 4), 90.0)
    assert made.judge({"a": far, "b": far})[0].all()
    odd, why = made.judge({"a": near, "b": far})
    assert odd.all() and "similar" in why[0]
    odd, why = made.judge({"a": near, "b": near})
    assert not odd.any() and why == [""]


def test_broken_bundles_are_refused(exported, tmp_path):
    made, folder = exported
    with pytest.raises(InputError, match=r"bundle\.json"):
        bundle.read(tmp_path)
    with pytest.raises(InputError, match="same name"):
        bundle.write(tmp_path / "x", bundle.Bundle(NAMES, [made.members[0]] * 2, made.thresholds))
    with pytest.raises(InputError, match="thresholds"):
        bundle.write(tmp_path / "x", bundle.Bundle(NAMES, made.members, made.thresholds[:2]))
    ranks = bundle.Bundle(NAMES, made.members, made.thresholds, blend=blends.Formula("rank_mean"))
    with pytest.raises(InputError, match="can't rank"):
        bundle.write(tmp_path / "x", ranks)
    with pytest.raises(InputError, match="stack"):
        bundle.write(
            tmp_path / "x", bundle.Bundle(NAMES, made.members, made.thresholds, rule="stack")
        )
    weights = folder / "models" / "worst.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="worst"):
        bundle.read(folder)
    weights.write_bytes(whole)
    assert not (tmp_path / "x").exists()


def test_the_stack_gets_components_of_embeddings(tmp_path):
    """A bundle computes them of own images' embeddings, of the first network of a model."""
    rng = np.random.default_rng(0)
    fitted = projection.fit(rng.random((9, 4)), 2)
    names = ["meta/tiny.pc01", "tiny/p00", "tiny/p01", "tiny/p02"]
    stack = stacking.Stack(
        protocol=stacking.resolve("quick"), columns=inputs.named(names, 3),
        oof=rng.random((6, 3)), thresholds=np.full(3, 0.5), scores={},
        nested_decisions=np.zeros((6, 3), bool),
    )  # fmt: skip
    folds = [member("tiny/fold_0", "tiny"), member("tiny/fold_1", "tiny", seed=1)]
    made = bundle.Bundle(
        NAMES, folds, stack.thresholds, rule="stack", stack=stack, projections={"tiny": fitted}
    )
    again = bundle.read(bundle.write(tmp_path / "b", made))
    embeddings = {"tiny/fold_0": rng.random((4, 4)), "tiny/fold_1": rng.random((4, 4))}
    table = again.with_components(pd.DataFrame({"green_mean": rng.random(4)}), embeddings)
    assert list(table) == ["green_mean", "tiny.pc00", "tiny.pc01"]
    want = fitted.columns(embeddings["tiny/fold_0"])
    np.testing.assert_allclose(table[["tiny.pc00", "tiny.pc01"]], want, atol=1e-6)
    again.decide({name: rng.random((4, 3)) for name in embeddings}, table)
