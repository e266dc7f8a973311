"""Small results: three classes (the last one without positives), two methods, two sets of scored
rows; and a whole page's data around them."""

import dataclasses

import numpy as np
import pandas as pd

from hpa_jax.core import metrics
from hpa_jax.decision import confidence, leak
from hpa_jax.report.inputs import (
    Examples,
    LabelErrors,
    Leak,
    ReportData,
    Results,
    ScoredRows,
)

CLASSES = ["Nucleoplasm", "Golgi apparatus", "Rods & rings"]
THRESHOLDS = {"tiny": np.array([0.5, 0.4, np.inf]), "stack": np.array([0.45, 0.5, np.inf])}


def scored(name: str, rows: int = 120, seed: int = 0) -> ScoredRows:
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 3)) < [0.5, 0.2, 0.0]
    probs = {
        method: 1 / (1 + np.exp(-(rng.normal(size=(rows, 3)) + 3 * labels - 1.5)))
        for method in THRESHOLDS
    }
    decided = {method: probs[method] >= THRESHOLDS[method] for method in THRESHOLDS}
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
        for method in THRESHOLDS
    }
    ids = np.array([f"{name}{row}" for row in range(rows)])
    note = f"{rows} {name} images"
    return ScoredRows(name, note, ids, labels, np.arange(rows), probs, decided, weights, scores)


def results(test: bool = True, **changes) -> Results:
    parts = scored("validation"), scored("test", 60, 1) if test else None
    around = np.array([[0.4, 0.5], [0.3, 0.7], [np.nan, np.nan]])
    automatic = {"macro_f1": 0.512, "chosen": ["stack"] * 5}
    made = Results(CLASSES, "stack", "stack", *parts, THRESHOLDS, around, automatic)
    return dataclasses.replace(made, **changes)


def noise(ids):
    """Images of noise, one an id."""
    rng = np.random.default_rng(0)
    return iter(rng.integers(0, 256, (len(ids), 16, 16, 4), np.uint8))


def data(of: Results, **changes) -> ReportData:
    """A page's data; `changes` replace what would be empty."""
    none = np.zeros((0, len(CLASSES)), bool)
    pairs = ["id_a", "id_b", "source_a", "source_b", "distance_r", "distance_g", "distance_b"]
    errors = ["id", "trust", "given", "suggested", "worst_class", "worst_probability"]
    made = ReportData(
        results=of,
        train_support=np.array([7, 1234, 0]),
        gains={},
        logs={},
        schedules={},
        examples=Examples(np.zeros(0, str), none, None),
        labels={"train": of.valid.labels},
        label_errors=LabelErrors(pd.DataFrame(columns=errors), 50),
        duplicates=pd.DataFrame(columns=[*pairs, "group", "conflict", "exact"]),
        neighbours=None,
        leak=Leak(*(pd.DataFrame(columns=leak.COLUMNS) for _ in range(2)), ("t1",), False),
        adversarial=None,
        seconds={"data": 1.0},
        images=noise,
        shown=10,
    )
    return dataclasses.replace(made, **changes)
