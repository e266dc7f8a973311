"""Changes numbers of the recipes and named constants, one by one; which change does no test notice?

    python scripts/mutate.py [--only WORD]

Each change is made in a copy of the tree, and the tests that docs/coverage.md names for it run
there.  A survivor is a number that nothing guards.  Exit code 1 if there is one.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
NUMBERS, OML, LOSSES = (
    "tests/configs/test_numbers.py",
    "tests/configs/test_one_more_layer.py",
    "tests/training/test_losses.py",
)
BESTFITTING, PUDAE, ABLATION = (f"configs/{n}.py" for n in ("bestfitting", "pudae", "ablation"))
COMMON, SOLUTION = (f"configs/one_more_layer/{n}.py" for n in ("common", "solution"))
OVR, LSEP, V7, V10, V14 = (
    f"configs/one_more_layer/se_resnext_{n}.py" for n in ("ovr", "lsep", "v7", "v10", "v14")
)
XCEPTION, BN4 = (f"configs/one_more_layer/{n}.py" for n in ("xception", "bn_inception_v4"))
PROTOCOLS, RULES = "hpa_jax/decision/stack/protocols.py", "hpa_jax/decision/thresholds.py"
VIEWS, LOSS = "hpa_jax/inference/views.py", "hpa_jax/training/losses.py"
# (file, what stands there once, what is put in its place, tests)
CHANGES = (
    (OVR, "(17, 26, 15,", "(17, 25, 15,", NUMBERS),
    (OVR, "gamma=5.0", "gamma=4.0", NUMBERS),
    (OVR, '"model:se_resnext_v6"', '"model:se_resnext_v3"', NUMBERS),
    (LSEP, "jitter=0.03", "jitter=0.04", NUMBERS),
    (LSEP, "lr_noise=0.01", "lr_noise=0.02", NUMBERS),
    (V7, "blank_protein=0.5", "blank_protein=0.6", NUMBERS),
    (V10, "gamma=3.0", "gamma=2.0", NUMBERS),
    (V14, "batch_size=20", "batch_size=22", NUMBERS),
    (V14, '"phase:3"', '"phase:4"', OML),
    (XCEPTION, "0.75", "0.7", NUMBERS),
    (BN4, "image_size=768", "image_size=512", NUMBERS),
    (COMMON, "b1=0.9", "b1=0.95", NUMBERS),
    (COMMON, "b2=0.99", "b2=0.999", NUMBERS),
    (COMMON, "eps=1e-8", "eps=1e-7", NUMBERS),
    (COMMON, "weight_decay=0.01", "weight_decay=0.02", NUMBERS),
    (COMMON, "STEM_TO_HEAD = 16.0", "STEM_TO_HEAD = 8.0", NUMBERS),
    (COMMON, "fraction=0.25", "fraction=0.2", NUMBERS),
    (COMMON, "not_only=(0, 25)", "not_only=(0,)", NUMBERS),
    (COMMON, 'method = "cross_validated"', 'method = "exact"', OML),
    (COMMON, "phases[number]", "phases[-1]", OML),
    (SOLUTION, "vote_factor=1.05", "vote_factor=1.0", OML),
    (SOLUTION, '"rare_repeats"] = 40', '"rare_repeats"] = 20', OML),
    (SOLUTION, "ridge_alpha=0.1", "ridge_alpha=1.0", OML),
    (SOLUTION, "colsample=1.0", "colsample=0.6", OML),
    (SOLUTION, "repeats=20, inner", "repeats=5, inner", OML),
    (PROTOCOLS, 'negatives="prior"', 'negatives="all"', NUMBERS),
    (PROTOCOLS, "(250, 7, 7, 5)", "(250, 7, 5, 5)", NUMBERS),
    (BESTFITTING, 'matches_test="excluded"', 'matches_test="valid"', NUMBERS),
    (BESTFITTING, "trained_folds=(0, 1, 2)", "trained_folds=(0, 1, 3)", NUMBERS),
    (BESTFITTING, "share=(crop / stored, 1.0)", "share=(0.5, 1.0)", NUMBERS),
    (BESTFITTING, "count=3", "count=4", NUMBERS),
    (BESTFITTING, "focal=0.5", "focal=1.0", NUMBERS),
    (BESTFITTING, "0.010363", "0.010364", NUMBERS),
    (BESTFITTING, "tau=0.65", "tau=0.6", NUMBERS),
    (BESTFITTING, "keep_epochs=(45,)", "keep_epochs=(50,)", NUMBERS),
    (BESTFITTING, "35: 7.5e-5, 40", "36: 7.5e-5, 40", NUMBERS),
    (BESTFITTING, '"b2": 0.999', '"b2": 0.99', NUMBERS),
    (BESTFITTING, "aux_weight=0.0", "aux_weight=0.4", NUMBERS),
    (BESTFITTING, 'argmax="always"', 'argmax="empty"', NUMBERS),
    (VIEWS, '"max" if name == "crops"', '"mean" if name == "crops"', NUMBERS),
    (PUDAE, "1 / FOLDS for fold", "1 / 4 for fold", NUMBERS),
    (PUDAE, '"inception_v3": 1.0', '"inception_v3": 2.0', NUMBERS),
    (PUDAE, "lr=5e-4", "lr=4e-4", NUMBERS),
    (PUDAE, '"count": 10', '"count": 5', NUMBERS),
    (PUDAE, "fraction=1 / 11", "fraction=1 / 10", NUMBERS),
    (PUDAE, 'argmax="off"', 'argmax="empty"', NUMBERS),
    (RULES, "np.arange(5, 100) / 100.0", "np.arange(6, 100) / 100.0", NUMBERS),
    (RULES, "np.ndarray = 10_000", "np.ndarray = 1_000", NUMBERS),
    (ABLATION, "mixup=0.4", "mixup=0.2", NUMBERS),
    (ABLATION, "protein_gain=0.3", "protein_gain=0.2", NUMBERS),
    (ABLATION, "label_noise\": 0.05", "label_noise\": 0.5", NUMBERS),
    (LOSS, "n_negative // 10 + 2", "n_negative // 10 + 3", LOSSES),
    (LOSS, "jnp.maximum(2, n_negative // 2)", "n_negative // 2 + 1", LOSSES),
    (LOSS, 'if name == "lsep" else mask', 'if name == "lse" else mask', LOSSES),
    ("hpa_jax/data/splits.py", "self.split[rows[self.forced[rows] == 1]] = VALID_ONLY", "pass",
     "tests/data/test_splits.py"),
    ("hpa_jax/pipeline/stack.py", "prior=tables.training_shares(context)",
     "prior=None", "tests/pipeline/test_tables.py"),
    ("hpa_jax/pipeline/retrieve.py", "retrieval.standardised(_embeddings(context, queries.ids))",
     "_embeddings(context, queries.ids)", "tests/pipeline/test_retrieve.py"),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="changes whose file or text holds this word")
    word = parser.parse_args().only
    _preload()
    survivors, chosen = [], [c for c in CHANGES if word in " ".join(c)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("configs", "hpa_jax", "tests", "scripts"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for tests in sorted({tests for *_, tests in chosen}):
            if _fails(copy, tests):
                raise SystemExit(f"{tests} fails without any change")
        for name, before, after, tests in chosen:
            path = copy / name
            text = path.read_text()
            if text.count(before) < 1:
                raise SystemExit(f"{name}: {before!r} is not there; change this list")
            path.write_text(text.replace(before, after, 1))
            started = time.monotonic()
            noticed = _fails(copy, tests)
            path.write_text(text)
            seconds = time.monotonic() - started
            verdict = "noticed" if noticed else "SURVIVED"
            print(f"{verdict:9}{name}: {before} -> {after} ({seconds:.0f} s)", flush=True)
            survivors += [] if noticed else [name]
    print(f"{len(chosen)} changes, {len(survivors)} survivors")
    return int(bool(survivors))


def _preload() -> None:
    """What the tests import and no change touches, once for all: each change is tried in a fork."""
    import hypothesis  # noqa: F401
    import ml_collections  # noqa: F401
    import numpy  # noqa: F401
    import optax  # noqa: F401
    import pandas  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    from flax import nnx  # noqa: F401


def _fails(copy: Path, tests: str) -> bool:
    """Whether a test file of the copied tree fails there."""
    child = os.fork()
    if not child:
        import pytest

        sys.dont_write_bytecode = True
        sys.path[:] = [str(copy), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        os.chdir(copy)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = pytest.main([tests, "-x", "-q", "-n0", "-p", "no:cacheprovider"])
        os._exit(int(code))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 1  # 1: tests failed; all else is no verdict


if __name__ == "__main__":
    sys.exit(main())
