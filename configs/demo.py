"""The whole system on synthetic cells, in minutes on a CPU: two networks, a stack, a report.

Source: hpa_jax itself; the shape is One More Layer's (single hold-out, focal loss, one-cycle, D4
views, thresholds, a stack on probabilities and metafeatures).  Differences from the
competition: 64 px, and at least 185 images of each class in train, so that a network trained from
nothing for two minutes can learn the rare ones.
Command: scripts/demo    Cost and scores: README.md, "The demo".
"""

from hpa_jax.config import defaults as base
from hpa_jax.core.errors import InputError


def get_config(arg: str = ""):
    if arg:
        raise InputError(f"configs/demo.py has no variants, so none called {arg!r}")
    config = base.default().unlock()
    config.data.synthetic.update(
        train=6000, test=500, external=300, image_size=64, min_per_class=185
    )
    config.split.fraction = 0.14
    config.records.update(image_size=64, encoding="raw")
    common = dict(
        backbone="se_resnext_tiny",
        image_size=64,
        batch_size=32,
        dropout=0.1,
        head_init="prior",
        loss={"focal": {"weight": 1.0, "gamma": 1.0}},
        augment="demo",
    )
    config.models = {
        "tiny": base.model(**common, width=0.75, phases=(base.phase(epochs=20, lr=5e-3),)),
        "tiny_wide": base.model(**common, seed=1, phases=(base.phase(epochs=14, lr=5e-3),)),
    }
    return config.lock()
