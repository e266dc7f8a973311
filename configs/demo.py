"""The whole way on drawn cells in minutes on a laptop's CPU: two small networks, a stack, a report.

Source: hpa_jax itself; the shape is One More Layer's (single hold-out, focal loss, one-cycle, D4
views, cross-validated thresholds, a stack on probabilities and metafeatures).
Command: scripts/demo    Cost and scores: README.md, "The demo".
"""

from hpa_jax import config as base


def get_config(arg: str = ""):
    config = base.default().unlock()
    config.data.synthetic.update(
        train=2400, test=500, external=300, image_size=96, min_per_class=40
    )
    config.records.update(image_size=96, encoding="raw")
    common = dict(
        backbone="se_resnext_tiny",
        image_size=96,
        batch_size=32,
        dropout=0.3,
        augment="demo",
        stages=(base.stage(epochs=16, lr=4e-3),),
    )
    config.models = {
        "tiny": base.model(**common),
        "tiny_wide": base.model(**{**common, "width": 1.25, "seed": 1}),
    }
    return config.lock()
