"""What the text of a compiled XLA program says: bytes, time, collectives, donated inputs.

In: `compiled.as_text()`, the scheduled HLO of one device.  Out: `Program`.  Nothing here needs JAX.

- A loop's body counts times its trips; XLA's own cost analysis counts it once.
- A fusion is charged as one operation; what it calls is not charged again.
- Bytes are those of the device's main memory, with the padding of TPU tiles.  Arrays that the
  compiler keeps in another memory space (S(1) on TPU: on the chip) cost none.
- Slices and updates in place move what they touch; a gather at least one tile a slice.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Values' names, and operations whose called computation is charged in their place.
FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "async-start",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
)
# The compiler starts these early, beside other work: they cost bytes, but no time of their own.
PREFETCHES = ("copy-start", "slice-start")
SECTOR = 32  # bytes that a GPU reads at once

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_LINE = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"\b(?:calls|body|branch_computations|true_computation|false_computation)="
    r"\{?((?:%[\w.\-]+(?:, )?)+)"
)


class Array(NamedTuple):
    """An array's type: dims are logical, `order` lists dimensions from the fastest to the slowest.

    tile: of the fastest dimensions, slowest first; (): none.  space: 0 is main memory.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    space: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of main memory, with padding."""
        if self.space:
            return 0
        sides = [self.dims[i] for i in reversed(self.order)]
        sides = [1] * (len(self.tile) - len(sides)) + sides
        for place, side in enumerate(reversed(self.tile), 1):
            sides[-place] = -(-sides[-place] // side) * side
        return math.prod(sides) * bits(self.dtype) // 8


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    kind: str
    arrays: tuple[Array, ...]  # of its result
    operands: tuple[str, ...]
    line: str
    root: bool

    @property
    def bytes(self) -> int:
        """Of the result."""
        return sum(array.bytes for array in self.arrays)

    @property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate, where it gives one."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.line)
        return int(found[1]) if found else None

    @property
    def op_name(self) -> str:
        """Path of the traced operation that it comes from, without the outermost jit."""
        return re.sub(r"^jit\(\w+\)/", "", self.attribute(r'op_name="([^"]*)"'))

    @property
    def collective(self) -> str:
        """Its kind among COLLECTIVES, or ""."""
        kind = self.kind.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""

    @property
    def is_convolution(self) -> bool:
        """Whether it is one, of XLA or of cuDNN; TPU programs write matrix products so, too."""
        return self.kind == "convolution" or 'custom_call_target="__cudnn$conv' in self.line

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in its line, or ""."""
        found = re.search(pattern, self.line)
        return found[1] if found else ""


class Charge(NamedTuple):
    """What one operation costs in a call: milliseconds, bytes; `estimated`: by the compiler."""

    instruction: Instruction
    ms: float
    bytes: int
    estimated: bool


Computation = dict[str, Instruction]


class Program:
    """The computations of a program by name, and how often each runs in one call."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.computations, entry = parse(text)
        self.runs: Counter[str] = Counter()  # a loop's body times its trips
        self.visits: Counter[str] = Counter()  # a loop's body once
        self.scheduled: set[str] = set()  # run operation by operation, not inside a fusion
        self.unknown_loops = 0  # whose trips the text does not say; counted once
        self._count(entry, 1, True)
        self.frames = stack_frames(text)

    def _count(self, name: str, runs: int, scheduled: bool) -> None:
        self.runs[name] += runs
        self.visits[name] += 1
        if scheduled:
            self.scheduled.add(name)
        for one in self.computations[name].values():
            trips = 1
            if one.kind == "while":
                trips = self.trips(one)
                self.unknown_loops += not trips
            for names in _CALLED.findall(one.line):
                for called in re.findall(r"[\w.\-]+", names):
                    self._count(called, runs * (trips or 1), scheduled and one.kind != "fusion")

    def trips(self, loop: Instruction) -> int:
        """How often a while loop's body runs; 0: the text does not say.

        By `known_trip_count`, else by the largest integer constant of the condition: JAX's `scan`
        and `fori_loop` compare a counter that starts at 0 with it.
        """
        known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if known:
            return int(known)
        bounds, names = [0], [loop.attribute(r"\bcondition=%([\w.\-]+)")]
        while names:
            for one in self.computations[names.pop()].values():
                names += re.findall(r"\bcalls=%([\w.\-]+)", one.line)
                bounds += map(int, re.findall(r"= [su]\d+\[\]\S* constant\((\d+)\)", one.line))
        return max(bounds)

    def instructions(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction, those inside fusions too, with how often it runs in a call."""
        for name, runs in self.runs.items():
            for one in self.computations[name].values():
                yield one, runs

    def collectives(self) -> dict[str, int]:
        """Collectives by kind in one call."""
        count: Counter[str] = Counter()
        for one, runs in self.instructions():
            if one.collective:
                count[one.collective] += runs
        return dict(count)

    def convolutions(self) -> list[tuple[str, Instruction]]:
        """(type of what it convolves, instruction)."""
        return [
            (around[one.operands[0]].arrays[0].dtype, one)
            for around in (self.computations[name] for name in self.runs)
            for one in around.values()
            if one.is_convolution
        ]

    def gathers(self) -> list[Instruction]:
        """Gathers, also those inside fusions."""
        return [one for one, _ in self.instructions() if one.kind == "gather"]

    def aliased_inputs(self) -> int:
        """Inputs whose memory an output takes: the donated state."""
        found = re.search(r"input_output_alias=\{(.*?)\}, [a-z_]+=", self.text.split("\n", 1)[0])
        return len(re.findall(r"\{[\d, ]*\}: \(\d+,", found[1])) if found else 0

    def charges(self, bandwidth: float, clock: float) -> list[Charge]:
        """Each scheduled operation's time and bytes in one call.

        Time is the compiler's cycles over `clock` [Hz]; without an estimate it is the operation's
        bytes over `bandwidth` [bytes/s], and 0 of PREFETCHES.
        """
        charged = []
        for name in self.scheduled:
            for one in self.computations[name].values():
                moved = self.moved(self.computations[name], one)
                seconds = moved / bandwidth * (one.kind not in PREFETCHES)
                if one.cycles is not None:
                    seconds = one.cycles / clock
                runs = self.runs[name]
                charged.append(
                    Charge(one, 1e3 * seconds * runs, moved * runs, one.cycles is not None)
                )
        return charged

    def moved(self, around: Computation, one: Instruction) -> int:
        """Bytes that an instruction of the computation `around` reads and writes, once."""
        if one.kind in FREE or one.kind.endswith("-done"):
            return 0
        operands = [around[name] for name in one.operands if name in around]
        if one.kind == "fusion":
            called = self.computations[one.attribute(r"\bcalls=%([\w.\-]+)")]
            read = sum(_read_of_parameter(called, x) for x in called.values())
            return read + _written_by_root(called, next(x for x in called.values() if x.root))
        if one.kind in ("slice", "dynamic-slice"):
            return 2 * one.bytes
        if one.kind == "gather":
            return _gathered(one, operands[0]) + operands[1].bytes + one.bytes
        if one.kind == "dynamic-update-slice":
            return 2 * operands[1].bytes
        if one.kind == "scatter":  # reads, changes and writes what the updates cover
            return operands[1].bytes + 3 * operands[2].bytes
        if one.kind == "copy-start":  # (to, from, context)
            return one.arrays[0].bytes + operands[0].bytes
        return one.bytes + sum(x.bytes for x in operands) * (not one.kind.endswith("-start"))

    def loop_factor(self, amount: Callable[[Computation, Instruction], float]) -> float:
        """What a call costs over what it would cost with every loop's body run once."""
        once = times = 0.0
        for name, runs in self.runs.items():
            around = self.computations[name]
            total = sum(amount(around, one) for one in around.values())
            once += self.visits[name] * total
            times += runs * total
        return times / once if once else 1.0

    def bytes_factor(self) -> float:
        """`loop_factor` of the bytes."""
        top = {id(self.computations[name]) for name in self.scheduled}
        return self.loop_factor(lambda around, one: self.moved(around, one) * (id(around) in top))

    def flops_factor(self) -> float:
        """`loop_factor` of the convolutions' and products' operations."""
        return self.loop_factor(_products)

    def source(self, one: Instruction) -> str:
        """ "file.py:line function" of the innermost line of hpa_jax, else of the innermost."""
        chain = self.frames.get(int(one.attribute(r"stack_frame_id=(\d+)") or 0), [])
        ours = [frame for frame in chain if "hpa_jax/" in frame[0]] or chain
        if not ours:
            return ""
        path, line, function = ours[0]
        return f"{path.rsplit('/', 1)[-1]}:{line} {function.replace('.<locals>', '')}"

    def comes_from(self, one: Instruction, file: str) -> bool:
        """Whether a line of `file` (end of its path) is among those that led to an instruction."""
        chain = self.frames.get(int(one.attribute(r"stack_frame_id=(\d+)") or 0), [])
        return any(path.endswith(file) for path, _, _ in chain)


def breakdown(
    program: Program, charges: list[Charge], top: int
) -> list[tuple[float, int, int, str, str, str]]:
    """(ms, bytes, operations, kind, traced operation, source) of the `top` most expensive groups.

    The kind is the name that the compiler gave, without its number; "*" marks one that it gave no
    estimate for.
    """
    groups: dict[tuple[str, str, str], list[Charge]] = {}
    for charge in charges:
        one = charge.instruction
        kind = re.sub(r"(\.(clone|remat)\d*|[.\d]+)+$", "", one.name) + "*" * (not charge.estimated)
        groups.setdefault((kind, one.op_name, program.source(one)), []).append(charge)
    rows = [
        (sum(x.ms for x in some), sum(x.bytes for x in some), len(some), *key)
        for key, some in groups.items()
    ]
    return sorted(rows, reverse=True)[:top]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """({computation: {name: instruction}}, name of the entry computation)."""
    found: dict[str, Computation] = {}
    entry = ""
    current: Computation | None = None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = found[head[2]] = {}
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif match := _LINE.match(line):
            current[match[2]] = _instruction(match[2], match[3], line, bool(match[1]))
    return found, entry


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape's text, those of a tuple in order."""
    return tuple(
        Array(
            dtype,
            _numbers(dims),
            _numbers(order) or tuple(reversed(range(len(_numbers(dims))))),
            _numbers(tile[1]) if (tile := re.search(r"T\(([\d,]+)\)", layout)) else (),
            int(space[1]) if (space := re.search(r"S\((\d+)\)", layout)) else 0,
        )
        for dtype, dims, order, layout in _ARRAY.findall(shape)
    )


def bits(dtype: str) -> int:
    """Bits of a value of an HLO type; 0 of a token."""
    number = re.search(r"\d+", dtype)
    return 8 if dtype == "pred" else int(number[0]) if number else 0


def stack_frames(text: str) -> dict[int, list[tuple[str, int, str]]]:
    """{stack_frame_id: [(file, line, function), ...]}, innermost first, of the text's tables."""

    def table(name: str, pattern: str) -> dict[int, tuple[str, ...]]:
        body = re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
        rows = re.findall(rf"^(\d+) {pattern}", body[1], re.MULTILINE) if body else []
        return {int(number): values for number, *values in rows}

    files, functions = table("FileNames", '"(.*)"'), table("FunctionNames", '"(.*)"')
    places = table("FileLocations", r"\{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)")
    frames = table("StackFrames", r"\{file_location_id=(\d+)(?: parent_frame_id=(\d+))?")
    # Parents are counted from 0 or from 1; the first frame has none.
    none = int(frames[1][1] or 0) if frames else 0
    chains: dict[int, list[tuple[str, int, str]]] = {}
    for number, (place, parent) in frames.items():
        file, function, line = (int(value) for value in places[int(place)])
        here = (files[file][0], line, functions[function][0])
        chains[number] = [here, *chains.get(int(parent or 0) - none, [])]
    return chains


def _instruction(name: str, rest: str, line: str, root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, call = rest[:end], rest[end:].lstrip()
    opening = call.index("(")
    inside = call[opening : _closing(call, opening)]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, call[:opening], arrays(shape), operands, line, root)


def _closing(text: str, opening: int) -> int:
    """Position of the parenthesis that closes the one at `opening`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"no closing parenthesis: {text[:200]}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _gathered(one: Instruction, operand: Instruction) -> int:
    """Bytes that a gather reads of its operand: at least one tile, or sector, a slice."""
    array = operand.arrays[0]
    if array.space:
        return 0
    each = math.prod(_numbers(one.attribute(r"slice_sizes=\{([\d,]+)\}"))) or 1
    least = math.prod(array.tile) * bits(array.dtype) // 8 if array.tile else SECTOR
    return one.arrays[0].elements // each * max(least, each * bits(array.dtype) // 8)


def _read_of_parameter(called: Computation, parameter: Instruction) -> int:
    """Bytes of a fusion's parameter that the fusion reads."""
    if parameter.kind != "parameter" or not parameter.bytes:
        return 0
    names, touched = {parameter.name}, 0
    for one in called.values():  # operands come before their users
        first = bool(one.operands) and one.operands[0] in names
        if not names.intersection(one.operands):
            continue
        if one.kind == "bitcast":
            names.add(one.name)
        elif first and one.kind in ("slice", "dynamic-slice"):
            touched += sum(x.elements * bits(x.dtype) // 8 for x in one.arrays)
        elif first and one.kind == "gather":
            touched += _gathered(one, parameter)
        elif not (first and one.kind == "dynamic-update-slice"):
            return parameter.bytes
    return touched


def _written_by_root(called: Computation, root: Instruction) -> int:
    """Bytes that a fusion writes: of an update in place, the update's alone."""
    if root.kind == "tuple":
        return sum(_written_by_root(called, called[name]) for name in root.operands)
    if root.kind == "bitcast" and called[root.operands[0]].kind == "dynamic-update-slice":
        root = called[root.operands[0]]
    if root.kind == "dynamic-update-slice":
        written = sum(x.bytes for x in called[root.operands[1]].arrays)
        return min(written, root.bytes)
    return root.bytes


def _products(around: Computation, one: Instruction) -> float:
    """Multiply-adds of a convolution or product times 2, padding included; else 0."""
    if one.kind == "dot" and one.operands[0] in around:
        left = around[one.operands[0]].arrays[0]
        over = _numbers(one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}"))
        return 2.0 * one.arrays[0].elements * math.prod(left.dims[i] for i in over)
    if one.kind == "convolution" and one.operands[1] in around:
        kernel = around[one.operands[1]].arrays[0]
        labels = one.attribute(r"dim_labels=\w+_(\w+)->")
        return 2.0 * one.arrays[0].elements * kernel.elements / kernel.dims[labels.index("o")]
    return 0.0
