"""Which code and libraries made a result."""

import sys

import pytest

from hpa_jax.core import provenance
from hpa_jax.pipeline.steps import STEPS


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package: data/threshold.py imports classes.py, steps are not followed."""
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "hpa_jax")
    sources = {
        "data/threshold.py": "def f():\n    from hpa_jax.classes import NAMES\n    return NAMES\n",
        "classes.py": "import numpy\n"
        "from hpa_jax.core import errors\nfrom hpa_jax.models import net\n",
        "models/__init__.py": "",
        "models/net.py": "import hpa_jax.data.threshold\n",
        "core/errors.py": "",
        "pipeline/work.py": "from hpa_jax.report import page\n",
        "report/page.py": "",
    }
    for name, text in sources.items():
        path = tmp_path / "hpa_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    forget()
    yield tmp_path / "hpa_jax"
    forget()


def forget() -> None:
    for name in ("closure", "_imported", "_read"):
        getattr(provenance, name).cache_clear()


def test_code_is_what_the_files_import_but_not_what_a_step_does(package):
    expected = ("classes.py", "data/threshold.py", "models/__init__.py", "models/net.py")
    assert provenance.closure(("data", "pipeline/work.py")) == (*expected, "pipeline/work.py")


def test_an_edit_is_told_and_an_explanation_is_not(package):
    before = provenance.of(("data",))
    text = (package / "classes.py").read_text()
    explained, edited = f'"""Names."""\n# of all\n{text}', f"{text}A = 1\n"
    for new, said in ((explained, ""), (edited, "an older classes.py")):
        (package / "classes.py").write_text(new)
        forget()
        assert provenance.difference(before, provenance.of(("data",))) == said


def test_many_edits_are_counted(package):
    before = provenance.of(("data", "report"))
    for path in package.rglob("*.py"):
        path.write_text(path.read_text() + "B = 1\n")
    forget()
    said = provenance.difference(before, provenance.of(("data", "report")))
    assert said == "an older classes.py, an older threshold.py, 3 more older files"


def test_a_library_counts_where_it_is_imported(package, monkeypatch):
    before = provenance.of(("data",))
    assert set(before["libraries"]) == {"numpy"}
    monkeypatch.setattr(provenance, "version", lambda module: "0.1")
    said = provenance.difference(before, provenance.of(("data",)))
    assert said == f"numpy {before['libraries']['numpy']} (now 0.1)"


def test_of_two_versions_of_a_library_the_imported_one_is_recorded(tmp_path, monkeypatch):
    for folder, version in (("first", "9.9"), ("later", "0.1")):
        about = tmp_path / folder / f"numpy-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: numpy\nVersion: {version}\n")
    (tmp_path / "first" / "broken-1.0.dist-info").mkdir()  # of an interrupted installation
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), *sys.path, str(tmp_path / "later")])
    assert provenance.installed()["numpy"] == "9.9"
    pytest.importorskip("importlib_metadata")  # once imported, it finds the distributions
    assert provenance.installed()["numpy"] == "9.9"


def test_every_file_that_a_task_names_is_there():
    code = {name for step in STEPS.values() for name in step.code}
    assert all((provenance.PACKAGE / name).exists() for name in code)
    closure = provenance.closure(STEPS["train"].code)
    assert {"data/reader.py", "data/encodings.py", "models/registry.py"} <= set(closure)
    assert not any(name.startswith(("report", "decision")) for name in closure)
    made_by = provenance.of(STEPS["train"].code)
    assert {"jax", "optax", "flax"} <= set(made_by["libraries"])
    assert "imagehash" not in made_by["libraries"]  # not imported
