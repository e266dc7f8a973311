"""SE-ResNeXt50 for the ten worst classes alone: v6's body with a new head.

Source: pd_seresnext_ovr_v3; one joint head, not ten binary networks; macro-F1 about .51 on its
classes; 17 epochs after v6's 36.  The stack takes its columns; other methods see ten classes.
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_ovr.py --workdir=runs/ovr
"""

from configs.one_more_layer import common, se_resnext_v6
from hpa_jax.core import classes

# The ten smallest of the F1s in the script, smallest first.
WORST = tuple(classes.NAMES[number] for number in (17, 26, 15, 20, 18, 16, 6, 22, 9, 27))


def model(as_run: bool = False):
    return common.network(
        "se_resnext50_32x4d",
        as_run,
        init_from="model:se_resnext_v6",  # .7096
        classes=WORST,
        dropout=0.4,
        depth_groups=6,
        batch_size=12,
        loss=dict(focal=dict(gamma=5.0)),
        augment=common.augmented(1.2, 0.2, 0.0, 0.65),
        phases=(
            common.constant(1, 1e-3),
            common.unfrozen(8, 5e-5),
            common.unfrozen(8, 1e-5),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v6=se_resnext_v6.model, se_resnext_ovr=model)
