"""SE-ResNeXt50 v10: two branches from one checkpoint, the second of which goes on.

Source: pd_seresnext_v10 (two GPUs); validation macro-F1 .6822 before the branches, .6799 where the
last phase starts; 49 epochs, 8 of them in the branch that was left.
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_v10.py --workdir=runs/v10
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
            common.unfrozen(8, 1e-3),  # .6822
            common.unfrozen(8, 1e-4, dropout=0.6, augment=common.augmented(1.2, 0.2, 0.02, 0.65)),
            common.unfrozen(16, 1e-4, dropout=0.55, div_factor=50.0, start_from="1"),
            # From .6799; that this is the second branch's end is our reading.
            common.unfrozen(16, 5e-5, dropout=0.6, lr_decay=32.0, loss=dict(focal=dict(gamma=3.0))),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v10=model)
