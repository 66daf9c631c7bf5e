"""Every way into the kernels behind one interface: what `test_conformance.py` runs over.

An adaptor takes NumPy arrays in NHWC and KRSC, makes its framework's own of them, calls, and gives
NumPy arrays in NHWC and KRSC back. `problem` makes integer operands whose every sum is exact, so
that bits are comparable; `truth` and `slopes` are the reference's answers.
"""

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from producer import Produced
from pyinception.kernels import reference

import pyinception as pyi
from pyinception import backend
from pyinception.ops.weights import weight_shapes

OPS = ("conv2d", "reduce_conv2d", "inception")
SQUARE = 6  # C = H = W


def problem(op: str, n: int = 2, *, square: bool = False, seed: int = 0) -> list[np.ndarray]:
    """x and the weights of ``op``, small integers."""
    draw = np.random.default_rng(seed)
    h, w, c = (SQUARE,) * 3 if square else (7, 6, 5)
    shapes = {
        "conv2d": ((8, 3, 3, c), (8,)),
        "reduce_conv2d": ((4, 1, 1, c), (4,), (7, 3, 3, 4), (7,)),
        "inception": weight_shapes(c, (4, 3, 5, 2, 3, 2)),
    }[op]
    return [draw.integers(-2, 3, s).astype(np.float32) for s in ((n, h, w, c), *shapes)]


def truth(op: str, arrays: Any) -> tuple[np.ndarray, Any]:
    """(y, what backward needs) of the reference."""
    x, *weights = arrays
    if op == "conv2d":
        return reference.conv2d_fprop(x, *weights, padding=(1, 1), relu=True), None
    if op == "reduce_conv2d":
        return reference.reduce_conv_fprop(x, *weights, padding=(1, 1))
    return reference.inception_fprop(x, tuple(weights))


def slopes(op: str, arrays: Any, gy: np.ndarray) -> list[np.ndarray]:
    """The gradients of sum(gy y) by every array, of the reference."""
    x, *weights = arrays
    y, saved = truth(op, arrays)
    if op == "conv2d":
        how = {"padding": (1, 1), "y": y}
        gx = reference.conv2d_dgrad(gy, weights[0], x.shape, **how)
        return [gx, *reference.conv2d_wgrad(x, gy, weights[0].shape, **how)]
    if op == "reduce_conv2d":
        filters = weights[0], weights[2]
        return list(reference.reduce_conv_backward(gy, x, *filters, saved, y, padding=(1, 1)))
    gx, grads = reference.inception_backward(gy, x, tuple(weights), y, saved)
    return [gx, *grads]


class NumPy:
    """`pyi.*` on arrays of NumPy; the others that go through `pyi.*` derive from it."""

    name: str = "numpy"
    needs: str | None = None
    backends: tuple[str, ...] = ("cpu", "reference")
    ops: tuple[str, ...] = OPS
    layout = "NHWC"
    has_out = has_views = has_frozen = True
    refusal: type[Exception] = TypeError  # what our TypeError reaches the caller as

    def missing(self) -> str | None:
        """Why this adaptor cannot run here, or None."""
        if self.needs is not None and find_spec(self.needs) is None:
            return f"{self.needs} is not installed (extra `oracles`)"
        return backend.why_not("cpu")

    def wrap(self, array: np.ndarray) -> Any:
        return array

    def unwrap(self, value: Any) -> np.ndarray:
        return np.asarray(value)

    def turn(self, array: np.ndarray) -> np.ndarray:
        """Axes from NHWC or KRSC to the framework's, memory as it is."""
        return array

    def give(self, array: np.ndarray) -> Any:
        return self.wrap(self.turn(array))

    def view(self, array: np.ndarray) -> Any:
        """``array`` as a channel slice of a wider map full of NaN."""
        wide = np.full((*array.shape[:3], array.shape[3] + 5), np.nan, array.dtype)
        wide[..., 2:-3] = array
        return self.give(wide[..., 2:-3])

    def frozen(self, array: np.ndarray) -> Any:
        copy = array.copy()
        copy.flags.writeable = False
        return self.give(copy)

    def back(self, value: Any) -> np.ndarray:
        return self.unwrap(value)

    def forward(self, op: str, arrays: Any, where: str, out: Any = None) -> Any:
        x, *weights = arrays
        how = {"layout": self.layout, "backend": where, "out": out}
        if op == "inception":
            return pyi.inception(x, tuple(weights), **how)
        if op == "conv2d":
            how["relu"] = True
        return getattr(pyi, op)(x, *weights, padding=1, **how)

    def gradients(self, op: str, arrays: Any, gy: Any, where: str) -> list[Any]:
        x, *weights = arrays
        how = {"layout": self.layout, "backend": where}
        if op == "conv2d":
            y = self.forward(op, arrays, where)
            return list(pyi.conv2d_backward(gy, x, weights[0], y=y, padding=1, **how))
        if op == "reduce_conv2d":
            y, r = pyi.reduce_conv2d(x, *weights, padding=1, return_reduced=True, **how)
            filters = weights[0], weights[2]
            window = {"padding": 1, **how}
            return list(pyi.reduce_conv2d_backward(gy, x, *filters, r=r, y=y, **window))
        y, saved = pyi.inception(x, tuple(weights), return_saved=True, **how)
        gx, grads = pyi.inception_backward(gy, x, tuple(weights), y=y, saved=saved, **how)
        return [gx, *grads]


class DLPack(NumPy):
    """Objects that speak DLPack and nothing else."""

    name = "dlpack"

    def wrap(self, array: np.ndarray) -> Any:
        return Produced(array)

    def unwrap(self, value: Any) -> np.ndarray:
        assert type(value) is Produced
        return value.array


class OldDLPack(DLPack):
    """The same through capsules of before DLPack 1.0, which know no read-only."""

    name, has_frozen = "old dlpack", False

    def wrap(self, array: np.ndarray) -> Any:
        return Produced(array, version=None)


class Torch(NumPy):
    """`pyi.*` on tensors of PyTorch, NCHW shapes on channels_last memory."""

    name, needs, layout, has_frozen = "torch", "torch", "NCHW", False

    def turn(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array

    def wrap(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(array)

    def back(self, value: Any) -> np.ndarray:
        array = value.detach().numpy()
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


class InteropTorch(Torch):
    """`pyinception.interop.torch` on the tape of PyTorch."""

    name, backends, ops, has_out = "interop.torch", ("cpu",), ("reduce_conv2d",), False

    def forward(self, op: str, arrays: Any, where: str, out: Any = None) -> Any:
        from pyinception.interop import torch as ours

        return getattr(ours, op)(*arrays)

    def gradients(self, op: str, arrays: Any, gy: Any, where: str) -> list[Any]:
        leaves = [a.detach().requires_grad_() for a in arrays]
        self.forward(op, leaves, where).backward(gy)
        return [leaf.grad for leaf in leaves]


class Jax(NumPy):
    """`pyi.*` on arrays of JAX: immutable, always contiguous."""

    name, needs, has_out, has_views = "jax", "jax", False, False

    def wrap(self, array: np.ndarray) -> Any:
        import jax

        with x64(array.dtype == np.float64):
            return jax.numpy.asarray(array)

    def frozen(self, array: np.ndarray) -> Any:
        return self.give(array)


class InteropJax(Jax):
    """`pyinception.interop.jax`, compiled: filters HWIO."""

    name, backends = "interop.jax", ("cpu",)

    def missing(self) -> str | None:
        if reason := super().missing():
            return reason
        from pyinception.interop import jax as ours

        try:
            ours.build()
        except backend.BackendError as error:
            return str(error)
        return None

    def give(self, array: np.ndarray) -> Any:
        return self.wrap(array)

    def _function(self, op: str) -> Any:
        import jax

        from pyinception.interop import jax as ours

        def hwio(w: Any) -> Any:
            return w.transpose(1, 2, 3, 0) if w.ndim == 4 else w

        def call(x: Any, *weights: Any) -> Any:
            filters = tuple(map(hwio, weights))
            if op == "inception":
                return ours.inception(x, filters)
            how = {"relu": True} if op == "conv2d" else {}
            return getattr(ours, op)(x, *filters, padding=1, **how)

        return jax, call

    def forward(self, op: str, arrays: Any, where: str, out: Any = None) -> Any:
        jax, call = self._function(op)
        return jax.jit(call)(*arrays)

    def gradients(self, op: str, arrays: Any, gy: Any, where: str) -> list[Any]:
        jax, call = self._function(op)
        return list(jax.jit(lambda *a: jax.vjp(call, *a)[1](gy))(*arrays))


def x64(wanted: bool) -> Any:
    """JAX makes float64 arrays inside this ``with`` block only."""
    import contextlib

    import jax

    if not wanted:
        return contextlib.nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()


# ------------------------------------------------------------------------------------------- C


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Params(ctypes.Structure):
    names = "stride_h stride_w pad_h pad_w kernel_h kernel_w".split()
    _fields_ = [(n, ctypes.c_int64) for n in names] + [
        ("relu", ctypes.c_int), ("accumulate", ctypes.c_int), ("reduced", ctypes.c_int64),
    ]  # fmt: skip


class C(NumPy):
    """The C interface of libpyinception.so, called by address: no ``_C``, no `Border`."""

    name, backends, has_frozen = "c", ("cpu",), False
    device = 1, 0  # host memory

    def new(self, shape: Any, dtype: Any = np.float32) -> np.ndarray:
        """An output."""
        return np.full(shape, np.nan if dtype == np.float32 else 0, dtype)

    def run(self, entry: Any, *arguments: Any) -> int:
        """The status of one call; its options stand last."""
        status: int = entry(*arguments, None)
        return status

    def _tensor(self, array: np.ndarray) -> _Tensor:
        extents = (ctypes.c_int64 * 4)(*array.shape)
        strides = (ctypes.c_int64 * 4)(*(s // array.itemsize for s in array.strides))
        code = {"i": 0, "u": 1, "f": 2, "b": 6}[array.dtype.kind]
        t = _Tensor(array.ctypes.data, self.device, array.ndim, code, array.itemsize * 8, 1)
        t.shape, t.strides = ctypes.addressof(extents), ctypes.addressof(strides)
        t.keep = extents, strides, array
        return t

    def _call(self, name: str, *arguments: Any, params: bool = True) -> None:
        core = ctypes.CDLL(str(Path(backend.core().__file__).with_name("libpyinception.so")))
        core.pyi_last_error.restype = ctypes.c_char_p
        made = []
        for a in arguments:
            if isinstance(a, (tuple, list)):
                tensors = [self._tensor(item) for item in a]
                made.append((ctypes.POINTER(_Tensor) * len(a))(*map(ctypes.pointer, tensors)))
            else:
                made.append(None if a is None else ctypes.byref(self._tensor(a)))
        where = [ctypes.byref(_Params(1, 1, 1, 1, 0, 0, 1, 0, 0))] if params else []
        status = self.run(getattr(core, f"pyi_{name}"), *made, *where)
        if status != 0:
            error = {1: ValueError, 2: TypeError}.get(status, RuntimeError)
            raise error(core.pyi_last_error().decode())

    def forward(self, op: str, arrays: Any, where: str, out: Any = None, saved: Any = None) -> Any:
        x, *w = arrays
        filters = w[-4] if op == "inception" else w[-2]
        k = filters.shape[0] if op != "inception" else sum(w[i].shape[0] for i in (0, 4, 8, 10))
        y = self.new((*x.shape[:3], k)) if out is None else out
        if op == "conv2d":
            self._call("conv_fprop", x, *w, y)
        elif op == "reduce_conv2d":
            self._call("reduce_conv_fprop", x, *w, y, saved)
        else:
            self._call("inception_fprop", x, w, y, saved, params=False)
        return y

    def gradients(self, op: str, arrays: Any, gy: Any, where: str) -> list[Any]:
        x, *w = arrays
        grads = [self.new(a.shape) for a in arrays]
        if op == "conv2d":
            y = self.forward(op, arrays, where)
            self._call("conv_dgrad", gy, w[0], y, grads[0])
            self._call("conv_wgrad", x, gy, y, *grads[1:])
        elif op == "reduce_conv2d":
            r = self.new((*x.shape[:3], w[0].shape[0]))
            y = self.forward(op, arrays, where, saved=r)
            self._call("reduce_conv_backward", gy, x, w[0], w[2], r, y, *grads)
        else:
            widths = w[2].shape[0], w[6].shape[0], x.shape[3]
            maps = [self.new((*x.shape[:3], k)) for k in widths]
            saved = [*maps, self.new(x.shape, np.uint8)]
            y = self.forward(op, arrays, where, saved=saved)
            self._call("inception_backward", gy, x, w, y, saved, grads[0], grads[1:], params=False)
        return grads


ADAPTORS = NumPy(), DLPack(), OldDLPack(), Torch(), InteropTorch(), Jax(), InteropJax(), C()
