"""Nearest images by embedding, and label transfer from them (bestfitting's metric learning).

    pairs = retrieval.nearest(retrieval.standardised(test), retrieval.standardised(train))
    rows, similarity = pairs.rows[:, 0], pairs.similarity[:, 0]
    labels, matched = retrieval.transfer(labels, train_labels[rows], similarity)

Embeddings come from a network with the head "embedding" (training/metric_learning.py), whose
classes are antibodies: images of one antibody show one protein, hence have the same labels.
The search is exact and runs on the device in blocks; memory does not grow with the gallery.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.core.errors import InputError, near

if TYPE_CHECKING:
    import pandas as pd

TAUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
TAU = 0.65  # bestfitting's threshold on the cosine
MODES = ("replace", "boost")
BACKENDS = ("exact", "faiss")
SPARE = 16  # extra neighbours requested from faiss, to replace those excluded by codes


class Pairs(NamedTuple):
    """Nearest gallery rows of each query, nearest first; row -1 and similarity -inf: none."""

    rows: np.ndarray  # int[Q, k]
    similarity: np.ndarray  # float32[Q, k], cosines


def standardised(embeddings: np.ndarray) -> np.ndarray:
    """Standardise each column, then scale each row to length 1; [N, E] float32.

    Applied to each set (train, test) separately, to remove global differences between the sets.

    Raises:
        InputError: NaN, or no rows.
    """
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or not len(embeddings) or not np.isfinite(embeddings).all():
        raise InputError(f"embeddings of shape {embeddings.shape}: needs [N, E], all finite")
    deviation = embeddings.std(axis=0)
    centred = (embeddings - embeddings.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1.0)


def nearest(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    k: int = 1,
    query_codes: np.ndarray | None = None,
    gallery_codes: np.ndarray | None = None,
    backend: str = "exact",
    query_block: int = 2048,
    gallery_block: int = 8192,
) -> Pairs:
    """Return the k gallery rows of highest cosine for each query.

    Args:
      queries: [Q, E]; gallery: [G, E]; both as `standardised` (rows of length 1).
      query_codes, gallery_codes: int[Q], int[G]; rows of equal code are not neighbours (the
        image itself, its duplicates).
      backend: "exact" (on the device), or "faiss" (approximate, for galleries beyond 1e6;
        requires faiss; skips at most 16 rows of the same code).
      query_block, gallery_block: rows per block.

    Raises:
        InputError: incompatible shapes, unknown or missing backend.
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"queries {queries.shape} and gallery {gallery.shape}: needs [Q, E] and [G, E]"
        )
    if not 1 <= k <= len(gallery):
        raise InputError(f"k is {k}; the gallery has {len(gallery)} rows")
    if (query_codes is None) != (gallery_codes is None):
        raise InputError("codes: needed for both queries and gallery, or for neither")
    if backend not in BACKENDS:
        raise InputError(f"retrieval backend {backend!r} is unknown{near(backend, BACKENDS)}")
    if backend == "faiss":
        return _by_faiss(queries, gallery, k, query_codes, gallery_codes)
    codes = np.arange(len(queries)), -1 - np.arange(len(gallery))  # all different
    if query_codes is not None:
        # Renumbered from 0: the device has 32-bit integers.
        both = np.concatenate([np.asarray(query_codes), np.asarray(gallery_codes)])
        numbers = np.unique(both, return_inverse=True)[1]
        codes = numbers[: len(queries)], numbers[len(queries) :]
    gallery_block = min(gallery_block, -(-len(gallery) // 128) * 128)
    blocks = _blocks(gallery, codes[1], gallery_block)
    query_block = min(query_block, len(queries))
    rows, similarity = [], []
    for start in range(0, len(queries), query_block):
        part = slice(start, start + query_block)
        missing = query_block - len(queries[part])
        block = np.pad(queries[part], ((0, missing), (0, 0)))
        block_codes = np.pad(codes[0][part], (0, missing))
        best = _search(block, block_codes, *blocks, k)
        rows.append(np.asarray(best[0])[: query_block - missing])
        similarity.append(np.asarray(best[1])[: query_block - missing])
    rows, similarity = np.concatenate(rows), np.concatenate(similarity)
    return Pairs(np.where(np.isfinite(similarity), rows, -1), similarity)


def transfer(
    scores: np.ndarray,
    neighbour_labels: np.ndarray,
    similarity: np.ndarray,
    *,
    tau: float = TAU,
    mode: str = "replace",
) -> tuple[np.ndarray, np.ndarray]:
    """Transfer the labels of near neighbours: (scores [Q, C], matched bool[Q], the changed rows).

    Args:
      scores: probabilities float or labels bool [Q, C].
      neighbour_labels: {0, 1}[Q, C], of each query's nearest row.
      similarity: [Q].
      tau: smallest cosine of a near neighbour.
      mode: "replace" (bestfitting: the whole row becomes the neighbour's labels) or "boost"
        (interpolates: weight of the labels 0 at tau, 1 at cosine 1).

    Raises:
        InputError: incompatible shapes, unknown mode, boost of labels.
    """
    if np.shape(scores) != np.shape(neighbour_labels) or np.shape(similarity) != (len(scores),):
        raise InputError(
            f"scores {np.shape(scores)}, neighbours' labels {np.shape(neighbour_labels)} and "
            f"similarity {np.shape(similarity)}: needs [Q, C], [Q, C] and [Q]"
        )
    if mode not in MODES:
        raise InputError(f"retrieval mode {mode!r} is unknown{near(mode, MODES)}")
    taken = np.asarray(similarity) >= tau
    if mode == "replace":
        return np.where(taken[:, None], neighbour_labels, scores).astype(scores.dtype), taken
    if scores.dtype == bool:
        raise InputError("retrieval mode 'boost' needs probabilities, not labels")
    weight = np.clip((similarity - tau) / max(1.0 - tau, 1e-6), 0.0, 1.0)[:, None]
    weight = np.where(taken[:, None], weight, 0.0)
    return ((1.0 - weight) * scores + weight * neighbour_labels).astype(scores.dtype), taken


def recall_at_1(
    embeddings: np.ndarray,
    antibodies: Sequence[object],
    groups: np.ndarray | None = None,
    among: np.ndarray | None = None,
) -> dict[str, float]:
    """Return how often the nearest other image shows the same antibody.

    Args:
      embeddings: [N, E], not yet standardised.
      antibodies: N names; None or "" = unknown, never a query (but in the gallery).
      groups: int[N] duplicate groups, not neighbours of each other (default: the row itself).
      among: bool[N], possible queries (default: all images).

    Returns:
      recall, queries (images whose antibody has another image outside their group), and chance
      (the expected recall of a random neighbour).
    """
    names = np.array(["" if name is None else str(name) for name in antibodies])
    groups = np.arange(len(names)) if groups is None else np.asarray(groups)
    images = _counts(names)
    same_group = _counts(np.char.add(names, np.char.add("|", groups.astype(str))))
    others = len(names) - _counts(groups)
    queries = (names != "") & (images > same_group) & (True if among is None else among)
    if not queries.any():
        return dict(recall=float("nan"), queries=0, chance=float("nan"))
    unit = standardised(embeddings)
    pairs = nearest(unit[queries], unit, query_codes=groups[queries], gallery_codes=groups)
    hit = names[pairs.rows[:, 0]] == names[queries]
    chance = (images - same_group)[queries] / others[queries]
    return dict(recall=float(hit.mean()), queries=int(queries.sum()), chance=float(chance.mean()))


def _counts(values: np.ndarray) -> np.ndarray:
    """Number of occurrences of each row's value."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse]


def agreement(
    labels: np.ndarray,
    neighbour_labels: np.ndarray,
    similarity: np.ndarray,
    taus: Sequence[float] = TAUS,
) -> "pd.DataFrame":
    """Return for each tau how many labelled queries it matches and how often the labels agree.

    Columns: tau, taken (share), same (share of taken rows with exactly the neighbour's label set),
    jaccard (mean overlap of the two sets).  For the choice of tau, on rows that are not test.
    """
    import pandas as pd

    labels, other = np.asarray(labels, bool), np.asarray(neighbour_labels, bool)
    union = (labels | other).sum(axis=1)
    overlap = np.where(union > 0, (labels & other).sum(axis=1) / np.maximum(union, 1), 1.0)
    same = (labels == other).all(axis=1)
    rows = []
    for tau in taus:
        taken = np.asarray(similarity) >= tau
        shares = (same[taken].mean(), overlap[taken].mean()) if taken.any() else (np.nan, np.nan)
        rows.append(dict(tau=tau, taken=taken.mean(), same=shares[0], jaccard=shares[1]))
    return pd.DataFrame(rows)


def _blocks(
    gallery: np.ndarray, codes: np.ndarray, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gallery [B, size, E], codes [B, size], which rows are real [B, size]: on the device."""
    missing = -len(gallery) % size
    shape = (-1, size)
    return (
        jnp.asarray(np.pad(gallery, ((0, missing), (0, 0))).reshape(*shape, gallery.shape[1])),
        jnp.asarray(np.pad(codes, (0, missing)).reshape(shape)),
        jnp.asarray((np.arange(len(gallery) + missing) < len(gallery)).reshape(shape)),
    )


@partial(jax.jit, static_argnames="k")
def _search(
    queries: jax.Array,
    query_codes: jax.Array,
    blocks: jax.Array,
    block_codes: jax.Array,
    real: jax.Array,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Rows int[Q, k] and cosines [Q, k]: a running best over the gallery's blocks."""
    size = blocks.shape[1]

    def step(
        best: tuple[jax.Array, jax.Array], block: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        rows, codes, is_real, number = block
        cosines = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
        allowed = is_real[None] & (query_codes[:, None] != codes[None])
        block_rows, block_cosines = _top(jnp.where(allowed, cosines, -jnp.inf), k)
        joined = jnp.concatenate([best[1], block_cosines], axis=1)
        names = jnp.concatenate([best[0], block_rows + number * size], axis=1)
        values, places = jax.lax.top_k(joined, k)
        return (jnp.take_along_axis(names, places, axis=1), values), None

    count = len(queries)
    start = (jnp.full((count, k), -1, jnp.int32), jnp.full((count, k), -jnp.inf))
    numbers = jnp.arange(len(blocks), dtype=jnp.int32)
    return jax.lax.scan(step, start, (blocks, block_codes, real, numbers))[0]


def _top(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Places and values of the k largest of each row, by k passes of argmax.

    Faster for small k than lax.top_k, which sorts whole rows on CPU.
    """
    places, largest = [], []
    columns = jnp.arange(values.shape[1])
    for _ in range(k):
        place = values.argmax(axis=1)
        largest.append(jnp.take_along_axis(values, place[:, None], axis=1)[:, 0])
        places.append(place.astype(jnp.int32))
        if k > 1:
            values = jnp.where(columns[None] == place[:, None], -jnp.inf, values)
    return jnp.stack(places, axis=1), jnp.stack(largest, axis=1)


def _by_faiss(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    query_codes: np.ndarray | None,
    gallery_codes: np.ndarray | None,
) -> Pairs:
    """Search an HNSW graph: approximate, in nearly constant time."""
    try:
        import faiss
    except ImportError:
        raise InputError(
            "retrieval backend 'faiss': faiss is not installed (scripts/requirements-faiss.txt); "
            "use 'exact'"
        ) from None
    index = faiss.index_factory(gallery.shape[1], "HNSW32", faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(gallery))
    spare = 0 if query_codes is None else SPARE
    count = min(k + spare, len(gallery))
    similarity, rows = index.search(np.ascontiguousarray(queries), count)
    if query_codes is not None:
        same = np.asarray(gallery_codes)[rows] == np.asarray(query_codes)[:, None]
        similarity = np.where(same, -np.inf, similarity)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        similarity = np.take_along_axis(similarity, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    similarity = np.where(rows >= 0, similarity, -np.inf)
    return Pairs(np.where(np.isfinite(similarity), rows, -1), similarity)
