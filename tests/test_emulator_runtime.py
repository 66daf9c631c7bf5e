"""The emulator's runtime on device code written by hand: right programs stay right in every order,
counters count, launches are refused by name. `emulator_kernels.cpp` holds the programs."""

import itertools
import threading
import time

import numpy as np
import pytest
from child import child, passes
from emulator_programs import PARAMS, SCHEDULES, Loaded, compiled, run

from pyinception.emulator.device import Device, EmulatorFault


@pytest.fixture(scope="module")
def code() -> Loaded:
    return compiled()


# ---- right programs ------------------------------------------------------------------------------
everywhere = pytest.mark.parametrize(
    ("variant", "order", "seed"),
    [(v, *s) for v, s in itertools.product(("plain", "checked"), SCHEDULES)],
)


@everywhere
def test_reversal_through_shared_memory(code: Loaded, variant: str, order: str, seed: int) -> None:
    kernel = code.kernel("program", variant)
    for threads in (128, 1, 33, 1024):
        x, y = run(kernel, 0, threads, blocks=3, order=order, seed=seed)
        expected = x[: 3 * threads].reshape(3, threads)[:, ::-1].ravel() + 2
        np.testing.assert_array_equal(y[: 3 * threads], expected)
        assert np.isnan(y[3 * threads :]).all()


@everywhere
def test_producers_and_consumers(code: Loaded, variant: str, order: str, seed: int) -> None:
    x, y = run(code.kernel("program", variant), 1, order=order, seed=seed)
    expected = np.concatenate([x[:64][::-1] * (k + 1) for k in range(5)])
    np.testing.assert_array_equal(y[:320], expected)


@everywhere
def test_small_accesses_and_partial_warps(
    code: Loaded, variant: str, order: str, seed: int
) -> None:
    kernel = code.kernel("program", variant)
    _, y = run(kernel, 2, order=order, seed=seed)
    np.testing.assert_array_equal(y[:128], np.arange(128) ^ 1)
    _, y = run(kernel, 3, order=order, seed=seed)
    np.testing.assert_array_equal(y[:128], np.arange(128) ^ 1)
    _, y = run(kernel, 8, order=order, seed=seed)
    live = np.arange(128).reshape(4, 32)[:, :20].ravel()
    assert (y[live] > 0).all() and np.isnan(np.delete(y[:128], live)).all()


@everywhere
@pytest.mark.parametrize("lazy", [True, False])
def test_asynchronous_copies(code: Loaded, variant: str, order: str, seed: int, lazy: bool) -> None:
    kernel = code.kernel("program", variant)
    x, y = run(kernel, 4, 64, order=order, seed=seed, lazy_copies=lazy)
    y = y[: 64 * 8].reshape(64, 2, 4)
    rows = x[:256].reshape(64, 4)
    np.testing.assert_array_equal(y[:, 0], rows[::-1])
    short = rows * [1, 1, 0, 0]
    short[::2] = 0
    np.testing.assert_array_equal(y[:, 1], short)


@everywhere
def test_last_block_and_flags(code: Loaded, variant: str, order: str, seed: int) -> None:
    kernel = code.kernel("program", variant)
    _, y = run(kernel, 5, 32, blocks=9, order=order, seed=seed)
    assert y[0] == 45
    _, y = run(kernel, 14, 64, blocks=5, order=order, seed=seed)
    np.testing.assert_array_equal(y[:64], 5)
    _, y = run(kernel, 6, 64, order=order, seed=seed)
    np.testing.assert_array_equal(y[:32], 7)


@everywhere
def test_collectives(code: Loaded, variant: str, order: str, seed: int) -> None:
    _, y = run(code.kernel("program", variant), 7, 64, order=order, seed=seed)
    got = y.view(np.uint32)[: 64 * 16].reshape(64, 16)
    i = np.arange(64, dtype=np.uint32)
    lane, warp = i % 32, i // 32
    down_ok = lane % 8 + 3 <= 7
    expected = [
        warp * 1024 + 496, np.where(lane > 0, i - 1, i), lane > 0,
        np.where(down_ok, i + 3, i), down_ok, warp * 32 + 5,
        np.full(64, sum(1 << k for k in range(0, 32, 3))), np.full(64, 13),
        np.full(64, 0xFFFFFFFF), np.uint32(15) << (lane // 4 * 4), 100 - (warp * 32 + 31),
        np.zeros(64), np.ones(64), np.zeros(64), np.zeros(64), np.ones(64),
    ]  # fmt: skip
    for column, values in enumerate(expected):
        np.testing.assert_array_equal(got[:, column], np.asarray(values, np.uint32), str(column))


@everywhere
def test_barriers_that_are_not_aligned(code: Loaded, variant: str, order: str, seed: int) -> None:
    _, y = run(code.kernel("program", variant), 9, order=order, seed=seed)
    np.testing.assert_array_equal(y[:128], np.arange(128)[::-1])


@pytest.mark.parametrize("variant", ["plain", "checked"])
def test_addresses_of_every_kind(code: Loaded, variant: str) -> None:
    _, y = run(code.kernel("program", variant), 10)
    np.testing.assert_array_equal(y[:128], 10 * (np.arange(128) + 1))
    _, y = run(code.kernel("program", variant), 11, blocks=2)
    np.testing.assert_array_equal(y[:128], np.tile([1, 2, 3, 4], 32))


def test_what_one_launch_wrote_the_next_may_read(code: Loaded) -> None:
    kernel, device = code.kernel("program", "checked"), Device()
    x, y = device.empty("x", (128,)), device.empty("y", (128,))

    def launch(which: int, n: int = 0) -> None:
        params = np.array((x.ctypes.data, y.ctypes.data, which, n), PARAMS)
        device.launch(kernel, (1,), (64,), params)

    launch(12)
    launch(13)
    np.testing.assert_array_equal(x[:64], 1)
    with pytest.raises(EmulatorFault, match="uninitialised read of 4 bytes at byte 256 of y"):
        launch(13, 64)


def test_blocks_on_several_host_threads(code: Loaded) -> None:
    kernel = code.kernel("program", "plain")
    x, y = run(kernel, 0, 128, blocks=30, workers=2, order="random", seed=5)
    expected = x[:3840].reshape(30, 128)[:, ::-1].ravel() + 2
    np.testing.assert_array_equal(y[:3840], expected)
    _, y = run(kernel, 5, 32, blocks=100, workers=2)
    assert y[0] == 5050


# ---- counters ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("order", "seed"), SCHEDULES)
def test_counters(code: Loaded, order: str, seed: int) -> None:
    device = Device(count=True, order=order, seed=seed)
    x = device.buffer("x", np.zeros(1024, np.float32))
    params = np.array((x.ctypes.data, 0, 0, 0), PARAMS)
    kernel = code.kernel("counted", "checked")
    device.launch(kernel, (2,), (64,), params, 32768)
    rows = {(c.where, c.kind): (c.instructions, c.units, c.ideal) for c in device.counters(kernel)}
    warps = 2 * 2 * 3  # blocks, warps, rounds
    assert rows == {
        ("line 1", "executed"): (warps, 0, 0),
        ("line 2", "shared write"): (warps, warps, warps),
        ("line 3", "shared write"): (warps, 32 * warps, warps),
        ("line 4", "shared write"): (warps, 4 * warps, 4 * warps),
        ("line 6", "shared read"): (warps, warps, warps),
        ("line 14", "shared read"): (warps, 2 * warps, 2 * warps),
        ("line 15", "shared read"): (warps, 2 * warps, 2 * warps),
        ("line 16", "shared read"): (warps, 2 * warps, warps),
        ("line 17", "shared read"): (warps, 4 * warps, 2 * warps),
        ("line 7", "global read"): (warps, 4 * warps, 4 * warps),
        ("line 8", "global read"): (warps, 32 * warps, 4 * warps),
        ("line 9", "global read"): (warps, 4 * warps, 2 * warps),
        ("line 10", "shared copy"): (warps, 8 * warps, 4 * warps),
        ("line 10", "global copy"): (warps, 16 * warps, 16 * warps),
    }
    device.clear_counters()
    assert device.counters(kernel) == []


# ---- refusals ------------------------------------------------------------------------------------
def test_launches_no_device_would_take(code: Loaded) -> None:
    kernel = code.kernel("program", "plain")
    device = Device()
    params = np.zeros((), PARAMS)
    with pytest.raises(ValueError, match="2048 threads; there are at most 1024"):
        device.launch(kernel, (1,), (64, 32), params)
    with pytest.raises(ValueError, match="300000 bytes of shared memory"):
        device.launch(kernel, (1,), (32,), params, 300000)
    with pytest.raises(ValueError, match="takes 24 bytes of parameters, the launch gives 8"):
        device.launch(kernel, (1,), (32,), np.zeros(1))
    with pytest.raises(ValueError, match="grid: expected 1 to 3 positive extents"):
        device.launch(kernel, (0,), (32,), params)
    with pytest.raises(ValueError, match="65535"):
        device.launch(kernel, (1, 70000), (32,), params)
    with pytest.raises(ValueError, match="order: expected one of fair, random, greedy"):
        Device(order="first")
    with pytest.raises(ValueError, match="name: expected 1 to 63 bytes"):
        device.empty("x" * 64, (1,))
    with pytest.raises(TypeError, match="plain numbers"):
        device.buffer("x", np.array([None]))


def test_arrays_keep_their_memory_and_give_it_back(code: Loaded) -> None:
    views = []
    for k in range(50):
        device = Device()
        views.append(device.buffer("x", np.full((64, 1024), k, np.float32))[3:, ::2])
    assert [float(v.sum()) for v in views] == [k * 61 * 512.0 for k in range(50)]
    assert device.buffer("e", np.zeros((0, 4))).shape == (0, 4)


def test_arrays_may_die_during_a_launch(code: Loaded) -> None:
    kernel, device = code.kernel("rounds", "plain"), Device()
    spare = [device.empty(f"spare {i}", (1000,)) for i in range(50)]
    params = np.array((0, 0, 0, 3000), PARAMS)
    runner = threading.Thread(target=device.launch, args=(kernel, (1,), (256,), params))
    runner.start()
    while spare:
        spare.pop()
        time.sleep(0.0002)
    runner.join()
    fresh = device.buffer("x", np.arange(10.0))
    np.testing.assert_array_equal(fresh, np.arange(10.0))


def test_two_devices_in_two_threads(code: Loaded) -> None:
    kernel = code.kernel("program", "checked")
    wrong = []

    def work(seed: int) -> None:
        for _ in range(5):
            x, y = run(kernel, 0, 64, order="random", seed=seed)
            if not np.array_equal(y[:64], x[:64][::-1] + 2):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_ctrl_c_ends_a_hang(code: Loaded) -> None:
    body = f"""
    from pyinception.emulator.device import Device, Kernel
    kernel = Kernel.load({str(code.folder / "plain.so")!r}, "program")
    params = np.array((0, 0, 108, 0), [("x", "u8"), ("y", "u8"), ("which", "u4"), ("n", "u4")])
    print(interrupted(lambda: Device(back_edges=1 << 62).launch(kernel, (1,), (64,), params)))
    """
    assert float(passes(body)) < 5


def test_a_crash_elsewhere_is_still_a_crash(code: Loaded) -> None:
    """The handler of guard pages keeps its hands off faults that are not device code's."""
    body = f"""
    import ctypes
    from pyinception.emulator.device import Device, Kernel
    kernel = Kernel.load({str(code.folder / "plain.so")!r}, "rounds")
    params = np.array((0, 0, 0, 1), [("x", "u8"), ("y", "u8"), ("which", "u4"), ("n", "u4")])
    Device().launch(kernel, (1,), (64,), params)
    ctypes.string_at(8)
    """
    assert child(body).returncode == -11


def test_barriers_cost_microseconds(code: Loaded) -> None:
    """A barrier of 256 threads: 7 us with our own switch, over 100 us through swapcontext."""
    kernel = code.kernel("rounds", "plain")
    device = Device()
    params = np.array((0, 0, 0, 2000), PARAMS)
    best = 1.0
    for _ in range(5):
        start = time.process_time()
        device.launch(kernel, (1,), (256,), params)
        best = min(best, time.process_time() - start)
    assert best / 2000 < 60e-6
