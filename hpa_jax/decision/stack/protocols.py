"""The named protocols of the stack: number and kind of the models of each class.

A class is fitted `repeats` times on `outer` folds; inside each, `inner_repeats` times on `inner`
folds.  That makes repeats * outer * inner_repeats * inner models.  Source: One More Layer's talk
and code (spec section 7); `quick` is ours, for small validation parts.

| protocol | models per class | for |
|---|---|---|
| quick | 15 | the default and the demo: averaged probabilities, all classes in seconds |
| talk | 375 | what solutions use: 5 outer folds x 3 inner, each repeated 5 times, binary votes |
| main | 225 | the team's released main script (3 x 5 outer, 5 x 3 inner) |
| by_frequency | 441 to 6,000 | the team's table: the rarer the class, the more repeats |
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hpa_jax.core.errors import InputError, near

# Columns of a class: its own probability by every model, metafeatures, the original image size
# (which reveals the source), other classes' means over models.
KINDS = ("own", "meta", "size", "others")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """All settings of the stack; `PROTOCOLS` holds the named protocols."""

    protocol: str = "quick"
    repeats: int = 1
    outer: int = 5
    inner_repeats: int = 1
    inner: int = 3
    by_positives: bool = False  # take the four numbers above from FREQUENCY_TABLE
    vote: str = "soft"  # soft: mean probability | binary: share of models that say yes
    learner: str = "boosted"  # boosted | logistic | ridge | multi_output_tree
    rare_learner: str = "logistic"  # of classes with fewer than rare_below positives
    rare_below: int = 15
    rare_repeats: int = 0  # of both loops, for rare classes (the team: 20, once 40); 0: default
    rare_features: tuple[str, ...] = KINDS  # columns of a rare class's learner
    boost_from: int = 40  # fewer positives: the logistic part alone, no trees
    strengths: tuple[float, ...] = (5.0, 20.0, 80.0)  # logistic penalties tried; inner folds choose
    ridge_alpha: float = 10.0  # 0.1 in the team's code: the same F1 on 10 to 30 positives
    rounds: int = 60  # at most; early stopping on the inner fold
    patience: int = 8
    eta: float = 0.1
    depth: int = 3
    bins: int = 64
    colsample: float = 0.6
    subsample: float = 1.0
    min_child_weight: float = 2.0
    penalty: float = 5.0  # L2 of leaf weights
    vote_factor: float = 1.0  # of a model's threshold, before it votes
    negatives: str = "all"  # all | prior: as many as restore the training share of the class
    threshold: str = (
        "shrunk"  # the final threshold; cross_validated: rare classes shrunk to the pooled one
    )
    threshold_repeats: int = 4  # of a cross-validated one: folds x repeats, exact search
    shrink: float = 10.0  # positives at which a class's best threshold gets weight 1/2
    min_positives: int = 6  # fewer: no model is fitted, the mean of the models decides
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda
    of_class: Mapping[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def of(self, c: int) -> "Protocol":
        """Return the settings of class c: these, overridden by `of_class`."""
        return dataclasses.replace(self, **{"of_class": {}, **self.of_class.get(c, {})})

    def counts(self, positives: int) -> tuple[int, int, int, int]:
        """Return (repeats, outer, inner_repeats, inner) of a class by its number of positives."""
        counts = self.repeats, self.outer, self.inner_repeats, self.inner
        if self.by_positives:
            table = (row[1:] for row in FREQUENCY_TABLE if positives < row[0])
            repeats, outer, inner = next(table)
            counts = repeats, outer, repeats, inner
        if self.rare_repeats and positives < self.rare_below:
            return self.rare_repeats, counts[1], self.rare_repeats, counts[3]
        return counts

    def models(self, positives: int) -> int:
        """Return the number of models of a class by its number of positives."""
        repeats, outer, inner_repeats, inner = self.counts(positives)
        return repeats * outer * inner_repeats * inner


# positives below, repeats (outer and inner), outer folds, inner folds: spec section 7.2
FREQUENCY_TABLE = (
    (15, 20, 5, 3),
    (110, 10, 5, 5),
    (250, 7, 7, 5),
    (1000, 5, 7, 7),
    (float("inf"), 3, 7, 7),
)

# eta .1, .2, .3 give the same votes (bench: macro-F1 .686, .689, .696 on four classes, noise .01),
# but 51, 33 and 30 ms a fit.
_VOTES = dict(
    vote="binary",
    rounds=60,
    eta=0.2,
    patience=5,
    strengths=(20.0,),
    negatives="prior",
    threshold="cross_validated",
)

PROTOCOLS: dict[str, Protocol] = {
    "quick": Protocol(),
    "talk": Protocol("talk", repeats=5, inner_repeats=5, rare_learner="ridge", **_VOTES),
    "main": Protocol("main", repeats=3, inner_repeats=5, rare_learner="ridge", **_VOTES),
    "by_frequency": Protocol("by_frequency", by_positives=True, rare_learner="ridge", **_VOTES),
}

# Settings common to all classes; `of_class` may override the others.
_OF_ALL = ("protocol", "of_class", "seed", "device")
_OF_ALL += ("threshold", "threshold_repeats", "shrink", "min_positives")
OF_CLASS = tuple(f.name for f in dataclasses.fields(Protocol) if f.name not in _OF_ALL)

CHOICES = dict(
    vote=("soft", "binary"),
    learner=("boosted", "logistic", "ridge", "multi_output_tree"),
    rare_learner=("boosted", "logistic", "ridge"),
    negatives=("all", "prior"),
    device=("auto", "cpu", "cuda"),
    threshold=("shrunk", "cross_validated"),
)


def resolve(config: str | Mapping[str, Any] | Protocol) -> Protocol:
    """Return a protocol by name, or by a mapping with `protocol` and settings that differ from it.

    None in a mapping means the protocol's value (so that a config can list every setting).

    Raises:
        InputError: unknown protocol, setting or choice.
    """
    if isinstance(config, Protocol):
        return _checked(config)
    settings = {"protocol": config} if isinstance(config, str) else dict(config)
    name = settings.pop("protocol", "quick")
    if name not in PROTOCOLS:
        raise InputError(f"stack.protocol {name!r}{near(name, PROTOCOLS)}; known: {[*PROTOCOLS]}")
    known = {field.name for field in dataclasses.fields(Protocol)}
    for key in settings:
        if key not in known:
            raise InputError(f"stack has no setting {key!r}{near(key, known)}")
    changes = _typed({key: value for key, value in settings.items() if value is not None})
    of_class = changes.get("of_class", {})
    changes["of_class"] = {int(c): _typed(overrides) for c, overrides in of_class.items()}
    return _checked(dataclasses.replace(PROTOCOLS[name], **changes))


def of_config(config: Mapping[str, Any], classes: Sequence[str]) -> Protocol:
    """Resolve config.stack, whose `of_class` has class names as keys.

    Raises:
        InputError: as `resolve`, or an unknown class.
    """
    by_name = config.get("of_class") or {}
    for name in by_name:
        if name not in classes:
            raise InputError(f"stack.of_class: unknown class {name!r}{near(name, classes)}")
    by_number = {list(classes).index(name): overrides for name, overrides in by_name.items()}
    return resolve({**config, "of_class": by_number})


def _typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Restore the types that JSON and configs don't preserve."""
    kinds = {"strengths": lambda values: tuple(map(float, values)), "rare_features": tuple}
    return {key: kinds.get(key, lambda same: same)(value) for key, value in settings.items()}


def _checked(protocol: Protocol) -> Protocol:
    for c, overrides in protocol.of_class.items():
        for key in overrides:
            if key not in OF_CLASS:
                raise InputError(f"stack.of_class: class {c} has no {key!r}{near(key, OF_CLASS)}")
        if "multi_output_tree" in (protocol.learner, overrides.get("learner")):
            raise InputError(
                "stack.of_class: not possible with multi_output_tree, which fits classes jointly"
            )
        _checked(protocol.of(c))
    for key, known in CHOICES.items():
        value = getattr(protocol, key)
        if value not in known:
            raise InputError(f"stack.{key} {value!r}{near(str(value), known)}; known: {[*known]}")
    for key in ("repeats", "inner_repeats", "rounds", "patience", "depth", "threshold_repeats"):
        if getattr(protocol, key) < 1:
            raise InputError(f"stack.{key} is {getattr(protocol, key)}; must be 1 or more")
    if not protocol.vote_factor > 0:
        raise InputError(f"stack.vote_factor is {protocol.vote_factor}; must be above 0")
    for key in ("outer", "inner"):
        if getattr(protocol, key) < 2:
            raise InputError(f"stack.{key} is {getattr(protocol, key)}; needs 2 or more folds")
    for key in (
        "rare_below",
        "rare_repeats",
        "boost_from",
        "ridge_alpha",
        "shrink",
        "min_positives",
    ):
        if getattr(protocol, key) < 0:
            raise InputError(f"stack.{key} is {getattr(protocol, key)}; must be 0 or more")
    if protocol.bins < 2:
        raise InputError(f"stack.bins is {protocol.bins}; must be 2 or more")
    for key, most in (("eta", 1.0), ("colsample", 1.0), ("subsample", 1.0)):
        if not 0 < getattr(protocol, key) <= most:
            raise InputError(
                f"stack.{key} is {getattr(protocol, key)}; must be above 0, at most {most}"
            )
    if "own" not in protocol.rare_features or not set(protocol.rare_features) <= set(KINDS):
        raise InputError(
            f"stack.rare_features {protocol.rare_features}: needs 'own', and others of {KINDS}"
        )
    if not protocol.strengths:
        raise InputError("stack.strengths is empty; needs at least one penalty")
    return protocol
