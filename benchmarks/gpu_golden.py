"""What a GPU answers to every PTX form that the kernels and the emulator rest on.

    d = f(a, b, c)      one kernel of ptx_golden.cu per form; see its head

`record` runs all forms on a device and writes inputs and answers to one ``.npz`` (plain arrays);
`replay` runs the inputs of a file on another device and names what differs. Answers are equal bit
by bit, but for the NaN that arithmetic makes (its payload is open in PTX), approximations (the
ISA's own bounds, which a correctly rounded value keeps) and sums of products in mma.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__).resolve().with_name("ptx_golden.cu")
KERNELS = SOURCE.parents[1] / "kernels"
FORMAT, SEED = 1, 20140917
VALUES = 1024  # of each elementwise form
TILES = 6  # of each mma: integers, single products, three of reals, specials

Array = np.ndarray
Inputs = tuple[Array, Array, Array]


class GoldenError(RuntimeError):
    """A file that is no record of answers, or not for these kernels."""


@dataclass(frozen=True)
class Form:
    """One kernel: what its words are and how near two answers must be.

    ``result``: "bits" (equal), "f32" (any NaN for a NaN), "f16x2", "bf16x2" (the same, by halves).
    |got - want| <= relative |want| + absolute for approximations.
    """

    kind: str  # value, mma, ldmatrix, copy
    operands: str  # of a value: f32, f16x2, bf16x2, s32; of an mma: f16, bf16, tf32
    result: str = "f32"
    relative: float = 0.0
    absolute: float = 0.0
    depth: int = 0  # of an mma; bytes of a copy
    arch: int = 75

    @property
    def inputs(self) -> str:
        """Forms of one such name have the same inputs."""
        return f"{self.kind} {self.operands} {self.depth}"


def _forms() -> Iterator[tuple[str, Form]]:
    for name in ("add", "sub", "mul", "fma_rn", "fma_rm", "div_rn", "rcp_rn", "sqrt_rn"):
        yield f"{name}_f32", Form("value", "f32")
    for name in ("min", "max", "cvt_sat_f32", "relu"):
        yield f"{name}_f32", Form("value", "f32", "bits")
    # PTX ISA 8.8, maximum errors of the approximations
    for name, relative, absolute in (
        ("rsqrt_approx", 2**-22.9, 0.0),
        ("sqrt_approx", 2**-23.0, 0.0),
        ("rcp_approx_ftz", 2**-23.0, 0.0),
        ("lg2_approx", 2**-22.0, 2**-22.0),
        ("ex2_approx", 2**-22.0, 2**-149.0),
        ("ex2_approx_ftz", 2**-22.0, 0.0),
        ("tanh_approx", 2**-11.0, 0.0),
    ):
        half = 2**-24.0  # the emulator rounds
        yield f"{name}_f32", Form("value", "f32", "f32", relative + half, absolute)
    yield "cvt_rn_f32_s32", Form("value", "s32", "bits")
    yield "cvt_rni_f32_f32", Form("value", "f32", "f32")
    for name in ("cvt_rni_s32", "cvt_rzi_s32"):
        yield f"{name}_f32", Form("value", "f32", "bits")
    yield "fma_rn_f16x2", Form("value", "f16x2", "f16x2")
    for kind in ("f16", "bf16"):
        yield f"from_float_{kind}", Form("value", "f32", "bits" if kind == "bf16" else "f16x2")
        yield f"to_float_{kind}", Form("value", f"{kind}x2", "f32")
        yield f"unpack_lo_{kind}", Form("value", f"{kind}x2", "f32")
        yield f"unpack_hi_{kind}", Form("value", f"{kind}x2", "f32")
        yield f"pack_{kind}", Form("value", "f32", "bits", arch=80)
        yield f"larger_{kind}", Form("value", f"{kind}x2", "bits", arch=80)
    yield "to_tf32_f32", Form("value", "f32", "bits", arch=80)
    yield "larger_f32", Form("value", "f32", "bits", arch=80)
    yield "min_nan_f32", Form("value", "f32", "bits", arch=80)
    yield "fma_rn_bf16x2", Form("value", "bf16x2", "bf16x2", arch=80)
    yield "mma_m16n8k8_f16", Form("mma", "f16", depth=8)
    yield "mma_m16n8k16_f16", Form("mma", "f16", depth=16, arch=80)
    yield "mma_m16n8k16_bf16", Form("mma", "bf16", depth=16, arch=80)
    yield "mma_m16n8k8_tf32", Form("mma", "tf32", depth=8, arch=80)
    for name in ("x1", "x1_trans", "x2_rows", "x2_trans", "x4_rows", "x4_columns"):
        yield f"ldmatrix_{name}", Form("ldmatrix", "b16", "bits")
    for name, size in (("cg_16", 16), ("ca_16", 16), ("ca_8", 8), ("ca_4", 4), ("wanted", 16)):
        yield f"cp_async_{name}", Form("copy", "b32", "bits", depth=size, arch=80)


FORMS = dict(_forms())


# ---- inputs --------------------------------------------------------------------------------------
# Zeros, subnormals, ends of the ranges, infinities, NaN; ties of bf16 (8 bits kept), tf32 and f16
# (11), and beside them; thresholds of overflow and underflow of f16 and of int.
_MAGNITUDES = (
    0x00000000, 0x00000001, 0x00400000, 0x007FFFFF, 0x00800000, 0x3F800000, 0x3F800001, 0x3F7FFFFF,
    0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7FA00001, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF,
    0x3F801000, 0x3F803000, 0x3F801001, 0x7F7F8000, 0x7F7F7FFF, 0x477FE000, 0x477FEFFF, 0x477FF000,
    0x33000000, 0x33000001, 0x33800000, 0x38800000, 0x387FC000, 0x4F000000, 0x4EFFFFFF, 0x4F7FFFFF,
    0x3F000000, 0x3FC00000, 0x40200000, 0x42FE0000, 0x43000000, 0x43150000, 0x7E800000, 0x00000100,
)  # fmt: skip
_HALVES = {
    "f16": (0, 1, 0x3FF, 0x400, 0x3C00, 0x3C01, 0x3BFF, 0x7BFF, 0x7C00, 0x7E00, 0x7D01, 0x5640),
    "bf16": (0, 1, 0x7F, 0x80, 0x3F80, 0x3F81, 0x3F7F, 0x7F7F, 0x7F80, 0x7FC0, 0x7FA1, 0x42C8),
}


def inputs(form: Form) -> Inputs:
    """Words of a, b and c."""
    text = f"{SEED} {form.inputs}"
    rng = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
    if form.kind == "value":
        a, b, c = (_words(rng, form.operands, VALUES) for _ in range(3))
        return a, b, c
    if form.kind == "mma":
        return _tiles(rng, form)
    if form.kind == "ldmatrix":  # distinct halves, so that any misplaced one shows
        a = rng.permutation(TILES * 512).astype(np.uint16).view(np.uint32)
        return a, rng.integers(0, 64, TILES * 32, np.uint32), np.zeros(1, np.uint32)
    a = rng.integers(0, 1 << 32, TILES * 32 * form.depth // 4, np.uint32)
    return a, rng.integers(0, 1 << 16, TILES * 32, np.uint32), np.zeros(1, np.uint32)


def _words(rng: np.random.Generator, kind: str, count: int) -> Array:
    """Half special, a quarter of ordinary size, the rest any bits; specials meet each other."""
    if kind in ("f16x2", "bf16x2"):
        specials = np.array(_HALVES[kind[:-2]], np.uint16)
        words = rng.integers(0, 1 << 16, 2 * count, np.uint16)
        chosen = rng.choice(specials, 2 * count) | rng.integers(0, 2, 2 * count, np.uint16) << 15
        words = np.where(rng.random(2 * count) < 0.6, chosen, words).astype(np.uint16)
        return words.view(np.uint32)
    words = rng.integers(0, 1 << 32, count, np.uint32)
    ordinary = (rng.standard_normal(count) * rng.choice([1, 30, 1e5], count)).astype(np.float32)
    specials = np.array(_MAGNITUDES, np.uint32)
    if kind == "s32":
        specials = np.array([0, 1, 0x00FFFFFF, 0x01000001, 0x01000003, 0x7FFFFFFF], np.uint32)
    chosen = rng.choice(specials, count) | rng.integers(0, 2, count, np.uint32) << 31
    chosen[: 2 * len(specials)] = np.concatenate([specials, specials | 1 << 31])  # each once
    lot = rng.random(count)
    lot[: 2 * len(specials)] = 0
    words = np.where(lot < 0.5, chosen, words)
    return np.where((lot >= 0.5) & (lot < 0.75), ordinary.view(np.uint32), words).astype(np.uint32)


def _stored(values: Array, operands: str) -> Array:
    """float32 values in an mma's operand type, as words of a row."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if operands == "f16":
        return np.ascontiguousarray(values.astype(np.float16)).view(np.uint32)
    if operands == "tf32":
        return bits & np.uint32(0xFFFFE000)
    return np.ascontiguousarray((bits >> 16).astype(np.uint16)).view(np.uint32)


def _values(words: Array, operands: str) -> Array:
    """What `_stored` words stand for, in float64."""
    if operands == "f16":
        return words.view(np.float16).astype(np.float64)
    if operands == "tf32":
        return words.view(np.float32).astype(np.float64)
    return (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _tiles(rng: np.random.Generator, form: Form) -> Inputs:
    k = form.depth
    a = rng.standard_normal((TILES, 16, k)).astype(np.float32)
    b = rng.standard_normal((TILES, 8, k)).astype(np.float32)
    c = rng.standard_normal((TILES, 16, 8)).astype(np.float32)
    for tile in (a[0], b[0], c[0]):
        tile[...] = rng.integers(-9, 10, tile.shape)
    # one product each, subnormal operands among them, and nothing to add it to
    a[1] = np.eye(k, dtype=np.float32)[rng.integers(0, k, 16)]
    tiny = {"f16": 2.0**-24, "bf16": 2.0**-133, "tf32": 2.0**-133}[form.operands]
    b[1], c[1] = rng.choice([tiny, 3 * tiny, 1.5, -2.0, 96.0], (8, k)), 0
    a[3] *= 2.0 ** rng.integers(-6, 7, a[3].shape)  # sums that cancel across many exponents
    b[3] *= 2.0 ** rng.integers(-6, 7, b[3].shape)
    a[5, 0, 0], a[5, 1, 1], a[5, 2, :2] = np.nan, np.inf, (np.inf, -np.inf)
    a[5, 3], c[5, 4, 4], c[5, 5, 5], c[5, 6, 6] = 0, np.nan, np.inf, -np.inf
    a[5, 6, 0] = np.inf
    b[5, 3] = 0  # 0 times infinity
    return (
        _stored(a, form.operands).reshape(-1),
        _stored(b, form.operands).reshape(-1),
        c.view(np.uint32).reshape(-1),
    )


# ---- running -------------------------------------------------------------------------------------
def answers(executor: Any, name: str, given: Inputs) -> Array:
    """The words that the kernel ``name`` writes for these inputs; unwritten ones are all ones."""
    form, (a, b, _) = FORMS[name], given
    blocks = len(a) // 32 if form.kind == "value" else TILES
    words = {"value": len(a), "mma": TILES * 128, "ldmatrix": 4 * len(b), "copy": len(a)}[form.kind]
    shared = {"ldmatrix": 1024, "copy": 32 * form.depth}.get(form.kind, 0)
    addresses = [executor.buffer(n, array) for n, array in zip("abc", given, strict=True)]
    addresses.append(executor.empty("d", (words,), np.uint32))
    executor.launch(name, (blocks,), (32,), struct.pack("<4Q", *addresses), shared)
    out: Array = executor.read("d")
    return out


def _identity() -> str:
    """What the kernels are made from: a record of others says nothing about these."""
    state = hashlib.sha256()
    for path in (SOURCE, *(KERNELS / "cuda" / f for f in ("ptx.cuh", "storage.cuh", "relu.cuh"))):
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def record(executor: Any, folder: Path, *, rehearsal: bool) -> tuple[Path, list[str]]:
    """Write the answers of all forms the device has; (file, names of the forms).

    A rehearsal's file says so and is named for it: the emulator's answers are no GPU's.
    """
    entries = set(executor.compile(SOURCE, [KERNELS]))
    arch = int("".join(ch for ch in executor.arch if ch.isdigit()))
    names = [name for name, form in FORMS.items() if form.arch <= arch]
    if set(names) != entries:
        raise GoldenError(f"forms and kernels differ: {sorted(set(names) ^ entries)}")
    arrays: dict[str, Array] = {
        "format": np.array(FORMAT), "rehearsal": np.array(rehearsal), "arch": np.array(arch),
        "device": np.array(executor.name), "source": np.array(_identity()),
    }  # fmt: skip
    for name in names:
        form = FORMS[name]
        given = inputs(form)
        arrays |= {f"{form.inputs}/{x}": array for x, array in zip("abc", given, strict=True)}
        arrays[f"{name}/d"] = answers(executor, name, given)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"ptx_{'rehearsal' if rehearsal else f'sm{arch}'}.npz"
    partial = path.with_suffix(".partial.npz")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    partial.replace(path)
    return path, names


def replay(path: Path, executor: Any, *, rehearsal: bool = False) -> list[str]:
    """What ``executor`` answers otherwise than the device that made the file, in words.

    Raises
    ------
    GoldenError
        The file is damaged, is a rehearsal's where a GPU's is wanted, or belongs to other kernels.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        kept = {name: arrays[name].item() for name in ("format", "rehearsal", "arch", "source")}
    except Exception as error:
        raise GoldenError(f"{path}: not a record of answers ({error})") from error
    if kept["format"] != FORMAT or kept["rehearsal"] is not rehearsal:
        raise GoldenError(
            f"{path}: format {kept['format']}, rehearsal {kept['rehearsal']}; expected {FORMAT}, "
            f"{rehearsal}"
        )
    if kept["source"] != _identity():
        raise GoldenError(f"{path}: its kernels were others than ptx_golden.cu and ptx.cuh now")
    names = [name for name, form in FORMS.items() if form.arch <= kept["arch"]]
    wanted = {n: [*(f"{FORMS[n].inputs}/{x}" for x in "abc"), f"{n}/d"] for n in names}
    missing = [key for keys in wanted.values() for key in keys if key not in arrays]
    if missing:
        raise GoldenError(f"{path}: {missing[0]} is missing")
    executor.compile(SOURCE, [KERNELS])
    found = []
    for name in names:
        a, b, c, want = (arrays[key] for key in wanted[name])
        got = answers(executor, name, (a, b, c))
        wrong = np.flatnonzero(~close(FORMS[name], (a, b, c), got, want))
        if len(wrong):
            i = int(wrong[0])
            found.append(
                f"{name}: {len(wrong)} of {len(want)} answers differ, the first at {i}: "
                f"{got[i]:#010x}, on {arrays['device'].item()} {want[i]:#010x}"
            )
    return found


# ---- comparing -----------------------------------------------------------------------------------
def close(form: Form, given: Inputs, got: Array, want: Array) -> Array:
    """Which words are the same answer, as `Form` says it."""
    equal = got == want
    if form.result in ("f16x2", "bf16x2"):
        infinity = 0x7C00 if form.result == "f16x2" else 0x7F80
        g, w = got.view(np.uint16), want.view(np.uint16)
        both = ((g & 0x7FFF) > infinity) & ((w & 0x7FFF) > infinity)
        return ((g == w) | both).reshape(-1, 2).all(axis=1)
    if form.result == "bits":
        return equal
    with np.errstate(invalid="ignore"):
        x, y = got.view(np.float32).astype(np.float64), want.view(np.float32).astype(np.float64)
        equal |= np.isnan(x) & np.isnan(y)
        bound = form.relative * np.abs(y) + form.absolute
        if form.kind == "mma":
            bound = sum_bound(form, given)
        near: Array = np.abs(x - y) <= bound
    return equal | (near & (bound > 0))


def sum_bound(form: Form, given: Inputs) -> Array:
    """(k + 2) 2^-23 (|a| |b|^T + |c|): a tensor core aligns the addends to the largest and cuts.

    0 for the tiles of integers and of single products, which are exact in any order.
    """
    with np.errstate(invalid="ignore"):
        a = np.abs(_values(given[0], form.operands)).reshape(TILES, 16, form.depth)
        b = np.abs(_values(given[1], form.operands)).reshape(TILES, 8, form.depth)
        c = np.abs(given[2].view(np.float32).astype(np.float64)).reshape(TILES, 16, 8)
        bound = (form.depth + 2) * 2.0**-23 * (np.einsum("tik,tjk->tij", a, b) + c)
    bound[:2] = 0
    return np.where(np.isfinite(bound), bound, 0).reshape(-1)
