"""No group on two sides, copies of test images where the rule says, lists honoured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_jax.core.errors import InputError
from hpa_jax.data import splits

TABLES = Path(__file__).resolve().parents[2] / "../shared/data/real_tables"
NO_PAIRS = pd.DataFrame({"id_a": [], "id_b": []})


def table(n=200, tests=40, seed=0):
    """A catalog of n labelled images, half of them external, and its groups."""
    rng = np.random.default_rng(seed)
    source = ["train"] * (n // 2) + ["external"] * (n - n // 2) + ["test"] * tests
    total = len(source)
    labels = [
        None if kind == "test" else sorted(set(rng.choice(5, 2, p=[0.5, 0.2, 0.15, 0.1, 0.05])))
        for kind in source
    ]
    catalog = pd.DataFrame(
        {
            "id": [f"i{number}" for number in range(total)],
            "source": source,
            "labels": labels,
            "antibody": [str(number // 3) if kind == "external" else None
                         for number, kind in enumerate(source)],
            "plate": None,
            "sample": None,
        }
    )  # fmt: skip
    group = np.arange(total)
    for a, b in rng.integers(0, total, (30, 2)):
        group[group == group[b]] = group[a]
    return catalog, pd.DataFrame({"id": catalog["id"], "group": group})


def sides(catalog, groups, **options):
    result = splits.assign(catalog, groups, NO_PAIRS, **options)
    assert list(result.columns) == ["id", "split", "fold", "reason"]
    assert list(result["id"]) == list(catalog["id"])
    assert (result["split"] == "test").to_numpy()[(catalog["source"] == "test").to_numpy()].all()
    return result


def across(result, groups, column="split"):
    """Groups of labelled images that are on more than one side."""
    labelled = result["split"].isin(["train", "valid", "audit"])
    keys = result[column].astype(str)[labelled]
    return int((keys.groupby(groups["group"][labelled]).nunique() > 1).sum())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 50),
    st.sampled_from(["holdout", "folds"]),
    st.sampled_from(["valid", "excluded"]),
    st.sampled_from(["split", "train"]),
    st.sampled_from(["", "antibody"]),
    st.sampled_from([0.0, 0.1]),
)
def test_no_group_is_on_two_sides(seed, scheme, matches_test, external, group_by, audit):
    catalog, groups = table(seed=seed)
    options = dict(scheme=scheme, matches_test=matches_test, external=external)
    result = sides(catalog, groups, group_by=group_by, audit=audit, folds=3, seed=seed, **options)
    assert across(result, groups, "split" if scheme == "holdout" else "fold") == 0
    if group_by:
        assert across(result, pd.DataFrame({"group": catalog["antibody"]})) == 0
    with_test = groups["group"].isin(groups["group"][catalog["source"] == "test"])
    matched = result["split"][with_test & (catalog["source"] != "test")]
    if matches_test == "excluded":
        assert (matched == "excluded").all()
    else:
        assert (matched == ("valid" if scheme == "holdout" else splits.VALID_ONLY)).all()
    assert result["reason"][result["split"] == "excluded"].notna().all()


def test_matches_of_test_name_the_test_image():
    catalog, groups = table()
    groups["group"] = np.arange(len(groups))
    groups.loc[[3, 4], "group"] = groups["group"].iloc[-1]
    pairs = pd.DataFrame({"id_a": ["i3", "i3"], "id_b": [catalog["id"].iloc[-1], "i4"]})
    result = splits.assign(catalog, groups, pairs).set_index("id")
    assert result["split"][["i3", "i4"]].tolist() == ["valid", "valid"]
    assert result["reason"]["i3"] == f"copy of test image {catalog['id'].iloc[-1]}"


@pytest.mark.parametrize("scheme", ["holdout", "listed"])
def test_only_copies_of_test_are_copies_whatever_else_stays_together(scheme):
    catalog, groups = table()
    groups["group"] = np.arange(len(groups))
    groups.loc[102, "group"] = groups["group"].iloc[-1]  # i102 has a copy in test
    same = catalog["antibody"] == catalog["antibody"][102]
    assert same.sum() == 3
    options = dict(group_by="antibody", scheme=scheme)
    if scheme == "listed":
        options["force_valid"] = ["i0"]
    result = sides(catalog, groups, matches_test="excluded", **options)
    copies = result["reason"].fillna("").str.startswith("copy of")
    assert result["id"][copies].tolist() == ["i102"]
    assert not (result["split"][same & ~copies] == "excluded").any()
    result = sides(catalog, groups, matches_test="valid", **options)
    assert (result["split"][same] == "valid").all()
    assert set(result["reason"][same & ~copies]) == {"group of a copy of a test image"}


def test_external_images_can_all_train():
    catalog, groups = table()
    result = sides(catalog, groups, external="train", fraction=0.3)
    rule = result["reason"].notna()
    assert (result["split"][(catalog["source"] == "external") & ~rule] == "train").all()
    competition = result["split"][(catalog["source"] == "train") & ~rule]
    assert 0.15 < (competition == "valid").mean() < 0.45


def test_external_images_can_stay_out():
    catalog, groups = table()
    result = sides(catalog, groups, external="excluded", fraction=0.3)
    external = catalog["source"] == "external"
    assert (result["split"][external] == "excluded").all()
    assert (result["reason"][external] == "external images").all()
    assert set(result["split"][catalog["source"] == "train"]) == {"train", "valid"}


def test_sources_get_their_shares_separately():
    catalog, groups = table(n=2000, tests=0)
    result = sides(catalog, groups, fraction=0.25)
    for source in ("train", "external"):
        share = (result["split"][catalog["source"] == source] == "valid").mean()
        assert share == pytest.approx(0.25, abs=0.01)


def test_folds_cover_every_labelled_image_once():
    catalog, groups = table()
    result = sides(catalog, groups, scheme="folds", folds=4, force_train=["i5"])
    forced = groups["group"] == groups["group"][5]
    assert result["fold"][forced].isna().all()
    expected = (catalog["source"] != "test") & ~forced
    assert result["fold"].notna().equals(expected)
    assert set(result["fold"].dropna()) == {0, 1, 2, 3}
    free = result["reason"].isna()
    assert ((result["fold"] == 0) == (result["split"] == "valid"))[free].all()


@pytest.mark.parametrize("matches_test", ["valid", "excluded"])
@pytest.mark.parametrize("external", ["split", "train"])
def test_with_folds_no_network_trains_on_a_planted_copy_of_a_test_image(matches_test, external):
    """Direct copies, copies of copies, and what a copy shares an antibody with."""
    catalog, groups = table()
    groups["group"] = np.arange(len(groups))
    tests = catalog.index[catalog["source"] == "test"]
    groups.loc[[7, 110], "group"] = groups["group"][tests[0]]
    pairs = pd.DataFrame({"id_a": ["i120", "i8"], "id_b": [catalog["id"][tests[1]], "i120"]})
    groups.loc[8, "group"] = groups["group"][120]
    options = dict(scheme="folds", folds=3, matches_test=matches_test, external=external)
    result = splits.assign(catalog, groups, pairs, **options).set_index("id")
    planted = ["i7", "i110", "i120"]
    assert result["reason"][planted].str.startswith("copy of test image").all()
    if matches_test == "excluded":
        assert (result["split"][planted] == "excluded").all()
        assert result["fold"][planted].isna().all()
    else:
        assert (result["split"][[*planted, "i8"]] == splits.VALID_ONLY).all()
        assert result["fold"][[*planted, "i8"]].notna().all()
    others = result.index.difference([*planted, "i8", *catalog["id"][tests]])
    assert set(result["split"][others]) == {"train", "valid"}


def test_lists_from_messy_files(tmp_path):
    catalog, groups = table()
    groups["group"] = np.arange(len(groups))
    (tmp_path / "valid.csv").write_text("15536,i7\r\n15538, i9 \r\n")  # row numbers, no header
    (tmp_path / "out.csv").write_text("\ufeff,Id,why\n0,i11,blurred\n1,elsewhere,\n")
    result = sides(
        catalog,
        groups,
        scheme="listed",
        force_valid=tmp_path / "valid.csv",
        exclude=str(tmp_path / "out.csv"),
    ).set_index("id")
    assert set(result.index[result["split"] == "valid"]) == {"i7", "i9"}
    assert result.loc["i11"].tolist()[::2] == ["excluded", "exclusion list"]


def test_a_list_of_strangers_is_an_error(tmp_path):
    (tmp_path / "ids.csv").write_text("Id\nnobody\n")
    catalog, groups = table()
    with pytest.raises(InputError, match="names none"):
        sides(catalog, groups, exclude=tmp_path / "ids.csv")


def test_contradicting_lists_are_an_error():
    catalog, groups = table()
    with pytest.raises(InputError, match="i3"):
        sides(catalog, groups, force_valid=["i3"], force_train=["i3"])


def test_own_images_without_labels_are_predicted():
    catalog, groups = table()
    catalog.loc[0, "source"] = "own"
    catalog.loc[:1, "labels"] = None
    result = sides(catalog, groups)
    assert result["split"].iloc[0] == "test"
    assert result.iloc[1][["split", "reason"]].tolist() == ["excluded", "no labels"]


def test_images_that_cannot_be_used_are_left_out():
    catalog, groups = table()
    groups["bad"] = groups["id"].isin(["i3", "i110", "i239"])  # one of each source
    result = splits.assign(catalog, groups, NO_PAIRS).set_index("id")
    assert (result["split"][["i3", "i110", "i239"]] == "excluded").all()
    assert (result["reason"] == "bad image").sum() == 3


def test_audit_is_apart_and_typical():
    catalog, groups = table(n=3000)
    result = sides(catalog, groups, audit=0.2, fraction=0.25)
    share = result["split"].value_counts(normalize=True)
    assert share["audit"] == pytest.approx(0.2, abs=0.02)
    names = [f"class {number}" for number in range(5)]
    summary = splits.summary(catalog, result, names)
    total = summary[["train", "valid", "audit"]].sum(axis=1)
    assert (summary["audit"] / total).between(0.15, 0.25).all()
    assert summary["valid_share"].between(0.22, 0.28).all()


def test_a_class_tied_to_one_side_is_named(caplog):
    catalog, groups = table()
    rows = catalog.index[catalog["source"] == "train"][:2]
    for row in rows:
        catalog.at[row, "labels"] = [5]
    groups["group"] = np.arange(len(groups))
    sides(catalog, groups, force_valid=list(catalog["id"][rows]))
    assert "class 5 " in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scheme="hold_out"), "holdout"),
        (dict(matches_test="train"), "matches_test"),
        (dict(fraction=0.0), "fraction"),
        (dict(group_by="plate"), "plate"),
        (dict(scheme="folds", folds=1000), "groups"),
    ],
)
def test_wrong_options_are_named(options, message):
    catalog, groups = table()
    with pytest.raises(InputError, match=message):
        sides(catalog, groups, **options)


def test_a_image_without_group_is_an_error():
    catalog, groups = table()
    with pytest.raises(InputError, match="i0"):
        sides(catalog, groups.iloc[1:])


@pytest.fixture(scope="module")
def real():
    """The labels of the competition and the external set, with groups of three drawn into them."""
    if not TABLES.is_dir():
        pytest.skip("the competition's tables are not here")
    frames = [
        pd.read_csv(TABLES / "train.csv", dtype=str).assign(source="train"),
        pd.read_csv(TABLES / "HPAv18RBGY_wodpl.csv", dtype=str).assign(source="external"),
    ]
    catalog = pd.concat(frames, ignore_index=True)
    catalog["id"] = catalog["Id"].str.strip()
    catalog["labels"] = [sorted(map(int, text.split())) for text in catalog["Target"]]
    assert len(catalog) == 31072 + 74606
    rng = np.random.default_rng(0)
    group = np.arange(len(catalog))
    copies = rng.permutation(len(catalog))[:9000].reshape(-1, 3)
    group[copies] = copies[:, :1]
    return catalog, pd.DataFrame({"id": catalog["id"], "group": group})


def test_holdout_of_the_real_tables(real):
    catalog, groups = real
    result = sides(catalog, groups)
    summary = splits.summary(catalog, result, [str(number) for number in range(28)])
    common = summary["train"] + summary["valid"] >= 100
    assert (summary["valid_share"][common] - 0.2).abs().max() < 0.02
    assert (summary[["train", "valid"]] > 0).all(axis=None)
    assert across(result, groups) == 0


def test_folds_of_the_real_tables(real):
    catalog, groups = real
    result = sides(catalog, groups, scheme="folds", folds=5)
    summary = splits.summary(catalog, result, [str(number) for number in range(28)])
    total = summary["train"] + summary["valid"]
    shares = summary[["fold_min", "fold_max"]].div(total, axis=0)[total >= 100]
    assert (shares - 0.2).abs().max(axis=None) < 0.02
    assert (summary["fold_min"] > 0).all()  # each class has five groups or more
    assert across(result, groups, "fold") == 0
