"""SE-ResNeXt50 v7: batches with an image whose protein is blanked and whose labels are none.

Source: pd_seresnext_v7 ("Mortidomentation"); validation macro-F1 .6765 after the second phase; 25
epochs.  Their submission of it alone multiplied thresholds by .48 (thresholds.scale=(0.48,)).
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_v7.py --workdir=runs/v7
"""

from configs.one_more_layer import common


def model(as_run: bool = False):
    numbers = (1.2, 0.2, 0.0, 0.65)
    return common.network(
        "se_resnext50_32x4d",
        as_run,
        dropout=0.4,
        depth_groups=10,  # not said; v6's
        batch_size=12,
        augment=common.augmented(*numbers),
        phases=(
            common.constant(1, 1e-3, augment=common.augmented(*numbers, blank_protein=1.0)),
            common.unfrozen(8, 1e-3, augment=common.augmented(*numbers, blank_protein=0.5)),
            common.unfrozen(
                16,
                1e-4,
                dropout=0.6,
                loss=dict(focal=dict(gamma=5.0)),
                augment=common.augmented(*numbers),
            ),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v7=model)
