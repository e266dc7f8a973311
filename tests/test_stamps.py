from pathlib import Path

import pytest

from hpa_jax import stamps


def task(tmp_path: Path, settings=1, resume="never") -> stamps.Task:
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"

    def work() -> str:
        target.write_text(source.read_text())
        return "copied"

    inputs, outputs = (source,), (target,)
    return stamps.Task("copy", "copy", work, settings, inputs, outputs, ("errors.py",), resume)


def finish(tmp_path: Path, one: stamps.Task) -> None:
    key = stamps.key(one)
    stamps.begin(tmp_path, one, key)
    one.work()
    stamps.finish(tmp_path, one, key, 0.1)


def done(tmp_path: Path, one: stamps.Task) -> bool:
    return stamps.is_done(tmp_path, one, stamps.key(one))


def test_done_until_input_settings_or_output_change(tmp_path):
    (tmp_path / "in.txt").write_text("a")
    one = task(tmp_path)
    assert not done(tmp_path, one)
    finish(tmp_path, one)
    assert done(tmp_path, one)
    assert not done(tmp_path, task(tmp_path, settings=2))
    (tmp_path / "in.txt").write_text("b")
    assert not done(tmp_path, one)
    (tmp_path / "in.txt").write_text("a")
    assert done(tmp_path, one)  # by content, not by time
    (tmp_path / "out.txt").write_text("tampered")
    assert not done(tmp_path, one)


def test_begin_removes_what_another_run_left_but_keeps_its_own_part(tmp_path):
    (tmp_path / "in.txt").write_text("a")
    one = task(tmp_path, resume="same")
    stamps.begin(tmp_path, one, stamps.key(one))
    (tmp_path / "out.txt").write_text("part")
    stamps.begin(tmp_path, one, stamps.key(one))
    assert (tmp_path / "out.txt").is_file()
    other = task(tmp_path, settings=2, resume="same")
    stamps.begin(tmp_path, other, stamps.key(other))
    assert not (tmp_path / "out.txt").exists()


def test_folders_count_by_names_sizes_and_small_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = stamps.content(tmp_path / "a")
    (tmp_path / "a" / "x").write_text("2")
    assert stamps.content(tmp_path / "a") != first
    (tmp_path / "a" / "x").write_text("1")
    assert stamps.content(tmp_path / "a") == first
    assert stamps.content(tmp_path / "nothing") == "absent"


def test_libraries_that_fit_the_stack_count(tmp_path, monkeypatch):
    """Another XGBoost or SciPy gives other votes: nothing fitted with the old one holds."""
    (tmp_path / "in.txt").write_text("a")
    found = stamps._libraries()
    assert "scipy" in found and {"xgboost", "xgboost-cpu"} & set(found)
    before = stamps.key(task(tmp_path))
    monkeypatch.setattr(stamps, "_libraries", lambda: {**found, "scipy": "0.0"})
    assert stamps.key(task(tmp_path)) != before


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package: stages/work.py names the room data, whose file imports classes.py."""
    monkeypatch.setattr(stamps, "PACKAGE", tmp_path / "hpa_jax")
    sources = {
        "data/cut.py": "def cut():\n    from hpa_jax.classes import NAMES\n    return NAMES\n",
        "classes.py": "from hpa_jax import errors\nfrom hpa_jax.models import net\nNAMES = 3\n",
        "models/__init__.py": "",
        "models/net.py": "import hpa_jax.data.cut\n",
        "errors.py": "",
        "stages/work.py": "from hpa_jax.report import page\n",
        "report/page.py": "",
    }
    for name, text in sources.items():
        path = tmp_path / "hpa_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield tmp_path / "hpa_jax"
    forget()


def forget() -> None:
    for kept in (stamps.closure, stamps._imported, stamps._parsed, stamps._code):
        kept.cache_clear()


def test_code_is_what_the_rooms_import_but_not_what_a_stage_does(package):
    expected = ("classes.py", "data/cut.py", "models/__init__.py", "models/net.py")
    assert stamps.closure(("data", "stages/work.py")) == (*expected, "stages/work.py")


def test_code_that_a_room_imports_counts_and_its_explanations_do_not(package, tmp_path):
    (tmp_path / "in.txt").write_text("a")
    one = task(tmp_path)
    one = stamps.Task(**{**one.__dict__, "code": ("data",)})
    before = stamps.key(one)
    text = (package / "classes.py").read_text()
    for new, same in (
        (f'"""Names."""\n# of all\n{text}', True),
        (text.replace("3", "4"), False),
    ):
        (package / "classes.py").write_text(new)
        forget()
        assert (stamps.key(one) == before) is same


def test_every_file_that_a_task_names_is_there():
    from hpa_jax.stages import decide, finish, networks, retrieval

    rooms = {*decide.ROOMS, *finish.ROOMS, *networks.TRAIN_ROOMS, *retrieval.ROOMS}
    assert all((stamps.PACKAGE / room).exists() for room in rooms)
    closure = stamps.closure(networks.TRAIN_ROOMS)
    assert {"data/pictures.py", "data/encodings.py", "models/factory.py"} <= set(closure)
    assert not any(name.startswith(("report", "decision")) for name in closure)
