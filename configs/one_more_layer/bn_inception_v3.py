"""BN-Inception at 512 pixels: nine phases, two of them from an earlier checkpoint.

Source: pd_bninception_v3; validation macro-F1 .6672, .6750, .6815 along the way; 94 epochs.
as_run: inputs less (104, 117, 128) without the scale of 255 and the order of channels that the
published weights expect.
Command: python -m hpa_jax run --config=configs/one_more_layer/bn_inception_v3.py --workdir=runs/bn3
"""

from configs.one_more_layer import common


def model(as_run: bool = False):
    stronger = dict(augment=common.augmented(1.27, 0.28, 0.07, 0.73), dropout=0.6)
    return common.network(
        "bn_inception",
        as_run,
        normalize="bn_inception_as_run" if as_run else "bn_inception",
        dropout=0.5,
        depth_groups=7,
        batch_size=28,
        augment=common.augmented(1.25, 0.25, 0.05, 0.7),
        phases=(
            common.frozen(6, 2e-3),
            common.unfrozen(16, 1e-3),
            common.unfrozen(16, 5e-4),  # .6672
            common.unfrozen(16, 1e-4, dropout=0.6),  # .6750, by our reading
            common.unfrozen(8, 1e-4, **stronger),
            common.unfrozen(8, 1e-4, div_factor=50.0, **stronger),
            common.unfrozen(8, 5e-5, **stronger),
            common.unfrozen(8, 1e-4, start_from="3", **stronger),  # .6815
            common.unfrozen(8, 9e-5, **stronger),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, bn_inception_v3=model)
