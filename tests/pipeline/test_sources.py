"""Where the images of a config come from."""

import pytest

from configs import bestfitting
from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.sources import sources


def test_a_source_without_a_root_is_that_of_the_short_form(tmp_path):
    config = configs.default().unlock()
    config.data.sources = (dict(source="kaggle", full_size=True), dict(source="atlas", root="b"))
    with pytest.raises(InputError, match=r"data\.root"):
        sources(Context(config, tmp_path))
    config.data.root = "a"
    context = Context(config, tmp_path)
    assert [source["root"] for source in sources(context)] == ["a", "b"]
    assert str(context.data_root) == "a" and not context.draws


@pytest.mark.parametrize(("variant", "full_size"), [("", True), ("no_full_size", False)])
def test_bestfitting_reads_full_size_images_of_the_root_it_is_given(tmp_path, variant, full_size):
    config = bestfitting.get_config(variant)
    with config.unlocked():
        config.data.root = str(tmp_path)
    (source,) = sources(Context(config, tmp_path))
    assert source == dict(source="kaggle", root=str(tmp_path), full_size=full_size)
