"""Which stream a call runs on: the one given, else the producer's; nobody waits on the host."""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import producer
import pytest
from cuda_standin import STREAM, Interfaced, Lender, Runtime, standing_in
from pyinception.kernels import reference
from test_docs_interop import program

import pyinception as pyi
from pyinception import backend

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)

draw = np.random.default_rng(0)
X = draw.integers(-3, 4, (2, 5, 4, 6)).astype(np.float32)
W = draw.integers(-3, 4, (4, 3, 3, 6)).astype(np.float32)
Y = reference.conv2d_fprop(X, W, None, padding=(1, 1))


class Stream:
    """A stream of any library."""

    def __init__(self, handle: int, version: int = 0) -> None:
        self.answer = version, handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return self.answer


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    with standing_in(monkeypatch) as found:
        yield found


def conv(x: Any, w: Any, **how: Any) -> Any:
    return pyi.conv2d(x, w, padding=1, layout="NHWC", **how)


@pytest.mark.parametrize(
    "given",
    [
        Stream(77),
        77,
        SimpleNamespace(__cuda_stream__=(0, 77)),
        SimpleNamespace(cuda_stream=77),
        SimpleNamespace(ptr=77),
    ],
    ids=["protocol", "handle", "draft of the protocol", "as torch had", "as CuPy had"],
)
def test_a_given_stream_is_the_stream_of_all_that_the_call_does(runtime: Any, given: Any) -> None:
    y = conv(runtime.asarray(X), runtime.asarray(W), stream=given)
    np.testing.assert_array_equal(y.host, Y)
    assert runtime.noted == [("allocated on", 77), ("launched on", 77)]
    assert runtime.streams == [STREAM]


def test_by_default_cupy_s_current_stream(runtime: Any) -> None:
    x, w = runtime.asarray(X), runtime.asarray(W)
    conv(x, w)
    with runtime.on(5):
        conv(x, w)
    assert {where for _, where in runtime.noted[:2]} == {STREAM}
    assert {where for _, where in runtime.noted[2:]} == {5}


def test_dlpack_orders_its_producer_before_the_call_s_stream(runtime: Any) -> None:
    x, w = (Lender(runtime.asarray(a).host, runtime) for a in (X, W))
    y = conv(x, w, stream=Stream(9))
    np.testing.assert_array_equal(y.host, Y)
    assert runtime.noted == [("exported for", 9)] * 2 + [("allocated on", 9), ("launched on", 9)]


def test_the_producer_s_current_stream_is_the_default(runtime: Any) -> None:
    """DLPack's table of functions says it."""
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)
    )

    @kind
    def current(device_type: int, device: int, out: Any) -> int:
        assert (device_type, device) == (2, 0)
        out[0] = 123
        return 0

    address = ctypes.cast(current, ctypes.c_void_p)
    table = (ctypes.c_void_p * 7)(1 | 3 << 32, None, None, None, None, None, address)
    capsule = producer._api.PyCapsule_New(ctypes.addressof(table), b"dlpack_exchange_api", None)

    class Current(Lender):
        __dlpack_c_exchange_api__ = capsule

    x, w = (Current(runtime.asarray(a).host, runtime) for a in (X, W))
    conv(x, w)
    assert {where for _, where in runtime.noted} == {123}
    assert backend.core().current_stream(X) is None


def test_the_array_interface_states_its_stream(runtime: Any) -> None:
    """x's is that of the call; another operand's is waited for, by an event."""
    x, w = (runtime.asarray(a).host for a in (X, W))
    y = conv(Interfaced(x, 21), Interfaced(w, 22))
    np.testing.assert_array_equal(y.host, Y)
    assert runtime.noted == [(21, "waits for", 22), ("allocated on", 21), ("launched on", 21)]
    runtime.noted.clear()
    conv(Interfaced(x, 21), Interfaced(w, 21), stream=8)
    assert runtime.noted[:2] == [(8, "waits for", 21)] * 2
    conv(Interfaced(x), Interfaced(w))
    assert runtime.noted[-1] == ("launched on", STREAM)


def test_out_of_a_read_only_interface_is_refused(runtime: Any) -> None:
    x, w = runtime.asarray(X), runtime.asarray(W)
    target = np.full(Y.shape, 7, np.float32)
    with pytest.raises(ValueError, match="conv2d: out is read-only, expected a writable array"):
        conv(x, w, out=Interfaced(target, frozen=True))
    frozen = Interfaced(x.host, frozen=True)
    np.testing.assert_array_equal(conv(frozen, Interfaced(w.host)).host, Y)
    assert (target == 7).all()


def test_the_stream_ends_with_a_call_that_fails(runtime: Any) -> None:
    with pytest.raises(ValueError, match="w has shape"):
        conv(runtime.asarray(X), runtime.asarray(W[..., :3]), stream=6)
    assert runtime.streams == [STREAM] and not runtime.ran


def test_gradients_take_a_stream_too(runtime: Any) -> None:
    x, w, gy = map(runtime.asarray, (X, W, np.ones_like(Y)))
    gx, gw, gb = pyi.conv2d_backward(gy, x, w, padding=1, stream=Stream(31))
    np.testing.assert_array_equal(gb.host, np.full(4, Y[..., 0].size, np.float32))
    assert {note[-1] for note in runtime.noted} == {31}
    assert gx.shape == X.shape and gw.shape == W.shape


REFUSED = {
    "version": (
        Stream(1, version=1),
        TypeError,
        "stream speaks version 1 of __cuda_stream__, expected",
    ),
    "object": (object(), TypeError, "stream is a object, expected an object with __cuda_stream__"),
    "bool": (True, TypeError, "stream is a bool, expected"),
    "negative": (-1, TypeError, "stream is a int, expected"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_stream_is_refused(runtime: Any, case: str) -> None:
    given, error, message = REFUSED[case]
    with pytest.raises(error, match=f"^conv2d: {message}"):
        conv(runtime.asarray(X), runtime.asarray(W), stream=given)
    assert not runtime.ran


def test_host_arrays_have_no_stream() -> None:
    for x in (X, producer.Produced(X)):
        with pytest.raises(ValueError, match="conv2d: stream is given, expected None for arrays"):
            conv(x, W, stream=Stream(3))


def test_an_empty_batch(runtime: Any) -> None:
    assert isinstance(runtime, Runtime)
    x, w = runtime.asarray(X[:0]), runtime.asarray(W)
    assert conv(x, w).shape == (0, 5, 4, 4)
    gy = runtime.asarray(Y[:0])
    gx, gw, _ = pyi.conv2d_backward(gy, x, w, padding=1)
    assert gx.shape == X[:0].shape and not gw.host.any()


def test_the_program_of_the_documentation(runtime: Any) -> None:
    exec(compile(program("CuPy"), "docs/interop.md", "exec"), {})
    where = [number for what, number in runtime.noted if what == "launched on"]
    assert where == [STREAM, 1234] and runtime.noted[-1] == ("the caller waits for", 1234)
