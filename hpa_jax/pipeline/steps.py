"""The table of steps of `run`, in order.

Used by the command line, the runner, the cache, the report's costs and `ablate`.  A step's function
is an import string, so that `--help` imports no other part of the package.

A new step is a row here and a module whose function turns the context into tasks.
"""

import dataclasses
import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpa_jax.pipeline.cache import Task
    from hpa_jax.pipeline.context import Context

Flags = dict[str, tuple[str | bool | None, str]]  # name -> (default, help)
FORCE: Flags = {
    "force": (None, "[=STEP,...] repeat all or these steps; trained results are set aside")
}
SEEN: Flags = {
    "allow-seen": (
        False,
        "fit and score on images that a published model was trained on; scores are marked",
    )
}
ONLY: Flags = {"only": (None, "only this model (a name of config.models)")}
CLUSTER: Flags = {
    "distributed": (None, "fit the stack on Dask: a scheduler's address, or local (all cores here)")
}
# Files and folders of the package used for training and for decisions.
TRAINING = ("models", "training", "data/batches.py", "pipeline/train.py", "pipeline/tables.py")
DECISION = ("decision", "inference/ensemble.py", "pipeline")


@dataclass(frozen=True)
class Step:
    """One step of `run`, and the verb of its name."""

    function: str  # "module:function" from the context to the step's tasks
    summary: str
    reads: str
    writes: str
    options: tuple[str, ...]  # config paths, of single options or sections, in its tasks' keys
    code: tuple[str, ...]  # files and folders of the package that it uses
    version: int = 1  # raise it when the step gives other results for the same key
    on_all_hosts: bool = False  # else on the first host only
    of_networks: bool = False  # part of `run --only`, which may run beside other runs
    flags: Flags = field(default_factory=lambda: FORCE)
    verb: str = ""  # "module:function" if the verb does more than the step
    off: str = ""  # why it can have no tasks

    def tasks(self, context: "Context") -> "list[Task]":
        """Return the step's tasks, with the step's version and code."""
        module, function = self.function.split(":")
        tasks = getattr(importlib.import_module(module), function)(context)
        return [dataclasses.replace(task, version=self.version, code=self.code) for task in tasks]


STEPS: dict[str, Step] = {
    "data": Step(
        "hpa_jax.pipeline.data:data",
        "generates the synthetic competition, if that is the source",
        "nothing",
        "data/, data_truth.csv",
        ("data.synthetic",),
        ("data",),
    ),
    "catalog": Step(
        "hpa_jax.pipeline.catalog:catalog",
        "writes one table of all images",
        "config.data.root: train.csv, sample_submission.csv, image headers",
        "catalog.parquet, bad_images.csv",
        ("data", "classes", "largest"),
        ("data",),
        # 2: white-is-zero TIFF of 12 bits, look-up tables and HPA's JPEG read correctly
        # 3: each image of an OME-TIFF or CZI of several read by its own metadata
        version=4,  # 4: stains of IN Cell, ids of CellVoyager; a table whose header was corrected
    ),
    "duplicates": Step(
        "hpa_jax.pipeline.duplicates:duplicates",
        "perceptual hashes, pairs and groups of near-duplicates, the leak table",
        "catalog.parquet, the images",
        "duplicates.parquet, groups.parquet, leak.parquet, bad_duplicates.csv; with "
        "config.duplicates.trained_on: trained_on.parquet",
        ("duplicates", "data.check", "data.on_bad_image"),
        ("data",),
    ),
    "split": Step(
        "hpa_jax.pipeline.split:split",
        "multilabel-stratified hold-out or folds; duplicate groups stay on one side",
        "catalog.parquet, duplicates.parquet, groups.parquet",
        "splits.parquet",
        ("split",),
        ("data",),
        version=2,  # 2: with folds, what matches test images trains in none
    ),
    "records": Step(
        "hpa_jax.pipeline.records:records",
        "packs the images, all channels in one record",
        "catalog.parquet, the images",
        "records/ (a TFDS dataset)",
        ("records", "data.on_bad_image"),
        ("data/records.py", "data/reader.py"),
        flags={
            **FORCE,
            "beam": (False, "with Apache Beam: config.records.beam, or its DirectRunner"),
            "verify": (False, "compare every byte of the shards with their checksums afterwards"),
        },
        verb="hpa_jax.pipeline.records:pack",
    ),
    "embeddings": Step(
        "hpa_jax.pipeline.embeddings:embeddings",
        "runs every frozen network once over all images; a killed run resumes",
        "records/, catalog.parquet, the weights of init_from",
        "embeddings/NETWORK/vectors/ (memory-mapped arrays)",
        ("models", "records"),
        (*TRAINING, "inference", "data/embeddings.py", "pipeline/embeddings.py"),
        on_all_hosts=True,
        of_networks=True,
        flags={**ONLY, **FORCE},
        off="no model with frozen.head; config.models.NAME.frozen.head=linear makes one",
    ),
    "train": Step(
        "hpa_jax.pipeline.train:train",
        "trains every model of the recipe; a killed run resumes",
        "records/, splits.parquet, catalog.parquet",
        "models/NAME/checkpoints/, models/NAME/metrics.jsonl",
        ("models", "train", "records", "classes", "seed", "fold", "refit"),
        TRAINING,
        on_all_hosts=True,
        of_networks=True,
        flags={**ONLY, **FORCE},
    ),
    "predict": Step(
        "hpa_jax.pipeline.predict:predict",
        "probabilities and embeddings of the validation and test images, or of a folder of images",
        "models/NAME/checkpoints/, records/",
        "models/NAME/predictions/{valid,test}.parquet, …_plain.parquet (without test-time views), "
        "…_embeddings.parquet; with --model: "
        "predictions/index.html, predictions.csv, predictions_by_class.csv, predictions.parquet, "
        "embeddings/NAME.parquet",
        ("models", "records"),
        (*TRAINING, "inference"),
        on_all_hosts=True,
        of_networks=True,
        flags={
            **ONLY,
            **FORCE,
            "model": (
                None,
                "label the images of config.data with a published name (`models list`), a bundle "
                "of `export`, WORKDIR/models/NAME, or several of these folders with commas (mean)",
            ),
            "code": (
                False,
                "with --model: allow running the Python files that it names (custom backbones)",
            ),
            "format": (
                "csv,parquet",
                "with --model: csv, parquet, h5ad, cellmaps, napari; comma-separated",
            ),
            "names": (None, "for cellmaps: a table with the columns name and filename"),
            "maps": ("300", "with --model: images of the page that get class activation maps"),
        },
        verb="hpa_jax.pipeline.predict_images:verb",
    ),
    "retrieve": Step(
        "hpa_jax.pipeline.retrieve:retrieve",
        "metric learning on antibodies, and each image's nearest labelled neighbour",
        "records/, splits.parquet, catalog.parquet (antibodies)",
        "retrieval/ (network, embeddings, neighbours, recall)",
        ("retrieval", "train", "records", "seed"),
        (*TRAINING, "inference", "pipeline/retrieve.py"),
        off="config.retrieval.mode=off; replace or boost switch it on",
    ),
    "features": Step(
        "hpa_jax.pipeline.features:features",
        "the 15 metafeatures of every validation and test image",
        "records/, catalog.parquet",
        "features/{valid,test}.parquet (audit.parquet, too, with config.split.audit); "
        "features/pca/ with config.embeddings.pca",
        ("features", "records", "embeddings"),
        (*DECISION, "data/batches.py"),
    ),
    "stack": Step(
        "hpa_jax.pipeline.stack:stack",
        "boosted models per class on probabilities and metafeatures",
        "models/*/predictions/, features/, splits.parquet, groups.parquet",
        "stack/ (models, votes)",
        ("stack",),
        DECISION,
        version=2,  # 2: shares of train.csv; thresholds of quick shrink to the matched ones
        flags={**FORCE, **CLUSTER, **SEEN},
    ),
    "thresholds": Step(
        "hpa_jax.pipeline.thresholds:thresholds",
        "blends of the models; per-class thresholds of every model, blend and the stack, scored",
        "models/*/predictions/, stack/, splits.parquet",
        "ensemble/ (the blends), thresholds.json, metrics.json, decisions.parquet",
        ("ensemble", "thresholds", "submission.argmax", "retrieval", "weights"),
        DECISION,
        flags={**FORCE, **SEEN},
    ),
    "refit": Step(
        "hpa_jax.pipeline.refit:refit",
        "trains the networks again on all labelled images; thresholds and stack stay as fitted",
        "records/, splits.parquet, stack/, ensemble/, thresholds.json",
        "models/NAME/refit/, refit/ (every method's scores of the test images)",
        ("models", "train", "records", "classes", "seed", "refit"),
        (*TRAINING, "inference", *DECISION),
        of_networks=True,
        flags={**ONLY, **FORCE},
        off="config.refit=False; --config.refit=True switches it on",
    ),
    "submit": Step(
        "hpa_jax.pipeline.submit:submit",
        "decides the labels of the test images",
        "predictions, stack/, ensemble/, thresholds.json, leak.parquet, sample_submission.csv",
        "leak_overlay.parquet, leak_conflicts.csv, submission.csv, predictions.csv",
        ("submission", "leak", "ensemble.average_duplicates", "retrieval"),
        DECISION,
        version=2,  # 2: the simplest within a standard error is chosen; calibrations
    ),
    "evaluate": Step(
        "hpa_jax.pipeline.evaluate:evaluate",
        "scores every method and the submission on the audit part and on the test truth, if known",
        "the truth table (config.data.truth), predictions, thresholds.json, submission.csv",
        "audit.json (with config.split.audit), evaluation.json",
        ("submission", "ensemble.average_duplicates", "retrieval", "refit"),
        DECISION,
    ),
    "report": Step(
        "hpa_jax.pipeline.report:report",
        "one HTML page of everything above, opens offline",
        "all of the workdir",
        "report/index.html",
        ("report",),
        (
            *(
                "report",
                "report/page.html.j2",
                "report/page.js",
                "report/components.js",
                *DECISION,
                "data/statistics.py",
                "data/batches.py",
            ),
            *("core/classes.py", "training/phases.py", "training/schedules.py"),
        ),
    ),
}
