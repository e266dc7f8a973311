"""Exports for others: one program that jax alone runs, weights with a model card."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file

from hpa_jax.__main__ import main
from hpa_jax.config import defaults
from hpa_jax.core.errors import InputError
from hpa_jax.data.reader import CHANNELS
from hpa_jax.decision import blends, bundle
from hpa_jax.pipeline import export, model_card
from hpa_jax.pipeline.context import Context
from tests.small_run import CONFIG

ALONE = """
import json, sys
import numpy as np
import jax
from jax import export
program = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
images = np.load(sys.argv[1])
np.save(sys.argv[2], np.asarray(program.call(images)))
assert not {"hpa_jax", "flax", "tensorflow"} & {*sys.modules}
"""


@pytest.fixture(scope="module")
def exported(done, tmp_path_factory):
    """(workdir, folder of exports) by the weighted mean of both networks."""
    workdir, _ = done
    method = "--config.submission.method=weighted mean"
    arguments = [*CONFIG, method, f"--workdir={workdir}", "--to=stablehlo,safetensors"]
    assert main(["export", *arguments]) == 0
    return workdir, workdir / "export"


def _images(workdir, ids):
    """The test images of the ids as they are stored, uint8[N, H, W, 4]."""
    planes = [[Image.open(workdir / f"data/test/{id}_{c}.png") for c in CHANNELS] for id in ids]
    return np.stack([np.stack([np.asarray(one) for one in of_id], -1) for of_id in planes])


@pytest.mark.parametrize("count", [1, 7])
def test_jax_alone_gives_the_runs_scores(exported, tmp_path, count):
    workdir, folder = exported
    known = pd.read_parquet(workdir / "ensemble/weighted_mean/test.parquet").set_index("id")
    ids = known.index[:count]
    np.save(tmp_path / "images.npy", _images(workdir, ids))
    command = [sys.executable, "-c", ALONE, tmp_path / "images.npy", tmp_path / "scores.npy"]
    subprocess.run(command, cwd=folder / "stablehlo", check=True)
    scores = np.load(tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, known.loc[ids].to_numpy(), atol=1e-5)
    about = json.loads((folder / "stablehlo/thresholds.json").read_text())
    assert about["image_size"] == 64 and len(about["thresholds"]) == scores.shape[1] == 28
    assert "jax.export.deserialize" in (folder / "stablehlo/README.md").read_text()


@pytest.mark.slow
def test_onnx_gives_the_runs_scores_and_the_zoo_takes_the_package(exported):
    pytest.importorskip("jax2onnx")
    ort = pytest.importorskip("onnxruntime")
    core = pytest.importorskip("bioimageio.core")
    workdir, folder = exported
    method = "--config.submission.method=weighted mean"
    arguments = [*CONFIG, method, f"--workdir={workdir}", "--to=onnx,bioimageio"]
    assert main(["export", *arguments]) == 0
    known = pd.read_parquet(workdir / "ensemble/weighted_mean/test.parquet").set_index("id")
    program = ort.InferenceSession(folder / "onnx" / "model.onnx")
    for ids in (known.index[:1], known.index[:3]):
        (scores,) = program.run(None, {"image": _images(workdir, ids)})
        np.testing.assert_allclose(scores, known.loc[ids].to_numpy(), atol=1e-4)
    assert "onnxruntime.InferenceSession" in (folder / "onnx" / "README.md").read_text()
    assert core.test_model(folder / "bioimageio" / "model.zip").status == "passed"


def test_weights_come_with_config_and_card(exported):
    workdir, folder = exported
    about = json.loads((folder / "safetensors/config.json").read_text())
    assert [network["model"] for network in about["networks"]] == ["tiny", "tiny_wide"]
    weights = load_file(folder / "safetensors" / about["networks"][0]["file"])
    assert any(name.startswith("stats.") for name in weights)
    card = (folder / "safetensors/README.md").read_text()
    assert card.startswith("---\nlibrary_name: hpa_jax\n")
    scores = json.loads((workdir / "metrics.json").read_text())["scores"]["weighted mean"]
    assert f"| validation | {scores['macro_f1']:.3f} |" in card and "| test |" in card
    assert "synthetic cells" in card and "## Intended use" in card and "| Nucleoplasm |" in card


def test_the_card_names_the_method_that_decides(tmp_path):
    """Of submission.method="auto" the chosen one, which need not be the best."""

    def score(macro_f1):
        return {"macro_f1": macro_f1, "macro_f1_interval": [macro_f1 - 0.1, macro_f1 + 0.1]}

    metrics = {"rows": "90 validation images", "best": "stack", "chosen": "mean of models"}
    metrics["scores"] = {"stack": score(0.61), "mean of models": score(0.57)}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    config = defaults.default()
    for method, f1 in (("auto", ".570"), ("stack", ".610")):
        config.submission.method = method
        (row,) = model_card._score_rows(Context(config, tmp_path))[2:]
        name = metrics["chosen"] if method == "auto" else method
        assert row.startswith(f"| validation | 0{f1} | ") and f"| {name}; 90 validation" in row


def packed(blend, models=2, classes=3):
    members = [
        bundle.Member(f"m{m}", f"m{m}", None, None, tuple(range(classes)), "identity")
        for m in range(models)
    ]
    names = tuple("abc"[:classes])
    return bundle.Bundle(names, members, np.full(classes, 0.5), blend=blend)


@pytest.mark.parametrize(
    "blend",
    [
        blends.Formula(),
        blends.Formula("mean", (0.2, 0.8)),
        blends.Formula("geometric", (0.5, 0.5)),
        blends.Formula("max"),
        blends.Formula("max", (1.0, 0.0)),
        blends.Logistic(np.array([[0.1, 1, 2], [0, 0.5, 0], [np.nan] * 3])),
    ],
)
def test_a_blend_in_jax_is_the_blend(blend):
    probs = np.random.default_rng(0).random((2, 5, 3))
    probs[1, :, 1] = np.nan  # the second model lacks the class
    if getattr(blend, "weights", None) == (1.0, 0.0):
        probs = np.nan_to_num(probs, nan=0.3)
    expected = np.nan_to_num(blend(probs))
    np.testing.assert_allclose(export.blended(packed(blend), probs), expected, atol=1e-6)


def test_what_does_not_fit_is_refused(done, capsys):
    workdir, _ = done
    with pytest.raises(InputError, match="stablehlo"):
        export.forms("stablehol")
    stack = [*CONFIG, "--config.submission.method=stack", f"--workdir={workdir}"]
    assert main(["export", *stack, "--to=safetensors"]) == 2
    assert "the stack decides" in capsys.readouterr().err
