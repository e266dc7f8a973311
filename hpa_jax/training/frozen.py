"""The frozen network under a head that is trained on stored embeddings, and both together.

In: a model config with `frozen.head`.  Out: the network that is run once over the images, with the
weights of init_from; or that network with a trained head on it, which predicts images.
"""

from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from hpa_jax.models import pretrained
from hpa_jax.models.frozen import joined
from hpa_jax.training import checkpoint, network
from hpa_jax.training import setup as setups


def network_of(model: ConfigDict) -> nnx.Module:
    """The frozen network of a model, with the weights of its init_from, in evaluation mode.

    Without init_from its weights are random, the same for every seed.

    Raises:
        InputError: init_from can't be read, or belongs to another network.
    """
    given = str(model.init_from)
    frozen = network.from_config(network.frozen_part(model), 1)
    if given and setups.is_training(given):
        trained, _, _ = checkpoint.load(Path(given).expanduser(), "final")
        _, params, stats = network.split(trained)
        network.take_over(frozen, params, stats)
    elif given:
        pretrained.load(frozen, given, model.extra_channels)
    frozen.eval()
    return frozen


def whole(model: ConfigDict, head: nnx.Module) -> nnx.Module:
    """The network of images: the frozen one with a trained head of `checkpoint.load` on it.

    Raises:
        InputError: as `network_of`.
    """
    _, params, stats = network.split(network_of(model))
    _, own_params, own_stats = network.split(head)
    last = own_params["head.fc.bias"]
    found = network.from_config(model, len(last), arrays=False)
    network.assign(found, joined(params, own_params), joined(stats, own_stats))
    found.eval()
    return found
