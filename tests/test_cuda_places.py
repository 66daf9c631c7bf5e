"""Which device a call is for, and whether it can be served: one error each, nothing launched."""

from types import SimpleNamespace
from typing import Any

import cuda_standin
import numpy as np
import pytest
from cuda_standin import Place, Runtime, ndarray, standing_in

import pyinception as pyi
from pyinception import backend, dispatch, models, optim, workspace
from pyinception.backend import BackendError
from pyinception.cuda import executor, runs
from pyinception.layers import Linear
from pyinception.ops.conv import conv_fprop
from pyinception.spec import ConvSpec

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)


def on_device(array: ndarray, number: int) -> ndarray:
    array.device = Place(number)
    return array


def operands(runtime: Runtime) -> tuple[ndarray, ndarray]:
    x, w = np.ones((1, 4, 4, 8), np.float32), np.ones((8, 1, 1, 8), np.float32)
    return runtime.asarray(x), runtime.asarray(w)


def test_another_device_than_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch) as runtime:
        x, w = operands(runtime)
        y = pyi.conv2d(on_device(x, 1), on_device(w, 1))  # a call makes the device of x current
        assert y.device.id == 1 and (y.host == 8).all()
        with pytest.raises(
            BackendError, match="on CUDA device 1, but device 0 is current; call ins"
        ):
            conv_fprop(ConvSpec(1, 4, 4, 8, 8, 1, 1, bias=False), x, w, None)
        runtime.ran.clear()
        x, w = operands(runtime)
        with pytest.raises(BackendError, match="w is on CUDA device 1, expected 0 as the first is"):
            pyi.conv2d(x, on_device(w, 1))
        assert not runtime.ran
        x, w = operands(runtime)
        assert (pyi.conv2d(x, w).host == 8).all()  # and it goes on working


def test_a_stream_of_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch) as runtime:
        runtime.stream.device_id = 1
        with pytest.raises(
            BackendError, match="current stream belongs to CUDA device 1, the arrays"
        ):
            pyi.conv2d(*operands(runtime))
        assert not runtime.ran
        for known in (0, -1, None):  # ours, or of nobody knows whom
            runtime.stream.device_id = known
            pyi.conv2d(*operands(runtime))


@pytest.mark.parametrize(
    "stream",
    [SimpleNamespace(cuda_stream=9, device=SimpleNamespace(index=1)),
     SimpleNamespace(ptr=9, device_id=1)],
    ids=["of PyTorch", "of CuPy"],
)  # fmt: skip
def test_a_given_stream_of_another_device(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    with standing_in(monkeypatch) as runtime:
        x, w = operands(runtime)
        text = "conv2d: stream belongs to CUDA device 1, expected 0 as x does"
        with pytest.raises(BackendError, match=text):
            pyi.conv2d(x, w, stream=stream)
        assert not runtime.ran
        y = pyi.conv2d(on_device(x, 1), on_device(w, 1), stream=stream)
        assert (y.host == 8).all() and runtime.noted[-1] == ("launched on", 9)


def test_networks_move_between_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch) as runtime:
        net = Linear(8, 4)
        values = net.weight.data.copy()
        for memory, number in (("cuda", 0), ("cuda:1", 1), ("cuda", 1), ("cuda:0", 0)):
            before = net.to(memory).weight.data
            assert before.device.id == number, memory
            np.testing.assert_array_equal(before.host, values)
        assert net.to("cuda:0").weight.data is before
        with pytest.raises(BackendError, match="no CUDA device 2, expected a number below 2"):
            net.to("cuda:2")
        for wrong in ("cuda:", "cuda:one", "cuda1", "gpu", "host:0"):
            with pytest.raises(ValueError, match=f"memory is '{wrong}', expected"):
                net.to(wrong)
        assert net.weight.data is before and not runtime.ran
        assert type(net.to("host").weight.data) is np.ndarray


def test_a_misaligned_operand_is_copied_to_where_kernels_can_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Off 16 bytes a contiguous array is still contiguous: asking for that alone copies nothing."""
    draw = np.random.default_rng(0)
    shapes = (1, 6, 6, 16), (16, 3, 3, 16)
    x, w = (draw.integers(-2, 3, shape).astype(np.float16) for shape in shapes)
    wanted = pyi.conv2d(x, w, padding=1, backend="emulated")
    with standing_in(monkeypatch) as runtime:

        def shifted(host: np.ndarray) -> ndarray:
            memory = runtime.asarray(np.concatenate([np.zeros(1, host.dtype), host.ravel()]))
            view = memory[1:].reshape(*host.shape)
            assert view.flags.c_contiguous and executor._address(view) % 16 == 2
            return view

        before = workspace.copies.copy()
        y = pyi.conv2d(shifted(x), shifted(w), padding=1)  # a kernel off its units is a fault
        np.testing.assert_array_equal(y.host, wanted)
        assert [workspace.copies[f"cuda: {name}"] - before[f"cuda: {name}"] for name in "xw"] == [
            1, 1,
        ]  # fmt: skip


def test_no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch) as runtime:
        x, w = operands(runtime)

        def full(shape: Any, dtype: Any) -> ndarray:
            raise MemoryError("Out of memory allocating 512 bytes (allocated so far: 7 bytes).")

        with monkeypatch.context() as patch:
            patch.setattr(runtime.module, "empty", full)
            with pytest.raises(
                MemoryError, match=r"no CUDA memory for 512 bytes, float32 of shape"
            ):
                pyi.conv2d(x, w)
        assert not runtime.ran and (pyi.conv2d(x, w).host == 8).all()


def test_a_gpu_before_sm_75(monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(cuda_device=lambda: (96 << 10, 80), cuda_capability=lambda: 70)
    monkeypatch.setattr(backend, "_load_core", lambda: (core, None))
    reason = backend._cuda_reason.__wrapped__()
    assert reason is not None and reason.startswith(
        "this GPU is sm_70, the kernels need sm_75 or l"
    )
    core.cuda_capability = lambda: 75
    assert backend._cuda_reason.__wrapped__() is None


def test_the_tensor_cores_of_sm_75_multiply_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own kernels are chosen for it; what they cannot do runs on CUDA cores."""
    draw = np.random.default_rng(0)
    x = draw.integers(-3, 4, (1, 6, 6, 16)).astype(np.float16)
    w = draw.integers(-2, 3, (16, 3, 3, 16)).astype(np.float16)
    wanted = pyi.conv2d(x, w, padding=1, backend="emulated")
    with standing_in(monkeypatch) as runtime:
        runtime.sm = 75
        monkeypatch.setattr(Runtime, "cuda_device", lambda self: (64 << 10, 40))
        entries: list[str] = []
        plan = runtime.cuda_plan

        def noting(name: str, record: bytes) -> Any:
            launches, count = plan(name, record)
            entries.extend(launch[1] for launch in launches)
            return launches, count

        monkeypatch.setattr(runtime, "cuda_plan", noting)
        dispatch.clear()
        y = pyi.conv2d(runtime.asarray(x), runtime.asarray(w), padding=1)
        assert entries and all("_sm75_" in entry for entry in entries), entries
        np.testing.assert_array_equal(y.host, wanted)
        entries.clear()
        gy = runtime.asarray(wanted)
        pyi.conv2d_backward(gy, runtime.asarray(x), runtime.asarray(w), padding=1)
        assert entries and not any("mma" in entry for entry in entries)
    spec = pyi.spec.ConvSpec(1, 6, 6, 16, 16, 3, 3, (1, 1), (1, 1))
    for dtype in ("bfloat16", "float16"):
        for rung, key in (("mma", ("conv", "fprop")), ("mma", ("conv", "dgrad"))):
            text = runs.why_not(rung, key, spec, dtype, (64 << 10, 40), 75)
            served = dtype == "float16" and key[1] == "fprop"
            assert (text is None) == served, (dtype, key, text)
    text = runs.why_not("mma", ("conv", "fprop"), spec, "bfloat16", (64 << 10, 40), 75)
    assert text == "tensor cores of sm_75 multiply float16 only, not bfloat16"
    module = models.googlenet.__globals__["WIDTHS"]["4a"]
    inception = pyi.spec.InceptionSpec.of_widths((1, 14, 14, 480), module)
    text = runs.why_not("mma", ("inception", "fprop"), inception, "float16", (64 << 10, 40), 75)
    assert text is not None and text.endswith("no kernel for a whole module")


def test_mixed_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch) as runtime:
        net = Linear(8, 4)
        sgd = optim.SGD(net, 0.1)
        x = np.ones((2, 8), np.float32)
        with pytest.raises(TypeError, match="w is in host memory, expected cuda memory"):
            net(runtime.asarray(x))
        net.to("cuda")
        with pytest.raises(TypeError, match="w is in cuda memory, expected host memory"):
            net(x)
        with pytest.raises(
            ValueError, match="its state in host memory; move the network before it"
        ):
            sgd.step()
        assert not runtime.ran


def test_what_stands_in_has_no_names_of_its_own() -> None:
    """Whatever the engine is given here, CuPy has; no GPU is asked."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed (extra `cuda13`)")
    mine = Runtime().module
    pairs = [(mine, cupy), (mine.cuda, cupy.cuda), (mine.cuda.runtime, cupy.cuda.runtime)]
    pairs += [(ndarray, cupy.ndarray), (mine.cuda.Stream, cupy.cuda.Stream)]
    pairs += [(mine.cuda.Event, cupy.cuda.Event), (Place, cupy.cuda.Device)]
    for ours, theirs in pairs:
        missing = {n for n in vars(ours) if n[0] != "_" and not hasattr(theirs, n)}
        assert missing <= {"host", "ptr", "device_id"}, (theirs, missing)  # set by `__init__`
    assert all(hasattr(cupy.ndarray, name) for name in (*cuda_standin._LOOKS, *cuda_standin._SUMS))
