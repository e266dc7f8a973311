"""InceptionV4 v2: one dense layer, dropout that grows to .6.

Source: pd_inceptionv4_v2; 36 epochs.
Command: python -m hpa_jax run --config=configs/one_more_layer/inception_v4_v2.py --workdir=runs/i2
"""

from configs.one_more_layer import common


def model(as_run: bool = False):
    return common.network(
        "inception_v4",
        as_run,
        normalize="inception",
        dropout=0.25,
        depth_groups=6,
        batch_size=16,
        augment=common.augmented(1.2, 0.2, 0.0, 0.65),
        phases=(
            common.frozen(4, 1e-3),
            common.frozen(8, 1e-3, dropout=0.4),
            common.unfrozen(16, 1e-4, dropout=0.4),
            common.unfrozen(
                8,
                5e-5,
                lr_decay=32.0,
                dropout=0.6,
                augment=common.augmented(1.25, 0.25, 0.07, 0.65),
            ),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, inception_v4_v2=model)
