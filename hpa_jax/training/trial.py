"""What training costs on this machine: a few steps of a network, measured before the run.

In: a model config, and the records.  Out: seconds an image of the last stage's step (where all of
the network trains) on the devices, on black images; and seconds an image of reading them on the
host.  What it compiles is kept for the training.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.training import device_memory, distributed, network
from hpa_jax.training import setup as setups
from hpa_jax.training import step as steps
from hpa_jax.training.labels import OneClass
from hpa_jax.training.preemption import Preemption

STEPS = 3
READ_SECONDS, READ_BATCHES = 2.0, 40  # the reading of batches is measured so long at most


def seconds_per_image(
    config: ConfigDict,
    *,
    directory: Path,
    class_names: Sequence[str],
    settings: ConfigDict,
    say: Callable[[str], None],
) -> float:
    """Seconds of training an image on the devices, after a first step that is not counted.

    Args:
        config: `hpa_jax.config.model(...)`.
        directory: where its training will lie; gets compilation_cache/.
        class_names: C names.
        settings: `config.train`.
        say: is told what is compiled.

    Raises:
        InputError: the batch is too large for the device.
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
    with device_memory.explained():
        with Preemption() as preemption:
            step = setup.train_step(stage, preemption, say)
        state, loss = step(state, *arguments)
        loss.block_until_ready()
        start = time.perf_counter()
        for _ in range(STEPS):
            state, loss = step(state, *arguments)
        loss.block_until_ready()
    return (time.perf_counter() - start) / STEPS / stage.batch_size


def seconds_per_read(config: ConfigDict, *, records: Any, settings: ConfigDict) -> float:
    """Seconds of reading and decoding an image on the host, with `train.workers` of its cores.

    Batches of the model's size come through the pipeline that training uses, in a random order; the
    first ones, which wait for its start, are not counted.

    records: `hpa_jax.data.input.Records`.
    """
    from hpa_jax.data import batches as inputs

    labels = np.zeros((len(records.ids), 1), np.uint8)
    batches = inputs.train_batches(
        records,
        records.ids,
        labels,
        batch_size=config.batch_size,
        channels=tuple(config.channels),
        image_size=config.image_size,
        sampler=lambda epoch: np.random.default_rng(epoch).permutation(len(labels)),
        workers=settings.workers or distributed.cores(),
        prefetch=settings.prefetch,
    )
    for _ in range(settings.prefetch + 2):
        next(batches)
    start, read = time.perf_counter(), 0
    while read < READ_BATCHES and time.perf_counter() - start < READ_SECONDS:
        next(batches)
        read += 1
    seconds = time.perf_counter() - start
    batches.close()
    return seconds / read / config.batch_size


def _rows(classes: int) -> setups.Data:
    """Rows that are never read, each class once."""
    ids = np.array([f"row {number}" for number in range(classes)])
    labels = OneClass(np.arange(classes), classes)
    return setups.Data(None, ids, labels, ids, labels)
