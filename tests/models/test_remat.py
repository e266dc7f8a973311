"""Recomputation keeps less for the backward pass: counted in the traced program."""

import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from hpa_jax.models import create

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import bench_models

    yield bench_models
    sys.modules.pop("bench_models")


def saved(bench, name, remat, **options):
    """Bytes kept of one image of 128 x 128."""
    model = nnx.eval_shape(
        lambda: create(
            name, num_classes=5, width=1 / 8, dropout=0.0, remat=remat, rngs=nnx.Rngs(0), **options
        )
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, images):
        model = nnx.merge(graph, params, rest, copy=True)
        return model(images).sum(), nnx.state(model, nnx.BatchStat)

    images = jax.ShapeDtypeStruct((1, 128, 128, 4), "float32")
    return bench.saved_bytes(loss, params, rest, images)


@pytest.mark.parametrize(
    ("name", "depth", "share"),
    [
        ("se_resnext50", (2, 2, 1, 1), 0.2),
        ("densenet121", (6, 2, 2, 2), 0.2),
        ("xception", (2,), 0.3),
    ],
)
def test_recomputed_blocks_keep_less(bench, name, depth, share):
    blocks, none = (saved(bench, name, remat, depth=depth) for remat in ("blocks", "none"))
    assert 0 < blocks < share * none


def test_a_dense_layers_maps_are_kept_once(bench):
    """In each concatenation again, twelve layers would keep twice as much as six."""
    six, twelve = (
        saved(bench, "densenet121", "blocks", depth=(count, 1, 1, 1)) for count in (6, 12)
    )
    assert twelve < 1.5 * six


def test_saved_bytes_counts_maps_once_and_no_arguments(bench):
    def loss(params, x):
        y = jax.numpy.sin(params * x)  # keeps cos(params * x); x is an argument
        return (y * y).sum(), None  # keeps y

    array = jax.ShapeDtypeStruct((10,), "float32")
    assert bench.saved_bytes(loss, array, array) == 2 * 40
