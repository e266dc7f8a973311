"""Drawn data: a small competition on disk, made from nothing but a seed.

In: numbers (how many images, which side, what makes the task hard).  Out: a folder in the
competition's own layout, as the Kaggle source reads it:

    train.csv (Id,Target)  sample_submission.csv (Id,Predicted)
    train/ID_{red,green,blue,yellow}.png  test/...   external/...  external.csv (Id,Target)

and the test part's labels in a separate table.  Label sets follow the joint distribution of the
competition's training table (label_sets.csv: its 577 label sets with their counts), raised to a
floor for the rare classes.  External ids read antibody_plate_well_sample as in the atlas; two
images of each well, and both wells of an antibody, share their label set.
"""

import csv
import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hpa_jax.core import artifacts, classes, processes
from hpa_jax.core.errors import InputError
from hpa_jax.data.synthetic import camera

CHANNELS = ("red", "green", "blue", "yellow")
MARKER = "synthetic.json"  # what was drawn; a folder without it is not ours to replace
EXTERNAL_BRIGHTNESS = 1.6


@dataclass(frozen=True)
class Planned:
    """One image to draw: where it goes, what the tables say and what it shows."""

    id: str
    part: str  # train | test | external
    target: tuple[int, ...]  # the labels in the table
    shown: tuple[int, ...]  # the labels in the image
    seed: tuple[int, ...]
    antibody: tuple[int, ...]
    copy: str = ""  # kind of copy (microscope.COPIES) of the image with the same seed


def write(
    root: str | Path,
    *,
    train: int,
    test: int,
    external: int,
    image_size: int,
    truth_path: str | Path,
    min_per_class: int = 12,
    label_noise: float = 0.0,
    duplicates: float = 0.03,
    leak: float = 0.03,
    missing_yellow: float = 0.2,
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Draws a data set into the folder `root` and the test part's labels into `truth_path`.

    The same arguments give the same bytes whatever `workers` is.  `root` appears only when it is
    complete, and replaces an older drawn set there.

    Args:
        root: folder to make.
        train, test, external: images of each part.
        image_size: side of the square images in pixels.
        truth_path: table Id,Target of the test part; must not lie in `root`.
        min_per_class: floor of each class in train; in test and external in proportion to their
            size (at least 2), as far as the part has room.
        label_noise: share of train images whose label set in train.csv is another one.
        duplicates: share of train images that have a copy in train (exact, re-encoded, brighter).
        leak: share of test images that have a copy in external or, one in four, in train.
        missing_yellow: share of images whose yellow channel is black.
        seed: of everything.
        workers: processes that draw.

    Raises:
        InputError: an argument out of range, `root` contains other files, or the disk is too small.
    """
    settings = {
        key: value
        for key, value in locals().items()
        if key not in ("root", "truth_path", "workers")
    }
    root, truth_path = Path(root), Path(truth_path)
    _check(root, truth_path, settings)
    images = plan(
        train=train,
        test=test,
        external=external,
        min_per_class=min_per_class,
        label_noise=label_noise,
        duplicates=duplicates,
        leak=leak,
        seed=seed,
    )
    with artifacts.atomic(root) as folder:
        for part in ("train", "test", "external"):
            (folder / part).mkdir(parents=True)
        save = functools.partial(_save, folder, image_size, missing_yellow)
        _each(save, images, workers)
        _tables(folder, images)
        (folder / MARKER).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
        rows = [(p.id, _text(p.target)) for p in images if p.part == "test"]
        with artifacts.atomic(truth_path) as truth:
            _write_csv(truth, "Target", rows)


def plan(
    *,
    train: int,
    test: int,
    external: int,
    min_per_class: int,
    label_noise: float,
    duplicates: float,
    leak: float,
    seed: int,
) -> list[Planned]:
    """Every image of the set in the order of the tables, ids and copies included."""
    rng = np.random.default_rng([seed, 0])
    parts = {}
    for number, (part, count) in enumerate((("train", train), ("test", test))):
        floor = min_per_class if part == "train" else _share(min_per_class, test, train)
        sets = draw_label_sets(rng, count, floor)
        names = _hex_ids(rng, count)
        parts[part] = [
            Planned(name, part, labels, labels, (seed, number, row), (seed, number, row))
            for row, (name, labels) in enumerate(zip(names, sets))
        ]
    parts["external"] = _external(rng, external, _share(min_per_class, external, train), seed)
    _copy_within(rng, parts["train"], round(duplicates * train / 2))
    _leak(rng, parts, round(leak * test))
    _mislabel(rng, parts["train"], round(label_noise * train))
    return [image for part in parts.values() for image in sorted(part, key=lambda item: item.id)]


@functools.cache
def label_sets() -> tuple[tuple[tuple[int, ...], ...], np.ndarray]:
    """The competition's label sets (tuples of class numbers) and their shares float[S]."""
    path = Path(__file__).with_name("label_sets.csv")
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    counts = np.array([int(row["images"]) for row in rows], float)
    return tuple(tuple(classes.parse(row["labels"])) for row in rows), counts / counts.sum()


def draw_label_sets(rng: np.random.Generator, count: int, floor: int) -> list[tuple[int, ...]]:
    """`count` label sets from the real joint distribution, each class in at least `floor` of them.

    Missing images of a class are drawn from the sets that hold it and replace such whose classes
    all have more than `floor`; where `count` has no room for that, the floor is lower.
    """
    sets, shares = label_sets()
    number = len(classes.NAMES)
    drawn = [sets[k] for k in rng.choice(len(sets), count, p=shares)]
    for level in range(1, floor + 1):
        have = np.bincount([c for labels in drawn for c in labels], minlength=number)
        for label in np.argsort(have, kind="stable"):
            have = np.bincount([c for labels in drawn for c in labels], minlength=number)
            if have[label] >= level:
                continue
            spare = [k for k, labels in enumerate(drawn) if all(have[c] > level for c in labels)]
            if not spare:
                return drawn
            holding = [k for k, labels in enumerate(sets) if label in labels]
            weight = shares[holding] / shares[holding].sum()
            drawn[int(rng.choice(spare))] = sets[holding[int(rng.choice(len(holding), p=weight))]]
    return drawn


def _share(floor: int, count: int, train: int) -> int:
    return min(floor, max(2, round(floor * count / max(train, 1)))) if count else 0


def _hex_ids(rng: np.random.Generator, count: int) -> list[str]:
    """Ids that look like the competition's UUIDs, distinct."""
    names: dict[str, None] = {}
    while len(names) < count:
        text = rng.bytes(16).hex()
        names[f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"] = None
    return list(names)


def _external(rng: np.random.Generator, count: int, floor: int, seed: int) -> list[Planned]:
    """External images: antibodies with two wells of two samples that share one label set."""
    groups = (count + 3) // 4
    sets = draw_label_sets(rng, groups, max(1, floor // 3) if floor else 0)
    antibodies = rng.choice(90000, groups, replace=False) + 1000
    out = []
    for row in range(count):
        group, well, sample = row // 4, row % 4 // 2, row % 2
        plate = np.random.default_rng([seed, 7, group]).integers(100, 1900, 2)
        letter = "ABCDEFGH"[int(plate.sum() + well) % 8]
        name = f"{antibodies[group]}_{plate[well]}_{letter}{1 + int(plate[0]) % 12}_{1 + sample}"
        out.append(Planned(name, "external", sets[group], sets[group], (seed, 2, row),
                           (seed, 8, group)))  # fmt: skip
    return out


def _becomes(copy: Planned, original: Planned, kind: str) -> Planned:
    return Planned(copy.id, copy.part, original.target, original.shown, original.seed,
                   original.antibody, kind)  # fmt: skip


def _copy_within(rng: np.random.Generator, images: list[Planned], pairs: int) -> None:
    """Turns `pairs` images into copies of others of the same part (no chains)."""
    chosen = rng.permutation(len(images))[: 2 * pairs]
    for original, copy in chosen.reshape(-1, 2) if len(chosen) % 2 == 0 else []:
        kind = camera.COPIES[int(rng.integers(len(camera.COPIES)))]
        images[copy] = _becomes(images[copy], images[original], kind)


def _leak(rng: np.random.Generator, parts: dict[str, list[Planned]], count: int) -> None:
    """Turns images of external (three in four) and of train into copies of test images."""
    chosen = rng.permutation(len(parts["test"]))[:count]
    for turn, row in enumerate(chosen):
        part = parts["external" if turn % 4 != 3 and parts["external"] else "train"]
        free = [k for k, item in enumerate(part) if not item.copy and item.seed[1] != 1]
        if not free:
            continue
        copy = free[int(rng.integers(len(free)))]
        kind = camera.COPIES[int(rng.integers(len(camera.COPIES)))]
        part[copy] = _becomes(part[copy], parts["test"][row], kind)


def _mislabel(rng: np.random.Generator, images: list[Planned], count: int) -> None:
    """Gives `count` images another label set in the table than the one they show."""
    for row in rng.permutation(len(images))[:count]:
        wrong = images[row].shown
        while wrong == images[row].shown:
            wrong = draw_label_sets(rng, 1, 0)[0]
        images[row] = Planned(**{**asdict(images[row]), "target": wrong})


def _save(folder: Path, side: int, missing: float, planned: Planned) -> None:
    """Draws one image and writes its four PNG files."""
    from PIL import Image

    image = camera.photograph(
        planned.seed, planned.shown, side, antibody=planned.antibody, missing=missing
    )
    if planned.part == "external":
        image = np.clip(image * EXTERNAL_BRIGHTNESS, 0, 255).round().astype(np.uint8)
    if planned.copy:
        key = int.from_bytes(planned.id.encode()[:8], "little")
        image = camera.copy_of(image, planned.copy, np.random.default_rng([*planned.seed, key]))
    for k, channel in enumerate(CHANNELS):
        path = folder / planned.part / f"{planned.id}_{channel}.png"
        Image.fromarray(image[..., k]).save(path, compress_level=4)


def _each(save: functools.partial, images: Sequence[Planned], workers: int) -> None:
    """Calls `save` on every image, in `workers` processes."""
    if workers <= 1 or len(images) < 32:
        for image in images:
            save(image)
        return
    with processes.pool(workers) as pool:
        for _ in pool.map(save, images, chunksize=8):
            pass


def _text(labels: Sequence[int]) -> str:
    return " ".join(map(str, labels))


def _tables(folder: Path, images: Sequence[Planned]) -> None:
    def rows(part: str) -> Iterator[tuple[str, str]]:
        return ((p.id, _text(p.target)) for p in images if p.part == part)

    _write_csv(folder / "train.csv", "Target", rows("train"))
    _write_csv(folder / "external.csv", "Target", rows("external"))
    blank = ((name, "0") for name, _ in rows("test"))
    _write_csv(folder / "sample_submission.csv", "Predicted", blank)


def _write_csv(path: Path, column: str, rows: Iterator[tuple[str, str]] | list) -> None:
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["Id", column])
        writer.writerows(rows)


def _check(root: Path, truth_path: Path, settings: dict) -> None:
    """Refuses numbers out of range, a folder that is not ours, and a disk that is too small."""
    for key in ("train", "test", "external", "min_per_class", "seed"):
        if settings[key] < 0:
            raise InputError(f"data.synthetic.{key}: {settings[key]} is negative")
    if settings["image_size"] < 16:
        raise InputError(f"data.synthetic.image_size: {settings['image_size']} is below 16 pixels")
    for key in ("label_noise", "duplicates", "leak", "missing_yellow"):
        if not 0 <= settings[key] <= 1:
            raise InputError(f"data.synthetic.{key}: {settings[key]} is no share between 0 and 1")
    if root.resolve() in truth_path.resolve().parents:
        raise InputError(f"{truth_path}: the truth must lie outside of the data folder {root}")
    if root.exists() and not (root.is_dir() and (_empty(root) or (root / MARKER).is_file())):
        raise InputError(
            f"{root}: contains files that were not generated here ({MARKER} is missing); "
            "choose another data.root or remove it"
        )
    images = settings["train"] + settings["test"] + settings["external"]
    need = images * len(CHANNELS) * (settings["image_size"] ** 2 + 4096)
    parent = next(folder for folder in root.resolve().parents if folder.exists())
    if shutil.disk_usage(parent).free < need:
        raise InputError(f"{root}: {need >> 20} MB may be needed and the disk has less free")


def _empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None
