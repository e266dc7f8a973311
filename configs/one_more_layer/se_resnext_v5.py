"""SE-ResNeXt50 v5: one dense layer, larger batches, three cycles.

Source: pd_seresnext_v5 (two GPUs); 33 epochs.
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_v5.py --workdir=runs/v5
"""

from configs.one_more_layer import common


def model(as_run: bool = False):
    return common.network(
        "se_resnext50_32x4d",
        as_run,
        dropout=0.4,
        depth_groups=10,
        batch_size=24,
        augment=common.augmented(1.2, 0.2, 0.0, 0.65),
        phases=(
            common.constant(1, 1e-3),
            common.unfrozen(8, 1e-3),
            common.unfrozen(8, 1e-4),
            common.unfrozen(16, 5e-5),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v5=model)
