"""The geometry of drawn cells, as the patterns rely on it."""

import numpy as np
import pytest

from hpa_jax.data.synthetic import cells, stains


@pytest.fixture(scope="module")
def fields():
    return [cells.draw_field(np.random.default_rng(seed), 96) for seed in range(8)]


def test_the_same_generator_gives_the_same_field(fields):
    again = cells.draw_field(np.random.default_rng(3), 96)
    for name in ("owner", "nucleus", "edge", "envelope", "tubules"):
        assert np.array_equal(getattr(again, name), getattr(fields[3], name))


def test_every_image_has_cell_nucleus_and_nucleolus(fields):
    for field in fields:
        assert (field.owner >= 0).mean() > 0.1
        assert field.nucleus.max() == 1
    assert np.mean([field.nucleolus.max() > 0.5 for field in fields]) > 0.8


def test_maps_agree_with_each_other(fields):
    for field in fields:
        glass = field.owner < 0
        assert not field.edge[glass].any() and not field.nucleus[glass].any()
        assert (field.envelope[field.nucleus > 0.9] < 0).all()
        assert (field.nucleus[field.envelope > 1.5] == 0).all()
        assert (field.nucleus[field.nucleolus > 0.3] > 0.5).all()
        assert field.owner.max() < len(field.center)


def test_scale_follows_the_width_asked_for():
    field = cells.draw_field(np.random.default_rng(0), 64, width=(40.0, 40.0))
    assert field.scale == pytest.approx(1.6)


def test_contact_lies_between_two_cells(fields):
    field = cells.draw_field(np.random.default_rng(1), 96, contact=True)
    assert field.contact.any()
    y, x = np.argwhere(field.contact)[0]
    reach = int(np.ceil(field.scale)) + 2
    around = field.owner[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    assert len(set(around[around >= 0])) > 1


def test_divisions_are_in_sight_when_asked_for():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        field = cells.draw_field(rng, 64, mitosis=True, bridge=True)
        dividing = field.center[field.kind == cells.METAPHASE]
        assert len(dividing) and (dividing > 0).all() and (dividing < 64).all()
        bridge = field.bridge[field.kind == cells.DAUGHTER]
        assert len(bridge) == 2 and (bridge > 0).all() and (bridge < 64).all()


def test_microtubules_stay_in_their_cell(fields):
    for field in fields:
        steps, number = np.nonzero(field.tubule_ink > 0)
        place = np.rint(field.tubules[steps, number]).astype(int)
        seen = ((place >= 0) & (place < 96)).all(1)
        owner = field.owner[place[seen][:, 0], place[seen][:, 1]]
        assert np.array_equal(owner, field.tubule_cell[number[seen]])


def test_stains_lie_where_they_belong(fields):
    for seed, field in enumerate(fields):
        red, blue, yellow = stains.draw(np.random.default_rng(seed), field)
        inside, glass = field.nucleus > 0.9, field.owner < 0
        assert blue[inside].mean() > 10 * blue[~inside].mean()
        # On glass there is at most the soft edge of what lies beside it.
        assert red[glass].mean() < 0.2 * red[~glass].mean()
        assert (
            yellow[inside].mean() < 0.5 * yellow[(field.owner >= 0) & (field.nucleus == 0)].mean()
        )
