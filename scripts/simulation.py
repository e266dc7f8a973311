"""Simulated validation: labels and probabilities as if from M networks, for the bench and tests.

Labels are the competition's own: the label sets of One More Layer's validation part with their
counts (7,767 images; 28 classes).  Probabilities imitate single models of the spec's class F1
(section 9): score = separation * label + error, the separation of each class found so that the best
F1 of one model is the listed one.  Errors of two models correlate by `correlation`; a part of the
common error is a non-linear function of the metafeatures and of other classes, which is what a
stack can learn and a mean cannot.
"""

import functools
from dataclasses import dataclass

import numpy as np

from hpa_jax.decision import features as metafeatures

# label set (class numbers joined by a comma) : number of images, 1 if not said
LABEL_SETS = (
    "0:812; 0,25:593; 23:550; 25:522; 21:410; 7:377; 5:238; 0,21:237; 4:222; 2:201; 0,2:197; "
    "0,7:157; 19:141; 3:141; 6:140; 11:135; 0,5:118; 0,23:105; 0,19:100; 14:92; 18:92; "
    "21,25:90; 2,25:69; 0,2,25:54; 0,3:50; 1:50; 7,25:48; 4,25:42; 12:41; 22:40; 26:40; 0,1:39; "
    "0,11:37; 0,21,25:37; 2,23:37; 5,25:37; 18,25:35; 19,25:35; 13:32; 0,18:31; 5,21:29; "
    "0,1,25:27; 0,22:26; 0,4:25; 0,7,25:25; 2,21:25; 0,5,25:24; 0,16,25:23; 0,2,7:23; 23,25:23; "
    "4,21:23; 0,14:22; 0,3,25:21; 0,7,21:21; 20:21; 0,26:20; 24:20; 21,22:19; 0,12:17; "
    "0,5,21:17; 2,7:17; 3,25:16; 0,16:15; 1,25:15; 0,2,21,25:14; 5,7:14; 2,11:13; 0,18,25:12; "
    "0,2,11,25:12; 12,25:12; 13,21:12; 0,2,23:11; 0,23,25:11; 0,5,7:11; 14,25:11; 0,13:10; "
    "0,6:10; 17,21:10; 17,25:10; 2,21,23:10; 2,6:10; 0,17:9; 0,2,21:9; 25,26:9; 5,23:9; "
    "0,16,17,25:8; 14,17:8; 19,23:8; 3,23:8; 6,25:8; 0,17,25:7; 1,2:7; 12,21:7; 18,21:7; "
    "19,21:7; 22,25:7; 0,1,2,4:6; 1,21:6; 1,4:6; 17,18,25:6; 7,21:6; 0,18,21:5; 0,19,25:5; "
    "0,7,21,25:5; 1,6:5; 11,13:5; 11,21:5; 14,16,17:5; 16,21:5; 2,14:5; 2,15,16:5; 2,21,25:5; "
    "2,5,25:5; 21,23:5; 3,7:5; 4,23:5; 4,26:5; 6,21:5; 6,7:5; 0,1,2:4; 0,11,19:4; 0,12,21:4; "
    "0,14,25:4; 0,16,17,18:4; 0,18,21,23:4; 0,19,21:4; 0,2,26:4; 0,24:4; 12,19:4; 13,18:4; "
    "14,16:4; 16,17,18:4; 2,19:4; 21,25,26:4; 3,14:4; 3,21,25:4; 4,22:4; 7,16:4; 7,19:4; "
    "0,11,25:3; 0,2,14:3; 0,2,16:3; 0,2,24:3; 0,2,5:3; 0,22,25:3; 0,24,25:3; 0,5,12,26:3; "
    "0,5,15:3; 0,5,22:3; 0,6,25:3; 0,7,12:3; 0,7,13:3; 0,7,13,25:3; 1,23:3; 11,25:3; 12,13:3; "
    "12,21,22:3; 16,25:3; 17,18,21:3; 2,24:3; 2,6,25:3; 3,21:3; 4,14:3; 4,14,16:3; 4,18,25:3; "
    "4,21,22:3; 4,7:3; 4,7,25:3; 5,11:3; 5,18:3; 5,22:3; 5,24:3; 6,21,25:3; 7,16,19:3; 7,18:3; "
    "8:3; 0,1,13:2; 0,1,2,23:2; 0,1,2,7:2; 0,1,21:2; 0,1,3:2; 0,1,5,19:2; 0,13,21:2; 0,13,25:2; "
    "0,14,16:2; 0,14,16,21:2; 0,16,17:2; 0,16,21:2; 0,16,22:2; 0,16,24:2; 0,2,19:2; 0,20:2; "
    "0,21,23:2; 0,23,26:2; 0,3,21:2; 0,3,7:2; 0,5,27:2; 1,5:2; 1,5,7:2; 1,7:2; 11,21,25:2; "
    "12,21,25:2; 14,17,21:2; 14,18:2; 16:2; 16,17,25:2; 16,23:2; 17,19:2; 2,19,21:2; 2,22:2; "
    "2,4:2; 2,5:2; 20,25:2; 21,23,25:2; 3,13:2; 3,26:2; 3,6:2; 4,12:2; 4,19:2; 4,24:2; 4,5:2; "
    "4,7,21:2; 5,12:2; 5,21,25:2; 5,26:2; 7,13:2; 7,24:2; 9:2; 0,1,14; 0,1,21,25; 0,1,7; "
    "0,1,7,21; 0,12,21,25; 0,12,25; 0,14,16,17; 0,14,19; 0,14,21; 0,16,17,21; 0,16,19; 0,17,21; "
    "0,19,23; 0,2,11; 0,2,13,25; 0,2,19,21; 0,2,19,25; 0,2,20; 0,2,22; 0,2,27; 0,20,23; "
    "0,20,25; 0,21,22; 0,25,26; 0,27; 0,3,23; 0,3,5,26; 0,5,13; 0,5,19; 0,5,21,25; 0,5,23; "
    "0,6,19; 0,7,22; 1,18; 1,2,21,25; 1,2,5,21; 1,22; 1,3,4; 1,4,7; 1,7,25; 11,18; 11,23; "
    "12,14; 13,14; 13,19,25; 13,21,22,25; 13,25; 14,16,25; 14,18,25; 14,19; 14,21; 14,21,25; "
    "16,17; 17,18; 18,21,25; 18,23; 18,24; 18,25,26; 19,21,25; 19,22; 19,22,25; 2,11,25; 2,12; "
    "2,12,25; 2,13; 2,14,17,25; 2,14,25; 2,16,21; 2,16,25; 2,17,19; 2,18; 2,18,23; 2,4,7; "
    "2,7,25; 21,22,25; 21,26; 22,23; 24,25; 3,14,16; 3,18; 3,19; 3,24; 3,4; 3,5; 3,5,23; "
    "3,7,25; 4,11; 4,13; 4,13,21; 4,18,21; 4,21,25; 5,12,21; 5,14; 5,19; 5,23,25; 5,6; 5,7,25; "
    "6,12,21; 7,16,17; 7,17,25; 7,21,24,25; 7,22; 9,10 "
)
CLASS_F1 = (
    *(
        0.863,
        0.822,
        0.824,
        0.741,
        0.766,
        0.715,
        0.538,
        0.796,
        0.870,
        0.600,
        0.667,
        0.739,
        0.689,
        0.685,
    ),
    *(
        0.806,
        0.471,
        0.535,
        0.451,
        0.504,
        0.619,
        0.500,
        0.696,
        0.576,
        0.821,
        0.809,
        0.685,
        0.459,
        0.609,
    ),
)
NUM_CLASSES = len(CLASS_F1)


@dataclass(frozen=True)
class Simulated:
    """features [N, 15 + M * C] float32 with `names`, labels bool[N, C], probs [M, N, C]."""

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    probs: np.ndarray


def simulate(
    rows: int = 7754,
    models: int = 11,
    seed: int = 0,
    *,
    correlation: float = 0.75,
    learnable: float = 0.25,
    min_positives: int = 0,
) -> Simulated:
    """Draws label sets, metafeatures and the models' probabilities.

    correlation: between the errors of two models of a class (0..1); learnable: share of the common
    error's variance that metafeatures and other classes explain; min_positives: so many rows of
    each class at least (the small demonstration set has such a floor).
    """
    rng = np.random.default_rng(seed)
    labels = _draw_labels(rng, rows, min_positives)
    meta = _draw_metafeatures(rng, rows)
    standard = (meta - meta.mean(axis=0)) / (meta.std(axis=0) + 1e-9)
    explained = _explained(np.random.default_rng(20181110), rng, standard, labels)
    common = np.sqrt(learnable) * explained + np.sqrt(1 - learnable) * rng.normal(size=labels.shape)
    distance = _separations()
    probs = np.empty((models, *labels.shape), np.float32)
    for m in range(models):
        own = rng.normal(size=labels.shape)
        error = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
        skill = rng.uniform(0.925, 1.075)
        score = skill * distance * labels + error
        # Over-confident sigmoids of networks: a temperature and a bias a model.
        temperature, bias = rng.uniform(0.7, 1.6), rng.normal(0, 0.3, labels.shape[1])
        prior = np.log(np.clip(labels.mean(axis=0), 1e-3, 0.9) / 0.6)
        logit = temperature * (distance * score - distance**2 / 2 + prior + bias)
        probs[m] = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
    names = [f"meta/{name}" for name in metafeatures.NAMES]
    names += [f"model_{m:02d}/p{c:02d}" for m in range(models) for c in range(labels.shape[1])]
    table = np.concatenate([meta, *probs], axis=1).astype(np.float32)
    return Simulated(table, tuple(names), labels, probs)


def label_sets() -> tuple[list[list[int]], np.ndarray]:
    """The validation part's label sets and how many images carry each."""
    sets, counts = [], []
    for item in "".join(LABEL_SETS).split(";"):
        numbers, _, count = item.strip().partition(":")
        sets.append([int(number) for number in numbers.split(",")])
        counts.append(int(count or 1))
    return sets, np.array(counts)


def _draw_labels(rng: np.random.Generator, rows: int, floor: int) -> np.ndarray:
    sets, counts = label_sets()
    hot = np.zeros((len(sets), NUM_CLASSES), bool)
    for i, numbers in enumerate(sets):
        hot[i, numbers] = True
    whole, rest = divmod(rows, counts.sum())
    chosen = np.tile(np.repeat(np.arange(len(sets)), counts), whole)
    drawn = rng.permutation(np.repeat(np.arange(len(sets)), counts))[:rest]
    labels = hot[rng.permutation(np.concatenate([chosen, drawn]))]
    for c in range(NUM_CLASSES):
        missing = floor - int(labels[:, c].sum())
        if missing > 0:
            free = rng.permutation(np.flatnonzero(~labels[:, c] & labels[:, [0, 25]].any(axis=1)))
            labels[free[:missing]] = hot[rng.choice(np.flatnonzero(hot[:, c]), len(free[:missing]))]
    return labels


def _draw_metafeatures(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Correlated positive numbers of plausible size; not images, only their statistics."""
    exposure = rng.normal(size=(rows, 1))
    mixed = 0.6 * exposure + 0.8 * rng.normal(size=(rows, len(metafeatures.NAMES)))
    table = np.exp(0.5 * mixed) * 0.05
    for k, name in enumerate(metafeatures.NAMES):
        if "corr" in name:
            table[:, k] = np.tanh(0.5 * mixed[:, k])
        elif name == "size":
            table[:, k] = np.where(mixed[:, k] > 0.0, 3072, 2048)
    return table


def _explained(
    fixed: np.random.Generator, rng: np.random.Generator, meta: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """[N, C] of unit variance: threshold effects, products of metafeatures, look-alike classes."""
    result = np.empty(labels.shape)
    width = meta.shape[1]
    for c in range(labels.shape[1]):
        i, j, k = fixed.choice(width, 3, replace=False)
        other = fixed.choice([0, 2, 5, 7, 21, 23, 25])
        effect = np.tanh(2 * meta[:, i]) + 0.7 * meta[:, j].clip(-2, 2) * np.sign(meta[:, k])
        effect = effect + 0.8 * labels[:, other] * (other != c)
        result[:, c] = (effect - effect.mean()) / effect.std()
    return result


def separation(f1: float, share: float) -> float:
    """Distance of two unit normal scores at which the best F1 of a class of this share is `f1`."""
    from scipy.stats import norm

    thresholds = np.linspace(-3, 9, 400)
    low, high = 0.1, 9.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        hits = share * norm.sf(thresholds - middle)
        predicted = hits + (1 - share) * norm.sf(thresholds)
        low, high = (middle, high) if (2 * hits / (predicted + share)).max() < f1 else (low, middle)
    return 0.5 * (low + high)


@functools.cache
def _separations() -> np.ndarray:
    sets, counts = label_sets()
    share = np.zeros(NUM_CLASSES)
    for numbers, count in zip(sets, counts):
        share[numbers] += count / counts.sum()
    return np.array([separation(f1, p) for f1, p in zip(CLASS_F1, share)])
