"""SE-ResNeXt50 v3: as v2, but every module of the head is a depth group: 14 of them.

Source: pd_seresnext_v3; validation macro-F1 .7062 (a checkpoint's name); 17 epochs.
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_v3.py --workdir=runs/v3
"""

from configs.one_more_layer import common

DROPOUT = (0.2, 0.3)  # before the first and the last dense layer


def model(as_run: bool = False):
    return common.network(
        "se_resnext50_32x4d",
        as_run,
        head_options=common.HIDDEN,
        dropout=0.3,  # fastai halves it before the first of two dense layers; phases say .2
        depth_groups=14,  # so the frozen phase trains the last dense layer only
        batch_size=12,
        augment=common.augmented(1.2, 0.2, 0.0, 0.65),
        rounds=1,  # one call of fastai's TTA, not four
        phases=(
            common.constant(1, 1e-3, dropout=DROPOUT),
            common.unfrozen(8, 1e-3, dropout=DROPOUT),
            common.unfrozen(8, 1e-4, dropout=DROPOUT),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v3=model)
