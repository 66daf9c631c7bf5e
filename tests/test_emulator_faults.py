"""Planted defects in device code written by hand: the checker names each in every order of threads,
plain code those that guard pages, alignment and budgets show. `emulator_kernels.cpp` holds them."""

import numpy as np
import pytest
from emulator_programs import PARAMS, SCHEDULES, Loaded, compiled, run

from pyinception.emulator.device import Device, EmulatorFault


@pytest.fixture(scope="module")
def code() -> Loaded:
    return compiled()


# (program, kind, line, line of the other access, memory)
DEFECTS = [
    (100, "race", "line 102", "line 101", "shared memory"),
    (101, "race", "line 111", "line 113", "shared memory"),
    (102, "out of bounds", "line 121", None, "x"),
    (103, "out of bounds", "line 131", None, "shared memory"),
    (104, "uninitialised", "line 142", None, "shared memory"),
    (105, "misaligned", "line 151", None, "y"),
    (106, "barrier", "line 163", "line 161", ""),
    (107, "barrier", "line 171", None, ""),
    (108, "hang", "line 181", None, ""),
    (109, "copy not waited for", "line 194", "line 191", "shared memory"),
    (110, "copy not waited for", "line 203", "line 201", "shared memory"),
    (111, "race", "line 214", "line 210", "shared memory"),
    (112, "race", "line 221", "line 221", "y"),
    (113, "race", "line 232", "line 230", "shared memory"),
    (114, "barrier", "line 242", "line 241", ""),
    (115, "deadlock", "line 251", None, ""),
    (116, "trap", "line 261", None, ""),
    (117, "race", "line 275", "line 273", "shared memory"),
    (118, "stack", None, None, ""),
    (119, "race", "line 292", "line 291", "x"),
    (120, "out of bounds", "line 301", None, ""),
    (121, "barrier", "line 312", "line 311", ""),
    (122, "uninitialised", "line 321", None, "y"),
    (123, "trap", "line 331", None, ""),
    (124, "race", "line 344", "line 342", "shared memory"),
    (125, "barrier", "line 351", None, ""),
    (126, "barrier", "line 352", None, ""),
    (127, "barrier", "line 353", None, ""),
    (128, "barrier", "line 354", "line 354", ""),
    (129, "read-only", "line 355", None, "table"),
    (130, "read-only", "line 356", None, "the parameters"),
    (131, "race", "line 359", "line 357", "x"),
    (132, "barrier", "line 360", None, ""),
    (133, "misaligned", "line 361", None, "x"),
    (134, "race", "line 363", "line 362", "shared memory"),
    (135, "race", "line 448", "line 440", "x"),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("which", "kind", "where", "other", "memory"), DEFECTS)
def test_the_checker_names_the_defect(
    code: Loaded, which: int, kind: str, where: str, other: str | None, memory: str,
    schedule: tuple[str, int],
) -> None:  # fmt: skip
    order, seed = schedule
    with pytest.raises(EmulatorFault) as raised:
        run(
            code.kernel("program", "checked"), which, blocks=2, fill=which != 122,
            order=order, seed=seed, back_edges=1_000_000,
        )  # fmt: skip
    fault = raised.value
    found = (fault.where, fault.other_where)
    if fault.kind in ("race", "barrier"):  # who comes first is the schedule's
        assert sorted(map(str, found)) == sorted(map(str, (where, other))), str(fault)
    else:
        assert found == (where, other), str(fault)
    assert fault.kind == kind or (which, fault.kind) == (110, "race"), str(fault)
    assert fault.buffer == memory, str(fault)
    assert fault.block is not None and fault.thread is not None


# Without the checker: guard pages, alignment, divergence, deadlock, budget.
PLAIN = [103, 105, 106, 107, 108, 114, 115, 116, 118, 120, 121, 123]


@pytest.mark.parametrize("which", PLAIN)
def test_plain_code_faults_too(code: Loaded, which: int) -> None:
    kind, where, other, memory = next(d[1:] for d in DEFECTS if d[0] == which)
    with pytest.raises(EmulatorFault) as raised:
        run(code.kernel("program", "plain"), which, back_edges=100_000)
    fault = raised.value
    assert (fault.kind, fault.other_where, fault.buffer) == (kind, other, memory), str(fault)
    assert fault.where == where or which == 118, str(fault)


def test_a_guard_page_names_buffer_offset_and_line(code: Loaded) -> None:
    with pytest.raises(EmulatorFault, match="out-of-bounds read at byte 16384 of x") as raised:
        run(code.kernel("program", "plain"), 102)
    fault = raised.value
    assert (fault.where, fault.buffer, fault.offset) == ("line 121", "x", 16384)
    assert (fault.block, fault.thread) == ((0, 0, 0), (0, 0, 0))


def test_early_reads_see_nan_without_the_checker(code: Loaded) -> None:
    kernel = code.kernel("program", "plain")
    for which in (104, 109):
        _, y = run(kernel, which)
        assert np.isnan(y[:128]).any(), which


def test_a_missing_barrier_gives_wrong_numbers(code: Loaded) -> None:
    """WAR: a warp that runs ahead overwrites what the others have yet to read."""
    kernel = code.kernel("program", "plain")
    expected = np.repeat([0, 1, 2], 128)
    greedy = [run(kernel, 101, order="greedy", seed=seed)[1][:384] for seed in range(4)]
    assert not any(np.array_equal(y, expected) for y in greedy)


def test_the_device_goes_on_after_a_fault(code: Loaded) -> None:
    kernel = code.kernel("program", "checked")
    device = Device()
    x = device.buffer("x", np.arange(128, dtype=np.float32))
    y = device.empty("y", (128,))
    for which in (103, 0, 100, 0):
        params = np.array((x.ctypes.data, y.ctypes.data, which, 128), PARAMS)
        if which:
            with pytest.raises(EmulatorFault):
                device.launch(kernel, (1,), (128,), params, 8192)
        else:
            device.launch(kernel, (1,), (128,), params, 8192)
            np.testing.assert_array_equal(y, np.array(x)[::-1] + 2)
