"""scripts/bench_accelerator.py: cases, rows of compiled and of failed steps; compiles nothing."""

import json
import sys
from types import SimpleNamespace

import pytest

from scripts import bench_accelerator as bench

OPTIONS = SimpleNamespace(remat="blocks", accumulate=2)
FATAL = (
    "E0000 00:00:1 cuda_dnn.cc:1] registered twice\n"
    "F1128 19:25:13.3 8529 triton.cc:627] Check failed: size (64 vs. 16)\n"
    "*** Check failure stack trace: ***\n"
)


@pytest.fixture
def interpreter(tmp_path):
    """Makes a program that stands in for the environment's Python: writes, then exits."""

    def make(out: str, error: str = "", code: int = 0) -> str:
        path = tmp_path / "python"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nsys.stdin.read()\n"
            f"print({out!r})\nprint({error!r}, file=sys.stderr)\nsys.exit({code})\n"
        )
        path.chmod(0o755)
        return str(path)

    return make


def test_a_case_names_backbone_size_images_and_augmentation():
    assert bench.model_of("se_resnext50:512:32", OPTIONS) == dict(
        backbone="se_resnext50", image_size=512, batch_size=32, augment="d4", remat="blocks",
        accumulate=2,
    )  # fmt: skip
    assert bench.model_of("resnet34:64:8:oml", OPTIONS)["augment"] == "oml"
    for wrong in ("resnet34", "resnet34:512", "resnet34:512:x", "resnet34:512:32:oml:more"):
        with pytest.raises(SystemExit, match="BACKBONE:SIZE:IMAGES"):
            bench.model_of(wrong, OPTIONS)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (FATAL, "exit status -6: F1128 19:25:13.3 8529 triton.cc:627] Check failed: size"),
        ("warning\nTraceback\nValueError: a\nhpa_jax.core.errors.InputError: no such\nend\n",
         "hpa_jax.core.errors.InputError: no such"),
        ("killed\n", "killed"),
        ("", "said nothing"),
    ],
)  # fmt: skip
def test_a_failure_is_told_in_one_line(said, expected):
    told = bench.reason(said, -6)
    assert expected in told and "\n" not in told


def test_a_step_that_fails_is_a_row(interpreter):
    row = bench.compiled("h100", 4, {}, python=interpreter("", FATAL, 3))
    assert row.pop("error").startswith("exit status 3: F1128")
    assert row == dict(target="h100", devices=4)
    python = interpreter('{"jax": "0.10.2"}', "XError: RESOURCE_EXHAUSTED", 1)
    row = bench.compiled("v5e", 1, {}, python=python)
    assert row["fits"] is False and "RESOURCE_EXHAUSTED" in row["error"]
    assert row["jax"] == "0.10.2"


def test_a_step_that_compiles_is_the_row_that_its_process_printed(interpreter, tmp_path):
    python = interpreter('a line of a library\n{"fits": true}')
    assert bench.compiled("v5e", 1, {}, python=python, hlo=tmp_path / "new" / "a.hlo") == {
        "fits": True
    }
    assert (tmp_path / "new").is_dir()


def test_the_table_the_file_and_the_exit_status_tell_of_a_failure(monkeypatch, tmp_path, capsys):
    def compiled(target, devices, model, **options):
        if model["backbone"] == "bad":
            return dict(target=target, devices=devices, error="exit status -6: abort")
        row = dict.fromkeys(bench.COLUMNS, 1) | dict.fromkeys(bench.CUDA_COLUMNS, 2)
        return row | dict(fits=False, temporaries_mib=12345.6)

    monkeypatch.setattr(bench, "compiled", compiled)
    monkeypatch.setattr(bench, "environment", lambda target: "python")
    out = tmp_path / "rows.json"
    command = ["bench", "--target=h100", f"--out={out}", "bad:64:8", "good:64:8"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="not compiled: bad:64:8"):
        bench.main()
    table = capsys.readouterr().out.splitlines()
    assert table[2] == "| bad:64:8 | exit status -6: abort |"
    assert table[3].startswith("| good:64:8 | 1 | 1 | 12,346 | NO |")
    assert table[0].count("|") == table[1].count("|") == table[3].count("|")
    assert [row["case"] for row in json.loads(out.read_text())["rows"]] == ["bad:64:8", "good:64:8"]


TPU = """HloModule jit_step, input_output_alias={ {0}: (0, {}, may-alias) }, is_scheduled=true

ENTRY %main (x: f32[1048576]) -> f32[1048576] {
  %x = f32[1048576]{0:T(1024)} parameter(0)
  %a = f32[1048576]{0:T(1024)} all-reduce(%x), to_apply=%add
  ROOT %b = f32[1048576]{0:T(1024)} negate(%a), backend_config={"estimated_cycles":"3000000"}
}
"""


def test_a_tpu_row_takes_the_largest_of_three_times():
    mib = 2**20
    cost = {"flops": 197e9, "bytes accessed": 16.0 * mib}
    row = bench.figures(TPU, "v5e", 32, cost, top=1)
    assert row["aliased"] == 1 and row["collectives"] == {"all-reduce": 1}
    assert row["ms_peak"] == pytest.approx(1.0)
    assert row["hbm_bytes"] == row["bytes"] == 16 * mib
    assert row["ms_bandwidth"] == pytest.approx(1e3 * 16 * mib / 819e9)
    # 2 ms of cycles, and the all-reduce by its bytes
    assert row["ms_cycles"] == pytest.approx(2.0 + 1e3 * 8 * mib / 819e9)
    assert row["images_per_s"] == pytest.approx(32e3 / row["ms_cycles"])
    assert [names[3] for names in row["breakdown"]] == ["b"]


def test_a_cuda_row_has_convolutions_and_no_times():
    row = bench.figures(TPU, "h100", 32, {})
    assert row["bf16_convolutions"] == row["f32_convolutions"] == 0
    assert "bytes" not in row and "ms_cycles" not in row


def test_each_gpu_has_a_description_with_its_memory():
    assert bench.room("h100") == 0.75 * 84929347584
    assert 39e9 * 0.75 < bench.room("a100") < 86e9 * 0.75
    assert bench.room("v5e") == 16 * 2**30
