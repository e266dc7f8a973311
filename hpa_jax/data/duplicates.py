"""Copies of one image: all pairs of close perceptual hashes, their groups, and the leak table.

In: the catalog, whose images were hashed when they were decoded, or hashes.  Out: pairs
(duplicates.parquet), groups (groups.parquet), and the images with known labels that match a test
image.

The rule is bestfitting's: 64-bit pHashes within 12 bits on each of red, green and blue (spec A).
Added to it: flat and black channels are no evidence, two channels with structure must match; equal
pixels always match; rotated and mirrored copies as an option.  All pairs are compared, exactly: a
fused xor-popcount-max of XLA does 8 to 25 thousand million pairs a second on two free cores
(`scripts/bench duplicates`), so no index has to make assumptions about the hashes.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.data import hashes as fingerprints
from hpa_jax.data.hashes import CHANNELS
from hpa_jax.data.hashes import phash as phash
from hpa_jax.data.hashes import phashes as phashes
from hpa_jax.data.problems import LEAVE_OUT, Problems
from hpa_jax.data.reader import CHANNELS as ALL_CHANNELS
from hpa_jax.data.reader import read_channel

if TYPE_CHECKING:
    import pandas as pd

MIN_INFORMATIVE = 2  # one 64-bit hash alone is within 12 of a stranger's once in some 10^6 pairs
MAX_PAIRS = 30_000_000  # 0.7 GB of result; more means that the hashes are of no use
_SMALL = 1024  # below this many rows numpy is done before XLA has compiled
_ROWS, _COLUMNS, _TILE = 1024, 32768, 16
_SAMPLED, _SELDOM = 100_000, 1e-4  # pairs drawn to see how often a channel is close by chance


def match(hashes: np.ndarray, radius: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of rows within `radius` bits on every one of their hashes.

    Args:
        hashes: uint64 [N, K].
        radius: greatest Hamming distance, 0 to 64, that still matches.

    Returns:
        pairs: int64 [M, 2] row numbers, first < second, in ascending order;
        distances: int16 [M, K].

    Raises:
        InputError: other dtype or shape, radius out of range, or over 30 million pairs.
    """
    return _match(_checked(hashes, radius), None, radius)


def match_oriented(
    hashes: np.ndarray, oriented: np.ndarray, radius: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Like `match`, with a row's hashes against all orientations of the other's.

    hashes: uint64 [N, K]; oriented: uint64 [N, V, K], hashes of V rotated or mirrored copies, the
    image itself among them (a group of motions: with each its inverse).
    A pair is reported once, with the distances of the closest orientation.
    """
    hashes = _checked(hashes, radius)
    matches = [_match(hashes, oriented[:, v], radius) for v in range(oriented.shape[1])]
    pairs = np.concatenate([pairs for pairs, _ in matches])
    distances = np.concatenate([distances for _, distances in matches])
    order = np.lexsort((distances.sum(axis=1), pairs[:, 1], pairs[:, 0]))
    pairs, distances = pairs[order], distances[order]
    first = np.ones(len(pairs), bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[first], distances[first]


def groups(n: int, pairs: np.ndarray) -> np.ndarray:
    """int64 [n]: connected components of `pairs` [M, 2], numbered 0, 1, … by their first row.

    Raises:
        InputError: a pair names a row that is not there.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(pairs) and not 0 <= pairs.min() <= pairs.max() < n:
        raise InputError(f"pairs name row {pairs.max()} of {n} rows")
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def hash_catalog(
    catalog: "pd.DataFrame",
    *,
    radius: int = 12,
    workers: int | None = None,
    rotations: bool = False,
    look_at_all: bool = False,
    problems: Problems | None = None,
    read: Callable[[str, str], np.ndarray] = read_channel,
    progress: bool = True,
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Duplicates among all images of the catalog.

    Args:
        catalog: columns id, red, green, blue (paths or null), and yellow with look_at_all;
            fingerprint, where the images were decoded before: only those without are read.
        look_at_all: whether yellow is read too, which has no hash: for a catalog whose images
            were not decoded.
        problems: takes the images that can't be used; None: they are an error.
        workers: processes that decode and hash; one a core by default.
        rotations: whether rotated and mirrored copies are copies too.
        read: (path, channel) -> uint8 [H, W].

    Returns:
        pairs: id_a, id_b, distance_r, distance_g, distance_b (null where both are flat), exact;
        groups: id, group (0, 1, …; an image without copies is alone in its group), bad (it can't
            be used, and is no copy of anything).

    Raises:
        InputError: names the images that can't be used (without `problems`).
    """
    channels = ALL_CHANNELS if look_at_all else CHANNELS
    texts = catalog.assign(fingerprint=catalog.get("fingerprint", ""))["fingerprint"].to_numpy()
    is_known = texts != ""
    known, unknown = np.flatnonzero(is_known), np.flatnonzero(~is_known)
    files = [
        tuple(path if isinstance(path, str) and path else None for path in row)
        for row in catalog.loc[~is_known, list(channels)].itertuples(index=False)
    ]
    hashed, bad = fingerprints.of_files(
        files,
        channels,
        hashed=len(CHANNELS),
        workers=workers or os.cpu_count() or 1,
        oriented=rotations,
        read=read,
        progress=_progress_bar if progress else None,
    )
    bad = {int(unknown[number]): image for number, image in bad.items()}
    stored = fingerprints.of_texts(texts[known], len(CHANNELS), rotations)
    both = fingerprints.joined([stored, hashed], len(CHANNELS), rotations)
    prints = both.rows(np.argsort(np.concatenate([known, unknown])))
    ids = catalog["id"].to_numpy()
    bad_images = Problems() if problems is None else problems
    for row, image in bad.items():
        bad_images.add(image.path, ids[row], image.what)
    if bad_images.found and problems is None:
        raise bad_images.error(LEAVE_OUT)
    pairs, distances, exact = match_fingerprints(prints, radius)
    groups = _group_table(ids, pairs).assign(bad=np.isin(np.arange(len(ids)), list(bad)))
    return _pair_table(ids, pairs, distances, exact, prints.informative), groups


def match_fingerprints(
    prints: fingerprints.Fingerprints, radius: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs [M, 2], distances [M, K] and exact bool [M] of images that are copies.

    Close on every channel, at least two of them informative in both; or equal in every pixel, with
    one informative channel.  A channel that is flat in one image only is a difference.
    """
    enough = np.flatnonzero(prints.informative.sum(axis=1) >= MIN_INFORMATIVE)
    hashes = prints.hashes[enough]
    if prints.oriented is None:
        pairs, distances = match(hashes, radius)
    else:
        pairs, distances = match_oriented(hashes, prints.oriented[enough], radius)
    pairs = enough[pairs]
    both = prints.informative[pairs[:, 0]] & prints.informative[pairs[:, 1]]
    speak = both.sum(axis=1) >= MIN_INFORMATIVE
    pairs, distances = pairs[speak], distances[speak]
    alone = np.flatnonzero(prints.informative.sum(axis=1) == MIN_INFORMATIVE - 1)
    equal = alone[_equal_pairs(prints.digests[alone])]
    pairs = np.concatenate([pairs, equal])
    distances = np.concatenate([distances, np.zeros((len(equal), distances.shape[1]), np.int16)])
    exact = prints.digests[pairs[:, 0]] == prints.digests[pairs[:, 1]]
    return pairs, distances, exact


def leak_table(
    catalog: "pd.DataFrame", pairs: "pd.DataFrame", groups: "pd.DataFrame | None" = None
) -> "pd.DataFrame":
    """Test images that match an image with known labels.

    Returns one row a match: test_id, match_id, source, distance_r, distance_g, distance_b, exact,
    labels (sorted list), conflict (the test image's matches have different label sets); sorted by
    test image, the closest match first.
    """
    table = catalog.set_index("id")
    both = [pairs.rename(columns={"id_a": "test_id", "id_b": "match_id"})]
    both.append(pairs.rename(columns={"id_b": "test_id", "id_a": "match_id"}))
    import pandas as pd

    leak = pd.concat(both, ignore_index=True)
    leak["source"] = table["source"].reindex(leak["match_id"]).to_numpy()
    leak["labels"] = table["labels"].reindex(leak["match_id"]).to_numpy()
    is_test = table["source"].reindex(leak["test_id"]).to_numpy() == "test"
    known = np.array([labels is not None for labels in leak["labels"]], bool)
    leak = leak[is_test & known & (leak["source"] != "test").to_numpy()].copy()
    leak["labels"] = [sorted(int(number) for number in labels) for labels in leak["labels"]]
    columns = ["distance_r", "distance_g", "distance_b"]
    leak["total"] = leak[columns].fillna(0).sum(axis=1)
    leak = leak.sort_values(["test_id", "total", "match_id"], ignore_index=True)
    sets = leak["labels"].map(tuple).groupby(leak["test_id"]).nunique()
    leak["conflict"] = (leak["test_id"].map(sets) > 1).to_numpy(bool)
    return leak[["test_id", "match_id", "source", *columns, "exact", "labels", "conflict"]]


def _checked(hashes: np.ndarray, radius: int) -> np.ndarray:
    hashes = np.asarray(hashes)
    if hashes.dtype != np.uint64 or hashes.ndim != 2 or hashes.shape[1] < 1:
        raise InputError(f"hashes of {hashes.dtype} {hashes.shape}: need uint64 [N, K], K >= 1")
    if not 0 <= radius <= 64:
        raise InputError(f"radius={radius}: a Hamming distance of 64-bit hashes, 0 to 64")
    return hashes


def _match(
    hashes: np.ndarray, others: np.ndarray | None, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs i < j with hashes[i] close to others[j] (others: the hashes themselves by default)."""
    others = hashes if others is None else others
    pairs: list[np.ndarray] = []
    count = 0
    blocks = (
        _small(hashes, others, radius) if len(hashes) <= _SMALL else _large(hashes, others, radius)
    )
    for block in blocks:
        pairs.append(block)
        count += len(block)
        if count > MAX_PAIRS:
            raise InputError(
                f"over {MAX_PAIRS} pairs of {len(hashes)} images are within {radius} bits: "
                "most are the same image, or damaged; lower duplicates.radius or look at them"
            )
    result = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    result = result[np.lexsort((result[:, 1], result[:, 0]))]
    return result, np.bitwise_count(hashes[result[:, 0]] ^ others[result[:, 1]]).astype(np.int16)


def _small(hashes: np.ndarray, others: np.ndarray, radius: int) -> Iterator[np.ndarray]:
    close = np.ones((len(hashes), len(hashes)), bool)
    for k in range(hashes.shape[1]):
        close &= np.bitwise_count(hashes[:, None, k] ^ others[None, :, k]) <= radius
    yield np.argwhere(np.triu(close, 1))


def _large(hashes: np.ndarray, others: np.ndarray, radius: int) -> Iterator[np.ndarray]:
    """Blocks of rows against blocks of columns on the device; returns the tiles with a match."""
    import jax

    hits = _compiled()
    n = len(hashes)
    columns = min(_COLUMNS, _ROWS * -(-n // _ROWS))
    telling = _telling(hashes, radius)
    left, right = _padded(hashes[:, telling], _ROWS), _padded(others[:, telling], columns)
    blocks = [jax.device_put(right[:, :, at : at + columns]) for at in range(0, n, columns)]
    for start in range(0, n, _ROWS):
        block = jax.device_put(left[:, :, start : start + _ROWS])
        # All are queued before the first is looked at: XLA computes while numpy searches.
        first = start // columns
        queued = [hits(block, right, radius) for right in blocks[first:]]
        for number, tiles in enumerate(queued, start=first):
            # Eight tiles at a time: most words are zero, and numpy's search of bools is slow.
            words = np.flatnonzero(np.asarray(tiles).view(np.uint64))
            hit, byte = np.nonzero(np.asarray(tiles).ravel().reshape(-1, 8)[words])
            tile, column = np.divmod(words[hit] * 8 + byte, columns)
            yield from _confirmed(
                hashes, others, start + tile * _TILE, number * columns + column, radius
            )


def _telling(hashes: np.ndarray, radius: int) -> list[int]:
    """The channel that is seldom close by chance, or all where every channel often is.

    One channel costs a third of three, and what it lets through is confirmed anyway; so this
    decides on the time and not on the result.
    """
    some = hashes[np.random.default_rng(0).integers(0, len(hashes), (2, _SAMPLED))]
    chance = (np.bitwise_count(some[0] ^ some[1]) <= radius).mean(axis=0)
    best = int(chance.argmin())
    return [best] if chance[best] <= _SELDOM else list(range(hashes.shape[1]))


@functools.cache
def _compiled() -> Callable:
    import jax

    return jax.jit(_hits, static_argnums=2)


def _hits(left, right, radius):  # noqa: ANN001, ANN202 (traced)
    """bool [R/16, C]: is any of 16 rows close to the column? left: uint32 [K, 2, R], right: C."""
    import jax.numpy as jnp
    from jax.lax import population_count

    worst = None
    for k in range(left.shape[0]):
        low = population_count(left[k, 0][:, None] ^ right[k, 0][None])
        high = population_count(left[k, 1][:, None] ^ right[k, 1][None])
        worst = low + high if worst is None else jnp.maximum(worst, low + high)
    return worst.reshape(-1, _TILE, right.shape[2]).min(axis=1) <= radius


def _confirmed(
    hashes: np.ndarray, others: np.ndarray, rows: np.ndarray, columns: np.ndarray, radius: int
) -> Iterator[np.ndarray]:
    """The pairs i < j of tiles (16 rows from `rows`[t] on, column `columns`[t]) that are close."""
    n, step = len(hashes), 1 << 16
    for at in range(0, len(rows), step):
        i = (rows[at : at + step, None] + np.arange(_TILE)).ravel()
        j = np.repeat(columns[at : at + step], _TILE)
        keep = (i < j) & (j < n)
        i, j = i[keep], j[keep]
        close = (np.bitwise_count(hashes[i] ^ others[j]) <= radius).all(axis=1)
        yield np.stack([i[close], j[close]], axis=1)


def _padded(hashes: np.ndarray, multiple: int) -> np.ndarray:
    """uint32 [K, 2, N padded] halves: 32-bit lanes need no x64 mode and are as fast."""
    halves = np.ascontiguousarray(hashes).view(np.uint32).reshape(len(hashes), -1, 2)
    padding = -len(hashes) % multiple
    return np.ascontiguousarray(np.pad(halves.transpose(1, 2, 0), ((0, 0), (0, 0), (0, padding))))


def _equal_pairs(digests: np.ndarray) -> np.ndarray:
    """int64 [M, 2]: each row with the first that has the same digest."""
    if not len(digests):
        return np.empty((0, 2), np.int64)
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[inverse] != np.arange(len(digests)))
    return np.stack([first[inverse][later], later], axis=1)


def _pair_table(
    ids: np.ndarray,
    pairs: np.ndarray,
    distances: np.ndarray,
    exact: np.ndarray,
    informative: np.ndarray,
) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame({"id_a": ids[pairs[:, 0]], "id_b": ids[pairs[:, 1]]}, dtype=object)
    for k, channel in enumerate(CHANNELS):
        distance = pd.array(distances[:, k], dtype="Int16")
        distance[~informative[pairs].any(axis=1)[:, k]] = pd.NA
        table[f"distance_{channel[0]}"] = distance
    table["exact"] = exact
    return table


def _group_table(ids: np.ndarray, pairs: np.ndarray) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({"id": ids, "group": groups(len(ids), pairs)})


def _progress_bar(iterator: Iterator, total: int) -> Iterator:
    from tqdm import tqdm

    return tqdm(iterator, total=total, desc="hashes", unit="image", mininterval=5)
