"""What a run will need, before it starts: disk space, and minutes of training."""

import time
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.context import Context
from hpa_jax.stages import tables

# A training step costs about three forward passes; it reaches this share of the speed of one large
# float32 matrix product.  Measured on 2 CPU cores: .28 to .31 (the demo's networks, 64 px).
PASSES, SHARE = 3, 0.3


def bytes_needed(context: Context) -> int:
    """Rough upper bound of what a run writes: drawn pictures, records and checkpoints."""
    config = context.config
    pictures, total = _pictures(context), 0
    if context.draws:
        total += pictures * 4 * config.data.synthetic.image_size**2
    total += pictures * 4 * sum(side**2 for side in context.stored_sides())
    # parameters, two moments, in float32, for every checkpoint kept
    parameters = sum(
        fits * _parameters(model, len(context.class_numbers(model)))
        for model, fits in _networks(context)
    )
    return total + parameters * 12 * (config.train.keep + 1)


def training_seconds(context: Context) -> float:
    """Rough time of training, within a factor of two on a CPU: operations over the machine's speed.

    Compiling (half a minute a network on a laptop) and validation are left out.
    """
    speed = _operations_per_second() * SHARE
    operations = 0.0
    for model, fits in _networks(context):
        epochs = sum(stage.epochs for stage in model.stages)
        passes = epochs * _pictures(context) * fits * PASSES
        operations += passes * _operations(model, len(context.class_numbers(model)))
    return operations / speed


def measured_seconds(context: Context, say: Callable[[str], None]) -> float:
    """Time of training the recipe's networks, from a few measured steps of each; says each one's.

    Validation, prediction and metric learning are left out; what is compiled is used again.
    """
    from hpa_jax.training import trial

    total = 0.0
    for name, model in context.models().items():
        fits = _fits(context, name)
        if not fits:
            continue
        each = trial.seconds_per_picture(
            model,
            directory=context.fit_folder(name, context.folds()[0]),
            class_names=[context.config.classes[c] for c in context.class_numbers(model)],
            settings=context.config.train,
            say=lambda text, name=name: say(f"{name}: {text}"),
        )
        epochs = sum(stage.epochs for stage in model.stages)
        seconds = each * epochs * _pictures(context) * fits
        times = f" x {fits}" if fits > 1 else ""
        say(f"{name}: {1 / each:.1f} pictures/s, {epochs} epochs{times}: {seconds / 3600:.1f} h")
        total += seconds
    return total


def _networks(context: Context) -> list[tuple[ConfigDict, int]]:
    """Every network that a run trains, and how often; none where the recipe has no model yet."""
    models = context.models() if context.config.models else {}
    found = [(model, _fits(context, name)) for name, model in models.items()]
    retrieval = context.config.retrieval
    return found + ([] if retrieval.mode == "off" else [(retrieval.model, 1)])


def _fits(context: Context, name: str) -> int:
    """How many networks of a model are still to be trained: those without predictions."""
    folders = [context.fit_folder(name, fold) for fold in context.folds()]
    folders += [tables.refitted(context, name)] if context.config.refit else []
    return sum(not (folder / "predictions").is_dir() for folder in folders)


def _pictures(context: Context) -> int:
    """About how many pictures there are, before the catalog is made."""
    drawn = context.config.data.synthetic
    if context.draws:
        return drawn.train + drawn.test + drawn.external
    root = context.data_root
    folder = root / "train" if (root / "train").is_dir() else root
    return sum(1 for _ in folder.iterdir()) // 4 if folder.is_dir() else 0


def _operations(model: ConfigDict, num_classes: int) -> float:
    """Floating-point operations of one forward pass of one picture, by XLA's count."""
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
    """Measured on one matrix product after a first call that compiles."""
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

    params, _ = network.shapes(network.from_config(model, num_classes, arrays=False))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
