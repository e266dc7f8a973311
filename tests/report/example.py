"""A small set of findings: three classes (the last one without positives), two methods, two sets
of scored rows."""

import numpy as np

from hpa_jax.core import metrics
from hpa_jax.decision import confidence
from hpa_jax.report.findings import Findings, Scored

CLASSES = ["Nucleoplasm", "Golgi apparatus", "Rods & rings"]
CUTS = {"tiny": np.array([0.5, 0.4, np.inf]), "stack": np.array([0.45, 0.5, np.inf])}


def scored(name: str, rows: int = 120, seed: int = 0) -> Scored:
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 3)) < [0.5, 0.2, 0.0]
    probs = {
        method: 1 / (1 + np.exp(-(rng.normal(size=(rows, 3)) + 3 * labels - 1.5)))
        for method in CUTS
    }
    decided = {method: probs[method] >= CUTS[method] for method in CUTS}
    weights = confidence.resamples(rows, 100)
    scores = {
        method: {
            "macro_f1": metrics.macro_f1(labels, decided[method]),
            "macro_f1_interval": confidence.f1_intervals(
                labels, decided[method], weights=weights
            ).macro,
            "macro_f1_at_half": metrics.macro_f1(labels, probs[method] >= 0.5),
            "mean_average_precision": metrics.macro_average_precision(labels, probs[method]),
        }
        for method in CUTS
    }
    ids = np.array([f"{name}{row}" for row in range(rows)])
    note = f"{rows} {name} images"
    return Scored(name, note, ids, labels, np.arange(rows), probs, decided, weights, scores)


def findings(test: bool = True) -> Findings:
    parts = scored("validation"), scored("test", 60, 1) if test else None
    around = np.array([[0.4, 0.5], [0.3, 0.7], [np.nan, np.nan]])
    automatic = {"macro_f1": 0.512, "chosen": ["stack"] * 5}
    return Findings(CLASSES, "stack", "stack", *parts, CUTS, around, automatic)
