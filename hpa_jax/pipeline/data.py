"""The step `data`: the synthetic competition, drawn if config.data.source says so."""

import os

from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context


def data(context: Context) -> list[Task]:
    """Return the task that generates the synthetic competition, if that is the source."""
    if not context.draws:
        return []
    settings = context.config.data.synthetic.to_dict()
    stamped = {"data.synthetic": settings}

    def work() -> str:
        from hpa_jax.data.synthetic import dataset

        truth = context.path("data_truth.csv")
        # The images do not depend on the number of workers.
        workers = context.config.train.workers or os.cpu_count() or 1
        dataset.write(context.data_root, truth_path=truth, workers=workers, **settings)
        return f"{settings['train']:,} train and {settings['test']:,} test images generated"

    return [Task("data", "data", work, stamped, (), (context.data_root,))]
