"""Heads: shapes, the formulas of their papers, their layer groups."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.core.errors import InputError
from hpa_jax.models.heads import HEADS, TOKEN_HEADS, create_head


def feature_map(features=6):
    return np.random.default_rng(0).standard_normal((3, 4, 5, features)).astype(np.float32)


def make(name, **options):
    head = create_head(name, 6, 7, dropout=0.5, rngs=nnx.Rngs(0), **options)
    head.eval()
    return head


WIDTHS = dict(adaptive_concat=12, bestfitting=12, gap=6, gap_norm=6, attention=6, embedding=512)
WIDTHS |= dict(linear=6, mlp=6, gated_attention=6, token=6, features=6, subcell=12)


@pytest.mark.parametrize("name", HEADS)
def test_shapes_of_logits_and_embedding(name):
    x = feature_map().astype(jnp.bfloat16)
    x = x.reshape(3, 20, 6) if name in TOKEN_HEADS else x
    logits, embedding = make(name).embed(x)
    assert logits.shape == (3, 0 if name == "features" else 7)
    assert embedding.shape == (3, WIDTHS[name])
    assert logits.dtype == embedding.dtype == jnp.float32


def test_pool_order_swaps_the_halves():
    x = feature_map()
    maximum, average = x.max((1, 2)), x.mean((1, 2))
    first = make("adaptive_concat").embed(x)[1]
    np.testing.assert_allclose(first, np.concatenate([maximum, average], 1), atol=1e-6)
    other = make("bestfitting").embed(x)[1]
    np.testing.assert_allclose(other, np.concatenate([average, maximum], 1), atol=1e-6)


def test_two_layer_head_has_the_specs_units_and_dropouts():
    head = create_head("adaptive_concat", 6, 7, dropout=0.5, hidden=512, rngs=nnx.Rngs(0))
    assert head.fc1.kernel.shape == (12, 512) and head.fc.kernel.shape == (512, 7)
    assert (head.drop1.rate, head.drop2.rate) == (0.25, 0.5)
    assert len(head.modules()) == 9 and len(make("adaptive_concat").modules()) == 5
    both = create_head("bestfitting", 6, 7, dropout=0.5, rngs=nnx.Rngs(0))
    assert both.fc1.kernel.shape == (12, 6) and both.drop1.rate == both.drop2.rate == 0.5


def test_attention_weighs_each_class_over_space():
    head = make("attention")
    x = feature_map()
    scores, attention = np.asarray(head.logits(x)), np.asarray(head.attention(x))
    weights = np.exp(attention) / np.exp(attention).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(head(x), (weights * scores).sum((1, 2)), rtol=1e-4, atol=1e-5)


def test_gated_attention_is_the_papers():
    head, x = make("gated_attention", hidden=5), feature_map()
    head.bn.mean[...], head.bn.var[...] = np.full(6, 0.3), np.full(6, 2.0)
    y = (x.reshape(3, 20, 6) - 0.3) / np.sqrt(2.0 + 1e-5)
    v, u, a, fc = (
        (np.asarray(layer.kernel), np.asarray(layer.bias))
        for layer in (head.attention_v, head.attention_u, head.attention, head.fc)
    )
    gate = np.tanh(y @ v[0] + v[1]) / (1 + np.exp(-(y @ u[0] + u[1])))
    weights = np.exp(gate @ a[0] + a[1])
    pooled = (weights * y).sum(1) / weights.sum(1)
    assert np.ptp(weights) > 0.1
    np.testing.assert_allclose(head(x), pooled @ fc[0] + fc[1], rtol=1e-4, atol=1e-5)


def test_embedding_logits_are_cosines_to_the_class_vectors():
    head = make("embedding", size=8)
    logits, embedding = head.embed(feature_map())
    vectors = np.asarray(head.weight)
    expected = (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)) @ (
        vectors / np.linalg.norm(vectors, axis=0)
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_modules_name_every_parameter(name):
    head = make(name)
    parts = {str(path[0]) for path, _ in nnx.to_flat_state(nnx.state(head, nnx.Param))}
    assert parts == {module for module in head.modules() if module}


def test_bad_heads_are_told():
    for name, options, message in [
        ("adaptive_conct", {}, "did you mean 'adaptive_concat'"),
        ("gap", {"hidden": 5}, "no option 'hidden'"),
        ("adaptive_concat", {"pool_order": "max"}, "one of max_avg, avg_max"),
    ]:
        with pytest.raises(InputError, match=message):
            make(name, **options)
    with pytest.raises(InputError, match="dropout=1"):
        create_head("gap", 6, 7, dropout=1.0, rngs=nnx.Rngs(0))
