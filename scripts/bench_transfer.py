"""`scripts/bench transfer`: training from ImageNet's weights beside training from random ones.

    scripts/bench transfer --images=FOLDER --weights=efficientnet-lite0-57934424.pth --seeds=5

FOLDER holds the atlas' dictionary images, CLASS-NUMBER-*.jpg (RGB; a scale bar at the bottom
right).  Of each class with two or more images the last one is for validation, so that no image is
on both sides; each gives five crops that avoid the bar.  The same recipe trains EfficientNet-Lite0
on them from both starts, a pair for each seed; nothing is chosen on the validation crops: scores
are those of the last epoch.

Prints a line a run (macro average precision, epochs until the random run's best was reached), the
mean difference of the pairs with its 95 % t interval, and rows for `scripts/bench all`; --out
writes the figures as JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path

import bench_table
import numpy as np
from PIL import Image
from scipy import stats

from hpa_jax.config import defaults as configs
from hpa_jax.data import catalog, records
from hpa_jax.data.batches import Records
from hpa_jax.training import compilation, logs, loop

CROPS = ((0, 0), (380, 0), (0, 360), (190, 180), (330, 330))  # left, top
SIDE = 440


def main() -> None:
    """Trains all pairs and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", default="published:efficientnet_lite0")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compilation.keep_programs(Path(folder) / "compiled")
        labels, valid = write_crops(options.images, Path(folder) / "crops", options.size)
        packed = pack(Path(folder), options.size)
        print(f"{len(labels) - len(valid)} crops to train, {len(valid)} of other images to score")
        pairs = []
        for seed in range(options.seeds):
            curves = {
                kind: train(Path(folder) / f"{kind}_{seed}", packed, labels, valid, weights, seed,
                            options)
                for kind, weights in (("random", ""), ("imagenet", options.weights))
            }  # fmt: skip
            pairs.append(curves)
            print(f"seed {seed}: {line(curves)}", flush=True)
    summary(pairs, options)


def write_crops(images: Path, out: Path, size: int) -> tuple[dict[str, int], list[str]]:
    """Writes the crops a file a channel; ({crop: class}, crops of validation)."""
    by_class: dict[int, list[Path]] = {}
    for path in sorted(images.glob("*.jpg")):
        by_class.setdefault(int(path.name.split("-")[0]), []).append(path)
    out.mkdir()
    labels, valid = {}, []
    for number, paths in by_class.items():
        if len(paths) < 2:
            continue
        for path in paths:
            rgb = Image.open(path).convert("RGB")
            for letter, (left, top) in zip("abcde", CROPS):
                crop = rgb.crop((left, top, left + SIDE, top + SIDE))
                pixels = np.asarray(crop.resize((size, size), Image.BICUBIC))
                name = f"{path.stem}{letter}"
                for k, channel in enumerate(("red", "green", "blue")):
                    Image.fromarray(pixels[..., k]).save(out / f"{name}_{channel}.png")
                labels[name] = number
                if path == paths[-1]:
                    valid.append(name)
    return labels, valid


def pack(folder: Path, size: int) -> Records:
    """The crops as records."""
    source = dict(
        source="folder", root=str(folder / "crops"), pattern="{id}_{channel}",
        missing={"yellow": "zeros"},
    )  # fmt: skip
    table = catalog.build([source], classes_of(), imported=folder / "imported")
    return Records(records.write(table, folder / "records", image_size=size, encoding="raw"))


def classes_of() -> tuple[str, ...]:
    """The competition's classes: the images' names begin with their numbers."""
    from hpa_jax.core import classes

    return classes.NAMES


def train(
    directory: Path, packed: Records, labels: dict[str, int], valid: list[str], weights: str,
    seed: int, options: argparse.Namespace,
) -> list[float]:  # fmt: skip
    """Macro average precision on the validation crops after each epoch."""
    config = configs.default()
    model = configs.model(
        backbone="efficientnet_lite0",
        head="gap",
        dropout=0.2,
        channels=("red", "green", "blue"),
        normalize="lite",
        image_size=options.size,
        batch_size=16,
        loss=dict(bce=1.0),
        augment="d4",
        head_init="prior",
        init_from=weights,
        checkpoint="last",
        seed=seed,
        phases=(configs.phase(epochs=options.epochs, lr=2e-3),),
    )
    names = classes_of()

    def rows(ids: list[str]) -> np.ndarray:
        return np.eye(len(names), dtype=np.uint8)[[labels[id] for id in ids]]

    ids = [id for id in labels if id not in set(valid)]
    loop.train(
        model, name=directory.name, directory=directory, records=packed, train_ids=ids,
        train_labels=rows(ids), valid_ids=valid, valid_labels=rows(valid), class_names=names,
        settings=config.train, seed=0,
    )  # fmt: skip
    found = logs.read(directory / "metrics.jsonl")
    return [row["map"] for row in found if row["split"] == "valid"]


def epochs_to(curve: list[float], level: float) -> int | None:
    """Epochs, counted from 1, until a curve reaches a level; None: never."""
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= level), None)


def line(curves: dict[str, list[float]]) -> str:
    """One pair in words."""
    best = max(curves["random"])
    return (
        f"macro-AP random {curves['random'][-1]:.3f} (best {best:.3f} after "
        f"{epochs_to(curves['random'], best)}), imagenet {curves['imagenet'][-1]:.3f}; the random "
        f"run's best reached after {epochs_to(curves['imagenet'], best)} epochs"
    )


def summary(pairs: list[dict[str, list[float]]], options: argparse.Namespace) -> None:
    """Means, the interval of the paired difference, and the table's rows."""
    last = {kind: np.array([pair[kind][-1] for pair in pairs]) for kind in pairs[0]}
    difference = last["imagenet"] - last["random"]
    mean = float(difference.mean())
    low, high = mean, mean
    if len(pairs) > 1:
        error = float(stats.sem(difference))
        low, high = stats.t.interval(0.95, len(pairs) - 1, loc=mean, scale=error)
    steps = [epochs_to(pair["imagenet"], max(pair["random"])) for pair in pairs]
    found = dict(
        random=last["random"].tolist(),
        imagenet=last["imagenet"].tolist(),
        difference=mean,
        interval=[float(low), float(high)],
        epochs_to_the_random_runs_best=steps,
        curves=pairs,
        size=options.size,
        epochs=options.epochs,
    )
    print(f"imagenet - random: {mean:+.3f} ({low:+.3f} to {high:+.3f}), {len(pairs)} pairs")
    bench_table.row(
        f"EfficientNet-Lite0, macro-AP after {options.epochs} epochs, from ImageNet's weights",
        float(last["imagenet"].mean()), "", "random weights", float(last["random"].mean()),
    )  # fmt: skip
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
