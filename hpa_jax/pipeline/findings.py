"""What the report is about, read from the workdir: scored rows, and the chain of steps."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.pipeline import retrieve, scores, submit, tables, thresholds
from hpa_jax.pipeline.context import Context
from hpa_jax.report.findings import Findings, Scored
from hpa_jax.report.steps import Step


def gather(context: Context) -> Findings:
    """Validation rows by nested decisions; the test rows too if their truth is known."""
    stored = artifacts.read_json(context.path("thresholds.json"))
    chosen = scores.chosen_method(context)
    own = stored["intervals"][chosen]
    return Findings(
        classes=list(context.config.classes),
        chosen=chosen,
        stack=scores.STACK,
        valid=_valid(context),
        test=_test(context),
        cuts=scores.cuts(context),
        around=np.array([own["low"], own["high"]], float).T,
        automatic=artifacts.read_json(context.path("metrics.json"))["auto"],
    )


def evaluation(context: Context) -> dict[str, Any] | None:
    """evaluation.json, None if the test truth is not known."""
    path: Path = context.path("evaluation.json")
    return artifacts.read_json(path) if path.is_file() else None


def weights(context: Context) -> dict[str, dict[str, float]]:
    """Weights of the models in every blend that is a mean with weights."""
    blends = artifacts.read_json(context.path("metrics.json"))["blends"]
    return {
        name: blend["weights"]
        for name, blend in blends.items()
        if blend["weights"] and blend["method"] != "logistic"
    }


def _valid(context: Context) -> Scored:
    metrics = artifacts.read_json(context.path("metrics.json"))
    rows = tables.split_rows(context, "valid")
    path = context.path("decisions.parquet")
    return Scored(
        "validation",
        metrics["rows"],
        rows.ids,
        rows.labels,
        rows.groups,
        scores.of_methods(context, "valid", rows.ids),
        scores.read_decisions(path, list(metrics["scores"]), rows.ids, context),
        scores.resamples(rows),
        metrics["scores"],
    )


def _test(context: Context) -> Scored | None:
    found = evaluation(context)
    if found is None or context.truth is None or not context.truth.is_file():
        return None
    rows = tables.split_rows(context, "test")
    return Scored(
        "test",
        found["rows"],
        rows.ids,
        tables.truth(context.truth, rows.ids, context),
        rows.groups,
        scores.of_methods(context, tables.FINAL, rows.ids),
        scores.decisions(context, rows.ids),
        scores.resamples(rows),
        found["scores"],
    )


def steps(context: Context, found: Findings) -> tuple[list[Step], str]:
    """The chain single -> test-time views -> mean -> stack -> thresholds -> leak, what was
    submitted, and a remark.

    The single network is the best one on validation.  Neighbours that boost probabilities come
    after the stack, those that replace labels after the thresholds.
    """
    mode = context.config.retrieval.mode
    single = max(context.config.models, key=lambda name: found.valid.scores[name]["macro_f1"])
    views = context.config.models[single].views
    name = views if isinstance(views, str) else views.get("name", "identity")
    alone = found if mode != "boost" else _without_boost(context, found, single)
    chain, remark = [], ""
    if name != "identity":
        plain = _plain(context, found, single)
        if plain is None:
            remark = f"The views {name} do not hold the image as it is: no step without them."
        else:
            chain = [plain, _step(alone, f"+ test-time views ({name})", single)]
    if not chain:
        chain = [_step(alone, f"{single} alone", single)]
    if len(context.config.models) > 1:
        chain.append(_step(alone, "+ mean of all networks", scores.MEAN))
    chain.append(_step(alone, "+ stack", scores.STACK))
    if mode == "boost":
        chain.append(_step(found, "+ neighbours (boost)", scores.STACK))
    chain.append(_step(found, "+ thresholds", scores.STACK, cut=True))
    if mode == "replace":
        chain.append(_replaced(context, found, chain[-1]))
    if found.test:
        before = chain[-1].decided["test"]
        leaked, changed = submit.overlay_leak(context, found.test.ids, before)
        chain.append(Step(f"+ leak table ({changed} rows)", {"test": leaked}, {}))
        chain.append(_submitted(context, found))
    return chain, remark


def _without_boost(context: Context, found: Findings, single: str) -> Findings:
    """The findings as they would be if neighbours moved no probability; cuts fitted anew.

    Of the methods that the chain goes through alone.
    """
    config = copy.deepcopy(context.config)
    config.retrieval.mode = "off"
    off = dataclasses.replace(context, config=config)
    rows = tables.split_rows(context, "valid")
    probs = {"validation": scores.of_methods(off, "valid", rows.ids)}
    if found.test:
        probs["test"] = scores.of_methods(off, tables.FINAL, found.test.ids)
    decided: dict[str, dict[str, np.ndarray]] = {part: {} for part in probs}
    for method in (single, scores.MEAN, scores.STACK):
        own = {part: of_methods[method] for part, of_methods in probs.items()}
        for part, values in _cut(off, method, own, rows).items():
            decided[part][method] = values
    parts = {
        part.name: dataclasses.replace(part, probs=probs[part.name], decided=decided[part.name])
        for part in found.parts
    }
    return dataclasses.replace(found, valid=parts["validation"], test=parts.get("test"))


def _replaced(context: Context, found: Findings, before: Step) -> Step:
    """Rows with a near neighbour take its labels, in place of what the step before decided."""
    decided = {}
    for part in found.parts:
        split = "valid" if part is found.valid else "test"
        own = before.decided[part.name]
        decided[part.name], _ = retrieve.replaced(context, split, part.ids, own)
    return Step("+ neighbours (replace)", decided, {})


def _submitted(context: Context, found: Findings) -> Step:
    """submission.csv as it was written: by the chosen method, after argmax and leak table."""
    ids = found.test.ids
    written = tables.submission(context.path("submission.csv"), ids, context)
    title = f"submitted: {found.chosen}, leak table {context.config.leak} ({len(ids):,} rows)"
    return Step(title, {"test": written}, {})


def _step(found: Findings, title: str, method: str, cut: bool = False) -> Step:
    """The step at which `method` decides: at 0.5, or by its own cuts."""
    decided = {part.name: part.decided[method] for part in found.parts}
    if cut:
        return Step(title, decided, {})
    at_half = {part.name: part.probs[method] >= 0.5 for part in found.parts}
    return Step(title, at_half, decided)


def _plain(context: Context, found: Findings, model: str) -> Step | None:
    """The network without test-time views; None if prediction has not kept that."""
    paths = {
        part.name: tables.predictions(context, model, split, plain=True)
        for part, split in zip(found.parts, ("valid", tables.FINAL))
    }
    if not all(path.is_file() for path in paths.values()):
        return None
    probs = {
        part.name: tables.probabilities(paths[part.name], part.ids, context) for part in found.parts
    }
    decided = _cut(context, model, probs, tables.split_rows(context, "valid"))
    at_half = {name: array >= 0.5 for name, array in probs.items()}
    return Step(f"{model}, no test-time views", at_half, decided)


def _cut(
    context: Context, method: str, probs: Mapping[str, np.ndarray], rows: tables.Rows
) -> dict[str, np.ndarray]:
    """Decisions bool[N, C] of each part by the method's own cuts, nested on validation."""
    matched = None
    if context.config.thresholds.match_on == "test":  # nested alike where the truth is not known
        matched = probs.get("test", probs["validation"])
    cuts, nested = thresholds.fit_and_nest(context, method, probs["validation"], rows, matched)
    decided = {"validation": nested}
    if "test" in probs:
        decided["test"] = scores.decide(context, probs["test"], cuts)
    return decided
