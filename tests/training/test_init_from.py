"""A training starts from published weights, by way of a folder of import_weights, and says so."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from hpa_jax.data import batches as inputs
from hpa_jax.models import pretrained
from hpa_jax.training import checkpoint, distributed, loop, network
from hpa_jax.training import setup as setups
from hpa_jax.training.examples import Examples
from tests.models import pinned
from tests.training import tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What import_weights makes of the golden resnet18, as if it were the published one."""
    small = pinned.network("resnet18")
    save_file(pinned.tensors("resnet18"), tmp_path / "w.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr(pretrained.registry, "create", lambda *a, **k: small)
        patched.setattr(pretrained.nnx, "eval_shape", lambda make: make())
        pretrained.import_weights("resnet18", tmp_path / "w.safetensors", tmp_path / "imported")
    return tmp_path / "imported"


def config(folder):
    return tiny.model(
        backbone="resnet18", width=1 / 16, depth=(1, 1, 1, 1), image_size=32,
        init_from=str(folder), extra_channels="copy_red", augment="none",
        phases=({"epochs": 1, "lr": 1e-9},),
    )  # fmt: skip


def data(records):
    half = len(records.ids) // 2
    return dict(
        records=records,
        train_ids=records.ids[:half],
        train_labels=records.labels[:half],
        valid_ids=records.ids[half:],
        valid_labels=records.labels[half:],
    )


def test_the_imported_weights_are_those_that_training_starts_from(folder):
    setup = setups.build(
        config(folder), tiny.settings(), distributed.layout(),
        Examples(**data(tiny.Records(32, side=32))), tiny.CLASSES, seed=0,
    )  # fmt: skip
    params, stats, loaded = setups.initial(setup)
    published = pinned.tensors("resnet18")
    stem = published["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["conv1.kernel"][:, :, :3], stem)
    np.testing.assert_array_equal(params["conv1.kernel"][:, :, 3], stem[:, :, 0])
    np.testing.assert_array_equal(stats["layer4.0.bn2.var"], published["layer4.0.bn2.running_var"])
    fresh = network.split(network.from_config(setup.config, 5, seed=setup.seed))[1]
    np.testing.assert_array_equal(params["head.fc.kernel"], fresh["head.fc.kernel"])
    assert loaded["from"] == str(folder)
    assert loaded["unused"] == ("head.fc.bias", "head.fc.kernel")
    assert loaded["mapped"]["bn1.scale"] == "bn1.scale"


def test_training_tells_what_it_took_and_writes_it_down(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inputs, "train_batches", tiny.train_batches)
    monkeypatch.setattr(inputs, "eval_batches", tiny.eval_batches)
    loop.train(
        config(folder), name="net", directory=tmp_path / "out", class_names=tiny.CLASSES,
        settings=tiny.settings(), seed=0, **data(tiny.Records(32, side=32)),
    )  # fmt: skip
    assert f"starts from {folder}; missing there: head.bn" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / loop.LOADED).read_text())
    assert written["mapped"]["conv1.kernel"] == "conv1.kernel"
    assert set(written["unused"]) == {"head.fc.kernel", "head.fc.bias"}


@pytest.mark.parametrize("which", ["phase:0", "last", "best", "final"])
def test_a_network_begins_from_the_weights_that_the_other_predicts_with(which, tmp_path):
    plan = ({"epochs": 1, "lr": 1e-2}, {"epochs": 1, "lr": 1e-2}, {"epochs": 1, "lr": 3e-1})
    tiny.train(tmp_path, tiny.model(phases=plan, checkpoint=which))
    folder = tmp_path / "checkpoints"
    steps = [checkpoint.find(folder, name) for name in ("phase:0", "best", "last")]
    assert len(set(steps)) == 3  # else the test could not tell them apart
    with tiny.in_place():
        setup = setups.build(
            tiny.model(init_from=str(tmp_path)), tiny.settings(), distributed.layout(),
            Examples(**data(tiny.Records(32))), tiny.CLASSES, seed=1,
        )  # fmt: skip
        params, *_ = setups.initial(setup)
        used, _, _ = checkpoint.load(tmp_path, "best" if which == "final" else which)
    for name, x in network.split(used)[1].items():
        np.testing.assert_array_equal(params[name], x)
