"""BN-Inception at 768 pixels, made from the full-size images.

Source: pd_bninception_v4; validation macro-F1 .6158 and .6597 along the way; 76 epochs.
as_run: they saved the predictions of the last but one phase.
Command: python -m hpa_jax run --config=configs/one_more_layer/bn_inception_v4.py --workdir=runs/bn4
"""

from configs.one_more_layer import common


def model(as_run: bool = False):
    later = dict(dropout=0.6, batch_size=12)
    warped = dict(augment=common.augmented(1.25, 0.25, 0.07, 0.7), **later)
    return common.network(
        "bn_inception",
        as_run,
        image_size=768,
        normalize="bn_inception_as_run" if as_run else "bn_inception",
        dropout=0.5,
        depth_groups=7,
        checkpoint="phase:6" if as_run else "last",
        batch_size=8,  # 8, then 12: where it and the warp changed is our guess
        augment=common.augmented(1.25, 0.25, 0.05, 0.7),
        phases=(
            common.frozen(4, 2e-3),
            common.unfrozen(8, 2e-3),  # .6158
            common.unfrozen(8, 5e-4, **later),
            common.unfrozen(16, 3e-4, **later),  # .6597
            common.unfrozen(16, 2e-4, **warped),
            common.unfrozen(8, 1e-4, **warped),
            common.unfrozen(8, 8e-5, **warped),
            common.unfrozen(8, 5e-5, **warped),
        ),
    )


def get_config(arg: str = ""):
    return common.alone(arg, common.full_size, bn_inception_v4=model)
