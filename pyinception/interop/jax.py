"""JAX: the kernels as functions of JAX arrays, under ``jit``, ``grad`` and ``vmap``.

Maps are NHWC and filters HWIO (R, S, C, K), always, float32. The kernels run as XLA calls on the
CPU, and on a GPU where the core has its CUDA kernels; ``python -m pyinception.interop.jax build``
compiles the handlers of both once for the installed jaxlib (see `jax_build`).

Reverse mode only, first derivatives. ``vmap`` over maps folds the mapped axis into the batch, one
call; where filters are mapped as well, or their gradients are asked for per element, calls follow
one another. The switches ``threads``, ``algorithm`` and ``cpu_level`` are read when JAX traces.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np

try:
    import jax
except ImportError as error:
    message = "pyinception.interop.jax needs JAX: pip install 'pyinception[jax]'"
    raise ImportError(message) from error

from jax import numpy as jnp

from pyinception import backend, config, dispatch
from pyinception.backend import Target
from pyinception.extents import padding_pair, pair
from pyinception.interop import jax_build
from pyinception.interop.jax_build import build
from pyinception.ops.weights import NAMES, InceptionWeights
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec, Spec

__all__ = ["build", "conv2d", "inception", "reduce_conv2d"]

jax.tree_util.register_dataclass(
    InceptionWeights, data_fields=[field.name for field in fields(InceptionWeights)], meta_fields=[]
)


def conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    relu: bool = False,
    algorithm: str | None = None,
) -> jax.Array:
    """y[n,p,q,k] = [relu](b[k] + sum_rsc w[r,s,c,k] x[n, p sh - ph + r, q sw - pw + s, c]).

    Parameters
    ----------
    x : (N, H, W, C), float32.
    w, b : (R, S, C, K) and (K,) or None.
    stride, padding : int or pair (rows, columns); padding also "same" or "valid".
    relu : whether negative results become 0 (NaN stays NaN).

    Returns
    -------
    y : (N, P, Q, K), P = floor((H + 2 ph - R) / sh) + 1, Q likewise.

    Raises
    ------
    TypeError, ValueError
        For what is no float32 array; for shapes that do not fit.
    BackendError
        Where the handlers are not built, or nothing runs ``algorithm``.
    """
    function = "conv2d"
    n, h, width, c = _check(function, "x", x, "N H W C")
    r, s, _, k = _check(function, "w", w, "R S C K")
    _check(function, "w", w, "R S C K", (r, s, c, k))
    if b is not None:
        _check(function, "b", b, "K", (k,))
    window = pair(function, "stride", stride, 1), padding_pair(function, padding, (r, s))
    has_bias = b is not None
    spec = ConvSpec(n, h, width, c, k, r, s, *window, bool(relu), has_bias, function)
    y: jax.Array = _conv2d(_how("conv", spec, window, bool(relu), algorithm), x, w, b)
    return y


def reduce_conv2d(
    x: Any,
    w_reduce: Any,
    b_reduce: Any,
    w: Any,
    b: Any,
    *,
    stride: Any = 1,
    padding: Any = "same",
    algorithm: str | None = None,
) -> jax.Array:
    """y = relu(conv(r, w) + b), r = relu(conv1x1(x, w_reduce) + b_reduce): the fused branch.

    The halo of r is zero. Without gradients r never reaches memory; with them r and y are saved.

    Parameters
    ----------
    x : (N, H, W, C), float32.
    w_reduce, b_reduce : (1, 1, C, Cr) and (Cr,) or None.
    w, b : (R, S, Cr, K) and (K,) or None.
    stride, padding : of the second convolution, as in `conv2d`.

    Returns
    -------
    y : (N, P, Q, K). Errors are those of `conv2d`.
    """
    function = "reduce_conv2d"
    n, h, width, c = _check(function, "x", x, "N H W C")
    cr = _check(function, "w_reduce", w_reduce, "1 1 C Cr")[3]
    _check(function, "w_reduce", w_reduce, "1 1 C Cr", (1, 1, c, cr))
    r, s, _, k = _check(function, "w", w, "R S Cr K")
    _check(function, "w", w, "R S Cr K", (r, s, cr, k))
    for name, bias, letter, extent in (("b_reduce", b_reduce, "Cr", cr), ("b", b, "K", k)):
        if bias is not None:
            _check(function, name, bias, letter, (extent,))
    window = pair(function, "stride", stride, 1), padding_pair(function, padding, (r, s))
    first = ConvSpec(n, h, width, c, cr, 1, 1, relu=True, bias=True, function=function)
    last = ConvSpec(n, h, width, cr, k, r, s, *window, True, True, function)
    how = _how("reduce_conv", BranchSpec((first, last), function), window, True, algorithm)
    y: jax.Array = _reduce_conv2d(how, x, w_reduce, b_reduce, w, b)
    return y


def inception(
    x: Any, weights: InceptionWeights | tuple[Any, ...], *, algorithm: str | None = None
) -> jax.Array:
    """y = [1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | max pool 3x3 -> 1x1], ReLU after every convolution.

    Parameters
    ----------
    x : (N, H, W, C), float32.
    weights : `InceptionWeights` (a pytree here) or its twelve arrays in order, filters HWIO.

    Returns
    -------
    y : (N, H, W, K1 + K3 + K5 + Kp). Errors are those of `conv2d`.
    """
    function, arrays = "inception", tuple(weights)
    if len(arrays) != len(NAMES):
        text = f"weights has {len(arrays)} arrays, expected {len(NAMES)}: {', '.join(NAMES)}"
        raise ValueError(f"{function}: {text}")
    shape = _check(function, "x", x, "N H W C")
    filters, biases = dict(zip(NAMES[::2], arrays[::2])), dict(zip(NAMES[1::2], arrays[1::2]))
    extents = {n: _check(function, n, w, "R S C K")[3] for n, w in filters.items()}
    sides = dict(zip(filters, (1, 1, 3, 1, 5, 1), strict=True))
    inputs = dict.fromkeys(filters, shape[3]) | {"w3": extents["wr3"], "w5": extents["wr5"]}
    for (name, w), (other, b) in zip(filters.items(), biases.items(), strict=True):
        k = extents[name]
        wanted = sides[name], sides[name], inputs[name], k
        _check(function, name, w, "R S C K", wanted)
        _check(function, other, b, "K", (k,))
    spec = InceptionSpec.of_widths(shape, tuple(extents.values()), function)
    y: jax.Array = _inception(_how("inception", spec, None, True, algorithm), x, arrays)
    return y


# ------------------------------------------------------------------------------------- one call


class _How(NamedTuple):
    """What a call has besides its arrays, hashable: JAX compares it."""

    window: tuple[int, int, int, int]
    relu: bool
    algorithm: str
    level: str
    threads: int


def _how(op: str, spec: Spec, window: Any, relu: bool, algorithm: str | None) -> _How:
    target = Target("host", "float32", config.get("cpu_level"))
    plan = dispatch.choose(op, "fprop", spec, target, backend="cpu", algorithm=algorithm)
    (sh, sw), (ph, pw) = window or ((1, 1), (0, 0))
    row = plan.row.algorithm
    return _How((sh, sw, ph, pw), relu, row, config.get("cpu_level"), config.get("threads"))


def _check(
    function: str, name: str, array: Any, letters: str, shape: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """The shape of ``array``, a float32 array of this rank and, if given, shape."""
    if not isinstance(array, (jax.Array, np.ndarray)):
        text = f"{name} is a {type(array).__name__}, expected a jax.Array"
        raise TypeError(f"{function}: {text}")
    if array.dtype != np.float32:
        raise TypeError(f"{function}: {name} has dtype {array.dtype}, expected float32")
    actual, axes = tuple(array.shape), ", ".join(letters.split())
    if len(actual) != len(letters.split()) or shape not in (None, actual):
        wanted = f" = {shape}" if shape is not None else ""
        raise ValueError(f"{function}: {name} has shape {actual}, expected ({axes}){wanted}")
    return actual


def _call(op: str, how: _How, kinds: str, results: Callable[..., Any], *arrays: Any) -> Any:
    """Results of the XLA call ``op``, of the shapes and dtypes that ``results(*arrays)`` gives.

    ``kinds`` has a letter for each array, m: a map, into whose batch a mapped axis can be folded,
    f: a filter, v: a vector; then M if every result is a map. A missing array has no elements.
    """
    present = [jnp.zeros((0,), jnp.float32) if a is None else jnp.asarray(a) for a in arrays]
    jax_build.load()
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and (reason := backend.why_not("cuda")):
        raise backend.BackendError(f"interop.jax: JAX runs on a GPU: {reason}")
    target = jax_build.PREFIXES["CUDA" if on_gpu else "cpu"] + op
    attributes: dict[str, Any] = {
        "window": np.array(how.window, np.int64),
        "relu": how.relu,
        "algorithm": "auto" if on_gpu else how.algorithm,
        "level": how.level,
        "threads": np.int64(how.threads),
    }

    @jax.custom_batching.custom_vmap
    def call(*operands: Any) -> Any:
        shapes = results(*operands)
        if on_gpu:  # these kernels read KRSC
            pairs = zip(operands, kinds)
            operands = tuple(a.transpose(3, 0, 1, 2) if kind == "f" else a for a, kind in pairs)
        return jax.ffi.ffi_call(target, shapes)(*operands, **attributes)

    @call.def_vmap
    def batched(size: int, mapped: list[bool], *operands: Any) -> Any:
        foldable = [kind == "m" and a.ndim - m == 4 for a, m, kind in zip(operands, mapped, kinds)]
        if kinds.endswith("M") and all(f or not m for f, m in zip(foldable, mapped)):
            # Every result is a map of the same batch: one call for all.
            folded = [
                _fold(a if m else jnp.broadcast_to(a, (size, *a.shape))) if f else a
                for a, m, f in zip(operands, mapped, foldable)
            ]
            batch = next(a.shape[m] for a, m, f in zip(operands, mapped, foldable) if f)
            result = jax.tree.map(partial(_unfold, size, batch), call(*folded))
        else:

            def one(some: list[Any]) -> Any:
                rest = iter(some)
                return call(*(next(rest) if m else a for a, m in zip(operands, mapped)))

            result = jax.lax.map(one, [a for a, m in zip(operands, mapped) if m])
        return result, jax.tree.map(lambda _: True, result)

    return call(*present)


def _fold(a: jax.Array) -> jax.Array:
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def _unfold(size: int, batch: int, a: jax.Array) -> jax.Array:
    return a.reshape(size, batch, *a.shape[1:])


def _like(*shape: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _hwio(krsc: jax.Array) -> jax.Array:
    return krsc.transpose(1, 2, 3, 0)


def _krsc(w: jax.Array) -> jax.ShapeDtypeStruct:
    r, s, c, k = w.shape
    return _like(k, r, s, c)


def _y(how: _How, x: jax.Array, w: jax.Array) -> jax.ShapeDtypeStruct:
    (n, h, width, _), (r, s, c, k) = x.shape, w.shape
    sh, sw, ph, pw = how.window
    return _like(*ConvSpec(n, h, width, c, k, r, s, (sh, sw), (ph, pw)).y_shape)


# ------------------------------------------------------------------------- functions with gradients


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv2d(how: _How, x: Any, w: Any, b: Any) -> Any:
    return _call("conv_fprop", how, "mfvM", lambda x, w, _: _y(how, x, w), x, w, b)


def _conv2d_forward(how: _How, x: Any, w: Any, b: Any) -> Any:
    y = _conv2d(how, x, w, b)
    return y, (x, w, b, y if how.relu else None)


def _conv2d_backward(how: _How, saved: Any, gy: Any) -> Any:
    x, w, b, y = saved

    def gradients(*_: Any) -> Any:
        return [_krsc(w), _like(w.shape[3])]

    gx = _call("conv_dgrad", how, "mfmM", lambda gy, *_: _of_x(x, gy), gy, w, y)
    gw, gb = _call("conv_wgrad", how, "mmm", gradients, x, gy, y)
    return gx, _hwio(gw), None if b is None else gb


def _of_x(x: Any, gy: Any) -> jax.ShapeDtypeStruct:
    """The shape of x, with the batch of gy: a mapped axis may have been folded into it."""
    return _like(gy.shape[0], *x.shape[1:])


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduce_conv2d(how: _How, *arrays: Any) -> Any:
    def result(x: Any, _wr: Any, _br: Any, w: Any, _b: Any) -> Any:
        return [_y(how, x, w)]

    return _call("reduce_conv_fprop", how, "mfvfvM", result, *arrays)[0]


def _reduce_conv2d_forward(how: _How, *arrays: Any) -> Any:
    def results(x: Any, wr: Any, _br: Any, w: Any, _b: Any) -> Any:
        return [_y(how, x, w), _like(*x.shape[:3], wr.shape[3])]

    y, r = _call("reduce_conv_fprop", how, "mfvfvM", results, *arrays)
    return y, (*arrays, r, y)


def _reduce_conv2d_backward(how: _How, saved: Any, gy: Any) -> Any:
    x, wr, br, w, b, r, y = saved

    def results(*_: Any) -> Any:
        return [_like(*x.shape), _krsc(wr), _like(wr.shape[3]), _krsc(w), _like(w.shape[3])]

    gx, gwr, gbr, gw, gb = _call("reduce_conv_backward", how, "mmffmm", results, gy, x, wr, w, r, y)
    return gx, _hwio(gwr), None if br is None else gbr, _hwio(gw), None if b is None else gb


_reduce_conv2d.defvjp(_reduce_conv2d_forward, _reduce_conv2d_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _inception(how: _How, x: Any, weights: Any) -> Any:
    return _inception_call(how, x, weights, save=False)[0]


def _inception_call(how: _How, x: Any, weights: Any, *, save: bool) -> Any:
    def results(x: Any, *weights: Any) -> Any:
        n, h, w, c = x.shape
        k1, r3, k3, r5, k5, kp = (b.shape[0] for b in weights[1::2])
        y = _like(n, h, w, k1 + k3 + k5 + kp)
        reduced = [_like(n, h, w, r3), _like(n, h, w, r5)]
        pooled = [_like(n, h, w, c), _like(n, h, w, c, dtype=np.uint8)]
        return [y, *reduced, *pooled] if save else [y]

    return _call("inception_fprop", how, "m" + "fv" * 6 + "M", results, x, *weights)


def _inception_forward(how: _How, x: Any, weights: Any) -> Any:
    y, *maps = _inception_call(how, x, weights, save=True)
    return y, (x, weights, y, maps)


def _inception_backward(how: _How, saved: Any, gy: Any) -> Any:
    x, weights, y, maps = saved

    def results(*_: Any) -> Any:
        grads = [_krsc(w) if w.ndim == 4 else _like(*w.shape) for w in weights]
        return [_like(*x.shape), *grads]

    kinds = "mm" + "fv" * 6 + "mmmmm"
    gx, *grads = _call("inception_backward", how, kinds, results, gy, x, *weights, y, *maps)
    return gx, tuple(_hwio(g) if g.ndim == 4 else g for g in grads)


_inception.defvjp(_inception_forward, _inception_backward)


def main(arguments: list[str]) -> int:
    """``python -m pyinception.interop.jax build [--force]``: compile the handlers."""
    if arguments not in (["build"], ["build", "--force"]):
        sys.stderr.write(f"usage: {jax_build.COMMAND} [--force]\n")
        return 2
    start = time.perf_counter()
    try:
        path = build(force="--force" in arguments)
        jax_build.load()
    except jax_build.BackendError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    where = "CPU and CUDA" if backend.core().cuda_built() else "CPU"
    sys.stdout.write(f"{path}: handlers for {where}, {time.perf_counter() - start:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
