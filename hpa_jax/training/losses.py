"""Losses on logits: per-sample ones return [N], batch ones a scalar; all in float32.

In: logits [N, C] float, labels [N, C] in {0, 1}.  Per-sample losses are summed over the classes
(the step takes the mean over real rows); batch losses (`lovasz_hinge`, `hard_log`, `soft_f1`)
couple the rows of one (micro-)batch, so they take the mask of real rows and depend on the batch
size. All are finite with finite gradients at |logit| = 1e4.  Sources: One More Layer, bestfitting,
pudae.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hpa_jax.core import own_code
from hpa_jax.core.errors import InputError, near

Array = jax.Array
Loss = Callable[[Array, Array, Array], Array]

_FAR = -1e30  # stands for -inf in log-sum-exp and sorting, where inf - inf would give NaN


def bce(
    logits: Array, labels: Array, *, smoothing: float = 0.0, positive_weight: Any = 1.0
) -> Array:
    """Binary cross-entropy, [N]: sum over classes of -[w t log p + (1-t) log(1-p)].

    Args:
        logits: [N, C] float.
        labels: [N, C] in {0, 1}.
        smoothing: s in [0, 1): labels become t (1 - s) + s / 2.
        positive_weight: number or [C]; multiplies the positive term.

    As optax.sigmoid_binary_cross_entropy where the weight is 1.  One More Layer trained on its mean
    over classes (spec §4.2): that is this divided by C, `from_config({"bce_mean": 1.})`.
    """
    logits, labels = _float(logits, labels)
    labels = labels * (1.0 - smoothing) + 0.5 * smoothing
    positive = labels * jax.nn.log_sigmoid(logits) * jnp.asarray(positive_weight, jnp.float32)
    negative = (1.0 - labels) * jax.nn.log_sigmoid(-logits)
    return -(positive + negative).sum(-1)


def focal(logits: Array, labels: Array, *, gamma: float = 2.0, mean: bool = False) -> Array:
    """Focal loss, [N]: sum over classes of (1 - p_t)^gamma * BCE (Lin et al. 2017, no alpha).

    Args:
        logits: [N, C] float.
        labels: [N, C] in {0, 1}.
        gamma: >= 0; 2 for all three teams, 3 and 5 in some phases of One More Layer.
        mean: mean over classes instead of the sum (pudae).

    optax.sigmoid_focal_loss computes (1 - p_t)^gamma by a power of a number that rounds to 0, whose
    gradient is not finite for gamma < 1; here it is exp(gamma log sigmoid), as the teams wrote it.
    """
    logits, labels = _float(logits, labels)
    wrong = jax.nn.log_sigmoid(-logits * (2.0 * labels - 1.0))  # log(1 - p_t)
    each = jnp.exp(gamma * wrong) * optax.sigmoid_binary_cross_entropy(logits, labels)
    return each.mean(-1) if mean else each.sum(-1)


def asymmetric(
    logits: Array,
    labels: Array,
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    clip: float = 0.05,
) -> Array:
    """Asymmetric loss, [N]: focal loss with a different gamma for negatives, without easy ones.

    -[t (1 - p)^g+ log p + (1 - t) q^g- log(1 - q)], q = max(p - clip, 0), summed over classes
    (Ridnik et al. 2021, arXiv 2009.14119, their multi-label settings).

    Args:
        logits: [N, C] float.
        labels: [N, C] in {0, 1}.
        gamma_positive: g+ >= 0.
        gamma_negative: g- >= 0.
        clip: in [0, 1); negatives with a probability below it have no loss.
    """
    logits, labels = _float(logits, labels)
    log_p, log_not = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    positive = labels * jnp.exp(gamma_positive * log_not) * log_p
    shifted = jnp.exp(log_p) - clip
    counts = shifted > 0
    shifted = jnp.where(counts, shifted, 1.0)
    rest = log_not if clip == 0 else jnp.log(1.0 - jnp.where(counts, shifted, 0.0))
    negative = jnp.where(counts, jnp.exp(gamma_negative * jnp.log(shifted)) * rest, 0.0)
    return -(positive + (1.0 - labels) * negative).sum(-1)


def lsep(logits: Array, labels: Array) -> Array:
    """Log-sum-exp pairwise ranking, [N]: log(1 + sum over (v not in Y, u in Y) of exp(f_v - f_u)).

    Li et al. 2017 (arXiv 1704.03135).  Stable form: softplus(LSE_v f_v + LSE_u(-f_u)).  A sample
    without positives (or without negatives) has no pairs: loss and gradient 0; `from_config`
    averages over the samples with positives.  Only ranks are learnt: thresholds must be refitted.
    """
    logits, labels = _float(logits, labels)
    positive = labels > 0.5
    negatives = jax.nn.logsumexp(jnp.where(positive, _FAR, logits), axis=-1)
    positives = jax.nn.logsumexp(jnp.where(positive, -logits, _FAR), axis=-1)
    some = positive.any(-1) & ~positive.all(-1)
    return jnp.where(some, jax.nn.softplus(jnp.where(some, negatives + positives, 0.0)), 0.0)


def lovasz_hinge(logits: Array, labels: Array, mask: Array | None = None) -> Array:
    """Symmetric Lovász hinge, scalar: per class over the batch, mean over classes (bestfitting).

    ½ [L(z, t) + L(-z, 1 - t)] with L the Lovász extension of the Jaccard loss of the sorted hinge
    errors relu(1 - z (2t - 1)) (Berman et al. 2018, arXiv 1705.08790).

    Args:
        logits: [N, C] float.
        labels: [N, C] in {0, 1}.
        mask: [N] bool, False = padding; None = all real.
    """
    logits, labels = _float(logits, labels)
    real = _real(mask, logits)
    one_side = jax.vmap(_lovasz_class, in_axes=(1, 1, None))
    both = one_side(logits, labels, real) + one_side(-logits, 1.0 - labels, real)
    return 0.5 * both.mean()


def hard_log(logits: Array, labels: Array, mask: Array | None = None) -> Array:
    """Hard-example log loss, scalar: per class over the batch, mean over classes (bestfitting).

    With P positives and N negatives of a class, takes the mean BCE of all positives and of the k
    negatives of highest logit, k = min(N, P + max(2, floor(.5 N)), floor(.7 N) + 2).

    Args:
        logits: [N, C] float.
        labels: [N, C] in {0, 1}.
        mask: [N] bool, False = padding; None = all real.
    """
    logits, labels = _float(logits, labels)
    real = _real(mask, logits)[:, None]
    positive = (labels > 0.5) & real
    negative = (labels <= 0.5) & real
    n_positive, n_negative = positive.sum(0), negative.sum(0)
    # integer arithmetic: floor(.7 N) in float32 is off by one at multiples of ten
    k = jnp.minimum(n_positive + jnp.maximum(2, n_negative // 2), 7 * n_negative // 10 + 2)
    k = jnp.minimum(n_negative, k)
    score = jnp.where(negative, jax.lax.stop_gradient(logits), -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-score, axis=0), axis=0)
    kept = (positive | (negative & (rank < k))).astype(jnp.float32)
    each = optax.sigmoid_binary_cross_entropy(logits, labels) * kept
    return (each.sum(0) / jnp.maximum(kept.sum(0), 1.0)).mean()


def soft_f1(logits: Array, labels: Array, mask: Array | None = None) -> Array:
    """1 - macro soft F1, scalar: F1 per class from probabilities, over the batch.

    The differentiable score, as in the competition's public kernels (`f1_loss`); the Dice loss of
    Milletari et al. 2016 (arXiv 1606.04797) without squares.

    F1_c = 2 Σ p t / (Σ p + Σ t), over the classes in the batch (Σ t > 0); 0 if none.

    Args:
        logits: [N, C] float.
        labels: [N, C] in {0, 1}.
        mask: [N] bool, False = padding; None = all real.
    """
    logits, labels = _float(logits, labels)
    real = _real(mask, logits)[:, None].astype(jnp.float32)
    probs, labels = jax.nn.sigmoid(logits) * real, labels * real
    f1 = 2.0 * (probs * labels).sum(0) / jnp.maximum(probs.sum(0) + labels.sum(0), 1e-7)
    present = (labels.sum(0) > 0).astype(jnp.float32)
    count = present.sum()
    return jnp.where(count > 0, 1.0 - (f1 * present).sum() / jnp.maximum(count, 1.0), 0.0)


def arcface(
    cosines: Array, labels: Array, *, scale: float = 30.0, margin: float = 0.5, plain: float = 0.5
) -> Array:
    """ArcFace with bestfitting's second term, [N].

    (1 - plain) CE(s · cosines with the margin on the true class) + plain CE(cosines); the cosines
    of the second term are not multiplied by s, as coded by the team.  cos(θ + m) on the true class;
    where cos θ <= cos(π - m) the value is cos θ - m sin(π - m), which keeps it decreasing in θ.

    Args:
        cosines: [N, K] in [-1, 1], of normalised embedding and normalised class weight.
        labels: [N] integer class.
        scale: s of Deng et al. 2018 (arXiv 1801.07698).
        margin: m, radians.
        plain: share of the plain cross-entropy; 0 is the paper's ArcFace.
    """
    cosines = jnp.clip(cosines.astype(jnp.float32), -1.0, 1.0)
    sine = jnp.sqrt(jnp.maximum(1.0 - cosines**2, 1e-12))  # its gradient is infinite at cos = ±1
    with_margin = cosines * jnp.cos(margin) - sine * jnp.sin(margin)
    fallback = cosines - margin * jnp.sin(jnp.pi - margin)
    with_margin = jnp.where(cosines > jnp.cos(jnp.pi - margin), with_margin, fallback)
    true_class = jax.nn.one_hot(labels, cosines.shape[-1], dtype=bool)
    angular = jnp.where(true_class, with_margin, cosines)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return (1.0 - plain) * cross_entropy(scale * angular, labels) + plain * cross_entropy(
        cosines, labels
    )


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of values [N] over the rows where mask [N] is True; 0 if there is none."""
    weights = mask.astype(jnp.float32)
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(weights.sum(), 1.0)


PER_SAMPLE: dict[str, Callable[..., Array]] = {
    "bce": bce,
    "bce_mean": lambda logits, labels, **options: bce(logits, labels, **options) / logits.shape[-1],
    "focal": focal,
    "focal_mean": lambda logits, labels, **options: focal(logits, labels, mean=True, **options),
    "asymmetric": asymmetric,
    "lsep": lsep,
    # One class per row (an antibody), as one-hot labels; the head "embedding" returns cosines.
    "arcface": lambda cosines, labels, **options: arcface(cosines, labels.argmax(-1), **options),
}
PER_BATCH: dict[str, Callable[..., Array]] = {
    "lovasz": lovasz_hinge,
    "hard_log": hard_log,
    "soft_f1": soft_f1,
}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "bce": ("smoothing", "positive_weight"),
    "bce_mean": ("smoothing", "positive_weight"),
    "focal": ("gamma",),
    "focal_mean": ("gamma",),
    "asymmetric": ("gamma_positive", "gamma_negative", "clip"),
    "arcface": ("scale", "margin", "plain"),
}


def from_config(terms: Mapping[str, Any], classes: int | None = None) -> Loss:
    """Return a weighted sum of losses: fn(logits [N, C], labels [N, C], mask [N]) -> scalar.

    Args:
        terms: name -> weight, or name -> {"weight": w, option: value}; for example
            {"focal": .5, "lovasz": .5, "hard_log": .5} or {"focal": {"weight": 1., "gamma": 5.}}.
            A user loss is "my_file.py:function", or a term with that under "function":
            function(logits [N, C], labels [N, C], mask [N], **options) -> [N] or a scalar.
        classes: C, if known: a list of positive weights must have this length.

    Raises:
        InputError: no term, an unknown name or option, or a weight that is not a positive number.
    """
    if own_code.is_reference(terms):
        terms = {"own": {"function": terms}}
    if isinstance(terms, str):
        raise InputError(
            f"loss={terms!r}: needs name -> weight, as {{'focal': 1.0}}, or 'my_file.py:name'"
        )
    parts, functions = [], {}
    for name, value in dict(terms).items():
        options = dict(value) if hasattr(value, "items") else {"weight": value}
        weight = options.pop("weight", 1.0)
        if "function" in options:
            functions[name] = own_code.load(options.pop("function"))
            _check_weight(name, weight)
            parts.append((name, float(weight), options))
            continue
        _check_term(name, weight, options)
        if "positive_weight" in options:
            _check_positive_weight(f"loss.{name}", options["positive_weight"], classes)
        parts.append((name, float(weight), options))
    if not parts:
        raise InputError("loss is empty: name at least one term, for example loss={'focal': 1.0}")

    def loss(logits: Array, labels: Array, mask: Array) -> Array:
        total = jnp.zeros((), jnp.float32)
        for name, weight, options in parts:
            if name in functions:
                value = jnp.asarray(functions[name](logits, labels, mask, **options), jnp.float32)
                if value.shape not in ((), mask.shape):  # [N, 1] would broadcast to [N, N]
                    raise InputError(
                        f"loss.{name}: the function returned shape {value.shape}, not "
                        f"{mask.shape} or a scalar"
                    )
                value = masked_mean(value, mask) if value.ndim else value
            elif name in PER_SAMPLE:
                counted = mask & (labels > 0.5).any(-1) if name == "lsep" else mask
                value = masked_mean(PER_SAMPLE[name](logits, labels, **options), counted)
            else:
                value = PER_BATCH[name](logits, labels, mask)
            total += weight * value
        return total

    return loss


def _check_term(name: str, weight: Any, options: dict[str, Any]) -> None:
    known = {**PER_SAMPLE, **PER_BATCH}
    if name not in known:
        raise InputError(
            f"loss: unknown term {name!r}{near(name, known)}; known: {', '.join(known)}"
        )
    _check_weight(name, weight)
    for option in options:
        if option not in _OPTIONS.get(name, ()):
            raise InputError(
                f"loss.{name}: no option {option!r}{near(option, _OPTIONS.get(name, ()))}"
            )
    if not 0.0 <= options.get("smoothing", 0.0) < 1.0:
        raise InputError(f"loss.{name}.smoothing: must lie in [0, 1), not {options['smoothing']}")
    for option in ("gamma", "gamma_positive", "gamma_negative"):
        if options.get(option, 2.0) < 0.0:
            raise InputError(f"loss.{name}.{option}: must be >= 0, not {options[option]}")
    if not 0.0 <= options.get("clip", 0.0) < 1.0:
        raise InputError(f"loss.{name}.clip: must lie in [0, 1), not {options['clip']}")


def _check_weight(name: str, weight: Any) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise InputError(f"loss.{name}: the weight must be a number > 0, not {weight!r}")


def _check_positive_weight(where: str, value: Any, classes: int | None) -> None:
    """One number >= 0, or one for each class."""
    single = isinstance(value, int | float)
    weights = [value] if single else list(value)
    if not all(isinstance(w, int | float) and 0 <= w < float("inf") for w in weights):
        raise InputError(f"{where}.positive_weight: must be numbers >= 0, not {value}")
    if not single and classes is not None and len(weights) != classes:
        raise InputError(
            f"{where}.positive_weight: {len(weights)} numbers for {classes} classes; give one per "
            "class, or one number for all"
        )


def _lovasz_class(logits: Array, labels: Array, real: Array) -> Array:
    """One class: logits, labels, real [N] -> scalar; padded rows are sorted last, with weight 0."""
    errors = jnp.where(real, 1.0 - logits * (2.0 * labels - 1.0), _FAR)
    order = jnp.argsort(-jax.lax.stop_gradient(errors))
    errors, labels = errors[order], jnp.where(real, labels, 0.0)[order]
    negatives = jnp.where(real[order], 1.0 - labels, 0.0)
    positives = labels.sum()
    intersection = positives - jnp.cumsum(labels)
    union = positives + jnp.cumsum(negatives)
    jaccard = 1.0 - intersection / jnp.maximum(union, 1.0)
    gradient = jnp.diff(jaccard, prepend=0.0)
    # a class without positives: union = 0 until its first negative, and the first error has weight
    # 1
    return jnp.dot(jax.nn.relu(errors), jax.lax.stop_gradient(gradient))


def _real(mask: Array | None, logits: Array) -> Array:
    return jnp.ones(logits.shape[0], bool) if mask is None else jnp.asarray(mask, bool)


def _float(logits: Array, labels: Array) -> tuple[Array, Array]:
    if logits.ndim != 2 or logits.shape != labels.shape:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} must both be [N, C]")
    return logits.astype(jnp.float32), labels.astype(jnp.float32)
