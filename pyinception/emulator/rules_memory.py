"""Rules of memory: loads, stores, moves, addresses, atomics, asynchronous copies."""

from collections.abc import Iterator
from typing import Any

from pyinception.emulator.ptx import SIZES
from pyinception.emulator.rules import Emit, Rule, rule

CPP = {
    "b8": "uint8_t", "u8": "uint8_t", "s8": "int8_t", "b16": "uint16_t", "u16": "uint16_t",
    "s16": "int16_t", "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t", "b64": "uint64_t",
    "u64": "uint64_t", "s64": "int64_t", "f32": "float", "f64": "double",
}  # fmt: skip
# Written state space -> the one that is accessed; "" is generic.
SPACES = {
    "": "", ".global": "global", ".shared": "shared", ".shared::cta": "shared", ".local": "local",
}  # fmt: skip
READ_ONLY = {".const": "const", ".param": "param"}
SCOPES = (".cta", ".gpu", ".sys")
EVICTION = (".L1::no_allocate", ".L1::evict_first", ".L1::evict_last", ".L1::evict_unchanged")
PREFETCH = (".L2::64B", ".L2::128B", ".L2::256B")


def rules() -> Iterator[Rule]:
    yield from _loads()
    yield from _stores()
    yield from _packing()
    yield from _addresses()
    yield from _atomics()
    yield from _copies()


def space_name(space: str) -> str:
    return f"emu::Space::k{(space or 'generic').capitalize()}"


def _vectors() -> Iterator[tuple[str, str, int]]:
    """(modifiers, type, elements) of accesses of at most 16 bytes."""
    for t in CPP:
        for count in (1, 2, 4):
            if count * SIZES[t] <= 16:
                yield (f".v{count}.{t}" if count > 1 else f".{t}"), t, count


# ---- loads and stores ----------------------------------------------------------------------------
def _load(space: str, t: str, count: int, order: str = "Weak") -> Emit:
    kind = CPP[t] if count == 1 else f"emu::Vec<{CPP[t]}, {count}>"

    def emit(to: Any) -> str:
        if space == "param" and to.is_symbol(1):
            loaded = f"emu::load_bytes<{kind}>({to.param(1, count * SIZES[t])})"
        else:
            arguments = f"{space_name(space)}, {kind}, emu::Order::k{order}"
            where = to.address(1, space, count * SIZES[t])
            loaded = f"emu::ld<{arguments}>(t, {where}, {to.site})"
        if count == 1:
            return to.assign(0, loaded)
        parts = to.assign_items(0, [f"v.v[{i}]" for i in range(count)])
        return f"{{ const auto v = {loaded}; {parts} }}"

    return emit


def _store(space: str, t: str, count: int, order: str = "Weak") -> Emit:
    kind = CPP[t] if count == 1 else f"emu::Vec<{CPP[t]}, {count}>"

    def emit(to: Any) -> str:
        text = f"{kind}{{{{{', '.join(to.items(1))}}}}}" if count > 1 else to.source(1)
        if space == "param":
            return f"emu::store_bytes<{kind}>({to.param(0, count * SIZES[t])}, {text});"
        arguments = f"{space_name(space)}, {kind}, emu::Order::k{order}"
        where = to.address(0, space, count * SIZES[t])
        return f"emu::st<{arguments}>(t, {where}, {text}, {to.site});"

    return emit


def _loads() -> Iterator[Rule]:
    hints = ("", ".ca", ".cg", ".cs", ".lu", ".cv", ".nc", ".ca.nc", ".cg.nc", ".cs.nc")
    evictions = tuple(nc + hint for nc in ("", ".nc") for hint in EVICTION)
    prefetches = tuple(
        f"{nc}{hint}{fetch}"
        for nc in ("", ".nc")
        for hint in ("", EVICTION[0])
        for fetch in PREFETCH
    )
    for modifiers, t, count in _vectors():
        loaded = f">{{{t}*{count}}}" if count > 1 else f">{t}"
        for written, space in (SPACES | READ_ONLY).items():
            chosen: tuple[str, ...] = ("",)
            if space == "global":
                chosen = hints + evictions + prefetches
            elif not space:
                chosen = ("", ".ca", ".cg", ".cs", ".cv")
            for hint in chosen:
                opcode = f"ld{written}{hint}{modifiers}"
                yield from rule(opcode, f"{loaded} [{space}]", _load(space, t, count))
        for order, prefix, spaces in _ordered("acquire", t, count):
            for written in spaces:
                space = SPACES[written]
                emit = _load(space, t, count, order)
                yield from rule(f"ld{prefix}{written}{modifiers}", f"{loaded} [{space}]", emit)


def _stores() -> Iterator[Rule]:
    hints = ("", ".wb", ".cg", ".cs", ".wt", *EVICTION)
    for modifiers, t, count in _vectors():
        stored = f"<{{{t}*{count}}}" if count > 1 else f"<{t}"
        for written, space in (SPACES | {".param": "param"}).items():
            chosen = hints if space == "global" else hints[:5] if not space else ("",)
            for hint in chosen:
                opcode = f"st{written}{hint}{modifiers}"
                yield from rule(opcode, f"[{space}] {stored}", _store(space, t, count))
        for order, prefix, spaces in _ordered("release", t, count):
            for written in spaces:
                space = SPACES[written]
                emit = _store(space, t, count, order)
                yield from rule(f"st{prefix}{written}{modifiers}", f"[{space}] {stored}", emit)


def _ordered(stronger: str, t: str, count: int) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(order, modifiers before the space, spaces) of accesses that other threads may observe."""
    shareable = tuple(space for space in SPACES if space != ".local")
    if count == 1:
        yield "Relaxed", ".volatile", shareable
    if count == 1 and t[1:] in ("32", "64"):
        for scope in SCOPES:
            yield "Relaxed", f".relaxed{scope}", shareable
            yield stronger.capitalize(), f".{stronger}{scope}", shareable


# ---- registers -----------------------------------------------------------------------------------
def _packing() -> Iterator[Rule]:
    for whole, part, count in (("b16", "b8", 2), ("b32", "b16", 2), ("b32", "b8", 4),
                               ("b64", "b32", 2), ("b64", "b16", 4)):  # fmt: skip
        yield from rule(f"mov.{whole}", f"={whole} {{{part}*{count}}}", _pack(whole, part))
        yield from rule(f"mov.{whole}", f"={{{part}*{count}}} {whole}", _unpack(part, count))


def _pack(whole: str, part: str) -> Emit:
    def emit(to: Any) -> str:
        bits = 8 * SIZES[part]
        pieces = [f"static_cast<{CPP[whole]}>({text})" for text in to.items(1)]
        joined = " | ".join(f"{piece} << {bits * i}" for i, piece in enumerate(pieces))
        return to.assign(0, f"static_cast<{CPP[whole]}>({joined})")

    return emit


def _unpack(part: str, count: int) -> Emit:
    def emit(to: Any) -> str:
        bits = 8 * SIZES[part]
        pieces = [f"static_cast<{CPP[part]}>(v >> {bits * i})" for i in range(count)]
        return f"{{ const auto v = {to.source(1)}; {to.assign_items(0, pieces)} }}"

    return emit


def _addresses() -> Iterator[Rule]:
    shared = "emu::generic_of_shared(t, emu::shared_offset(t, $1, $site))"
    back = "uint64_t{emu::shared_of_generic_checked(t, $1, $site)}"
    for t in ("u64",):
        yield from rule(f"cvta.shared.{t}", f"={t} &{t}", shared)
        yield from rule(f"cvta.to.shared.{t}", f"={t} {t}", back)
        for space in ("global", "local", "const", "param"):  # host addresses on both sides
            yield from rule(f"cvta.{space}.{t}", f"={t} &{t}", "$1")
            yield from rule(f"cvta.to.{space}.{t}", f"={t} {t}", "$1")
    yield from rule("isspacep.shared{,::cta}", "=pred u64", "emu::is_shared(t, $1)")
    for level in ("L1", "L2"):  # a hint: nothing the program can observe
        yield from rule(f"prefetch{{,.global}}.{level}", "[]", lambda to: ";")


# ---- atomics -------------------------------------------------------------------------------------
def _update(name: str, t: str) -> str:
    """The new value, from ``old`` and the operands ``b`` and ``c``, all of type t."""
    if name in ("add", "min", "max"):
        return f"emu::{name}(old, b)"
    if name in ("and", "or", "xor"):
        return f"old {dict(zip(('and', 'or', 'xor'), '&|^', strict=True))[name]} b"
    if name == "inc":
        return "old >= b ? 0u : old + 1u"
    if name == "dec":
        return "old == 0 || old > b ? b : old - 1u"
    return "b" if name == "exch" else "old == b ? c : old"


def _atomic(name: str, t: str, space: str, order: str, returns: bool) -> Emit:
    kind = CPP.get(t, f"emu::{t}")
    bits = f"uint{8 * SIZES[t]}_t"
    first = 1 if returns else 0

    def emit(to: Any) -> str:
        names = ("b", "c") if name == "cas" else ("b",)
        values = "".join(
            f"const {kind} {n} = {to.source(first + 1 + i)}; " for i, n in enumerate(names)
        )
        update = _update(name, t)
        if (name, t) == ("add", "f32") and space != "shared":
            # Atomic sums of f32 flush subnormals in global memory, not in shared memory.
            flushed = "emu::ftz(emu::add(emu::ftz(old), emu::ftz(b)))"
            update = flushed if space else f"emu::is_shared(t, where) ? {update} : {flushed}"
        change = (
            f"[&]({bits} raw) {{ const auto old = emu::as<{kind}>(raw); "
            f"return emu::as<{bits}>(static_cast<{kind}>({update})); }}"
        )
        call = (
            f"emu::atom<{space_name(space)}, {bits}, emu::Order::k{order}>"
            f"(t, where, {to.site}, {change})"
        )
        done = to.assign(0, f"emu::as<{kind}>({call})") if returns else f"{call};"
        return f"{{ const auto where = {to.address(first, space)}; {values}{done} }}"

    return emit


def _operations() -> Iterator[tuple[str, str, str]]:
    """(operation, written with its type, type)"""
    for t in ("u32", "s32", "u64", "f32", "f64"):
        yield "add", f"add.{t}", t
    for t in ("f16", "f16x2", "bf16", "bf16x2"):
        yield "add", f"add.noftz.{t}", t
    for name in ("min", "max"):
        for t in ("u32", "s32", "u64", "s64"):
            yield name, f"{name}.{t}", t
    for name in ("and", "or", "xor", "exch", "cas"):
        for t in ("b32", "b64"):
            yield name, f"{name}.{t}", t
    yield "cas", "cas.b16", "b16"
    for name in ("inc", "dec"):
        yield name, f"{name}.u32", "u32"


def _atomics() -> Iterator[Rule]:
    orders = {".relaxed": "Relaxed", ".acquire": "Acquire", ".release": "Release",
              ".acq_rel": "AcqRel"}  # fmt: skip
    ordered = [(o + scope, orders[o]) for o in orders for scope in SCOPES]
    for name, written, t in _operations():
        # Locks and flags are 32 bits wide; no other type is worth its rules with an order.
        flags = name in ("add", "and", "or", "exch", "cas") and t in ("u32", "s32", "b32")
        values = f" {t}" * (2 if name == "cas" else 1)
        for space_text, space in SPACES.items():
            if space == "local":
                continue
            spellings = [(order_text + space_text, order) for order_text, order in ordered]
            spellings = [(space_text, "Relaxed"), *(spellings if flags else ())]
            # The compiler writes a scope without an order behind the space.
            spellings += [(space_text + scope, "Relaxed") for scope in SCOPES if space == "global"]
            for spelling, order in spellings:
                head = f"{spelling}.{written}"
                emit = _atomic(name, t, space, order, returns=True)
                yield from rule(f"atom{head}", f"={t} [{space}]{values}", emit)
                if name not in ("exch", "cas") and ".acq" not in spelling:
                    emit = _atomic(name, t, space, order, returns=False)
                    yield from rule(f"red{head}", f"[{space}]{values}", emit)


# ---- asynchronous copies -------------------------------------------------------------------------
def _copy(wide_only: bool, third: str, policy: bool) -> Emit:
    def emit(to: Any) -> str:
        size = to.constant(2)
        if size not in ((16,) if wide_only else (4, 8, 16)):
            to.refuse(f"a copy of {size} bytes")
        taken = f"{size}"
        if third == "size":
            taken = f"emu::copied_bytes(t, {to.source(3)}, {size}, {to.site})"
        elif third == "ignore":
            taken = f"({to.source(3)} ? 0 : {size})"
        where = f"{to.address(0, 'shared')}, {to.address(1, 'global')}"
        return f"emu::cp_async(t, {where}, {size}, {taken}, {to.site});"

    return emit


def _copies() -> Iterator[Rule]:
    thirds = {"": "", "size": " u32", "ignore": " pred"}
    for level in (".ca", ".cg"):
        for shared in (".shared", ".shared::cta"):
            for policy in ("", ".L2::cache_hint"):
                for fetch in ("", *PREFETCH):
                    opcode = f"cp.async{level}{shared}.global{policy}{fetch}"
                    for third, operand in thirds.items():
                        slots = f"[shared] [global] #{operand}" + (" b64" if policy else "")
                        yield from rule(opcode, slots, _copy(level == ".cg", third, bool(policy)))
    # A cache policy is an opaque word, and its one use above has no effect on any value.
    for priority in ("evict_last", "evict_normal", "evict_first", "evict_unchanged"):
        for fraction in ("", " f32"):
            opcode = f"createpolicy.fractional.L2::{priority}.b64"
            yield from rule(opcode, f"=b64{fraction}", "uint64_t{0}")
    yield from rule("cp.async.commit_group", "", lambda to: f"emu::cp_async_commit(t, {to.site});")
    yield from rule(
        "cp.async.wait_group", "#",
        lambda to: f"emu::cp_async_wait(t, {to.constant(0)}, {to.site});",
    )  # fmt: skip
    yield from rule("cp.async.wait_all", "", lambda to: f"emu::cp_async_wait_all(t, {to.site});")
