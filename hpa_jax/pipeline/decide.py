"""Stages from probabilities to cuts: features, stack, thresholds (with the blends of the models).

Rows: blends, thresholds and stack are fitted on the validation rows; every score in metrics.json is
nested (each row scored by thresholds of the other folds, groups together).
"""

from pathlib import Path

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.pipeline import cuts as cuts_of
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import prepare, retrieval, scores, tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.cuts import Drawn, around, fit_and_nest

ROOMS = ("decision", "inference/ensemble.py", "pipeline")


def features(context: Context) -> list[Task]:
    """The 15 metafeatures of validation, test and audit images -> features/PART.parquet."""
    parts = ("valid", *tables.unseen_parts(context))
    outputs = tuple(context.path("features", f"{part}.parquet") for part in parts)

    def work() -> str:
        from hpa_jax.decision.features import metafeature_table

        catalog = tables.catalog(context, prepare.roots(context)).set_index("id")
        counts = []
        for part, output in zip(parts, outputs):
            ids = tables.split_rows(context, part).ids
            sizes = tables.sizes(catalog.loc[ids], context.config.features.extra)
            images = tables.images(context, ids)
            found = metafeature_table(images, ids, *sizes, **context.config.features)
            artifacts.write_table(output, found)
            counts.append(f"{len(ids):,} {part}")
        return f"{len(found.columns) - 1} features of {' and '.join(counts)} images"

    def measured() -> str:
        catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")
        ids = [tables.split_rows(context, part).ids for part in parts]
        columns = ["files", "original_size"]
        return digest(
            [own.tolist() for own in ids],
            *(catalog.loc[own, columns].to_numpy(object) for own in ids),
        )

    inputs = (Part("images", (context.records, *context.paths(*tables.SPLIT_TABLES)), measured),)
    records = context.config.records
    settings = {
        "features": context.config.features,
        "records.image_size": records.image_size,
        "records.encoding": records.encoding,
    }
    code = (*ROOMS, "data/batches.py")
    return [Task("features", "features", work, settings, inputs, outputs, code)]


def stack(context: Context) -> list[Task]:
    """Boosted models per class on probabilities and metafeatures -> stack/."""
    settings = context.config.stack.to_dict()
    output = context.path("stack")

    def work() -> str:
        from hpa_jax.decision.stack import protocols, stacking

        rows, test = tables.split_rows(context, "valid"), tables.split_rows(context, "test")
        fitted = stacking.fit(
            tables.stack_inputs(context, "valid", rows.ids),
            rows.labels,
            groups=rows.groups,
            config=protocols.of_config(settings, context.config.classes),
            prior=tables.split_rows(context, "train").labels.mean(axis=0),
            test=tables.stack_inputs(context, "test", test.ids),
            directory=output,
            distributed=context.flags.get("distributed") or "",
            progress=True,
        )
        fitted.save(output)
        tables.write_probabilities(output / "valid.parquet", rows.ids, fitted.oof)
        tables.write_probabilities(output / "test.parquet", test.ids, fitted.test_votes)
        return f"{len(fitted.names)} features, {len(rows.ids):,} rows, {len(fitted.units)} units"

    inputs = (
        *tables.all_predictions(context, "valid", "test"),
        inputs_of.fitted_on(context, "train"),
    )
    inputs += context.paths("features/valid.parquet", "features/test.parquet")
    stamped = {"stack": settings}
    return [Task("stack", "stack", work, stamped, inputs, (output,), ROOMS, "same", fitted=True)]


def thresholds(context: Context) -> list[Task]:
    """Blends of the models; per-class thresholds of every method, with nested scores."""
    return [_ensemble(context), _thresholds(context)]


def _ensemble(context: Context) -> Task:
    """Blends, fitted on validation (and scored out of fold there), of the test part too."""
    settings = context.config.ensemble.to_dict()
    settings.pop("average_duplicates")  # only of what is decided later
    output = context.path("ensemble")

    def work() -> str:
        from hpa_jax.decision import blends

        rows, test = tables.split_rows(context, "valid"), tables.split_rows(context, "test")
        models = list(context.config.models)
        probs = tables.of_models(context, "valid", rows.ids)
        test_probs = tables.of_models(context, "test", test.ids)
        given = context.config.ensemble.weights
        weights = [given.get(name, 0.0) for name in models] if given else None
        stored = {}
        for name, method in scores.blends(context).items():
            own = weights if name == scores.ENSEMBLE else None
            blend, found = blends.made(method, probs, rows.labels, rows.groups, own)
            stored[name] = blend.as_json(models)
            for part, ids, value in (
                ("valid", rows.ids, found),
                ("test", test.ids, blend(test_probs)),
            ):
                tables.write_probabilities(scores.blend_path(context, name, part), ids, value)
        artifacts.write_json(output / "blends.json", stored)
        return f"{', '.join(stored)} of {len(models)} models"

    inputs = (*tables.all_predictions(context, "valid", "test"), inputs_of.fitted_on(context))
    stamped = {"ensemble": settings}
    return Task("thresholds", "ensemble", work, stamped, inputs, (output,), ROOMS, fitted=True)


def _thresholds(context: Context) -> Task:
    settings = {**context.config.thresholds.to_dict(), "argmax": context.config.submission.argmax}
    names = ("thresholds.json", "metrics.json", "decisions.parquet")
    outputs = tuple(context.path(name) for name in names)
    on_test = settings["match_on"] == "test"

    def work() -> str:
        rows = tables.split_rows(context, "valid")
        weights = scores.resamples(rows)
        found = scores.of_methods(context, "valid", rows.ids)
        matched = dict.fromkeys(found)
        if on_test:
            test = tables.split_rows(context, "test")
            matched = scores.of_methods(context, "test", test.ids)
        cuts, intervals, scored, nested, drawn = {}, {}, {}, {}, Drawn()
        for name, probs in found.items():
            own, decided = fit_and_nest(context, name, probs, rows, matched[name], drawn)
            cuts[name] = [float(cut) if np.isfinite(cut) else None for cut in own]
            intervals[name] = around(context, name, probs, rows, matched[name], drawn)
            nested[name] = decided
            scored[name] = (
                scores.score(rows.labels, decided, weights, scores.known_classes(probs))
                | {"macro_f1_at_half": scores.score(rows.labels, probs >= 0.5)["macro_f1"]}
                | scores.ranking(rows.labels, probs)
            )
            near, count = retrieval.replaced(context, "valid", rows.ids, decided)
            if count:
                with_near = scores.score(rows.labels, near, weights)
                scored[name]["macro_f1_with_neighbours"] = with_near["macro_f1"]
        table = {"classes": list(context.config.classes), "method": settings, "thresholds": cuts}
        artifacts.write_json(outputs[0], table | {"intervals": intervals})
        automatic = cuts_of.automatic(rows, nested, weights)
        artifacts.write_json(
            outputs[1],
            {
                "rows": f"{len(rows.ids):,} validation images; each scored by thresholds (and a "
                "stack, and weights of models) fitted without its fold; "
                f"{scores.checkpoint_choice(context)}",
                "support": rows.labels.sum(axis=0),
                "classes_without_positives": scores.absent_classes(context, rows.labels),
                "scores": scored,
                "best": max(scored, key=lambda name: scored[name]["macro_f1"]),
                "auto": automatic,
                "blends": artifacts.read_json(context.path("ensemble", "blends.json")),
            },
        )
        scores.write_decisions(outputs[2], rows.ids, nested)
        return (
            f"macro-F1 on validation, nested: {scores.summary(scored)}; the best of them, its "
            f"choice nested too: {automatic['macro_f1']:.3f}"
        )

    inputs: tuple[Path | Part, ...] = (
        *tables.all_predictions(context, "valid", *(["test"] if on_test else [])),
        *context.paths("stack", "ensemble"),
        inputs_of.fitted_on(context),
        *retrieval.files(context),
    )
    shared = on_test and context.config.ensemble.average_duplicates
    inputs += context.paths("duplicates.parquet") if shared else ()
    said = {
        "thresholds": context.config.thresholds,
        "submission.argmax": context.config.submission.argmax,
        "ensemble.average_duplicates": shared,
        "weights": scores.checkpoint_choice(context),
        **retrieval.settings(context),
    }
    return Task("thresholds", "thresholds", work, said, inputs, outputs, ROOMS, fitted=True)
