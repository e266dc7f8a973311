"""The matcher finds what brute force finds; flat channels prove nothing; groups are closed."""

import imagehash
import networkx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpa_jax.core.errors import InputError
from hpa_jax.data import duplicates, hashes
from hpa_jax.data.problems import Problems
from hpa_jax.data.reader import read_channel


def cells(rng, side=64):
    """An image with structure: blobs on a dark ground, uint8 [side, side]."""
    y, x = np.mgrid[:side, :side] / side
    picture = np.zeros((side, side))
    for _ in range(8):
        cy, cx, size, height = rng.random(4) * [1, 1, 0.15, 200] + [0, 0, 0.05, 40]
        picture += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / size**2)
    return picture.clip(0, 255).astype(np.uint8)


def brute(hashes, radius):
    found = []
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            distances = [(int(a) ^ int(b)).bit_count() for a, b in zip(hashes[i], hashes[j])]
            if max(distances) <= radius:
                found.append((i, j, *distances))
    return found


def as_rows(result):
    pairs, distances = result
    return [(*map(int, pair), *map(int, row)) for pair, row in zip(pairs, distances)]


def flipped(rng, value, bits):
    for bit in rng.choice(64, bits, replace=False):
        value ^= np.uint64(1) << np.uint64(bit)
    return value


def hard_set(rng, n, channels=3):
    """Random hashes, exact copies, and pairs at distance 11, 12 and 13 in single channels."""
    hashes = rng.integers(0, 2**64, (n, channels), dtype=np.uint64)
    for row in range(0, n - 1, 3):
        hashes[row + 1] = hashes[row]
        for k in range(channels):
            hashes[row + 1, k] = flipped(rng, hashes[row, k], int(rng.choice([0, 0, 11, 12, 13])))
    return rng.permutation(hashes)


@pytest.mark.parametrize("radius", [0, 12, 13])
def test_match_is_brute_force_on_few_rows(radius):
    hashes = hard_set(np.random.default_rng(1), 90)
    expected = brute(hashes, radius)
    assert as_rows(duplicates.match(hashes, radius)) == expected
    assert radius == 0 or len(expected) >= 5


@pytest.mark.parametrize("kind", ["random", "one ball", "zeros and ones"])
def test_match_on_the_device_is_match_in_numpy(kind, monkeypatch):
    rng = np.random.default_rng(2)
    n = 2500  # over two blocks of rows and a padded block of columns
    if kind == "random":
        hashes = hard_set(rng, n)
    elif kind == "one ball":  # every hash is near the same one: distances straddle the radius
        centre = rng.integers(0, 2**64, dtype=np.uint64)
        hashes = np.array([[flipped(rng, centre, 8) for _ in range(2)] for _ in range(n)])
    else:
        hashes = np.where(rng.random((n, 1)) < 0.3, 0, 2**64 - 1).astype(np.uint64)
        hashes[::2] = rng.integers(0, 2**64, hashes[::2].shape, dtype=np.uint64)
    result = as_rows(duplicates.match(hashes, 12))
    monkeypatch.setattr(duplicates, "_SMALL", n)
    assert result == as_rows(duplicates.match(hashes, 12))
    assert result


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=12),
    st.integers(0, 64),
)
def test_match_of_any_hashes(rows, radius):
    hashes = np.array(rows, np.uint64).reshape(-1, 2)
    assert as_rows(duplicates.match(hashes, radius)) == brute(hashes, radius)


def test_match_refuses_what_is_no_hash():
    with pytest.raises(InputError, match="uint64"):
        duplicates.match(np.zeros((3, 2), np.int64))
    with pytest.raises(InputError, match="radius"):
        duplicates.match(np.zeros((3, 2), np.uint64), 65)


def test_match_refuses_to_list_everything(monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 1000)
    with pytest.raises(InputError, match="same image"):
        duplicates.match(np.zeros((100, 3), np.uint64))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=12))
def test_groups_are_connected_components(pairs):
    graph = networkx.Graph()
    graph.add_nodes_from(range(15))
    graph.add_edges_from(pairs)
    numbers = duplicates.groups(15, np.array(pairs, int).reshape(-1, 2))
    for component in networkx.connected_components(graph):
        assert len({numbers[row] for row in component}) == 1
    assert len(set(numbers)) == networkx.number_connected_components(graph)


@pytest.fixture
def catalog(tmp_path):
    """Pictures a, b different; a2 a copy of a (JPEG, brighter); black and flat channels."""
    rng = np.random.default_rng(3)
    a, b, c = ([cells(rng) for _ in range(3)] for _ in range(3))
    black, grey = np.zeros((64, 64), np.uint8), np.full((64, 64), 90, np.uint8)
    jpeg = [(channel * 0.9).astype(np.uint8) for channel in a]
    sets = {
        "a": a,
        "a2": jpeg,
        "b": b,
        "black1": [black, black, black],
        "black2": [black, black, black],
        "flat": [grey, grey, grey],
        "green1": [black, c[1], black],  # one channel speaks: no evidence but equal pixels
        "green2": [black, c[1], black],
        "green3": [black, (c[1] * 0.95).astype(np.uint8), black],
        "two1": [c[0], c[1], black],
        "two2": [(c[0] * 0.95).astype(np.uint8), c[1], black],
        "three": [c[0], c[1], c[2]],  # blue speaks here only: another image
    }
    rows = []
    for name, channels in sets.items():
        row = {"id": name, "source": "test" if name in {"a2", "two1"} else "train"}
        for colour, channel in zip(duplicates.CHANNELS, channels):
            path = tmp_path / f"{name}_{colour}.{'jpg' if name == 'a2' else 'png'}"
            Image.fromarray(channel).save(path, **({"quality": 90} if name == "a2" else {}))
            row[colour] = str(path)
        row["labels"] = None if row["source"] == "test" else [1, 3]
        rows.append(row)
    return pd.DataFrame(rows)


def named(pairs):
    return {tuple(sorted(pair)) for pair in zip(pairs["id_a"], pairs["id_b"])}


def test_copies_match_and_flat_channels_prove_nothing(catalog):
    pairs, groups = duplicates.hash_catalog(catalog, radius=12, progress=False)
    assert named(pairs) == {("a", "a2"), ("green1", "green2"), ("two1", "two2")}
    group = groups.set_index("id")["group"]
    assert group["a"] == group["a2"] != group["b"]
    assert group["black1"] != group["black2"]
    two = pairs.set_index("id_a").loc["two1"]
    assert pd.isna(two["distance_b"]) and two["distance_r"] <= 12 and not two["exact"]
    assert pairs.set_index("id_a").loc["green1", "exact"]


def test_leak_table_lists_matches_and_conflicts(catalog):
    catalog.loc[catalog["id"] == "b", "labels"] = pd.Series([[2]], index=[2])
    pairs = pd.DataFrame(
        {
            "id_a": ["a", "b", "two2"],
            "id_b": ["a2", "a2", "two1"],
            "distance_r": [1, 8, 0],
            "distance_g": [1, 2, 0],
            "distance_b": [1, 2, 0],
            "exact": [False, False, True],
        }
    )
    leak = duplicates.leak_table(catalog, pairs)
    assert list(leak["test_id"]) == ["a2", "a2", "two1"]
    assert list(leak["match_id"]) == ["a", "b", "two2"]
    assert list(leak["conflict"]) == [True, True, False]
    assert list(leak["labels"]) == [[1, 3], [2], [1, 3]]


def test_rotated_copies_are_an_option(tmp_path):
    rng = np.random.default_rng(4)
    rows = []
    original = [cells(rng) for _ in range(3)]
    for number in range(8):
        for colour, channel in zip(duplicates.CHANNELS, original):
            turned = np.rot90(channel, number % 4)
            turned = turned[:, ::-1] if number >= 4 else turned
            Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / f"{number}_{colour}.png")
        files = {c: str(tmp_path / f"{number}_{c}.png") for c in duplicates.CHANNELS}
        rows.append({"id": str(number), **files})
    catalog = pd.DataFrame(rows)
    plain, _ = duplicates.hash_catalog(catalog, progress=False)
    assert len(plain) == 0
    pairs, groups = duplicates.hash_catalog(catalog, rotations=True, progress=False)
    assert len(pairs) == 28 and groups["group"].nunique() == 1


def test_an_unreadable_file_is_named(catalog, tmp_path):
    (tmp_path / "b_green.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="b_green"):
        duplicates.hash_catalog(catalog, progress=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unreadable_file_is_named_or_left_out(catalog, tmp_path, monkeypatch, workers):
    from hpa_jax.data import hashes

    monkeypatch.setattr(hashes.processes, "WORTHWHILE", 2)
    (tmp_path / "b_green.png").write_bytes(b"no image")
    (tmp_path / "a_red.png").unlink()
    with pytest.raises(
        InputError, match=r"2 problems: .*\(id a\): no such file; .*\(id b\): not an im"
    ):
        duplicates.hash_catalog(catalog, progress=False, workers=workers)
    problems = Problems()
    pairs, groups = duplicates.hash_catalog(
        catalog, progress=False, problems=problems, workers=workers
    )
    assert named(pairs) == {("green1", "green2"), ("two1", "two2")}
    assert groups["id"].tolist() == catalog["id"].tolist()
    assert groups["id"][groups["bad"]].tolist() == ["a", "b"] and len(problems.found) == 2


def test_images_that_were_not_decoded_are_looked_at_as_a_whole(catalog, tmp_path):
    yellow = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    for id in catalog["id"]:
        plane = np.zeros_like(yellow) if id == "black1" else yellow
        Image.fromarray(plane).save(tmp_path / f"{id}_yellow.png")
    catalog["yellow"] = [str(tmp_path / f"{id}_yellow.png") for id in catalog["id"]]
    (tmp_path / "b_yellow.png").write_bytes(b"no image")
    problems = Problems()
    duplicates.hash_catalog(catalog, progress=False, problems=problems)
    assert problems.found == []
    _, groups = duplicates.hash_catalog(
        catalog, progress=False, problems=problems, look_at_all=True
    )
    assert groups["id"][groups["bad"]].tolist() == ["b", "black1"]
    assert "all channels are black" in str(problems.found[1])


def test_workers_give_the_same(catalog, monkeypatch):
    from hpa_jax.data import hashes

    one, _ = duplicates.hash_catalog(catalog, workers=1, progress=False)
    monkeypatch.setattr(hashes.processes, "WORTHWHILE", 2)
    two, _ = duplicates.hash_catalog(catalog, workers=2, progress=False)
    pd.testing.assert_frame_equal(one, two)


def test_phash_is_reexported():
    image = cells(np.random.default_rng(5))
    assert f"{duplicates.phash(image):016x}" == str(imagehash.phash(Image.fromarray(image)))


@pytest.mark.parametrize("rotations", [False, True])
def test_images_that_were_decoded_are_not_read_again(catalog, rotations):
    expected = duplicates.hash_catalog(catalog, rotations=rotations, progress=False)
    decoded = catalog.assign(fingerprint="")
    for row in (0, 3, 7, 10):  # some only: the others are read
        channels = [read_channel(path, "red") for path in catalog.loc[row, list(hashes.CHANNELS)]]
        prints = hashes.fingerprint(channels, oriented=True)
        decoded.loc[row, "fingerprint"] = hashes.to_text(prints)
        decoded.loc[row, list(hashes.CHANNELS)] = "gone.png"
    found = duplicates.hash_catalog(decoded, rotations=rotations, progress=False)
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)
