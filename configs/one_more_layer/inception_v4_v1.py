"""InceptionV4 v1: 512-unit head, each depth group's rate by hand.

Source: pd_inceptionv4_v1; validation macro-F1 .6728 before the last phase; 36 epochs.
Command: python -m hpa_jax run --config=configs/one_more_layer/inception_v4_v1.py --workdir=runs/i1
"""

from configs.one_more_layer import common

RATES = (1 / 16, 1 / 12, 1 / 8, 1 / 4, 1 / 2, 1.0)
DROPOUT = (0.25, 0.3)  # before the first and the last dense layer
LAST_RATES = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def model(as_run: bool = False):
    return common.network(
        "inception_v4",
        as_run,
        normalize="inception",
        head_options=common.HIDDEN,
        dropout=0.3,
        depth_groups=6,
        batch_size=12,
        augment=common.augmented(1.2, 0.2, 0.0, 0.65),
        rounds=1,  # one call of fastai's TTA, not four
        phases=(
            common.constant(4, 1e-3, dropout=DROPOUT),
            common.unfrozen(8, 5e-4, lr_decay=RATES, dropout=DROPOUT),
            common.unfrozen(8, 1e-4, lr_decay=RATES, dropout=DROPOUT),  # .6728
            common.unfrozen(16, 5e-5, lr_decay=LAST_RATES, dropout=(0.6, 0.4)),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, inception_v4_v1=model)
