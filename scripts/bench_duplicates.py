"""Times of hashing and all-pairs matching: `scripts/bench duplicates` (N x 3 hashes, radius 12).

Prints seconds, peak memory and pairs compared a second; each size in a process of its own, so that
the peak is its own.  Random hashes with planted copies: the work does not depend on the hashes as
long as few match, and a check confirms that every planted copy was found.  Hashing is beside
imagehash's, bit for bit the same, on noise of 512² on one core: its work depends on the size alone.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import bench_table
import numpy as np

SIZES = (10_000, 110_000, 1_000_000)
CHANNELS, RADIUS, COPIES = 3, 12, 0.03
HASHED, SIDE, ROUNDS = 128, 512, 3


def hashes_with_copies(n: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """uint64 [n, 3], of which 3 % are copies with up to 12 bits changed; and how many are."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (n, CHANNELS), dtype=np.uint64)
    rows = rng.permutation(n)[: 2 * int(n * COPIES)].reshape(-1, 2)
    changed = np.zeros((len(rows), CHANNELS), np.uint64)
    for _ in range(RADIUS):
        changed |= np.uint64(1) << rng.integers(0, 64, changed.shape, dtype=np.uint64)
    hashes[rows[:, 1]] = hashes[rows[:, 0]] ^ changed
    return hashes, len(rows)


def measure(n: int) -> dict:
    """One size, with compilation."""
    from hpa_jax.data import duplicates

    hashes, planted = hashes_with_copies(n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    pairs, distances = duplicates.match(hashes, RADIUS)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(pairs) >= planted and distances.max() <= RADIUS, "planted copies were not found"
    return {
        "images": n,
        "seconds": round(seconds, 2),
        "numpy_seconds": round(brute_force(hashes), 2) if n <= 20_000 else None,
        "cpu_seconds": round(cpu, 2),
        "pairs_compared_per_second": round(n * (n - 1) / 2 / seconds / 1e9, 2) * 1e9,
        "pairs_found": len(pairs),
        "peak_gib": round(peak / 2**20, 2),
        "peak_gib_before": round(before / 2**20, 2),
    }


def brute_force(hashes: np.ndarray) -> float:
    """Seconds of the same search by numpy, one row against all later ones."""
    start = time.perf_counter()
    for i in range(len(hashes) - 1):
        np.flatnonzero((np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= RADIUS).all(axis=1))
    return time.perf_counter() - start


def hashing() -> tuple[float, float]:
    """Milliseconds a channel of this program's pHash and of imagehash's, best of the rounds."""
    import imagehash
    from PIL import Image

    from hpa_jax.data import duplicates

    shape = (HASHED, SIDE, SIDE)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    duplicates.phashes(images[:2])  # imports
    ours, theirs = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        found = duplicates.phashes(images)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        expected = [str(imagehash.phash(Image.fromarray(image))) for image in images]
        theirs.append(time.perf_counter() - start)
    assert [f"{one:016x}" for one in found] == expected, "hashes differ from imagehash's"
    return min(ours) / HASHED * 1e3, min(theirs) / HASHED * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    ours, theirs = hashing()
    bench_table.row(f"pHash of a channel of {SIDE}², one core", ours, "ms", "imagehash", theirs)
    print("| images | seconds | CPU seconds | 10⁹ pairs/s | pairs found | peak GiB |")
    print("|--|--|--|--|--|--|")
    for n in arguments.sizes:
        command = [sys.executable, __file__, "--one", str(n)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        rate = row["pairs_compared_per_second"] / 1e9
        cells = [f"{n:,}", row["seconds"], row["cpu_seconds"], f"{rate:.1f}"]
        cells += [f"{row['pairs_found']:,}", row["peak_gib"]]
        print("|", *(f"{cell} |" for cell in cells), flush=True)
        bench_table.row(
            f"all pairs of {n:,} images, 3 hashes within {RADIUS} bits",
            row["seconds"], "s", "numpy, row by row", row["numpy_seconds"],
        )  # fmt: skip


if __name__ == "__main__":
    main()
