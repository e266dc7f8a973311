"""Ways to decide on scores of real networks: methods × threshold rules, by number of labelled rows.

    scripts/bench rules [--parts real,check,sizes] [--draws 20] [--sizes 100,300,1000,8000]

real: half of the labelled rows to fit on, the other half judged, --draws times.  check: as many
simulated rows with the same label sets (scripts/real_scores.py), which should score alike.  sizes:
simulated rows with the label sets of the real train.csv, judged on 8,000 others.
Macro-F1 over the classes with positives among the judged rows; ± is the standard error of the mean
over draws, of differences paired.  The networks' scores on these rows are optimistic: see there.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import bench_table
import numpy as np

from hpa_jax.core import metrics
from hpa_jax.decision import blends, choice, confidence, nested, thresholds
from hpa_jax.decision.stack import inputs, stacking
from scripts import real_scores

DATA = Path(__file__).parent.parent / "../shared/data"
JUDGED = 8000  # rows of a simulated set
REFERENCE = ("mean of models", "match_proportions")
Scores = dict[str, tuple[np.ndarray, np.ndarray]]  # method -> (fitted rows out of fold, judged)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scores", type=Path, default=DATA / "real_scores")
    parser.add_argument("--tables", type=Path, default=DATA / "real_tables")
    parser.add_argument("--parts", default="real,check,sizes")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--sizes", default="100,300,1000,8000")
    options = parser.parse_args()
    real = real_scores.load(options.scores)
    rows, parts = len(real.labels), options.parts.split(",")

    def real_half(seed: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng(seed).permutation(rows)
        return real.labels[order], real.probs[:, order]

    def simulated_half(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return real_scores.simulate(real, rows, seed, real.labels)

    half = rows // 2
    if "real" in parts:
        table(f"{half} real rows, {rows - half} judged", real_half, half, options.draws)
    if "check" in parts:
        title = f"{half} simulated rows, {rows - half} judged, with the real rows' label sets"
        table(title, simulated_half, half, options.draws)
    if "sizes" not in parts:
        return
    sets = real_scores.label_sets(options.tables / "train.csv")
    for rows in map(int, options.sizes.split(",")):
        table(
            f"{rows:,} simulated rows, {JUDGED:,} judged",
            lambda seed, rows=rows: real_scores.simulate(real, rows + JUDGED, seed, sets),
            rows,
            options.draws,
            sets.mean(axis=0),
        )


def table(
    title: str,
    drawn: Callable[[int], tuple[np.ndarray, np.ndarray]],
    fitted: int,
    draws: int,
    shares: np.ndarray | None = None,
) -> None:
    """Prints the scores of all methods and rules. drawn: seed -> (labels [N, C], probs [M, N, C]),
    of which the first `fitted` rows are fitted on; shares: those of training, if known."""
    found: dict[tuple[str, str], list[float]] = {}
    chosen: list[str] = []
    for seed in range(draws):
        labels, probs = drawn(seed)
        y, truth = labels[:fitted], labels[fitted:]
        scores, own = methods(y, probs[:, :fitted], probs[:, fitted:])
        decided, picked = decisions(y, scores, own, shares)
        chosen.append(" by ".join(picked))
        for key, values in decided.items():
            found.setdefault(key, []).append(metrics.macro_f1(truth, values, present_only=True))
    print(f"\n{title}; {draws} draws")
    base = np.array(found[REFERENCE])
    for (method, rule), values in found.items():
        scores_ = np.array(values)
        gap, error = scores_ - base, np.sqrt(draws)
        what = f"{method}, {rule}"
        print(
            f"  {what:<44} {scores_.mean():.4f} ± {scores_.std(ddof=1) / error:.4f}   "
            f"{gap.mean():+.4f} ± {gap.std(ddof=1) / error:.4f}"
        )
        bench_table.row(f"{title}: {what}", scores_.mean(), "F1", ", ".join(REFERENCE), base.mean())
    print(
        "  auto chose: "
        + "; ".join(f"{name} ({chosen.count(name)})" for name in sorted(set(chosen)))
    )


def methods(labels: np.ndarray, probs: np.ndarray, judged: np.ndarray) -> tuple[Scores, np.ndarray]:
    """Scores of the methods, the simplest first, and the stack's own thresholds."""
    found: Scores = {}
    for name, method in (
        ("mean of models", "mean"),
        ("weighted mean", "likelihood"),
        ("logistic regression", "logistic"),
    ):
        blend, out_of_fold = blends.fit_and_score(method, probs, labels)
        found[name] = out_of_fold, blend(judged)
    tables = [
        inputs.of_tables(p, [f"m{m}" for m in range(len(p))], np.zeros((p.shape[1], 0)), [])
        for p in (probs, judged)
    ]
    stack = stacking.fit(tables[0], labels, test=tables[1], workers=1)
    found["stack"] = stack.oof, stack.test_votes
    return found, stack.thresholds


def decisions(
    labels: np.ndarray, scores: Scores, stacks_own: np.ndarray, shares: np.ndarray | None
) -> tuple[dict[tuple[str, str], np.ndarray], tuple[str, str]]:
    """bool[N, C] of the judged rows by (method, rule), "auto" last; and what auto chose."""
    found, candidates = {}, {}
    for method, (fitted, judged) in scores.items():
        for rule, own in choice.rules(shares, True).items():
            class_thresholds = own.fit(labels, judged if own.on_test else fitted, None)
            found[method, rule] = judged >= class_thresholds
            candidates[method, rule] = nested.predictions(
                labels, fitted, own.fit, on_fold_scores=own.on_test
            )
        found[method, "0.5"] = judged >= 0.5
        found[method, "the team's (cross_validated)"] = judged >= thresholds.cross_validated(
            labels, fitted
        )
        corrected = prior_shift(judged, labels.mean(axis=0))
        found[method, "match_test, shares by EM"] = judged >= thresholds.match_proportions(
            judged, corrected
        )
    found["stack", "its own"] = scores["stack"][1] >= stacks_own
    weights = confidence.resamples(len(labels), choice.DRAWS)
    picked = choice.simplest(labels, candidates, weights)
    found["auto", "auto"] = found[picked]
    return found, picked


def prior_shift(probs: np.ndarray, prior: np.ndarray, steps: int = 100) -> np.ndarray:
    """Shares float[C] of unlabelled rows by expectation-maximisation (Saerens et al. 2002).

    probs: [N, C] of rows whose classes have other shares than `prior` [C], those of the rows that
    the probabilities were fitted on.
    """
    prior = np.clip(prior, 1e-4, 1 - 1e-4)
    shares = prior.copy()
    for _ in range(steps):
        yes = probs * shares / prior
        moved = (yes / (yes + (1 - probs) * (1 - shares) / (1 - prior))).mean(axis=0)
        if np.abs(moved - shares).max() < 1e-6:
            break
        shares = np.clip(moved, 1e-6, 1 - 1e-6)
    return shares


if __name__ == "__main__":
    main()
