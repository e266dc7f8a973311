"""Networks as named arrays: splitting, writing back, taking over the body of another training."""

import numpy as np
import pytest
from flax import nnx

from hpa_jax.core.errors import InputError
from hpa_jax.training import network
from tests.training import tiny


def net(classes=5, seed=0):
    return tiny.Net(classes, rngs=nnx.Rngs(seed))


def test_arrays_go_out_and_back_by_name():
    one, other = net(seed=0), net(seed=1)
    _, params, stats = network.split(one)
    assert {"conv1.kernel", "bn1.scale", "fc.bias"} < set(params)
    assert set(stats) == {"bn1.mean", "bn1.var", "bn2.mean", "bn2.var"}
    network.assign(other, params, stats)
    images = np.ones((2, 8, 8, 4), np.float32)
    for model in (one, other):
        model.eval()
    np.testing.assert_array_equal(one(images), other(images))


def test_shapes_alone_can_be_filled():
    _, params, stats = network.split(net())
    empty = tiny.make(tiny.model(), 5, arrays=False)
    network.assign(empty, params, stats)
    empty.train()
    assert empty(np.ones((2, 8, 8, 4), np.float32)).shape == (2, 5)  # dropout has a key


def test_a_new_head_takes_over_the_body():
    _, params, stats = network.split(net(5))
    ten = net(10, seed=1)
    assert set(network.take_over(ten, params, stats)) == {"fc.kernel", "fc.bias"}
    _, taken, _ = network.split(ten)
    np.testing.assert_array_equal(taken["conv2.kernel"], params["conv2.kernel"])
    assert taken["fc.bias"].shape == (10,)
    wider = {**params, "conv2.kernel": np.zeros((3, 3, 8, 32), np.float32)}
    with pytest.raises(InputError, match=r"conv2\.kernel is \(3, 3, 8, 32\)"):
        network.take_over(net(), wider, stats)


def test_training_can_start_from_another_training(tmp_path):
    tiny.train(tmp_path / "first", tiny.model())
    again = tiny.model(
        init_from=str(tmp_path / "first"),
        phases=({"epochs": 1, "lr": 1e-9, "freeze": "backbone", "freeze_bn": True},),
    )
    tiny.train(tmp_path / "second", again)
    from hpa_jax.training import checkpoint

    with tiny.in_place():
        best = network.split(checkpoint.load(tmp_path / "first", "best")[0])[1]
    found = tiny.final_weights(tmp_path / "second")
    for name, x in best.items():
        np.testing.assert_allclose(found[name], x, atol=1e-6, err_msg=name)


def test_rates_of_dropout_layers():
    model = net()
    network.skeleton(model, train=True, dropout=0.25)
    assert network.dropout_rates(model) == [0.25]
    with pytest.raises(InputError, match=r"must lie in \[0, 1\), not 1"):
        network.skeleton(model, train=True, dropout=1.0)
