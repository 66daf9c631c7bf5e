"""Rules of ``cvt``; values in ``csrc/emulator/convert.h``."""

from collections.abc import Iterator

from pyinception.emulator.rules import Rule, rule

INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
FLOATS = ("f16", "bf16", "f32", "f64")
MODES = {"rn": "even", "rz": "zero", "rm": "down", "rp": "up"}
WIDTH = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}
CPP = {f"{s}{n}": f"{'u' if s == 'u' else ''}int{n}_t" for s in "us" for n in (8, 16, 32, 64)} | {
    "f16": "emu::f16", "bf16": "emu::bf16", "f32": "float", "f64": "double", "tf32": "emu::tf32",
}  # fmt: skip


def rules() -> Iterator[Rule]:
    for d in INTEGERS:
        for s in INTEGERS:
            yield from rule(f"cvt.{d}.{s}", f">{d} <{s}", f"static_cast<{CPP[d]}>($1)")
            yield from rule(f"cvt.sat.{d}.{s}", f">{d} <{s}", f"emu::saturate<{CPP[d]}>($1)")
    yield from _with_integers()
    yield from _between_floats()
    yield from _packed()
    yield from _tf32()


def _with_integers() -> Iterator[Rule]:
    for f in FLOATS:
        for i in INTEGERS:
            for mode, word in MODES.items():
                code = f"emu::from_integer<{CPP[f]}>($1, emu::Round::{word})"
                yield from rule(f"cvt.{mode}.{f}.{i}", f"={f} <{i}", code)
                if f != "bf16":
                    yield from rule(f"cvt.{mode}.sat.{f}.{i}", f"={f} <{i}", f"emu::sat({code})")
                for ftz in ("", ".ftz") if f == "f32" else ("",):
                    source = "emu::ftz($1)" if ftz else "$1"
                    code = f"emu::to_integer<{CPP[i]}>({source}, emu::Round::{word})"
                    yield from rule(f"cvt.{mode}i{ftz}{{,.sat}}.{i}.{f}", f">{i} {f}", code)


def _between_floats() -> Iterator[Rule]:
    for f in FLOATS:  # the same type: to an integral value, or only .ftz and .sat
        flushes = ("", ".ftz") if f in ("f16", "f32") else ("",)
        for ftz in flushes:
            source = "emu::ftz($1)" if ftz else "$1"
            for sat in ("", ".sat") if f != "bf16" else ("",):
                after = f"emu::sat({source})" if sat else source
                if f != "bf16":
                    yield from rule(f"cvt{ftz}{sat}.{f}.{f}", f"={f} {f}", after)
                for mode, word in MODES.items():
                    code = f"emu::to_integral({source}, emu::Round::{word})"
                    code = f"emu::sat({code})" if sat else code
                    yield from rule(f"cvt.{mode}i{ftz}{sat}.{f}.{f}", f"={f} {f}", code)
    for d in FLOATS:
        for s in FLOATS:
            if WIDTH[d] > WIDTH[s]:
                yield from _widening(d, s)
            elif WIDTH[d] < WIDTH[s]:
                yield from _narrowing(d, s)


def _widening(d: str, s: str) -> Iterator[Rule]:
    for ftz in ("", ".ftz") if s == "f32" or (s, d) == ("f16", "f32") else ("",):
        # From f32 the operand is flushed; f16 to f32 has no subnormal result.
        source = "emu::ftz($1)" if ftz and s == "f32" else "$1"
        code = f"emu::to_float<{CPP[d]}>({source}, emu::Round::even)"
        yield from rule(f"cvt{ftz}.{d}.{s}", f"={d} {s}", code)
        if s != "bf16":
            yield from rule(f"cvt{ftz}.sat.{d}.{s}", f"={d} {s}", f"emu::sat({code})")


def _narrowing(d: str, s: str) -> Iterator[Rule]:
    for mode, word in MODES.items():
        round_word = f"emu::Round::{word}"
        for ftz in ("", ".ftz") if "f32" in (d, s) and d != "bf16" else ("",):
            source = "emu::ftz($1)" if ftz and s == "f32" else "$1"
            code = f"emu::to_float<{CPP[d]}>({source}, {round_word})"
            # f32 to f16 flushes its operand alone; f64 to f32 its result.
            code = f"emu::ftz({code})" if ftz and d == "f32" else code
            yield from rule(f"cvt.{mode}{ftz}.{d}.{s}", f"={d} {s}", code)
            if d != "bf16":
                yield from rule(f"cvt.{mode}{ftz}.sat.{d}.{s}", f"={d} {s}", f"emu::sat({code})")
        if s != "f32" or mode not in ("rn", "rz"):
            continue
        for relu in ("", ".relu"):
            for finite in ("", ".satfinite"):
                if relu or finite:
                    code = _rounded(d, "$1", round_word, relu, finite)
                    yield from rule(f"cvt.{mode}{relu}{finite}.{d}.{s}", f"={d} {s}", code)


def _rounded(d: str, source: str, mode: str, relu: str, finite: str) -> str:
    function = "to_finite" if finite else "to_float"
    code = f"emu::{function}<{CPP[d]}>({source}, {mode})"
    return f"emu::{'relu_tf32' if d == 'tf32' else 'relu'}({code})" if relu else code


def _packed() -> Iterator[Rule]:
    """The first source goes into the upper half."""
    for lane in ("f16", "bf16"):
        for mode in ("rn", "rz"):
            for relu in ("", ".relu"):
                for finite in ("", ".satfinite"):
                    low, high = (
                        _rounded(lane, source, f"emu::Round::{MODES[mode]}", relu, finite)
                        for source in ("$2", "$1")
                    )
                    code = f"emu::make_pair({low}, {high})"
                    opcode = f"cvt.{mode}{relu}{finite}.{lane}x2.f32"
                    yield from rule(opcode, f"={lane}x2 f32 f32", code)


def _tf32() -> Iterator[Rule]:
    for finite in ("", ".satfinite"):
        code = _rounded("tf32", "$1", "emu::Round::away", "", finite)
        yield from rule(f"cvt.rna{finite}.tf32.f32", "=b32 f32", code)
        for mode in ("rn", "rz"):
            for relu in ("", ".relu"):
                code = _rounded("tf32", "$1", f"emu::Round::{MODES[mode]}", relu, finite)
                yield from rule(f"cvt.{mode}{relu}{finite}.tf32.f32", "=b32 f32", code)
