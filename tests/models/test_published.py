"""The catalogue: complete, true to the spec's table of classes, and each entry makes a network."""

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.models import pretrained, published
from hpa_jax.models.normalization import normalizer
from hpa_jax.models.published import PUBLISHED


def test_every_entry_is_complete():
    for name, entry in PUBLISHED.items():
        for text in (entry.title, entry.task, entry.preparation, entry.home, entry.citation):
            assert text, name
        assert entry.licence.name and entry.licence.address.startswith("https://"), name
        assert entry.trained_on and set(entry.trained_on) <= set(published.COVERED), name
        assert entry.field in ("image", "cell") and entry.yellow in ("zeros", "error"), name
        assert entry.files and entry.embedding > 0, name
        assert len(set(entry.class_names)) == len(entry.class_names), name
        for file in entry.files:
            assert bool(file.url) + bool(file.package) == int(entry.licence.fetched), name
        normalizer(entry.normalize, entry.channels)


def test_subcells_classes_are_those_of_the_competition_where_they_are_the_same():
    entry = PUBLISHED["subcell_mae_rybg"]
    columns = [26, 21, 23, 24, 22, 20, 8, 11, 27, 9, 14, 12, 0, 10, 15, None, 5, 19, None, 4, 13]
    columns += [28, 2, 17, 1, 7, 6, None]  # of the 31, by the competition's number
    found = {number: entry.class_names.index(name) for name, number in entry.of_the_28.items()}
    assert [found.get(number) for number in range(len(classes.NAMES))] == columns
    assert len(entry.class_names) == 31 and entry.class_names[-1] == "Negative"


def test_what_a_model_has_seen():
    assert PUBLISHED["hpa_densenet121"].seen == {"train", "external"}
    assert PUBLISHED["subcell_vit_bg"].seen == {"train", "external", "test"}
    assert PUBLISHED["dinov2_vits14"].seen == PUBLISHED["efficientnet_lite0"].seen == set()


def test_digits_of_a_name():
    files = {file.name: file for entry in PUBLISHED.values() for file in entry.files}
    assert files["cell_dino_vits8_pretrain_cp-37d20e9c.pth"].digits == "37d20e9c"
    assert files["dinov2_vits14_pretrain.pth"].digits == ""
    assert files["efficientnet-lite0-57934424.pth"].digits.startswith("57934424")


def test_an_unknown_name_gives_near_ones():
    with pytest.raises(InputError, match="did you mean 'hpa_densenet121'"):
        published.find("hpa_densnet121")


@pytest.mark.parametrize("name", ["dinov2_vits14_reg", "subcell_mae_rbg", "hpa_densenet121"])
def test_a_recipes_model_goes_on_from_a_published_one(name):
    """The network that a recipe makes takes every tensor of the body."""
    from hpa_jax.training import network

    model = configs.model(**published.options(name))
    assert model.init_from == f"published:{name}" and model.channels == PUBLISHED[name].channels
    ours = network.from_config(model, 5, arrays=False)
    theirs = pretrained.shapes_of(PUBLISHED[name])
    mine, its = (
        {path: shape for path, shape in pretrained._parameters(one).items() if "head" not in path}
        for one in (ours, theirs)
    )
    assert mine == its and len(mine) > 100
