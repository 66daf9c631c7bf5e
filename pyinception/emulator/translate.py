"""One PTX entry -> C++ for the emulator's runtime, and the table of its sites.

A register becomes a C++ variable of its size, a statement what its rule says, a branch a ``goto``.
Translation is linear in the statements. Functions that the entry calls stand in the same file;
a site is the ordinal of a statement in the file, functions first.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pyinception.emulator import rules
from pyinception.emulator.context import VARIABLE, Context, identifier
from pyinception.emulator.ptx import (
    SIZES,
    Address,
    Function,
    Group,
    Label,
    Module,
    Operand,
    PtxError,
    Register,
    Source,
    Statement,
    Symbol,
    Variable,
    Vector,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    """A statement as the runtime reports it; ``block`` counts the basic blocks of the file."""

    opcode: str
    source: Source | None
    line: int  # of the PTX
    block: int
    function: str

    def __str__(self) -> str:
        return str(self.source) if self.source else f"line {self.line} of the PTX"


@dataclass(frozen=True)
class Translation:
    """C++ of one entry. ``static_shared`` are the bytes in front of dynamic shared memory."""

    entry: str
    code: str
    sites: tuple[Site, ...]
    param_bytes: int
    static_shared: int
    max_threads: int | None


def translate(module: Module, entry: str) -> Translation:
    """C++ text of ``entry``. PtxError names what cannot be emulated, its source line and kernel."""
    if entry not in module.entries:
        known = ", ".join(sorted(module.entries)) or "none"
        raise PtxError(f"entry is {entry!r}, expected one of the module's: {known}")
    return _Translator(module, module.entries[entry]).run()


def _layout(variables: list[Variable]) -> tuple[dict[str, int], int]:
    """Offsets one after the other, each at its alignment, and the bytes used."""
    offsets, end = {}, 0
    for variable in variables:
        start = -(-end // variable.align) * variable.align
        offsets[variable.name] = start
        end = start + variable.size
    return offsets, end


class _Translator:
    def __init__(self, module: Module, entry: Function) -> None:
        self.module, self.entry = module, entry
        self.functions = self.reached()
        self.sites: list[Site] = []
        self.block = -1
        used = self.used_variables()
        shared = [v for v in used if v.space == "shared" and not v.extern]
        self.shared, self.static_shared = _layout(shared)
        dynamic = [v.align for v in used if v.space == "shared"]
        self.shared_align = max([16, *dynamic])
        self.static_shared = -(-self.static_shared // self.shared_align) * self.shared_align
        self.data = [v for v in used if v.space in ("global", "const")]
        self.refuse_common_globals()

    def reached(self) -> list[Function]:
        """The entry's callees, callees of those included, each before it is called, then itself."""
        order: dict[str, Function] = {}
        open_: set[str] = set()

        def visit(function: Function) -> None:
            open_.add(function.name)
            for statement in _statements(function):
                if statement.opcode.split(".")[0] != "call":
                    continue
                for operand in statement.operands:
                    if not isinstance(operand, Symbol) or operand.name in order:
                        continue
                    callee = self.module.functions.get(operand.name)
                    if callee is None or callee.body is None:
                        raise PtxError(
                            f"{self.entry.name}: call of {operand.name}, which is not in the "
                            f"module, cannot be emulated, at {statement.where}"
                        )
                    if callee.name in open_:
                        raise PtxError(
                            f"{self.entry.name}: the recursion of {callee.name} cannot be "
                            f"emulated, at {statement.where}"
                        )
                    visit(callee)
            open_.discard(function.name)
            order[function.name] = function

        visit(self.entry)
        return list(order.values())

    def used_variables(self) -> list[Variable]:
        names: dict[str, Variable] = {}
        for function in self.functions:
            for name in _symbols(function):
                variable = function.variables.get(name) or self.module.variables.get(name)
                if variable is not None and variable.space not in ("param", "local"):
                    names[name] = variable
        return list(names.values())

    def refuse_common_globals(self) -> None:
        # Tables of the CUDA math library stand in global memory, but nothing writes to them.
        mine = {
            v.name for v in self.data if v.space == "global" and not v.name.startswith("__cudart_")
        }
        for other in self.module.entries.values():
            common = mine & set(_symbols(other)) if other is not self.entry else None
            if common:
                raise PtxError(
                    f"{self.entry.name}: the variable {min(common)} of global memory is used by "
                    f"{other.name} too; entries are translated apart and cannot share it"
                )

    def run(self) -> Translation:
        bodies = [FunctionWriter(self, function).write() for function in self.functions]
        _, param_bytes = _layout(self.entry.params)
        symbols = [
            f'  {{"{v.name}", const_cast<unsigned char*>({identifier(v.name, "data_")}), '
            f"{v.size}, {int(v.space == 'global')}}},"
            for v in self.data
        ]
        table = ["static const emu::Symbol symbols[] = {", *symbols, "};"] if symbols else []
        name = self.entry.name
        export = (
            f"EMU_ENTRY({name}, {param_bytes}, {self.static_shared}, {self.shared_align}, "
            f"{len(self.sites)}, {'symbols' if symbols else 'nullptr'}, {len(symbols)})"
        )
        data = [_definition(v) for v in self.data]
        head = [f"// {name}, translated from PTX", '#include "generated.h"', ""]
        text = "\n".join([*head, *data, *bodies, *table, export, ""])
        return Translation(
            name, text, tuple(self.sites), param_bytes, self.static_shared, self.entry.max_threads
        )


def _statements(function: Function) -> Iterator[Statement]:
    return (item for item in function.body or () if isinstance(item, Statement))


def _symbols(function: Function) -> Iterator[str]:
    def names(operand: Operand | None) -> Iterator[str]:
        match operand:
            case Symbol():
                yield operand.name
            case Address():
                yield from names(operand.base)
            case Vector() | Group():
                for item in operand.items:
                    yield from names(item)

    for statement in _statements(function):
        for operand in statement.operands:
            yield from names(operand)


def _definition(variable: Variable) -> str:
    data = variable.init or b""
    values = ", ".join(str(byte) for byte in data) if any(data) else ""
    const = "const " if variable.space == "const" else ""
    name = identifier(variable.name, "data_")
    kind = f"alignas({variable.align}) static {const}unsigned char"
    return f"{kind} {name}[{variable.size}] = {{{values}}};"


class FunctionWriter:
    """Writes one function; the labels and registers of a function are its own."""

    def __init__(self, translator: _Translator, function: Function) -> None:
        self.translator, self.function = translator, function
        self.kernel = translator.entry.name
        self.rules = {id(s): rules.find(s, self.kernel) for s in _statements(function)}
        self.positions = {
            item.name: i for i, item in enumerate(function.body or ()) if isinstance(item, Label)
        }
        self.position = 0
        self.params, _ = _layout(function.params) if function.is_entry else ({}, 0)
        arrays = [v for v in function.variables.values() if v.space == "local"]
        self.locals, self.local_bytes = _layout(arrays)
        self.types = self.variable_types()
        self.refuse_equal_names()

    def refuse_equal_names(self) -> None:
        variables = [v.name for v in self.function.variables.values()]
        for names in (self.types, self.positions, variables):
            written: dict[str, str] = {}
            for name in names:
                other = written.setdefault(identifier(name, "v_"), name)
                if other != name:
                    raise PtxError(
                        f"{self.kernel}: the names {other} and {name} cannot be kept apart"
                    )

    def variable_types(self) -> dict[str, str]:
        """Registers without a type live in a float where most statements take them for one."""
        votes: dict[str, int] = {}
        for statement in _statements(self.function):
            for slot, operand in zip(self.rules[id(statement)].slots, statement.operands):
                items = operand.items if isinstance(operand, Vector) else (operand,)
                for item in items:
                    if isinstance(item, Register) and slot.type:
                        weight = 1 if slot.type[0] == "f" and slot.type[-2:] != "x2" else -1
                        neutral = statement.opcode.startswith("mov.b")
                        votes[item.name] = votes.get(item.name, 0) + (0 if neutral else weight)
        types = {}
        for name, kind in self.function.registers.items():
            if kind == "pred":
                types[name] = "bool"
            elif kind in ("f32", "f64") or (kind in ("b32", "b64") and votes.get(name, 0) > 0):
                types[name] = "float" if SIZES[kind] == 4 else "double"
            else:
                types[name] = VARIABLE[SIZES[kind]]
        return types

    def write(self) -> str:
        lines = [self.head(), *self.declarations()]
        fresh = True  # the next statement begins a basic block
        for position, item in enumerate(self.function.body or ()):
            self.position = position
            if isinstance(item, Label):
                lines.append(f"{identifier(item.name, 'L_')}:;")
                fresh = True
                continue
            if fresh:
                self.translator.block += 1
                lines.append(f"  emu::block_executed(t, {len(self.translator.sites)});")
            site = len(self.translator.sites)
            self.translator.sites.append(
                Site(item.opcode, item.source, item.line, self.translator.block, self.function.name)
            )
            lines.append("  " + self.statement(item, site))
            fresh = item.opcode.split(".")[0] in ("bra", "ret", "exit", "call")
        lines.append("}\n")
        return "\n".join(lines)

    def statement(self, item: Statement, site: int) -> str:
        code = Context(self, item, self.rules[id(item)], site).emit()
        if item.guard is None:
            return code
        test = identifier(item.guard.name, "v_")
        return f"if ({'!' if item.guard_negated else ''}{test}) {{ {code} }}"

    def head(self) -> str:
        function = self.function
        if function.is_entry:
            return f"EMU_EXPORT void {function.name}(emu::Thread& t, const char* params) {{"
        names = [identifier(v.name, "param_") for v in (*function.results, *function.params)]
        arguments = "".join(f", char* {name}" for name in names)
        name = identifier(function.name, "f_")
        return f"static void {name}(emu::Thread& t, const emu::Frame* caller{arguments}) {{"

    def declarations(self) -> Iterator[str]:
        if self.function.is_entry:
            yield "  (void)params;"
        yield "  bool carry = false, unused_carry = false;"
        yield "  (void)t, (void)carry, (void)unused_carry;"
        if self.function.is_entry:
            yield "  const emu::Frame* const caller = nullptr;"
            if self.function.max_threads:
                yield f"  emu::launch_bound(t, {self.function.max_threads});"
        if self.local_bytes:
            yield f"  emu::LocalFrame<{self.local_bytes}> own(caller);"
        yield f"  const emu::Frame* const frame = {'&own' if self.local_bytes else 'caller'};"
        yield "  (void)frame;"
        for variable in self.function.variables.values():
            if variable.space == "param":
                name = identifier(variable.name, "param_")
                yield f"  alignas({max(variable.align, 16)}) char {name}[{variable.size}];"
                yield f"  (void){name};"
        for name, kind in self.types.items():
            # A register that nothing has written holds ones: NaN where it is a float.
            ones = "false" if kind == "bool" else f"emu::ones_pattern<{kind}>()"
            yield f"  {kind} {identifier(name, 'v_')} = {ones};"

    # ---- symbols ---------------------------------------------------------------------------------
    def variable(self, name: str) -> Variable | None:
        local = self.function.variables.get(name) or self.translator.module.variables.get(name)
        own = (*self.function.params, *self.function.results)
        return local or next((v for v in own if v.name == name), None)

    def pointer(self, variable: Variable) -> str:
        """A C++ pointer to a variable that is no shared memory."""
        if variable.space == "param" and self.function.is_entry and variable.name in self.params:
            return f"(const_cast<char*>(params) + {self.params[variable.name]})"
        if variable.space == "local":
            return f"(own.bytes + {self.locals[variable.name]})"
        return identifier(variable.name, "param_" if variable.space == "param" else "data_")
