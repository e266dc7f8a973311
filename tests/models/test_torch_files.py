"""Torch files read without torch; golden/torch_{zip,stream}.pth were written by torch 2.14.1.

They hold what a training program saves: a state dict beside numpy scalars, an argparse.Namespace
and an optimizer's state; in it a strided copy, a transposed view, two views of one storage, half
precision, a scalar and a Parameter.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.models import torch_files

GOLDEN = Path(__file__).with_name("golden")


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_both_containers_give_the_tensors_that_torch_wrote(kind):
    tensors = torch_files.read(GOLDEN / f"torch_{kind}.pth")
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "module.a.weight": base[:, ::2],
        "view": base.T,
        "half": np.array([1.5, -2], np.float16),
        "bf": np.array([1.5, -2]),
        "count": np.array(7),
        "twice": base.ravel()[3:5],
        "param": np.ones(2, np.float32),
    }
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(tensors[name].astype(float), value, err_msg=name)
    assert tensors["half"].dtype == np.float16 and str(tensors["bf"].dtype) == "bfloat16"


@pytest.mark.parametrize("kind", ["zip", "stream"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_cut_short_is_one_line(tmp_path, kind, share):
    whole = (GOLDEN / f"torch_{kind}.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"cut\.pth") as caught:
        torch_files.read(tmp_path / "cut.pth")
    assert "\n" not in str(caught.value)


def test_nothing_that_a_file_names_is_imported_or_called(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "caught"), "w"))

    content = {"state_dict": {"a": Trap()}}
    magic, protocol = torch_files.MAGIC, torch_files.PROTOCOL
    parts = [magic, protocol, {"little_endian": True}, content, []]
    (tmp_path / "t.pth").write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    with pytest.raises(InputError, match=r"t\.pth.*state dict"):
        torch_files.read(tmp_path / "t.pth")
    assert not (tmp_path / "caught").exists() and "torch" not in sys.modules
