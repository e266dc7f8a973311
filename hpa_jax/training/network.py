"""A network as pure functions: a frozen skeleton and flat dictionaries of arrays.

In: an nnx.Module.  Out: `Skeleton` (graph, no arrays) and `{dotted name: array}` of parameters and
of BatchNorm statistics; `merge` puts them together inside a jitted function.  Names are the module
paths, "layer1.0.conv1.kernel"; checkpoints, optimizer and averages all speak them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.models import layers

Arrays = dict[str, jax.Array]


@dataclass(frozen=True)
class Skeleton:
    """The graph of a network in one mode (training or evaluation)."""

    graph: nnx.GraphDef
    params: nnx.State
    stats: nnx.State
    rest: nnx.State

    def merge(self, params: Mapping[str, Any], stats: Mapping[str, Any], key: Any) -> nnx.Module:
        """The module with these arrays; every random stream of it starts at its own fold of `key`.

        `key` None: a fixed key (evaluation draws nothing).
        """
        key = jax.random.key(0) if key is None else key
        return nnx.merge(
            self.graph,
            _filled(self.params, params),
            _filled(self.stats, stats),
            _reseeded(self.rest, key),
        )


def split(model: nnx.Module) -> tuple[Skeleton, Arrays, Arrays]:
    """(skeleton, parameters, statistics) of a module in its present mode."""
    bare = skeleton_of(model)
    return bare, named(nnx.state(model, nnx.Param)), named(nnx.state(model, nnx.BatchStat))


def skeleton_of(model: nnx.Module) -> Skeleton:
    """The skeleton of a module in its present mode; keeps no array alive."""
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    shapes_only = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state) for state in states
    ]
    return Skeleton(graph, *shapes_only)


def skeleton(
    model: nnx.Module,
    *,
    train: bool,
    still_norms: Sequence[str] = (),
    dropout: float | Sequence[float] | None = None,
    per_device_norms: bool = False,
) -> Skeleton:
    """The skeleton of a module in training or evaluation mode; sets the module to it.

    Args:
        model: any module whose layers follow nnx's `train()` and `eval()`.
        train: mode.
        still_norms: dotted paths of BatchNorms that use their stored statistics even in training.
        dropout: None, or a rate for all nnx.Dropout layers, or one rate for each in order.
        per_device_norms: BatchNorms in training take the statistics of each device's rows.

    Raises:
        InputError: another number of rates than the network has dropout layers, or a rate outside
            [0, 1).
    """
    if train:
        model.train()
    else:
        model.eval()
    if dropout is not None:
        _set_dropout(model, dropout)
    still = set(still_norms)
    for path, module in nnx.iter_modules(model):
        if train and ".".join(map(str, path)) in still:
            module.use_running_average = True
        if isinstance(module, layers.BatchNorm):
            module.per_device = per_device_norms
    return skeleton_of(model)


def dropout_rates(model: nnx.Module) -> list[float]:
    """Rates of the dropout layers, in the order of `nnx.iter_modules`."""
    return [module.rate for module in _dropouts(model)]


def from_config(
    config: ConfigDict, num_classes: int, *, seed: int = 0, arrays: bool = True
) -> nnx.Module:
    """The network a model config describes, with fresh weights.

    With `frozen.head` it is the frozen network with that head on its embedding.

    Args:
        config: `hpa_jax.config.model(...)`.
        num_classes: C.
        seed: of the fresh weights.
        arrays: False makes shapes only, at once (for a checkpoint to fill).
    """
    if config.frozen.head:
        return _on_embedding(config, num_classes, seed, arrays, alone=False)
    from hpa_jax.models import create

    def make() -> nnx.Module:
        return create(
            config.backbone,
            num_classes=num_classes,
            in_channels=len(config.channels),
            head=config.head,
            dropout=config.dropout,
            width=config.width,
            depth=config.depth,
            large_stem=config.large_stem,
            as_run=config.as_run,
            remat=config.remat,
            dtype=compute_dtype(config.dtype),
            rngs=nnx.Rngs(seed),
            backbone_options=config.backbone_options.to_dict(),
            **config.head_options.to_dict(),
        )

    return make() if arrays else nnx.eval_shape(make)


def trained_from_config(
    config: ConfigDict, num_classes: int, *, seed: int = 0, arrays: bool = True
) -> nnx.Module:
    """What is trained of a model config's network: all of it, arguments as `from_config`; with
    `frozen.head` that head alone, which reads stored embeddings [N, V, M, E]."""
    if config.frozen.head:
        return _on_embedding(config, num_classes, seed, arrays, alone=True)
    return from_config(config, num_classes, seed=seed, arrays=arrays)


def frozen_part(config: ConfigDict) -> ConfigDict:
    """The config of the frozen network under a model's `frozen.head`."""
    part = config.copy_and_resolve_references().unlock()
    part.frozen.head = ""
    return part.lock()


def embedding_size(config: ConfigDict) -> int:
    """Return E of the frozen network's embedding [N, E], from shapes alone."""
    model = from_config(frozen_part(config), 1, arrays=False)
    model.eval()
    graph, state = nnx.split(model)

    def embed(state: nnx.State, image: jax.Array) -> jax.Array:
        frozen: Any = nnx.merge(graph, state)
        return frozen.embed(image)[1]

    shape = (1, config.image_size, config.image_size, len(config.channels))
    return jax.eval_shape(embed, state, jax.ShapeDtypeStruct(shape, jnp.float32)).shape[1]


def _on_embedding(
    config: ConfigDict, num_classes: int, seed: int, arrays: bool, *, alone: bool
) -> nnx.Module:
    """The head of `frozen.head`, on the frozen network or alone."""
    from hpa_jax.models.frozen import OnEmbedding, Stored
    from hpa_jax.models.heads import create_head

    size, settings = embedding_size(config), config.frozen
    options = {"hidden": settings.hidden} if settings.head == "mlp" else {}

    def make() -> nnx.Module:
        rngs = nnx.Rngs(seed)
        head = create_head(
            settings.head, size, num_classes, dropout=config.dropout, rngs=rngs, **options
        )
        if alone:
            return Stored(size, head)
        model: Any = from_config(frozen_part(config), 1)
        model.head = OnEmbedding(model.head, head)
        return model

    return make() if arrays else nnx.eval_shape(make)


@dataclass(frozen=True)
class Outline:
    """A network without arrays: shapes by name, depth groups, rates of its dropout layers."""

    model: nnx.Module
    params: dict[str, jax.ShapeDtypeStruct]
    stats: dict[str, jax.ShapeDtypeStruct]
    groups: list[list[str]]
    dropout: list[float]


def outline(config: ConfigDict, num_classes: int, seed: int = 0) -> Outline:
    """Return the outline of the network that a model config trains."""
    model = trained_from_config(config, num_classes, seed=seed, arrays=False)
    params, stats = shapes(model)
    return Outline(
        model, params, stats, depth_groups(model, config.depth_groups), dropout_rates(model)
    )


# The options that an outline depends on.
_OF_OUTLINE = (
    *("backbone", "channels", "head", "dropout", "width", "depth", "large_stem", "as_run", "remat"),
    *("dtype", "head_options", "backbone_options", "depth_groups", "image_size", "frozen"),
)


def outline_key(config: ConfigDict, num_classes: int) -> str:
    """Return a text that is equal for configs of the same outline."""
    return repr([num_classes, *(artifacts.plain(config[name]) for name in _OF_OUTLINE)])


def start_at_frequencies(model: nnx.Module, frequencies: np.ndarray) -> None:
    """Sets the last dense layer so that the fresh network predicts each class' frequency.

    bias = log(p / (1 - p)), weights 0 (Lin et al. 2017, 1708.02002, section 4.1, where they are
    small).  A small network trained for minutes then wastes no epochs on unlearning its start: on
    the demo's data mean average precision after 14 epochs is .52 instead of .35.

    frequencies: float[C] in [0, 1]; kept within [1e-3, 1 - 1e-3].

    Raises:
        InputError: the head does not end in a dense layer with a bias.
    """
    last = getattr(model.head, "fc", None)
    if getattr(last, "bias", None) is None:
        raise InputError("head_init='prior': needs a head that ends in a dense layer with a bias")
    p = np.clip(frequencies, 1e-3, 1 - 1e-3)
    last.bias[...] = jnp.asarray(np.log(p / (1 - p)), jnp.float32)
    last.kernel[...] = jnp.zeros_like(last.kernel[...])


def compute_dtype(name: str) -> Any:
    """bfloat16 or float32; "auto" is bfloat16 on GPU and TPU, float32 on CPU.

    Raises:
        InputError: another name.
    """
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    if name not in dtypes:
        raise InputError(f"dtype: unknown {name!r}; known: auto, {', '.join(dtypes)}")
    return dtypes[name]


def shapes(model: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """({name: shape and dtype} of parameters, of statistics); the module may hold no arrays."""
    return tuple(
        {".".join(map(str, path)): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
         for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}
        for kind in (nnx.Param, nnx.BatchStat)
    )  # fmt: skip


def named(state: nnx.State) -> Arrays:
    """{dotted name: array} of a State."""
    return {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}


def assign(model: nnx.Module, params: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
    """Writes arrays into a module, by name.

    Raises:
        InputError: a name or shape that the module lacks, or one that is missing.
    """
    own_params, own_stats = shapes(model)
    check_same({**params, **stats}, {**own_params, **own_stats})
    _, own, statistics, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    nnx.update(model, _filled(own, params))
    nnx.update(model, _filled(statistics, stats))
    nnx.update(model, _reseeded(rest, jax.random.key(0)))  # a module of shapes has no keys yet


def take_over(
    model: nnx.Module, params: Mapping[str, Any], stats: Mapping[str, Any], head: bool = True
) -> list[str]:
    """Writes the arrays that fit into a module whose head may differ; returns the names left out.

    head: whether the head is taken too, as far as it fits; False where its classes are others.

    Raises:
        InputError: an array outside the last depth group's modules that is missing or does not fit.
    """
    own = {**shapes(model)[0], **shapes(model)[1]}
    given = {**params, **stats}
    heads = {prefix.split(".")[0] for prefix in map(_dotted, depth_groups(model)[-1])}
    if not head:
        given = {name: x for name, x in given.items() if name.split(".")[0] not in heads}
    fits = {name for name, x in own.items() if name in given and given[name].shape == x.shape}
    left = [name for name in own if name not in fits]
    for name in left:
        if name.split(".")[0] not in heads:
            check_same({k: given[k] for k in [name] if k in given}, {name: own[name]}, "init_from")
    now_params = named(nnx.state(model, nnx.Param))
    now_stats = named(nnx.state(model, nnx.BatchStat))
    assign(
        model,
        {n: given[n] if n in fits else x for n, x in now_params.items()},
        {n: given[n] if n in fits else x for n, x in now_stats.items()},
    )
    return left


def check_same(given: Mapping[str, Any], own: Mapping[str, Any], where: str = "weights") -> None:
    """Refuses arrays of another architecture, naming the first difference.

    Raises:
        InputError: an array is missing, of another shape, or one too many.
    """
    for name in own:
        if name not in given:
            raise InputError(f"{where}: {name} is missing; they belong to another architecture")
        if tuple(given[name].shape) != tuple(own[name].shape):
            raise InputError(
                f"{where}: {name} is {tuple(given[name].shape)}, the network has "
                f"{tuple(own[name].shape)}; they belong to another architecture"
            )
    extra = [name for name in given if name not in own]
    if extra:
        raise InputError(f"{where}: the network has no {extra[0]}; another architecture")


def depth_groups(model: nnx.Module, cuts: int | Sequence[int] | None = None) -> list[list[str]]:
    """The module's own depth groups, stem first; a module without them is one group a child."""
    if hasattr(model, "depth_groups"):
        return [list(group) for group in model.depth_groups(cuts)]
    children: dict[str, None] = {}
    for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        children.setdefault(str(path[0]))
    return [[name] for name in children]


def _dotted(prefix: Any) -> str:
    return prefix.replace("/", ".") if isinstance(prefix, str) else ".".join(map(str, prefix))


def _filled(state: nnx.State, arrays: Mapping[str, Any]) -> nnx.State:
    flat = [
        (path, leaf.replace(arrays[".".join(map(str, path))]))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(flat)


def _reseeded(rest: nnx.State, key: jax.Array) -> nnx.State:
    flat = []
    for number, (path, leaf) in enumerate(nnx.to_flat_state(rest)):
        if isinstance(leaf, nnx.RngKey):
            keys = jax.random.fold_in(key, number)
            leaf = leaf.replace(keys if leaf.shape == () else jax.random.split(keys, leaf.shape))
        elif isinstance(leaf, nnx.RngCount):
            leaf = leaf.replace(jnp.zeros(leaf.shape, jnp.uint32))
        flat.append((path, leaf))
    return nnx.from_flat_state(flat)


def _dropouts(model: nnx.Module) -> list[nnx.Dropout]:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.Dropout)]


def _set_dropout(model: nnx.Module, dropout: float | Sequence[float]) -> None:
    layers = _dropouts(model)
    for layer, rate in zip(layers, rates_for(dropout, len(layers)), strict=True):
        layer.rate = rate


def rates_for(dropout: float | Sequence[float], count: int) -> list[float]:
    """One rate for each of `count` dropout layers.

    Raises:
        InputError: another number of rates, or one outside [0, 1).
    """
    rates = [dropout] * count if isinstance(dropout, int | float) else list(dropout)
    if len(rates) != count:
        raise InputError(
            f"dropout: {len(rates)} rates {rates}, but the network has {count} dropout layer"
            f"{'' if count == 1 else 's'}"
        )
    for rate in rates:
        if not 0 <= rate < 1:
            raise InputError(f"dropout: a rate must lie in [0, 1), not {rate}")
    return [float(rate) for rate in rates]
