"""Packing with Apache Beam: a shard is one element, and a cluster packs them side by side.

In: the shards that `records.write` planned.  Out: the same files as its threads write.  Needs
scripts/requirements-beam.txt, and images and records on a file system that all workers see.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hpa_jax.core.artifacts import read_json, write_json
from hpa_jax.core.errors import InputError


def runner(
    options: Sequence[str], write_shard: Callable[[Any], list]
) -> Callable[[list], Iterable[list]]:
    """A `run` for `records.write`.

    options: Beam's own, e.g. ("--runner=DirectRunner", "--direct_num_workers=0").
    write_shard: writes one `records.Shard` and returns its unusable images; a module's function,
    as Beam pickles it.

    Raises:
        InputError: Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError(
            "records.beam needs Apache Beam: pip install -r scripts/requirements-beam.txt"
        ) from None

    def run(shards: list) -> Iterable[list]:
        if not shards:
            return
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            # Beam fuses steps; without the shuffle one worker would write all shards
            todo = pipeline | apache_beam.Create(shards) | apache_beam.Reshuffle()
            _ = todo | apache_beam.Map(functools.partial(write, write_shard))
        for shard in shards:
            report = _report(shard)
            yield [tuple(bad) for bad in read_json(report)]
            report.unlink()

    return run


def write(write_shard: Callable[[Any], list], shard: Any) -> None:
    """Writes one shard, and its unusable images into a file beside it."""
    write_json(_report(shard), [list(bad) for bad in write_shard(shard)])


def _report(shard: Any) -> Path:
    return shard.path.with_name(f".partial-bad-{shard.path.name}.json")
