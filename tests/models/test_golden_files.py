"""The golden files are those that `scripts/parity --golden` writes, and each pins a test."""

import ast
from pathlib import Path

from tests.models import pinned

HERE = Path(__file__).parent


def test_each_file_is_one_that_the_script_writes_and_a_test_reads():
    tree = ast.parse((HERE / "parity" / "golden.py").read_text())
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and node.target.id in ("GOLDEN", "PUBLISHED")
    ]
    written = {
        key.value: row.elts[0].value
        for table in tables
        for key, row in zip(table.keys, table.values)
    }
    files = {path.stem for path in pinned.FOLDER.glob("*.npz")}
    assert files == set(written)
    tests = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    for name, backbone in written.items():
        assert str(pinned.golden(name)["backbone"]) == backbone
        assert f'"{name}"' in tests, name
    command = (HERE.parents[1] / "scripts" / "parity").read_text()
    assert "-m tests.models.parity.golden" in command
