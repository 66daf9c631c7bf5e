"""A PTX module as data: functions as flat lists of statements, names already resolved.

`parse.parse` makes it from text, `translate` turns it into C++. An operand is one of the classes
below; `Opaque` is one that no rule accepts.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

SIZES = {
    "pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4,
    "b64": 8, "u64": 8, "s64": 8, "f64": 8, "b128": 16,
}  # fmt: skip


class PtxError(ValueError):
    """PTX that cannot be read, or that the emulator refuses to run rather than guess."""


@dataclass(frozen=True, slots=True)
class Source:
    """A line of CUDA C++; ``caller`` is where the compiler inlined its function."""

    file: str
    line: int
    caller: "Source | None" = None

    def __str__(self) -> str:
        inlined = f", inlined at {self.caller}" if self.caller else ""
        return f"{self.file}:{self.line}{inlined}"


@dataclass(frozen=True, slots=True)
class Register:
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Special:
    """A read-only register of the machine: ``%tid.x``, ``%laneid``, ``WARP_SZ``."""

    name: str


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant: an integer, or the bits of a float of ``kind`` f32 or f64."""

    value: int
    kind: str = "int"


@dataclass(frozen=True, slots=True)
class Symbol:
    """The address of a variable or parameter, or the name of a label or function."""

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """``[base + offset]``; an absolute address has no base."""

    base: "Register | Symbol | None"
    offset: int


@dataclass(frozen=True, slots=True)
class Vector:
    items: tuple["Operand", ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """``p|q``: a second result."""

    first: "Operand"
    second: "Operand"


@dataclass(frozen=True, slots=True)
class Negated:
    """``!p``"""

    operand: "Operand"


@dataclass(frozen=True, slots=True)
class Sink:
    """``_``: a result nobody wants."""


@dataclass(frozen=True, slots=True)
class Group:
    """``(a, b)``: the arguments or results of a call."""

    items: tuple["Operand", ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    text: str


Operand: TypeAlias = (
    Register
    | Special
    | Immediate
    | Symbol
    | Address
    | Vector
    | Pair
    | Negated
    | Sink
    | Group
    | Opaque
)


@dataclass(frozen=True, slots=True)
class Statement:
    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | None
    guard_negated: bool
    source: Source | None
    line: int  # of the PTX text

    @property
    def where(self) -> str:
        return str(self.source) if self.source else f"line {self.line} of the PTX"


@dataclass(frozen=True, slots=True)
class Label:
    name: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A named piece of memory. ``size`` is in bytes; extern shared arrays have size 0."""

    space: str
    name: str
    type: str
    align: int
    size: int
    init: bytes | None = None
    extern: bool = False


@dataclass
class Function:
    name: str
    is_entry: bool
    params: list[Variable] = field(default_factory=list)
    results: list[Variable] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)  # name -> type
    variables: dict[str, Variable] = field(default_factory=dict)
    body: list[Statement | Label] | None = None  # None: declared only
    max_threads: int | None = None


@dataclass
class Module:
    version: str = ""
    target: str = ""
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)

    @property
    def entries(self) -> dict[str, Function]:
        return {name: f for name, f in self.functions.items() if f.is_entry and f.body is not None}
