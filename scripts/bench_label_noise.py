"""Lists of likely label errors, judged by wrong labels that are planted among right ones.

    scripts/bench label_noise [--draws 100] [--simulated 10] [--scores FOLDER]

Rows: the labelled ones of real networks (scripts/real_scores.py; their scores are optimistic) and
simulated sets of 1,000 rows of the competition's label sets.  Planted: 0, 2, 5 and 10 % of the rows
get another row's label set ("set"), one class in place of another ("class"), or one class more or
less ("one").  Precision and recall of both lists, by rows: ours, and confident learning (cleanlab's
own, if it is installed, else ours that equals it).
"""

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import bench_table
import numpy as np

from hpa_jax.decision import label_noise
from hpa_jax.inference import ensemble
from scripts import real_scores, simulation

DATA = Path(__file__).parent.parent / "../shared/data/real_scores"
SHARES = (0.0, 0.02, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--simulated", type=int, default=10)
    parser.add_argument("--scores", type=Path, default=DATA)
    options = parser.parse_args()
    name, confident = _confident_learning()
    if options.draws:
        real = real_scores.load(options.scores)
        probs = ensemble.mean(real.probs)
        sets = [(real.labels, probs)] * options.draws
        judge(f"{len(real.labels)} real rows", sets, name, confident)
    if options.simulated:
        data = [simulation.simulate(1000, 4, seed=seed) for seed in range(options.simulated)]
        sets = [(one.labels, one.probs.mean(axis=0, dtype=float)) for one in data]
        judge("1,000 simulated rows", sets, name, confident)


def judge(
    rows: str,
    sets: list[tuple[np.ndarray, np.ndarray]],
    name: str,
    confident: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    """Prints the lists of every kind and share of planted errors; a set is one draw."""
    print(f"\n{rows}, {len(sets)} draws: listed, precision (stated), recall; {name}")
    for kind, plant in PLANTED.items():
        for share in SHARES if kind == "set" else SHARES[1:]:
            counts = np.zeros((2, 4))
            for seed, (labels, probs) in enumerate(sets):
                rng = np.random.default_rng(seed)
                planted = rng.choice(len(labels), round(share * len(labels)), replace=False)
                given = labels.copy()
                for row in planted:
                    plant(given, labels, row, rng)
                evidence, _ = label_noise.wrong(given, probs)
                lists = evidence >= label_noise.LISTED, confident(given, probs)
                for one, listed in enumerate(lists):
                    stated = evidence[listed].sum() if one == 0 else np.nan
                    counts[one] += listed.sum(), listed[planted].sum(), len(planted), stated
            _line(rows, kind, share, counts, len(sets), name)


def _line(rows: str, kind: str, share: float, counts: np.ndarray, draws: int, name: str) -> None:
    texts = []
    for listed, right, planted, stated in counts:
        precision, recall = right / max(listed, 1), right / max(planted, 1)
        of = f" ({stated / max(listed, 1):.2f})" if np.isfinite(stated) else ""
        texts.append(f"{listed / draws:6.1f}  {precision:.2f}{of}  {recall:.2f}")
    print(f"  {kind:<6}{100 * share:3.0f} %   {texts[0]}   |  {texts[1]}", flush=True)
    if share:
        precisions = counts[:, 1] / np.maximum(counts[:, 0], 1)
        what = f"label errors, {rows}, {100 * share:.0f} % ({kind}): precision"
        bench_table.row(what, precisions[0], "", name, precisions[1])


def _another_set(given: np.ndarray, labels: np.ndarray, row: int, rng: np.random.Generator) -> None:
    while (given[row] == labels[row]).all():
        given[row] = labels[rng.integers(len(labels))]


def _another_class(
    given: np.ndarray, labels: np.ndarray, row: int, rng: np.random.Generator
) -> None:
    given[row, rng.choice(np.flatnonzero(labels[row]))] = False
    given[row, _frequent(labels, row, rng)] = True


def _one_more_or_less(
    given: np.ndarray, labels: np.ndarray, row: int, rng: np.random.Generator
) -> None:
    if labels[row].sum() > 1 and rng.random() < 0.5:
        given[row, rng.choice(np.flatnonzero(labels[row]))] = False
    else:
        given[row, _frequent(labels, row, rng)] = True


def _frequent(labels: np.ndarray, row: int, rng: np.random.Generator) -> int:
    """A class that the row does not have, by its frequency."""
    weight = labels.mean(axis=0) * ~labels[row]
    return int(rng.choice(len(weight), p=weight / weight.sum()))


PLANTED = {"set": _another_set, "class": _another_class, "one": _one_more_or_less}


def _confident_learning() -> tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Name, and (labels, probs) -> bool[N]: rows that confident learning lists."""
    try:
        from cleanlab.multilabel_classification import filter as library
    except ImportError:
        return "confident learning", lambda y, p: label_noise.likely_errors(y, p).any(axis=1)

    warnings.filterwarnings("ignore", "May not flag all label issues")  # of rare classes

    def listed(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
        lists = [list(np.flatnonzero(row)) for row in labels]
        return np.asarray(library.find_multilabel_issues_per_class(lists, probs, n_jobs=1)).any(
            axis=1
        )

    return "cleanlab", listed


if __name__ == "__main__":
    main()
