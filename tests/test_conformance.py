"""One suite for every way in: values, gradients, strides, read-only, dtypes, threads, lifetimes.

The ways are those of `adaptors.py`; each is run on every backend that it has, over the same
operands, against the same reference, by bits.
"""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from adaptors import ADAPTORS, OPS, Torch, problem, slopes, truth, x64
from adaptors_tensorflow import TENSORFLOW

import pyinception as pyi
from pyinception import workspace

DTYPES = np.float16, np.float64, np.int32, bool


def cases(keep: Any = lambda adaptor: True, ops: tuple[str, ...] = OPS) -> Any:
    """(adaptor, backend, op) of all that ``keep`` accepts; those of frameworks are `oracles`."""
    rows = []
    for adaptor in filter(keep, (*ADAPTORS, *TENSORFLOW)):
        marks = [pytest.mark.oracles] if adaptor.needs else []
        for where in adaptor.backends:
            for op in (op for op in ops if op in adaptor.ops):
                label = f"{adaptor.name}-{where}-{op}"
                rows.append(pytest.param(adaptor, where, op, id=label, marks=marks))
    return pytest.mark.parametrize(("adaptor", "where", "op"), rows)


@pytest.fixture(autouse=True)
def _runs_here(request: pytest.FixtureRequest) -> Any:
    adaptor = request.getfixturevalue("adaptor")
    if reason := adaptor.missing():
        pytest.skip(reason)
    if adaptor.needs != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two teams of threads that take turns make small tests slow
    yield
    torch.set_num_threads(before)


def equal(adaptor: Any, value: Any, expected: np.ndarray) -> None:
    actual = adaptor.back(value)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@cases()
@pytest.mark.parametrize("square", [False, True], ids=["", "C=H=W"])
def test_values_and_gradients(adaptor: Any, where: str, op: str, square: bool) -> None:
    arrays = problem(op, square=square)
    given = [adaptor.give(a) for a in arrays]
    y = adaptor.forward(op, given, where)
    expected, _ = truth(op, arrays)
    assert np.count_nonzero(expected) > expected.size // 8
    equal(adaptor, y, expected)
    assert type(y) is type(given[0])  # results are of the caller's type
    gy = np.random.default_rng(1).integers(-2, 3, expected.shape).astype(np.float32)
    grads = adaptor.gradients(op, given, adaptor.give(gy), where)
    for value, right in zip(grads, slopes(op, arrays, gy), strict=True):
        equal(adaptor, value, right)
    for value, array in zip(given, arrays, strict=True):
        equal(adaptor, value, array)  # inputs stay as they were


@cases()
def test_maps_with_channels_side_by_side_are_not_copied(adaptor: Any, where: str, op: str) -> None:
    arrays = problem(op)
    workspace.copied_bytes.clear()
    maps = [adaptor.give(arrays[0])] + ([adaptor.view(arrays[0])] if adaptor.has_views else [])
    gy = np.random.default_rng(1).integers(-2, 3, truth(op, arrays)[0].shape).astype(np.float32)
    slices = [adaptor.give(gy)] + ([adaptor.view(gy)] if adaptor.has_views else [])
    weights = [adaptor.give(a) for a in arrays[1:]]
    for x, g in zip(maps, slices, strict=True):
        equal(adaptor, adaptor.forward(op, [x, *weights], where), truth(op, arrays)[0])
        grads = adaptor.gradients(op, [x, *weights], g, where)
        for value, right in zip(grads, slopes(op, arrays, gy), strict=True):
            equal(adaptor, value, right)
    copied = {key: size for key, size in workspace.copied_bytes.items() if not _a_filter(key)}
    assert copied == {}


def _a_filter(key: str) -> bool:
    """Filters in PyTorch's order have no unit channel stride; packing reorders them anyway."""
    return key.split(": ")[1].startswith("w")


@cases(lambda adaptor: adaptor.has_out)
def test_out_is_a_slice_of_the_callers_map(adaptor: Any, where: str, op: str) -> None:
    arrays = problem(op)
    expected, _ = truth(op, arrays)
    wide = np.full((*expected.shape[:3], expected.shape[3] + 5), np.nan, np.float32)
    out = adaptor.give(wide[..., 2:-3])
    given = [adaptor.give(a) for a in arrays]
    assert adaptor.forward(op, given, where, out=out) is out
    np.testing.assert_array_equal(wide[..., 2:-3], expected)
    assert np.isnan(wide[..., :2]).all() and np.isnan(wide[..., -3:]).all()
    short = np.full((*expected.shape[:3], expected.shape[3] - 1), 7, np.float32)
    with pytest.raises(ValueError, match=r"(out|y) has shape"):
        adaptor.forward(op, given, where, out=adaptor.give(short))
    assert (short == 7).all()


@cases(lambda adaptor: adaptor.has_frozen)
def test_read_only_is_fine_in_and_refused_out(adaptor: Any, where: str, op: str) -> None:
    arrays = problem(op)
    expected, _ = truth(op, arrays)
    given = [adaptor.frozen(a) for a in arrays]
    equal(adaptor, adaptor.forward(op, given, where), expected)
    if adaptor.has_out:
        out = adaptor.frozen(np.full(expected.shape, 7, np.float32))
        with pytest.raises(ValueError, match=r"out is read-only, expected a writable array"):
            adaptor.forward(op, given, where, out=out)
    elif adaptor.name == adaptor.needs:
        with pytest.raises(TypeError, match=f"out is an array of {adaptor.name}, .* immutable"):
            adaptor.forward(op, given, where, out=given[0])


@cases()
@pytest.mark.parametrize(
    "dtype", [np.float16, np.float64, np.int32, bool], ids=lambda d: d.__name__
)
def test_other_dtypes_are_refused(adaptor: Any, where: str, op: str, dtype: Any) -> None:
    arrays = problem(op)
    if dtype is np.float64 and where == "reference":
        arrays = [a.astype(dtype) for a in arrays]
        given = [adaptor.give(a) for a in arrays]
        with x64(True) if adaptor.needs == "jax" else np.errstate():
            equal(adaptor, adaptor.forward(op, given, where), truth(op, arrays)[0])
        return
    given = [
        adaptor.give(a.astype(dtype)) if i == 0 else adaptor.give(a) for i, a in enumerate(arrays)
    ]
    with pytest.raises((TypeError, adaptor.refusal), match="has dtype") as caught:
        adaptor.forward(op, given, where)
    assert "float" in str(caught.value) and "expected" in str(caught.value)


@cases()
def test_empty_batch(adaptor: Any, where: str, op: str) -> None:
    arrays = problem(op, n=0)
    given = [adaptor.give(a) for a in arrays]
    expected, _ = truth(op, arrays)
    y = adaptor.forward(op, given, where)
    assert adaptor.back(y).shape == expected.shape == (0, *expected.shape[1:])
    gx, *grads = adaptor.gradients(op, given, adaptor.give(expected), where)
    assert adaptor.back(gx).shape == arrays[0].shape
    for value, array in zip(grads, arrays[1:], strict=True):
        equal(adaptor, value, np.zeros_like(array))


@cases()
def test_threads(adaptor: Any, where: str, op: str) -> None:
    """Four callers at once, each with arrays of its own, get the bits of one alone."""

    def one(seed: int) -> bool:
        arrays = problem(op, seed=seed)
        expected, _ = truth(op, arrays)
        gy = np.random.default_rng(seed).integers(-2, 3, expected.shape).astype(np.float32)
        right = slopes(op, arrays, gy)
        for _ in range(3):
            given = [adaptor.give(a) for a in arrays]
            equal(adaptor, adaptor.forward(op, given, where), expected)
            grads = adaptor.gradients(op, given, adaptor.give(gy), where)
            for value, gradient in zip(grads, right, strict=True):
                equal(adaptor, value, gradient)
        return True

    with ThreadPoolExecutor(4) as team:
        assert all(team.map(one, range(4)))


@cases()
def test_lifetimes(adaptor: Any, where: str, op: str) -> None:
    """A call keeps nothing of its inputs, and its results need none of them."""
    arrays = problem(op)
    expected, _ = truth(op, arrays)
    given = [adaptor.give(a.copy()) for a in arrays]
    gy = adaptor.give(np.ones_like(expected))
    y = adaptor.forward(op, given, where)
    grads = adaptor.gradients(op, given, gy, where)
    alive = [weakref.ref(a) for a in (*given, gy)]
    del given, gy
    gc.collect()
    assert [ref() for ref in alive if ref() is not None] == []
    rubbish = [np.full(a.shape, np.nan, np.float32) for a in arrays]  # where freed memory was
    equal(adaptor, y, expected)
    for value, right in zip(grads, slopes(op, arrays, np.ones_like(expected)), strict=True):
        equal(adaptor, value, right)
    assert len(rubbish) == len(arrays)


@cases(lambda adaptor: isinstance(adaptor, Torch) and adaptor.has_out, ops=("conv2d",))
def test_contiguous_nchw_memory_is_copied_once(adaptor: Any, where: str, op: str) -> None:
    arrays = problem(op)
    given = [adaptor.give(a) for a in arrays]
    workspace.copied_bytes.clear()
    x = given[0].contiguous()
    y = pyi.conv2d(x, *given[1:], padding=1, relu=True, layout="NCHW", backend=where)
    equal(adaptor, y, truth(op, arrays)[0])
    assert workspace.copied_bytes["conv2d: x"] == arrays[0].nbytes


@cases(lambda adaptor: adaptor.name == "tensorflow", ops=("conv2d",))
def test_results_in_nchw_are_compact_for_tensorflow(adaptor: Any, where: str, op: str) -> None:
    arrays = problem(op)
    x, w = (adaptor.give(np.ascontiguousarray(a.transpose(0, 3, 1, 2))) for a in arrays[:2])
    bias = adaptor.give(arrays[2])
    y = pyi.conv2d(x, w, bias, padding=1, relu=True, layout="NCHW", backend=where)
    assert type(y) is type(x)
    np.testing.assert_array_equal(y.numpy().transpose(0, 2, 3, 1), truth(op, arrays)[0])
