"""Published weights: names of three libraries, stems, heads, and files that must be refused."""

import pickle
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from hpa_jax.core.errors import InputError
from hpa_jax.models import create, pretrained
from tests.models import pinned


@pytest.fixture
def weights():
    return pinned.tensors("resnet18")


def values(model):
    """{path: array or shape} of a network's weights."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {".".join(map(str, p)): leaf.get_value() for p, leaf in nnx.to_flat_state(state)}


def refused(tmp_path, tensors, match, name="w.safetensors", **options):
    """Loads tensors that must be refused, and checks that nothing of them is in the network."""
    save_file(tensors, tmp_path / name)
    model = pinned.network("resnet18", **options)
    before = values(model)
    with pytest.raises(InputError, match=match):
        pretrained.load(model, tmp_path / name)
    assert values(model) == before  # shapes still, not one array
    return model


def test_every_tensor_is_mapped_and_the_report_says_so(tmp_path, weights):
    weights["layer1.0.bn1.num_batches_tracked"] = np.zeros((), np.int64)
    weights["extra.weight"] = np.zeros(3, np.float32)
    save_file(weights, tmp_path / "w.safetensors")
    model = pinned.network("resnet18")
    report = pretrained.load(model, tmp_path / "w.safetensors")
    assert report.unused == ("extra.weight",)
    assert report.missing == ()
    assert report.mapped["layer2.0.downsample.0.kernel"] == "layer2.0.downsample.0.weight"
    assert str(report).startswith(f"{len(weights) - 2} tensors mapped; 1 of the file unused")
    found = values(model)
    np.testing.assert_array_equal(
        found["layer1.0.conv1.kernel"], weights["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(found["bn1.var"], weights["bn1.running_var"])
    np.testing.assert_array_equal(found["head.fc.kernel"], weights["fc.weight"].T)


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: "module." + name,  # torch's DataParallel
        lambda name: name.replace("fc.", "last_linear."),  # Cadene
        lambda name: "layer0." + name if name.startswith(("conv1", "bn1")) else name,
    ],
)
def test_other_names_of_the_same_network(tmp_path, weights, renamed):
    save_file({renamed(k): v for k, v in weights.items()}, tmp_path / "w.safetensors")
    report = pretrained.load(pinned.network("resnet18"), tmp_path / "w.safetensors")
    assert not report.unused
    assert not report.missing


def test_densenets_first_published_names(tmp_path):
    old = {
        name.replace("norm1", "norm.1").replace("conv2.", "conv.2.").replace("norm2", "norm.2")
        if "denselayer" in name
        else name: tensor
        for name, tensor in pinned.tensors("densenet121").items()
    }
    save_file(old, tmp_path / "w.safetensors")
    report = pretrained.load(pinned.network("densenet121"), tmp_path / "w.safetensors")
    assert "features.denseblock1.denselayer1.norm.1.weight" in report.mapped.values()
    assert not report.missing


@pytest.mark.parametrize("extra", ["zeros", "copy_red", "mean"])
def test_stem_for_more_channels(tmp_path, weights, extra):
    save_file(weights, tmp_path / "w.safetensors")
    model = pinned.network("resnet18", in_channels=4)
    pretrained.load(model, tmp_path / "w.safetensors", extra)
    published = weights["conv1.weight"].transpose(2, 3, 1, 0)
    stem = np.asarray(values(model)["conv1.kernel"])
    np.testing.assert_array_equal(stem[:, :, :3], published)
    expected = {"zeros": 0 * published[:, :, 0], "copy_red": published[:, :, 0],
                "mean": published.mean(2)}[extra]  # fmt: skip
    np.testing.assert_allclose(stem[:, :, 3], expected, rtol=1e-6)


def test_stem_for_fewer_channels_and_bgr(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    published = weights["conv1.weight"].transpose(2, 3, 1, 0)
    for channels, expected in (
        (1, published.sum(2, keepdims=True)),
        (2, published[:, :, :2] * 1.5),
    ):
        model = pinned.network("resnet18", in_channels=channels)
        pretrained.load(model, tmp_path / "w.safetensors")
        np.testing.assert_allclose(values(model)["conv1.kernel"], expected, rtol=1e-6)
    tensors = pinned.tensors("bn_inception")
    save_file(tensors, tmp_path / "bgr.safetensors")
    model = pinned.network("bn_inception", in_channels=4)
    pretrained.load(model, tmp_path / "bgr.safetensors", "copy_red")
    stem = np.asarray(values(model)["conv1_7x7_s2.conv.kernel"])
    published = tensors["conv1_7x7_s2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(stem[:, :, :3], published)
    np.testing.assert_array_equal(stem[:, :, 3], published[:, :, 2])  # red comes last there


def test_heads_of_another_kind_or_size_are_left_alone(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    for options in ({"num_classes": 28}, {"head": "adaptive_concat"}, {"head": "bestfitting"}):
        report = pretrained.load(pinned.network("resnet18", **options), tmp_path / "w.safetensors")
        assert set(report.unused) == {"fc.bias", "fc.weight"}
        assert all(name.startswith("head.") for name in report.missing)
        assert "head.fc.kernel" in report.missing


def test_a_background_class_is_dropped(tmp_path, weights):
    weights["fc.weight"] = np.arange(1001 * 32, dtype=np.float32).reshape(1001, 32)
    weights["fc.bias"] = np.arange(1001, dtype=np.float32)
    save_file(weights, tmp_path / "w.safetensors")
    model = pinned.network("resnet18", num_classes=1000)
    assert not pretrained.load(model, tmp_path / "w.safetensors").missing
    np.testing.assert_array_equal(values(model)["head.fc.bias"], np.arange(1, 1001))


def test_a_file_of_another_network_is_refused(tmp_path):
    refused(tmp_path, pinned.tensors("densenet121"), "is for another network")


def test_a_look_alike_whose_tensors_all_fit_is_refused(tmp_path, weights):
    weights["layer1.0.se.fc1.weight"] = np.zeros((4, 64, 1, 1), np.float32)
    refused(tmp_path, weights, "legacy_seresnext")


def test_a_file_of_another_width_is_refused(tmp_path, weights):
    weights["layer2.0.conv1.weight"] = weights["layer2.0.conv1.weight"][:, :2]
    refused(tmp_path, weights, r"layer2\.0\.conv1.*another width")


def test_a_missing_tensor_is_named(tmp_path, weights):
    del weights["layer3.0.bn2.running_var"]
    refused(tmp_path, weights, r"lacks 1 of .*layer3\.0\.bn2\.var")


def test_only_a_classifier_may_be_for_other_classes(tmp_path, weights):
    weights["fc.weight"] = weights["fc.weight"][:, :8]  # of a body with fewer features
    refused(tmp_path, weights, r"fc\.weight.*another width")


def test_a_classifier_of_two_numbers_of_classes_is_refused(tmp_path, weights):
    weights["fc.bias"] = weights["fc.bias"][:3]
    refused(tmp_path, weights, r"fc\.weight|fc\.bias.* different numbers of classes")
    del weights["fc.bias"]
    refused(tmp_path, weights, r"lacks 1 of .*head\.fc\.bias")


def test_an_auxiliary_head_comes_whole_or_not_at_all(tmp_path):
    tensors = pinned.tensors("inception_v3")

    def load(changed):
        save_file(changed, tmp_path / "w.safetensors")
        return pretrained.load(
            pinned.network("inception_v3", num_classes=28), tmp_path / "w.safetensors"
        )

    missing = load(tensors).missing
    assert {name for name in missing if "Aux" in name} == {
        "AuxLogits.fc.kernel",
        "AuxLogits.fc.bias",
    }
    without = {name: value for name, value in tensors.items() if not name.startswith("Aux")}
    assert any(name.startswith("AuxLogits.conv1") for name in load(without).missing)
    cut = {**tensors, "AuxLogits.conv0.conv.weight": tensors["AuxLogits.conv0.conv.weight"][:2]}
    with pytest.raises(InputError, match=r"AuxLogits\.conv0\.conv\.weight.*another width"):
        load(cut)
    del cut["AuxLogits.conv0.conv.weight"]
    with pytest.raises(InputError, match=r"lacks 1 of .*AuxLogits\.conv0\.conv\.kernel"):
        load(cut)


def test_two_tensors_for_one_place_are_refused(tmp_path, weights):
    weights["module.conv1.weight"] = weights["conv1.weight"] + 1
    refused(
        tmp_path, weights, r"conv1\.weight and (module\.)?conv1\.weight are both .*conv1\.kernel"
    )
    del weights["module.conv1.weight"]
    weights["last_linear.bias"] = np.zeros(5, np.float32)  # of other classes than fc.bias
    refused(tmp_path, weights, "are both the network's head.fc.bias")


def test_nan_weights_are_refused(tmp_path, weights):
    weights["layer4.0.bn2.bias"][3] = np.nan
    refused(tmp_path, weights, r"layer4\.0\.bn2\.bias: holds NaN")


def test_integers_are_refused(tmp_path, weights):
    weights["conv1.weight"] = weights["conv1.weight"].astype(np.int8)
    refused(tmp_path, weights, "int8")


def test_truncated_or_foreign_files_are_refused(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    model = pinned.network("resnet18")
    for content in (whole[: len(whole) // 2], whole[:5], b"", b"<html>404</html>"):
        (tmp_path / "cut.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"cut\.safetensors: damaged safetensors"):
            pretrained.load(model, tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="not there"):
        pretrained.load(model, tmp_path / "none.safetensors")
    (tmp_path / "w.h5").write_bytes(whole)
    with pytest.raises(InputError, match="unknown kind"):
        pretrained.load(model, tmp_path / "w.h5")
    with pytest.raises(InputError, match="extra_channels"):
        pretrained.load(model, tmp_path / "w.safetensors", "repeat")


def test_a_tilde_is_the_home_folder(tmp_path, weights, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(weights, tmp_path / "w.safetensors")
    assert not pretrained.load(pinned.network("resnet18"), "~/w.safetensors").missing


def test_half_precision_files_are_read(tmp_path, weights):
    halves = {name: jax.numpy.asarray(value, jax.numpy.bfloat16) for name, value in weights.items()}
    from safetensors.flax import save_file as save_flax

    save_flax(halves, tmp_path / "w.safetensors")
    model = pinned.network("resnet18")
    pretrained.load(model, tmp_path / "w.safetensors")
    bias = values(model)["bn1.bias"]
    assert bias.dtype == np.float32
    np.testing.assert_allclose(bias, weights["bn1.bias"], rtol=2**-8)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_torch_file_never_runs(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Trap(str(tmp_path / "caught"))}))
    with pytest.raises(InputError, match=r"w\.pth"):
        pretrained.load(pinned.network("resnet18"), tmp_path / "w.pth")
    assert not (tmp_path / "caught").exists()


def test_torch_files_where_torch_is(tmp_path, weights):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    best = torch.tensor(77.5)  # as torchvision's training script keeps it
    for content in (
        state,
        {"epoch": 3, "state_dict": state},
        {"best_acc1": best, "state_dict": state, "optimizer": {"state": {}}},
        {"best_acc1": best, "model": {"net": state}},
    ):
        torch.save(content, tmp_path / "w.pth")
        assert not pretrained.load(pinned.network("resnet18"), tmp_path / "w.pth").missing
    model = pinned.network("resnet18")
    torch.save({"state_dict": state, "code": Trap(str(tmp_path / "caught"))}, tmp_path / "t.pth")
    with pytest.raises(InputError, match="never run"):
        pretrained.load(model, tmp_path / "t.pth")
    (tmp_path / "c.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"c\.pth: not read"):
        pretrained.load(model, tmp_path / "c.pth")
    torch.save([1, 2], tmp_path / "l.pth")
    with pytest.raises(InputError, match="contains no state dict"):
        pretrained.load(model, tmp_path / "l.pth")
    assert not (tmp_path / "caught").exists()


def test_hub_names(tmp_path, weights, monkeypatch):
    model = pinned.network("resnet18")
    with pytest.raises(InputError, match="hf:OWNER/REPO/FILE"):
        pretrained.load(model, "hf:resnet18")
    save_file(weights, tmp_path / "model.safetensors")

    class Hub:
        @staticmethod
        def hf_hub_download(repository, name):
            if repository != "timm/resnet18":
                raise OSError("no way to the hub")
            return str(tmp_path / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    assert not pretrained.load(model, "hf:timm/resnet18/model.safetensors").missing
    with pytest.raises(InputError, match=r"not downloaded \(no way to the hub\)"):
        pretrained.load(model, "hf:timm/other/model.safetensors")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="huggingface_hub"):
        pretrained.load(model, "hf:timm/resnet18/model.safetensors")


@pytest.fixture
def importing(tmp_path, weights, monkeypatch):
    """Imports the small network's file into a folder, as if it were the published one."""
    small = pinned.network("resnet18")
    save_file(weights, tmp_path / "w.safetensors")

    def run(out):
        with monkeypatch.context() as patched:
            patched.setattr(pretrained.registry, "create", lambda *a, **k: small)
            patched.setattr(pretrained.nnx, "eval_shape", lambda make: make())
            return pretrained.import_weights("resnet18", tmp_path / "w.safetensors", out)

    return run


def test_imported_weights_come_back_and_a_change_is_noticed(tmp_path, weights, importing):
    assert not importing(tmp_path / "out").missing
    model = pinned.network("resnet18", in_channels=4, num_classes=28)
    again = pretrained.load(model, tmp_path / "out", "copy_red")
    assert set(again.missing) == {"head.fc.kernel", "head.fc.bias"}
    np.testing.assert_array_equal(
        np.asarray(values(model)["conv1.kernel"])[:, :, 3],
        weights["conv1.weight"].transpose(2, 3, 1, 0)[:, :, 0],
    )
    index = tmp_path / "out" / "weights.json"
    index.write_text(index.read_text().replace('"bn1.bias": ', '"bn1.bias": 1'))
    with pytest.raises(InputError, match=r"bn1\.bias has changed"):
        pretrained.load(pinned.network("resnet18"), tmp_path / "out")
    for content in ("{}", "[]", '{"checksums": 3}'):
        index.write_text(content)
        with pytest.raises(InputError, match=r"weights\.json: has no checksums"):
            pretrained.load(pinned.network("resnet18"), tmp_path / "out")


def test_imported_weights_replace_nothing_but_imported_weights(tmp_path, importing):
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    importing(workdir)  # empty
    importing(workdir)  # its own
    (workdir / "catalog.parquet").write_text("precious")
    with pytest.raises(InputError, match="workdir: contains something"):
        importing(workdir)
    assert (workdir / "catalog.parquet").read_text() == "precious"
    with pytest.raises(InputError, match="is a file"):
        importing(tmp_path / "w.safetensors")


def published_densenet(model) -> dict[str, np.ndarray]:
    """The model's values as bestfitting's files name them: each backbone tensor twice."""
    other = {"conv0": "conv1.0", "norm0": "conv1.1", "denseblock1": "encoder2.0"}
    for block in (2, 3, 4):
        other[f"transition{block - 1}"] = f"encoder{block + 1}.0"
        other[f"denseblock{block}"] = f"encoder{block + 1}.1"
    other["norm5"] = "encoder5.2"
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    heads = {"bn1": "bn1", "fc1": "fc1", "bn": "bn2", "fc": "logit"}
    file = {}
    for name, value in values(model).items():
        module, _, leaf = name.rpartition(".")
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, tuple(range(value.ndim)))
        value, leaf = value.transpose(order), leaves.get(leaf, leaf)
        if module.startswith("head."):
            file[f"{heads[module.removeprefix('head.')]}.{leaf}"] = value
            continue
        first, _, rest = module.partition(".")
        rest = f".{rest}" if rest else ""
        file[f"backbone.features.{first}{rest}.{leaf}"] = value
        file[f"{other[first]}{rest}.{leaf}"] = value
    return file | {"backbone.classifier.weight": np.zeros((1000, 8), np.float32)}


def test_bestfittings_densenet_fills_backbone_and_head(tmp_path):
    """By both names of each tensor; the logits of a network that was filled are the original's."""

    def network(seed):
        options = dict(width=1 / 8, depth=(1, 1, 1, 1), embedding="last", rngs=nnx.Rngs(seed))
        return create("densenet121", num_classes=28, head="bestfitting", **options)

    original, filled = network(0), network(1)
    file = published_densenet(original)
    save_file(
        {name: np.ascontiguousarray(v) for name, v in file.items()}, tmp_path / "w.safetensors"
    )
    report = pretrained.load(filled, tmp_path / "w.safetensors")
    assert report.missing == () and report.unused == ("backbone.classifier.weight",)
    for model in (original, filled):
        model.eval()
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 4))
    logits = nnx.jit(lambda model: model(images))
    np.testing.assert_array_equal(logits(original), logits(filled))
    file["encoder2.0.denselayer1.conv1.weight"] = file["conv1.0.weight"][:1]
    save_file(
        {name: np.ascontiguousarray(v) for name, v in file.items()}, tmp_path / "d.safetensors"
    )
    with pytest.raises(InputError, match="are both the network's"):
        pretrained.load(network(2), tmp_path / "d.safetensors")
