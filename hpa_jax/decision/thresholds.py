"""Thresholds per class: from probabilities to decisions.

In: labels [N, C] in {0, 1} and probabilities [N, C] of labelled rows (or only the proportions that
are expected).  Out: float[C].  The rule is `p >= threshold` everywhere, whichever team a method
comes from.

`cross_validated` is the protocol of One More Layer (5 stratified folds x 20 repeats, on each
held-out fifth the best F1 of a 50-point grid, mean of the 100); `match_proportions` is that of
bestfitting and, with `PUDAE_GRID`, of pudae; `exact` sorts instead of using a grid.

Rules: a class with fewer positives than folds is searched once on the whole set; a held-out part
without positives (possible with groups) is left out; a class without positives is never
predicted (its threshold lies above 1 and above its largest probability).
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.core import own_code
from hpa_jax.core.errors import InputError
from hpa_jax.core.metrics import checked_labels, checked_scores, f1_from_counts

REPEAT_STEP = 101  # repeat j uses seed + 101 j for its folds, as the team's code does
PUDAE_GRID = np.arange(5, 100) / 100.0
METHODS = ("cross_validated", "exact", "match_proportions", "match_proportions_pudae", "fixed")


def cross_validated(
    labels: np.ndarray,
    probs: np.ndarray,
    folds: int = 5,
    repeats: int = 20,
    grid: int = 50,
    seed: int = 0,
    groups: np.ndarray | None = None,
    *,
    search: str = "grid",
    combine: str = "mean",
    fold_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Thresholds float[C]: mean over folds x repeats of the best threshold on each held-out part.

    labels, probs: [N, C]; groups: [N], rows of one group stay in one fold; search: "grid" (`grid`
    points from the smallest to the largest probability of the part, first of equals) or "exact";
    combine: "mean", or "median" (robust to outlying parts of a rare class); fold_ids: int[R, C, N],
    replaces the random folds.

    Raises:
        InputError: NaN, wrong shapes, fewer rows than folds.
    """
    if combine not in ("mean", "median"):
        raise InputError(f"thresholds combined by {combine!r}; known: 'mean', 'median'")
    values = per_part(
        labels, probs, folds, repeats, grid, seed, groups, search=search, fold_ids=fold_ids
    )
    return np.array([getattr(np, combine)(part) for part in values])


def per_part(
    labels: np.ndarray,
    probs: np.ndarray,
    folds: int = 5,
    repeats: int = 20,
    grid: int = 50,
    seed: int = 0,
    groups: np.ndarray | None = None,
    *,
    search: str = "grid",
    fold_ids: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return the individual thresholds behind `cross_validated`, one array per class.

    A class that is searched on the whole set has only one.
    """
    labels, probs = _checked(labels, probs)
    if search not in ("grid", "exact"):
        raise InputError(f"threshold search {search!r}; known: 'grid', 'exact'")
    if grid < 2 or repeats < 1:
        raise InputError(f"{grid} grid points and {repeats} repeats; needs at least 2 and 1")
    if fold_ids is None:
        seeds = [seed + REPEAT_STEP * j for j in range(repeats)]
        fold_ids = folding.stratified(labels, folds, seeds, groups)
    elif fold_ids.ndim != 3 or fold_ids.shape[1:] != labels.T.shape:
        raise InputError(f"fold_ids of shape {fold_ids.shape}; needs [repeats, classes, rows]")
    values = []
    for c in range(labels.shape[1]):
        order = np.argsort(probs[:, c], kind="stable")
        y, p = labels[order, c], probs[order, c]
        if y.sum() < folds:
            threshold = _best_on_grid(y, p, grid) if search == "grid" else _best_exact(y, p)
            values.append(np.array([threshold]))
            continue
        parts = fold_ids[:, c][:, order]
        if search == "grid":
            best = _grid_parts(y, p, parts, folds, grid)
        else:
            best = _exact_parts(y, p, parts, folds)
        values.append(best)
    return values


def _grid_parts(y: np.ndarray, p: np.ndarray, parts: np.ndarray, k: int, grid: int) -> np.ndarray:
    """Best grid threshold of each held-out part with positives.

    y, p: [N], p ascending; parts: [R, N].

    Equal to comparing every probability with every threshold: `searchsorted` finds the rows at or
    above a threshold among all rows, a running count of the part's members turns that into the
    part's rows.
    """
    rows = len(p)
    member = parts[:, None, :] == np.arange(k, dtype=parts.dtype)[:, None]  # [R, k, N]
    below = np.zeros((*member.shape[:2], rows + 1), np.int32)
    np.cumsum(member, axis=2, out=below[..., 1:])
    positive = np.flatnonzero(y)
    hits_below = np.zeros((*member.shape[:2], len(positive) + 1), np.int32)
    np.cumsum(member[..., positive], axis=2, out=hits_below[..., 1:])
    low = p[member.argmax(axis=2)]
    high = p[rows - 1 - member[..., ::-1].argmax(axis=2)]
    thresholds = low[..., None] + np.arange(grid) * ((high - low) / (grid - 1))[..., None]
    thresholds[..., -1] = high  # as np.linspace, whose last point is exact
    first = np.searchsorted(p, thresholds)  # the row at which "p >= threshold" begins
    predicted = below[..., -1:] - np.take_along_axis(below, first, 2)
    total = hits_below[..., -1:]
    hits = total - np.take_along_axis(hits_below, np.searchsorted(positive, first), 2)
    best = f1_from_counts(hits, predicted, np.broadcast_to(total, hits.shape)).argmax(axis=2)
    values = np.take_along_axis(thresholds, best[..., None], 2)[..., 0]
    return values[total[..., 0] > 0]


def _exact_parts(y: np.ndarray, p: np.ndarray, parts: np.ndarray, k: int) -> np.ndarray:
    values = []
    for repeat in parts:
        for part in range(k):
            member = repeat == part
            if y[member].any():
                values.append(_best_exact(y[member], p[member]))
    return np.array(values)


def exact(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Thresholds float[C] with the highest F1 on these rows: every possible threshold is tried.

    The threshold lies half-way between the lowest accepted and the highest refused probability; of
    equal F1 the highest threshold (fewest predictions) wins.
    """
    labels, probs = _checked(labels, probs)
    order = np.argsort(probs, axis=0, kind="stable")
    return np.array(
        [_best_exact(labels[rows, c], probs[rows, c]) for c, rows in enumerate(order.T)]
    )


def on_grid(labels: np.ndarray, probs: np.ndarray, grid: int = 50) -> np.ndarray:
    """Thresholds float[C]: best F1 of `grid` points between the smallest and largest p."""
    labels, probs = _checked(labels, probs)
    order = np.argsort(probs, axis=0, kind="stable")
    return np.array(
        [_best_on_grid(labels[rows, c], probs[rows, c], grid) for c, rows in enumerate(order.T)]
    )


def _best_exact(y: np.ndarray, p: np.ndarray) -> float:
    """y, p: [N], p ascending."""
    if not y.any():
        return never(p[-1])
    starts = np.flatnonzero(np.diff(p, prepend=-np.inf) > 0)  # first row of each distinct value
    hits = np.cumsum(y[::-1])[::-1][starts]
    f1 = f1_from_counts(hits, len(p) - starts, np.full(len(starts), y.sum()))
    best = len(f1) - 1 - int(f1[::-1].argmax())
    threshold = p[starts[best]]
    if best == 0:
        return float(threshold)
    middle = 0.5 * (threshold + p[starts[best] - 1])
    return float(middle) if middle > p[starts[best] - 1] else float(threshold)


def _best_on_grid(y: np.ndarray, p: np.ndarray, grid: int) -> float:
    """y, p: [N], p ascending."""
    if not y.any():
        return never(p[-1])
    return float(_grid_parts(y, p, np.zeros((1, len(p)), np.int8), 1, grid)[0])


def never(largest: float) -> float:
    """Return a threshold above 1 and above `largest`, which no probability reaches."""
    return float(np.nextafter(max(1.0, largest), np.inf))


def match_proportions(
    probs: np.ndarray,
    proportions: Sequence[float] | np.ndarray,
    grid: int | np.ndarray = 10_000,
    *,
    ties: str = "half",
    strict: bool = False,
) -> np.ndarray:
    """Thresholds float[C] at which the share of predicted rows is nearest to `proportions`.

    probs: [N, C]; proportions: [C] in [0, 1]; grid: number of points of [0, 1], or the points;
    ties: "half" takes the threshold nearest to 0.5 (bestfitting), "first" the lowest (pudae);
    strict: counts `p > threshold` (pudae) and returns the next float above the threshold, so that
    `p >= threshold` decides the same.

    Raises:
        InputError: NaN, a proportion outside [0, 1], or not one for each class.
    """
    probs = checked_scores(probs)
    target = np.asarray(proportions, float)
    if target.shape != (probs.shape[1],) or not ((target >= 0) & (target <= 1)).all():
        raise InputError(
            f"proportions of shape {target.shape} for {probs.shape[1]} classes: needs one "
            "number of 0..1 per class"
        )
    if ties not in ("half", "first"):
        raise InputError(f"ties {ties!r}; known: 'half', 'first'")
    thresholds = np.linspace(0, 1, grid) if np.ndim(grid) == 0 else np.sort(np.asarray(grid, float))
    result = np.empty(len(target))
    for c, p in enumerate(np.sort(probs, axis=0).T):
        share = 1 - np.searchsorted(p, thresholds, side="right" if strict else "left") / len(p)
        distance = np.abs(share - target[c])
        near = np.flatnonzero(distance <= distance.min() + 1e-12)
        threshold = thresholds[
            near[np.abs(thresholds[near] - 0.5).argmin() if ties == "half" else 0]
        ]
        result[c] = np.nextafter(threshold, np.inf) if strict else threshold
    return result


def fixed(num_classes: int, value: float = 0.5) -> np.ndarray:
    """The same threshold for every class: float[C]."""
    return np.full(num_classes, float(value))


def pooled(labels: np.ndarray, probs: np.ndarray, points: int = 200) -> float:
    """Return the common threshold with the highest macro-F1 over classes that have positives.

    Thresholds tried: `points` quantiles of the positives' probabilities.
    """
    labels, probs = _checked(labels, probs)
    present = labels.any(axis=0)
    if not present.any():
        return never(probs.max(initial=0.0))
    y, p = labels[:, present], probs[:, present]
    thresholds = np.unique(np.quantile(p[y], np.linspace(0, 1, points)))
    total = y.sum(axis=0)
    score = np.zeros(len(thresholds))
    for c in range(y.shape[1]):
        all_sorted, positive = np.sort(p[:, c]), np.sort(p[y[:, c], c])
        predicted = len(p) - np.searchsorted(all_sorted, thresholds)
        hits = total[c] - np.searchsorted(positive, thresholds)
        score += f1_from_counts(hits, predicted, np.full(len(thresholds), total[c]))
    return float(thresholds[score.argmax()])


def shrunk(
    thresholds: np.ndarray,
    labels: np.ndarray,
    probs: np.ndarray,
    strength: float = 10.0,
    towards: str = "pooled",
) -> np.ndarray:
    """Shrink thresholds of rare classes to a steadier one: (n t + k t0) / (n + k), n positives.

    strength: k, the number of positives at which both weigh the same (0: no shrinkage);
    towards: "pooled" (one threshold for all classes) or "proportions" (the threshold at which as
    many rows are predicted as are positive).
    """
    labels, probs = _checked(labels, probs)
    thresholds = np.asarray(thresholds, float)
    if strength < 0:
        raise InputError(f"shrinkage strength {strength}; must be 0 or more")
    if towards == "pooled":
        anchor = np.full(len(thresholds), pooled(labels, probs))
    elif towards == "proportions":
        anchor = match_proportions(probs, labels.mean(axis=0))
    else:
        raise InputError(f"shrinkage towards {towards!r}; known: 'pooled', 'proportions'")
    count = labels.sum(axis=0)
    weight = count / (count + strength) if strength else np.ones(len(count))
    mixed = weight * thresholds + (1 - weight) * anchor
    return np.where(count > 0, mixed, thresholds)


def shrunk_to_matched(labels: np.ndarray, probs: np.ndarray, strength: float = 10.0) -> np.ndarray:
    """Thresholds float[C] between a class's best threshold and the one that predicts its share.

    On the logit scale: (n logit t + k logit t0) / (n + k), with n positives, t of `exact`, t0 of
    `match_proportions`; a class without positives gets the `pooled` threshold.  An empirical-Bayes
    rule with the prior's weight fixed: the best threshold of a dozen positives is mostly noise, the
    matched one is not, and with many positives their difference is real.

    labels, probs: [N, C]; strength: k, above 0.
    """
    labels, probs = _checked(labels, probs)
    best, matched = exact(labels, probs), match_proportions(probs, labels.mean(axis=0))
    count = labels.sum(axis=0)
    weight = count / (count + strength)
    mixed = weight * _logit(best) + (1 - weight) * _logit(matched)
    return np.where(count > 0, 1 / (1 + np.exp(-mixed)), pooled(labels, probs))


def _logit(thresholds: np.ndarray) -> np.ndarray:
    inside = np.clip(thresholds, 1e-5, 1 - 1e-5)
    return np.log(inside) - np.log1p(-inside)


def scaled(thresholds: np.ndarray, scale: float | Sequence[float] = 1.0) -> np.ndarray:
    """float[C]: thresholds times a factor, common or per class; those above 1 ("never") stay.

    Raises:
        InputError: a factor that is not above 0, or their number is neither 1 nor C.
    """
    thresholds, factors = np.asarray(thresholds, float), np.asarray(scale, float)
    if factors.size not in (1, len(thresholds)) or not (factors > 0).all():
        raise InputError(
            f"threshold scale {factors.tolist()}: needs one factor above 0, or one for each of "
            f"{len(thresholds)} classes"
        )
    return np.where(thresholds > 1, thresholds, thresholds * factors)


def decide(probs: np.ndarray, thresholds: np.ndarray, argmax: str = "off") -> np.ndarray:
    """bool[N, C]: `probs >= thresholds`.

    argmax: "off", "empty" (a row without any prediction gets the class with the largest
    p / threshold, of those whose threshold is not above 1) or "always" (the most probable class is
    added to every row, bestfitting's rule).

    Raises:
        InputError: NaN, thresholds of another length or NaN, unknown `argmax`.
    """
    probs, thresholds = checked_scores(probs), np.asarray(thresholds, float)
    if thresholds.shape != (probs.shape[1],) or np.isnan(thresholds).any():
        raise InputError(
            f"thresholds {thresholds.shape} for {probs.shape[1]} classes (NaN: "
            f"{np.isnan(thresholds).sum()}); needs one number per class"
        )
    chosen = probs >= thresholds
    if argmax == "always":
        chosen[np.arange(len(probs)), probs.argmax(axis=1)] = True
    elif argmax == "empty":
        empty = ~chosen.any(axis=1)
        ratio = probs[empty] / np.maximum(thresholds, 1e-12)
        if (thresholds <= 1).any():  # a class that is never predicted isn't added either
            ratio[:, thresholds > 1] = -np.inf
        chosen[np.flatnonzero(empty), ratio.argmax(axis=1)] = True
    elif argmax != "off":
        raise InputError(f"argmax {argmax!r}; known: 'off', 'empty', 'always'")
    return chosen


def fitter(
    method: str,
    *,
    folds: int = 5,
    repeats: int = 20,
    grid: int = 50,
    value: float = 0.5,
    seed: int = 0,
    shrink: float = 0.0,
    shrink_towards: str = "pooled",
    search: str = "grid",
    combine: str = "mean",
    proportions: Sequence[float] = (),
    fold_cache: dict[str, np.ndarray] | None = None,
) -> Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]:
    """Return a function (labels, probs, groups) -> thresholds for a method of the config.

    method: "cross_validated", "exact", "match_proportions" (to `proportions`, or else to the
    share of positives in `labels`; bestfitting's grid), "match_proportions_pudae", or "fixed".
    The last three never compare labels with probabilities, which may be of other rows.  Or
    "my_file.py:function", a user function of this signature.
    fold_cache: stores the folds of cross_validated; fitters of several methods on the same rows (in
    the same order) can share it.
    """

    def target(labels: np.ndarray) -> np.ndarray:
        return np.asarray(proportions, float) if len(proportions) else np.mean(labels, axis=0)

    methods = {
        "cross_validated": lambda y, p, g: cross_validated(
            y,
            p,
            folds,
            repeats,
            grid,
            seed,
            g,
            search=search,
            combine=combine,
            fold_ids=None
            if fold_cache is None
            else _cached_folds(fold_cache, y, folds, repeats, seed, g),
        ),
        "exact": lambda y, p, g: exact(y, p),
        "match_proportions": lambda y, p, g: match_proportions(p, target(y)),
        "match_proportions_pudae": lambda y, p, g: match_proportions(
            p, target(y), PUDAE_GRID, ties="first", strict=True
        ),
        "fixed": lambda y, p, g: fixed(p.shape[1], value),
    }
    if own_code.is_reference(method):
        return _user_function(method)
    if method not in METHODS:
        raise InputError(f"threshold method {method!r}; known: {', '.join(METHODS)}")
    if not shrink:
        return methods[method]
    return lambda y, p, g: shrunk(methods[method](y, p, g), y, p, shrink, shrink_towards)


def _user_function(
    reference: str,
) -> Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]:
    """The rule of a user function, whose result is checked."""
    function = own_code.load(reference)

    def fit(labels: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        values = np.asarray(function(labels, probs, groups), float)
        if values.shape != (probs.shape[1],) or np.isnan(values).any():
            raise InputError(
                f"{reference}: returned thresholds of shape {values.shape}, not "
                f"({probs.shape[1]},), or NaN"
            )
        return values

    return fit


def _cached_folds(
    cache: dict[str, np.ndarray],
    labels: np.ndarray,
    folds: int,
    repeats: int,
    seed: int,
    groups: np.ndarray | None,
) -> np.ndarray:
    """Return the folds of `cross_validated`, cached."""
    digest = hashlib.sha256(repr((labels.shape, folds, repeats, seed)).encode())
    digest.update(np.ascontiguousarray(labels, bool).data)
    if groups is not None:
        digest.update(np.ascontiguousarray(groups).data)
    key = digest.hexdigest()
    if key not in cache:
        seeds = [seed + REPEAT_STEP * j for j in range(repeats)]
        cache[key] = folding.stratified(checked_labels(labels), folds, seeds, groups)
    return cache[key]


def _checked(labels: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = checked_labels(labels)
    probs = checked_scores(probs, labels.shape)
    if not len(labels):
        raise InputError("no labelled rows to fit thresholds on")
    return labels, probs
