"""The table of verbs: what each does, reads and writes, and where its function is.

Data, not code, so that `--help` needs no import of the rooms.  A verb's function takes
(config, flags) and returns an exit code or None.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verb:
    """One command-line verb. flags: name -> (default, help)."""

    function: str
    summary: str
    reads: str
    writes: str
    flags: dict[str, tuple[str | bool | None, str]] = field(default_factory=dict)


COMMON_FLAGS: dict[str, tuple[str | bool | None, str]] = {
    "workdir": (None, "folder for everything that is written (made if absent)"),
    "debug": (False, "show the traceback of an error"),
}
ONLY = {"only": (None, "this model alone (a name of config.models)")}
FORCE: dict[str, tuple[str | bool | None, str]] = {
    "force": (None, "[=STEP,...] do all or these steps anew; what was trained is set aside")
}
CLUSTER = {
    "distributed": (None, "fit the stack on Dask: a scheduler's address, or local (all cores here)")
}

VERBS: dict[str, Verb] = {
    "run": Verb(
        "hpa_jax.pipeline.runner:run",
        "all stages, from images to submission and report; skips what is done",
        "the images and tables of config.data",
        "everything below, in the workdir",
        {
            "only": (None, "this model alone (a name of config.models, or retrieval)"),
            **FORCE,
            **CLUSTER,
            "collect": (
                False,
                "train nothing: decide with the networks that are there",
            ),
        },
    ),
    "clean": Verb(
        "hpa_jax.pipeline.clean:clean",
        "removes results that runs with other settings have set aside, for good",
        "replaced/",
        "nothing; says what it frees and asks before",
        {"yes": (False, "without asking")},
    ),
    "download": Verb(
        "hpa_jax.pipeline.download:download",
        "external images of the Human Protein Atlas; a second call goes on",
        "the table of config.data's atlas source (ROOT/external.csv)",
        "ROOT/pictures/ (a damaged file is fetched again), ROOT/download_failed.csv",
    ),
    "catalog": Verb(
        "hpa_jax.pipeline.runner:catalog",
        "one table of every image; draws the synthetic set first if that is the source",
        "config.data.root: train.csv, sample_submission.csv, image headers",
        "catalog.parquet, bad_images.csv",
        FORCE,
    ),
    "duplicates": Verb(
        "hpa_jax.pipeline.runner:duplicates",
        "perceptual hashes, pairs of twins, groups, the leak table",
        "catalog.parquet, the pictures",
        "duplicates.parquet, groups.parquet, leak.parquet, bad_duplicates.csv",
        FORCE,
    ),
    "split": Verb(
        "hpa_jax.pipeline.runner:split",
        "multilabel-stratified hold-out or folds; twins stay on one side",
        "catalog.parquet, duplicates.parquet, groups.parquet",
        "splits.parquet",
        FORCE,
    ),
    "records": Verb(
        "hpa_jax.pipeline.runner:records",
        "packs the images, all channels in one record",
        "catalog.parquet, the pictures",
        "records/ (a TFDS dataset)",
        {
            **FORCE,
            "beam": (False, "with Apache Beam: config.records.beam, or its DirectRunner"),
            "verify": (False, "compare every byte of the shards with their checksums afterwards"),
        },
    ),
    "train": Verb(
        "hpa_jax.pipeline.runner:train",
        "trains every model of the recipe; a killed run goes on where it was",
        "records/, splits.parquet, catalog.parquet",
        "models/NAME/checkpoints/, models/NAME/metrics.jsonl",
        {**ONLY, **FORCE},
    ),
    "predict": Verb(
        "hpa_jax.pipeline.runner:predict",
        "probabilities and embeddings of the validation and test pictures",
        "models/NAME/checkpoints/, records/",
        "models/NAME/predictions/{valid,test}.parquet, …_plain.parquet (without test-time views), "
        "…_embeddings.parquet; with --bundle or "
        "--checkpoint: predictions.csv, predictions.parquet, embeddings/NAME.parquet",
        {
            **ONLY,
            **FORCE,
            "bundle": (None, "what `export` wrote: label the images of config.data with it"),
            "checkpoint": (None, "WORKDIR/models/NAME, or several with commas: their mean"),
        },
    ),
    "retrieve": Verb(
        "hpa_jax.pipeline.runner:retrieve",
        "metric learning on antibodies, and each picture's nearest labelled neighbour",
        "records/, splits.parquet, catalog.parquet (antibodies)",
        "retrieval/ (network, embeddings, neighbours, recall)",
        FORCE,
    ),
    "refit": Verb(
        "hpa_jax.pipeline.runner:retrain",
        "the networks again, on all labelled images; validation's thresholds and stack decide",
        "records/, splits.parquet, stack/, ensemble/, thresholds.json",
        "models/NAME/refit/, refit/ (what every way to decide says of the test part)",
        {**ONLY, **FORCE},
    ),
    "features": Verb(
        "hpa_jax.pipeline.runner:features",
        "the 15 metafeatures of every validation and test picture",
        "records/, catalog.parquet",
        "features/{valid,test}.parquet (audit.parquet, too, with config.split.audit)",
        FORCE,
    ),
    "stack": Verb(
        "hpa_jax.pipeline.runner:stack",
        "boosted models per class on probabilities and metafeatures",
        "models/*/predictions/, features/, splits.parquet, groups.parquet",
        "stack/ (models, votes)",
        {**FORCE, **CLUSTER},
    ),
    "thresholds": Verb(
        "hpa_jax.pipeline.runner:thresholds",
        "blends of the models; per-class thresholds of every model, blend and the stack, scored",
        "models/*/predictions/, stack/, splits.parquet",
        "ensemble/ (the blends), thresholds.json, metrics.json, decisions.parquet",
        FORCE,
    ),
    "submit": Verb(
        "hpa_jax.pipeline.runner:submit",
        "decides the labels of the test pictures",
        "predictions, stack/, ensemble/, thresholds.json, leak.parquet, sample_submission.csv",
        "leak_overlay.parquet, leak_conflicts.csv, submission.csv",
        FORCE,
    ),
    "evaluate": Verb(
        "hpa_jax.pipeline.runner:evaluate",
        "scores every method and the submission on the audit part and on the test truth, if known",
        "the truth table (config.data.truth), predictions, thresholds.json, submission.csv",
        "audit.json (with config.split.audit), evaluation.json",
        FORCE,
    ),
    "report": Verb(
        "hpa_jax.pipeline.runner:report",
        "one HTML page of everything above, opens offline",
        "all of the workdir",
        "report/index.html",
        FORCE,
    ),
    "export": Verb(
        "hpa_jax.pipeline.own:run_export",
        "networks, thresholds and stack in one folder for predict --bundle",
        "models/, thresholds.json, ensemble/, stack/, features/",
        "bundle/",
    ),
    "classes": Verb(
        "hpa_jax.pipeline.tools:classes",
        "class counts, pairs, matrices and graphs by source, and of the submission",
        "catalog.parquet, splits.parquet, groups.parquet, submission.csv (if there)",
        "classes/{counts,pairs}.csv, graph_*.svg, PART_{cooccurrence,conditional}.parquet",
    ),
    "preview": Verb(
        "hpa_jax.pipeline.tools:preview",
        "a grid of images as each model's augmentation changes them, and each stage's own",
        "records/, splits.parquet",
        "preview/NAME.png, NAME_stage_K.png",
        ONLY,
    ),
    "lr_find": Verb(
        "hpa_jax.pipeline.tools:lr_find",
        "sweeps the learning rate of each model; leaves the model as it is",
        "records/, splits.parquet",
        "models/NAME/lr_find.json, lr_find.png",
        {
            **ONLY,
            "stage": ("0", "its freezing, loss and augmentation; counted from 0"),
            "checkpoint": ("", "own weights to begin from: best | last | a step; else fresh ones"),
            "iterations": ("1000", "steps from the first rate to the last"),
            "low": ("1e-7", "first rate"),
            "high": ("10", "last rate"),
        },
    ),
    "import_weights": Verb(
        "hpa_jax.pipeline.tools:import_weights",
        "a published weight file (safetensors, torch) as a folder for init_from",
        "--weights",
        "--out (an Orbax folder)",
        {
            "model": (None, "backbone, as in the config"),
            "weights": (None, "file, or hf:OWNER/REPO/FILE"),
            "out": (None, "folder to write"),
        },
    ),
    "adversarial": Verb(
        "hpa_jax.pipeline.adversarial:adversarial",
        "can train and test be told apart? AUC, and the training images most (un)like test",
        "records/, catalog.parquet, splits.parquet, groups.parquet",
        "adversarial.json, adversarial.parquet, adversarial_valid.csv (for split.force_valid), "
        "adversarial_unlike.csv; adversarial/fold_K/ (variant network)",
    ),
    "label_noise": Verb(
        "hpa_jax.pipeline.tools:label_noise",
        "likely label errors among the validation pictures",
        "models/*/predictions/valid.parquet, splits.parquet, records/",
        "label_noise.csv, label_noise.html (the least trusted, with images)",
    ),
    "ablate": Verb(
        "hpa_jax.pipeline.ablate:ablate",
        "what each variation of a recipe does to its score, over several seeds",
        "config.ablate: seeds and variations (configs/ablation.py)",
        "ablation.json, ablation.md, ablate/NAME/seed_K/ (a workdir each)",
    ),
}
