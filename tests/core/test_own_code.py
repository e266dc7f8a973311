"""Code of the user's own: found in a config, run once, counted by its content."""

import pytest

from hpa_jax.core import own_code
from hpa_jax.core.errors import InputError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def double(x):\n    return 2 * x\n\nvalue = 3\n")
    return path


def test_a_reference_is_a_file_and_a_function(file):
    assert own_code.is_reference(f"{file}:double") and own_code.is_reference("a b.py:f")
    for text in ("resnet18", "hpa_jax.core:near", "a.py", "a.py:", "a.py:1f", 3, None):
        assert not own_code.is_reference(text)
    assert own_code.load(f"{file}:double")(4) == 8


def test_an_edited_file_is_read_anew(file):
    assert own_code.load(f"{file}:double")(4) == 8
    file.write_text("def double(x):\n    return 20 * x\n")
    assert own_code.load(f"{file}:double")(4) == 80


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.py:duble", "did you mean|double"),
        ("mine.py:value", "no function"),
        ("gone.py:f", "No such file"),
    ],
)
def test_what_is_missing_is_named(file, name, words):
    with pytest.raises(InputError, match=words):
        own_code.load(f"{file.parent}/{name}")


def test_a_file_that_fails_says_how(file):
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        own_code.load(f"{file}:double")


def test_content_counts_and_place_does_not(file, tmp_path):
    (tmp_path / "moved").mkdir()
    copy = tmp_path / "moved" / "mine.py"
    copy.write_text(file.read_text())

    def of(path):
        return own_code.by_content({"loss": {"own": {"function": f"{path}:double"}}, "n": (1,)})

    assert of(file) == of(copy) and of(file)["n"] == (1,)
    before = of(file)
    file.write_text(file.read_text() + "# more\n")
    assert of(file) != before
    plain = {"loss": {"focal": 1.0}}
    assert own_code.by_content(plain) is plain


def test_texts_hold_what_was_run(file):
    found = own_code.texts(
        {"models": {"a": {"augment": f"{file}:double"}}, "b": [f"{file}:double"]}
    )
    assert list(found) == [f"{file}:double"] and "return 2 * x" in found[f"{file}:double"]["text"]


def test_code_of_others_is_refused(file):
    with pytest.raises(InputError, match=r"the model names code to run, .*; do this"):
        own_code.refuse({"backbone": f"{file}:double"}, "the model", "do this")
    own_code.refuse({"backbone": "resnet18"}, "the model", "do this")
