"""Stages from probabilities to labels: features, stack, thresholds, submit, evaluate.

Rows: thresholds and stack are fitted on the validation rows; every score in metrics.json is nested
(each row scored by thresholds of the other folds, groups together).  The test truth is read by
`evaluate` (and the report) alone.
"""

from pathlib import Path

import numpy as np

from hpa_jax import artifacts
from hpa_jax.context import Context
from hpa_jax.stages import scores, tables
from hpa_jax.stages.tables import Rows
from hpa_jax.stamps import Task

ROOMS = ("decision", "inference/ensemble.py", "stages")
SPLIT_TABLES = ("catalog.parquet", "splits.parquet", "groups.parquet")


def features(context: Context) -> list[Task]:
    """The 15 metafeatures of the validation and test pictures -> features/{valid,test}.parquet."""
    outputs = (context.path("features", "valid.parquet"), context.path("features", "test.parquet"))

    def work() -> str:
        from hpa_jax.decision.features import metafeature_table

        catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")
        counts = []
        for output in outputs:
            ids = tables.split_rows(context, output.stem).ids
            sizes = catalog.loc[ids, "original_size"].astype(float).to_numpy()
            images = tables.images(context, ids)
            found = metafeature_table(images, ids, sizes, **context.config.features)
            artifacts.write_table(output, found)
            counts.append(len(ids))
        return f"15 features of {counts[0]:,} validation and {counts[1]:,} test pictures"

    inputs = (context.records, *_files(context, *SPLIT_TABLES))
    settings = context.config.features.to_dict()
    return [
        Task("features", "features", work, settings, inputs, outputs, (*ROOMS, "data/input.py"))
    ]


def stack(context: Context) -> list[Task]:
    """Boosted models per class on probabilities and metafeatures -> stack/."""
    settings = context.config.stack.to_dict()
    output = context.path("stack")

    def work() -> str:
        from hpa_jax.decision import stacking

        rows, test = tables.split_rows(context, "valid"), tables.split_rows(context, "test")
        inputs, names = tables.stack_features(context, "valid", rows.ids)
        test_inputs, _ = tables.stack_features(context, "test", test.ids)
        fitted = stacking.fit(
            inputs,
            rows.labels,
            groups=rows.groups,
            config=settings,
            names=names,
            prior=tables.split_rows(context, "train").labels.mean(axis=0),
            test=test_inputs,
            directory=output,
            progress=True,
        )
        fitted.save(output)
        tables.write_probabilities(output / "valid.parquet", rows.ids, fitted.oof)
        tables.write_probabilities(output / "test.parquet", test.ids, fitted.test_votes)
        return f"{len(names)} features, {len(rows.ids):,} rows, {len(fitted.units)} units"

    inputs = _predictions(context, "valid", "test") + _files(context, *SPLIT_TABLES)
    inputs += _files(context, "features/valid.parquet", "features/test.parquet")
    return [Task("stack", "stack", work, settings, inputs, (output,), ROOMS, resume="same")]


def thresholds(context: Context) -> list[Task]:
    """Per-class thresholds of each model, their mean and the stack; nested scores."""
    settings = context.config.thresholds.to_dict()
    names = ("thresholds.json", "metrics.json", "decisions.parquet")
    outputs = tuple(context.path(name) for name in names)

    def work() -> str:
        from hpa_jax.decision import stacking

        rows = tables.split_rows(context, "valid")
        weights = scores.resamples(rows)
        cuts, found, nested = {}, {}, {}
        for name, probs in scores.of_methods(context, "valid", rows.ids).items():
            if name == scores.STACK:  # it brings its own cuts, nested in its outer folds
                fitted = stacking.load(context.path("stack"))
                own, decided = fitted.thresholds, fitted.nested_decisions
            else:
                own, decided = _fit_and_nest(probs, rows, settings)
            cuts[name] = [float(cut) if np.isfinite(cut) else None for cut in own]
            nested[name] = decided
            found[name] = scores.score(rows.labels, decided, weights) | {
                "macro_f1_at_half": scores.score(rows.labels, probs >= 0.5)["macro_f1"]
            }
        table = {"classes": list(context.config.classes), "method": settings, "thresholds": cuts}
        artifacts.write_json(outputs[0], table)
        artifacts.write_json(
            outputs[1],
            {
                "rows": f"{len(rows.ids):,} validation pictures; each scored by thresholds (and a "
                f"stack) fitted without its fold; {scores.checkpoint_choice(context)}",
                "support": rows.labels.sum(axis=0),
                "classes_without_positives": scores.absent_classes(context, rows.labels),
                "scores": found,
                "best": max(found, key=lambda name: found[name]["macro_f1"]),
            },
        )
        scores.write_decisions(outputs[2], rows.ids, nested)
        return f"macro-F1 on validation, nested: {scores.summary(found)}"

    inputs = (*_predictions(context, "valid"), *_files(context, "stack", *SPLIT_TABLES))
    said = {**settings, "weights": scores.checkpoint_choice(context)}
    return [Task("thresholds", "thresholds", work, said, inputs, outputs, ROOMS)]


def submit(context: Context) -> list[Task]:
    """Labels of the test pictures -> submission.csv, in the order of sample_submission.csv."""
    settings = {"leak": context.config.leak, **context.config.submission.to_dict()}
    sample = context.data_root / "sample_submission.csv"
    output = context.path("submission.csv")

    def work() -> str:
        from hpa_jax.decision import submission

        test = tables.split_rows(context, "test")
        name = scores.chosen_method(context)
        final = scores.decisions(context, test.ids)[name]
        changed = 0
        if context.config.leak == "on":
            final, changed = _overlay_leak(context, test.ids, final)
        order = submission.sample_ids(sample)
        fill = context.config.submission.fill_empty
        submission.write(output, test.ids, final, order, allow_empty=not fill)
        return f"{len(test.ids):,} rows by the {name}, {changed} of them by the leak table"

    inputs = (*_predictions(context, "test"), sample)
    inputs += _files(context, "stack", "thresholds.json", "metrics.json", "leak.parquet")
    inputs += _files(context, *SPLIT_TABLES)
    return [Task("submit", "submit", work, settings, inputs, (output,), ROOMS)]


def evaluate(context: Context) -> list[Task]:
    """Scores on the test truth -> evaluation.json. No truth, no task."""
    path, output = context.truth, context.path("evaluation.json")
    if path is None or not path.is_file():
        print("[evaluate] the truth of the test part is not known (config.data.truth): skipped")
        artifacts.remove(output)
        return []

    def work() -> str:
        test = tables.split_rows(context, "test")
        labels, weights = tables.truth(path, test.ids, context), scores.resamples(test)
        decided = scores.decisions(context, test.ids)
        chosen = scores.chosen_method(context)
        found = {
            name: scores.score(labels, decided[name], weights)
            | {"macro_f1_at_half": scores.score(labels, probs >= 0.5)["macro_f1"]}
            | scores.ranking(labels, probs)
            for name, probs in scores.of_methods(context, "test", test.ids).items()
        }
        leaked, _ = _overlay_leak(context, test.ids, decided[chosen])
        submitted = scores.read_submission(context.path("submission.csv"), test.ids, context)
        report = {
            "rows": f"{len(test.ids):,} test pictures; nothing was fitted or chosen on them",
            "support": labels.sum(axis=0),
            "classes_without_positives": scores.absent_classes(context, labels),
            "scores": found,
            "best": max(found, key=lambda name: found[name]["macro_f1"]),
            "chosen": chosen,
            "leak_off": scores.score(labels, decided[chosen], weights),
            "leak_on": scores.score(labels, leaked, weights),
            "submission": scores.score(labels, submitted, weights),
        }
        artifacts.write_json(output, report)
        final = report["submission"]["macro_f1"]
        return f"macro-F1 on the test truth: {scores.summary(found)}; submission {final:.3f}"

    inputs = (path, *_predictions(context, "test"), *_files(context, *SPLIT_TABLES))
    inputs += _files(context, "submission.csv", "thresholds.json", "metrics.json", "stack")
    return [Task("evaluate", "evaluate", work, {}, inputs, (output,), ROOMS)]


def _fit_and_nest(probs: np.ndarray, rows: Rows, settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds [C] fitted on all rows, bool[N, C] decided fold by fold without the own."""
    from hpa_jax.decision import nested, thresholds

    settings = dict(settings)
    method, scale = settings.pop("method"), settings.pop("scale")
    fit = thresholds.fitter(method, **settings)

    def scaled(labels: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        return thresholds.scaled(fit(labels, probs, groups), scale)

    decided = nested.predictions(rows.labels, probs, scaled, groups=rows.groups)
    return scaled(rows.labels, probs, rows.groups), decided


def _overlay_leak(context: Context, ids: np.ndarray, decided: np.ndarray) -> tuple[np.ndarray, int]:
    """The decision with the labels of leaked twins written over it, and how many rows changed."""
    from hpa_jax.decision import leak

    matches = artifacts.read_table(context.path("leak.parquet"))
    nearest = matches.drop_duplicates("test_id").rename(columns={"test_id": "id"})
    overlaid, changed = leak.overlay(decided, ids, nearest)
    return overlaid, len(changed)


def _files(context: Context, *names: str) -> tuple[Path, ...]:
    return tuple(context.path(name) for name in names)


def _predictions(context: Context, *splits: str) -> tuple[Path, ...]:
    names = context.config.models
    return tuple(tables.predictions(context, name, split) for name in names for split in splits)
