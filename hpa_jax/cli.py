"""Command line: hpa-jax VERB --config=RECIPE --config.a.b=v --workdir=DIR.

Bad input gives one line that names the file, row or key, and exit code 2 (`--debug`: the
traceback).  Nothing heavy is imported before a verb is known, so `--help` answers at once.
"""

import importlib
import io
import logging
import os
import signal
import sys
import warnings
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field

from hpa_jax.core.errors import InputError, is_disk_full, near
from hpa_jax.pipeline.steps import CLUSTER, FORCE, ONLY, SEEN, STEPS, Flags, Step


@dataclass(frozen=True)
class Verb:
    """One command-line verb. function: from (config, flags) to an exit code or None."""

    function: str  # "module:function"
    summary: str
    reads: str
    writes: str
    flags: Flags = field(default_factory=dict)
    options: tuple[str, ...] = ()  # config paths that it depends on
    steps: tuple[str, ...] = ()  # steps of `run` to execute
    forms: dict[str, tuple[str, ...]] = field(default_factory=dict)  # word -> what follows it
    completes: bool = False  # the function adds models to the config, then validates it

    @classmethod
    def of_step(cls, name: str, step: Step) -> "Verb":
        """The verb that does one step; `catalog` makes the synthetic data first."""
        steps = () if step.verb else ("data", name) if name == "catalog" else (name,)
        function = step.verb or "hpa_jax.pipeline.runner:run"
        return cls(function, step.summary, step.reads, step.writes, step.flags, step.options, steps)


COMMON_FLAGS: Flags = {
    "workdir": (None, "folder for all output (created if absent)"),
    "debug": (False, "show the traceback of an error"),
}
VERBS: dict[str, Verb] = {
    "run": Verb(
        "hpa_jax.pipeline.runner:run",
        "all steps, from images to submission and report; skips finished ones",
        "the images and tables of config.data",
        "everything below, in the workdir",
        {
            "only": (None, "only this model (a name of config.models, or retrieval)"),
            **FORCE,
            **CLUSTER,
            **SEEN,
            "collect": (
                False,
                "train nothing: decide with the networks trained so far",
            ),
            "parallel": (
                None,
                "train small networks in parallel, one per GPU; =N: N at a time",
            ),
        },
    ),
    "clean": Verb(
        "hpa_jax.pipeline.clean:clean",
        "permanently removes results set aside by runs with other settings",
        "replaced/",
        "nothing; shows how much space it frees and asks first",
        {"yes": (False, "without asking")},
    ),
    "download": Verb(
        "hpa_jax.pipeline.download:download",
        "external images of the Human Protein Atlas; calling it again resumes",
        "the table of config.data's atlas source (ROOT/external.csv)",
        "ROOT/pictures/ (a damaged file is fetched again), ROOT/download_failed.csv",
    ),
    **{name: Verb.of_step(name, step) for name, step in STEPS.items() if name != "data"},
    "decide": Verb(
        "hpa_jax.pipeline.decide:verb",
        "labels from prediction tables of any models: blends, stack, thresholds, submission",
        "--predictions and --labels: the rows without a label are decided; no images",
        "submission.csv, predictions.csv, metrics.json, thresholds.json, report/index.html",
        {
            "predictions": (
                None,
                "tables, comma-separated: .csv, .parquet (id, p00 or class names), "
                ".npz (ids, probs); out of fold where there is a label",
            ),
            "labels": (None, "table Id,Target with class numbers or names"),
            "test": (None, "tables of the rows to decide, if separate; names or order as above"),
            "classes": (
                None,
                "names in order, comma-separated, or a file, one per line; default: columns",
            ),
            "groups": (None, "table Id,Group: duplicate groups, kept in one fold"),
            "folds": (None, "table Id,Fold of the labelled rows, for nested scores"),
            "metafeatures": (None, "table of id and numbers, for the stack"),
            "proportions": (
                None,
                "shares of the classes in training: comma-separated numbers, or a "
                "table Id,Target; default: those of --labels",
            ),
            "logits": (False, "the tables hold logits"),
        },
        ("ensemble", "thresholds", "stack", "submission"),
        completes=True,
    ),
    "export": Verb(
        "hpa_jax.pipeline.export:verb",
        "networks, thresholds and stack in one folder, for predict --model",
        "models/, thresholds.json, ensemble/, stack/, features/",
        "bundle/, export/FORM/",
        {
            "to": (
                "bundle",
                "bundle, safetensors (+ model card), stablehlo, onnx, bioimageio; comma-separated",
            ),
            "gallery": (
                True,
                "include up to 500 small labelled images, to show the most similar ones",
            ),
        },
    ),
    "serve": Verb(
        "hpa_jax.serve.app:verb",
        "a local web page: drop images, see their labels; nothing leaves the machine",
        "--model, and the files that are dropped on the page",
        "a temporary folder, removed on exit",
        {
            "model": (None, "a bundle, WORKDIR/models/NAME, or a published model"),
            "port": ("8765", "port to listen on"),
            "host": ("127.0.0.1", "address to listen on; 0.0.0.0: also from other machines"),
            "code": (False, "run the Python files that the model names (custom backbones)"),
        },
    ),
    "classes": Verb(
        "hpa_jax.pipeline.classes:classes",
        "class counts, pairs, matrices and graphs by source, and of the submission",
        "catalog.parquet, splits.parquet, groups.parquet, submission.csv (if present)",
        "classes/{counts,pairs}.csv, graph_*.svg, PART_{cooccurrence,conditional}.parquet",
    ),
    "preview": Verb(
        "hpa_jax.pipeline.preview:preview",
        "a grid of augmented images for each model, and for phases that differ",
        "records/, splits.parquet",
        "preview/NAME.png, NAME_phase_K.png",
        ONLY,
    ),
    "lr_find": Verb(
        "hpa_jax.pipeline.lr_find:lr_find",
        "learning-rate range test of each model; does not change the model",
        "records/, splits.parquet",
        "models/NAME/lr_find.json, lr_find.png",
        {
            **ONLY,
            "phase": ("0", "phase whose freezing, loss and augmentation apply; counted from 0"),
            "checkpoint": ("", "weights to start from: best | last | a step; default: untrained"),
            "iterations": ("1000", "steps from the first rate to the last"),
            "low": ("1e-7", "first rate"),
            "high": ("10", "last rate"),
        },
    ),
    "models": Verb(
        "hpa_jax.pipeline.models:models",
        "published trained models: list them, show their purpose, fetch their files",
        "the catalogue; fetch: the publisher's server, or --from",
        "fetch: a folder with the files, LICENCE.txt and fetched.json",
        {
            "out": (None, "fetch: another folder than HPA_JAX_HOME/models/NAME"),
            "from": (None, "fetch: a mirror (URL), or a file, wheel or folder that you have"),
            "accept-licence": (None, "fetch: NAME again, where a licence must be accepted"),
        },
        forms={"list": (), "show": ("NAME",), "fetch": ("NAME",)},
    ),
    "import_weights": Verb(
        "hpa_jax.pipeline.import_weights:import_weights",
        "a published weight file (safetensors, torch) as a folder for init_from",
        "--weights",
        "--out (an Orbax folder)",
        {
            "backbone": (None, "the network, as in the config"),
            "weights": (None, "file, or hf:OWNER/REPO/FILE"),
            "out": (None, "folder to write"),
        },
    ),
    "adversarial": Verb(
        "hpa_jax.pipeline.adversarial:adversarial",
        "can train and test be distinguished? AUC, and the training images most (un)like test",
        "records/, catalog.parquet, splits.parquet, groups.parquet",
        "adversarial.json, adversarial.parquet, adversarial_valid.csv (for split.force_valid), "
        "adversarial_unlike.csv; adversarial/fold_K/ (variant network)",
    ),
    "label_noise": Verb(
        "hpa_jax.pipeline.label_noise:label_noise",
        "likely label errors among the validation images",
        "models/*/predictions/valid.parquet, splits.parquet, records/",
        "label_noise.csv, label_noise.html (the least trusted, with images)",
    ),
    "ablate": Verb(
        "hpa_jax.pipeline.ablate:ablate",
        "the effect of each variation of a recipe on its score, over several seeds",
        "config.ablate: seeds and variations (configs/ablation.py)",
        "ablation.json, ablation.md, ablate/NAME/seed_K/ (one workdir each)",
    ),
}
RENAMED_FLAGS = {
    ("predict", "bundle"): "model",
    ("predict", "checkpoint"): "model",
    ("import_weights", "model"): "backbone",
}
USAGE = "hpa-jax VERB --config=RECIPE [--config.a.b=v ...] --workdir=DIR"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns its exit code (0 done, 2 bad input, 3 diverged, 75 call again)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    _prepare_libraries()
    _leave_room_on_gpus()
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(overview())
            return 0
        name, *rest = arguments
        if name not in VERBS:
            raise InputError(f"unknown verb {name!r}{near(name, VERBS)} (--help lists them)")
        verb = VERBS[name]
        if "-h" in rest or "--help" in rest:
            print(verb_help(name, verb))
            return 0
        config, flags = parse(name, verb, rest)
        flags["arguments"] = rest
        module, function = verb.function.split(":")
        work = getattr(importlib.import_module(module), function)
        # Called here, not in a helper: keeps the stack of a traceback short.
        return (work(config, flags, verb.steps) if verb.steps else work(config, flags)) or 0
    except InputError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        without = " without --force" if any(a.startswith("--force") for a in arguments) else ""
        print(f"stopped; the same command{without} resumes from here", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except BrokenExecutor:
        if debug:
            raise
        print(
            "error: a worker process was killed, perhaps out of memory; the same command resumes "
            "(--config.train.workers=1: images are read in one process)",
            file=sys.stderr,
        )
        return 2
    except FloatingPointError as error:  # a NaN loss: the message names step and ids
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        if debug:
            raise
        print(f"error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 2


def _prepare_libraries() -> None:
    """Silence the start-up notices of libraries, and have TensorFlow start without Keras."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # TensorFlow, which only reads the input here, else imports Keras 3: half of its start
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    warnings.formatwarning = _in_one_line
    sys.unraisablehook = _without_closed_loops
    for stream in (sys.stdout, sys.stderr):  # terminals without µ or … get an escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # The reader reports the same problems in one line, with the file's name.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    logger = logging.getLogger("absl")
    logger.setLevel(logging.ERROR)
    logger.addFilter(_not_raised_again)


def _in_one_line(message: Warning | str, *_: object) -> str:
    """Format a warning in one line, without its source line."""
    text = " ".join(str(message).split())
    return f"{text if text.startswith('note: ') else f'warning: {text}'}\n"


def _without_closed_loops(event: "sys.UnraisableHookArgs") -> None:
    """Leave out TensorStore's tracebacks, a hundred, of writes that end after one has failed."""
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _leave_room_on_gpus() -> None:
    """Limit JAX to three quarters of a GPU's memory: XGBoost needs some of the rest.

    JAX never returns memory (docs.jax.dev, "GPU memory allocation").  The share is JAX's
    own default, but newer versions let it grow to the whole card unless it is set.
    """
    variables = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # JAX rejects both
    if not any(name in os.environ for name in variables):
        os.environ[variables[0]] = ".75"


def _not_raised_again(record: logging.LogRecord) -> bool:
    """Filter out Orbax's tracebacks of a full disk, which is also reported as one line."""
    cause = record.exc_info[1] if record.exc_info else None
    return not is_disk_full(f"{record.getMessage()} {cause}")


def parse(name: str, verb: Verb, arguments: list[str]) -> tuple[object, dict[str, object]]:
    """Return the validated config and the verb's other flags, by name.

    Raises:
        InputError: an unknown flag or config key, a missing file, or an invalid value.
    """
    from absl import flags

    from hpa_jax.config import overrides, validation

    parser = flags.FlagValues()
    for flag, (default, text) in {**COMMON_FLAGS, **verb.flags}.items():
        define = flags.DEFINE_boolean if isinstance(default, bool) else flags.DEFINE_string
        define(flag, default, text, flag_values=parser)
    for argument in arguments:
        flag = argument.partition("=")[0].removeprefix("--")
        if argument.startswith("--") and (name, flag) in RENAMED_FLAGS:
            raise InputError(f"--{flag} is now called --{RENAMED_FLAGS[name, flag]}")
    bare = {"--force": "--force=all", "--parallel": "--parallel=gpus"}
    arguments = [bare.get(argument, argument) for argument in arguments]
    config, arguments = overrides.configured(arguments)
    try:
        rest = parser([name, *arguments])[1:]
    except flags.Error as error:
        text = str(error).replace("\n", " ")
        raise InputError(f"{text} ({name} --help lists the flags)") from error
    words = _words(name, verb, rest)
    if not verb.completes:
        validation.validate(config)
    values = {flag: parser[flag].value for flag in {**COMMON_FLAGS, **verb.flags}}
    return config, {**values, **words}


def _words(name: str, verb: Verb, rest: list[str]) -> dict[str, object]:
    """Parse the words of a verb with forms: {"form": the first, then its arguments by name}.

    Raises:
        InputError: an unknown form, or the wrong number of words.
    """
    if not verb.forms:
        if rest:
            raise InputError(f"{rest[0]!r} is not a flag ({name} --help lists them); {USAGE}")
        return {}
    forms = ", ".join(" ".join((name, form, *names)) for form, names in verb.forms.items())
    if not rest:
        raise InputError(f"{name}: needs one of: {forms}")
    form, *words = rest
    if form not in verb.forms:
        raise InputError(f"{name} {form}: unknown{near(form, verb.forms)} ({forms})")
    if len(words) != len(verb.forms[form]):
        usage = " ".join((name, form, *verb.forms[form]))
        raise InputError(f"{' '.join((name, *rest))}: should read {usage}")
    return {"form": form, **dict(zip(verb.forms[form], words))}


def overview() -> str:
    """Return the text of `--help`: one line per verb."""
    lines = [f"usage: {USAGE}", ""]
    lines += [f"  {name:<15} {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "VERB --help shows what it reads and writes. Start: scripts/demo"]
    return "\n".join(lines)


def verb_help(name: str, verb: Verb) -> str:
    """Return the text of `VERB --help`."""
    lines = [f"hpa-jax {name}: {verb.summary}", ""]
    lines += [f"  {' '.join((name, form, *names))}" for form, names in verb.forms.items()]
    lines += [""] * bool(verb.forms)
    lines += [f"  reads   {verb.reads}", f"  writes  {verb.writes}", "", "flags:"]
    lines += [
        "  --config=RECIPE[:VARIANT]  a Python file with get_config(), or demo, pudae, …; its"
    ]
    lines += ["                           variants, a comma list: smoke (tiny), as_run"]
    lines += ["  --config.KEY=VALUE       changes one option"]
    for flag, (default, text) in {**COMMON_FLAGS, **verb.flags}.items():
        lines.append(f"  --{flag:<23}{text}{f' ({default})' if default else ''}")
    if verb.options:
        from hpa_jax.config import reference

        lines += ["", "related options, with their defaults (all: docs/options.md):"]
        lines += [f"  {line}" for line in reference.described(verb.options)]
    return "\n".join(lines)
