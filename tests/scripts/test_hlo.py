"""scripts/hlo.py on short programs: each figure against one counted by hand."""

import pytest

from scripts import hlo

HEAD = "HloModule jit_step, is_scheduled=true"
# One slice of 8 of the rows, added up: a loop of 7 trips, whose body calls a fusion.
LOOP = """%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[8,4,128], q: bf16[128,256], i: s32[]) -> bf16[4,256] {
  %p = bf16[8,4,128]{2,1,0} parameter(0)
  %q = bf16[128,256]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %row = bf16[1,4,128]{2,1,0} dynamic-slice(%p, %i, %zero, %zero), dynamic_slice_sizes={1,4,128}
  %flat = bf16[4,128]{1,0} bitcast(%row)
  ROOT %c = bf16[4,256]{1,0} convolution(%flat, %q), dim_labels=bf_io->bf
}

%body (state: (s32[], bf16[8,4,128], bf16[128,256], bf16[4,256])) -> (s32[], bf16[8,4,128]) {
  %state = (s32[], bf16[8,4,128], bf16[128,256], /*index=3*/bf16[4,256]) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %x = bf16[8,4,128]{2,1,0} get-tuple-element(%state), index=1
  %w = bf16[128,256]{1,0} get-tuple-element(%state), index=2
  %dot = bf16[4,256] fusion(%x, %w, %n), calls=%fused, backend_config={"estimated_cycles":"1500"}
  %all = bf16[4,256]{1,0} all-reduce(%dot), to_apply=%add
  ROOT %next = (s32[], bf16[8,4,128], bf16[128,256], bf16[4,256]) tuple(%n, %x, %w, %all)
}

%bound (state.1: (s32[], bf16[8,4,128], bf16[128,256], bf16[4,256])) -> pred[] {
  %state.1 = (s32[], bf16[8,4,128], bf16[128,256], bf16[4,256]) parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  %last = s32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%n.1, %last), direction=LT
}

ENTRY %main (arg: (s32[], bf16[8,4,128], bf16[128,256], bf16[4,256])) -> bf16[4,256] {
  %arg = (s32[], bf16[8,4,128], bf16[128,256], bf16[4,256]) parameter(0)
  %loop = (s32[], bf16[8,4,128]) while(%arg), condition=%bound, body=%body
  %out = bf16[4,256]{1,0} get-tuple-element(%loop), index=3
  ROOT %twice = bf16[4,256]{1,0} add(%out, %out)
}
"""
# Of one fused step: what it reads of the slice, the kernel whole, the counter; what it writes.
STEP = 4 * 128 * 2 + 128 * 256 * 2 + 4 + 4 * 256 * 2
REDUCED = 2 * 4 * 256 * 2


def program(body: str, head: str = HEAD) -> hlo.Program:
    """A program of one entry computation with these lines, or of these computations."""
    if "ENTRY" not in body:
        body = f"ENTRY %main (x: f32[]) -> f32[] {{\n{body}}}\n"
    return hlo.Program(f"{head}\n\n{body}")


def bytes_of(body: str) -> dict[str, int]:
    """{instruction: bytes moved} of the entry computation."""
    charges = program(body).charges(1.0, 1.0)
    return {charge.instruction.name: charge.bytes for charge in charges if charge.bytes}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[32,64]{1,0}", 32 * 64 * 4),
        ("pred[]", 1),
        ("f32[8,64,64,4]{3,2,1,0:T(8,128)}", 8 * 64 * 64 * 128 * 4),  # 4 channels in 128 lanes
        ("f32[8,64,64,4]{2,3,1,0:T(4,128)}", 8 * 64 * 4 * 128 * 4),  # a row of 64 in 128
        ("bf16[32,256,256,64]{2,3,1,0:T(8,128)(2,1)}", 32 * 256 * 256 * 64 * 2),
        ("f32[24]{0:T(128)}", 128 * 4),
        ("f32[24]{0:T(128)S(1)}", 0),  # on the chip
        ("(bf16[8]{0}, (f32[2]{0}, s32[]))", 16 + 8 + 4),
        ("f32[8388608,4]{0,1:T(4,128)}", 8388608 * 4 * 4),
    ],
)
def test_bytes_of_a_shape_with_the_padding_of_its_tiles(shape, expected):
    assert sum(array.bytes for array in hlo.arrays(shape)) == expected


def test_a_loop_counts_times_its_trips_and_a_fusion_once():
    loop = program(LOOP)
    assert loop.runs["body"] == loop.runs["fused"] == 7 and loop.runs["main"] == 1
    assert loop.collectives() == {"all-reduce": 7}
    charges = {charge.instruction.name: charge for charge in loop.charges(1e6, 1e6)}
    assert charges["dot"].bytes == 7 * STEP and charges["dot"].ms == pytest.approx(7 * 1.5)
    assert charges["dot"].estimated and not charges["all"].estimated
    assert charges["all"].ms == pytest.approx(7 * 1e3 * REDUCED / 1e6)
    assert "c" not in charges and "row" not in charges  # the fusion's, charged with it
    twice = 3 * 4 * 256 * 2
    each = STEP + REDUCED
    assert loop.bytes_factor() == pytest.approx((7 * each + twice) / (each + twice))
    assert loop.flops_factor() == pytest.approx(7)


def test_known_trip_counts_go_first_and_unknown_ones_are_reported():
    known = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert program(known).runs["body"] == 3
    unknown = program(LOOP.replace("constant(7)", "parameter(1)"))
    assert unknown.runs["body"] == 1 and unknown.unknown_loops == 1
    assert program(LOOP).unknown_loops == 0


def test_a_gather_reads_at_least_a_tile_a_slice():
    moved = bytes_of(
        "  %x = f32[4096,4]{0,1:T(4,128)} parameter(0)\n"
        "  %i = s32[1000]{0:T(1024)} parameter(1)\n"
        "  ROOT %g = f32[1000,4]{0,1:T(4,128)} gather(%x, %i), offset_dims={1}, "
        "slice_sizes={1,4}\n"
    )
    assert moved == {"g": 1000 * 4 * 128 * 4 + 1024 * 4 + 1024 * 4 * 4}


def test_a_fused_gather_is_charged_by_what_it_reads():
    moved = bytes_of(
        "%take (p: f32[4096,4], q: s32[1000]) -> f32[1000,4] {\n"
        "  %p = f32[4096,4]{1,0} parameter(0)\n"
        "  %q = s32[1000]{0} parameter(1)\n"
        "  ROOT %g = f32[1000,4]{1,0} gather(%p, %q), offset_dims={1}, slice_sizes={1,4}\n"
        "}\n\n"
        "ENTRY %main (x: f32[4096,4], i: s32[1000]) -> f32[1000,4] {\n"
        "  %x = f32[4096,4]{1,0} parameter(0)\n"
        "  %i = s32[1000]{0} parameter(1)\n"
        "  ROOT %f = f32[1000,4]{1,0} fusion(%x, %i), kind=kCustom, calls=%take\n"
        "}\n"
    )
    assert moved == {"f": 1000 * hlo.SECTOR + 1000 * 4 + 1000 * 4 * 4}


def test_an_update_in_place_moves_the_update():
    update = (
        "  %x = f32[100,128]{1,0} parameter(0)\n  %u = f32[1,128]{1,0} parameter(1)\n"
        "  %i = s32[] parameter(2)\n"
        "  ROOT %d = f32[100,128]{1,0} dynamic-update-slice(%x, %u, %i)\n"
    )
    assert bytes_of(update) == {"d": 2 * 128 * 4}
    fused = (
        f"%put (x: f32[100,128], u: f32[1,128], i: s32[]) -> f32[100,128] {{\n{update}}}\n\n"
        "ENTRY %main (a: f32[100,128], b: f32[1,128], c: s32[]) -> f32[100,128] {\n"
        "  %a = f32[100,128]{1,0} parameter(0)\n  %b = f32[1,128]{1,0} parameter(1)\n"
        "  %c = s32[] parameter(2)\n"
        "  ROOT %f = f32[100,128]{1,0} fusion(%a, %b, %c), kind=kLoop, calls=%put\n}\n"
    )
    assert bytes_of(fused) == {"f": 2 * 128 * 4 + 4}


def test_copies_ahead_of_time_cost_bytes_and_no_time():
    text = (
        "  %w = f32[64,128]{1,0:T(8,128)} parameter(0)\n"
        "  %s = (f32[64,128]{1,0:T(8,128)S(1)}, f32[64,128]{1,0:T(8,128)}, u32[]{:S(2)}) "
        "copy-start(%w)\n"
        "  ROOT %d = f32[64,128]{1,0:T(8,128)S(1)} copy-done(%s)\n"
    )
    charges = program(text).charges(1e9, 1e9)
    assert sum(charge.bytes for charge in charges) == 64 * 128 * 4
    assert sum(charge.ms for charge in charges) == 0


def test_started_collectives_count_once():
    text = (
        "  %x = f32[16]{0} parameter(0)\n"
        "  %s = (f32[16]{0}, f32[64]{0}) all-gather-start(%x), dimensions={0}\n"
        "  %d = f32[64]{0} all-gather-done(%s)\n"
        "  ROOT %r = (f32[16]{0}, f32[8]{0}) all-reduce(%x, %x), to_apply=%add\n"
    )
    assert program(text).collectives() == {"all-gather": 1, "all-reduce": 1}


def test_convolutions_have_the_type_of_what_they_convolve():
    text = (
        "  %x = bf16[8,16,16,4]{3,2,1,0} parameter(0)\n  %k = bf16[3,3,4,8]{3,2,1,0} parameter(1)\n"
        "  %y = f32[8,16,16,4]{3,2,1,0} convert(%x)\n"
        "  %a = (f32[8,16,16,8]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), "
        'custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp()/conv"}\n'
        "  ROOT %b = f32[8,16,16,8]{3,2,1,0} convolution(%y, %k), dim_labels=b01f_01io->b01f\n"
    )
    found = program(text).convolutions()
    assert [(dtype, one.name) for dtype, one in found] == [("bf16", "a"), ("f32", "b")]
    assert found[0][1].op_name == "jvp()/conv"


def test_donated_inputs_are_counted_in_the_head():
    aliases = "{ {0}: (0, {}, may-alias), {1, 0}: (3, {}, must-alias), {}: (5, {}, may-alias) }"
    head = f"{HEAD}, input_output_alias={aliases}, entry_computation_layout={{(f32[])->f32[]}}"
    assert program(LOOP, head).aliased_inputs() == 3
    assert program(LOOP).aliased_inputs() == 0


@pytest.mark.parametrize("none", [0, 1])  # what the first frame's parent is, by XLA's version
def test_sources_are_the_innermost_lines_of_the_package(none):
    tables = (
        'FileNames\n1 "/a/hpa_jax/training/step.py"\n2 "/a/hpa_jax/models/layers.py"\n'
        '3 "/lib/flax/nn.py"\n\nFunctionNames\n1 "step.<locals>.loss"\n2 "BatchNorm.__call__"\n\n'
        "FileLocations\n1 {file_name_id=1 function_name_id=1 line=10 end_line=10}\n"
        "2 {file_name_id=2 function_name_id=2 line=20 end_line=21}\n"
        "3 {file_name_id=3 function_name_id=2 line=30}\n\n"
        f"StackFrames\n1 {{file_location_id=1 parent_frame_id={none}}}\n"
        f"2 {{file_location_id=2 parent_frame_id={none + 1}}}\n"
        f"3 {{file_location_id=3 parent_frame_id={none + 2}}}\n"
    )
    text = '  ROOT %x = f32[2]{0} iota(), metadata={op_name="jit(step)/a" stack_frame_id=3}\n'
    found = program(text, f"{HEAD}\n\n{tables}")
    one = found.computations["main"]["x"]
    assert found.source(one) == "layers.py:20 BatchNorm.__call__"
    assert found.comes_from(one, "training/step.py") and not found.comes_from(one, "augment.py")


def test_the_breakdown_adds_up_operations_of_one_kind_and_source():
    text = (
        "  %x = f32[64]{0} parameter(0)\n"
        '  %add.1 = f32[64]{0} add(%x, %x), metadata={op_name="jit(step)/sum"}\n'
        '  %add.2.clone = f32[64]{0} add(%x, %x), metadata={op_name="jit(step)/sum"}\n'
        '  ROOT %fusion = f32[8]{0} copy(%x), backend_config={"estimated_cycles":"9"}\n'
    )
    found = program(text)
    rows = hlo.breakdown(found, found.charges(1e3, 1e3), top=2)
    assert rows[0] == (pytest.approx(2 * 768.0), 2 * 768, 2, "add*", "sum", "")
    assert rows[1][:4] == (pytest.approx(9.0), 64 * 4 + 8 * 4, 1, "fusion")
