"""A loss, an augmentation, a backbone and thresholds of one's own, in a whole run."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.__main__ import main
from hpa_jax.config import defaults
from hpa_jax.core import own_code
from hpa_jax.core.errors import InputError
from hpa_jax.decision import thresholds
from hpa_jax.training import augment, losses, network
from tests.small_run import CONFIG

MINE = '''
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def tilted(logits, labels, mask, power=1.0):
    """Binary cross-entropy to a power, [N]."""
    return (jnp.logaddexp(0.0, logits) - labels * logits).sum(-1) ** power


def flipped(key, images, labels, axis=2):
    return jnp.flip(images, axis), labels


class Body(nnx.Module):
    def __init__(self, in_channels, dtype, rngs):
        self.first = nnx.Conv(in_channels, 8, (3, 3), strides=2, dtype=dtype, rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), strides=4, dtype=dtype, rngs=rngs)
        self.out_features = 16

    def features(self, images):
        return nnx.relu(self.second(nnx.relu(self.first(images))))


def bare(in_channels, dtype, rngs):
    return nnx.Linear(in_channels, 3, rngs=rngs)


def half(labels, probs, groups):
    return np.full(probs.shape[1], 0.25)
'''


BODY = """
from flax import nnx
class f(nnx.Module):
    def __init__(self, in_channels, dtype, rngs):
        self.conv = nnx.Conv(in_channels, 8, (3, 3), strides=4, rngs=rngs)
        self.out_features = 16
    def features(self, images):
        return """


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_a_loss_of_ones_own_is_a_term(mine):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 3)), rng.integers(0, 2, (4, 3))
    mask = np.array([True, True, True, False])
    expected = losses.from_config({"bce": 1.0})(logits, labels, mask)
    np.testing.assert_allclose(
        losses.from_config(f"{mine}:tilted")(logits, labels, mask), expected, rtol=1e-5
    )
    term = {"function": f"{mine}:tilted", "weight": 2.0, "power": 2.0}
    each = np.logaddexp(0, logits) - labels * logits
    square = (each.sum(1)[:3] ** 2).mean()
    found = losses.from_config({"mine": term, "bce": 1.0})(logits, labels, mask)
    np.testing.assert_allclose(found, 2 * square + expected, rtol=1e-5)
    with pytest.raises(InputError, match="weight"):
        losses.from_config({"mine": {**term, "weight": -1}})


def test_an_augmentation_of_ones_own(mine):
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 4), np.uint8)
    labels = np.ones((2, 3), np.uint8)
    found, kept = augment.preset(f"{mine}:flipped")(None, images, labels)
    np.testing.assert_allclose(found, images[:, :, ::-1] / 255.0, rtol=1e-6)
    options = {"name": f"{mine}:flipped", "axis": 1}
    np.testing.assert_allclose(
        augment.preset(options)(None, images, labels)[0], images[:, ::-1] / 255.0, rtol=1e-6
    )
    assert kept.dtype == np.float32 and augment.output_size(options) == 0


def test_a_backbone_of_ones_own_gets_head_and_depth_groups(mine):
    config = defaults.model(backbone=f"{mine}:Body", image_size=32, head="gap")
    model = network.from_config(config, 5)
    logits, embedding = model.embed(np.zeros((2, 32, 32, 4), np.float32))
    assert logits.shape == (2, 5) and embedding.shape == (2, 16)
    groups = network.depth_groups(model)
    assert groups == [["body.first"], ["body.second"], ["head.fc"]]
    with pytest.raises(InputError, match="width"):
        network.from_config(
            defaults.model(backbone=f"{mine}:Body", head="gap", width=0.5), 5, arrays=False
        )
    with pytest.raises(InputError, match="`features`"):
        network.from_config(defaults.model(backbone=f"{mine}:bare", head="gap"), 5)


def test_weights_of_a_file_edited_since_are_refused(mine):
    recorded = own_code.texts(f"{mine}:Body")
    own_code.check_unchanged(recorded, "checkpoint 3")
    mine.write_text(MINE + "# changed\n")
    with pytest.raises(InputError, match=r"checkpoint 3: was made with another .*mine\.py"):
        own_code.check_unchanged(recorded, "checkpoint 3")


def _loss(reference):
    return losses.from_config(reference)(np.zeros((4, 3)), np.ones((4, 3)), np.ones(4, bool))


def _augmented(reference):
    return augment.preset(reference)(None, np.zeros((2, 8, 8, 4), np.uint8), np.ones((2, 3)))


def _compiled(reference):
    images, labels = jnp.zeros((1, 8, 8, 4), jnp.uint8), jnp.ones((1, 3))
    return jax.jit(augment.preset(reference))(jax.random.key(1), images, labels)


def _features(reference):
    model = network.from_config(
        defaults.model(backbone=reference, image_size=32, head="gap"), 5, arrays=False
    )
    return nnx.eval_shape(lambda m: m.embed(jnp.zeros((2, 32, 32, 4))), model)


def _thresholds(reference):
    return thresholds.fitter(reference)(np.ones((4, 3), bool), np.zeros((4, 3)), None)


@pytest.mark.parametrize(
    ("use", "code", "words"),
    [
        (_loss, "def f(logits, labels): return 0.0", r"TypeError: f\(\) takes 2 positional"),
        (_loss, "def f(logits, labels, mask):\n    raise ValueError('bad')", "line 2.*bad"),
        (_loss, "def f(logits, labels, mask): return logits[:, :1]", r"\(4, 1\), not \(4,\) or"),
        (_loss, "def f(logits, labels, mask): return logits", r"\(4, 3\), not"),
        (_augmented, "def f(key, images, labels): return images", r"not \(images, labels\)"),
        (_augmented, "def f(key, images, labels): return images[:, ::2], labels", "4, 8, 4"),
        (_augmented, "def f(key, images, labels): return 1 / 0, labels", "line 1: ZeroDivision"),
        (_compiled, "def f(key, images, labels): return 255 * images, labels", r"\.\.25\d from"),
        (_compiled, "def f(key, images, labels): return images / 0, labels", r"inf from images"),
        (_features, BODY + "self.conv(images)", r"8, 8, 8\), not \[N, h, w, 16\]"),
        (_features, BODY + "self.konv(images)", "line 8: AttributeError.*konv"),
        (_thresholds, "def f(labels, probs): return [0.5] * 3", "takes 2 positional"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, use, code, words):
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(InputError, match=words) as raised:
        use(f"{path}:f")
    assert "\n" not in str(raised.value)


def test_a_misspelt_threshold_function_is_named_before_any_work(mine, tmp_path, capsys):
    method = f"--config.thresholds.method={mine}:halv"
    assert main(["run", *CONFIG, method, f"--workdir={tmp_path}/run"]) == 2
    printed = capsys.readouterr()
    assert "no function 'halv', did you mean 'half'?" in printed.err
    assert "[catalog]" not in printed.out


@pytest.mark.slow
def test_a_run_uses_records_and_counts_it(mine, tmp_path, capsys):
    """All four in one run; an edited file trains again; a bundle and a stranger's model refuse."""
    config = [argument for argument in CONFIG if "tiny.width" not in argument]
    own = [f"--config.models.tiny.{key}={mine}:{name}" for key, name in
           (("backbone", "Body"), ("loss", "tilted"), ("augment", "flipped"))]  # fmt: skip
    own += ["--config.models.tiny.width=1.0", "--config.models.tiny.depth=()"]
    own += [f"--config.thresholds.method={mine}:half", f"--workdir={tmp_path}/run"]
    own += ["--config.submission.method=tiny"]
    assert main(["run", *config, *own]) == 0
    recorded = json.loads((tmp_path / "run/run.json").read_text())["own_code"]
    assert set(recorded) == {f"{mine}:{name}" for name in ("Body", "tilted", "flipped", "half")}
    assert recorded[f"{mine}:half"]["text"] == MINE
    stored = json.loads((tmp_path / "run/thresholds.json").read_text())["thresholds"]["tiny"]
    assert {value for value in stored if value is not None} == {0.25}
    capsys.readouterr()
    assert main(["train", "--only=tiny", *config, *own]) == 0
    assert "epoch" not in capsys.readouterr().out
    mine.write_text(MINE + "# changed\n")
    assert main(["train", "--only=tiny", *config, *own]) == 0
    assert re.search(r"mine\.py:\w+ \w{16}' -> ", capsys.readouterr().out)
    assert main(["export", *config, *own]) == 2
    assert "names code to run" in capsys.readouterr().err
    predict = ["predict", f"--model={tmp_path}/run/models/tiny", f"--workdir={tmp_path}/out"]
    predict += [f"--config.data.root={tmp_path}/run/data/test"]
    assert main(predict) == 2 and "names code to run" in capsys.readouterr().err
    assert main([*predict, "--code"]) == 0
    mine.write_text(MINE + "# and again\n")  # the weights are of the former code
    capsys.readouterr()
    assert main([*predict, "--code"]) == 2
    assert "restore that file" in capsys.readouterr().err
