"""SE-ResNeXt50 v6: long frozen start, then stronger augmentation and more dropout.

Source: pd_seresnext_v6; validation macro-F1 .7096, their best on three channels; 36 epochs.
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_v6.py --workdir=runs/v6
"""

from configs.one_more_layer import common


def model(as_run: bool = False):
    stronger = common.augmented(1.25, 0.25, 0.05, 0.65)
    return common.network(
        "se_resnext50_32x4d",
        as_run,
        dropout=0.4,
        depth_groups=10,
        batch_size=12,
        augment=common.augmented(1.25, 0.2, 0.0, 0.65),
        phases=(
            common.frozen(4, 1e-3, batch_size=14),  # 14, then 12: where it changed is our guess
            common.frozen(8, 8e-4, batch_size=14),
            common.unfrozen(8, 1e-4),
            common.unfrozen(8, 1e-4, augment=stronger),
            common.unfrozen(8, 5e-5, lr_decay=8.0, augment=stronger, dropout=0.6),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v6=model)
