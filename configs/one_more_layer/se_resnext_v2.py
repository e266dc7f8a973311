"""SE-ResNeXt50 v2: 512-unit head, each depth group's rate by hand.

Source: pd_seresnext_v2; 17 epochs of 55,825 images.
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_v2.py --workdir=runs/v2
"""

from configs.one_more_layer import common

RATES = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # stem, four stages, the whole head
DROPOUT = (0.2, 0.3)  # before the first and the last dense layer


def model(as_run: bool = False):
    return common.network(
        "se_resnext50_32x4d",
        as_run,
        head_options=common.HIDDEN,
        dropout=0.3,  # fastai halves it before the first of two dense layers; phases say .2
        depth_groups=6,
        batch_size=12,
        augment=common.augmented(1.2, 0.2, 0.0, 0.65),
        rounds=1,  # one call of fastai's TTA, not four
        phases=(
            common.constant(1, 1e-3, dropout=DROPOUT),
            common.unfrozen(8, 1e-3, lr_decay=RATES, dropout=DROPOUT),
            common.unfrozen(8, 1e-4, lr_decay=RATES, dropout=DROPOUT),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v2=model)
