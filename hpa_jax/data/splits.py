"""Leak-safe splits: a multilabel-stratified hold-out or folds that keep groups of copies whole.

In: the catalog, its duplicate groups and pairs.  Out: one row an image: train, valid, valid_only,
test, audit or excluded, its fold, and the reason where a rule and not the draw decided.

The rules are One More Layer's (spec 2.2): a duplicate group is never on two sides, and every
image that matches a test image goes to validation, or is excluded, with its whole group; no
network trains on it, whatever the scheme.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import stratification
from hpa_jax.core.errors import InputError, near
from hpa_jax.core.stratification import folds as folds
from hpa_jax.core.stratification import holdout as holdout
from hpa_jax.data.duplicates import groups as components
from hpa_jax.data.sources import csv_tables

if TYPE_CHECKING:
    import pandas as pd

SCHEMES = ("holdout", "folds", "listed")
VALID_ONLY = "valid_only"  # with folds: validation in its fold, training in none
_log = logging.getLogger(__name__)


def merged(*groupings: np.ndarray) -> np.ndarray:
    """int [N]: the finest groups that keep together what any grouping [N] keeps together."""
    rows = np.arange(len(groupings[0]))
    pairs = []
    for grouping in groupings:
        _, first, inverse = np.unique(grouping, return_index=True, return_inverse=True)
        pairs.append(np.stack([rows, first[inverse]], axis=1))
    return components(len(rows), np.concatenate(pairs))


def assign(
    catalog: "pd.DataFrame",
    groups: "pd.DataFrame",
    pairs: "pd.DataFrame",
    *,
    scheme: str = "holdout",
    fraction: float = 0.2,
    folds: int = 5,
    matches_test: str = "valid",
    seed: int = 0,
    group_by: str = "",
    external: str = "split",
    audit: float = 0.0,
    exclude: str | Path | Sequence[str] = (),
    force_valid: str | Path | Sequence[str] = (),
    force_train: str | Path | Sequence[str] = (),
) -> "pd.DataFrame":
    """The split of every image of the catalog.

    Args:
        groups: columns id, group and, where it is known, bad (images that can't be used; they
            are excluded); pairs: columns id_a, id_b (from `duplicates`).
        scheme: "holdout" draws `fraction` of the rows that no rule took out; "folds" gives each row
            one of `folds` folds, in which it is validation; "listed" validates exactly on
            force_valid and the matches of test.
        matches_test: "valid" or "excluded": labelled groups that hold a copy of a test image.
            Neither trains on them; with folds, "valid" validates on each in the fold it is dealt.
        group_by: "antibody", "plate" or "sample": rows that share it stay together too.
        external: "split" deals external images as the others (their classes get their shares
            separately), "train" keeps all but matches of test in training and `fraction` is of
            the others; they then have no fold; "excluded" leaves them out.
        audit: share of the labelled rows set apart first, on which nothing is ever fitted.
        exclude, force_valid, force_train: ids, or a file of them (any column, any header).

    Returns:
        id, split (train, valid, valid_only, test, audit, excluded), fold (0..k-1 or null), reason
        (or null).  With folds, `split` shows the first: fold 0 is valid, the others train, and
        valid_only is what trains in no fold.

    Raises:
        InputError: unknown option, id without group, or rules that contradict each other.
    """
    _check_options(scheme, matches_test, external, group_by, fraction, audit, catalog)
    rows = _Rows(catalog, groups, pairs, group_by)
    rows.exclude(_ids(exclude, rows.ids), "exclusion list")
    if external == "excluded":
        rows.exclude(rows.external, "external images")
    rows.exclude_unlabelled()
    rows.place_matches(matches_test)
    rows.force(_ids(force_valid, rows.ids), 1, "validation list")
    rows.force(_ids(force_train, rows.ids), -1, "training list")
    if external == "train":
        rows.keep_external_in_training()
    rows.draw_audit(audit, seed)
    if scheme == "folds":
        rows.draw_folds(folds, seed)
    elif scheme == "listed":
        rows.take_forced()
    else:
        rows.draw_holdout(fraction, seed)
    return rows.table()


def summary(
    catalog: "pd.DataFrame", splits: "pd.DataFrame", class_names: Sequence[str]
) -> "pd.DataFrame":
    """Rows of each class on each side: class, name, train, valid, audit, excluded, valid_share.

    Rows that only validate (`VALID_ONLY`) count as valid.
    With folds also fold_min and fold_max, the fewest and most rows of the class in one fold.
    """
    import pandas as pd

    table = catalog[["id", "labels"]].merge(splits, on="id")
    labels = _label_matrix(table["labels"], len(class_names))
    fold = table["fold"].to_numpy(float)
    table["split"] = table["split"].replace(VALID_ONLY, "valid")
    result = pd.DataFrame({"class": range(len(class_names)), "name": list(class_names)})
    for side in ("train", "valid", "audit", "excluded"):
        result[side] = labels[(table["split"] == side).to_numpy()].sum(axis=0)
    if not np.isnan(fold).all():
        number = int(np.nanmax(fold)) + 1
        in_fold = np.stack([labels[fold == k].sum(axis=0) for k in range(number)])
        result["fold_min"], result["fold_max"] = in_fold.min(axis=0), in_fold.max(axis=0)
    total = result["train"] + result["valid"]
    result["valid_share"] = (result["valid"] / total.where(total > 0)).astype(float)
    return result


class _Rows:
    """The catalog's rows while rules and draws give them their sides."""

    def __init__(
        self, catalog: "pd.DataFrame", groups: "pd.DataFrame", pairs: "pd.DataFrame", by: str
    ) -> None:
        self.ids = catalog["id"].to_numpy(object)
        if catalog["id"].duplicated().any():
            raise InputError(
                f"catalog: id {catalog['id'][catalog['id'].duplicated()].iloc[0]!r} twice"
            )
        groups = groups.set_index("id")
        known = groups["group"]
        absent = ~catalog["id"].isin(known.index).to_numpy()
        if absent.any():
            raise InputError(f"groups: no row for id {self.ids[absent][0]!r}; run duplicates again")
        self.copies = known.reindex(self.ids).to_numpy(np.int64)
        self.groups = self.copies  # what stays on one side
        if by:
            shared = catalog[by].astype("category").cat.codes.to_numpy(np.int64)
            alone = -1 - np.arange(len(shared))  # rows without the value stand alone
            self.groups = merged(self.groups, np.where(shared < 0, alone, shared))
        self.labelled = np.array([labels is not None for labels in catalog["labels"]], bool)
        self.labels = _label_matrix(catalog["labels"])
        source = catalog["source"].to_numpy(object)
        self.external, is_test = source == "external", source == "test"
        self.split = np.full(len(self.ids), None, object)
        self.reason = np.full(len(self.ids), None, object)
        self.fold = np.full(len(self.ids), -1)
        self.forced = np.zeros(len(self.ids), np.int8)
        # Images of a folder without labels are to be predicted.
        self.split[is_test | ((source == "own") & ~self.labelled)] = "test"
        if "bad" in groups:
            bad = groups["bad"].reindex(self.ids).to_numpy(bool)
            self.split[bad], self.reason[bad] = "excluded", "bad image"
        self.duplicate = self._test_duplicates(pairs, is_test)

    def _test_duplicates(self, pairs: "pd.DataFrame", is_test: np.ndarray) -> np.ndarray:
        """For each row the test image it copies, directly or through other copies, or None."""
        duplicate = np.full(len(self.ids), None, object)
        first_test: dict[int, str] = {}
        for group, identity in zip(self.copies[is_test], self.ids[is_test]):
            first_test.setdefault(int(group), identity)
        for row in np.flatnonzero(np.isin(self.copies, list(first_test)) & ~is_test):
            duplicate[row] = first_test[int(self.copies[row])]
        row_of = {identity: row for row, identity in enumerate(self.ids)}
        for a, b in zip(pairs["id_a"], pairs["id_b"]):
            for one, other in ((a, b), (b, a)):
                if one in row_of and other in row_of and is_test[row_of[other]]:
                    duplicate[row_of[one]] = other
        return duplicate

    def free(self) -> np.ndarray:
        return self.split == None  # noqa: E711 (elementwise)

    def exclude(self, chosen: np.ndarray, reason: str) -> None:
        chosen = chosen & self.free()
        self.split[chosen], self.reason[chosen] = "excluded", reason

    def exclude_unlabelled(self) -> None:
        self.exclude(~self.labelled, "no labels")

    def place_matches(self, where: str) -> None:
        """Copies of test images: out, or to validation with what stays with them (group_by)."""
        matched = (
            np.array([duplicate is not None for duplicate in self.duplicate], bool) & self.free()
        )
        reasons = [f"copy of test image {duplicate}" for duplicate in self.duplicate[matched]]
        self.reason[matched] = reasons
        if where == "excluded":
            self.split[matched] = "excluded"
        else:
            self.forced[matched] = 1
            with_them = np.isin(self.groups, self.groups[matched]) & self.free() & ~matched
            self.forced[with_them] = 1
            self.reason[with_them] = "group of a copy of a test image"

    def force(self, chosen: np.ndarray, way: int, reason: str) -> None:
        """The groups of the chosen rows go to validation (1) or training (-1)."""
        chosen = chosen & self.free()
        groups = np.isin(self.groups, self.groups[chosen]) & self.free()
        against = groups & (self.forced == -way)
        if against.any():
            identity = self.ids[against][0]
            raise InputError(
                f"split: {identity!r} is of a group on the {reason}, but another rule "
                f"({self.reason[against][0] or 'list'}) puts it on the other side; change a list"
            )
        new = groups & (self.forced == 0)
        self.forced[groups] = way
        self.reason[new] = np.where(chosen[new], reason, f"group of the {reason}")

    def keep_external_in_training(self) -> None:
        """External images train, but for those that a rule put into validation; so does, whole,
        a group that contains one of them. `fraction` is then of the rows that are left."""
        free = self.free() & (self.forced != 1)
        groups = np.isin(self.groups, self.groups[self.external & free])
        self.split[groups & free] = "train"

    def draw_audit(self, audit: float, seed: int) -> None:
        if not audit:
            return
        free = self.free()
        forced = np.where(self.forced != 0, -1, 0)
        # What is too rare for three sides stays for training and validation.
        rare = self._groups_of_classes(free) < 4
        forced[(self.labels & rare).any(axis=1)] = -1
        forced = np.where(np.isin(self.groups, self.groups[free & (forced < 0)]), -1, 0)
        chosen = np.zeros(len(free), bool)
        chosen[free] = holdout(
            self.labels[free], self.groups[free], audit, seed + 1, forced[free].astype(np.int8)
        )
        self.split[chosen] = "audit"

    def _groups_of_classes(self, rows: np.ndarray) -> np.ndarray:
        return np.array(
            [
                len(np.unique(self.groups[rows & self.labels[:, c]]))
                for c in range(self.labels.shape[1])
            ]
        )

    def draw_folds(self, k: int, seed: int) -> None:
        """Rows forced to training have no fold; all others are validation in one, those forced to
        validation nothing else."""
        free = self.free()
        self.split[free] = "train"
        rows = np.flatnonzero(free & (self.forced != -1))
        self.fold[rows] = stratification.deal_rows(
            *stratification.checked(self.labels[rows], self.groups[rows]),
            [1 / k] * k,
            np.full(len(rows), -1),
            seed,
            self.external[rows],
        )
        self.split[rows[self.fold[rows] == 0]] = "valid"  # who ignores folds sees the first
        self.split[rows[self.forced[rows] == 1]] = VALID_ONLY
        self._name_missing(rows, self.fold[rows], k)

    def take_forced(self) -> None:
        free = self.free()
        self.split[free] = np.where(self.forced[free] == 1, "valid", "train")

    def draw_holdout(self, fraction: float, seed: int) -> None:
        rows = np.flatnonzero(self.free())
        fixed = np.select([self.forced[rows] == 1, self.forced[rows] == -1], [1, 0], -1)
        labels, groups = stratification.checked(self.labels[rows], self.groups[rows])
        shares = [1 - fraction, fraction]
        side = stratification.deal_rows(labels, groups, shares, fixed, seed, self.external[rows])
        self.split[rows] = np.where(side == 1, "valid", "train")
        self._name_missing(rows, side, 2)

    def _name_missing(self, rows: np.ndarray, side: np.ndarray, sides: int) -> None:
        _, first, unit = np.unique(self.groups[rows], return_index=True, return_inverse=True)
        present = stratification.sums(unit, self.labels[rows]) > 0
        lacking = np.flatnonzero(stratification.missing(present, side[first], sides))
        if len(lacking):
            _log.warning(
                "split: class %s can't be on all sides (all its groups are tied to one)",
                ", ".join(map(str, lacking)),
            )

    def table(self) -> "pd.DataFrame":
        import pandas as pd

        fold = np.where(self.fold < 0, np.nan, self.fold)
        return pd.DataFrame(
            {"id": self.ids, "split": self.split, "fold": fold, "reason": self.reason}
        )


def read_ids(path: str | Path, known: np.ndarray) -> set[str]:
    """The known ids in a CSV of any shape: with or without header, row numbers, other columns.

    Raises:
        InputError: no such file, or it names no image of the catalog.
    """
    listed = csv_tables.cells(path) & set(known)
    if not listed:
        raise InputError(f"{path}: names none of the catalog's {len(known)} images")
    return listed


def _ids(given: str | Path | Sequence[str], known: np.ndarray) -> np.ndarray:
    """bool [N]: which of the known ids are given, as a file or as a list."""
    if isinstance(given, str | Path):
        chosen = read_ids(given, known) if str(given) else set()
    else:
        chosen = set(given)
    return np.isin(known.astype(str), list(chosen))


def _check_options(
    scheme: str,
    matches_test: str,
    external: str,
    group_by: str,
    fraction: float,
    audit: float,
    catalog: "pd.DataFrame",
) -> None:
    choices = {
        "scheme": (scheme, SCHEMES),
        "matches_test": (matches_test, ("valid", "excluded")),
        "external": (external, ("split", "train", "excluded")),
        "group_by": (group_by, ("", "antibody", "plate", "sample")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise InputError(f"split.{name}={value!r}: one of {known}{near(str(value), allowed)}")
    if group_by and catalog[group_by].isna().all():
        raise InputError(f"split.group_by={group_by!r}: no image of the catalog has one")
    if not 0 < fraction < 1 or not 0 <= audit < 1 - fraction:
        raise InputError(f"split.fraction={fraction}, split.audit={audit}: shares of all, sum < 1")


def _label_matrix(labels: "pd.Series", num_classes: int | None = None) -> np.ndarray:
    """bool [N, C] of lists of class numbers; C is the highest number + 1 by default."""
    lists = [() if row is None else np.asarray(row, np.int64) for row in labels]
    rows = np.repeat(np.arange(len(lists)), [len(row) for row in lists])
    numbers = np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64)
    matrix = np.zeros((len(lists), num_classes or int(numbers.max(initial=-1)) + 1), bool)
    matrix[rows, numbers] = True
    return matrix
