"""Times and judges the decision part beside scikit-learn and LightGBM, all in one run.

    scripts/bench decision [--parts views,thresholds,...,votes,real_votes] [--work DIR]

Parts: `views` (test-time views against as many plain passes), `thresholds` (28 classes,
5 x 20 x 50, against a scikit-learn loop), `features` (images/s), `stack` (the whole `talk`
protocol: 375 models a class, votes for 11,702 test rows), `protocols` (one repeat of every class
by `quick`, `main` and `by_frequency`, and what all repeats would take), `votes` (macro-F1 of our
votes and of LightGBM's with the original settings, same rows, same splits, paired bootstrap),
`real_votes` (the same on halves of real networks' labelled rows, --scores, --draws; LightGBM
takes two minutes of processor time a half).
LightGBM is needed by the two parts of votes alone: scripts/requirements-bench.txt.
Data: hpa_jax.decision.simulation, which draws the competition's label sets and models of the F1
that the team's single models had.  Finished fits are kept in --work, so a killed bench goes on.
CPU seconds are printed beside wall seconds: on a shared machine only they, and ratios inside one
run, mean something.
"""

import argparse
import importlib.util
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import bench_table
import numpy as np

from hpa_jax.core import folds, metrics
from hpa_jax.decision import features, nested, thresholds
from hpa_jax.decision.stack import inputs, runner, stacking, units
from hpa_jax.decision.stack.protocols import Protocol, resolve
from scripts import real_scores, simulation

DATA = Path(__file__).parent.parent / "../shared/data/real_scores"
TEST_ROWS = 11_702
VALID_ROWS, NEW_ROWS = 7_754, 60_000  # of the part votes
LIGHTGBM = dict(  # the team's settings (spec 7.1), with feature_fraction .6 as they meant it
    boosting="gbdt",
    objective="binary",
    metric="auc",
    learning_rate=0.01,
    feature_fraction=0.6,
    num_leaves=256,
    max_depth=9,
    min_data_in_leaf=15,
    max_bin=255,
    bagging_fraction=0.9,
    bagging_freq=5,
    num_threads=1,
    seed=239,
    verbosity=-1,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", default="views,thresholds,features,stack,protocols,votes")
    parser.add_argument("--work", default="", help="folder for finished fits (default: none kept)")
    parser.add_argument("--classes", default="3,12,17,26", help="of the part votes")
    parser.add_argument("--stack", default="{}", help="JSON: settings that differ from talk")
    parser.add_argument("--scores", type=Path, default=DATA, help="folder of the part real_votes")
    parser.add_argument("--draws", type=int, default=20, help="halves of the part real_votes")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    work = Path(options.work) if options.work else None
    parts = options.parts.split(",")
    if {"votes", "real_votes"} & set(parts) and importlib.util.find_spec("lightgbm") is None:
        parser.error(
            "votes need LightGBM: .venv/bin/python -m pip install "
            "-r scripts/requirements-bench.txt, or leave the part out (--parts)"
        )
    for part in parts:
        if part == "views":
            bench_views()
        elif part == "thresholds":
            bench_thresholds()
        elif part == "features":
            bench_features(options.workers)
        elif part == "stack":
            bench_stack(work, options.workers, json.loads(options.stack))
        elif part == "protocols":
            bench_protocols(options.workers)
        elif part == "votes":
            numbers = [int(number) for number in options.classes.split(",")]
            bench_votes(work, numbers, options.workers, json.loads(options.stack))
        elif part == "real_votes":
            settings = json.loads(options.stack)
            bench_real_votes(options.scores, options.draws, options.workers, settings)
        else:
            parser.error(f"unknown part {part!r}")


def bench_views() -> None:
    """Views of a batch in one call, against as many plain passes of the same network."""
    import bench_inference

    backbone, size, batch = "resnet34", 128, 8
    plain, rows = bench_inference.measure(backbone, size, batch, 3, ("d4", "oml", "crops"))
    _line(f"plain pass of {backbone}, {batch} images of {size} px", f"{1000 * plain:.0f} ms")
    for row in rows:
        what = f"views {row['views']}: time over {row['count']} x plain"
        _line(what, f"{row['ratio']:.3f}", "target 1.05")
        bench_table.row(
            f"{row['count']} views ({row['views']}) of {batch} images of {size}², {backbone}",
            row["ms"], "ms", f"{row['count']} plain passes", 1e3 * row["count"] * plain,
        )  # fmt: skip


def bench_thresholds() -> None:
    """cross_validated against the scikit-learn loop, which is timed on a part and extrapolated."""
    data = simulation.simulate()
    probs = data.probs[0].astype(np.float64)
    thresholds.cross_validated(data.labels[:500], probs[:500], repeats=1)  # warm-up
    own = _clock(lambda: thresholds.cross_validated(data.labels, probs))
    fold_ids = folds.stratified(data.labels, 5, [101 * j for j in range(20)])
    given = _clock(lambda: thresholds.cross_validated(data.labels, probs, fold_ids=fold_ids))
    started, largest = time.perf_counter(), 0.0
    for c in (2, 12):
        expected = _sklearn_loop(data.labels[:, c], probs[:, c])
        found = thresholds.per_part(data.labels[:, [c]], probs[:, [c]], repeats=1)[0]
        largest = max(largest, float(np.abs(found - expected).max()))
    loop = (time.perf_counter() - started) / 2 * 28 * 20
    _line("thresholds 7,754 x 28, 5 x 20 x 50, folds included", f"{own:.2f} s", "target 1 s")
    _line("thresholds with folds given", f"{given:.2f} s", "target 0.3 s")
    _line("scikit-learn loop (2 of 560 parts timed)", f"{loop:.0f} s", f"{loop / own:.0f} x ours")
    _line("largest difference of a single threshold", f"{largest:.1e}", "target 1e-9")
    bench_table.row(
        "thresholds, 7,754 rows × 28 classes × 5 folds × 20 repeats",
        own, "s", "scikit-learn loop (2 of 560 parts timed)", loop,
    )  # fmt: skip


def _sklearn_loop(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedKFold

    found = []
    for _, held in StratifiedKFold(5, shuffle=True, random_state=0).split(probs, labels):
        class_thresholds = np.linspace(probs[held].min(), probs[held].max(), 50)
        scores = [
            f1_score(labels[held], probs[held] >= threshold, zero_division=0)
            for threshold in class_thresholds
        ]
        found.append(class_thresholds[int(np.argmax(scores))])
    return np.array(found)


def bench_features(workers: int) -> None:
    """Metafeatures of 512 x 512 images, without decoding."""
    rng = np.random.default_rng(0)
    images = [rng.gamma(0.5, 30, (512, 512, 4)).clip(0, 255).astype(np.uint8) for _ in range(8)]
    many = [images[i % 8] for i in range(400)]
    ids = [str(i) for i in range(400)]
    features.metafeature_table(many[:16], ids[:16], workers=workers)
    for extra in (False, True):
        seconds = _clock(
            lambda extra=extra: features.metafeature_table(many, ids, extra=extra, workers=workers)
        )
        what = "15 metafeatures + 17 extra" if extra else "15 metafeatures"
        _line(f"{what}, 512 px, {workers} threads", f"{400 / seconds:.0f} /s", "target 200 /s")
        bench_table.row(f"{what} of 512² images", 400 / seconds, "images/s")


def bench_stack(work: Path | None, workers: int, settings: dict) -> None:
    """The whole talk protocol on simulated predictions of 11 models.

    Four classes have 1 to 4 positives among the real rows, too few for 5 x 3 folds; here every
    class has at least 9, so that all 28 are fitted.
    """
    data = simulation.simulate(min_positives=9)
    new = simulation.simulate(TEST_ROWS, seed=1)
    wall, cpu = time.perf_counter(), _cpu()
    stack = stacking.fit(
        data.features,
        data.labels,
        config={"protocol": "talk", **settings},
        names=data.names,
        prior=data.labels.mean(axis=0),
        test=new.features,
        directory=None if work is None else work / "talk",
        workers=workers,
        progress=True,
    )
    wall = time.perf_counter() - wall
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)  # only ended children show their CPU time
    cpu = _cpu() - cpu
    models = sum(len(unit.models) for unit in stack.units)
    _line(
        f"stack talk, {models} models, {TEST_ROWS} test rows, {workers} processes",
        f"{wall / 60:.1f} min",
        "target 20 min",
    )
    _line("  CPU time", f"{cpu / 60:.1f} min", f"{1000 * cpu / max(models, 1):.0f} ms a model")
    bench_table.row(f"stack, protocol talk: {models:,} models, 7,754 × 323", wall / 60, "min")
    for name, found in stack.scores.items():
        _line(
            f"  nested macro-F1 of {name}",
            f"{found['macro_f1']:.4f}",
            f"AP {found['macro_average_precision']:.4f}",
        )


def bench_protocols(workers: int) -> None:
    """One repeat of every class, measured; the time of all repeats is that times their number."""
    import joblib

    data = simulation.simulate(min_positives=9)
    table = inputs.named(data.names, data.labels.shape[1]).split(data.features)
    prior, positives = tuple(data.labels.mean(axis=0)), data.labels.sum(axis=0)
    for name in ("quick", "main", "by_frequency"):
        protocol = resolve(name)
        shared = inputs.StackData(table, data.labels, None, prior, None, protocol)
        jobs = [job for job in runner.jobs(data.labels, protocol) if job.repeat == 0]
        wall = time.perf_counter()
        seconds = joblib.Parallel(n_jobs=workers, batch_size=1)(
            joblib.delayed(_unit_seconds)(shared, job) for job in jobs
        )
        wall = time.perf_counter() - wall
        repeats = [protocol.counts(int(positives[job.classes[0]]))[0] for job in jobs]
        models = [protocol.models(int(positives[job.classes[0]])) for job in jobs]
        fitted = sum(count // times for count, times in zip(models, repeats))
        _line(f"{name}: one repeat of {len(jobs)} classes, {fitted:,} models", f"{wall:.0f} s")
        whole, how = wall * np.dot(seconds, repeats) / sum(seconds) / 60, ""
        if max(repeats) > 1:
            how = ", one repeat timed"
            _line(f"  all {sum(models):,} models (times the repeats)", f"{whole:.1f} min")
        bench_table.row(
            f"stack, protocol {name}: {sum(models):,} models, {len(data.labels):,} × "
            f"{data.features.shape[1]}{how}",
            whole, "min",
        )  # fmt: skip


def _unit_seconds(shared: inputs.StackData, job: runner.StackJob) -> float:
    started = time.perf_counter()
    runner.do(shared, job)
    return time.perf_counter() - started


def bench_votes(work: Path | None, classes: list[int], workers: int, settings: dict) -> None:
    """45 fits a class by us and by LightGBM; paired difference of macro-F1.

    Held out: each row by the 9 models that did not see it, thresholds nested.  New: rows that
    nobody saw, by all 45 models, threshold where the held-out votes say; so many rows that the
    interval is that of the methods and not of a hundred positives.
    """
    data, new = _fitted_and_new()
    protocol = resolve({"protocol": "talk", "repeats": 1, "inner_repeats": 3, **settings})
    votes, seconds = _votes(data, new, classes, protocol, workers, work)
    _fit_time(seconds, 45 * len(classes))
    fit, rows = stacking.threshold_fitter(protocol), len(data.labels)
    labels = data.labels[:, classes]
    _compare("held-out", labels, *(nested.predictions(labels, v[:rows], fit) for v in votes))
    decided = [v[rows:] >= fit(labels, v[:rows], None) for v in votes]
    _compare("new", new.labels[:, classes], *decided)
    for column, c in enumerate(classes):
        pair = [metrics.class_f1(new.labels[:, classes], d)[column] for d in decided]
        positives = int(labels[:, column].sum())
        _line(f"  class {c} ({positives} positives to learn from)", f"{pair[0]:.4f}; {pair[1]:.4f}")


def bench_real_votes(folder: Path, draws: int, workers: int, settings: dict) -> None:
    """The same fits on the scores of real networks: half of the labelled rows fitted, half judged.

    The classes that can be fitted in every half: as many positives as there are outer folds.
    """
    real = real_scores.load(folder)
    protocol = resolve({"protocol": "talk", "repeats": 1, "inner_repeats": 3, **settings})
    orders = [np.random.default_rng(seed).permutation(len(real.labels)) for seed in range(draws)]
    half = len(real.labels) // 2
    fewest = np.min([real.labels[order[:half]].sum(axis=0) for order in orders], axis=0)
    classes = np.flatnonzero(fewest >= protocol.outer).tolist()
    scores, seconds = [], np.zeros(2)
    for order in orders:
        data, new = (_rows(real, rows) for rows in (order[:half], order[half:]))
        votes, spent = _votes(data, new, classes, protocol, workers, None)
        seconds += spent
        labels, fit = data.labels[:, classes], stacking.threshold_fitter(protocol)
        scores.append(
            [
                metrics.macro_f1(new.labels[:, classes], v[half:] >= fit(labels, v[:half], None))
                for v in votes
            ]
        )
    _fit_time(seconds, 45 * len(classes) * draws)
    ours, theirs = np.mean(scores, axis=0)
    gaps = np.subtract(*np.transpose(scores))
    what = f"macro-F1 of votes, {len(classes)} classes, {half} real rows fitted, {draws} halves"
    _line(f"{what}: ours; LightGBM", f"{ours:.4f}; {theirs:.4f}")
    error = gaps.std(ddof=1) / np.sqrt(draws)
    _line("  paired difference ± standard error", f"{gaps.mean():+.4f} ± {error:.4f}")
    bench_table.row(what, ours, "F1", "LightGBM", theirs)


def _rows(real: real_scores.RealScores, rows: np.ndarray) -> simulation.Simulated:
    """Rows of real networks' scores in the form of simulated ones; there are no metafeatures."""
    probs = real.probs[:, rows]
    names = [f"{name}/p{c:02d}" for name in real.names for c in range(probs.shape[2])]
    table = np.concatenate(list(probs), axis=1).astype(np.float32)
    return simulation.Simulated(table, tuple(names), real.labels[rows], probs)


def _votes(
    data: simulation.Simulated,
    new: simulation.Simulated,
    classes: list[int],
    protocol: Protocol,
    workers: int,
    work: Path | None,
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """((ours, LightGBM's) votes float[rows + new rows, classes], their CPU seconds)."""
    import joblib

    columns = inputs.named(data.names, data.labels.shape[1])
    table, new_table = columns.split(data.features), columns.split(new.features)
    shared = inputs.StackData(table, data.labels, None, None, new_table, protocol)
    ours = np.zeros((len(data.labels) + len(new.labels), len(classes)))
    seconds = np.zeros(2)
    for column, c in enumerate(classes):
        started = time.process_time()
        unit = units.fit_unit(shared, c, 0)
        ours[:, column] = np.concatenate([unit.votes, unit.test_votes])
        seconds[0] += time.process_time() - started
    jobs = [(data, new, c, number, protocol, work) for c in classes for number in range(5)]
    folds_done = joblib.Parallel(n_jobs=workers, batch_size=1)(
        joblib.delayed(_lightgbm_fold)(*job) for job in jobs
    )
    theirs = np.zeros_like(ours)
    for (_, _, c, _, _, _), (held, votes, on_new, spent) in zip(jobs, folds_done):
        theirs[held, classes.index(c)] = votes
        theirs[len(data.labels) :, classes.index(c)] += on_new / 5
        seconds[1] += spent
    return (ours, theirs), seconds


def _fit_time(seconds: np.ndarray, fits: int) -> None:
    """Prints the CPU time of a fit with its votes."""
    milliseconds = 1000 * seconds / fits
    what = f"CPU of a fit and its votes, {fits} fits"
    _line(f"{what}: ours; LightGBM", "; ".join(f"{number:.0f} ms" for number in milliseconds))
    bench_table.row(what, milliseconds[0], "ms", "LightGBM", milliseconds[1])


def _fitted_and_new() -> tuple[simulation.Simulated, simulation.Simulated]:
    """Validation rows and new ones by the same simulated models."""
    whole, rows = simulation.simulate(VALID_ROWS + NEW_ROWS), np.arange(VALID_ROWS + NEW_ROWS)
    return tuple(
        simulation.Simulated(whole.features[r], whole.names, whole.labels[r], whole.probs[:, r])
        for r in (rows[:VALID_ROWS], rows[VALID_ROWS:])
    )


def _compare(which: str, labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Both macro-F1 and the 95 % interval of their difference, rows resampled together."""
    rng, differences = np.random.default_rng(0), []
    for _ in range(1000):
        rows = rng.integers(0, len(labels), len(labels))
        pair = [metrics.macro_f1(labels[rows], decided[rows]) for decided in (ours, theirs)]
        differences.append(pair[0] - pair[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    scores = [metrics.macro_f1(labels, decided) for decided in (ours, theirs)]
    what = f"macro-F1 of votes on {len(labels):,} {which} rows"
    _line(f"{what}: ours; LightGBM", f"{scores[0]:.4f}; {scores[1]:.4f}")
    _line("  paired difference, 95 %", f"{low:+.4f} .. {high:+.4f}", "target: low end >= -0.01")
    bench_table.row(what, scores[0], "F1", "LightGBM", scores[1])
    bench_table.row(
        f"{what}, ours − LightGBM's, 95 % {low:+.4f} to {high:+.4f}", scores[0] - scores[1], "F1"
    )


def _lightgbm_fold(
    data: simulation.Simulated,
    new: simulation.Simulated,
    c: int,
    number: int,
    protocol: object,
    work: Path | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(held rows, mean of their binary votes, mean of the new rows', CPU seconds) of a fold."""
    file = None if work is None else work / "lightgbm" / f"class{c:02d}_fold{number}.npz"
    if file is not None and file.exists():
        stored = np.load(file)
        return stored["held"], stored["votes"], stored["on_new"], float(stored["seconds"])
    import lightgbm

    started = time.process_time()
    y = data.labels[:, c].astype(float)
    _, plan = units.splits(data.labels[:, c], None, c, 0, protocol)
    held, pairs = plan[number]
    votes, on_new = np.zeros(len(held)), np.zeros(len(new.labels))
    for fit, stop in pairs:
        train = lightgbm.Dataset(data.features[fit], y[fit])
        model = lightgbm.train(
            LIGHTGBM,
            train,
            1000,
            valid_sets=[train.create_valid(data.features[stop], y[stop])],
            callbacks=[lightgbm.early_stopping(200, verbose=False)],
        )
        on_stop = model.predict(data.features[stop])
        threshold = thresholds.on_grid(y[stop][:, None] > 0, on_stop[:, None], 1000)[0]
        votes += (model.predict(data.features[held]) >= threshold) / len(pairs)
        on_new += (model.predict(new.features) >= threshold) / len(pairs)
    seconds = time.process_time() - started
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, held=held, votes=votes, on_new=on_new, seconds=seconds)
    return held, votes, on_new, seconds


def _clock(work: object, tries: int = 3) -> float:
    """Best wall seconds of a few tries."""
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _cpu() -> float:
    """CPU seconds of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _line(what: str, value: str, beside: str = "") -> None:
    print(f"{what:<70} {value:>22}   {beside}", flush=True)


if __name__ == "__main__":
    main()
