"""Vision transformers against PyTorch's numbers (golden files), under every naming of files."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from hpa_jax.core.errors import InputError
from hpa_jax.models import create, pretrained, published
from hpa_jax.models.vit import attend, resized
from tests.models import pinned
from tests.models.parity import seeded

# golden file -> options of `create` beside the backbone, its width and depth
FORMS = {
    "vit": dict(num_classes=7, head="token"),
    "dinov2": dict(backbone_options=dict(positions="offset", layer_scale=True)),
    "dinov2_reg": dict(backbone_options=dict(positions="antialias", layer_scale=True, registers=4)),
    "dinov2_giant": dict(backbone_options=dict(positions="offset", layer_scale=True)),
    "dino4cells": dict(backbone_options=dict(positions="offset")),
    "cell_dino": dict(backbone_options=dict(positions="offset", layer_scale=True)),
    "cell_dino_channels": dict(
        backbone_options=dict(positions="offset", layer_scale=True, per_channel=True)
    ),
    "subcell": dict(
        num_classes=31, head="subcell", backbone_options=dict(grid=448 // 16, eps=1e-12)
    ),
}


def network(name, **more):
    content = pinned.golden(name)
    options = dict(num_classes=1, head="features", dropout=0.0) | FORMS[name] | more
    return pinned.hollow(
        lambda: create(
            str(content["backbone"]),
            in_channels=int(content["size"][2]),
            width=float(content["width"]),
            depth=tuple(map(int, content["depth"])),
            rngs=nnx.Rngs(0),
            **options,
        )
    )


def images(name):
    height, width, channels = map(int, pinned.golden(name)["size"])
    return seeded.images(2, max(height, width), channels)[:, :height, :width] * 0.2 + 0.4


def as_file(name):
    """The golden file's tensors under the names that its publisher gives them."""
    tensors = pinned.tensors(name)
    return {**NAMINGS[name](tensors)} if name in NAMINGS else tensors


def transformers4(tensors, dinov2=False):
    """Hugging Face's ViTModel or Dinov2Model of version 4: queries, keys and values apart."""
    out = {}
    for name, value in tensors.items():
        name = name.replace("reg_token", "embeddings.register_tokens")
        name = name.replace("cls_token", "embeddings.cls_token")
        name = name.replace("pos_embed", "embeddings.position_embeddings")
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = re.sub(r"^norm\.", "layernorm.", name).replace("head.", "classifier.")
        name = re.sub(r"^blocks\.", "encoder.layer.", name)
        name = name.replace(".attn.proj.", ".attention.output.dense.")
        if dinov2:
            name = re.sub(r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1", name)
            name = name.replace(".w12.", ".weights_in.").replace(".w3.", ".weights_out.")
        else:
            name = name.replace(".norm1.", ".layernorm_before.")
            name = name.replace(".norm2.", ".layernorm_after.")
            name = name.replace(".mlp.fc1.", ".intermediate.dense.")
            name = name.replace(".mlp.fc2.", ".output.dense.")
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), np.split(value, 3)):
                out[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = piece
        else:
            out[name] = value
    return out


def transformers5(tensors, dinov2=False):
    """As version 5 keeps them: q_proj, k_proj, v_proj and o_proj."""
    out = {}
    for name, value in transformers4(tensors, dinov2).items():
        name = re.sub(r"attention\.attention\.(q|k|v)\w+", r"attention.\1_proj", name)
        name = name.replace("attention.output.dense", "attention.o_proj")
        if not dinov2:
            name = name.replace("encoder.layer.", "layers.")
            name = name.replace(".intermediate.dense.", ".mlp.fc1.")
            name = name.replace(".output.dense.", ".mlp.fc2.")
        out[name] = value
    return out


def meta(tensors):
    """DINOv2's own: register_tokens, and a mask token that nothing needs."""
    out = {name.replace("reg_token", "register_tokens"): value for name, value in tensors.items()}
    return out | {"mask_token": np.zeros((1, 128), np.float32)}


def subcell(tensors):
    """The encoder's file, and the classifier's with the catalogue's prefix."""
    heads = {"attention_v": "pool_model.attention_v.1", "attention_u": "pool_model.attention_u.1",
             "attention": "pool_model.attention", "fc1": "classifier.0", "fc2": "classifier.3",
             "fc": "classifier.6"}  # fmt: skip
    body = {k.removeprefix("body."): v for k, v in tensors.items() if k.startswith("body.")}
    out = {f"encoder.{name}": value for name, value in transformers4(body).items()}
    for name, value in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module in heads:
            out[f"{heads[module]}.{leaf}"] = value
    return out


def teacher(tensors):
    """DINO's training checkpoint: wrappers, and a head that is not used."""
    out = {f"module.backbone.{name}": value for name, value in tensors.items()}
    return out | {"module.head.mlp.0.weight": np.zeros((4, 128), np.float32)}


def chunks(tensors):
    """Cell-DINO's chunks of blocks; the second number is the block's."""
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}.", name): value
        for name, value in tensors.items()
    }


NAMINGS = {
    "dinov2": meta,
    "dinov2_reg": meta,
    "dinov2_giant": meta,
    "dino4cells": teacher,
    "cell_dino": chunks,
    "cell_dino_channels": chunks,
    "subcell": subcell,
}


def filled(tmp_path, name, tensors, **more):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "w.safetensors")
    model = network(name, **more)
    report = pretrained.load(model, tmp_path / "w.safetensors")
    assert not report.missing
    model.eval()
    return model


def assert_equal(model, name):
    content = pinned.golden(name)
    if name == "subcell":
        logits, features = pinned.embedding(model, images(name))
        pinned.assert_close(logits, content["logits"])
    else:
        features = nnx.jit(lambda model, x: model.tokens(x))(model, images(name))
        if "num_classes" in FORMS[name]:
            pinned.assert_close(pinned.logits(model, images(name)), content["logits"])
        pinned.assert_close(pinned.embedding(model, images(name))[1], content["features"][:, 0])
    pinned.assert_close(np.asarray(features), content["features"])


@pytest.mark.parametrize("name", FORMS)
def test_outputs_equal_pytorchs_under_the_publishers_names(tmp_path, name):
    assert_equal(filled(tmp_path, name, as_file(name)), name)


@pytest.mark.parametrize(
    ("name", "naming"),
    [
        ("vit", transformers4),
        ("vit", transformers5),
        ("vit", lambda tensors: {f"vit.{k}": v for k, v in transformers4(tensors).items()}),
        ("dinov2", lambda tensors: transformers4(tensors, dinov2=True)),
        ("dinov2_reg", lambda tensors: transformers5(tensors, dinov2=True)),
        ("dinov2_giant", lambda tensors: transformers4(tensors, dinov2=True)),
        ("dinov2_giant", lambda tensors: {  # timm's packed SwiGLU
            k.replace("w12", "fc1").replace("w3", "fc2"): v for k, v in tensors.items()
        }),
        ("subcell", lambda tensors: {  # the transformer alone, without encoder.
            k.removeprefix("encoder."): v for k, v in subcell(tensors).items()
        }),
    ],
)  # fmt: skip
def test_the_same_under_other_libraries_names(tmp_path, name, naming):
    assert_equal(filled(tmp_path, name, naming(pinned.tensors(name))), name)


def test_channels_by_themselves_may_be_any_number_and_show_their_attention(tmp_path):
    """The first channel's part of each token is that of an image of this channel alone."""
    model = filled(tmp_path, "cell_dino_channels", as_file("cell_dino_channels"))
    x = jnp.asarray(images("cell_dino_channels"))
    one = create(
        "vit_small_patch16", num_classes=1, head="features", in_channels=1, width=1 / 3,
        depth=(2,), rngs=nnx.Rngs(0), **FORMS["cell_dino_channels"],
    )  # fmt: skip
    nnx.update(one, nnx.state(model))
    one.eval()
    width = one.out_features
    assert model.out_features == 3 * width
    tokens = np.asarray(model.tokens(x))
    for channel in range(3):
        part = np.asarray(one.tokens(x[..., channel : channel + 1]))
        np.testing.assert_allclose(
            tokens[..., channel * width : (channel + 1) * width], part, atol=1e-5
        )
    attention, alone = model.attention(x, [-1])[-1], one.attention(x[..., 1:2], [-1])[-1]
    heads = alone.shape[1]
    np.testing.assert_allclose(attention[:, heads : 2 * heads], alone, atol=1e-6)
    assert model.features(x).shape == (2, 2, 3, 3 * width)


def test_timms_registers_come_with_positions_of_the_patches_alone(tmp_path):
    """There the class token's position is already added to it."""
    tensors = pinned.tensors("dinov2_reg")
    tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    assert_equal(filled(tmp_path, "dinov2_reg", tensors), "dinov2_reg")


def test_attention_by_the_explicit_path_is_the_same(tmp_path):
    model = filled(tmp_path, "vit", pinned.tensors("vit"))
    x = jnp.asarray(images("vit"))
    weights = model.attention(x, (0, -1))
    tokens = 1 + (48 // 16) * (64 // 16)
    assert {key: value.shape for key, value in weights.items()} == {
        0: (2, 2, tokens, tokens),
        -1: (2, 2, tokens, tokens),
    }
    np.testing.assert_allclose(weights[-1].sum(-1), 1, rtol=1e-5)
    y = model._first(x)
    for block in model.blocks:
        implicit = block(y)
        y, _ = block.explicit(y)
        assert np.abs(implicit - y).max() <= 1e-5 * np.abs(y).max()
    with pytest.raises(InputError, match="layer 2: must be 0 to 1"):
        model.attention(x, (2,))


def test_attention_keeps_no_weights_for_its_gradient():
    parts = [jax.random.normal(jax.random.key(seed), (2, 40, 3, 8)) for seed in range(3)]

    def gradients(attention):
        return jax.grad(lambda *parts: (attention(*parts) ** 2).sum(), (0, 1, 2))(*parts)

    for ours, plain in zip(gradients(attend), gradients(jax.nn.dot_product_attention)):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
    kept = jax.tree.leaves(jax.vjp(attend, *parts)[1])
    assert {array.shape for array in kept if array.ndim > 1} == {parts[0].shape}


def test_bfloat16_is_near_float32(tmp_path):
    tensors = pinned.tensors("vit")
    exact = filled(tmp_path, "vit", tensors)(images("vit"))
    rough = filled(tmp_path, "vit", tensors, dtype=jnp.bfloat16)(images("vit"))
    assert rough.dtype == jnp.float32
    assert np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_remat_gives_the_same_gradient():
    def gradient(remat):
        model = create("vit_small_patch16", num_classes=3, width=1 / 6, depth=(2,), remat=remat,
                       head="token", in_channels=3, rngs=nnx.Rngs(0))  # fmt: skip
        return nnx.jit(nnx.grad(lambda model: model(images("vit")).sum()))(model)

    for one, other in zip(*(jax.tree.leaves(gradient(kind)) for kind in ("none", "blocks"))):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_depth_groups_are_the_blocks():
    model = nnx.eval_shape(
        lambda: create("vit_base_patch16", num_classes=2, head="token", rngs=nnx.Rngs(0))
    )
    groups = model.depth_groups()
    assert len(groups) == 1 + 12 + 1 and groups[12] == ["blocks.11", "norm"]
    pinned.assert_groups_cover(model, groups)


def test_positions_of_the_stored_grid_stay_as_they_are():
    places = jnp.arange(1.0 + 9 * 2).repeat(2).reshape(1, -1, 2)[:, :10]
    for rule in ("size", "offset", "antialias"):
        assert resized(places, 3, 3, 3, rule) is places


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(backbone_options=dict(grd=3)), "no 'grd'; it has grid"),
        (dict(backbone_options=dict(positions="cubic")), "positions='cubic'"),
        (dict(width=0.3), "not a multiple of 64"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(InputError, match=words):
        create("vit_small_patch16", num_classes=2, rngs=nnx.Rngs(0), **options)


def test_other_backbones_have_no_tokens_and_no_options():
    for options in (dict(head="subcell"), dict(backbone_options=dict(grid=3))):
        with pytest.raises(InputError, match="resnet18 has"):
            create("resnet18", num_classes=2, rngs=nnx.Rngs(0), **options)


def test_what_does_not_fit_is_said(tmp_path):
    model = network("vit")
    with pytest.raises(InputError, match="multiples of 16"):
        pinned.feature_shape(model, 48, 50, 3)
    tensors = pinned.tensors("vit")
    tensors["pos_embed"] = tensors["pos_embed"][:, :50]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"for 7 x 7 patches.*grid=7"):
        pretrained.load(model, tmp_path / "w.safetensors")
    tensors = transformers4(pinned.tensors("vit"))
    del tensors["encoder.layer.1.attention.attention.key.bias"]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"lacks 1 of .*blocks\.1\.attn\.qkv\.bias"):
        pretrained.load(model, tmp_path / "w.safetensors")


QUICK = ("hpa_densenet121_512", "dinov2_vits14", "efficientnet_lite0")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in published.PUBLISHED
    ],
)
def test_each_entry_of_the_catalogue_makes_a_network(name):
    entry = published.find(name)
    model = pretrained.shapes_of(entry)
    side = entry.image_size
    shape = jax.ShapeDtypeStruct((1, side, side, len(entry.channels)), np.float32)
    logits, embedding = nnx.eval_shape(lambda model, x: model.embed(x), model, shape)
    assert logits.shape == (1, len(entry.class_names)) and embedding.shape == (1, entry.embedding)
