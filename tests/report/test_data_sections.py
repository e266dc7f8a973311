"""Sections on the data: near-duplicates, label errors, adversarial validation, audit."""

import numpy as np
import pandas as pd

from hpa_jax.report import dataset, errors, page
from hpa_jax.report import results as sections
from hpa_jax.report.inputs import Adversarial, LabelErrors
from tests.report.example import CLASSES, data, results


def images(ids):
    """A grey image an id, with as many bright rows as its number says."""
    for id in ids:
        image = np.full((16, 16, 4), 20, np.uint8)
        image[: int(id[1:])] = 200
        yield image


def table(rows):
    """rows: id_a, id_b, source_a, source_b, distance of green, group, conflict."""
    names = ["id_a", "id_b", "source_a", "source_b", "distance_g", "group", "conflict"]
    found = pd.DataFrame(rows, columns=names)
    found["distance_g"] = found["distance_g"].astype("Int16")
    found["distance_r"] = pd.array([3] * len(rows), "Int16")
    found["distance_b"] = pd.array([pd.NA] * len(rows), "Int16")
    known = np.array([None, [0, 2]], object)
    for side in "ab":
        found[f"labels_{side}"] = known[(found[f"source_{side}"] != "test").astype(int)]
    return found.assign(exact=found["distance_g"] == 0)


PAIRS = table(
    [
        ("a1", "a2", "train", "train", 12, 0, False),
        ("a3", "a4", "train", "test", 1, 1, False),
        ("a5", "a6", "external", "test", 2, 2, False),
        ("a7", "a8", "test", "external", 1, 3, True),
        ("a9", "b1", "test", "external", 9, 4, False),
        ("c1", "c2", "train", "train", 0, 5, False),
        ("c1", "c3", "train", "train", 1, 5, False),
    ]
)


def test_pairs_come_in_the_order_in_which_to_check_them():
    ids = dataset.pairs_to_check(PAIRS, 7)["id_a"] + dataset.pairs_to_check(PAIRS, 7)["id_b"]
    # conflict, external with test by distance, train with test, one kept for the largest group
    expected = ["a7a8", "a9b1", "a5a6", "a3a4", "a1a2", "c1c3", "c1c2"]
    assert ids.tolist() == expected
    assert (dataset.pairs_to_check(PAIRS, 4)["id_a"]).tolist() == ["a7", "a9", "a5", "c1"]
    assert len(dataset.pairs_to_check(PAIRS.head(0), 4)) == 0


def test_a_pair_is_one_card_of_two_images(tmp_path):
    section = dataset.duplicates(data(results(), duplicates=PAIRS, images=images, shown=6))
    card = section.cards[0]
    texts = [line.text for line in card.lines]
    assert texts[0] == "bits: R 3, G 1, B –, conflict" and card.lines[0].kind == "bad"
    assert texts[1:] == ["test: labels unknown", "a7", "external: Nucleoplasm, Rods & rings", "a8"]
    assert card.other and card.other != card.cells
    assert "1 of them match" in section.notes[1]
    assert "largest group has 3 images" in section.notes[1]
    page.write(tmp_path / "p.html", "T", "", [section])
    html = (tmp_path / "p.html").read_text()
    assert "&lt;NA&gt;" not in html and html.count('class="pair"') == 3
    assert dataset.duplicates(data(results())).cards == []


def test_label_errors_show_given_and_suggested():
    found = pd.DataFrame(
        {"id": ["a1", "a2"], "trust": [0.1, 0.2], "given": ["0 2", ""], "suggested": ["0", "1"]}
    ).assign(missing="", spurious="", worst_class=CLASSES[2], worst_probability=0.02, evidence=0.8)
    section = errors.label_errors(LabelErrors(found, 50), CLASSES, images, 1)
    assert "2 of 50 validation images" in section.notes[0] and len(section.cards) == 1
    texts = [line.text for line in section.cards[0].lines]
    assert texts[0] == "given: Nucleoplasm, Rods & rings" and texts[1] == "suggested: Nucleoplasm"
    assert texts[2] == "trust 0.100; Rods & rings: score 0.020"
    assert errors.label_errors(LabelErrors(found.head(0), 50), CLASSES, images, 1).cards == []


def test_adversarial_shows_the_images_least_like_test():
    scored = pd.DataFrame({"id": ["a1", "a2", "a3"], "is_test": [True, False, False],
                           "score": [0.05, 0.1, 0.9], "weight": [1.0, 0.1, 2.0],
                           "source": ["test", "train", "train"]})  # fmt: skip
    own = {"auc": 0.7, "auc_low": 0.6, "auc_high": 0.8, "rows": 2}
    summary = own | {"variant": "network", "folds": 2, "labelled": 2, "effective_size": 1.2}
    summary |= {"by_source": {"train": own}, "importances": {"hue": 0.1, "size": 0.6}}

    def section_of(summary):
        made = data(results(), adversarial=Adversarial(summary, scored), images=images, shown=2)
        return dataset.adversarial(made)

    section = section_of(summary)
    assert "images differ" in section.notes[0] and "0.60–0.80" in section.notes[0]
    assert [card.alt for card in section.cards] == ["a2"]
    assert "size 60 %, hue 10 %" in section.feet[1]
    unsure = section_of(summary | {"auc_low": 0.4})
    assert "can't be distinguished" in unsure.notes[0]


def test_classes_of_each_part_stand_side_by_side():
    rng = np.random.default_rng(0)
    parts = {"train": rng.random((50, 3)) < 0.4, "test, predicted": rng.random((20, 3)) < 0.2}
    section = dataset.frequencies(parts, CLASSES)
    assert section.table.groups == [("", 1), ("train, 50", 2), ("test, predicted, 20", 2)]
    count = int(parts["train"][:, 1].sum())
    assert section.table.rows[1][:3] == ["1 Golgi apparatus", str(count), f"{2 * count:.1f} %"]
    assert len(section.figures) == 3


def test_the_audit_part_stands_beside_validation():
    def score(value):
        return {"macro_f1": value, "macro_f1_interval": [value - 0.1, value + 0.1],
                "macro_f1_at_half": value - 0.2, "mean_average_precision": value}  # fmt: skip

    found = {"rows": "9 audit images; nothing was fitted or chosen on them", "chosen": "stack",
             "scores": {"tiny": score(0.5), "stack": score(0.6)}, "submission": score(0.65),
             "classes_without_positives": ["Rods & rings"]}  # fmt: skip
    of = results(audit=found)
    of.valid.scores.update(tiny=score(0.55), stack=score(0.7))
    section = sections.audit(of)
    assert section.table.rows[1] == ["stack", "0.700", "0.600", "0.50–0.70", "0.400", "0.600"]
    assert section.table.chosen == 1 and "Rods & rings" in section.notes[1]
    assert "0.650 (0.55–0.75)" in section.notes[0] and found["rows"] in section.notes[0]
