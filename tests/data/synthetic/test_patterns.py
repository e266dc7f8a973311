"""Each compartment's pattern lies where a biologist looks for it, and brightness tells nothing."""

import numpy as np
import pytest

from hpa_jax.core import classes
from hpa_jax.data.synthetic import camera, cells, patterns

SIDE = 96
INSIDE = (
    "Nucleoplasm",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
)
OUTSIDE = (
    "Endoplasmic reticulum", "Peroxisomes", "Endosomes", "Lysosomes", "Focal adhesion sites",
    "Lipid droplets", "Plasma membrane", "Mitochondria", "Cytosol", "Cytoplasmic bodies",
)  # fmt: skip


def drawn(name, seeds=range(6), **asked):
    """(field, pattern) of a class by its name, for some seeds."""
    label = classes.NAMES.index(name)
    out = []
    for seed in seeds:
        field = cells.draw_field(np.random.default_rng([seed, 77]), SIDE, **asked)
        out.append((field, patterns.PATTERNS[label](np.random.default_rng([seed, label]), field)))
    return out


def share(pictures, mask):
    """Share of the light above a tenth of the peak that falls into mask(field)."""
    parts = []
    for field, green in pictures:
        light = np.clip(green - 0.3 * green.max(), 0, None)
        if light.sum() > 0:
            parts.append((light * mask(field)).sum() / light.sum())
    return np.mean(parts)


def test_one_pattern_a_class():
    assert len(patterns.PATTERNS) == len(classes.NAMES) == len(set(patterns.PATTERNS))


@pytest.mark.parametrize("label", range(len(classes.NAMES)), ids=classes.NAMES)
def test_pattern_is_finite_visible_and_in_range(label):
    pictures = drawn(
        classes.NAMES[label], mitosis=label == 17, bridge=label == 16, contact=label == 22
    )
    for _, green in pictures:
        assert green.shape == (SIDE, SIDE) and np.isfinite(green).all()
        assert green.min() >= -1e-6 and green.max() < 3
    assert np.median([green.max() for _, green in pictures]) > 0.4


@pytest.mark.parametrize("name", INSIDE)
def test_nuclear_patterns_lie_in_nuclei(name):
    assert share(drawn(name), lambda field: field.nucleus) > 0.85


@pytest.mark.parametrize("name", OUTSIDE)
def test_other_patterns_avoid_nuclei(name):
    assert share(drawn(name), lambda field: 1 - field.nucleus) > 0.85


def test_nucleoli_are_where_nucleoplasm_is_not():
    nucleoli = share(drawn("Nucleoli"), lambda field: field.nucleolus)
    plasm = share(drawn("Nucleoplasm"), lambda field: field.nucleolus)
    assert nucleoli > 0.7 and plasm < 0.25


def test_the_nuclear_membrane_is_a_ring():
    ring = share(drawn("Nuclear membrane"), lambda field: np.abs(field.envelope) < 1.2)
    assert ring > 0.7


def test_membrane_and_adhesions_lie_at_the_rim():
    for name, reach in (("Plasma membrane", 1.5), ("Focal adhesion sites", 4.5)):
        assert share(drawn(name), lambda field, reach=reach: field.edge < reach) > 0.8


def test_junctions_need_a_neighbour():
    near = share(drawn("Cell junctions", contact=True), lambda field: field.contact)
    assert near > 0.8


@pytest.mark.parametrize("name, reach", [("Golgi apparatus", 9), ("Centrosome", 5),
                                         ("Microtubule organizing center", 6)])  # fmt: skip
def test_perinuclear_patterns_gather_at_the_organizing_centre(name, reach):
    def near(field):
        y, x = np.mgrid[:SIDE, :SIDE]
        distances = [np.hypot(y - cy, x - cx) for cy, cx in field.organizer]
        return np.min(distances, axis=0) < reach * field.scale

    assert share(drawn(name), near) > 0.8


def test_microtubules_in_green_follow_the_red_stain():
    from hpa_jax.data.synthetic import stains

    for seed, (field, green) in enumerate(drawn("Microtubules")):
        red, _, _ = stains.draw(np.random.default_rng(seed), field)
        assert np.corrcoef(red.ravel(), green.ravel())[0, 1] > 0.8


def test_spindle_and_bridge_need_cells_in_division():
    spindle = share(
        drawn("Mitotic spindle", mitosis=True),
        lambda field: np.append(field.kind == cells.METAPHASE, False)[field.owner],
    )
    assert spindle > 0.95

    def near_bridge(field):
        y, x = np.mgrid[:SIDE, :SIDE]
        middle = field.bridge[field.kind == cells.DAUGHTER][0]
        return np.hypot(y - middle[0], x - middle[1]) < 5 * field.scale

    assert share(drawn("Cytokinetic bridge", bridge=True), near_bridge) > 0.6


def test_a_image_holds_the_patterns_of_all_its_labels():
    field = cells.draw_field(np.random.default_rng(0), SIDE)
    green = patterns.draw(np.random.default_rng(1), field, (0, 25))
    assert green[field.nucleus > 0.9].mean() > 0.2
    assert green[(field.cytoplasm > 0.9) & (field.edge > 2)].mean() > 0.2


def test_images_are_the_same_for_the_same_seed_and_yellow_can_be_missing():
    one = camera.photograph((3, 1), (7,), 64)
    assert one.dtype == np.uint8 and one.shape == (64, 64, 4)
    assert np.array_equal(one, camera.photograph((3, 1), (7,), 64))
    assert not np.array_equal(one, camera.photograph((3, 2), (7,), 64))
    blank = camera.photograph((3, 1), (7,), 64, missing=1.0)
    assert not blank[..., 3].any() and np.array_equal(blank[..., :3], one[..., :3])


@pytest.mark.parametrize("kind", camera.COPIES)
def test_copies_are_other_bytes_of_the_same_image(kind):
    one = camera.photograph((5,), (25, 0), 64)
    copy = camera.copy_of(one, kind, np.random.default_rng(0))
    assert copy.dtype == np.uint8 and copy.shape == one.shape
    assert np.array_equal(copy, one) == (kind == "exact")
    for k in range(4):
        assert np.corrcoef(copy[..., k].ravel(), one[..., k].ravel())[0, 1] > 0.97
