"""Xception, every block a depth group, dropout that grows to .75.

Source: pd_xception_v1; 44 epochs.
as_run: without the ReLUs and the last norm that were lost when the network's children were chained.
Command: python -m hpa_jax run --config=configs/one_more_layer/xception.py --workdir=runs/xception
"""

from configs.one_more_layer import common


def model(as_run: bool = False):
    return common.network(
        "xception",
        as_run,
        as_run=as_run,
        normalize="inception",
        dropout=0.5,
        depth_groups=25,
        batch_size=12,
        augment=common.augmented(1.25, 0.25, 0.0, 0.7),
        phases=(
            common.frozen(4, 2e-3),
            common.unfrozen(8, 1e-4, lr_decay=20.0),
            common.unfrozen(8, 1e-4, lr_decay=32.0, dropout=0.65),
            common.unfrozen(8, 5e-4, lr_decay=32.0, dropout=0.7),
            common.unfrozen(
                16,
                2e-4,
                lr_decay=32.0,
                dropout=0.75,
                augment=common.augmented(1.25, 0.25, 0.1, 0.7),
            ),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, xception=model)
