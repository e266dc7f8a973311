"""The optimizer of a phase: trainable parameters, their rates and weight decay.

In: the names of parameters and statistics (dotted paths, as "layer1.0.conv1.kernel"), the depth
groups of the network and a phase's options.  Out: a `Plan` (trainable names, depth group of each)
and one optax transformation for the trainable parameters only, so that frozen ones have no state.

The rates are not part of the transformation: the step sets `lr` ([G], one per depth group) and `b1`
in the state of `optax.inject_hyperparams` before each update.  One compiled step then serves every
schedule; with `optax.partition` each group would need an Adam and each schedule a compilation.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from hpa_jax.core.errors import InputError, near

DEFAULTS: dict[str, Any] = dict(
    name="adam",  # adam | adamw | sgd
    b1=0.9,
    b2=0.99,
    eps=1e-8,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0,
    decay_norm_and_bias=False,
    clip_norm=0.0,
)
NAMES = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class Plan:
    """The parameters trained in a phase.

    trainable: names with gradients; still_norms: prefixes of modules whose BatchNorm uses stored
    statistics; group_of: depth group of every parameter; groups: their number.
    """

    trainable: tuple[str, ...]
    still_norms: tuple[str, ...]
    group_of: Mapping[str, int]
    groups: int

    @property
    def key(self) -> tuple:
        """The part that a compiled step depends on."""
        groups = tuple(self.group_of[name] for name in self.trainable)
        return self.trainable, self.still_norms, groups, self.groups


def plan(
    params: Sequence[str],
    stats: Sequence[str],
    depth_groups: Sequence[Sequence[str]],
    *,
    freeze: str | int = "none",
    freeze_bn: bool = False,
) -> Plan:
    """Return the plan of the parameters that train under `freeze`.

    Args:
        params: dotted names of all parameters.
        stats: dotted names of all BatchNorm statistics.
        depth_groups: path prefixes of each depth group, stem first, head modules last.
        freeze: none; backbone (all groups except the last, as fastai's freeze); a number n freezes
            the first n groups.
        freeze_bn: False (fastai, One More Layer): scale, bias and statistics of BatchNorm in frozen
            groups keep training, which needs the full backward pass.  True: they are frozen, too,
            without a backward pass through frozen groups.

    Raises:
        InputError: an unknown freeze, or nothing left to train.
    """
    group_of = assign(params, depth_groups)
    frozen_groups = _frozen(freeze, len(depth_groups))
    norms = {name.rpartition(".")[0] for name in stats}
    frozen = [name for name in params if group_of[name] < frozen_groups]
    trainable = tuple(
        name
        for name in params
        if group_of[name] >= frozen_groups or (not freeze_bn and name.rpartition(".")[0] in norms)
    )
    still = sorted({name.rpartition(".")[0] for name in frozen} & norms) if freeze_bn else []
    return Plan(trainable, tuple(still), group_of, len(depth_groups))


def assign(params: Sequence[str], depth_groups: Sequence[Sequence[Any]]) -> dict[str, int]:
    """Return the depth group of every parameter, by longest matching prefix.

    Raises:
        InputError: a parameter without a group.
    """
    prefixes = [
        (_dotted(prefix), number) for number, group in enumerate(depth_groups) for prefix in group
    ]
    prefixes.sort(key=lambda item: -len(item[0]))
    group_of = {}
    for name in params:
        for prefix, number in prefixes:
            if name == prefix or name.startswith(prefix + "."):
                group_of[name] = number
                break
        else:
            raise InputError(f"parameter {name} belongs to no depth group of the network")
    return group_of


def build(
    plan: Plan, options: Mapping[str, Any], stats: Sequence[str]
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation of {name: gradient} of `plan.trainable` to additive updates.

    `init(params)` returns a state whose `.hyperparams` holds `lr` ([G] float32) and `b1` (Adam's,
    or the momentum of sgd); `set_rates` fills them.  Decoupled decay (adamw) is w <- w (1 - lr
    weight_decay), with the rate of the parameter's group; `adam` and `sgd` add weight_decay * w to
    the gradient, as torch does.

    Raises:
        InputError: an unknown optimizer or option, or a value out of range.
    """
    options = checked(options)
    index = {name: plan.group_of[name] for name in plan.trainable}
    norms = {name.rpartition(".")[0] for name in stats}
    everything = options["decay_norm_and_bias"]
    decayed = {name: everything or is_decayed(name, norms) for name in plan.trainable}

    def transformation(lr: jax.Array, b1: jax.Array) -> optax.GradientTransformation:
        parts = []
        if options["clip_norm"] > 0:
            parts.append(optax.clip_by_global_norm(options["clip_norm"]))
        decay = optax.add_decayed_weights(options["weight_decay"], mask=decayed)
        coupled = options["weight_decay"] > 0 and options["name"] != "adamw"
        parts += [decay] if coupled else []
        if options["name"] == "sgd":
            parts += [optax.trace(b1, options["nesterov"])] if options["momentum"] > 0 else []
        else:
            parts.append(optax.scale_by_adam(b1, options["b2"], options["eps"]))
        parts += [decay] if options["weight_decay"] > 0 and not coupled else []
        parts.append(_scale_by_group(lr, index))
        return optax.chain(*parts)

    injected = optax.inject_hyperparams(transformation, hyperparam_dtype=jnp.float32)
    return injected(lr=jnp.zeros(plan.groups, jnp.float32), b1=jnp.float32(resting(options)))


def resting(options: Mapping[str, Any]) -> float:
    """Return b1 (of sgd: the momentum) for schedules that don't change it."""
    options = checked(options)
    return options["momentum" if options["name"] == "sgd" else "b1"]


def set_rates(state: Any, lr: ArrayLike, b1: ArrayLike) -> Any:
    """Return the optimizer state with lr [G] and b1 of this step."""
    return state._replace(hyperparams={**state.hyperparams, "lr": lr, "b1": b1})


def is_decayed(name: str, norms: Iterable[str]) -> bool:
    """Whether weight decay applies: not to biases and parameters of BatchNorm."""
    parent, _, leaf = name.rpartition(".")
    return leaf != "bias" and parent not in norms


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked `options` with defaults filled in.

    Raises:
        InputError: an unknown key, an unknown optimizer, or a value out of range.
    """
    for key in options:
        if key not in DEFAULTS:
            raise InputError(f"optimizer: no option {key!r}{near(key, DEFAULTS)}")
    options = {**DEFAULTS, **options}
    if options["name"] not in NAMES:
        raise InputError(
            f"optimizer.name: unknown {options['name']!r}{near(options['name'], NAMES)}; "
            f"known: {', '.join(NAMES)}"
        )
    for key in ("b1", "b2", "momentum"):
        if not 0 <= options[key] < 1:
            raise InputError(f"optimizer.{key}: must lie in [0, 1), not {options[key]}")
    for key in ("weight_decay", "clip_norm"):
        if not options[key] >= 0:
            raise InputError(f"optimizer.{key}: must be >= 0, not {options[key]}")
    return options


def _frozen(freeze: str | int, groups: int) -> int:
    if isinstance(freeze, str) and re.fullmatch(r"\d+", freeze):
        freeze = int(freeze)
    named = {"none": 0, "": 0, "backbone": groups - 1}
    if freeze in named:
        return named[freeze]
    if isinstance(freeze, bool) or not isinstance(freeze, int):
        raise InputError(
            f"freeze: unknown group {freeze!r}; needs none, backbone, or a number of depth "
            f"groups counted from the stem (this network has {groups})"
        )
    if not 0 <= freeze < groups:
        raise InputError(f"freeze: {freeze} of {groups} depth groups; must be 0 to {groups - 1}")
    return freeze


def _scale_by_group(lr: jax.Array, index: Mapping[str, int]) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return {name: -lr[index[name]] * u for name, u in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _dotted(prefix: Any) -> str:
    return prefix.replace("/", ".") if isinstance(prefix, str) else ".".join(map(str, prefix))
