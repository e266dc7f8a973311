"""The step `stack`: boosted models per class on probabilities and metafeatures."""

from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import seen, tables
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context


def stack(context: Context) -> list[Task]:
    """Return the task that fits the stack -> stack/."""
    settings = context.config.stack.to_dict()
    output = context.path("stack")

    def work() -> str:
        from hpa_jax.decision.stack import protocols, stacking

        seen.check(context)  # by trained_on.parquet, which was not there before all work
        rows, test = tables.split_rows(context, "valid"), tables.split_rows(context, "test")
        fitted = stacking.fit(
            tables.stack_inputs(context, "valid", rows.ids),
            rows.labels,
            groups=rows.groups,
            config=protocols.of_config(settings, context.config.classes),
            prior=tables.training_shares(context),
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
        inputs_of.fitted_on(context),
        inputs_of.training_shares(context),
    )
    inputs += context.paths("features/valid.parquet", "features/test.parquet")
    inputs += (tables.components(context),) if context.config.embeddings.pca else ()
    stamped = {"stack": settings}
    return [Task("stack", "stack", work, stamped, inputs, (output,), "same", fitted=True)]
