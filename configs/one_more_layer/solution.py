"""One More Layer's system: 14 networks, 32 random views, metafeatures, a stack of votes, leaks.

Source: the team's scripts and talk; 8th on the private board (macro-F1 .56309), 4th on the public
(.64799).  How it works and where ours differs: docs/one_more_layer.md.
Cost: 572 epochs of 55,825 images (bn_inception_v4 of 768 px, the rest of 512), 36 passes a test
image and network; GPUs.  `run` measures a few steps and says what is to be expected.
Command: python -m hpa_jax run --config=configs/one_more_layer/solution.py --workdir=runs/oml
One network at a time, on as many hosts as there are: the same command with --only=NAME.
Variants: smoke (one network a backbone, LSEP, one-vs-rest; two phases each), as_run, talk (a stack
of 375 models a class), talk_20 (one of the talk's 20 repeats of 5 x 3 folds, 300 models a class),
no_full_size (13 networks, for those without the full-size images).
"""

from configs.one_more_layer import (
    bn_inception_v3,
    bn_inception_v4,
    common,
    inception_v4_v1,
    inception_v4_v2,
    se_resnext_lsep,
    se_resnext_ovr,
    se_resnext_v2,
    se_resnext_v3,
    se_resnext_v5,
    se_resnext_v6,
    se_resnext_v7,
    se_resnext_v10,
    se_resnext_v14,
    xception,
)
from hpa_jax.config import defaults as base
from hpa_jax.config import recipes

NETWORKS = dict(
    se_resnext_v2=se_resnext_v2,
    se_resnext_v3=se_resnext_v3,
    se_resnext_v5=se_resnext_v5,
    se_resnext_v6=se_resnext_v6,
    se_resnext_v7=se_resnext_v7,
    se_resnext_v10=se_resnext_v10,
    se_resnext_v14=se_resnext_v14,
    se_resnext_lsep=se_resnext_lsep,
    se_resnext_ovr=se_resnext_ovr,
    bn_inception_v3=bn_inception_v3,
    bn_inception_v4=bn_inception_v4,
    xception=xception,
    inception_v4_v1=inception_v4_v1,
    inception_v4_v2=inception_v4_v2,
)
# One a backbone (LSEP starts from v3, one-vs-rest from v6), the one of 768 px among them.
SMOKE = (
    "se_resnext_v3",
    "se_resnext_v6",
    "se_resnext_lsep",
    "se_resnext_ovr",
    "bn_inception_v4",
    "xception",
    "inception_v4_v1",
)


def get_config(arg: str = ""):
    chosen = recipes.variants(arg, "as_run", "talk", "talk_20", "no_full_size")
    as_run = "as_run" in chosen
    config = base.default().unlock()
    common.data(config)
    common.best_by_f1(config)
    config.models = {name: module.model(as_run) for name, module in NETWORKS.items()}
    if "no_full_size" in chosen:
        del config.models["bn_inception_v4"]
    else:
        common.full_size(config)
    # The verb adversarial: an Xception ranked the images for their hold-out; its training is not
    # published, so it is that of the other networks, short.
    phases = (common.frozen(1, 2e-3), common.unfrozen(3, 1e-4, lr_decay=20.0))
    one = dict(xception.model(as_run).items())
    changes = dict(loss=common.BCE, phases=phases, views="identity")
    config.adversarial.variant, config.adversarial.model = "network", base.model(**one | changes)
    # 441 to 6,000 models a class by its positives, each with one vote; the talk's 375 for each are
    # 5 x 5 outer folds, in each 5 x 3 inner ones.  Classes of fewer than 15 positives: ridge, which
    # does not see the image's side (that tells where it came from).
    talk = {"talk", "talk_20"} & chosen
    config.stack.protocol = "talk" if talk else "by_frequency"
    if "talk_20" in chosen:  # 5 outer folds x 3 inner, "repeated 20 times"
        config.stack.update(repeats=20, inner_repeats=1)
    config.stack.rare_features = ("own", "meta", "others")
    # Class 27: the networks' own probabilities alone, and a model says yes from 1.05 of its
    # threshold on; both loops are repeated 40 times.
    of_27 = dict(rare_features=("own",), vote_factor=1.05)
    if not talk:
        of_27["rare_repeats"] = 40
    config.stack.of_class = {config.classes[27]: of_27}
    # Rows on which nothing passes stay empty; the leak table is written over all else.
    config.submission.update(method="stack", argmax="off")
    if as_run:
        config.features.legacy_corr_bug = True  # red's correlation in blue's column
        # The released script: 3 x 5 outer, 5 x 3 inner; `colsample` was no name LightGBM knew.
        # The ridge was for classes 8, 10, 27 alone; 20 x 5 outer, 20 x 3 inner (27: 40).
        config.stack.update(protocol="main", colsample=1.0, ridge_alpha=0.1, rare_repeats=20)
    if "smoke" in chosen:
        recipes.smoke(config, models=SMOKE, phases=2)
    return config.lock()
