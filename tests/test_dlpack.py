"""Arrays of other libraries at the border: DLPack both ways, zero copies, one deleter call each."""

import gc
import weakref
from typing import Any

import numpy as np
import producer
import pytest
from built import BACKENDS, needs_core
from producer import Produced
from pyinception.kernels import reference

import pyinception as pyi
from pyinception import backend, border, workspace

draw = np.random.default_rng(0)


def ints(*shape: int) -> np.ndarray:
    return draw.integers(-4, 5, shape).astype(np.float32)


X, W, B = ints(2, 6, 5, 3), ints(4, 3, 3, 3), ints(4)
Y = reference.conv2d_fprop(X, W, B, padding=(1, 1))


def conv(x: Any, w: Any = W, b: Any = B, **how: Any) -> Any:
    return pyi.conv2d(x, w, b, layout="NHWC", padding=1, **how)


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("version", [None, (1, 0), (1, 3)], ids=str)
class TestIn:
    def test_values_and_one_deleter_call(self, version: Any, where: str) -> None:
        given = [Produced(a, version=version) for a in (X, W, B)]
        y = conv(*given, backend=where)
        assert type(y) is Produced
        np.testing.assert_array_equal(y.array, Y)
        gc.collect()
        assert [array.calls() for array in given] == [[1], [1], [1]]

    def test_a_slice_with_an_offset_is_read_where_it_lies(self, version: Any, where: str) -> None:
        wide = np.full((2, 8, 9, 7), np.nan, np.float32)
        wide[:, 1:7, 2:7, 3:6] = X
        before = workspace.copied_bytes["conv2d: x"]
        x = Produced(wide[:, 1:7, 2:7, 3:6], version=version, offset=16)
        np.testing.assert_array_equal(conv(x, backend=where).array, Y)
        assert workspace.copied_bytes["conv2d: x"] == before

    def test_no_strides_means_dense(self, version: Any, where: str) -> None:
        x = Produced(X, version=version, dense=True)
        np.testing.assert_array_equal(conv(x, backend=where).array, Y)

    def test_out_is_written_and_returned(self, version: Any, where: str) -> None:
        if version is None and "cpu" not in BACKENDS:
            pytest.skip("without the core NumPy takes old capsules as read-only")
        wide = np.full((2, 6, 5, 9), 7, np.float32)
        out = Produced(wide[..., 3:7], version=version)
        assert conv(Produced(X), backend=where, out=out) is out
        np.testing.assert_array_equal(wide[..., 3:7], Y)
        assert (wide[..., :3] == 7).all() and (wide[..., 7:] == 7).all()
        gc.collect()
        assert out.calls() == [1]


@pytest.mark.parametrize("where", BACKENDS)
def test_read_only_is_fine_in_and_refused_out(where: str) -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(conv(Produced(frozen), backend=where).array, Y)
    target = np.full(Y.shape, 7, np.float32)
    with pytest.raises(ValueError, match="conv2d: out is read-only, expected a writable array"):
        conv(X, backend=where, out=Produced(target, read_only=True))
    assert (target == 7).all()


@pytest.mark.parametrize("where", BACKENDS)
def test_empty_batch_and_null_pointer(where: str) -> None:
    x = Produced(np.empty((0, 6, 5, 3), np.float32))
    assert conv(x, backend=where).shape == (0, 6, 5, 4)


def test_results_leave_as_versioned_capsules_without_a_copy() -> None:
    y = conv(Produced(X)).array
    assert '"dltensor_versioned"' in repr(y.__dlpack__(max_version=(1, 0)))
    assert '"dltensor"' in repr(y.__dlpack__())
    other = np.from_dlpack(y)
    assert other.__array_interface__["data"] == y.__array_interface__["data"]


def test_a_library_that_takes_nothing_in_gets_numpy() -> None:
    class Mute(Produced):
        __array_namespace__ = property()  # hasattr says no

    y = conv(Mute(X))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, Y)


def some_memory(dice: np.random.Generator) -> np.ndarray:
    """An array of any rank, dtype and strides: steps, reversals, broadcasts, empty axes."""
    rank = dice.integers(0, 5)
    dtype = dice.choice([np.float32, np.float64, np.uint8])
    a = dice.integers(0, 9, dice.integers(1, 7, rank)).astype(dtype)
    steps = [slice(None, None, int(dice.choice([1, 1, 2, -1, -2]))) for _ in range(rank)]
    a = a[tuple(steps)] if rank else a
    if rank and dice.random() < 0.1:
        a = a[..., :0]
    if dice.random() < 0.3:
        a = np.broadcast_to(a, (3, *a.shape))
    a = a.transpose(dice.permutation(a.ndim))
    if dice.random() < 0.3:
        a.flags.writeable = False
    return a


@needs_core
def test_two_thousand_memories_arrive_as_they_are() -> None:
    dice = np.random.default_rng(5)
    for _ in range(2000):
        a = some_memory(dice)
        version = [None, (1, 0), (1, 1)][dice.integers(3)]
        given = Produced(a, version=version, offset=int(dice.choice([0, 8, 4096])))
        view = border.intake("conv2d", "x", given)
        assert (view.shape, view.dtype) == (a.shape, a.dtype)
        np.testing.assert_array_equal(view, a)
        if a.size:
            assert view.__array_interface__["data"][0] == a.__array_interface__["data"][0]
            long = [axis for axis in range(a.ndim) if a.shape[axis] > 1]
            assert [view.strides[axis] for axis in long] == [a.strides[axis] for axis in long]
        if version is not None:
            assert view.flags.writeable == a.flags.writeable
        del view
        assert given.calls() == [1]


@needs_core
def test_the_borrowed_view_owns_the_export() -> None:
    given = Produced(X.copy())
    view = border.intake("conv2d", "x", given)
    assert view.__array_interface__["data"][0] == given.array.__array_interface__["data"][0]
    part, owner = view[:, 1:], weakref.ref(given.array)
    del view, given.array
    gc.collect()
    assert owner() is not None and given.calls() == [0]
    np.testing.assert_array_equal(part, X[:, 1:])
    del part
    gc.collect()
    assert owner() is None and given.calls() == [1]


class Refusing(Produced):
    """Its library raises instead of exporting."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("this one is on the tape")


class NoCapsule(Produced):
    def __dlpack__(self, **options: Any) -> Any:
        return "memory"


class CudaOnly:
    """A GPU array as Numba has them: no DLPack."""

    shape = X.shape

    def __init__(self) -> None:
        data = {"shape": X.shape, "typestr": "<f4", "data": (4096, False), "version": 3}
        self.__cuda_array_interface__ = data


class Stranger(Produced):
    """An array of a third library."""


Stranger.__module__ = "strange.arrays"
BFLOAT16, FLOAT16, COMPLEX, FLOAT8, PAIRS = (
    (4, 16, 1),
    (2, 16, 1),
    (5, 64, 1),
    (10, 8, 1),
    (2, 32, 2),
)
REFUSED = {
    "used": (Produced(X, used=True), "gave a capsule that is used up, expected a fresh one"),
    "old and used": (Produced(X, used=True, version=None), "gave a capsule that is used up"),
    "no capsule": (NoCapsule(X), "gave no DLPack capsule"),
    "version 2": (Produced(X, version=(2, 1)), r"comes as DLPack 2\.1, expected version 1"),
    "bfloat16": (Produced(X, dtype=BFLOAT16), "has dtype bfloat16, expected float32"),
    "float16": (Produced(X, dtype=FLOAT16), "has dtype float16, expected float32"),
    "complex64": (Produced(X, dtype=COMPLEX), "has dtype complex64, expected float32"),
    "float8": (Produced(X, dtype=FLOAT8), "has dtype DLPack code 10, 8 bits, expected float32"),
    "float32x2": (Produced(X, dtype=PAIRS), "has dtype float32x2, expected float32"),
    "int32": (Produced(X.astype(np.int32)), "has dtype int32, expected float32"),
    "bool": (Produced(X > 0), "has dtype bool, expected float32"),
    "device": (Produced(X, device=7), "is on DLPack device type 7, expected host or CUDA memory"),
    "on tape": (Refusing(X), r"is a Refusing that does not export its memory \(this one is on"),
    "float64": (
        Produced(X.astype(np.float64)),
        "w has dtype float32, expected float64",
    ),
}


@needs_core
@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence_and_nothing_leaks(case: str) -> None:
    given, message = REFUSED[case]
    out = np.full(Y.shape, 7, np.float32)
    with pytest.raises(TypeError, match=f"^conv2d: .*{message}") as caught:
        conv(given, out=out)
    assert "\n" not in str(caught.value)
    assert (out == 7).all()
    del caught
    gc.collect()
    assert set(given.calls()) <= {1}


@pytest.mark.skipif(backend.why_not("cuda") is None, reason="CUDA works here")
@pytest.mark.parametrize(
    "given", [CudaOnly(), Produced(X, device=producer.CUDA)], ids=["cai", "dl"]
)
def test_cuda_memory_is_recognised_and_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^conv2d: x is a \w+ in CUDA memory, .* use back") as e:
        conv(given)
    assert str(backend.why_not("cuda")) in str(e.value)


def test_libraries_do_not_mix_but_numpy_goes_with_any() -> None:
    np.testing.assert_array_equal(conv(Produced(X), W, Produced(B)).array, Y)
    np.testing.assert_array_equal(conv(X, Produced(W), B), Y)
    text = "conv2d: w is an array of strange, expected producer as x is, or NumPy"
    with pytest.raises(TypeError, match=text):
        conv(Produced(X), Stranger(W))
    target = np.full(Y.shape, 7, np.float32)
    with pytest.raises(TypeError, match="out is an array of strange, expected producer as w is"):
        conv(X, Produced(W), out=Stranger(target))
    assert (target == 7).all()


@pytest.mark.parametrize("where", BACKENDS)
def test_equal_extents_need_a_word(where: str) -> None:
    """C = H = W: only ``layout`` tells the axes apart; strides never do."""
    x, w = ints(2, 3, 3, 3), ints(4, 3, 3, 3)
    with pytest.raises(ValueError, match="fits both NHWC and NCHW; pass layout="):
        pyi.conv2d(Produced(x), w, backend=where)
    as_nhwc = pyi.conv2d(Produced(x), w, padding=1, layout="NHWC", backend=where)
    np.testing.assert_array_equal(as_nhwc.array, reference.conv2d_fprop(x, w, padding=(1, 1)))
    before = workspace.copied_bytes["conv2d: x"]
    last = x.transpose(0, 3, 1, 2)  # the same memory under a PyTorch shape
    kcrs = Produced(np.ascontiguousarray(w.transpose(0, 3, 1, 2)))
    as_nchw = pyi.conv2d(Produced(last), kcrs, padding=1, layout="NCHW", backend=where)
    np.testing.assert_array_equal(as_nchw.array.transpose(0, 2, 3, 1), as_nhwc.array)
    assert workspace.copied_bytes["conv2d: x"] == before
    other = pyi.conv2d(Produced(x), kcrs, padding=1, layout="NCHW", backend=where)
    assert workspace.copied_bytes["conv2d: x"] == before + x.nbytes
    truth = reference.conv2d_fprop(x.transpose(0, 2, 3, 1), w, padding=(1, 1))
    np.testing.assert_array_equal(other.array.transpose(0, 2, 3, 1), truth)
    assert not np.array_equal(other.array, as_nchw.array)


@needs_core
def test_the_core_itself_takes_capsules_over_too() -> None:
    core = backend.core()
    given, out = [Produced(a) for a in (X, W, B)], Produced(np.full(Y.shape, np.nan, np.float32))
    core.conv_fprop(*given, out, (3, 3), (1, 1), (1, 1), False)
    np.testing.assert_array_equal(out.array, Y)
    with pytest.raises(ValueError, match="conv_fprop: y is read-only"):
        core.conv_fprop(*given, Produced(Y, read_only=True), (3, 3), (1, 1), (1, 1), False)
    with pytest.raises(TypeError, match=r"conv_fprop: x.* used up"):
        core.conv_fprop(Produced(X, used=True), W, B, out, (3, 3), (1, 1), (1, 1), False)
    gc.collect()
    assert [array.calls() for array in given] == [[1, 1], [1, 1], [1, 1]]
    assert out.calls() == [1]


def test_without_the_core_numpy_opens_capsules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_load_core", lambda: (None, "not built here"))
    given = Produced(X)
    np.testing.assert_array_equal(conv(given, backend="reference").array, Y)
    with pytest.raises(TypeError, match=r"^conv2d: x is a Refusing that does not export its mem"):
        conv(Refusing(X), backend="reference")
    with pytest.raises(TypeError, match=r"^conv2d: x is a Produced that does not export its mem"):
        conv(Produced(X, used=True), backend="reference")
    gc.collect()
    assert given.calls() == [1]
