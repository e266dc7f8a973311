"""Forecast of a run's disk space and training time."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import retrieve, tables
from hpa_jax.pipeline.context import RETRIEVAL, Context

# A training step costs about three forward passes, at this share of the speed of one large float32
# matrix product.  Measured on 2 CPU cores: .28 to .31 (the demo's networks, 64 px).
PASSES, SHARE = 3, 0.3


class Fit(NamedTuple):
    """One network still to be trained; images: per epoch."""

    name: str
    model: ConfigDict
    folder: Path
    classes: list[str]
    images: int

    @property
    def passes(self) -> int:
        """Number of images that training reads."""
        return self.images * sum(phase.epochs for phase in self.model.phases)


def bytes_needed(context: Context) -> int:
    """Return a rough upper bound of the bytes that a run writes.

    Requires the catalog, unless the images are synthetic.
    """
    config = context.config
    images, total = _images(context), 0
    if context.draws:
        total += images * 4 * config.data.synthetic.image_size**2
    total += images * 4 * sum(side**2 for side in context.stored_sides())
    # float32 parameters and two moments of every checkpoint kept
    parameters = sum(
        fits * _parameters(model, len(context.class_numbers(model)))
        for model, fits in _networks(context)
    )
    return total + parameters * 12 * (config.train.keep + 1) + images * _embedded(context)


def training_seconds(context: Context) -> float:
    """Estimate the seconds of training from operation counts, within a factor of two on a CPU.

    Requires the split.  Compilation (half a minute per network on a laptop) and
    validation are left out.
    """
    fits = list(to_train(context))
    if not fits:
        return 0.0
    speed = _operations_per_second() * SHARE
    trained = sum(
        fit.passes * _operations(fit.model, len(fit.classes))
        for fit in fits
        if not fit.model.frozen.head  # only the head is trained: seconds
    )
    embedded = sum(
        _images(context) * _views(model) * _operations(model, 1)
        for model in _to_embed(context).values()
    )
    return (PASSES * trained + embedded) / speed


def measured_seconds(context: Context, say: Callable[[str], None]) -> float:
    """Measure a few steps of each network and return the training time of the recipe.

    Reports through `say`: images/s and time of each network, whether the host keeps up with the
    devices, and a recommended batch size if known.  Requires the split; reading is measured if the
    records exist.  Validation and prediction are left out; compiled programs are reused.
    """
    from hpa_jax.data.batches import Records
    from hpa_jax.training import cost

    fits_of: dict[str, list[Fit]] = {}
    for fit in to_train(context):
        fits_of.setdefault(fit.name, []).append(fit)
    total = 0.0
    for name, fits in fits_of.items():
        model = fits[0].model
        if model.frozen.head:
            continue
        cost_per_image = cost.seconds_per_image(
            model,
            directory=fits[0].folder,
            class_names=fits[0].classes,
            settings=context.config.train,
            say=lambda text, name=name: say(f"{name}: {text}"),
        )
        if advice := _recommended(model, len(fits[0].classes)):
            say(f"{name}: {advice}")
        records = context.records_of(model)
        if (records / "manifest.json").is_file():
            read = cost.seconds_per_read(
                model, records=Records(records), settings=context.config.train
            )
            say(f"{name}: {bound(1 / cost_per_image, 1 / read, context.config.train.workers)}")
            cost_per_image = max(cost_per_image, read)
        epochs = sum(phase.epochs for phase in model.phases)
        seconds = cost_per_image * sum(fit.passes for fit in fits)
        times = f" x {len(fits)}" if len(fits) > 1 else ""
        pace = f"{1 / cost_per_image:.1f} images/s, {epochs} epochs{times}"
        say(f"{name}: {pace}: {seconds / 3600:.1f} h")
        total += seconds
    return total


def bound(device: float, host: float, workers: int) -> str:
    """Describe the bottleneck: training `device` images/s or reading `host` images/s.

    workers: of reading, 0: one per core.  Enough cores are extrapolated from the present rate.
    """
    from hpa_jax.training import distributed

    used = min(workers or distributed.cores(), distributed.cores())
    enough = math.ceil(device * used / host)
    kind = "input-bound" if host < device else "device-bound"
    return (
        f"{kind}: {used} cores read {host:.0f} images/s, the devices train {device:.0f}; "
        f"{enough} cores suffice"
    )


def _recommended(model: ConfigDict, num_classes: int) -> str:
    """Return a recommendation of the batch size for these devices; "" if unknown."""
    import jax

    from hpa_jax.training import augment, compilation, cost

    device, count = jax.devices()[0], jax.device_count()
    side = augment.output_size(model.augment) or model.image_size
    parameters = _parameters(model, num_classes)
    per_device = cost.recommended_batch(
        model, side, parameters, device.platform, compilation.memory_limit()
    )
    if per_device is None:
        return ""
    where = f"{count} {device.device_kind} device{'s' if count > 1 else ''}"
    return (
        f"recommended batch_size on {where}: {per_device * count} (at accumulate=1); "
        f"configured: {model.batch_size}"
    )


def to_train(context: Context) -> Iterator[Fit]:
    """Yield every network without predictions, including refit and retrieval; needs the split."""
    names = list(context.config.classes)
    for name, model, fold, folder in context.fits():
        if not (folder / "predictions").is_dir():
            classes = [names[number] for number in context.class_numbers(model)]
            rows = len(tables.split_rows(context, "train", fold).ids)
            yield Fit(name, model, folder, classes, _share(model, rows))
    for name, model in context.models().items() if context.config.refit else ():
        folder = tables.refitted(context, name)
        if not (folder / "predictions").is_dir():
            classes = [names[number] for number in context.class_numbers(model)]
            rows = len(tables.labelled_rows(context).ids)
            yield Fit(name, model, folder, classes, _share(model, rows))
    if context.trains_retrieval and not context.path(RETRIEVAL, "embeddings").is_dir():
        classes, rows = retrieve.to_learn(context)
        folder = context.path(RETRIEVAL, "network")
        yield Fit(RETRIEVAL, context.config.retrieval.model, folder, classes, rows)


def _to_embed(context: Context) -> dict[Path, ConfigDict]:
    """Return the frozen networks without stored embeddings, by folder."""
    folders = {context.embeddings_of(m): m for m in context.models().values() if m.frozen.head}
    done = inputs_of.VECTORS + "/manifest.json"
    return {path: model for path, model in folders.items() if not (path / done).is_file()}


def _embedded(context: Context) -> int:
    """Return the bytes per image of embeddings still to be stored."""
    from hpa_jax.training import network

    models = _to_embed(context).values() if context.config.models else ()
    return sum(4 * _views(model) * network.embedding_size(model) for model in models)


def _views(model: ConfigDict) -> int:
    from hpa_jax.inference import views

    return views.make(model.views).count(model.image_size, model.image_size)


def _share(model: ConfigDict, rows: int) -> int:
    """Return the number of rows without the part that a model leaves out."""
    return round(rows * (1 - 1 / model.left_out[1])) if model.left_out else rows


def _networks(context: Context) -> Iterator[tuple[ConfigDict, int]]:
    """Yield every model and its number of networks without predictions; needs no table."""
    for name, model in context.models().items() if context.config.models else ():
        folders = [context.fit_folder(name, fold) for fold in context.folds()]
        folders += [tables.refitted(context, name)] if context.config.refit else []
        yield model, sum(not (folder / "predictions").is_dir() for folder in folders)
    if context.trains_retrieval:
        yield context.config.retrieval.model, 1


def _images(context: Context) -> int:
    """Return the number of images; of synthetic ones it is known before the catalog exists."""
    synthetic = context.config.data.synthetic
    if context.draws:
        return synthetic.train + synthetic.test + synthetic.external
    return len(artifacts.read_table(context.path("catalog.parquet")))


def _operations(model: ConfigDict, num_classes: int) -> float:
    """Return the floating-point operations of a forward pass of one image, as XLA counts."""
    import jax
    from flax import nnx

    from hpa_jax.training import augment, network

    graph, state = nnx.split(network.from_config(model, num_classes, arrays=False))
    side = augment.output_size(model.augment) or model.image_size
    shape = (1, side, side, len(model.channels))
    image = jax.ShapeDtypeStruct(shape, np.float32)

    def forward(state: nnx.State, image: jax.Array) -> jax.Array:
        network_ = nnx.merge(graph, state)
        network_.eval()
        return network_(image)

    return jax.jit(forward).lower(state, image).cost_analysis()["flops"]


def _operations_per_second(side: int = 1500, repeats: int = 5) -> float:
    """Measure one matrix product after a first call that compiles."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    matrix = jnp.ones((side, side))
    product(matrix, matrix).block_until_ready()
    start = time.perf_counter()
    for _ in range(repeats):
        product(matrix, matrix).block_until_ready()
    return repeats * 2 * side**3 / (time.perf_counter() - start)


def _parameters(model: ConfigDict, num_classes: int) -> int:
    import jax

    from hpa_jax.training import network

    trained = network.trained_from_config(model, num_classes, arrays=False)
    params, _ = network.shapes(trained)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
