"""`scripts/bench retrieval`: nearest neighbours by cosine beside scikit-learn's, in one run.

    scripts/bench retrieval --gallery=100000 --queries=10000

Both search exactly, over unit vectors drawn around as many centres as there are antibodies in the
competition's external table; the times are the best of repeats, after one warm-up.
"""

import argparse
import json
import time
from collections.abc import Callable

import bench_table
import jax
import numpy as np
from sklearn.neighbors import NearestNeighbors

from hpa_jax.inference import retrieval

ANTIBODIES = 12815


def main() -> None:
    """Prints one JSON object: seconds of each search, their ratio, share of equal neighbours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=512, help="of an embedding")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    gallery, queries = _embeddings(options.gallery, options.queries, options.size)
    brute = NearestNeighbors(n_neighbors=1, algorithm="brute", metric="cosine").fit(gallery)
    _, own = _best(lambda: retrieval.nearest(queries[:64], gallery), 1)
    seconds, own = _best(lambda: retrieval.nearest(queries, gallery), options.repeats)
    other_seconds, other = _best(
        lambda: brute.kneighbors(queries, return_distance=False), options.repeats
    )
    found = dict(
        gallery=len(gallery),
        queries=len(queries),
        size=options.size,
        seconds=round(seconds, 2),
        sklearn_seconds=round(other_seconds, 2),
        ratio=round(seconds / other_seconds, 2),
        same=float((own.rows[:, 0] == other[:, 0]).mean()),
        device=jax.devices()[0].device_kind,
    )
    print(json.dumps(found))
    bench_table.row(
        f"nearest of {len(gallery):,} for {len(queries):,} embeddings of {options.size}, exact",
        seconds, "s", "scikit-learn, brute force", other_seconds,
    )  # fmt: skip


def _embeddings(gallery: int, queries: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 unit vectors [gallery, size] and [queries, size] around common centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(ANTIBODIES, size)).astype(np.float32)
    drawn = centres[rng.integers(ANTIBODIES, size=gallery + queries)]
    drawn += rng.normal(size=drawn.shape).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn[:gallery], drawn[gallery:]


def _best(call: Callable[[], object], repeats: int) -> tuple[float, object]:
    """Seconds of the fastest of `repeats` calls, and what the last returned."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - start)
    return min(times), found


if __name__ == "__main__":
    main()
