"""What the emulator executes: a table from a PTX opcode, modifiers included, to its rules.

A rule names every operand form it takes and how the statement reads in C++. The table is finite:
``TABLE`` lists every accepted opcode, a statement that is not in it is refused with its name,
source line and kernel. Nothing is matched by prefix and no modifier is skipped.

Operand forms
-------------
``s32``       a register or constant of this type
``=s32``      a result in a register of this size
``<s32``      a register of this size or wider, of which the low bits count (st, cvt)
``>s32``      a result in a register of this size or wider, extended by the type (ld, cvt)
``!pred``     a predicate or its negation
``=s32|pred`` a result, and a second one that may be missing or ``_``
``{s32*4}``   four sources; ``={s32*4}`` four results, any of them ``_``; ``<`` and ``>`` as above
``[shared]``  an address in a state space; ``[]`` is a generic one
``#``         an integer constant
``&s32``      a register, constant, special register or the address of a variable (mov)
``@``         a label or a function
``()``        the arguments or results of a call
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, TypeAlias

from pyinception.emulator.ptx import (
    SIZES,
    Address,
    Group,
    Immediate,
    Negated,
    Operand,
    Pair,
    PtxError,
    Register,
    Sink,
    Special,
    Statement,
    Symbol,
    Vector,
)  # fmt: skip

# What a rule of more than one expression is written with: see translate.Context.
Emit: TypeAlias = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Slot:
    """One operand of a rule; ``role`` is the sign in front of the type."""

    role: str  # "", =, <, >, !, #, &, @, (, [ (address), | (result and second result)
    type: str = ""
    count: int = 0  # of a vector; 0: a scalar
    second: str = ""
    space: str = ""

    def accepts(self, operand: Operand) -> bool:
        if self.role == "#":
            return isinstance(operand, Immediate) and operand.kind == "int"
        if self.role == "@":
            return isinstance(operand, Symbol) and operand.offset == 0
        if self.role == "(":
            return isinstance(operand, Group) and all(
                isinstance(item, Symbol) for item in operand.items
            )
        if self.role == "[":
            return isinstance(operand, Address) and (
                not isinstance(operand.base, Register) or _holds_address(operand.base, self.space)
            )
        if self.role == "|":
            first = operand.first if isinstance(operand, Pair) else operand
            second = operand.second if isinstance(operand, Pair) else Sink()
            return _is_result(first, self.type, False) and _is_result(second, self.second, False)
        if self.count:
            return (
                isinstance(operand, Vector)
                and len(operand.items) == self.count
                and all(self._accepts_scalar(item) for item in operand.items)
            )
        return self._accepts_scalar(operand)

    def _accepts_scalar(self, operand: Operand) -> bool:
        if self.role in ("=", ">"):
            sink = isinstance(operand, Sink) and self.count > 0
            return sink or (
                not isinstance(operand, Sink) and _is_result(operand, self.type, self.role == ">")
            )
        if self.role == "!" and isinstance(operand, Negated):
            operand = operand.operand
        if isinstance(operand, Register):
            return _fits(operand, self.type, wider=self.role == "<")
        if self.role == "&" and isinstance(operand, (Special, Symbol)):
            return True
        if operand == Special("WARP_SZ"):
            return self.type[0] in "bsu"
        return isinstance(operand, Immediate) and _is_constant(operand, self.type)


def _is_result(operand: Operand, kind: str, wider: bool) -> bool:
    if isinstance(operand, Sink):
        return True
    return isinstance(operand, Register) and _fits(operand, kind, wider)


def _fits(register: Register, kind: str, wider: bool) -> bool:
    if (register.type == "pred") != (kind == "pred"):
        return False
    if SIZES[register.type] != SIZES[kind]:
        return wider and SIZES[register.type] > SIZES[kind] and register.type[0] != "f"
    # Registers of a float type hold floats or bits, those of an integer type no floats.
    if register.type[0] == "f":
        return kind == register.type or kind[0] == "b"
    return register.type[0] == "b" or kind[0] != "f" or kind == "pred"


def _holds_address(register: Register, space: str) -> bool:
    if register.type not in ("b64", "u64", "s64", "b32", "u32", "s32"):
        return False
    return SIZES[register.type] == 8 or space == "shared"


def _is_constant(number: Immediate, kind: str) -> bool:
    if kind in ("pred", "f16", "bf16", "f16x2", "bf16x2", "b8", "u8", "s8"):
        return False
    if number.kind != "int":
        return kind in (number.kind, f"b{8 * SIZES[number.kind]}")
    bits = 8 * SIZES[kind]
    return kind[0] in "bsu" and -(1 << (bits - 1)) <= number.value < 1 << bits


@dataclass(frozen=True, slots=True)
class Rule:
    """``code`` is a C++ expression for the first operand, ``$i`` for operand i, or an `Emit`."""

    opcode: str
    slots: tuple[Slot, ...]
    code: str | Emit

    def accepts(self, operands: tuple[Operand, ...]) -> bool:
        return len(operands) == len(self.slots) and all(
            slot.accepts(operand) for slot, operand in zip(self.slots, operands, strict=True)
        )


_SLOT = re.compile(r"([=<>!&]?)(?:\{(\w+)\*(\d)\}|(\w+)(?:\|(\w+))?)\Z")


@cache
def _slots(text: str) -> tuple[Slot, ...]:
    found = []
    for piece in text.split():
        if piece in ("#", "@", "()"):
            found.append(Slot(piece[0]))
        elif piece[0] == "[":
            found.append(Slot("[", space=piece[1:-1]))
        else:
            match = _SLOT.match(piece)
            assert match, piece
            role, vector, count, kind, second = match.groups()
            kind = vector or kind
            found.append(Slot("|" if second else role, kind, int(count or 0), second or ""))
    return tuple(found)


def rule(opcode: str, operands: str, code: str | Emit) -> Iterator[Rule]:
    """The rules of an opcode pattern: ``{a,b}`` stands for one of its alternatives, maybe none."""
    pieces = [part.split(",") for part in re.split(r"[{}]", opcode)]
    for chosen in product(*pieces):
        yield Rule("".join(chosen), _slots(operands), code)


def collect(groups: Iterable[Iterable[Rule]]) -> dict[str, tuple[Rule, ...]]:
    table: dict[str, tuple[Rule, ...]] = {}
    for group in groups:
        for one in group:
            table[one.opcode] = (*table.get(one.opcode, ()), one)
    return table


def kinds(operands: Iterable[Operand]) -> str:
    """The operand kinds of a statement: ``r`` register, ``i`` integer, ``[r+]`` address, ..."""
    return ",".join(_kind(operand) for operand in operands)


def _kind(operand: Operand) -> str:
    match operand:
        case Register():
            return "r"
        case Immediate():
            return "i" if operand.kind == "int" else "f"
        case Special():
            return operand.name
        case Symbol():
            return "symbol"
        case Address():
            base = "r" if isinstance(operand.base, Register) else "symbol" if operand.base else "i"
            return f"[{base}{'+' if operand.offset > 0 else '-' if operand.offset < 0 else ''}]"
        case Vector():
            return "{" + kinds(operand.items) + "}"
        case Pair():
            return f"{_kind(operand.first)}|{_kind(operand.second)}"
        case Negated():
            return "!" + _kind(operand.operand)
        case Group():
            return "(" + kinds(operand.items) + ")"
        case Sink():
            return "_"
        case _:
            return "?"


def form(statement: Statement) -> str:
    """Opcode, modifiers and operand kinds in one line: what a conformance test covers."""
    return f"{statement.opcode} {kinds(statement.operands)}".strip()


def operand_forms(statement: Statement, kernel: str) -> Iterator[str]:
    """Each operand's slot in the rule and its kind: operands are translated by these two alone."""
    for slot, operand in zip(find(statement, kernel).slots, statement.operands, strict=True):
        vector = f"*{slot.count}" if slot.count else ""
        yield f"{slot.role}{slot.space}{slot.type}{vector} {_kind(operand)}"


def find(statement: Statement, kernel: str) -> Rule:
    """The rule of a statement; PtxError with opcode, source line and kernel where there is none."""
    table = _table()
    rules = table.get(statement.opcode)
    if rules is None:
        stem = statement.opcode.split(".")[0]
        known = any(opcode.split(".")[0] == stem for opcode in table)
        what = f"these modifiers of {stem}" if known else "this opcode"
        raise PtxError(
            f"{kernel}: {statement.opcode}: {what} cannot be emulated, at {statement.where}"
        )
    for one in rules:
        if one.accepts(statement.operands):
            return one
    raise PtxError(
        f"{kernel}: {statement.opcode} cannot be emulated with the operands "
        f"({kinds(statement.operands)}), at {statement.where}"
    )


def accepted() -> tuple[str, ...]:
    """Every opcode, with its modifiers, that has a rule."""
    return tuple(_table())


@cache
def _table() -> dict[str, tuple[Rule, ...]]:
    from pyinception.emulator import (
        rules_convert,
        rules_float,
        rules_integer,
        rules_memory,
        rules_warp,
    )  # fmt: skip

    modules = (rules_integer, rules_float, rules_convert, rules_memory, rules_warp)
    return collect(module.rules() for module in modules)
