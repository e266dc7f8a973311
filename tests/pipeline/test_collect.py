"""Networks trained elsewhere: what is there decides, what is missing is named, nobody waits."""

import json
import threading

import pytest
from filelock import FileLock

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import checks, collect, retrieve, runner, steps
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context


def recipe():
    config = configs.default().unlock()
    phases = (configs.phase(epochs=1), configs.phase(epochs=2))
    config.models = {name: configs.model(phases=phases) for name in ("a", "b", "c")}
    config.models.c.init_from = "model:b"
    config.ensemble.weights = {"a": 1.0, "b": 2.0}
    return config


def predict(tmp_path, *names, folder="predictions"):
    for name in names:
        for split in ("valid", "test"):
            path = tmp_path / "models" / name / folder / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def test_what_is_there_is_kept_and_what_is_missing_is_described(tmp_path):
    predict(tmp_path, "a", "c")
    log = tmp_path / "models" / "b" / "metrics.jsonl"
    log.parent.mkdir()
    log.write_text("".join(json.dumps({"step": epoch, "epoch": epoch}) + "\n" for epoch in (1, 2)))
    config, missing = collect.present(Context(recipe(), tmp_path))
    assert list(config.models) == ["a", "c"] and dict(config.ensemble.weights) == {"a": 1.0}
    assert missing == {"b": "epoch 2 of 3"}
    assert config.models.c.init_from == ""  # b is not asked for
    log.write_text(log.read_text() + '{"step": 3, "epoch": 3}\n')
    _, missing = collect.present(Context(recipe(), tmp_path))
    assert missing == {"b": "trained, not predicted"}


def test_folds_and_refitted_networks_count_when_all_are_there(tmp_path):
    config = recipe()
    config.split.update(scheme="folds", folds=2)
    predict(tmp_path, "a", "c")
    _, missing = collect.present(Context(config, tmp_path))
    assert missing == {"b": "fold 0: not begun, fold 1: not begun"}
    config = recipe()
    config.refit = True
    predict(tmp_path, "a", folder="refit/predictions")
    found, missing = collect.present(Context(config, tmp_path))
    assert list(found.models) == ["a"] and missing["c"] == "predicted, not refitted"


def test_metric_learning_is_taken_where_it_is_there_and_named_where_it_is_not(tmp_path):
    predict(tmp_path, "a", "b", "c")
    config = recipe()
    config.retrieval.mode = "replace"
    found, missing = collect.present(Context(config, tmp_path))
    assert found.retrieval.mode == "off" and missing == {"retrieval": "not begun"}
    (tmp_path / "retrieval" / "network").mkdir(parents=True)
    (tmp_path / "retrieval" / "network" / "metrics.jsonl").write_text('{"step": 9, "epoch": 7}\n')
    assert collect.present(Context(config, tmp_path))[1] == {"retrieval": "epoch 7 of 50"}
    (tmp_path / "retrieval" / "embeddings").mkdir()
    found, missing = collect.present(Context(config, tmp_path))
    assert found.retrieval.mode == "replace" and missing == {}
    tasks = retrieve.retrieve(Context(found, tmp_path, {"collect": True}))
    assert [task.name for task in tasks] == ["retrieve"]  # nothing is trained


def test_metric_learning_can_be_trained_alone(tmp_path, monkeypatch):
    config, seen = recipe(), []
    monkeypatch.setattr(checks, "before", lambda context, names: None)
    monkeypatch.setattr(checks, "disk", lambda context: None)
    monkeypatch.setattr(steps.Step, "tasks", lambda step, context: seen.append(step) or [])
    runner.run(config, {"workdir": str(tmp_path), "only": "retrieval"})
    assert seen == [steps.STEPS[name] for name in (*runner.PREPARING, "retrieve")]
    with pytest.raises(InputError, match="no such model"):
        Context(config, tmp_path, {"only": "retrieval"}).models()
    config.retrieval.mode = "boost"
    alone = Context(config, tmp_path, {"only": "retrieval"})
    assert alone.models() == {} and alone.trains_retrieval
    assert not Context(config, tmp_path, {"only": "a"}).trains_retrieval
    config.models.retrieval = configs.model()
    with pytest.raises(InputError, match="metric learning"):
        validation.validate(config)


def test_nothing_to_collect_and_a_chosen_model_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"a \(not begun\), b"):
        collect.present(Context(recipe(), tmp_path))
    predict(tmp_path, "a")
    config = recipe()
    config.submission.method = "b"
    with pytest.raises(InputError, match=r"submission\.method"):
        collect.present(Context(config, tmp_path))


@pytest.fixture
def phases(monkeypatch, tmp_path):
    """Two networks whose training is a line in a list; nothing is forecast."""
    done = []

    def train(context):
        return [
            Task("train", f"train-{name}", lambda name=name: done.append(name) or "", {}, (),
                 (context.path("models", name, "checkpoints"),))
            for name in context.models()
        ]  # fmt: skip

    monkeypatch.setattr("hpa_jax.pipeline.train.train", train)
    monkeypatch.setattr(checks, "before", lambda context, names: None)
    monkeypatch.setattr(checks, "print_training_time", lambda context: None)
    return done


def test_one_network_does_not_wait_for_the_workdir(phases, tmp_path):
    flags = {"workdir": str(tmp_path), "only": "a"}
    with FileLock(tmp_path / ".lock"), pytest.raises(InputError, match="another run is at work"):
        runner.run(recipe(), {**flags, "only": None}, ["train"])
    assert phases == []
    with FileLock(tmp_path / ".lock"):
        assert runner.run(recipe(), flags, ["train"]) == 0
    assert phases == ["a"]


def test_a_network_that_another_run_trains_is_waited_for_and_that_is_said(phases, tmp_path, capsys):
    (tmp_path / "models" / "a").mkdir(parents=True)
    lock = FileLock(tmp_path / "models" / "a" / ".lock")
    lock.acquire()
    flags = {"workdir": str(tmp_path), "only": "a"}
    thread = threading.Thread(target=runner.run, args=(recipe(), flags, ["train"]))
    thread.start()
    thread.join(timeout=0.5)
    waited = thread.is_alive() and phases == []
    lock.release()
    thread.join(timeout=10)
    assert waited and phases == ["a"]
    assert (
        f"waiting: another run is at work in {tmp_path / 'models' / 'a'}" in capsys.readouterr().out
    )
