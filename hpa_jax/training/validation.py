"""Scores of a network on the validation part, between epochs.

In: the evaluation step and the validation images.  Out: {"loss", "focal", "macro_f1", "micro_f1",
"map", "ap": one per class}: F1 at threshold .5, for monitoring; thresholds are fitted later, in
`decision`.  "focal" is the focal loss (gamma 2, summed over classes), by which bestfitting chose
its checkpoints, independent of the model's loss.
Every image counts once: the last batch is padded and masked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from sklearn.metrics import average_precision_score

from hpa_jax.training import distributed
from hpa_jax.training.network import Arrays

Batch = Mapping[str, np.ndarray]
SMALLEST = 1e-7  # lower limit of probabilities before logarithms
IN_MEMORY = 512 << 20  # bytes: a validation part up to this size is decoded once


class KeptBatches:
    """The validation batches of this host, decoded once if they fit in memory."""

    def __init__(self, batches: Callable[[], Iterator[Batch]], bytes_needed: int) -> None:
        self._batches = batches
        self._keep = bytes_needed <= IN_MEMORY
        self._kept: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        if self._kept:
            yield from self._kept
            return
        decoded = []
        for batch in self._batches():
            if self._keep:
                decoded.append(batch)
            yield batch
        self._kept = decoded


def evaluate(
    step: Callable[[Arrays, Arrays, dict[str, jax.Array]], tuple[jax.Array, jax.Array]],
    params: Arrays,
    stats: Arrays,
    batches: Iterable[Batch],
    put: Callable[[Batch], dict[str, jax.Array]],
    before_batch: Callable[[], None],
) -> dict[str, Any]:
    """Return the scores over all real rows of `batches`; losses are weighted by their number.

    Args:
        step: from `step.make_eval_step`, compiled.
        params: parameters on the devices.
        stats: BatchNorm statistics on the devices.
        batches: host batches.
        put: host batch -> device batch.
        before_batch: called before every batch; exits if a stop was requested.
    """
    labels, probs, masks, losses = [], [], [], []
    for batch in batches:
        before_batch()
        device_batch = put(batch)
        p, loss = step(params, stats, device_batch)
        probs.append(p)
        losses.append(loss)
        labels.append(device_batch["label"])
        masks.append(device_batch["mask"])
    mask = [distributed.gather(m) for m in masks]
    real = np.concatenate(mask)
    return scores(
        np.concatenate([distributed.gather(x) for x in labels])[real],
        np.concatenate([distributed.gather(x) for x in probs])[real],
        float(np.average([float(x) for x in losses], weights=[m.sum() for m in mask])),
    )


def scores(labels: np.ndarray, probs: np.ndarray, loss: float) -> dict[str, Any]:
    """Return the scores of labels [N, C] in {0, 1} and probabilities [N, C].

    F1 of a class without positives and predictions is 0, its AP is NaN and left out of the mean.
    """
    truth, predicted = labels > 0, probs >= 0.5
    hits = (truth & predicted).sum(0)
    either = truth.sum(0) + predicted.sum(0)
    f1 = 2.0 * hits / np.maximum(either, 1)
    ap = np.full(labels.shape[1], np.nan)
    if np.isfinite(probs).all():
        for c in np.flatnonzero(truth.any(0)):
            ap[c] = average_precision_score(truth[:, c], probs[:, c])
    of_truth = np.clip(np.where(truth, probs, 1 - probs), SMALLEST, 1)
    return {
        "loss": loss,
        "focal": float((-((1 - of_truth) ** 2) * np.log(of_truth)).sum(1).mean()),
        "macro_f1": float(f1.mean()),
        "micro_f1": float(2.0 * hits.sum() / max(either.sum(), 1)),
        "map": float(np.nanmean(ap)) if np.isfinite(ap).any() else float("nan"),
        "ap": [float(x) for x in ap],
    }
