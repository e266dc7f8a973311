"""The table of networks: published sizes, errors at the door, depth groups."""

import functools
import math

import jax
import jax.extend
import pytest
from flax import nnx

from hpa_jax.core.errors import InputError
from hpa_jax.models import create, list_models
from hpa_jax.models.initializers import ShapesOnly
from hpa_jax.models.registry import ALIASES, BACKBONES
from tests.models import pinned


def shapes(name, **options):
    """The network without arrays."""
    options = {"num_classes": 28, **options}
    return nnx.eval_shape(lambda: create(name, rngs=ShapesOnly(0), **options))


@functools.cache
def published(name):
    """The published form, traced once: senet154 and nasnet_a_large take seconds."""
    return shapes(name, num_classes=1000, in_channels=3, head=BACKBONES[name].head)


def paths(model):
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return [".".join(map(str, path)) for path, _ in flat]


@pytest.mark.parametrize("name", BACKBONES)
def test_parameter_count_is_the_published_one(name):
    model = published(name)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == BACKBONES[name].parameters
    assert model.out_features == BACKBONES[name].out_features


@pytest.mark.parametrize("name", BACKBONES)
def test_depth_groups_cover_every_parameter_once(name):
    model = published(name)
    head = len(model.head_modules())
    body, fine = len(model.body_groups()), len(model.fine_groups())
    assert len(model.depth_groups()) == body + 1 >= 4
    for cuts in (None, body + head, fine + 1, (1, 3)):
        groups = model.depth_groups(cuts)
        for path in paths(model):
            hits = [
                prefix
                for group in groups
                for prefix in group
                if path == prefix or path.startswith(prefix + ".")
            ]
            assert len(hits) == 1, (cuts, path, hits)
        assert groups[-1] and set(groups[-1]) <= set(model.head_modules())


def test_depth_groups_of_one_more_layer():
    assert len(shapes("se_resnext50").depth_groups(6)) == 6
    assert len(shapes("se_resnext50").depth_groups(10)) == 10
    assert len(shapes("se_resnext50", hidden=512).depth_groups(14)) == 14
    with pytest.raises(InputError, match=r"cuts=11; this network and head give \[6, 7, 8, 9\]"):
        shapes("se_resnext50", head="gap").depth_groups(11)
    with pytest.raises(InputError, match="must rise"):
        shapes("resnet18").depth_groups((3, 2))


def test_unknown_names_list_the_near_ones():
    with pytest.raises(InputError, match=r"did you mean .*se_resnext50"):
        create("se_resnet_50x", num_classes=2, rngs=nnx.Rngs(0))
    for options, message in [
        (dict(width=0), "width"),
        (dict(depth=(1, 2)), "4 numbers"),
        (dict(remat="all"), "remat"),
        (dict(num_classes=0), "num_classes=0"),
        (dict(hiden=3), "hiden"),
    ]:
        with pytest.raises(InputError, match=message):
            shapes("resnet18", **options)


SMALLEST = {
    ("resnet18", True): 5,
    ("se_resnet50", False): 5,
    ("senet154", True): 7,
    ("densenet121", False): 29,
    ("densenet121", True): 61,
    ("inception_v3", False): 75,
    ("inception_v4", False): 75,
    ("bn_inception", False): 39,
    ("xception", False): 7,
}


@pytest.mark.parametrize(("name", "large_stem"), SMALLEST)
def test_too_small_images_are_refused_with_the_smallest_side(name, large_stem):
    model = pinned.small(name, in_channels=4, depth=0.1, large_stem=large_stem)
    smallest = SMALLEST[name, large_stem]
    assert min(pinned.feature_shape(model, smallest, smallest, 4)) > 0
    with pytest.raises(InputError, match=f"sides of at least {smallest} pixels"):
        pinned.feature_shape(model, smallest + 9, smallest - 1, 4)


def test_the_list_has_a_row_for_each_and_aliases_lead_there():
    table = list_models()
    assert list(table.name) == list(BACKBONES)
    assert (table.parameters > 0).all() and (table.gmacs_512 > 0).all()
    assert set(ALIASES.values()) <= set(BACKBONES)


@pytest.mark.parametrize(
    "name",
    [
        "convnext_tiny",
        "vit_small_patch16",
        "efficientnet_lite0",
        "resnet34",
        "se_resnext50_32x4d",
        "densenet121",
        "bn_inception",
        "xception",
    ],
)
def test_multiply_adds_are_those_of_the_traced_body(name):
    model = published(name)
    model.eval()
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, 512, 512, 3), "float32")
    body = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state).features(x))(state, images)
    model.train()  # the published form is shared
    assert round(multiply_adds(body.jaxpr) / 1e9, 2) == BACKBONES[name].gmacs


def multiply_adds(jaxpr):
    """Of all convolutions and matrix products; where the platform decides, those off CPU."""
    total = 0
    for equation in jaxpr.eqns:
        out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if equation.primitive.name == "conv_general_dilated":
            total += out * math.prod(equation.invars[1].aval.shape[:3])
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += out * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif equation.primitive.name == "cond":
            total += multiply_adds(equation.params["branches"][-1].jaxpr)
        else:
            total += sum(map(multiply_adds, jax.extend.core.jaxprs_in_params(equation.params)))
    return total


def test_published_files_are_named_by_library_or_as_init_from_takes_them():
    for name, row in BACKBONES.items():
        assert row.weights or name == "se_resnext_tiny"
        for given in row.weights:
            if given.startswith("hf:"):
                owner, repository, file = given.removeprefix("hf:").split("/")
                assert owner == "timm" and repository and file == "model.safetensors"
            else:
                library, file = given.split(" ")
                assert library in ("torchvision", "Cadene", "timm") and file.endswith(".pth")
                docs = getattr(row.build, "func", row.build).__doc__
                assert library == "timm" or file[-12:-4].strip("-") in docs, (name, file)
