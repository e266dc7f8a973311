"""The verb `export`: write a run's networks and decision for use elsewhere.

bundle (default): for `predict --model`.  safetensors: weights, config.json and a model card in the
layout of Hugging Face.  stablehlo: one program from images to scores that needs only jax.  onnx,
bioimageio: the same without jax (export_onnx.py).
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError, near
from hpa_jax.pipeline import bundles, galleries, model_card, scores, tables
from hpa_jax.pipeline.context import Context, opened

if TYPE_CHECKING:
    import jax

    from hpa_jax.decision.bundle import Bundle


def export(context: Context) -> Path:
    """Write networks, thresholds and the stack (if chosen) in one folder -> bundle/.

    With config.refit the networks are those of the submission, trained on all labelled images.

    Raises:
        InputError: an earlier step has not run.
    """
    from hpa_jax.decision import bundle

    packed = packed_of(context)
    written = bundle.write(context.path("bundle"), packed)
    gallery = galleries.of_run(context, bundles.strongest(packed), packed.class_names)
    if gallery is not None and context.flags.get("gallery", True):
        galleries.write(written / "gallery", gallery)
    return written


def packed_of(context: Context) -> "Bundle":
    """Return the submission's networks and decision.

    Raises:
        InputError: an earlier step has not run.
    """
    from hpa_jax.decision import blends, bundle, projection
    from hpa_jax.decision.stack import stacking

    method = scores.chosen_method(context)
    single, stored = method in context.config.models, context.path("ensemble", "blends.json")
    blend: blends.Blend = blends.Formula()
    if method in scores.blends(context):
        blend = blends.from_json(artifacts.read_json(stored)[method], list(context.config.models))
    fits = [fit for fit in bundles.fits(context) if not single or fit[0] == method]
    return bundle.Bundle(
        class_names=tuple(context.config.classes),
        members=[member for fit in fits for member in bundles.of_fit(context, *fit)],
        thresholds=scores.class_thresholds(context)[method],
        rule=bundle.STACK if method == scores.STACK else bundle.BLEND,
        blend=blend,
        argmax=context.config.submission.argmax,
        stack=stacking.load(context.path("stack")) if method == scores.STACK else None,
        features=context.config.features.to_dict(),
        training_images=bundles.training_images(context, method) | {"left_out": left_out(context)},
        validated=scores.validated(context, method),
        projections={
            name: projection.load(tables.components(context) / f"{name}.npz")
            for name in (context.config.embeddings.pca if method == scores.STACK else ())
        },
    )


def left_out(context: Context) -> str:
    """Describe what a bundle omits of the run's decision; "" if nothing."""
    mode = context.config.retrieval.mode
    if mode == "off":
        return ""
    text = f"retrieval ({mode}), which uses labels of the run's nearest labelled images"
    if mode == "boost":
        text += "; the thresholds were fitted with it, so labels may differ from the submission's"
    return text


def safetensors(context: Context) -> Path:
    """Write weights, config.json and README.md (the model card) -> export/safetensors/.

    Raises:
        InputError: an earlier step has not run, or the stack decides.
    """
    from hpa_jax.decision import bundle

    packed = without_trees(packed_of(context), "safetensors")
    folder = context.path("export", "safetensors")
    with artifacts.atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        files = []
        for member in packed.members:
            single = len(packed.members) == 1
            files.append("model.safetensors" if single else f"{member.name}.safetensors")
            bundle.write_weights(temporary / files[-1], member)
        facts = about(packed)
        networks = [
            {"file": file, "name": m.name, "model": m.model, "config": m.config.to_dict(),
             "class_numbers": m.class_numbers, "views": m.views}
            for file, m in zip(files, packed.members, strict=True)
        ]  # fmt: skip
        blend = packed.blend.as_json(packed.models)
        facts |= {"library_name": "hpa_jax", "networks": networks, "blend": blend}
        artifacts.write_json(temporary / "config.json", facts)
        (temporary / "README.md").write_text(model_card.text(context, packed), "utf-8")
    return folder


def stablehlo(context: Context) -> Path:
    """Write model.stablehlo, thresholds.json and README.md -> export/stablehlo/.

    The program takes uint8[N, H, W, 4] (any N, the side of config.json) and gives the submission's
    scores float32[N, C]; `jax.export.deserialize(bytearray).call(images)` runs it on CPU, GPU, TPU.

    Raises:
        InputError: an earlier step has not run, the stack decides, or networks take images
            of different sizes.
    """
    import jax
    import jax.numpy as jnp
    from jax import export as jax_export

    packed = without_trees(packed_of(context), "stablehlo")
    side = one_side(packed)
    (count,) = jax_export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, side, side, 4), jnp.uint8)
    program = jax.jit(program_of(packed))
    exported = jax_export.export(program, platforms=("cpu", "cuda", "tpu"))(images)
    folder = context.path("export", "stablehlo")
    with artifacts.atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        (temporary / "model.stablehlo").write_bytes(exported.serialize())
        artifacts.write_json(temporary / "thresholds.json", {**about(packed), "image_size": side})
        (temporary / "README.md").write_text(model_card.text(context, packed, USE), "utf-8")
    return folder


USE = """
    import json
    import jax
    import numpy as np

    program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    about = json.load(open("thresholds.json"))
    images = np.zeros((1, about["image_size"], about["image_size"], 4), np.uint8)  # yours
    scores = np.asarray(program.call(images))
    thresholds = [float("inf") if t is None else t for t in about["thresholds"]]
    labels = scores >= np.array(thresholds)
"""


def program_of(packed: "Bundle") -> "Callable[[jax.Array], jax.Array]":
    """Return the function from uint8[N, H, W, 4] to a bundle's scores float32[N, C], in pure jax.

    The channels are red, green, blue, yellow.
    """
    import jax.numpy as jnp

    from hpa_jax.data.reader import CHANNELS
    from hpa_jax.inference import predict

    programs = [predict.program(m.network, m.config, views=m.views) for m in packed.members]

    def scores_of(images: "jax.Array") -> "jax.Array":
        rows = jnp.arange(images.shape[0])
        folds: dict[str, list[jax.Array]] = {name: [] for name in packed.models}
        for member, (run, state) in zip(packed.members, programs, strict=True):
            planes = [CHANNELS.index(name) for name in member.config.channels]
            probs = run(state, images[..., planes], rows).probs
            full = jnp.full((images.shape[0], len(packed.class_names)), jnp.nan)
            folds[member.model].append(full.at[:, list(member.class_numbers)].set(probs))
        means = [sum(of_folds) / len(of_folds) for of_folds in folds.values()]
        return blended(packed, jnp.stack(means))

    return scores_of


def blended(packed: "Bundle", probs: "jax.Array") -> "jax.Array":
    """Blend probabilities [M, N, C] in jax; NaN is a missing class, 0 if no model has it."""
    import jax
    import jax.numpy as jnp

    from hpa_jax.decision import blends
    from hpa_jax.inference import ensemble

    blend = packed.blend
    if isinstance(blend, blends.Logistic):
        mean = jnp.nanmean(probs, axis=0)
        fitted = np.isfinite(blend.coefficients).all(axis=1)
        weights = jnp.asarray(np.where(fitted[:, None], blend.coefficients, 0), jnp.float32)
        clipped = jnp.clip(jnp.nan_to_num(probs, nan=0.5), ensemble.LIMIT, 1 - ensemble.LIMIT)
        logits = jnp.log(clipped) - jnp.log1p(-clipped)
        joint = jax.nn.sigmoid(weights[:, 0] + jnp.einsum("mnc,cm->nc", logits, weights[:, 1:]))
        return jnp.nan_to_num(jnp.where(fitted, joint, mean))
    assert isinstance(blend, blends.Formula)
    of_models = np.ones(len(probs)) if blend.weights is None else np.array(blend.weights)
    weight = jnp.asarray(of_models, jnp.float32)[:, None, None] * ~jnp.isnan(probs)
    share = weight / jnp.maximum(weight.sum(axis=0), 1e-12)
    if blend.method == "mean":
        return (share * jnp.nan_to_num(probs)).sum(axis=0)
    if blend.method == "geometric":
        logs = jnp.log(jnp.clip(jnp.nan_to_num(probs, nan=1.0), ensemble.LIMIT, 1))
        return jnp.where(weight.sum(axis=0) > 0, jnp.exp((share * logs).sum(axis=0)), 0)
    return jnp.nan_to_num(jnp.nanmax(jnp.where(weight > 0, probs, jnp.nan), axis=0))


def one_side(packed: "Bundle") -> int:
    """Return the common image side of all networks, in pixels.

    Raises:
        InputError: different sides.
    """
    sides = sorted({member.config.image_size for member in packed.members})
    if len(sides) > 1:
        raise InputError(
            f"export: the networks take images of {' and '.join(map(str, sides))} pixels, a "
            "program takes one size; export a single network with config.submission.method=NAME"
        )
    return sides[0]


def about(packed: "Bundle") -> dict[str, Any]:
    """Return what is needed to interpret the scores, as JSON values."""
    return {
        "classes": list(packed.class_names),
        "thresholds": [
            float(threshold) if np.isfinite(threshold) else None for threshold in packed.thresholds
        ],
        "argmax": packed.argmax,
        "channels": ["red", "green", "blue", "yellow"],
        "stains": ["microtubules", "protein", "nucleus", "endoplasmic reticulum"],
        "training_images": packed.training_images,
    }


def without_trees(packed: "Bundle", form: str) -> "Bundle":
    """Return a bundle without stack.

    Raises:
        InputError: the stack decides.
    """
    from hpa_jax.decision import bundle

    if packed.rule == bundle.STACK:
        raise InputError(
            f"export --to={form}: the stack decides, and {form} cannot hold its boosted trees; "
            'choose a model or a blend, --config.submission.method="mean of models"'
        )
    return dataclasses.replace(packed, stack=None)


# --to=FORM -> its writer: (context) -> written path.
FORMS = {
    "bundle": "hpa_jax.pipeline.export:export",
    "safetensors": "hpa_jax.pipeline.export:safetensors",
    "stablehlo": "hpa_jax.pipeline.export:stablehlo",
    "onnx": "hpa_jax.pipeline.export_onnx:onnx",
    "bioimageio": "hpa_jax.pipeline.export_onnx:bioimageio",
}


def forms(text: str | None) -> Sequence[str]:
    """Return the distinct forms of --to.

    Raises:
        InputError: an unknown form.
    """
    names = list(dict.fromkeys(filter(None, (text or "bundle").replace(" ", "").split(","))))
    for name in names:
        if name not in FORMS:
            hint = near(name, FORMS) or f"; known: {', '.join(FORMS)}"
            raise InputError(f"--to={name}: unknown{hint}")
    return names


def verb(config: ConfigDict, flags: dict[str, Any]) -> int:
    """Run the verb `export`."""
    context = opened(config, flags)
    for form in forms(flags.get("to")):
        module, _, function = FORMS[form].partition(":")
        write = getattr(importlib.import_module(module), function)
        print(f"{form} -> {write(context)}")
    if missing := left_out(context):
        print(f"not in the export: {missing}")
    return 0
