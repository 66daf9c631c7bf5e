"""A whole GoogLeNet module on CUDA, forward and backward, executed under the checker.

On integers every rung and storage equals the reference bit by bit. Maps are slices whose
neighbours are NaN, the workspace is NaN and has exactly the bytes of the dry run.
"""

import re

import module_bounds as bounds
import numpy as np
import pytest
from cuda_run import Memory, Refused, open_device, plan
from module_device import Device
from module_problems import SAVED, Forward, Gradients, Module

import pyinception as pyi
from pyinception.bench.shapes import MODULES

# rung, storage: fp32 on tensor cores is multiplied as tf32
RUNGS = [(False, "fp32"), (False, "bf16"), (False, "fp16"), (True, "bf16"), (True, "fp16"),
         (True, "fp32")]  # fmt: skip


def rungs(test):
    ids = [f"{'tensor' if tensor else 'cores'}-{storage}" for tensor, storage in RUNGS]
    return pytest.mark.parametrize(("tensor_cores", "storage"), RUNGS, ids=ids)(test)


@pytest.fixture(autouse=True, scope="module")
def emulator() -> None:
    open_device()  # or skip


def hold(got: np.ndarray, expected: np.ndarray, name: str = "y") -> None:
    assert (expected != 0).mean() > 0.02, f"{name} is mostly zeros: this proves little"
    np.testing.assert_array_equal(got, expected, err_msg=name)


def hold_forward(got: Forward, expected: Forward) -> None:
    for name in ("y", *SAVED):
        hold(getattr(got, name), getattr(expected, name), name)


def hold_gradients(got: Gradients, expected: Gradients) -> None:
    named = expected.named()
    for name, array in got.named().items():
        hold(array, named[name], name)


def small(name: str) -> tuple[int, int, int, tuple[int, ...]]:
    """A module's proportions at a size for the checker: (n, extent, C, widths)."""
    extent, c, widths = MODULES[name]
    n = 2 if extent == 7 else 1
    return n, min(extent, 7), c // 96 * 8, tuple(-(-k // 32) * 8 for k in widths)


@rungs
def test_module_is_exact(tensor_cores, storage):
    """Forward with and without what training saves, and backward, of an awkward module."""
    widths = (24, 40, 48, 16, 24, 32)
    frame = (8, 16) if tensor_cores else (3, 2)
    case = Module(2, 7, 40, widths, storage=storage, tensor_cores=tensor_cores, frame=frame)
    device = Device()
    expected = case.forward()
    hold_forward(case.run_forward(device, Memory(device)), expected)
    hold(case.run_forward(device, Memory(device), save=False), expected.y)
    hold_gradients(case.run_backward(device, Memory(device), expected), case.backward(expected))


@pytest.mark.parametrize("tensor_cores", [False, True], ids=["cores", "tensor"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_reduced_are_exact(name, tensor_cores):
    """The nine modules' proportions, under orders of threads by lot."""
    storage = "bf16" if tensor_cores else "fp32"
    case = Module(*small(name), storage=storage, tensor_cores=tensor_cores)
    device, expected = Device(seed=len(name)), case.forward()
    hold_forward(case.run_forward(device, Memory(device)), expected)
    hold_gradients(case.run_backward(device, Memory(device), expected), case.backward(expected))


@pytest.mark.parametrize("name", MODULES)
def test_whole_geometries_are_exact_on_cuda_cores(name):
    """Plain code in a fair and in a greedy order. Of the tensor cores these are branches, in
    test_cuda_mma_emulated.py."""
    extent, c, widths = MODULES[name]
    case = Module(1, extent, c, widths)
    expected = case.forward()
    gradients = case.backward(expected)
    for greedy in (False, True):
        device = Device(checked=False, greedy=greedy)
        hold_forward(case.run_forward(device, Memory(device)), expected)
        hold_gradients(case.run_backward(device, Memory(device), expected), gradients)


def test_a_launch_for_each_role():
    """What the plan takes where the model expects it to end first; saved or not, the same bits."""
    case = Module(2, 14, 40, (24, 40, 48, 16, 24, 32), storage="bf16", tensor_cores=True,
                  multiprocessors=1)  # fmt: skip
    device, expected = Device(), case.forward()
    hold_forward(case.run_forward(device, Memory(device)), expected)
    hold(case.run_forward(device, Memory(device), save=False), expected.y)
    assert len(device.entries) == 10 and "inception_mma_bf16" not in device.entries


@pytest.mark.parametrize("tensor_cores", [False, True], ids=["cores", "tensor"])
def test_third_branch_of_3x3(tensor_cores):
    case = Module(1, 6, 40, (24, 40, 48, 16, 24, 32), filter_=3, storage="bf16",
                  tensor_cores=tensor_cores)  # fmt: skip
    device, expected = Device(), case.forward()
    hold_forward(case.run_forward(device, Memory(device)), expected)
    hold_gradients(case.run_backward(device, Memory(device), expected), case.backward(expected))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("storage", ["bf16", "fp16", "fp32"])
def test_every_role_without_races(storage, seed):
    """More stages than the ring has in each role, several blocks a role, greedy orders."""
    case = Module(2, 9, 160, (40, 24, 48, 16, 24, 32), storage=storage, tensor_cores=True,
                  multiprocessors=8)  # fmt: skip
    device, expected = Device(seed=seed), case.forward()
    hold(case.run_forward(device, Memory(device), save=False), expected.y)


@pytest.mark.parametrize("tensor_cores", [False, True], ids=["cores", "tensor"])
def test_nan_goes_where_the_reference_has_it(tensor_cores):
    case = Module(1, 9, 40, (24, 40, 48, 16, 24, 32), storage="bf16", tensor_cores=tensor_cores)
    case.x[0, 4, 5, 7] = np.nan
    device, expected = Device(), case.forward()
    assert 0.05 < np.isnan(expected.y).mean() < 0.7
    got = case.run_forward(device, Memory(device))
    for name in ("y", *SAVED):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


# ---- real numbers --------------------------------------------------------------------------------
def real(name: str, **how) -> Module:
    return Module(*small(name), real=True, **how)


@pytest.mark.parametrize("name", ["4c", "5b"])
def test_fp32_beside_the_cpu_backend(name):
    case, device = real(name), Device()
    weights = tuple(v for pair in zip(case.w, case.b, strict=True) for v in pair)
    how = {"backend": "cpu", "algorithm": "direct"}
    y, saved = pyi.inception(case.x, weights, return_saved=True, **how)
    got = case.run_forward(device, Memory(device))
    for mine, theirs in zip((got.y, got.r3, got.r5, got.pooled), (y, *saved[:3]), strict=True):
        assert np.abs(mine - theirs).max() <= 1e-5 * np.abs(theirs).max()
    np.testing.assert_array_equal(got.argmax, saved[3])
    gx, grads = pyi.inception_backward(case.gy, case.x, weights, y=y, saved=saved, **how)
    given = case.run_backward(device, Memory(device), Forward(y, *saved)).named()
    names = ["gx", *(f"g{kind}{i}" for i in range(6) for kind in "wb")]
    for label, theirs in zip(names, (gx, *grads), strict=True):
        assert np.abs(given[label] - theirs).max() <= 1e-5 * np.abs(theirs).max(), label


@rungs
def test_real_numbers(tensor_cores, storage):
    """16 bits: at most twice a plain run's error. tf32: within its bound, and no better than it
    can be."""
    if (tensor_cores, storage) == (False, "fp32"):
        pytest.skip("beside the CPU backend")
    case, device = real("4c", storage=storage, tensor_cores=tensor_cores), Device()
    got, plain, truth = (case.run_forward(device, Memory(device)), case.forward(),
                         case.forward(np.float64))  # fmt: skip
    grads = case.run_backward(device, Memory(device), plain).named()
    plain_grads, true_grads = (g.named() for g in bounds.plain_and_truth(case, plain))
    if storage == "fp32":
        limit = bounds.backward_bound(case, plain) | {"y": bounds.forward_bound(case)}
        for name, exact in (true_grads | {"y": truth.y}).items():
            off = np.abs((grads | {"y": got.y})[name] - exact)
            assert (off <= limit[name]).all(), name
            assert "gb" in name or off.max() > 1e-6 * np.abs(exact).max(), f"{name}: not tf32"
    else:
        name, ratio = bounds.worst_ratio(
            grads | {"y": got.y}, plain_grads | {"y": plain.y}, true_grads | {"y": truth.y}
        )
        assert ratio <= 2, name


# ---- what is asked -------------------------------------------------------------------------------
@pytest.mark.parametrize("tensor_cores", [False, True], ids=["cores", "tensor"])
def test_results_that_are_not_wanted(tensor_cores):
    """No gx; no filters; of the filters one that needs gr3 and one that does not."""
    case = Module(1, 6, 40, (24, 40, 48, 16, 24, 32), storage="bf16", tensor_cores=tensor_cores)
    expected = case.forward()
    wanted = case.backward(expected)
    for skip in ({"gx"}, {"gx", "gw1", "gw3", "gw4"}, {"gw0", "gw2", "gw5"}):
        device = Device()
        got = case.run_backward(device, Memory(device), expected, skip=skip).named()
        for name, array in wanted.named().items():
            if name in skip or name.replace("gb", "gw") in skip:
                assert np.isnan(got[name]).all()
            else:
                hold(got[name], array, name)


class NoImages(Module):
    """The module's arrays, and a record that speaks of none of their images."""

    def record(self, memory) -> np.ndarray:
        a = super().record(memory)
        a["N"] = 0
        return a


@pytest.mark.parametrize("tensor_cores", [False, True], ids=["cores", "tensor"])
def test_no_images(tensor_cores):
    """No map is written; the filter gradients are sums of nothing."""
    case = NoImages(1, 6, 40, (24, 40, 48, 16, 24, 32), storage="bf16", tensor_cores=tensor_cores)
    device, done = Device(), case.forward()
    assert np.isnan(case.run_forward(device, Memory(device)).y).all() and device.entries == []
    got = case.run_backward(device, Memory(device), done)
    assert np.isnan(got.gx).all()
    assert not any(array.any() for array in (*got.gw, *got.gb))  # NaN before


REFUSED = {
    "K3 is 0, expected at least 1": {"K": (8, 8, 8, 0, 8, 8)},
    "filter is 7, expected 3 or 5": {"filter": 7},
    "storage is 3, expected 0 (fp32), 1 (bf16) or 2 (fp16)": {"storage": 3},
    "N is -1, expected at least 0": {"N": -1},
    "the workspace begins 4 bytes past a multiple of 16, expected 0": {"workspace": 4},
    "3 of r3, r5, pooled and argmax are given, expected all or none": {"r5": 0},
    "3x3 branch: Cr is 12, expected a multiple of 8 (16 bytes are copied at a time)":
        {"K": (8, 12, 8, 8, 8, 8)},
    "1x1: w is null": {"w": (0, 4096, 4096, 4096, 4096, 4096)},
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_the_plan_declines_with_its_reason(sentence):
    a = Module(1, 6, 16, (8,) * 6, storage="bf16", tensor_cores=True).placed()
    assert len(plan("inception_fprop", a)[0]) == 2
    for name, value in REFUSED[sentence].items():
        a[name] = value
    with pytest.raises(Refused, match=re.escape(sentence)):
        plan("inception_fprop", a)


@pytest.mark.parametrize("tensor_cores", [False, True], ids=["cores", "tensor"])
def test_the_workspace_is_what_the_dry_run_says(tensor_cores):
    a = Module(1, 6, 16, (8,) * 6, storage="bf16", tensor_cores=tensor_cores).placed()
    (_, bytes_), bare = plan("inception_backward_size", a), a.copy()
    for name in ("x", "y", "gy", "gx", "r3", "r5", "pooled", "argmax", "w", "gw", "gb"):
        bare[name] = 0
    assert plan("inception_backward_size", bare)[1] == bytes_ > 0
    a["workspace"], a["workspace_bytes"] = 1 << 40, bytes_
    assert len(plan("inception_backward", a)[0]) >= 11
    a["workspace_bytes"] -= 1
    with pytest.raises(Refused, match=f"has {bytes_ - 1} bytes, expected {bytes_}"):
        plan("inception_backward", a)
