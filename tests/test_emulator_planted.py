"""Planted defects in CUDA C++, through compiler, translator and runtime: each is found, with its
source line. `emulator_planted.cu` holds the kernels; the right ones beside them pass."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pyinception.emulator import compile as compiler
from pyinception.emulator import device as emulator
from pyinception.emulator.device import Device, EmulatorFault, Kernel

try:
    emulator.library()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)
if reason := compiler.why_not():
    pytest.skip(reason, allow_module_level=True)

SOURCE = Path(__file__).with_name("emulator_planted.cu")
PARAMS = np.dtype([("x", "u8"), ("y", "u8"), ("n", "i4")])
SCHEDULES = [("fair", 0), ("random", 1), ("greedy", 1), ("greedy", 2)]


@cache
def module():
    return compiler.module_of(SOURCE)


@cache
def kernel(name: str, checked: bool) -> Kernel:
    translation, library = compiler.build(module(), name, checked=checked)
    return Kernel.load(library, name, translation.sites)


@cache
def line_of(mark: str) -> str:
    lines = SOURCE.read_text().splitlines()
    found = [i for i, line in enumerate(lines, 1) if line.endswith(f"// {mark}")]
    assert len(found) == 1, mark
    return f"{SOURCE.name}:{found[0]}"


def run(name: str, checked: bool = True, x: np.ndarray | None = None, **settings) -> np.ndarray:
    device = Device(**settings)
    data = np.zeros(512, np.float32) if x is None else x.astype(np.float32)
    memory = device.buffer("x", data)
    y = device.buffer("y", np.full(512, np.nan, np.float32))
    threads = 32 if "fragment" in name else 128
    shared = 4608 if "ring" in name else 2048 if "cop" in name else 512
    params = np.array((memory.ctypes.data, y.ctypes.data, 512), PARAMS)
    grid = (2,) if name == "two_blocks" else (1,)
    device.launch(kernel(name, checked), grid, (threads,), params, shared)
    return np.array(y)


DEFECTS = [
    ("global_past_the_end", "out of bounds", "x"),
    ("global_before_the_start", "out of bounds", "y"),
    ("shared_past_the_end", "out of bounds", "shared memory"),
    ("read_before_write", "race", "shared memory"),
    ("write_before_read", "race", "shared memory"),
    ("copy_not_waited_for", "copy not waited for", "shared memory"),
    ("divergent_barrier", "barrier", ""),
    ("uninitialised", "uninitialised", "shared memory"),
    ("endless", "hang", ""),
    ("misaligned", "misaligned", "y"),
    ("two_blocks", "race", "y"),
]


@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
@pytest.mark.parametrize(("name", "kind", "memory"), DEFECTS)
def test_the_checker_names_the_defect(
    name: str, kind: str, memory: str, order: str, seed: int
) -> None:
    x = np.arange(512) * (name != "endless")
    with pytest.raises(EmulatorFault) as raised:
        run(name, x=x, order=order, seed=seed, back_edges=300_000)
    fault = raised.value
    assert (fault.kind, fault.buffer) == (kind, memory), str(fault)
    marks = {line_of(name)}
    if f"// {name} other" in SOURCE.read_text():
        marks.add(line_of(f"{name} other"))
    assert any(mark in str(fault.where) for mark in marks), str(fault)
    if len(marks) == 2:  # who comes first is the schedule's
        assert all(mark in f"{fault.where} {fault.other_where}" for mark in marks), str(fault)
    assert re.search(r"block \(\d+, 0, 0\), thread \(\d+, 0, 0\)", str(fault))


def test_a_wrapper_is_named_with_its_caller() -> None:
    with pytest.raises(EmulatorFault) as raised:
        run("divergent_barrier", x=np.arange(512))
    assert "inlined at" in str(raised.value.where)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("global_past_the_end", "out of bounds"),
        ("shared_past_the_end", "out of bounds"),
        ("divergent_barrier", "barrier"),
        ("endless", "hang"),
        ("misaligned", "misaligned"),
    ],
)
def test_plain_code_names_it_too(name: str, kind: str) -> None:
    with pytest.raises(EmulatorFault) as raised:
        run(name, False, np.arange(512) * (name != "endless"), back_edges=300_000)
    fault = raised.value
    assert fault.kind == kind and line_of(name).split(":")[0] in str(fault.where), str(fault)
    if kind == "out of bounds":
        assert line_of(name) in str(fault.where), str(fault)


EXPECTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reversed": lambda x: x[:128][::-1],
    "copied": lambda x: x[:128][::-1],
    "right_fragment": lambda x: (
        x[:256].reshape(16, 16) @ x[256:384].reshape(8, 16).T
    ).ravel(),
}  # fmt: skip


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
@pytest.mark.parametrize("name", EXPECTED)
def test_right_kernels_pass(name: str, order: str, seed: int, checked: bool) -> None:
    x = np.random.default_rng(7).integers(-4, 5, 512).astype(np.float32)
    expected = EXPECTED[name](x)
    y = run(name, checked, x, order=order, seed=seed)
    np.testing.assert_array_equal(y[: len(expected)], expected)


def test_a_wrong_fragment_gives_wrong_numbers() -> None:
    x = np.random.default_rng(7).integers(-4, 5, 512).astype(np.float32)
    assert not np.array_equal(run("wrong_fragment", x=x)[:128], EXPECTED["right_fragment"](x))


def test_defects_give_wrong_numbers_even_unchecked() -> None:
    x = np.arange(512, dtype=np.float32)
    for name in ("write_before_read", "copy_not_waited_for", "uninitialised"):
        right = x[:128] if name == "uninitialised" else x[:128][::-1]
        results = [run(name, False, x, order="greedy", seed=s)[:128] for s in range(3)]
        assert not all(np.array_equal(y, right) for y in results), name


# ---- a pipeline of copies and matrix products ----------------------------------------------------
def ring_operands() -> tuple[np.ndarray, np.ndarray]:
    """x as the kernel takes it, bf16 pairs in floats, and the product it must give."""
    draw = np.random.default_rng(3)
    a, b = (draw.integers(-4, 5, (rows, 96)).astype(np.float32) for rows in (64, 8))
    bits = np.concatenate([a.ravel(), b.ravel()]).view(np.uint32) >> 16  # exact in bf16
    return bits.astype(np.uint16).view(np.float32), (a @ b.T).ravel()


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
@pytest.mark.parametrize("lazy", [False, True])
def test_the_right_ring_passes(order: str, seed: int, lazy: bool, checked: bool) -> None:
    x, expected = ring_operands()
    y = run("ring_with_barrier", checked, x, order=order, seed=seed, lazy_copies=lazy)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
def test_a_ring_without_its_barrier(order: str, seed: int) -> None:
    """WAR: a stage is filled again while another warp has yet to read it."""
    x, _ = ring_operands()
    with pytest.raises(EmulatorFault) as raised:
        run("ring_without_barrier", x=x, order=order, seed=seed)
    fault = raised.value
    assert fault.buffer == "shared memory", str(fault)
    assert fault.kind in ("race", "copy not waited for"), str(fault)


def test_a_ring_without_its_barrier_gives_wrong_numbers_in_a_greedy_order() -> None:
    x, expected = ring_operands()
    results = [run("ring_without_barrier", False, x, order="greedy", seed=s) for s in range(8)]
    assert not all(np.array_equal(y, expected) for y in results)
