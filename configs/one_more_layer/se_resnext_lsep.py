"""SE-ResNeXt50 LSEP: v3, tuned on the pairwise ranking loss with noise on the groups' rates.

Source: db_lsep.  As published it can't have trained, its hand-written gradient is zero; here the
loss is that of the paper (arXiv 1704.03135).  4 epochs after v3's 17.
Command: python -m hpa_jax run --config=configs/one_more_layer/se_resnext_lsep.py --workdir=runs/ls
"""

from configs.one_more_layer import common, se_resnext_v3


def model(as_run: bool = False):
    return common.network(
        "se_resnext50_32x4d",
        as_run,
        init_from="model:se_resnext_v3",  # .7062
        head_options=common.HIDDEN,
        dropout=0.3,  # fastai halves it before the first of two dense layers; phases say .2
        depth_groups=14,
        batch_size=12,
        loss=dict(lsep=1.0),
        augment=common.augmented(
            1.2,
            0.2,
            0.0,
            0.65,
            jitter=0.03,
            p_jitter=0.1,
            corner_shift=0.03,  # "perspective" with one constant for all corners: a shift
            p_perspective=0.1,
        ),
        phases=(common.unfrozen(4, 3e-5, lr_noise=0.01, dropout=se_resnext_v3.DROPOUT),),
    )


def get_config(arg: str = ""):
    return common.alone(arg, se_resnext_v3=se_resnext_v3.model, se_resnext_lsep=model)
