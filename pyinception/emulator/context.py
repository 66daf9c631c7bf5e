"""What a rule writes with: the operands and results of one statement as C++ text."""

import re
from typing import TYPE_CHECKING, NoReturn

from pyinception.emulator import rules
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
    Variable,
    Vector,
)

if TYPE_CHECKING:
    from pyinception.emulator.translate import FunctionWriter

CPP = {
    "pred": "bool", "b8": "uint8_t", "u8": "uint8_t", "s8": "int8_t", "b16": "uint16_t",
    "u16": "uint16_t", "s16": "int16_t", "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t",
    "b64": "uint64_t", "u64": "uint64_t", "s64": "int64_t", "f32": "float", "f64": "double",
    "f16": "emu::f16", "bf16": "emu::bf16", "f16x2": "emu::f16x2", "bf16x2": "emu::bf16x2",
}  # fmt: skip
VARIABLE = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}
SIGNED = {unsigned: unsigned[1:] for unsigned in VARIABLE.values()}
SPECIALS = {f"%{name}.{axis}": f"t.{name}.{axis}"
            for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"} | {
    "%laneid": "t.lane", "%warpid": "t.warp", "WARP_SZ": "32u",
    "%lanemask_eq": "(1u << t.lane)", "%lanemask_lt": "((1u << t.lane) - 1)",
    "%lanemask_le": "(~0u >> (31 - t.lane))", "%lanemask_gt": "(~1u << t.lane)",
    "%lanemask_ge": "(~0u << t.lane)",
    "%dynamic_smem_size": "(t.shared_bytes - t.dynamic_offset)",
}  # fmt: skip


def reinterpreted(text: str, own: str, kind: str) -> str:
    """``text`` of the type ``own`` as ``kind``, bit by bit; the host's compiler is through with a
    cast of integers sooner than with a call of ``emu::as``."""
    if own == kind:
        return text
    return f"static_cast<{kind}>({text})" if SIGNED.get(own) == kind else f"emu::as<{kind}>({text})"


def identifier(name: str, prefix: str) -> str:
    """A C++ identifier for a PTX name; ``prefix`` tells the kinds of names apart."""
    spelled = name.replace("%", "r_" if prefix == "v_" else "_").replace(".", "_in_")
    return prefix + re.sub(r"\W", "_", spelled)


class Context:
    """What a rule's `Emit` writes with: the operands of one statement as C++ text."""

    def __init__(
        self, writer: "FunctionWriter", statement: Statement, rule: rules.Rule, site: int
    ) -> None:
        self.writer, self.statement, self.rule, self.site = writer, statement, rule, site

    def emit(self) -> str:
        code = self.rule.code
        if callable(code):
            return code(self)
        if self.rule.slots[0].role == "|":
            first, second = (self.fill(part) for part in code.split(";;"))
            both = f"const bool first = {first}, second = {second}; (void)second;"
            return f"{{ {both} {self.assign_pair(0, 'first', 'second')} }}"
        return self.assign(0, self.fill(code))

    def refuse(self, what: str) -> NoReturn:
        statement = self.statement
        raise PtxError(
            f"{self.writer.kernel}: {statement.opcode}: {what} cannot be emulated, "
            f"at {statement.where}"
        )

    # ---- operands --------------------------------------------------------------------------------
    def fill(self, code: str) -> str:
        def text(match: re.Match[str]) -> str:
            return str(self.site) if match[1] == "site" else self.source(int(match[1]))

        return re.sub(r"\$(site|\d)", text, code)

    def source(self, i: int) -> str:
        slot = self.rule.slots[i]
        return str(self.constant(i)) if slot.role == "#" else self.scalar(i, self.operand(i))

    def items(self, i: int) -> list[str]:
        operand = self.operand(i)
        assert isinstance(operand, Vector)
        return [self.scalar(i, item) for item in operand.items]

    def operand(self, i: int) -> Operand:
        return self.statement.operands[i]

    def constant(self, i: int) -> int:
        operand = self.operand(i)
        assert isinstance(operand, Immediate)
        return operand.value

    def is_symbol(self, i: int) -> bool:
        operand = self.operand(i)
        return isinstance(operand, Address) and isinstance(operand.base, Symbol)

    def scalar(self, i: int, operand: Operand) -> str:
        slot = self.rule.slots[i]
        kind = CPP[slot.type]
        match operand:
            case Negated():
                return "!" + self.scalar(i, operand.operand)
            case Register():
                name = identifier(operand.name, "v_")
                own = self.writer.types[operand.name]
                if slot.role == "<" and own != kind:
                    return f"emu::low<{kind}>({name})"
                return reinterpreted(name, own, kind)
            case Immediate():
                size = SIZES[slot.type]
                bits = operand.value & ((1 << 8 * size) - 1)
                number = f"{VARIABLE[size]}{{0x{bits:x}{'ull' if size == 8 else 'u'}}}"
                return reinterpreted(number, VARIABLE[size], kind)
            case Special():
                if operand.name not in SPECIALS or SIZES[slot.type] not in (2, 4, 8):
                    self.refuse(f"the special register {operand.name}")
                if SIZES[slot.type] == 8:
                    self.refuse(f"{operand.name} in 64 bits")
                return f"static_cast<{kind}>({SPECIALS[operand.name]})"
            case Symbol():
                return f"static_cast<{kind}>({self.symbol_address(operand, slot.type)})"
            case _:
                raise AssertionError(operand)

    def symbol_address(self, symbol: Symbol, kind: str) -> str:
        variable = self.writer.variable(symbol.name)
        if variable is None:
            self.refuse(f"the address of {symbol.name}")
        if variable.space == "shared":
            return self.shared(variable, symbol.offset)
        if SIZES[kind] != 8:
            self.refuse(f"the address of {symbol.name} in {8 * SIZES[kind]} bits")
        return f"reinterpret_cast<uint64_t>({self.writer.pointer(variable)}){_shift(symbol.offset)}"

    def shared(self, variable: Variable, offset: int) -> str:
        if variable.extern:
            return f"(t.dynamic_offset{_shift(offset)})"
        return f"{self.writer.translator.shared[variable.name] + offset}u"

    def address(self, i: int, space: str, size: int = 0) -> str:
        """The address of an access of ``size`` bytes; those of local memory stay in its frames."""
        where = self.place(i, space)
        if space != "local":
            return where
        return f"emu::local_address(t, frame, {where}, {size}, {self.site})"

    def place(self, i: int, space: str) -> str:
        operand = self.operand(i)
        assert isinstance(operand, Address)
        base, shift = operand.base, _shift(operand.offset)
        if base is None:
            return f"{operand.offset}u"
        if isinstance(base, Register):
            name = identifier(base.name, "v_")
            narrow = space == "shared" and SIZES[base.type] == 4
            word = reinterpreted(name, self.writer.types[base.name], VARIABLE[4 if narrow else 8])
            if space != "shared" or narrow:
                return f"{word}{shift}"
            return f"emu::shared_offset(t, {word}{shift}, {self.site})"
        variable = self.writer.variable(base.name)
        if variable is None or variable.space != (space or "global"):
            self.refuse(f"the address {base.name} in {space or 'generic'} memory")
        if space == "shared":
            return self.shared(variable, base.offset + operand.offset)
        return f"reinterpret_cast<uint64_t>({self.writer.pointer(variable)}){shift}"

    def param(self, i: int, size: int) -> str:
        """A pointer into a parameter named in the statement, inside its bounds."""
        operand = self.operand(i)
        assert isinstance(operand, Address)
        if not isinstance(operand.base, Symbol):
            self.refuse("a parameter by computed address")
        variable = self.writer.variable(operand.base.name)
        if variable is None or variable.space != "param":
            self.refuse(f"the parameter {operand.base.name}")
        if not 0 <= operand.offset <= variable.size - size or operand.offset % size:
            self.refuse(f"{size} bytes at {operand.offset} of {variable.name}[{variable.size}]")
        return f"{self.writer.pointer(variable)}{_shift(operand.offset)}"

    # ---- results ---------------------------------------------------------------------------------
    def assign(self, i: int, value: str, operand: Operand | None = None) -> str:
        to = self.operand(i) if operand is None else operand
        if isinstance(to, Sink):
            return f"(void)({value});"
        assert isinstance(to, Register)
        function = "extend" if self.rule.slots[i].role == ">" else "as"
        kind = self.writer.types[to.name]
        return f"{identifier(to.name, 'v_')} = emu::{function}<{kind}>({value});"

    def assign_items(self, i: int, values: list[str]) -> str:
        operand = self.operand(i)
        assert isinstance(operand, Vector)
        pairs = zip(operand.items, values, strict=True)
        return " ".join(self.assign(i, value, item) for item, value in pairs)

    def assign_pair(self, i: int, first: str, second: str) -> str:
        operand = self.operand(i)
        if isinstance(operand, Pair):
            return (
                f"{self.assign(i, first, operand.first)} {self.assign(i, second, operand.second)}"
            )
        return self.assign(i, first)

    # ---- control ---------------------------------------------------------------------------------
    def branch(self) -> str:
        target = self.operand(0)
        assert isinstance(target, Symbol)
        jump = f"goto {identifier(target.name, 'L_')};"
        backwards = self.writer.positions[target.name] <= self.writer.position
        return f"emu::back_edge(t, {self.site}); {jump}" if backwards else jump

    def leave(self) -> str:
        return "return;"

    def exit(self) -> str:
        if not self.writer.function.is_entry:
            self.refuse("exit inside a function")
        return "return;"

    def call(self) -> str:
        functions = self.writer.translator.module.functions
        callee, arguments = None, []
        for operand in self.statement.operands:
            if isinstance(operand, Symbol):
                callee = functions[operand.name]
            else:
                assert isinstance(operand, Group)
                arguments += [item for item in operand.items if isinstance(item, Symbol)]
        assert callee is not None
        wanted = (*callee.results, *callee.params)
        if len(arguments) != len(wanted):
            self.refuse(f"{callee.name} with {len(arguments)} of {len(wanted)} operands")
        texts = []
        for argument, parameter in zip(arguments, wanted, strict=True):
            variable = self.writer.variable(argument.name)
            if variable is None or (variable.space, variable.size) != ("param", parameter.size):
                self.refuse(f"the argument {argument.name} of {callee.name}")
            texts.append(f", {self.writer.pointer(variable)}")
        return f"{identifier(callee.name, 'f_')}(t, frame{''.join(texts)});"


def _shift(offset: int) -> str:
    return "" if offset == 0 else f" {'+' if offset > 0 else '-'} {abs(offset)}"
