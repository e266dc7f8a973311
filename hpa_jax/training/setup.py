"""Everything a training needs before its first step: checks, network, stages, compiled steps.

In: the model config and the data.  Out: `Setup`, from which the loop takes states and functions.
What is wrong with the input is said here, before anything is computed.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.training import (
    augment,
    checkpoint,
    device_memory,
    distributed,
    losses,
    network,
    optimizer,
    plans,
    sampling,
)
from hpa_jax.training import (
    phases as stages,
)
from hpa_jax.training import step as steps
from hpa_jax.training.distributed import Layout
from hpa_jax.training.labels import Labels, content, frequencies
from hpa_jax.training.phases import Stage
from hpa_jax.training.preemption import Preemption


@dataclass(frozen=True)
class Data:
    """Packed images and the rows of both parts; labels uint8 [N, C]; weights [N] or None."""

    records: Any
    train_ids: np.ndarray
    train_labels: Labels
    valid_ids: np.ndarray
    valid_labels: Labels
    weights: np.ndarray | None = None

    def fingerprint(self) -> str:
        """Changes with any id, label or weight."""
        digest = hashlib.sha256()
        for ids, labels in (
            (self.train_ids, self.train_labels),
            (self.valid_ids, self.valid_labels),
        ):
            digest.update("\n".join(map(str, ids)).encode())
            digest.update(content(labels))
        if self.weights is not None:
            digest.update(np.ascontiguousarray(self.weights, np.float64).tobytes())
        return digest.hexdigest()[:16]


@dataclass
class Setup:
    """One training, checked and ready; `model` holds the graph, its arrays live in the state."""

    config: ConfigDict
    settings: ConfigDict
    layout: Layout
    data: Data
    class_names: tuple[str, ...]
    seed: int
    model: nnx.Module
    params: dict[str, Any]
    stats: dict[str, Any]
    stages: list[Stage]
    normalize: Callable[[jax.Array], jax.Array]
    dropout: list[float]
    average: dict[str, Any]
    init_folder: Path | None = None
    loaded: dict[str, Any] = field(default_factory=dict)  # what `initial` took from where
    _compiled: dict[Any, Any] = field(default_factory=dict)

    def transformation(self, stage: Stage) -> Any:
        """The optimizer of a stage."""
        return optimizer.build(stage.plan, self.config.optimizer.to_dict(), list(self.stats))

    def state(self, stage: Stage, params: Any, stats: Any, step: int) -> steps.TrainState:
        """A state at the start of a stage: new optimizer, empty totals; arrays or shapes."""
        trained = {name: params[name] for name in stage.plan.trainable}
        kept = {} if self.average["kind"] not in ("ema", "swa") else params
        state = steps.TrainState(
            step=jnp.asarray(step, jnp.int32),
            params=params,
            stats=stats,
            optimizer=self.transformation(stage).init(trained),
            average=jax.tree.map(jnp.copy, kept),
            totals=steps.zero_totals(),
        )
        return state

    def template(self, stage: Stage) -> steps.TrainState:
        """Shapes, dtypes and shardings of a state of this stage."""
        shapes = jax.eval_shape(lambda p, s: self.state(stage, p, s, 0), self.params, self.stats)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.layout.whole), shapes
        )

    def step_function(self, stage: Stage) -> Any:
        """The step of a stage, not yet compiled; its arguments are `step_shapes`."""
        dropout = stage.options.dropout
        step = steps.make_train_step(
            network.skeleton(
                self.model,
                train=True,
                still_norms=stage.plan.still_norms,
                dropout=self.dropout if dropout is None else dropout,
                per_device_norms=self.settings.batch_norm == "per_device",
            ),
            stage.plan,
            self.transformation(stage),
            losses.from_config(stage.loss),
            normalize=self.normalize,
            augment=plans.augmentation(stage.augment, self.config.channels),
            accumulate=self.config.accumulate,
            accumulate_sum=self.config.accumulate_sum,
            on_nonfinite=self.settings.on_nonfinite,
            ema=self.average["decay"] if self.average["kind"] == "ema" else 0.0,
            aux_weight=self.config.aux_weight,
            shard=self.layout.micro,
        )
        return self.layout.traced(step)

    def step_shapes(self, stage: Stage) -> tuple:
        """Shapes of the step's arguments: state, batch, seed, rates."""
        rates = steps.Rates(*stage.rates(stage.start))
        return self.template(stage), self.batch_shapes(stage.batch_size), np.uint32(0), rates

    def train_step(self, stage: Stage, preemption: Preemption, say: Callable[[str], None]) -> Any:
        """The compiled step of a stage; stages that differ in rates alone share it."""
        dropout = stage.options.dropout
        key = (stage.plan.key, repr(stage.loss), repr(stage.augment), dropout, stage.batch_size)
        if key not in self._compiled:
            whole, rows = self.layout.whole, self.layout.rows
            jitted = jax.jit(
                self.step_function(stage),
                donate_argnums=0,
                in_shardings=(whole, rows, whole, whole),
                out_shardings=(whole, whole),
            )
            name = f"training step of stage {stage.index + 1} of {len(self.stages)}"
            self._compiled[key] = compiled(
                jitted, self.step_shapes(stage), name, preemption, say, self.settings.deterministic
            )
        return self._compiled[key]

    def eval_step(self, preemption: Preemption, say: Callable[[str], None]) -> Any:
        """The compiled evaluation step, with the model's own loss."""
        if "eval" not in self._compiled:
            step = steps.make_eval_step(
                network.skeleton(self.model, train=False),
                losses.from_config(stages.plain(self.config.loss)),
                normalize=self.normalize,
                output_size=self.output_size,
            )
            whole, rows = self.layout.whole, self.layout.rows
            step = self.layout.traced(step)
            jitted = jax.jit(step, in_shardings=(whole, whole, rows), out_shardings=(rows, whole))
            shapes = self.template(self.stages[0])
            arguments = (shapes.params, shapes.stats, self.batch_shapes(self.eval_batch_size))
            self._compiled["eval"] = compiled(
                jitted, arguments, "evaluation step", preemption, say, self.settings.deterministic
            )
        return self._compiled["eval"]

    @property
    def output_size(self) -> int:
        """Side of what the network sees by the model's augmentation; 0: that of the images."""
        return augment.output_size(stages.plain(self.config.augment))

    @property
    def eval_batch_size(self) -> int:
        """The batch of evaluation: one size for all stages, a multiple of the devices."""
        devices = self.layout.mesh.size
        size = self.config.batch_size // self.config.accumulate
        return -(-size // devices) * devices

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global batch on the devices."""
        side, channels = self.config.image_size, len(self.config.channels)
        shapes = {
            "image": ((batch_size, side, side, channels), jnp.uint8),
            "label": ((batch_size, len(self.class_names)), jnp.uint8),
            "mask": ((batch_size,), jnp.bool_),
        }
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=self.layout.rows)
            for name, (shape, dtype) in shapes.items()
        }

    def train_batches(self, stage: Stage, start: int) -> Iterator[Mapping[str, np.ndarray]]:
        """Host batches of a stage from its local step `start` on."""
        from hpa_jax.data import batches as inputs

        return inputs.train_batches(
            self.data.records,
            self.data.train_ids,
            self.data.train_labels,
            batch_size=stage.batch_size,
            sampler=self.sampler(stage),
            start=start,
            **self._input_options(),
        )

    def eval_batches(self, ids: Sequence[str], labels: Labels) -> Iterator[Any]:
        """Host batches of every row once, the last one padded."""
        from hpa_jax.data import batches as inputs

        return inputs.eval_batches(
            self.data.records, ids, labels, batch_size=self.eval_batch_size, **self._input_options()
        )

    def sampler(self, stage: Stage) -> sampling.Sampler:
        """Rows of the stage's local epoch 0, 1, ..."""
        drawn = sampling.build(
            self.config.sampling,
            self.data.train_labels,
            seed=self.seed,
            weights=self.data.weights,
        )
        return lambda epoch: drawn(stage.first_epoch + epoch)

    def rows_of(self, stage: Stage, step: int) -> np.ndarray:
        """Rows of the training part in the batch of a step, for messages."""
        from hpa_jax.data import batches as inputs

        local = step - stage.start
        return next(inputs.positions(self.sampler(stage), stage.batch_size, local))

    def _input_options(self) -> dict[str, Any]:
        return dict(
            channels=tuple(self.config.channels),
            image_size=self.config.image_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.settings.workers or distributed.cores(),
            prefetch=self.settings.prefetch,
        )


def build(
    config: ConfigDict,
    settings: ConfigDict,
    layout: Layout,
    data: Data,
    class_names: Sequence[str],
    seed: int,
    init_folder: Path | None = None,
) -> Setup:
    """Checks everything and lays out the training; makes no arrays yet.

    Raises:
        InputError: naming the key and the value.
    """
    from hpa_jax.models.normalization import normalizer

    check(data, class_names)
    seed = int(np.random.SeedSequence([seed, config.seed]).generate_state(1)[0])
    drawn = plans.outline(config, len(class_names), seed)
    laid = plans.lay(
        config,
        settings,
        drawn,
        classes=len(class_names),
        count=len(data.train_ids),
        seed=seed,
        devices=layout.mesh.size,
    )
    sampling.build(config.sampling, data.train_labels, seed=seed, weights=data.weights)
    return Setup(
        config=config,
        settings=settings,
        layout=layout,
        data=data,
        class_names=tuple(class_names),
        seed=seed,
        model=drawn.model,
        params=drawn.params,
        stats=drawn.stats,
        stages=laid,
        normalize=normalizer(config.normalize, tuple(config.channels)),
        dropout=drawn.dropout,
        average=plans.average_options(config),
        init_folder=init_folder,
    )


def check(data: Data, class_names: Sequence[str]) -> None:
    """Refuses empty parts, and labels of another shape than ids and classes.

    Raises:
        InputError: names the part.
    """
    for part, ids, labels in (
        ("training", data.train_ids, data.train_labels),
        ("validation", data.valid_ids, data.valid_labels),
    ):
        if len(ids) == 0:
            raise InputError(f"the {part} part is empty; see the split")
        if labels.shape != (len(ids), len(class_names)):
            raise InputError(
                f"{part}: labels of shape {labels.shape} for {len(ids)} images and "
                f"{len(class_names)} classes"
            )


def compiled(
    jitted: Any,
    arguments: tuple,
    name: str,
    preemption: Preemption,
    say: Callable[[str], None],
    deterministic: bool = False,
) -> Any:
    """The compiled function; tells what it waits for and how long it took.

    deterministic: `train.deterministic`.

    Raises:
        InputError: it needs more memory than a device has.
    """
    start = time.perf_counter()
    options = distributed.compiler_options(deterministic)
    program = preemption.compiled(jitted.lower(*arguments), options)
    device_memory.check(program, name)
    say(f"{name} compiled in {time.perf_counter() - start:.1f} s")
    return program


def initial(setup: Setup) -> tuple[network.Arrays, network.Arrays]:
    """Parameters and statistics to start from: the seed's, then those of `init_from` over them.

    `setup.loaded` then tells what was taken and what was not, by name.

    Raises:
        InputError: `init_from` cannot be read or belongs to another architecture.
    """
    model = network.from_config(setup.config, len(setup.class_names), seed=setup.seed)
    if setup.config.head_init == "prior":  # first: published weights may bring a head of their own
        network.start_at_frequencies(model, frequencies(setup.data.train_labels))
    source = setup.init_folder or setup.config.init_from
    if source and is_training(source):
        params, stats, class_names = _weights_of(Path(source).expanduser())
        same = class_names == setup.class_names
        left = network.take_over(model, params, stats, head=same)
        setup.loaded = {"from": str(source), "missing": left}
    elif source:
        from hpa_jax.models import pretrained

        report = pretrained.load(model, source, setup.config.extra_channels)
        setup.loaded = {"from": str(source), **dataclasses.asdict(report)}
    _, params, stats = network.split(model)
    return params, stats


def is_training(folder: str | Path) -> bool:
    """Whether a folder is one that `loop.train` wrote."""
    return (Path(folder).expanduser() / "checkpoints").is_dir()


def _weights_of(folder: Path) -> tuple[network.Arrays, network.Arrays, tuple[str, ...]]:
    model, _, class_names = checkpoint.load(folder, "final")
    _, params, stats = network.split(model)
    return params, stats, class_names
