"""Frozen networks whose head is trained on stored embeddings.

In: a model config with `frozen.head`.  Out: the frozen network, with the weights of init_from,
which computes the embeddings; or that network with a trained head, which predicts images.
"""

from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from hpa_jax.models import pretrained
from hpa_jax.models.frozen import joined
from hpa_jax.training import checkpoint, network
from hpa_jax.training import setup as setups


def network_of(model: ConfigDict) -> nnx.Module:
    """Return the frozen network of a model, with the weights of init_from, in evaluation mode.

    Without init_from the weights are random, but the same for every seed.

    Raises:
        InputError: init_from can't be read, or belongs to another network.
    """
    source = str(model.init_from)
    frozen = network.from_config(network.frozen_part(model), 1)
    if source and setups.is_training(source):
        trained, _, _ = checkpoint.load(Path(source).expanduser(), "final")
        _, params, stats = network.split(trained)
        network.take_over(frozen, params, stats)
    elif source:
        pretrained.load(frozen, source, model.extra_channels)
    frozen.eval()
    return frozen


def whole(model: ConfigDict, head: nnx.Module) -> nnx.Module:
    """Return the frozen network with a trained head of `checkpoint.load`.

    Raises:
        InputError: as `network_of`.
    """
    _, params, stats = network.split(network_of(model))
    _, head_params, head_stats = network.split(head)
    last = head_params["head.fc.bias"]
    full = network.from_config(model, len(last), arrays=False)
    network.assign(full, joined(params, head_params), joined(stats, head_stats))
    full.eval()
    return full
