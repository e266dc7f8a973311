"""Each section tells what its arrays hold: texts are read back from the finished section."""

import base64
import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, precision_recall_curve

from hpa_jax.decision import leak
from hpa_jax.report import dataset, errors, training
from hpa_jax.report import results as sections
from hpa_jax.report.inputs import ChainStep, Examples, Leak, Neighbours
from hpa_jax.report.page import span
from tests.report.example import CLASSES, data, noise, results


def svg(section, number=0):
    kind, data = section.figures[number].uri.split(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def evaluation(submitted=0.9):
    score = {"macro_f1": submitted, "macro_f1_interval": [0.8, 0.95]}
    score["macro_f1_classes_present"] = submitted
    return {"submission": score, "leak_off": {"macro_f1": 0.7}, "leak_on": {"macro_f1": 0.9}}


def row_of(section, name):
    return next(row for row in section.table.rows if row[0].endswith(name))


def test_result_shows_every_method_on_both_sets_of_rows():
    weights = {"weighted mean": {"tiny": 0.25, "wide": 0.75}}
    found = results(evaluation=evaluation(), blend_weights=weights)
    section = sections.methods(found)
    assert "Weights of the weighted mean: tiny 0.25, wide 0.75." in section.feet
    assert [row[0] for row in section.table.rows] == ["tiny", "stack"]
    assert section.table.rows[section.table.chosen][0] == "stack"
    row = row_of(section, "tiny")
    assert row[2] == f"{found.valid.scores['tiny']['macro_f1']:.3f}"
    low, high = found.test.scores["tiny"]["macro_f1_interval"]
    assert row[7] == f"{low:.2f}–{high:.2f}"
    assert any("0.900 (0.80–0.95) on the true test labels" in note for note in section.notes)
    assert found.valid.note in section.feet[2] and found.test.note in section.feet[3]
    assert {"tiny", "stack"} <= set(svg(section).replace("<", ">").split(">"))


def test_a_method_says_what_its_networks_have_seen():
    found = results()
    found.valid.scores["tiny"]["seen"] = "in sample; random weights"
    found.test.scores["tiny"]["seen"] = "random weights"
    names = [row[0] for row in sections.methods(found).table.rows]
    assert names == ["tiny (in sample; random weights)", "stack"]


@pytest.mark.parametrize(("stack", "word"), [(0.9, "beats"), (0.1, "does not beat")])
def test_result_says_whether_the_stack_paid(stack, word):
    found = results(evaluation=evaluation())
    found.test.scores["stack"]["macro_f1"] = stack
    section = sections.methods(found)
    assert "on validation: 0.512; each fold" in section.notes[0]
    assert f"the stack ({stack:.3f}) {word} the best other method, tiny" in section.notes[-1]


def test_without_truth_there_is_no_test_column():
    found = results(test=False)
    section = sections.methods(found)
    assert len(section.table.rows[0]) == 5 and "unknown" in section.notes[1]
    assert len(sections.classes(data(found)).table.rows[0]) == 9
    others = (sections.curves(found), sections.calibration(found), errors.confusions(found))
    for other in others:
        assert "test" not in svg(other)


def test_classes_state_support_scores_and_thresholds():
    found = results()
    section = sections.classes(data(found))
    row = row_of(section, "Golgi apparatus")
    valid = found.valid
    f1 = f1_score(valid.labels[:, 1], valid.decided["stack"][:, 1])
    assert row[1] == "1,234" and row[2] == str(valid.labels[:, 1].sum())
    assert row[4] == f"{f1:.3f}" and row[6:8] == ["0.500", span((0.3, 0.7), 3)]
    absent = row_of(section, "Rods & rings")
    assert absent[3:] == ["–"] * 6 + ["0"] + ["–"] * 3
    assert any("validation, so never predicted: Rods & rings" in note for note in section.notes)
    assert "Rods" not in svg(section)
    assert sum(count for _, count in section.table.groups) == len(section.table.columns)


def test_curve_points_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(200) < 0.3, np.round(rng.random(200), 1)
    recall, precision = sections.curve_points(labels, scores)
    expected = precision_recall_curve(labels, scores)
    np.testing.assert_allclose(precision, expected[0][-2::-1])
    np.testing.assert_allclose(recall, expected[1][-2::-1])


def test_every_class_has_a_panel():
    text = svg(sections.curves(results()))
    assert "Nucleoplasm" in text and "Rods &amp; rings" in text and "– | –" in text


def test_calibration_error_is_that_of_the_rows():
    found = results()
    sure = np.where(found.valid.labels, 1.0, 0.0)
    found.valid.probs["tiny"] = sure
    found.valid.probs["stack"] = np.where(found.valid.labels, 0.8, 0.2)
    section = sections.calibration(found)
    assert row_of(section, "tiny")[1:4] == ["0.0 %", "0.0 %", "+0.0 %"]
    assert row_of(section, "stack")[1] == "20.0 %"


def test_confusions_name_pairs_and_counts():
    found = results(test=False)
    labels, decided = found.valid.labels, found.valid.decided["stack"]
    labels[:], decided[:] = False, False
    labels[:6, 1] = True
    decided[:3, 0] = True  # Golgi was missed, Nucleoplasm predicted
    section = errors.confusions(found)
    assert section.table.rows == [["Golgi apparatus", "Nucleoplasm", "3", "50 %"]]


def test_mistakes_show_the_worst_images_first():
    found = results(test=False)
    valid = found.valid
    valid.labels[7], valid.decided["stack"][7] = [True, False, False], False
    valid.probs["stack"][7] = [1e-6, 0.1, 0.1]
    asked = []

    def images(ids):
        asked.append(list(ids))
        return iter(np.zeros((len(ids), 8, 8, 4), np.uint8))

    missed, wrong = errors.largest(data(found, images=images))
    assert len(missed.cards) == 5 and asked[0][0] == missed.cards[0].alt == "validation7"
    texts = [line.text for line in missed.cards[0].lines]
    assert texts[0] == "missed: Nucleoplasm" and texts[3] == "predicted: none"
    assert texts[1] == "score 0.000, threshold 0.450, loss 13.8"
    assert all(card.lines[0].text.startswith("false positive: ") for card in wrong.cards)
    for card in wrong.cards:
        row = list(valid.ids).index(card.alt)
        assert (valid.decided["stack"][row] & ~valid.labels[row]).any()


def test_steps_measure_change_on_paired_rows():
    found = results()
    worse = {part.name: ~part.labels for part in found.parts}
    right = {part.name: part.labels for part in found.parts}
    chain = [
        ChainStep("all wrong", worse, right),
        ChainStep("all right", right, {}),
        ChainStep("leak", {"test": right["test"]}, {}),
    ]
    found = dataclasses.replace(found, chain=chain, chain_note="a remark")
    section = sections.steps(found)
    first, second, third = section.table.rows
    present = f1_score(found.valid.labels, right["validation"], average="macro", zero_division=0)
    assert first[:5] == ["all wrong", "0.000", "0.00–0.00", "–", "–"]
    assert first[5] == second[1] == f"{present:.3f}" and second[3] == f"{present:+.3f}"
    assert third[1:6] == ["–"] * 5 and third[8:10] == ["+0.000", "+0.000 to +0.000"]
    assert "a remark" in section.notes


def test_importance_sums_gain_by_kind_and_names_columns():
    gains = {1: {"own/mean": 0.5, "meta/green_mean": 0.3, "mean/p00": 0.15, "tiny/p01": 0.05}}
    section = sections.importance(gains, CLASSES)
    (row,) = section.table.rows
    assert row[1].startswith("same class (mean of networks) 50 %; green mean 30 %; Nucleoplasm (m")
    assert [sections.feature_kind(name) for name in gains[1]] == [0, 2, 1, 0]
    assert "Nucleoplasm, Rods & rings" in section.notes[-1]
    assert "No class has trees" in sections.importance({}, CLASSES).notes[0]


def test_cost_lists_tasks_with_their_share():
    section = training.cost({"data": 10.0, "train-a": 60.0, "train-b": 30.0})
    assert section.table.rows == [
        ["data", "10 s", "10.0 %"],
        ["train-a", "1 min 0 s", "60.0 %"],
        ["train-b", "30 s", "30.0 %"],
        ["all", "1 min 40 s", "100.0 %"],
    ]
    assert "1 min 30 s, 90.0 %" in svg(section)
    assert training.duration(0.44) == "0.4 s" and training.duration(11_000) == "3 h 3 min"


def test_leak_lists_sources_that_disagree_with_the_one_used():
    rows = [("t1", [0], "a", 1.0, "matches"), ("t2", [1], "", 0.0, "known.csv")]
    overlay = pd.DataFrame(rows, columns=leak.COLUMNS)
    conflicts = pd.DataFrame([("t1", ["1"], "b", 5.0, "matches")], columns=leak.COLUMNS)
    tests = [f"t{number}" for number in range(10)]
    truth = {name: np.array([True, False, False]) for name in tests}
    section = dataset.leak(Leak(overlay, conflicts, tests, True), CLASSES, truth)
    assert section.table.rows == [["t1", "a", "Nucleoplasm", "1", "b", "Golgi apparatus", "5"]]
    assert "2 of 10 (20.0 %); they replace" in section.notes[0]
    assert "for 1 of 2" in section.notes[1]
    agree = dataset.leak(Leak(overlay, conflicts.iloc[:0], tests, False), CLASSES, None)
    assert agree.table is None and "No conflicts" in agree.notes[-1] and "off" in agree.notes[0]


def test_neighbours_shows_the_nearest_pairs_first_and_how_many_are_right():
    found = results()
    x, y, z = (str(id) for id in found.test.ids[:3])
    found.test.labels[:3] = [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    pairs = pd.DataFrame(
        {"id": [x, y, z], "neighbour": ["a", "b", None], "similarity": [0.7, 0.9, -np.inf]}
    )
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    scored = {
        "tau": 0.65,
        "recall_at_1": {"recall": 0.25, "queries": 8, "chance": 0.125},
        "validation": [{"tau": 0.65, "taken": 0.5, "same": 0.75, "jaccard": float("nan")}],
    }
    seen = []

    def images(ids):
        seen.extend(ids)
        return iter(np.zeros((len(ids), 4, 4, 4), np.uint8))

    near = Neighbours(pairs, labels, scored)
    section = dataset.neighbours(data(found, neighbours=near, images=images, shown=20))
    assert seen == [y, "b", x, "a"]
    assert section.notes[0].startswith("For 2 of 3 test images")
    assert "0.250 on 8 hold-out images; chance level 0.125" in section.notes[1]
    assert section.notes[2].endswith("for 1 of 2.")
    assert section.table.rows == [["0.65", "50.0 %", "0.750", "–"]] and section.table.chosen == 0
    texts = [line.text for line in section.cards[0].lines]
    wanted = ["pair 1, cosine 0.90", "truth: none", y, f"neighbour: {CLASSES[1]}", "b"]
    assert texts == wanted and section.cards[0].other
    assert dataset.neighbours(data(found)) is None


def test_an_example_says_what_its_predicted_classes_are_worth():
    listed = pd.DataFrame(
        [
            ("t1", "b", True, 0.8, 0.4, 0.93, 0.71, 45),
            ("t1", "a", False, 0.2, 0.4, 0.11, 0.5, 9),
            ("t2", "a", True, 0.3, np.nan, 0.2, np.nan, 0),
        ],
        columns=["id", "class", "predicted", "score", "threshold", "probability", "f1", "support"],
    )
    ids, decided = np.array(["t1", "t2"]), np.array([[False, True, False], [True, False, False]])
    shown = Examples(ids, decided, None, listed)
    section = errors.examples(shown, CLASSES, noise)
    lines = [[line.text for line in card.lines] for card in section.cards]
    assert lines[0][1:] == ["b: score 0.80, threshold 0.40, probability 0.93; F1 0.71 on 45"]
    assert lines[1][1:] == ["a: score 0.30, threshold –, probability 0.20; F1 – on 0"]
    assert "calibrated" in section.notes[-1]
    plain = errors.examples(dataclasses.replace(shown, by_class=None), CLASSES, noise)
    assert [len(card.lines) for card in plain.cards] == [1, 1]
