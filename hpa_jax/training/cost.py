"""Cost of training a network, before the run: seconds per image, and the batch size that fits.

In: a model config, and the records.  Out: seconds per image of the last phase's step (where the
whole network trains) on the devices, on dummy images; seconds per image of reading on the host; a
recommended batch size.  Compiled programs are cached for the training.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.training import compilation, distributed, network
from hpa_jax.training import setup as setups
from hpa_jax.training.compilation import Compiler
from hpa_jax.training.examples import Examples, OneClass
from hpa_jax.training.preemption import Preemption

STEPS = 3
READ_SECONDS, READ_BATCHES = 2.0, 40  # upper limits of measuring the reading
# (backbone, platform) -> bytes of temporaries per image of 512 x 512 px in a training step:
# temporaries of the compiled step / images per device (docs/accelerators.md).
TEMPORARIES = {
    ("se_resnext50_32x4d", "tpu"): 8.79e9 / 32,
}
STATE = 16  # bytes per parameter: weight, gradient and two moments in float32
SHARE = 0.9  # of the memory; the rest is for batches in transfer and other buffers


def seconds_per_image(
    config: ConfigDict,
    *,
    directory: Path,
    class_names: Sequence[str],
    settings: ConfigDict,
    say: Callable[[str], None],
) -> float:
    """Return seconds of training per image on the devices, without the first step.

    Args:
        config: `hpa_jax.config.model(...)`.
        directory: of the later training; for compilation_cache/.
        class_names: C names.
        settings: `config.train`.
        say: called with a line for each compiled program.

    Raises:
        InputError: the batch is too large for the device.
    """
    compilation.keep_programs(settings.compilation_cache or directory / "compilation_cache")
    layout, classes = distributed.layout(), len(class_names)
    ids = np.array([f"row {number}" for number in range(classes)])
    labels = OneClass(np.arange(classes), classes)  # dummy rows, each class once
    examples = Examples(None, ids, labels, ids, labels)
    setup = setups.build(config, settings, layout, examples, class_names, 0)
    phase = setup.phases[-1]
    _, params, stats = network.split(network.trained_from_config(config, classes))
    state = layout.replicate(setup.state(phase, params, stats, phase.start))
    shapes = setup.batch_shapes(phase.batch_size)
    batch = layout.put_batch({name: np.ones(x.shape, x.dtype) for name, x in shapes.items()})
    arguments = (batch, np.uint32(0), phase.rates(phase.start))
    with compilation.explaining_out_of_memory():
        with Preemption() as preemption:
            step = setup.train_step(phase, Compiler(preemption, say, settings.deterministic))
        state, loss = step(state, *arguments)
        loss.block_until_ready()
        start = time.perf_counter()
        for _ in range(STEPS):
            state, loss = step(state, *arguments)
        loss.block_until_ready()
    return (time.perf_counter() - start) / STEPS / phase.batch_size


def seconds_per_read(config: ConfigDict, *, records: Any, settings: ConfigDict) -> float:
    """Return seconds of reading and decoding per image on the host by `train.workers` cores.

    Measured on random batches of the model's size in the training's input pipeline, without the
    first ones.

    records: `hpa_jax.data.batches.Records`.
    """
    from hpa_jax.data.batches import train_batches

    labels = np.zeros((len(records.ids), 1), np.uint8)
    batches = train_batches(
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


def recommended_batch(
    model: ConfigDict, side: int, parameters: int, platform: str, memory: int | None
) -> int | None:
    """Return the largest power of two of images per device that fits; None if unknown.

    side: of the network's input in pixels.  parameters: their number.  platform: of the devices
    ("gpu", "tpu").  memory: `compilation.memory_limit()`.
    """
    each = TEMPORARIES.get((model.backbone, platform))
    unusual = model.remat != "none" or model.width != 1.0 or model.depth or model.large_stem
    if each is None or memory is None or unusual:
        return None
    count = int((SHARE * memory - STATE * parameters) / (each * (side / 512) ** 2))
    return 1 << (count.bit_length() - 1) if count >= 1 else None
