"""What training costs on this machine: a few steps of a network, measured before the run.

In: a model config.  Out: seconds a picture of the last stage's step (where all of the network
trains), on black pictures: reading and augmenting costs what it costs, waiting for disks is not in
it.  What it compiles is kept for the training.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.training import distributed, network
from hpa_jax.training import setup as setups
from hpa_jax.training import step as steps
from hpa_jax.training.labels import OneClass
from hpa_jax.training.preemption import Preemption

STEPS = 3


def seconds_per_picture(
    config: ConfigDict,
    *,
    directory: Path,
    class_names: Sequence[str],
    settings: ConfigDict,
    say: Callable[[str], None],
) -> float:
    """Seconds of training a picture, after a first step that is not counted.

    Args:
        config: `hpa_jax.config.model(...)`.
        directory: where its training will lie; gets compilation_cache/.
        class_names: C names.
        settings: `config.train`.
        say: is told what is compiled.
    """
    distributed.compilation_cache(settings.compilation_cache or directory / "compilation_cache")
    layout = distributed.layout()
    setup = setups.build(config, settings, layout, _rows(len(class_names)), class_names, 0)
    stage = setup.stages[-1]
    _, params, stats = network.split(network.from_config(config, len(class_names)))
    state = layout.put_whole(setup.state(stage, params, stats, stage.start))
    shapes = setup.batch_shapes(stage.batch_size)
    batch = layout.put_batch({name: np.ones(x.shape, x.dtype) for name, x in shapes.items()})
    arguments = (batch, np.uint32(0), steps.Rates(*stage.rates(stage.start)))
    with Preemption() as preemption:
        step = setup.train_step(stage, preemption, say)
    state, loss = step(state, *arguments)
    loss.block_until_ready()
    start = time.perf_counter()
    for _ in range(STEPS):
        state, loss = step(state, *arguments)
    loss.block_until_ready()
    return (time.perf_counter() - start) / STEPS / stage.batch_size


def _rows(classes: int) -> setups.Data:
    """Rows that are never read, each class once."""
    ids = np.array([f"row {number}" for number in range(classes)])
    labels = OneClass(np.arange(classes), classes)
    return setups.Data(None, ids, labels, ids, labels)
