"""PTX text -> Module, in one pass that is linear in the text.

Every register, label and variable of a nested scope (inline assembly, call sequences) gets a name
that is unique in its function, so that nothing after this file knows scopes. A statement carries
its source line, followed through ``inlined_at`` up to the kernel.

What the grammar does not cover raises `PtxError` with the line of the PTX.
"""

import bisect
import re
from collections.abc import Iterator
from typing import NoReturn

from pyinception.emulator import lexer
from pyinception.emulator.ptx import (
    SIZES,
    Address,
    Function,
    Group,
    Label,
    Module,
    Negated,
    Opaque,
    Operand,
    Pair,
    PtxError,
    Register,
    Sink,
    Source,
    Special,
    Statement,
    Symbol,
    Variable,
    Vector,
)  # fmt: skip


def parse(text: str) -> Module:
    """Read a PTX module. PtxError names the line that could not be read."""
    return _Parser(text).module()


class _Scope:
    """Names of one pair of braces; ``suffix`` keeps them apart from those of other scopes."""

    def __init__(self, parent: "_Scope | None", suffix: str) -> None:
        self.parent, self.suffix = parent, suffix
        self.registers: dict[str, str] = {}
        self.ranges: dict[str, tuple[str, int]] = {}  # %r<5>: prefix -> type, count
        self.symbols: dict[str, str] = {}

    def chain(self) -> Iterator["_Scope"]:
        scope: _Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


class _Parser:
    def __init__(self, text: str) -> None:
        def blank(match: re.Match[str]) -> str:
            found = match.group()
            return found if found[0] == '"' else "\n" * found.count("\n") or " "

        self.text = lexer.COMMENT.sub(blank, text)
        self.newlines = [m.start() for m in re.finditer("\n", self.text)]
        self.files = {int(n): name for n, name in lexer.FILE.findall(self.text)}
        self.at = 0
        self.result = Module()

    def line(self) -> int:
        return bisect.bisect_right(self.newlines, self.at) + 1

    def fail(self, message: str) -> NoReturn:
        raise PtxError(f"ptx: line {self.line()}: {message}")

    # ---- module level ----------------------------------------------------------------------------
    def module(self) -> Module:
        text, end = self.text, len(self.text)
        while True:
            self.at = lexer.SPACE.match(text, self.at).end()  # type: ignore[union-attr]
            if self.at == end:
                return self.result
            word = text[self.at : self.at + 16].split(None, 1)[0]
            if word in (".version", ".target", ".address_size", ".file", ".loc"):
                stop = text.find("\n", self.at)
                stop = end if stop < 0 else stop
                value = text[self.at : stop].split(None, 1)[1].strip()
                if word == ".version":
                    self.result.version = value
                elif word == ".target":
                    self.result.target = value.split(",")[0].strip()
                elif word == ".address_size" and value != "64":
                    self.fail(f"address_size is {value}, expected 64")
                self.at = stop
            elif word == ".section":
                self.at = self.find("}") + 1
            elif re.match(r"(?:\.\w+\s+)*?\.(?:entry|func)\b", text[self.at : self.at + 64]):
                self.function()
            elif word == ".pragma":
                self.at = self.find(";") + 1
            else:
                match = lexer.STATEMENT.match(text, self.at)
                if not match:
                    self.fail(f"cannot read {word!r}")
                variable = self.variable(match.group()[:-1].strip())
                self.result.variables[variable.name] = variable
                self.at = match.end()

    def find(self, char: str) -> int:
        at = self.text.find(char, self.at)
        if at < 0:
            self.fail(f"the text ends before {char!r}")
        return at

    def variable(self, text: str) -> Variable:
        match = lexer.VARIABLE.match(text)
        if not match:
            self.fail(f"cannot read the declaration {text.splitlines()[0]!r}")
        linkage, space, align, kind, name, dims, init = match.groups()
        extern = ".extern" in linkage
        if kind not in SIZES or ".common" in linkage or (extern and space != "shared"):
            self.fail(f"{name}: no support for {text.split(name)[0].strip()}")
        extents = [int(n) if n else 0 for n in re.findall(r"\[(\d*)\]", dims)]
        size = SIZES[kind]
        for extent in extents:
            size *= extent
        data = None if init is None else self.initialiser(name, kind, init, size)
        return Variable(space, name, kind, int(align or SIZES[kind]), size, data, extern)

    def initialiser(self, name: str, kind: str, text: str, size: int) -> bytes:
        data = bytearray()
        for item in re.sub(r"[{}]", " ", text).replace(",", " ").split():
            number = lexer.immediate(item)
            if number is None or (number.kind != "int") != (kind in ("f32", "f64")):
                self.fail(f"{name}: no support for the initialiser {item!r} of type {kind}")
            width = SIZES[kind]
            data += (number.value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        if len(data) > size:
            self.fail(f"{name}: {len(data)} bytes of initialiser for {size} bytes")
        return bytes(data.ljust(size, b"\0"))

    def params(self, text: str) -> list[Variable]:
        found = []
        for piece in lexer.split(text):
            match = lexer.PARAM.match(" ".join(piece.split()))
            if not match or match.group(2) not in SIZES:
                self.fail(f"cannot read the parameter {piece!r}")
            align, kind, name, count = match.groups()
            size = SIZES[kind] * int(count or 1)
            found.append(Variable("param", name, kind, int(align or SIZES[kind]), size))
        return found

    def function(self) -> None:
        start = self.at
        brace, semicolon = self.text.find("{", start), self.text.find(";", start)
        declared = brace < 0 or 0 <= semicolon < brace
        stop = semicolon if declared else brace
        if stop < 0:
            self.fail("the text ends inside a function")
        match = lexer.HEAD.match(self.text[start:stop])
        if not match:
            self.fail("cannot read the head of a function")
        _, kind, rest = match.groups()
        pattern = r"(?:\(([^()]*)\)\s*)?([\w$]+)\s*(?:\(([^()]*)\))?\s*(.*)\Z"
        shape = re.match(pattern, rest.strip(), re.S)
        if not shape:
            self.fail(f"cannot read the head of a {kind}")
        results, name, params, directives = shape.groups()
        function = Function(name, kind == "entry", self.params(params or ""))
        function.results = self.params(results or "")
        threads = re.search(
            r"\.(?:max|req)ntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", directives
        )
        if threads:
            x, y, z = (int(n or 1) for n in threads.groups())
            function.max_threads = x * y * z
        unknown = set(re.findall(r"\.(\w+)", directives)) - {
            "maxntid", "reqntid", "minnctapersm", "maxnreg", "noreturn", "pragma",
        }  # fmt: skip
        if unknown:
            self.fail(f"{name}: no support for the directive .{min(unknown)}")
        self.at = stop + 1
        if not declared:
            _Body(self, function).read()
        known = self.result.functions.get(name)
        if known is None or known.body is None:
            self.result.functions[name] = function


class _Body:
    """Statements of one function, from after its opening brace to its closing one."""

    def __init__(self, parser: _Parser, function: Function) -> None:
        self.parser, self.function = parser, function
        self.scopes = 0
        self.scope = _Scope(None, "")
        self.source: Source | None = None
        self.places: dict[tuple[int, int, int], Source] = {}
        self.labels: dict[tuple[str, str], str] = {}
        self.branches: list[tuple[int, _Scope]] = []
        self.body: list[Statement | Label] = []

    def read(self) -> None:
        parser, text = self.parser, self.parser.text
        while True:
            parser.at = lexer.SPACE.match(text, parser.at).end()  # type: ignore[union-attr]
            char = text[parser.at : parser.at + 1]
            if not char:
                parser.fail(f"the text ends inside {self.function.name}")
            if char == "{":
                self.scopes += 1
                self.scope = _Scope(self.scope, f".{self.scopes}")  # no name has a dot
                parser.at += 1
            elif char == "}":
                parser.at += 1
                if self.scope.parent is None:
                    break
                self.scope = self.scope.parent
            elif match := lexer.LOC.match(text, parser.at):
                self.location(match)
                parser.at = match.end()
            elif match := lexer.LABEL.match(text, parser.at):
                name = match.group(1) + self.scope.suffix
                self.labels[self.scope.suffix, match.group(1)] = name
                self.body.append(Label(name))
                parser.at = match.end()
            else:
                match = lexer.STATEMENT.match(text, parser.at)
                if not match:
                    parser.fail("a statement without its semicolon")
                self.statement(match.group()[:-1].strip())
                parser.at = match.end()
        self.resolve_labels()
        self.function.body = self.body

    def location(self, match: re.Match[str]) -> None:
        number, line, column, *inlined = (int(n) if n else 0 for n in match.groups())
        file = self.parser.files.get(number, "?")
        caller = None
        if inlined[0]:
            key = (inlined[0], inlined[1], inlined[2])
            caller = self.places.get(key) or Source(self.parser.files.get(key[0], "?"), key[1])
        if line == 0 and caller is None and self.source is not None:
            return  # "no line": code the compiler moved; the last line known says more
        self.source = self.places[number, line, column] = Source(file, line, caller)

    def resolve_labels(self) -> None:
        for index, scope in self.branches:
            statement = self.body[index]
            assert isinstance(statement, Statement)
            target = statement.operands[0]
            assert isinstance(target, Symbol)
            for place in scope.chain():
                name = self.labels.get((place.suffix, target.name))
                if name is not None:
                    break
            else:
                raise PtxError(f"ptx: line {statement.line}: no label {target.name}")
            operands = (Symbol(name), *statement.operands[1:])
            self.body[index] = Statement(
                statement.opcode, operands, statement.guard, statement.guard_negated,
                statement.source, statement.line,
            )  # fmt: skip

    # ---- statements ------------------------------------------------------------------------------
    def statement(self, text: str) -> None:
        parser = self.parser
        if text.startswith(".reg"):
            self.declare_registers(text)
        elif text.startswith(".pragma") or not text:
            pass
        elif text.startswith("."):
            variable = parser.variable(text)
            unique = variable.name + self.scope.suffix
            self.scope.symbols[variable.name] = unique
            self.function.variables[unique] = Variable(
                variable.space, unique, variable.type, variable.align, variable.size, variable.init
            )
        else:
            match = lexer.GUARDED.match(text)
            if not match:
                parser.fail(f"cannot read {text!r}")
            negated, guard, opcode, rest = match.groups()
            register = self.register(guard) if guard else None
            if guard and (register is None or register.type != "pred"):
                parser.fail(f"{guard} is no predicate")
            operands = tuple(self.operand(piece) for piece in lexer.split(rest))
            if opcode.split(".")[0] == "bra" and operands and isinstance(operands[0], Symbol):
                self.branches.append((len(self.body), self.scope))
            self.body.append(
                Statement(opcode, operands, register, bool(negated), self.source, parser.line())
            )

    def declare_registers(self, text: str) -> None:
        match = re.match(r"\.reg\s*\.(\w+)\s+(.*)\Z", text, re.S)
        if not match or match.group(1) not in SIZES:
            self.parser.fail(f"no support for the registers {text!r}")
        kind, names = match.groups()
        for name in lexer.split(names):
            spread = re.match(r"([%\w$]+)<(\d+)>\Z", name)
            if spread:
                self.scope.ranges[spread.group(1)] = (kind, int(spread.group(2)))
            elif lexer.NAME.match(name):
                self.scope.registers[name] = kind
            else:
                self.parser.fail(f"no support for the register {name!r}")

    def register(self, name: str) -> Register | None:
        numbered = lexer.NUMBERED.match(name)
        for scope in self.scope.chain():
            kind = scope.registers.get(name)
            if kind is None and numbered:
                spread = scope.ranges.get(numbered.group(1))
                kind = spread[0] if spread and int(numbered.group(2)) < spread[1] else None
            if kind is not None:
                unique = name + scope.suffix
                self.function.registers[unique] = kind
                return Register(unique, kind)
        return None

    def symbol(self, name: str) -> str:
        for scope in self.scope.chain():
            if name in scope.symbols:
                return scope.symbols[name]
        return name

    def operand(self, text: str) -> Operand:
        first = text[:1]
        if first == "[" and text.endswith("]"):
            return self.address(text)
        if first == "{" and text.endswith("}"):
            return Vector(tuple(self.operand(piece) for piece in lexer.split(text[1:-1])))
        if first == "(" and text.endswith(")"):
            return Group(tuple(self.operand(piece) for piece in lexer.split(text[1:-1])))
        if first == "!":
            return Negated(self.operand(text[1:].strip()))
        if "|" in text:
            left, _, right = text.partition("|")
            return Pair(self.operand(left.strip()), self.operand(right.strip()))
        if text == "_":
            return Sink()
        number = lexer.immediate(text)
        if number is not None:
            return number
        if lexer.SPECIAL.match(text):
            return Special(text)
        based = self.based(text)
        return based if based is not None else Opaque(text)

    def based(self, text: str) -> Register | Symbol | None:
        match = lexer.NAME_OFFSET.match(text)
        if not match:
            return None
        name, sign, offset = match.groups()
        register = self.register(name)
        if register is not None:
            return register if sign is None else None
        if name.startswith("%") or (offset and not lexer.INT.match(offset)):
            return None
        shift = lexer.integer(offset) if offset else 0
        return Symbol(self.symbol(name), -shift if sign == "-" else shift)

    def address(self, text: str) -> Operand:
        inner = text[1:-1].strip()
        if lexer.INT.match(inner):
            return Address(None, lexer.integer(inner))
        match = lexer.NAME_OFFSET.match(inner)
        if not match or (match.group(3) and not lexer.INT.match(match.group(3))):
            return Opaque(text)
        name, sign, offset = match.groups()
        shift = lexer.integer(offset) if offset else 0
        register = self.register(name)
        if register is None and name.startswith("%"):
            return Opaque(text)
        return Address(register or Symbol(self.symbol(name)), -shift if sign == "-" else shift)
