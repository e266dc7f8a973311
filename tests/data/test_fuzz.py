"""Damaged and hostile files: every reader answers with its value or with one InputError.

Images, tables and weight files are valid ones with bytes changed, cut out or put in, so that the
damage lies deep inside the decoders.  Anything but an InputError is what the tests look for.
"""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import reader, splits
from hpa_jax.data.problems import Problems
from hpa_jax.data.sources import atlas, csv_tables
from hpa_jax.data.sources import competition as kaggle
from hpa_jax.decision import leak, submission
from hpa_jax.models import weight_files
from hpa_jax.pipeline import tables

from .layouts import competition, picture

# Decoders warn of what they repair; what they can't is what counts here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
PIXELS = picture(0, side=24, channels=1)[..., 0]
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["change", "cut", "insert"]),
        st.floats(0, 1, exclude_max=True),  # where
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
TEXTS = st.text(st.sampled_from("aI0129 ,;|\"'\n\r\t-.²٣é\0x/\\\ufeff"), max_size=30)


def damaged(content: bytes, damage: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, piece in damage:
        at = int(where * len(content))
        rest = {"change": at + len(piece), "cut": len(content), "insert": at}[kind]
        content = content[:at] + (b"" if kind == "cut" else piece) + content[rest:]
    return content


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "ome":
        planes = np.stack([PIXELS.astype(np.uint16) * 200] * 3)
        about = {"axes": "CYX", "Channel": {"Name": ["red", "green", "blue"]}}
        tifffile.imwrite(file, planes, metadata=about, ome=True)
    else:
        Image.fromarray(PIXELS).save(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@given(damage=DAMAGE)
@FEW
def test_a_damaged_image_is_read_or_refused(tmp_path, kind, damage):
    path = tmp_path / f"p_green.{kind}"
    path.write_bytes(damaged(encoded(kind), damage))
    try:
        assert reader.size(path) == reader.planes(path).pixels.shape[1:]
        assert reader.read_channel(path, "green").dtype == np.uint8
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("kind", ["tiff", "ome"])
@given(damage=DAMAGE)
@FEW
def test_a_damaged_microscope_file_is_read_or_refused(tmp_path, kind, damage):
    path = tmp_path / "p.tif"
    path.write_bytes(damaged(encoded(kind), damage))
    try:
        assert reader.planes(path).pixels.ndim == 3
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


IDS = np.array(["a", "b"])
RUN = SimpleNamespace(num_classes=len(classes.NAMES))


def leaked(path):
    found, _ = leak.combine({"own": leak.read(path)})
    return leak.overlay(np.zeros((2, RUN.num_classes), bool), IDS, found)


READERS = {
    "kaggle": lambda path: kaggle.read_table(path, labelled=True),
    "atlas": lambda path: atlas.read_table(path, classes.NAMES, Problems()),
    "folder": lambda path: csv_tables.read_labels(path, classes.NAMES, Problems()),
    "sample": submission.sample_ids,
    "ids": lambda path: splits.read_ids(path, IDS),
    "leak": leaked,
    "truth": lambda path: tables.truth(path, IDS, RUN),
    "submission": lambda path: tables.submission(path, IDS, RUN),
    "parquet": artifacts.read_table,
    "json": artifacts.read_json,
    "safetensors": weight_files.read,
}


def table(kind: str) -> bytes:
    if kind == "parquet":
        file = io.BytesIO()
        pd.DataFrame({"id": ["a", "b"], "p00": [0.25, 0.75]}).to_parquet(file)
        return file.getvalue()
    if kind == "safetensors":
        return safetensors.numpy.save({"conv1.weight": np.ones((2, 3, 1, 1), np.float32)})
    text = {
        "kaggle": "Id,Target\na,0 25\nb,16\n",
        "atlas": "Id,Target,GotYellow\n1_A_A1_1,0 25,1\n2_A_A1_2,Golgi apparatus,0\n",
        "folder": "id,labels\na,Cytosol;Nucleoplasm\nb,0 16\n",
        "sample": "Id,Predicted\na,0\nb,0 1\n",
        "ids": "id,x\na,1\nb,2\n",
        "leak": "Id,Target\na,0 25\nb,16\n",
        "truth": "Id,Target\na,0 25\nb,16\n",
        "submission": "Id,Predicted\na,0 25\nb,16\n",
        "json": '{"thresholds": [0.5, 0.25], "names": ["a"]}',
    }
    return text[kind].encode()


@pytest.mark.parametrize("kind", READERS)
@given(damage=DAMAGE)
@example(damage=[("change", 0.0, b'"'), ("change", 0.75, b'"')])  # a line's end in a column's name
@FEW
def test_a_damaged_table_is_read_or_refused(tmp_path, kind, damage):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else f"table.{kind}")
    path.write_bytes(damaged(table(kind), damage))
    try:
        READERS[kind](path)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "kind", ["kaggle", "atlas", "folder", "sample", "ids", "leak", "truth", "submission"]
)
@given(cells=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
@example(cells=[("a", "²")])
@example(cells=[("a", "9" * 5000)])
@FEW
def test_any_text_in_the_cells_is_read_or_refused(tmp_path, kind, cells):
    path = tmp_path / "table.csv"
    predicted = kind in ("sample", "submission")
    names = ["id", "labels"] if kind == "folder" else ["Id", "Predicted" if predicted else "Target"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        pd.DataFrame(cells, columns=names).to_csv(file, index=False)
    try:
        READERS[kind](path)
    except InputError as error:
        assert "\n" not in str(error)


@given(id=TEXTS, target=TEXTS, size=TEXTS)
@example(id="t0", target="²", size="")
@example(id="t0", target="0", size="²")
@FEW
def test_a_competition_with_any_row_is_scanned_or_refused(tmp_path, id, target, size):
    root = tmp_path / "root"
    if not root.exists():
        competition(root)
    row = pd.DataFrame([(id, target, size)], columns=["Id", "Target", "file_size"])
    with open(root / "train.csv", "w", newline="", encoding="utf-8") as file:
        row.to_csv(file, index=False)
    problems = Problems()
    try:
        found = kaggle.scan(root, classes.NAMES, problems)
    except InputError as error:
        assert "\n" not in str(error)
        return
    for path in found["green"].dropna():
        assert reader.inside(root, path)
    for labels in found["labels"].dropna():
        assert all(0 <= number < len(classes.NAMES) for number in labels)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Id,Target\na,0,1\nb,1,1\n", "more cells than its header"),
        ("Id,Target,id\na,0,1\n", "two columns 'id'"),
        ("", "no readable CSV"),
        ("Id,Target\na,0\na,1\nb,1\n", "'a' is there twice"),
        ("Id\na\nb\n", "Id,Target; it has id"),
    ],
)
def test_a_table_of_another_shape_is_refused_in_words(tmp_path, text, word):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=word) as caught:
        READERS["truth"](path)
    assert str(path) in str(caught.value)
