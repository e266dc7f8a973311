"""Tables for other tools: what they hold, read back as those tools read them."""

import csv

import numpy as np
import pandas as pd
import pytest

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import formats
from hpa_jax.report.predictions import Predictions


@pytest.fixture
def found():
    rng = np.random.default_rng(0)
    ids = ["P_A1_1", "P_A1_2", "P_B1_1", "=P"]
    scores = rng.random((4, 28))
    embeddings = {"net": rng.normal(size=(4, 6)), "other": rng.normal(size=(4, 3))}
    why = ["", "far", "", ""]
    unlike = np.array([False, True, False, False])
    thresholds = np.full(28, 0.5)
    return Predictions(
        ids, classes.NAMES, scores, scores > 0.5, thresholds, unlike, why, embeddings, "net"
    )


def read_tsv(path):
    assert b"\r\n" in path.read_bytes()
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def test_cellmaps_has_a_row_a_name_and_a_header_from_one(found, tmp_path):
    table = tmp_path / "1_image_gene_node_attributes.tsv"
    table.write_text(
        "name\trepresents\tfilename\nAAAS\tensembl:ENSG1\tP_A1_1_\nAAAS\tx\tP_A1_2_\n"
        "TP53\tx\tP_B1_1_,P_B1_9_\n"
    )
    formats.WRITERS["cellmaps"](tmp_path, found, formats.gene_names(table))
    head, first, second = read_tsv(tmp_path / "cellmaps" / "image_emd.tsv")
    assert head == ["", "1", "2", "3", "4", "5", "6"] and second[0] == "TP53"
    expected = found.embeddings["net"][:2].mean(axis=0)
    np.testing.assert_array_equal(np.array(first[1:], float), expected)
    head, *rows = read_tsv(tmp_path / "cellmaps" / "labels_prob.tsv")
    assert (
        len(head) == 29
        and head[2] == "N. membrane"
        and [row[0] for row in rows] == ["AAAS", "TP53"]
    )


def test_without_a_table_each_image_is_a_row_of_its_id(found, tmp_path):
    formats.WRITERS["cellmaps"](tmp_path, found, None)
    rows = read_tsv(tmp_path / "cellmaps" / "image_emd.tsv")
    assert [row[0] for row in rows[1:]] == ["P_A1_1", "P_A1_2", "P_B1_1", "'=P"]


def test_napari_reads_the_features(found, tmp_path):
    formats.WRITERS["napari"](tmp_path, found, None)
    table = pd.read_csv(tmp_path / "napari_features.csv")
    assert table["index"].tolist() == [0, 1, 2, 3] and table["unlike_training"].sum() == 1
    np.testing.assert_allclose(table["Cytosol"], found.scores[:, 25], atol=1e-5)


def test_h5ad_opens_with_stock_anndata(found, tmp_path):
    anndata = pytest.importorskip("anndata")
    formats.WRITERS["h5ad"](tmp_path, found, {"P_A1_1": "AAAS"})
    table = anndata.read_h5ad(tmp_path / "predictions.h5ad")
    assert table.obs_names.tolist() == found.ids and table.var_names[0] == "e0000"
    np.testing.assert_allclose(table.X, found.embeddings["net"], rtol=1e-6)
    np.testing.assert_allclose(table.obsm["probabilities"], found.scores, rtol=1e-6)
    assert table.obs["unlike_training"].tolist() == found.unlike.tolist()
    assert table.obs["name"].tolist()[:2] == ["AAAS", "P_A1_2"]
    assert table.uns["classes"].tolist() == list(classes.NAMES)
    assert table.obsm["X_other"].shape == (4, 3)


def test_what_does_not_fit_is_refused(found, tmp_path):
    with pytest.raises(InputError, match="h5ad"):
        formats.named("h5da")
    assert formats.named(None) == ["csv", "parquet"]
    table = tmp_path / "t.tsv"
    table.write_text("gene\tfile\na\tb\n")
    with pytest.raises(InputError, match="name and filename"):
        formats.gene_names(table)
    with pytest.raises(InputError, match="none of the images"):
        formats.WRITERS["cellmaps"](tmp_path, found, {"elsewhere": "AAAS"})
