"""What a program costs each of the devices it is sharded over, read off its compiled text.

`costs` counts, for each nest of loops whose length only the run knows,

- collectives, and the numbers in each of them, of one array or of several;
- on arrays of about the length of a device's part of a vector: the traffic of memory
  (operands and results of each kernel; of slices what they are made of) and the
  operations (products of matrices, sums, elementwise arithmetic), both in numbers.

A loop of known length counts as often as it runs, a branch as if it were always taken.
"""

import collections
import dataclasses
import math
import re


COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "reduce-scatter",
)
# These move nothing.
_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "iota",
    "after-all",
)
_ARITHMETIC = "add", "subtract", "multiply", "divide", "reduce", "select", "sqrt"
_SLICES = "dynamic-slice", "slice"


@dataclasses.dataclass(frozen=True)
class Instruction:
    op: str
    shapes: tuple[tuple[int, ...], ...]
    operands: tuple[str, ...]
    text: str

    @property
    def size(self) -> int:
        return sum(map(math.prod, self.shapes))

    def called(self, *attributes: str) -> list[str]:
        """Names of computations."""
        pattern = rf"\b(?:{'|'.join(attributes)})=\{{?((?:%[\w.\-]+(?:, )?)+)"
        groups = re.findall(pattern, self.text)
        return [name for group in groups for name in re.findall(r"%([\w.\-]+)", group)]


@dataclasses.dataclass
class Cost:
    """Of what stands in the innermost of a nest of loops."""

    collectives: collections.Counter  # of (name, numbers)
    traffic: int = 0
    operations: int = 0


Computation = dict[str, Instruction]


def computations(text: str) -> dict[str, Computation]:
    """Of a program in HLO, by name; "ENTRY" is where it begins."""
    found, current = {}, {}
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%([\w.\-]+) .*\{$", line):
            current = found["ENTRY" if head[1] else head[2]] = {}
        elif made := re.match(
            r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line
        ):
            name, shape, op, rest = made.groups()
            shapes = re.findall(r"\w\[([\d,]*)\]", shape)
            dims = tuple(tuple(int(d) for d in x.split(",") if d) for x in shapes)
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.split(")")[0]))
            op = op.removesuffix("-start")
            current[name] = Instruction(op, dims, operands, line)
    return found


def costs(text: str, part: int) -> dict[tuple[str, ...], Cost]:
    """Of a compiled program, by the names of the loops around, outermost first. `part` is
    the length of a device's part of a vector."""
    return _Reader(computations(text), part).costs()


class _Reader:
    def __init__(self, program: dict[str, Computation], part: int):
        self.program, self.least = program, part // 2

    def costs(self) -> dict[tuple[str, ...], Cost]:
        self.found = {}
        self._read("ENTRY", (), 1)
        return self.found

    def _read(self, name: str, nest: tuple[str, ...], times: int) -> None:
        block = self.program[name]
        cost = self.found.setdefault(nest, Cost(collections.Counter()))
        for name, x in block.items():
            if x.op == "while":
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', x.text)
                inside = nest if known else (*nest, name)
                (body,) = x.called("body")
                self._read(body, inside, times * int(known[1]) if known else times)
            elif x.op in ("conditional", "call"):
                branches = "branch_computations", "true_computation", "false_computation"
                for inner in x.called("to_apply", *branches):
                    self._read(inner, nest, times)
            elif x.op in COLLECTIVES:
                # What is started returns its operand too.
                sizes = list(map(math.prod, x.shapes))
                size = max(sizes) if f" {x.op}-start(" in x.text else sum(sizes)
                cost.collectives[x.op, size] += times
            else:
                cost.traffic += times * self._traffic(x, block)
                cost.operations += times * self._operations(x, block)

    def _large(self, size: int) -> int:
        return size if size >= self.least else 0

    def _traffic(self, x: Instruction, block: Computation) -> int:
        if x.op in _FREE or x.op.endswith("-done"):
            return 0
        if x.op == "fusion":
            (inner,) = x.called("calls")
            return self._of_fusion(self.program[inner], x)
        if x.op in _SLICES:
            return 2 * self._large(x.size)
        if x.op == "dynamic-update-slice":
            return 2 * self._large(block[x.operands[1]].size)
        operands = [block[name] for name in x.operands if name in block]
        return sum(self._large(y.size) for y in (x, *operands))

    def _of_fusion(self, inside: Computation, whole: Instruction) -> int:
        total, written = 0, whole.size
        for name, x in inside.items():
            if x.op != "parameter":
                continue
            users = [y for y in inside.values() if name in y.operands]
            if users and all(y.op in _SLICES for y in users):
                total += sum(self._large(y.size) for y in users)
            elif any(
                y.op == "dynamic-update-slice" and y.operands[0] == name for y in users
            ):
                # In place: of this array, only the slice is written.
                (update,) = (y for y in users if y.op == "dynamic-update-slice")
                written += inside[update.operands[1]].size - update.size
            else:
                total += self._large(x.size)
        return total + self._large(written)

    def _operations(self, x: Instruction, block: Computation) -> int:
        if x.op == "fusion":
            (inner,) = x.called("calls")
            inside = self.program[inner]
            return sum(self._operations(y, inside) for y in inside.values())
        if x.op == "dot":
            left = block[x.operands[0]].shapes[0]
            dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.text)
            length = math.prod(left[int(d)] for d in dims[1].split(",")) if dims else 1
            return 2 * self._large(x.size * length)
        if x.op not in _ARITHMETIC:
            return 0
        size = block[x.operands[0]].size if x.op == "reduce" else x.size
        return self._large(size)
