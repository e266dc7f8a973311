"""A program that trains the tiny network in a folder: something to kill, and one of several hosts.

Usage: python -m tests.training.trainee FOLDER '{"key": value}' with the keys of `main`.
"""

import json
import sys
import time
from pathlib import Path


def main(
    folder,
    *,
    epochs=3,
    optimizer="adam",
    accumulate=1,
    coordinator="",
    processes=1,
    process=0,
    pause=0.0,
    minutes=10.0,
    slow_compile=0.0,
    cache="",
    lr=1e-2,
    packed="",
    watch="",
):
    import jax

    if coordinator:
        jax.distributed.initialize(coordinator, processes, process)
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    from hpa_jax.config import defaults as configs
    from hpa_jax.training import preemption
    from tests.training import tiny

    original = tiny.train_batches

    def slowly(*args, **options):
        for batch in original(*args, **options):
            time.sleep(pause)
            yield batch

    tiny.train_batches = slowly
    records = None
    if packed:
        from hpa_jax.data import batches as inputs

        records = inputs.Records(Path(packed))
        records.labels = tiny.Records().labels
        tiny.train_batches, tiny.eval_batches = inputs.train_batches, inputs.eval_batches
    if watch:
        report = watched(tiny)
    if slow_compile:
        interruptible = preemption.Preemption.interruptible

        def slow(self, call):
            def after_a_while():
                Path(folder, "compiling").touch()
                time.sleep(slow_compile)
                return call()

            return interruptible(self, after_a_while)

        preemption.Preemption.interruptible = slow

    config = tiny.model(
        phases=(
            configs.phase(epochs=1, lr=lr, freeze="backbone"),
            configs.phase(epochs=epochs - 1, lr=lr, lr_decay=4.0),
        ),
        optimizer=dict(name=optimizer),
        accumulate=accumulate,
        average=dict(kind="swa", count=2),
    )
    tiny.train(folder, config, records=records, checkpoint_minutes=minutes, keep=3)
    if watch:
        Path(watch).write_text(json.dumps(report))


def watched(tiny):
    """{"losses": of each training step, "rows": those that this process read for each}."""
    from hpa_jax.training.setup import Setup

    report = {"losses": [], "rows": []}
    made, batches = Setup.train_step, tiny.train_batches

    def train_step(self, *arguments):
        compiled = made(self, *arguments)

        def step(*arguments):
            state, loss = compiled(*arguments)
            report["losses"].append(float(loss))
            return state, loss

        return step

    def train_batches(*args, **options):
        ahead = []
        report["rows"].append(ahead)  # of a phase; a few more than its steps, read in advance
        for batch in batches(*args, **options):
            ahead.append(batch["index"].tolist())
            yield batch

    Setup.train_step, tiny.train_batches = train_step, train_batches
    return report


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
