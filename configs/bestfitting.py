"""bestfitting's system, first of 2,172 (private macro-F1 0.594): folds, crops, metric learning.

Source: spec "bestfitting and pudae", A; the team's released code.  A number without a source below
is stated there.  Where the team's code leaves something open, `ours:` marks what was chosen.
Command: python -m hpa_jax run --config=configs/bestfitting.py --workdir=runs/bestfitting \
    --config.data.root=FOLDER
FOLDER: the competition's tables, its full-size images (train_full_size/, test_full_size/),
external.csv with external/.  weights/: the published ImageNet files of WEIGHTS.
Variants: `:no_full_size`, all from the 512 px images of train/ and test/, enlarged; `:smoke`, all
of it with tiny networks on synthetic images, in minutes on a laptop.
How it works: docs/bestfitting.md.
"""

from hpa_jax.config import defaults as base
from hpa_jax.config import recipes

LOSS = dict(focal=0.5, lovasz=0.5, hard_log=0.5)  # each weight .5
# Until epoch: rate.
ADAM45 = "25: 3e-4, 30: 1.5e-4, 35: 7.5e-5, 40: 3e-5, 45: 1e-5"
ADAM55 = "25: 3e-4, 35: 1.5e-4, 45: 7.5e-5, 50: 3e-5, 55: 1e-5"
# Target share of positives in the test part, classes 0 to 27.
PROPORTIONS = (
    *(0.362398, 0.043841, 0.075269, 0.059322, 0.075269, 0.075269, 0.043841, 0.075269),
    *(0.001706, 0.001448, 0.000901, 0.043841, 0.043841, 0.014199, 0.043841, 0.000676),
    *(0.028807, 0.014199, 0.028807, 0.059322, 0.005536, 0.126126, 0.028807, 0.075269),
    *(0.010363, 0.222494, 0.028807, 0.000354),
)
WEIGHTS = dict(
    densenet121="weights/densenet121-a639ec97.pth",
    inception_v3="weights/inception_v3_google-0cc3c7bd.pth",
    resnet18="weights/resnet18-5c106cde.pth",
    resnet34="weights/resnet34-333f7ec4.pth",
    resnet50="weights/resnet50-19c8e357.pth",
)


def get_config(arg: str = ""):
    chosen = recipes.variants(arg, "no_full_size")
    config = base.default().unlock()
    # Of config.data.root.  768 and 1536 px are made of the full-size images.
    config.data.sources = (dict(source="kaggle", full_size="no_full_size" not in chosen),)
    config.records.update(image_size=768, also=(1536,), encoding="png")
    # Five folds, stratified, images of external sources dealt apart; 0, 1, 2 are trained.
    # Labelled images that match a test image are left out.  ours: all seeds, here and below.
    config.split.update(scheme="folds", folds=5, trained_folds=(0, 1, 2), matches_test="excluded")
    small = dict(crop=512, stored=768, batch_size=32)  # batch sizes: ours
    config.models = {
        "densenet121": network("densenet121", ADAM45, **small),
        # The "large" form: another 2x2 max-pool after the stem's.
        "densenet121_large": network(
            "densenet121", ADAM55, crop=1024, stored=1536, batch_size=16,
            large_stem=True,
        ),
        "inception_v3": network("inception_v3", ADAM45, **small),
        "resnet18": network("resnet18", ADAM45, **small),
        "resnet34": network("resnet34", ADAM45, **small),
    }  # fmt: skip
    config.train.monitor = "focal"  # of validation: the best epoch, whatever else is in the loss
    config.ensemble.average_duplicates = True  # near-duplicates in the test part share their mean
    config.thresholds.update(method="match_proportions", proportions=PROPORTIONS, match_on="test")
    # The best class is always predicted; the mean decides, over networks and folds.
    config.submission.update(method="mean of models", argmax="always")
    config.retrieval.update(
        mode="replace",
        tau=0.65,
        # Adam 1e-4, 50 epochs; the weights are those after 45.  ours: the batch size, and that
        # antibodies are sampled evenly (embedding_model's defaults).
        model=base.embedding_model(init_from=WEIGHTS["resnet50"], extra_channels="copy_red",
                                   keep_epochs=(45,), checkpoint="epoch:45"),
    )  # fmt: skip
    if recipes.SMOKE in chosen:
        recipes.smoke(config)
        # 320 synthetic images have other proportions than the competition's test part.
        config.thresholds.proportions = ()
    return config.lock()


def network(backbone, schedule, *, crop, stored, batch_size, **differences):
    """A network of the ensemble: crops of `crop` pixels from images of `stored`.

    ours: which step table goes with which network, and the batch sizes.
    """
    until = int(schedule.split(",")[-1].split(":")[0])
    return base.model(
        backbone=backbone,
        init_from=WEIGHTS[backbone],
        extra_channels="copy_red",  # the yellow filter is a copy of the red one
        head="bestfitting",  # average and max -> BN, drop, FC, ReLU, BN, drop, FC
        dropout=0.5,
        image_size=stored,
        batch_size=batch_size,
        normalize="hpa",
        augment=dict(name="bestfitting", output_size=crop),  # a random crop, resized, and D4
        loss=LOSS,
        aux_weight=0.0,  # inception_v3's auxiliary head was not trained
        # torch's Adam
        optimizer={**base.model().optimizer, "name": "adam", "b2": 0.999, "clip_norm": 1.0},
        phases=(base.phase(epochs=until, schedule=schedule),),
        checkpoint="best",
        # 8 turns x (the whole image and 3 random crops, of random sides as in training), the
        # maximum over all 32.
        views=dict(name="crops", count=3, share=(crop / stored, 1.0), output_size=crop),
        **differences,
    )
