"""The start of a fresh network: it predicts each class' frequency, whatever the picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.errors import InputError
from hpa_jax.models import create
from hpa_jax.training import network


def tiny(head: str) -> nnx.Module:
    rngs = nnx.Rngs(0)
    model = create(
        "se_resnext_tiny", num_classes=3, in_channels=1, width=0.25, head=head, rngs=rngs
    )
    model.eval()
    return model


@pytest.mark.parametrize("head", ["adaptive_concat", "gap", "bestfitting"])
def test_a_fresh_network_starts_at_the_frequencies(head):
    model = tiny(head)
    frequencies = np.array([0.5, 0.1, 0.0])
    network.start_at_frequencies(model, frequencies)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    probs = jax.nn.sigmoid(model(images))
    np.testing.assert_allclose(probs, [[0.5, 0.1, 0.001]] * 2, rtol=1e-4)
    assert not jnp.isnan(probs).any()


def test_a_head_without_such_a_layer_is_refused():
    with pytest.raises(InputError, match="head_init"):
        network.start_at_frequencies(tiny("attention"), np.array([0.5, 0.1, 0.0]))
