"""Set-up of a training: checks, network, phases, compiled steps.

In: the model config and the examples.  Out: `Setup`, the source of states, programs and batches for
the loop.  All inputs are checked here, before anything is computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.models.frozen import attention_over_views
from hpa_jax.training import augment, checkpoint, distributed, losses, network, optimizer
from hpa_jax.training import examples as rows
from hpa_jax.training import phases as planning
from hpa_jax.training import step as steps
from hpa_jax.training.compilation import Compiler
from hpa_jax.training.distributed import MeshLayout
from hpa_jax.training.examples import Examples, Labels
from hpa_jax.training.phases import Phase

Batches = Generator[dict[str, np.ndarray], None, None]


@dataclass
class Setup:
    """A checked training; `outline` holds the graph, the arrays are in the state."""

    config: ConfigDict
    settings: ConfigDict
    layout: MeshLayout
    examples: Examples
    class_names: tuple[str, ...]
    seed: int
    outline: network.Outline
    phases: list[Phase]
    normalize: Callable[[jax.Array], jax.Array]
    average: dict[str, Any]
    init_from: str | Path
    _programs: dict[Any, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Total number of epochs of all phases."""
        return sum(len(phase.epoch_ends) for phase in self.phases)

    @functools.cached_property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of parameters and statistics, by name."""
        return {**self.outline.params, **self.outline.stats}

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Properties that must not change between restarts of a run."""
        # init_from: its weights are in every checkpoint, so its path does not matter
        left_out = (*configs.OF_PREDICTION, "init_from")
        config = planning.plain(self.config)
        return {
            "classes": list(self.class_names),
            "data": self.examples.fingerprint(),
            "seeds": self.seed,  # combined seed of run and model
            **{key: value for key, value in config.items() if key not in left_out},
        }

    # --- states -------------------------------------------------------------------------------

    def transformation(self, phase: Phase) -> Any:
        """Return the optimizer of a phase."""
        options = self.config.optimizer.to_dict()
        return optimizer.build(phase.plan, options, list(self.outline.stats))

    def state(self, phase: Phase, params: Any, stats: Any, step: int) -> steps.TrainState:
        """Return a state at the start of a phase: new optimizer, empty totals; arrays or shapes."""
        kept = params if self.average["kind"] in ("ema", "swa") else {}
        trained = {name: params[name] for name in phase.plan.trainable}
        return steps.TrainState(
            step=jnp.asarray(step, jnp.int32),
            params=params,
            stats=stats,
            optimizer=self.transformation(phase).init(trained),
            average=jax.tree.map(jnp.copy, kept),
            totals=steps.zero_totals(),
        )

    def template(self, phase: Phase) -> steps.TrainState:
        """Return shapes, dtypes and shardings of a state of this phase."""
        shapes = jax.eval_shape(
            lambda p, s: self.state(phase, p, s, 0), self.outline.params, self.outline.stats
        )
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.layout.replicated),
            shapes,
        )

    # --- programs -----------------------------------------------------------------------------

    def jitted_step(self, phase: Phase) -> Any:
        """Return the step of a phase, not yet compiled; its arguments are `step_shapes`."""
        dropout = phase.options.dropout
        step = steps.make_train_step(
            network.skeleton(
                self.outline.model,
                train=True,
                still_norms=phase.plan.still_norms,
                dropout=self.outline.dropout if dropout is None else dropout,
                per_device_norms=self.settings.batch_norm == "per_device",
            ),
            phase.plan,
            self.transformation(phase),
            losses.from_config(phase.loss),
            normalize=self.normalize,
            augment=self._augmentation(phase),
            accumulate=self.config.accumulate,
            accumulate_sum=self.config.accumulate_sum,
            on_nonfinite=self.settings.on_nonfinite,
            ema=self.average["decay"] if self.average["kind"] == "ema" else 0.0,
            aux_weight=self.config.aux_weight,
            shard=self.layout.shard_micro,
        )
        whole = self.layout.replicated
        return jax.jit(
            distributed.in_mesh(self.layout.mesh, step),
            donate_argnums=0,
            in_shardings=(whole, self.layout.rows, whole, whole),
            out_shardings=(whole, whole),
        )

    def step_shapes(self, phase: Phase) -> tuple:
        """Return shapes of the step's arguments: state, batch, seed, rates."""
        batch = self.batch_shapes(phase.batch_size)
        return self.template(phase), batch, np.uint32(0), phase.rates(phase.start)

    def train_step(self, phase: Phase, compile: Compiler) -> Any:
        """Return the compiled step of a phase, shared by phases that differ only in rates."""
        dropout = phase.options.dropout
        key = (phase.plan.key, repr(phase.loss), repr(phase.augment), dropout, phase.batch_size)
        if key not in self._programs:
            name = f"training step of phase {phase.index + 1} of {len(self.phases)}"
            self._programs[key] = compile(self.jitted_step(phase), self.step_shapes(phase), name)
        return self._programs[key]

    def eval_step(self, compile: Compiler) -> Any:
        """Return the compiled evaluation step, with the model's loss."""
        if "eval" not in self._programs:
            step = steps.make_eval_step(
                network.skeleton(self.outline.model, train=False),
                losses.from_config(planning.plain(self.config.loss)),
                normalize=self.normalize,
                output_size=self.output_size,
            )
            whole, over_rows = self.layout.replicated, self.layout.rows
            jitted = jax.jit(
                distributed.in_mesh(self.layout.mesh, step),
                in_shardings=(whole, whole, over_rows),
                out_shardings=(over_rows, whole),
            )
            shapes = self.template(self.phases[0])
            arguments = (shapes.params, shapes.stats, self.batch_shapes(self.eval_batch_size))
            self._programs["eval"] = compile(jitted, arguments, "evaluation step")
        return self._programs["eval"]

    @property
    def output_size(self) -> int:
        """Side of the network's input by the model's augmentation; 0: that of the images."""
        return augment.output_size(planning.plain(self.config.augment))

    def _augmentation(self, phase: planning.Phase) -> steps.Augmentation | None:
        """Return the augmentation of a phase: of stored views a random one, or all of them."""
        if not self.config.frozen.head:
            return planning.augmentation(phase.augment, self.config.channels)
        return None if attention_over_views(self.outline.model) else augment.random_view

    @property
    def eval_batch_size(self) -> int:
        """The batch of evaluation: one size for all phases, a multiple of the devices."""
        devices = self.layout.mesh.size
        size = self.config.batch_size // self.config.accumulate
        return -(-size // devices) * devices

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shapes of a global batch on the devices."""
        side = self.config.image_size
        image: tuple[tuple[int, ...], Any] = (side, side, len(self.config.channels)), jnp.uint8
        if self.config.frozen.head:
            stored = self.examples.records  # None: only planning a training
            network: Any = self.outline.model
            alone = (1, 1, network.in_channels)
            image = alone if stored is None else stored.shape, jnp.float32
        shapes = {
            "image": ((batch_size, *image[0]), image[1]),
            "label": ((batch_size, len(self.class_names)), jnp.uint8),
            "mask": ((batch_size,), jnp.bool_),
        }
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=self.layout.rows)
            for name, (shape, dtype) in shapes.items()
        }

    # --- batches ------------------------------------------------------------------------------

    def train_batches(self, phase: Phase, step: int) -> Batches:
        """Return the host batches of a phase, starting at a step of the training."""
        from hpa_jax.data import batches

        return batches.train_batches(
            self.examples.records,
            self.examples.train_ids,
            self.examples.train_labels,
            batch_size=phase.batch_size,
            sampler=self.sampler(phase),
            start=step - phase.start,
            **self._input_options(),
        )

    def eval_batches(self, ids: Sequence[str] | np.ndarray, labels: Labels) -> Batches:
        """Return host batches of every row once, the last one padded."""
        from hpa_jax.data import batches

        return batches.eval_batches(
            self.examples.records,
            ids,
            labels,
            batch_size=self.eval_batch_size,
            **self._input_options(),
        )

    def sampler(self, phase: Phase) -> rows.Sampler:
        """Return the sampler of a phase, whose epochs count from its start: 0, 1, ..."""
        sampler = rows.sampler(
            self.config.sampling,
            self.examples.train_labels,
            seed=self.seed,
            weights=self.examples.weights,
        )
        return lambda epoch: sampler(phase.first_epoch + epoch)

    def train_ids(self, phase: Phase, step: int) -> list[str]:
        """Return the ids in the batch of a step, for messages."""
        from hpa_jax.data import batches

        order = batches.positions(self.sampler(phase), phase.batch_size, step - phase.start)
        return [str(id) for id in self.examples.train_ids[next(order)]]

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
    layout: MeshLayout,
    examples: Examples,
    class_names: Sequence[str],
    seed: int,
    init_folder: Path | None = None,
) -> Setup:
    """Check all inputs and set up the training, without creating arrays.

    Arguments as `loop.train`; layout: `distributed.layout()`.

    Raises:
        InputError: names the key and the value.
    """
    from hpa_jax.models.normalization import normalizer

    examples.check(len(class_names))
    seed = int(np.random.SeedSequence([seed, config.seed]).generate_state(1)[0])
    outline = network.outline(config, len(class_names), seed)
    phases = planning.lay_out(
        config,
        settings,
        outline,
        classes=len(class_names),
        count=len(examples.train_ids),
        seed=seed,
        devices=layout.mesh.size,
    )
    rows.sampler(config.sampling, examples.train_labels, seed=seed, weights=examples.weights)
    return Setup(
        config=config,
        settings=settings,
        layout=layout,
        examples=examples,
        class_names=tuple(class_names),
        seed=seed,
        outline=outline,
        phases=phases,
        normalize=normalizer(
            "none" if config.frozen.head else config.normalize, tuple(config.channels)
        ),
        average=planning.average_options(config),
        init_from=init_folder or config.init_from,
    )


def initial(setup: Setup) -> tuple[network.Arrays, network.Arrays, dict[str, Any]]:
    """Return the initial (parameters, statistics, report).

    Initialised by the seed, then overwritten by those of `init_from`; the report lists the names
    that were and were not taken from there ({} without init_from).

    Raises:
        InputError: `init_from` is unreadable or belongs to another architecture.
    """
    config, classes = setup.config, len(setup.class_names)
    model = network.trained_from_config(config, classes, seed=setup.seed)
    if config.head_init == "prior":  # before init_from: published weights may include a head
        network.start_at_frequencies(model, rows.class_frequencies(setup.examples.train_labels))
    # A frozen network's weights are already in the stored embeddings; only the head is new.
    source, report = "" if config.frozen.head else setup.init_from, {}
    if source and is_training(source):
        trained, _, class_names = checkpoint.load(Path(source).expanduser(), "final")
        _, params, stats = network.split(trained)
        same = class_names == setup.class_names
        missing = network.take_over(model, params, stats, head=same)
        report = {"from": str(source), "missing": missing}
    elif source:
        from hpa_jax.models import pretrained

        taken = pretrained.load(model, source, setup.config.extra_channels)
        report = {"from": str(source), **dataclasses.asdict(taken)}
    _, params, stats = network.split(model)
    return params, stats, report


def is_training(folder: str | Path) -> bool:
    """Return whether `loop.train` wrote a folder."""
    return (Path(folder).expanduser() / "checkpoints").is_dir()
