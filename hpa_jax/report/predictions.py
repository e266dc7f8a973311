"""The predictions page: images with labels, scores and flags -> predictions/index.html.

The page works offline.  Up to `INSIDE` images and `BYTES` it is one file; otherwise the images are
in a folder beside it.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.report.figures import mosaic, planes, uri
from hpa_jax.report.page import asset, environment

if TYPE_CHECKING:
    from hpa_jax.decision.validated import Validated

INSIDE = 300  # images that are embedded in the page
BYTES = 40_000_000  # largest page with embedded images
SIDES = (512, 384, 256, 160)  # px of an image's longer side on the page, the largest that fits
NEAR_SIDE = 160
FEW = 50  # images below which the map of embeddings is always a PCA


@dataclass(frozen=True)
class Maps:
    """Class activation maps of the first images.

    network: name; method: of inference.maps.method; planes: for each image, class number ->
    float[h, w] in [0, 1].
    """

    network: str
    method: str
    planes: Sequence[Mapping[int, np.ndarray]]


@dataclass(frozen=True)
class Neighbours:
    """The nearest labelled images.

    ids [G], labels [G] (class numbers) and images (uint8[H, W, 4]) of the gallery; pairs: for each
    image of the page, (row of the gallery, similarity), nearest first.
    """

    ids: Sequence[str]
    labels: Sequence[Sequence[int]]
    images: Sequence[np.ndarray]
    pairs: Sequence[Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Predictions:
    """Outputs of the networks and the decision for N images.

    scores: float[N, C], NaN for a class without a score; labels: bool[N, C]; thresholds: float[C],
    inf for a class that is never assigned; unlike: bool[N], with the reason in why; embeddings:
    network -> float[N, E]; strongest: the network of the page's map and neighbours;
    scale_unknown: bool[N], images of unknown scale, None if irrelevant; validated:
    validation results of each class, None if unknown.
    """

    ids: Sequence[str]
    classes: Sequence[str]
    scores: np.ndarray
    labels: np.ndarray
    thresholds: np.ndarray
    unlike: np.ndarray
    why: Sequence[str]
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    strongest: str = ""
    scale_unknown: np.ndarray | None = None
    validated: "Validated | None" = None

    @property
    def probabilities(self) -> np.ndarray | None:
        """Calibrated scores float[N, C]; None without calibration."""
        return None if self.validated is None else self.validated.probabilities(self.scores)

    def first(self, count: int) -> "Predictions":
        """Return the first `count` images."""
        rows = slice(count)
        return Predictions(
            list(self.ids)[rows],
            self.classes,
            self.scores[rows],
            self.labels[rows],
            self.thresholds,
            self.unlike[rows],
            list(self.why)[rows],
            {name: values[rows] for name, values in self.embeddings.items()},
            self.strongest,
            None if self.scale_unknown is None else self.scale_unknown[rows],
            self.validated,
        )


def write(
    folder: Path,
    predictions: Predictions,
    images: Callable[[], Iterator[np.ndarray]],
    *,
    title: str,
    lines: Sequence[str] = (),
    micrometres: Sequence[float | None] = (),
    maps: Maps | None = None,
    neighbours: Neighbours | None = None,
) -> Path:
    """Write folder/index.html; return its path.

    Args:
      images: called without arguments, yields the N images uint8[H, W, 4] in order.
      title, lines: the page's first lines; the first of `lines` is the summary.
      micrometres: length of each image's longer side, None if the pixel size is unknown.
    """
    with artifacts.atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        data = _about(predictions, maps, neighbours)
        rows = _rows(predictions, micrometres, maps, neighbours)
        beside = temporary / "images"
        if len(rows) <= INSIDE:
            sheets = [mosaic(image, SIDES[0]) for image in images()]
            for side in SIDES:
                if side != SIDES[0]:
                    sheets = [mosaic(planes(encoded), side) for encoded, *_ in sheets]
                inside = [row | _embedded(*sheet) for row, sheet in zip(rows, sheets, strict=True)]
                page = _page(title, lines, {**data, "images": inside}, predictions)
                if len(page) <= BYTES:
                    break
        if len(rows) > INSIDE or len(page) > BYTES:
            beside.mkdir()
            for place, (row, image) in enumerate(zip(rows, images(), strict=True)):
                encoded, height, width = mosaic(image, SIDES[0])
                path = beside / f"{place:06d}.jpg"
                path.write_bytes(encoded)
                row |= {"src": f"{beside.name}/{path.name}", "w": width, "h": height}
            page = _page(title, lines, {**data, "images": rows}, predictions)
        (temporary / "index.html").write_bytes(page)
    return folder / "index.html"


def _about(
    predictions: Predictions, maps: Maps | None, neighbours: Neighbours | None
) -> dict[str, Any]:
    """Data of the page besides the images."""
    about: dict[str, Any] = {
        "classes": list(predictions.classes),
        "thresholds": [float(t) if np.isfinite(t) else None for t in predictions.thresholds],
        "gallery": [],
    }
    if predictions.validated is not None:
        about["f1"] = artifacts.plain(np.round(predictions.validated.f1, 3))
        about["support"] = artifacts.plain(predictions.validated.support)
    if maps is not None:
        about["maps"] = {
            "method": f"{maps.method} of {maps.network}",
            "note": "Bright: evidence for the label, at the resolution of the network's last "
            "feature map. A map explains this network only, even if several networks decide.",
        }
        shapes = {plane.shape for planes in maps.planes for plane in planes.values()}
        if shapes:
            about["maps"]["h"], about["maps"]["w"] = next(iter(shapes))
    if neighbours is not None:
        about["gallery"] = [
            {
                "id": str(id),
                "labels": [int(c) for c in labels],
                **_embedded(*mosaic(image, NEAR_SIDE)),
            }
            for id, labels, image in zip(
                neighbours.ids, neighbours.labels, neighbours.images, strict=True
            )
        ]
    return about


def _rows(
    predictions: Predictions,
    micrometres: Sequence[float | None],
    maps: Maps | None,
    neighbours: Neighbours | None,
) -> list[dict[str, Any]]:
    places = project(predictions.embeddings.get(predictions.strongest))
    probabilities = predictions.probabilities
    rows: list[dict[str, Any]] = []
    for n, id in enumerate(predictions.ids):
        row: dict[str, Any] = {
            "id": str(id),
            "labels": np.flatnonzero(predictions.labels[n]).tolist(),
            "scores": [
                round(float(s), 4) if np.isfinite(s) else None for s in predictions.scores[n]
            ],
            "flagged": bool(predictions.unlike[n]),
            "why": str(predictions.why[n]) if len(predictions.why) else "",
            "unscaled": bool(
                predictions.scale_unknown is not None and predictions.scale_unknown[n]
            ),
            "um": micrometres[n] if len(micrometres) else None,
            "xy": None if places is None else [round(float(v), 3) for v in places[n]],
        }
        if probabilities is not None:
            row["probabilities"] = [round(float(p), 4) for p in probabilities[n]]
        if maps is not None and n < len(maps.planes):
            row["maps"] = {str(c): _bytes(plane) for c, plane in maps.planes[n].items()}
        if neighbours is not None:
            row["near"] = [[g, round(s, 3)] for g, s in neighbours.pairs[n]]
        rows.append(row)
    return rows


def project(embeddings: np.ndarray | None) -> np.ndarray | None:
    """Return a place [N, 2] for each embedding [N, E]: by UMAP if installed and for
    `FEW` images or more, else by PCA; None for fewer than 3 images.
    """
    if embeddings is None or len(embeddings) < 3:
        return None
    centred = np.asarray(embeddings, np.float64)
    scale = centred.std(axis=0)
    centred = (centred - centred.mean(axis=0)) / np.where(scale > 0, scale, 1)
    if len(embeddings) >= FEW and (umap := _umap()) is not None:
        neighbours = min(15, len(embeddings) - 1)
        return umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(centred)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * values[:2]


def _umap() -> Any:
    try:
        import umap  # optional dependency, extra `tables`
    except ImportError:
        return None
    return umap


def _projection(predictions: Predictions) -> str:
    """The note under the map of embeddings."""
    name = (
        "UMAP" if len(predictions.ids) >= FEW and _umap() is not None else "PCA, the first two axes"
    )
    return (
        f"Embeddings of the network {predictions.strongest} ({name}). Colour and shape: the label "
        "with the highest score for its threshold. Faint: hidden by the filters."
    )


def _embedded(encoded: bytes, height: int, width: int) -> dict[str, Any]:
    """An image of `mosaic` for the page."""
    return {"src": uri(encoded, "image/jpeg"), "w": width, "h": height}


def _bytes(plane: np.ndarray) -> str:
    return base64.b64encode(np.rint(plane * 255).astype(np.uint8).tobytes()).decode()


def _page(
    title: str, lines: Sequence[str], data: Mapping[str, Any], predictions: Predictions
) -> bytes:
    import markupsafe

    html = environment().get_template("predictions.html.j2").render(
        title=title,
        lines=lines,
        projection=_projection(predictions),
        data=markupsafe.Markup(script_json(data)),
        styles=asset("components.css", "predictions.css"),
        script=asset("components.js", "predictions.js"),
    )  # fmt: skip
    return html.encode()


def script_json(value: Any) -> str:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
