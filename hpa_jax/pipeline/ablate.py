"""The verb `ablate`: the effect of each change of a recipe on the score, over several seeds.

In: a base recipe with `config.ablate.variations`, each with a name, models to add and options to
change.  Every variation runs once per seed (of networks, split, thresholds and stack), starting
from the base's files of the same seed, so that steps unaffected by the change are not repeated.
Out: WORKDIR/ablation.{json,md}: mean and spread of each variation's score, its difference from the
base, paired by seed, and the minutes spent beyond the base.
"""

import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import overrides, validation
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError, near
from hpa_jax.pipeline import cache, replaced, runner
from hpa_jax.pipeline.context import Context, opened
from hpa_jax.pipeline.steps import STEPS

BASE = "base"
COMPARED = tuple(name for name in STEPS if name not in ("data", "report"))
KEYS = ("name", "add", "set", "method", "at", "about", "talk")
SCORES = {"thresholds": "macro_f1", "half": "macro_f1_at_half"}
CONFIDENCE = 0.95


def ablate(config: ConfigDict, flags: dict[str, Any]) -> int:
    """Run the base and all unfinished variations; write and print the table."""
    context = opened(config, flags)
    variations = checked(config)
    if context.draws:
        runner.run(config, {**flags, "only": None}, ("data",))
    config = _with_shared_folders(config, context)
    runs = {}
    for seed in config.ablate.seeds:
        for variation in variations:
            name = variation["name"]
            folder = context.path("ablate", name, f"seed_{seed}")
            base = None if name == BASE else context.path("ablate", BASE, f"seed_{seed}")
            if base:
                _begin_from(base, folder)
            print(f"== {name}, seed {seed} ==", flush=True)
            of_seed, steps = _with_data(
                varied(changed(config, seeded(seed)), variation), config, context.draws
            )
            runner.run(of_seed, {**flags, "workdir": str(folder), "only": None}, steps)
            runs[name, seed] = outcome(folder, variation, config.ablate.method, base)
    rows = [_row(variation, runs, config.ablate.seeds) for variation in variations]
    artifacts.write_json(
        context.path("ablation.json"), {"seeds": config.ablate.seeds, "variations": rows}
    )
    text = table(rows, len(config.ablate.seeds))
    with artifacts.atomic(context.path("ablation.md")) as temporary:
        temporary.write_text(text)
    print(text)
    return 0


def seeded(seed: int) -> dict[str, int]:
    """Return the seeds to set: of networks, split, thresholds and stack."""
    return dict.fromkeys(("seed", "split.seed", "thresholds.seed", "stack.seed"), seed)


def checked(config: ConfigDict) -> list[dict[str, Any]]:
    """Return the checked variations, the base first.

    Raises:
        InputError: no variations, a duplicate name or one that cannot name a folder, an unknown
            option, key or method.
    """
    variations = [dict(variation) for variation in config.ablate.variations]
    if not variations:
        raise InputError("config.ablate.variations: empty; see configs/ablation.py for an example")
    if not config.ablate.seeds or len(set(config.ablate.seeds)) < len(config.ablate.seeds):
        raise InputError(
            f"config.ablate.seeds={config.ablate.seeds}: must be distinct and not empty"
        )
    _check_method(config, config.ablate.method, "config.ablate.method")
    names = [BASE]
    for variation in variations:
        where = f"config.ablate.variations, {variation.get('name')!r}"
        for key in variation:
            if key not in KEYS:
                raise InputError(f"{where}: unknown option {key!r}{near(key, KEYS)}")
        name = variation.get("name", "")
        if not name or set(name) & set("/\\") or name.startswith(".") or name in names:
            raise InputError(f"{where}: needs a unique name that can name a folder")
        if variation.get("at", "thresholds") not in SCORES:
            raise InputError(f"{where}: at={variation['at']!r}: must be one of {', '.join(SCORES)}")
        of_variation = varied(config, variation)
        _check_method(of_variation, variation.get("method", config.ablate.method), where)
        names.append(name)
    return [{"name": BASE, "about": "the recipe as it stands"}, *variations]


def varied(config: ConfigDict, variation: Mapping[str, Any]) -> ConfigDict:
    """Return a copy with a variation's added models, then its changes, on these too.

    Raises:
        InputError: an added model has the name of another or an unknown option, or a changed key is
            unknown.
    """
    copy = config.copy_and_resolve_references().unlock()
    for name, options in variation.get("add", {}).items():
        if name in config.models:
            raise InputError(f"config.models.{name}: already exists, can't be added")
        copy.models[name] = configs.model(**options)
    return changed(copy.lock(), variation.get("set", {}))


def _check_method(config: ConfigDict, method: str, where: str) -> None:
    """Refuse, before any training, a method that the run would not score."""
    methods = [
        name for name in configs.METHODS if name != "ensemble" or configs.has_ensemble(config)
    ]
    methods += config.models
    if method not in methods:
        raise InputError(f"{where}: unknown method {method!r}{near(method, methods)}")


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Return a copy with dotted keys changed; "models.*.KEY" changes every model.

    Raises:
        InputError: an unknown key.
    """
    copy = config.copy_and_resolve_references()
    for pattern, value in changes.items():
        for key in _matching(config, pattern):
            copy = overrides.changed(copy, key, value)
    validation.validate(copy)
    return copy.lock()


def _matching(config: ConfigDict, pattern: str) -> list[str]:
    if pattern.startswith("models.*."):
        rest = pattern.removeprefix("models.*.")
        return [f"models.{name}.{rest}" for name in config.models]
    return [pattern]


def _with_shared_folders(config: ConfigDict, context: Context) -> ConfigDict:
    """Let all runs share one data set and one compilation cache, in the ablation's workdir."""
    changes = {}
    if not config.train.compilation_cache:
        changes["train.compilation_cache"] = str(context.path("ablate", "compiled"))
    if context.draws:
        changes["data.root"], changes["data.truth"] = str(context.data_root), str(context.truth)
    return changed(config, changes)


def _with_data(
    config: ConfigDict, base: ConfigDict, draws: bool
) -> tuple[ConfigDict, tuple[str, ...]]:
    """Return a variation's config and its steps: with other synthetic images than the base's it
    makes its own.  draws: whether the base's images are synthetic."""
    # as dicts: a locked ConfigDict does not equal an unlocked one
    if not draws or config.data.synthetic.to_dict() == base.data.synthetic.to_dict():
        return config, COMPARED
    return changed(config, {"data.root": "", "data.truth": ""}), ("data", *COMPARED)


def _begin_from(finished: Path, folder: Path) -> None:
    """Start a new run with hard links to the base's files; their stamps decide what is reused.

    Links are safe: files are replaced by renaming, or removed before they are written again.
    """
    if folder.exists():
        return
    with artifacts.atomic(folder) as temporary:
        shutil.copytree(
            finished,
            temporary,
            copy_function=_link,
            ignore=shutil.ignore_patterns(".lock", replaced.FOLDER),
        )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def outcome(
    folder: Path, variation: Mapping[str, Any], method: str, base: Path | None = None
) -> dict[str, float]:
    """Return one run's scores by the variation's method, and the minutes of its steps.

    Steps reused from `base`, the folder of the base's run, do not count.

    Raises:
        InputError: the run did not score the method, or a change did nothing: all results are the
            base's.
    """
    seconds = cache.seconds(folder, beyond=base)
    if base and variation.get("set") and not seconds:
        raise InputError(
            f"config.ablate.variations, {variation['name']!r}: no step depends on "
            f"{', '.join(variation['set'])}, all its results would be the base's"
        )
    method = variation.get("method", method)
    score = SCORES[variation.get("at", "thresholds")]
    figures = {}
    for rows, file in (("validation", "metrics.json"), ("test", "evaluation.json")):
        if not (folder / file).is_file():
            continue
        scores = artifacts.read_json(folder / file)["scores"]
        if method not in scores:
            raise InputError(
                f"config.ablate: unknown method {method!r} in {folder}{near(method, scores)}"
            )
        figures[rows] = scores[method][score]
        if rows == "test":
            figures["test_map"] = scores[method]["mean_average_precision"]
    return {**figures, "minutes": sum(seconds.values()) / 60}


def _row(
    variation: Mapping[str, Any],
    runs: Mapping[tuple[str, int], Mapping[str, float]],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Return mean, spread and paired difference of every figure of one variation."""
    name = variation["name"]
    row: dict[str, Any] = {key: variation[key] for key in KEYS if key in variation}
    for figure in runs[BASE, seeds[0]]:
        values = [runs[name, seed][figure] for seed in seeds]
        pairs = [runs[name, seed][figure] - runs[BASE, seed][figure] for seed in seeds]
        row[figure] = {
            "values": values,
            "mean": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else None,
        }
        if name != BASE and figure != "minutes":
            row[figure] |= paired(pairs)
    return row


def paired(differences: Sequence[float]) -> dict[str, Any]:
    """Return the mean difference, its 95 % interval over the seeds (Student's t) and a verdict.

    A single seed gives no interval.
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"difference": mean, "interval": None, "verdict": "one seed: unknown"}
    from scipy import stats

    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * error
    low, high = mean - half, mean + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "no evidence"
    return {"difference": mean, "interval": [low, high], "verdict": verdict}


def table(rows: Sequence[Mapping[str, Any]], seeds: int) -> str:
    """Return a Markdown table of the test scores, of validation if the truth is unknown."""
    rows_of = "test" if "test" in rows[0] else "validation"
    lines = [
        f"Macro-F1 on the {rows_of} part, {seeds} seeds; differences from the base are paired by "
        f"seed, with their {CONFIDENCE:.0%} interval (Student's t). Minutes: without the "
        "steps reused from the base.",
        "",
        "| variation | macro-F1 (± spread) | difference | evidence | mAP | minutes | the talk |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *_lines(rows, rows_of), ""])


def _lines(rows: Sequence[Mapping[str, Any]], rows_of: str) -> Iterator[str]:
    for row in rows:
        score = row[rows_of]
        ranking = f"{row['test_map']['mean']:.3f}" if "test_map" in row else ""
        cells = [
            f"**{row['name']}**: {row.get('about', '')}",
            *mean_and_difference(score),
            score.get("verdict", ""),
            ranking,
            f"{row['minutes']['mean']:.1f}",
            row.get("talk", ""),
        ]
        yield f"| {' | '.join(cells)} |"


def mean_and_difference(figure: Mapping[str, Any], digits: int = 3) -> tuple[str, str]:
    """Format a figure's mean with spread, and its difference from the base ("" for the base)."""
    mean, difference = f"{figure['mean']:.{digits}f}", ""
    if figure["spread"] is not None:
        mean += f" ± {figure['spread']:.{digits}f}"
    if "difference" in figure:
        difference = f"{figure['difference']:+.{digits}f}"
        if figure["interval"]:
            low, high = figure["interval"]
            difference += f" ({low:+.{digits}f} … {high:+.{digits}f})"
    return mean, difference
