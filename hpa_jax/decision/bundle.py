"""The bundle: one self-contained folder that predicts the compartments of new images.

    bundle.json                    classes, members, thresholds, rule, image sizes, versions
    models/NAME.safetensors        weights and BatchNorm statistics of one network
    projections/MODEL.npz          principal components of its embedding, input of the stack
    references/NAME.npz            statistics of ordinary images (unlike.py)
    stack/                         the boosted stack, if the rule is "stack"

Weights are read as data (safetensors), never unpickled.  Use: `read`, the members' networks for
probabilities, `Bundle.decide` for the labels, `table` for the output file.
"""

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax import __version__
from hpa_jax.core import artifacts, classes, own_code
from hpa_jax.core.errors import InputError
from hpa_jax.decision import blends, projection, thresholds, unlike
from hpa_jax.decision.stack import stacking
from hpa_jax.decision.stack.inputs import of_tables
from hpa_jax.decision.validated import Validated

if TYPE_CHECKING:
    import pandas as pd
    from flax import nnx

FORMAT = 2
FORMER_KEYS = {"cuts": "thresholds", "picture": "training_images"}
STACK, BLEND = "stack", "blend"
_LIBRARIES = ("jax", "flax", "xgboost", "xgboost-cpu", "numpy", "safetensors")


@dataclasses.dataclass
class Member:
    """One network of a bundle.

    name: file name, unique; model: its name in the stack's columns (the folds of one model share it
    and are averaged); config: its model config; network: in evaluation mode; class_numbers: the
    classes of its outputs; views: as views.make.
    """

    name: str
    model: str
    config: ConfigDict
    network: "nnx.Module"
    class_numbers: tuple[int, ...]
    views: Any
    reference: unlike.Reference | None = None


@dataclasses.dataclass
class Bundle:
    """Networks and their decision rule.

    rule: "stack", or "blend" (of the models, by `blend`); thresholds: float[C], inf = never;
    argmax: as thresholds.decide; stack: for the rule "stack"; features: options of
    features.metafeatures; training_images: their properties (image_size, original_size, ...) and
    the validation scores; validated: calibration, F1 and support of each class, None if unknown;
    projections: by model, of its embedding to columns of the stack.
    """

    class_names: tuple[str, ...]
    members: list[Member]
    thresholds: np.ndarray
    rule: str = BLEND
    blend: blends.Blend = dataclasses.field(default_factory=blends.Formula)
    argmax: str = "empty"
    stack: stacking.Stack | None = None
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    training_images: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    validated: Validated | None = None
    projections: dict[str, projection.Projection] = dataclasses.field(default_factory=dict)

    def with_components(
        self, metafeatures: "pd.DataFrame", embeddings: Mapping[str, np.ndarray]
    ) -> "pd.DataFrame":
        """Join the metafeatures with the principal components that the stack uses.

        embeddings: of each member, by name; the folds of a frozen network share theirs.
        """
        first = {member.model: member.name for member in reversed(self.members)}
        by_model = {model: embeddings[first[model]] for model in self.projections}
        columns = projection.table(self.projections, by_model)
        columns.index = metafeatures.index
        return metafeatures.join(columns)

    def decide(
        self, probs: Mapping[str, np.ndarray], metafeatures: "pd.DataFrame | None" = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores float[N, C] and labels bool[N, C] by the bundle's rule.

        probs: of each member, by name.  metafeatures: the columns that the stack uses.

        Raises:
            InputError: a member's probabilities or a metafeature of the stack are missing.
        """
        missing = [member.name for member in self.members if member.name not in probs]
        if missing:
            raise InputError(
                f"the probabilities of the bundle's network {missing[0]!r} are missing"
            )
        by_model = self._by_model(probs)
        if self.rule == STACK:
            scores = self._votes(by_model, metafeatures)
        else:
            scores = np.nan_to_num(self.blend(np.stack(list(by_model.values()))))
        return scores, thresholds.decide(scores, self.thresholds, argmax=self.argmax)

    @property
    def models(self) -> list[str]:
        """The distinct models of the members, in order."""
        return list(dict.fromkeys(member.model for member in self.members))

    def judge(
        self,
        embeddings: Mapping[str, np.ndarray],
        metafeatures: "pd.DataFrame | None" = None,
    ) -> tuple[np.ndarray, list[str]]:
        """Return (bool[N], the images unlike the training set; the reason of each).

        An image is unlike if at least half of the networks that have a reference flag it.  A
        metafeature out of range suffices, as all references hold the same ranges.
        """
        judged = []
        for member in self.members:
            if member.reference is not None:
                names = list(member.reference.names)
                known = metafeatures is not None and set(names) <= set(metafeatures)
                values = metafeatures[names].to_numpy(float) if known else None
                judged.append(member.reference.judge(embeddings[member.name], values))
        if not judged:
            count = len(next(iter(embeddings.values())))
            return np.zeros(count, bool), [""] * count
        flags = np.stack([flags for flags, _ in judged])
        odd = 2 * flags.sum(axis=0) >= len(judged)
        reasons = [max(texts, key=len) for texts in zip(*(why for _, why in judged), strict=True)]
        return odd, [why if flag else "" for flag, why in zip(odd, reasons, strict=True)]

    def _by_model(self, probs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Probabilities [N, C] of each model, averaged over folds; NaN if it lacks the class."""
        folds: dict[str, list[np.ndarray]] = {name: [] for name in self.models}
        for member in self.members:
            outputs = probs[member.name]
            full = np.full((len(outputs), len(self.class_names)), np.nan)
            full[:, list(member.class_numbers)] = outputs
            folds[member.model].append(full)
        return {name: np.mean(of_folds, axis=0) for name, of_folds in folds.items()}

    def _votes(
        self, by_model: Mapping[str, np.ndarray], metafeatures: "pd.DataFrame | None"
    ) -> np.ndarray:
        assert self.stack is not None
        columns = self.stack.columns
        known = columns.probs >= 0
        probs = np.full((*known.shape, len(next(iter(by_model.values())))), np.nan)
        for m, c in zip(*np.nonzero(known)):
            model = columns.models[m]
            if model not in by_model or np.isnan(by_model[model][:, c]).any():
                raise InputError(f"the bundle's stack needs class {c} of the model {model!r}")
            probs[m, c] = by_model[model][:, c]
        for name in columns.metafeatures:
            if metafeatures is None or name not in metafeatures:
                raise InputError(f"the bundle's stack needs the metafeature {name!r}")
        meta = np.zeros((probs.shape[2], 0))
        if metafeatures is not None:
            meta = metafeatures[list(columns.metafeatures)].to_numpy(float)
        probs = probs.transpose(0, 2, 1)
        return self.stack.predict(of_tables(probs, columns.models, meta, columns.metafeatures))


def write(directory: str | Path, bundle: Bundle) -> Path:
    """Write a bundle atomically.

    Raises:
        InputError: duplicate member names, a rule without its parts, wrong number of thresholds.
    """
    _check(bundle)
    directory = Path(directory)
    with artifacts.atomic(directory) as temporary:
        temporary.mkdir(parents=True)
        for member in bundle.members:
            write_weights(temporary / "models" / f"{_file(member.name)}.safetensors", member)
            if member.reference is not None:
                member.reference.save(temporary / "references" / f"{_file(member.name)}.npz")
        if bundle.stack is not None and bundle.rule == STACK:
            bundle.stack.save(temporary / "stack")
        for name, fitted in bundle.projections.items():
            fitted.save(temporary / "projections" / f"{_file(name)}.npz")
        artifacts.write_json(temporary / "bundle.json", _contents(bundle))
    return directory


def read(directory: str | Path) -> Bundle:
    """Read a bundle.

    Raises:
        InputError: not a bundle, another format, a missing or damaged file, wrong weights.
    """
    directory = Path(directory)
    stored = artifacts.read_json(directory / "bundle.json")
    if isinstance(stored, dict):  # keys of earlier versions
        stored = {FORMER_KEYS.get(key, key): value for key, value in stored.items()}
    with artifacts.parsing(directory / "bundle.json", "export the bundle again"):
        return _read(directory, stored)


def _read(directory: Path, stored: Mapping[str, Any]) -> Bundle:
    if stored.get("format") != FORMAT:
        raise InputError(f"{directory}: bundle format {stored.get('format')}, expected {FORMAT}")
    bundle = Bundle(
        class_names=tuple(stored["classes"]),
        members=[_read_member(directory, member) for member in stored["members"]],
        thresholds=np.array(
            [np.inf if threshold is None else threshold for threshold in stored["thresholds"]],
            float,
        ),
        rule=stored["rule"],
        blend=blends.from_json(stored["blend"], _models(stored)),
        argmax=stored["argmax"],
        stack=stacking.load(directory / "stack") if stored["rule"] == STACK else None,
        features=stored["features"],
        training_images=stored["training_images"],
        versions=stored["versions"],
        validated=_validated(stored),
        projections={
            name: projection.load(directory / "projections" / f"{_file(name)}.npz")
            for name in stored.get("projections", ())
        },
    )
    _check(bundle)
    return bundle


def table(
    bundle: Bundle,
    ids: Sequence[str],
    scores: np.ndarray,
    labels: np.ndarray,
    odd: np.ndarray | None = None,
    reasons: Sequence[str] = (),
) -> "pd.DataFrame":
    """Return one row per image: id, label names and numbers, unlike, why, score of each class."""
    import pandas as pd

    names = bundle.class_names
    columns: dict[str, Any] = {
        "id": np.asarray(ids, object),
        "labels": ["; ".join(names[c] for c in np.flatnonzero(row)) for row in labels],
        "class_numbers": [classes.decode(row) for row in labels],
    }
    if odd is not None:
        columns["unlike_training"] = odd
        columns["why"] = list(reasons)
    columns |= {name: scores[:, c].astype(np.float32) for c, name in enumerate(names)}
    return pd.DataFrame(columns)


def _validated(stored: Mapping[str, Any]) -> Validated | None:
    """Validation results of each class; None in bundles of earlier versions."""
    values = stored.get("validated")
    return None if values is None else Validated.from_json(values, len(stored["classes"]))


def _models(stored: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(member["model"] for member in stored["members"]))


def _contents(bundle: Bundle) -> dict[str, Any]:
    return dict(
        format=FORMAT,
        classes=bundle.class_names,
        members=[
            dict(
                name=member.name,
                model=member.model,
                config=json.loads(member.config.to_json_best_effort()),
                class_numbers=member.class_numbers,
                views=member.views if isinstance(member.views, str) else dict(member.views),
                reference=member.reference is not None,
            )
            for member in bundle.members
        ],
        thresholds=[
            float(threshold) if np.isfinite(threshold) else None for threshold in bundle.thresholds
        ],
        rule=bundle.rule,
        blend=bundle.blend.as_json(bundle.models),
        argmax=bundle.argmax,
        features=bundle.features,
        training_images=bundle.training_images,
        versions=bundle.versions or _versions(),
        validated=None if bundle.validated is None else bundle.validated.as_json(),
        projections=list(bundle.projections),
    )


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {"hpa_jax": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _check(bundle: Bundle) -> None:
    names = [_file(member.name) for member in bundle.members]
    if not names:
        raise InputError("the bundle has no networks; name at least one")
    if len(set(names)) != len(names):
        raise InputError(f"two networks of the bundle have the same name: {sorted(names)}")
    if bundle.rule not in (STACK, BLEND):
        raise InputError(f"bundle rule {bundle.rule!r}; known: {STACK}, {BLEND}")
    if bundle.blend.as_json(bundle.models)["method"] == "rank_mean":
        raise InputError(
            "a bundle can't rank: ranks within a few new images are meaningless; choose another "
            "method (config.submission.method)"
        )
    if bundle.rule == STACK and bundle.stack is None:
        raise InputError('the bundle rule "stack" needs a stack')
    if (
        np.shape(bundle.thresholds) != (len(bundle.class_names),)
        or np.isnan(bundle.thresholds).any()
    ):
        raise InputError(
            f"{np.shape(bundle.thresholds)} thresholds for "
            f"{len(bundle.class_names)} classes (or NaN)"
        )
    for member in bundle.members:
        remedy = "predict --model=WORKDIR/models/NAME uses it without a bundle"
        own_code.refuse(member.config.backbone, f"the network {member.name}", remedy)
        if not all(0 <= number < len(bundle.class_names) for number in member.class_numbers):
            raise InputError(f"{member.name}: class numbers outside the bundle's classes")


def _file(name: str) -> str:
    """A member's file name, without folders, so that no path leads out of the bundle."""
    return name.replace("/", "-").replace("\\", "-").lstrip(".")


def write_weights(path: Path, member: Member) -> None:
    """Write a network's parameters and statistics as one safetensors file."""
    from safetensors.numpy import save_file

    from hpa_jax.training import network

    _, params, stats = network.split(member.network)
    arrays = {f"params.{name}": np.asarray(x, np.float32) for name, x in params.items()}
    arrays |= {f"stats.{name}": np.asarray(x, np.float32) for name, x in stats.items()}
    with artifacts.atomic(path) as temporary:
        save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, temporary)


def _read_member(directory: Path, stored: Mapping[str, Any]) -> Member:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from hpa_jax.training import checkpoint, network

    path = directory / "models" / f"{_file(stored['name'])}.safetensors"
    config = checkpoint.config_of({"model": stored["config"]})
    own_code.refuse(config, f"{directory}: the bundle", "a bundle is data: its code is not run")
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable weight file ({error})") from None
    model = network.from_config(config, len(stored["class_numbers"]), arrays=False)
    parts: dict[str, dict[str, np.ndarray]] = {"params": {}, "stats": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        parts.setdefault(kind, {})[rest] = array
    network.assign(model, parts["params"], parts["stats"])
    model.eval()
    reference = None
    if stored["reference"]:
        reference = unlike.load(directory / "references" / f"{_file(stored['name'])}.npz")
    return Member(
        name=stored["name"],
        model=stored["model"],
        config=config,
        network=model,
        class_numbers=tuple(stored["class_numbers"]),
        views=stored["views"],
        reference=reference,
    )
