"""Damage in what the program wrote itself: every reader answers, or names the file in one line.

Images and tables of others are in tests/data/test_fuzz.py.  Damage that is not seen (another
digit in a JSON) may give another value, but never a traceback.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import catalog, records
from hpa_jax.data.batches import Records
from hpa_jax.decision import bundle, unlike
from hpa_jax.decision.stack import files, stacking
from hpa_jax.inference import tables
from hpa_jax.training import logs, network
from tests.data.layouts import competition
from tests.data.test_fuzz import DAMAGE, damaged
from tests.decision.test_bundle import NAMES, member
from tests.training import tiny

FEW = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking bytes takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module", autouse=True)
def tiny_networks():
    """Networks that are made at once, in place of the factory's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "from_config", tiny.make)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of everything, whole."""
    folder = tmp_path_factory.mktemp("whole")
    root = competition(folder / "data")
    table = catalog.build([dict(source="kaggle", root=root)], classes.NAMES)
    records.write(table, folder, image_size=16, encoding="png")
    rng = np.random.default_rng(0)
    first = member("tiny", reference=unlike.fit(rng.normal(size=(20, 4))))
    bundle.write(folder / "bundle", bundle.Bundle(NAMES, [first], np.array([0.4, np.inf, 0.3])))
    labels = np.eye(3, dtype=bool)[np.arange(60) % 3]
    stack = stacking.fit(
        labels + rng.normal(0, 0.3, (60, 3)),
        labels,
        config={"rounds": 2, "repeats": 1},
        workers=1,
        directory=folder / "stack",
    )
    stack.save(folder / "stack")
    tables.write_table(folder / "p.parquet", ["a", "b"], rng.random((2, 3)))
    tables.write_embeddings(folder / "e.parquet", ["a", "b"], rng.random((2, 5)))
    rows = [{"step": 4 * e, "epoch": e, "split": "valid", "loss": 0.5} for e in (1, 2)]
    text = pd.DataFrame(rows).to_json(orient="records", lines=True)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def every_image(folder):
    opened = Records(folder / "16-png")
    return [opened.image(row) for row in range(len(opened))]


def whole_stack(folder):
    return stacking.load(folder / "stack").predict(np.zeros((2, 3)))


def decided(folder):
    opened = bundle.read(folder / "bundle")
    return opened.decide({"tiny": np.full((2, 3), 0.4)})


def epochs(folder):
    return sum(row.get("epoch", 0) for row in logs.read(folder / "metrics.jsonl"))


# What is damaged, and what reads it.
READERS = {
    "16-png/manifest.json": every_image,
    "16-png/manifest.parquet": every_image,
    "16-png/hpa-train-00000.array_record": every_image,
    "bundle/bundle.json": decided,
    "bundle/models/tiny.safetensors": decided,
    "bundle/references/tiny.npz": decided,
    "stack/stack.json": whole_stack,
    "stack/votes.npz": whole_stack,
    "stack/unit": whole_stack,
    "p.parquet": lambda folder: tables.read_table(folder / "p.parquet"),
    "e.parquet": lambda folder: tables.read_embeddings(folder / "e.parquet"),
    "metrics.jsonl": epochs,
}


@pytest.mark.parametrize("name", READERS)
@given(damage=DAMAGE)
@FEW
def test_damage_is_read_over_or_named(written, name, damage):
    path = files.path(written / "stack", 0, 0) if name == "stack/unit" else written / name
    kept = path.with_name(path.name + ".kept")
    shutil.copyfile(path, kept)
    content = damaged(path.read_bytes(), damage)
    if path.suffix == ".array_record":  # a wrong size is seen before anything is read
        size = path.stat().st_size
        content = content[:size].ljust(size, b"\0")
    try:
        path.write_bytes(content)
        READERS[name](written)
    except InputError as error:
        assert "\n" not in str(error) and str(written) in str(error)
    finally:
        shutil.move(kept, path)


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_read(written, name):
    assert READERS[name](written) is not None


def test_a_setting_that_a_stack_does_not_know_is_of_its_file(written):
    path = written / "stack" / "stack.json"
    kept = path.read_text()
    try:
        path.write_text(kept.replace('"rare_learner"', '"rare_teacher"'))
        with pytest.raises(InputError, match=rf"{path}: .*rare_teacher"):
            whole_stack(written)
    finally:
        path.write_text(kept)
