"""The step `evaluate`: score every method on the audit part and on the test truth.

The audit part: labelled images set apart by config.split.audit.  Nothing is fitted or chosen on
them, so their scores need no nesting.  They are the ones to trust if the test truth is unknown, and
with config.refit the only ones of the submission's networks.

The test truth is read only here and by the report.
"""

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.pipeline import retrieve, scores, seen, submit, tables
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context


def evaluate(context: Context) -> list[Task]:
    """Return the tasks that score the audit part -> audit.json, and test -> evaluation.json.

    No task without an audit part or a truth.
    """
    return [*_on_audit(context), *_on_truth(context)]


def _on_audit(context: Context) -> list[Task]:
    """Score every method on the audit part -> audit/ (of blends and stack), audit.json."""
    outputs = context.paths("audit", "audit.json")
    if not context.config.split.audit:
        for output in outputs:
            artifacts.remove(output)
        return []

    def work() -> str:
        rows = tables.split_rows(context, tables.AUDIT)
        _blend_and_stack(context, rows.ids)
        weights, chosen = scores.resamples(rows), scores.chosen_method(context)
        decided = scores.decisions(context, rows.ids, tables.AUDIT)
        results = {
            name: scores.score(rows.labels, decided[name], weights, scores.known_classes(probs))
            | {"macro_f1_at_half": scores.score(rows.labels, probs >= 0.5)["macro_f1"]}
            | scores.ranking(rows.labels, probs)
            for name, probs in scores.of_methods(context, tables.AUDIT, rows.ids).items()
        }
        final, _ = retrieve.replaced(context, tables.AUDIT, rows.ids, decided[chosen])
        submitted = scores.score(rows.labels, final, weights)
        report = {
            "rows": f"{len(rows.ids):,} audit images; nothing was fitted or chosen on them",
            "support": rows.labels.sum(axis=0),
            "classes_without_positives": scores.absent_classes(context, rows.labels),
            "scores": seen.marked(context, results),
            "chosen": chosen,
            "submission": seen.marked(context, {chosen: submitted})[chosen],
        }
        artifacts.write_json(outputs[1], report)
        results = report["scores"]
        low, high = submitted["macro_f1_interval"]
        return (
            f"macro-F1 on the audit part: {scores.summary(results)}; as submitted ({chosen}) "
            f"{submitted['macro_f1']:.3f} ({low:.3f} to {high:.3f})"
        )

    submission = context.config.submission
    settings = {"submission.argmax": submission.argmax, "refit": context.config.refit}
    settings |= {"submission.method": submission.method, **retrieve.settings(context)}
    settings |= seen.settings(context)
    inputs = tables.all_predictions(context, tables.AUDIT) + context.paths(*tables.SPLIT_TABLES)
    inputs += context.paths("stack", "ensemble", "thresholds.json", "metrics.json")
    inputs += context.paths("features/valid.parquet", "features/audit.parquet")
    inputs += (tables.components(context),) if context.config.embeddings.pca else ()
    inputs += retrieve.files(context)
    return [Task("evaluate", "audit", work, settings, inputs, outputs)]


def _blend_and_stack(context: Context, ids: np.ndarray) -> None:
    """Apply blends and stack, fitted on validation, to the audit part."""
    from hpa_jax.decision import blends
    from hpa_jax.decision.stack import stacking

    stored = artifacts.read_json(context.path("ensemble", "blends.json"))
    probs, models = tables.of_models(context, tables.AUDIT, ids), list(context.config.models)
    outputs = {
        name: blends.from_json(stored[name], models)(probs) for name in scores.blends(context)
    }
    inputs = tables.stack_inputs(context, tables.AUDIT, ids)
    outputs[scores.STACK] = stacking.load(context.path("stack")).predict(inputs)
    artifacts.remove(context.path("audit"))
    for name, values in outputs.items():
        path = scores.audited_path(context, name)
        tables.write_probabilities(path, ids, np.asarray(values, np.float32))


def _on_truth(context: Context) -> list[Task]:
    path, output = context.truth, context.path("evaluation.json")
    if path is None or not path.is_file():
        print("[evaluate] the test truth is not known (config.data.truth): skipped")
        artifacts.remove(output)
        return []

    def work() -> str:
        test = tables.split_rows(context, "test")
        labels, weights = tables.truth(path, test.ids, context), scores.resamples(test)
        decided = scores.decisions(context, test.ids)
        chosen = scores.chosen_method(context)
        results = {
            name: scores.score(labels, decided[name], weights, scores.known_classes(probs))
            | {"macro_f1_at_half": scores.score(labels, probs >= 0.5)["macro_f1"]}
            | scores.ranking(labels, probs)
            for name, probs in scores.of_methods(context, tables.FINAL, test.ids).items()
        }
        off, _ = retrieve.replaced(context, "test", test.ids, decided[chosen])
        leaked, _ = submit.overlay_leak(context, test.ids, off)
        submitted = tables.submission(context.path("submission.csv"), test.ids, context)
        report = {
            "rows": f"{len(test.ids):,} test images; nothing was fitted or chosen on them",
            "support": labels.sum(axis=0),
            "classes_without_positives": scores.absent_classes(context, labels),
            "scores": seen.marked(context, results, test=True),
            "best": max(results, key=lambda name: results[name]["macro_f1"]),
            "chosen": chosen,
            "retrieval_off": scores.score(labels, decided[chosen], weights),
            "leak_off": scores.score(labels, off, weights),
            "leak_on": scores.score(labels, leaked, weights),
            "submission": scores.score(labels, submitted, weights),
        }
        if context.config.refit:
            before = scores.decisions(context, test.ids, "test")[chosen]
            report["refit_off"] = scores.score(labels, before, weights)
        artifacts.write_json(output, report)
        results = report["scores"]
        final, off, on = (report[key]["macro_f1"] for key in ("submission", "leak_off", "leak_on"))
        return (
            f"macro-F1 on the test truth: {scores.summary(results)}; submission {final:.3f} "
            f"(leak table off {off:.3f}, on {on:.3f})"
        )

    inputs = (path, *tables.all_predictions(context, "test"), *context.paths(*tables.SPLIT_TABLES))
    inputs += context.paths("submission.csv", "thresholds.json", "metrics.json", "stack")
    inputs += context.paths("ensemble", "leak_overlay.parquet", "duplicates.parquet")
    inputs += retrieve.files(context) + scores.refitted_files(context)
    settings = {"refit": context.config.refit, **submit.options(context), **seen.settings(context)}
    return [Task("evaluate", "evaluate", work, settings, inputs, (output,))]
