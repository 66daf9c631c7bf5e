"""The CUDA kernels as rows of the table: (op, direction) -> run, for each rung.

``simt`` computes on CUDA cores, any GPU, float32 sums; ``mma`` on tensor cores, 16-bit maps as they
are, float32 multiplied as tf32. A run is ``run(on, spec, *arguments)`` with the arguments of the
table; several plans of one run are launched in order, with scratch between them.
"""

# The runs below share the parameters of their (op, direction) with those of the other backends; a
# test holds them equal by name.
# mypy: allow-untyped-defs, allow-untyped-calls

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from pyinception.backend import BackendError, dtype_of
from pyinception.cuda import records, records_mma, records_separable, records_stem
from pyinception.cuda.executor import Declined, Dry, Emulated, Runtime
from pyinception.cuda.records import STORAGES, Panel
from pyinception.spec import (
    AddScaledSpec,
    BatchNormSpec,
    BranchSpec,
    ConvSpec,
    DepthwiseConvSpec,
    DropoutSpec,
    InceptionSpec,
    LinearSpec,
    LrnSpec,
    PoolSpec,
    SoftmaxCrossEntropySpec,
)

Key = tuple[str, str]
Run = Callable[..., None]


# -------------------------------------------------------------------------------------- CUDA cores


def _simt_runs() -> dict[Key, Run]:
    def conv_fprop(on, spec, x, w, b, y):
        records.conv(on, "conv_fprop", spec, [Panel(w, spec.K, b, y, relu=spec.relu)], x=x)

    def conv_dgrad(on, spec, gy, w, y, gx, accumulate):
        panel = Panel(w, spec.K, y=y, gy=gy)
        records.conv(on, "conv_dgrad", spec, [panel], gx=gx, accumulate=accumulate)

    def conv_wgrad(on, spec, x, gy, y, gw, gb):
        records.conv(on, "conv_wgrad", spec, [Panel(None, spec.K, y=y, gy=gy)], x=x, gw=gw, gb=gb)

    def reduce_conv_fprop(on, spec, x, wr, br, w, b, y, r):
        if x.dtype == np.float32:
            inputs = {"x": x, "wr": wr, "br": br, "w": w, "b": b}
            records.reduce_conv(on, "reduce_conv_fprop", spec, inputs, {"y": y, "r": r})
            return
        reduce, last = spec.stages
        r = on.scratch("r", reduce.y_shape, x.dtype) if r is None else r
        conv_fprop(on, reduce, x, wr, br, r)
        conv_fprop(on, last, r, w, b, y)

    def reduce_conv_backward(on, spec, gy, x, wr, w, r, y, gx, gwr, gbr, gw, gb, accumulate):
        if x.dtype == np.float32:
            inputs = {"gy": gy, "x": x, "wr": wr, "w": w, "r": r, "y": y}
            outputs = {"gx": gx, "gwr": gwr, "gbr": gbr, "gw": gw, "gb": gb}
            records.reduce_conv(on, "reduce_conv_backward", spec, inputs, outputs, accumulate)
            return
        reduce, last = spec.stages
        gr = on.scratch("gr", reduce.y_shape, x.dtype)
        conv_dgrad(on, last, gy, w, y, gr, False)
        conv_dgrad(on, reduce, gr, wr, r, gx, accumulate)
        conv_wgrad(on, reduce, x, gr, r, gwr, gbr)
        conv_wgrad(on, last, r, gy, y, gw, gb)

    def max_pool_fprop(on, spec, x, y, argmax):
        records.pool(on, "pool_fprop", spec, x=x, y=y, argmax=argmax)

    def max_pool_dgrad(on, spec, gy, argmax, gx):
        records.pool(on, "pool_dgrad", spec, gy=gy, argmax=argmax, gx=gx)

    def avg_pool_fprop(on, spec, x, y):
        records.pool(on, "pool_fprop", spec, x=x, y=y)

    def avg_pool_dgrad(on, spec, gy, gx):
        records.pool(on, "pool_dgrad", spec, gy=gy, gx=gx)

    def lrn_fprop(on, spec, x, y):
        records.lrn(on, "lrn_fprop", spec, x, y=y)

    def lrn_dgrad(on, spec, gy, x, gx):
        records.lrn(on, "lrn_dgrad", spec, x, gy=gy, gx=gx)

    def lrn_pool_fprop(on, spec, x, y):
        records_stem.lrn_pool(on, spec.stages, x, y)

    def softmax_cross_entropy_fprop(on, spec, logits, labels, loss, probs):
        how = {"logits": logits, "labels": labels, "loss": loss, "probs": probs}
        records.softmax(on, "softmax_fprop", spec, **how)

    def softmax_cross_entropy_dgrad(on, spec, probs, labels, g, glogits):
        how = {"probs": probs, "labels": labels, "g": g, "glogits": glogits}
        records.softmax(on, "softmax_backward", spec, **how)

    def batch_norm_fprop(on, spec, x, gamma, beta, y, mean, var):
        inputs = {"x": x, "gamma": gamma, "beta": beta}
        outputs = {"y": y, "mean": mean, "var": var}
        records.batch_norm(on, "batch_norm_fprop", spec, inputs, outputs)

    def batch_norm_inference(on, spec, x, gamma, beta, mean, var, y):
        inputs = {"x": x, "gamma": gamma, "beta": beta, "mean": mean, "var": var}
        records.batch_norm(on, "batch_norm_inference", spec, inputs, {"y": y})

    def batch_norm_dgrad(on, spec, gy, x, gamma, mean, var, y, gx, ggamma, gbeta):
        inputs = {"gy": gy, "x": x, "gamma": gamma, "mean": mean, "var": var, "y": y}
        outputs = {"gx": gx, "ggamma": ggamma, "gbeta": gbeta}
        records.batch_norm(on, "batch_norm_dgrad", spec, inputs, outputs)

    def dropout_fprop(on, spec, x, y, seed, step, layer, first_sample):
        records.dropout(on, spec, x, y, seed, step, layer, first_sample)

    def depthwise_conv_fprop(on, spec, x, w, b, y):
        records_separable.depthwise(on, "depthwise_fprop", spec, x=x, w=w, b=b, y=y)

    def depthwise_conv_dgrad(on, spec, gy, w, y, gx, accumulate):
        maps = {"gy": gy, "w": w, "y": y, "gx": gx}
        records_separable.depthwise(on, "depthwise_dgrad", spec, accumulate=accumulate, **maps)

    def depthwise_conv_wgrad(on, spec, x, gy, y, gw, gb):
        maps = {"x": x, "gy": gy, "y": y, "gw": gw, "gb": gb}
        records_separable.depthwise(on, "depthwise_wgrad", spec, **maps)

    def add_scaled_fprop(on, spec, a, b, y):
        records_separable.add_scaled(on, "add_scaled_fprop", spec, a=a, b=b, y=y)

    def add_scaled_dgrad(on, spec, gy, y, ga, gb):
        records_separable.add_scaled(on, "add_scaled_dgrad", spec, a=ga, b=gb, y=y, gy=gy)

    runs = _by_key(locals())
    return runs | _built_on(runs, tensor_cores=False) | {("dropout", "dgrad"): dropout_fprop}


# ------------------------------------------------------------------------------------ tensor cores


def _mma_runs() -> dict[Key, Run]:
    def conv_fprop(on, spec, x, w, b, y):
        records_mma.conv_mma_fprop(on, spec, x, w, b, y)

    def conv_dgrad(on, spec, gy, w, y, gx, accumulate):
        masked = records_mma.mask_mma(on, spec, gy, y)
        records_mma.conv_mma_dgrad(on, spec, masked, w, gx, accumulate=accumulate)

    def conv_wgrad(on, spec, x, gy, y, gw, gb):
        records_mma.conv_mma_wgrad(on, spec, x, records_mma.mask_mma(on, spec, gy, y), gw, gb)

    def conv_lrn_pool_fprop(on, spec, x, w, b, y):
        records_stem.conv_lrn_pool(on, spec.stages, x, w, b, y)

    def reduce_conv_fprop(on, spec, x, wr, br, w, b, y, r):
        records_mma.reduce_conv_mma(on, spec, x, wr, br, w, b, y, r)

    def reduce_conv_backward(on, spec, gy, x, wr, w, r, y, gx, gwr, gbr, gw, gb, accumulate):
        reduce, last = spec.stages
        masked = records_mma.mask_mma(on, last, gy, y)
        gr = on.scratch("gr", reduce.y_shape, x.dtype)
        records_mma.conv_mma_dgrad(on, last, masked, w, gr, mask=r)
        records_mma.conv_mma_dgrad(on, reduce, gr, wr, gx, accumulate=accumulate)
        records_mma.conv_mma_wgrad(on, reduce, x, gr, gwr, gbr)
        records_mma.conv_mma_wgrad(on, last, r, masked, gw, gb)

    runs = _by_key(locals())
    return runs | _built_on(runs, tensor_cores=True)


# ----------------------------------------------------------------------------------- on either rung


def _built_on(runs: dict[Key, Run], tensor_cores: bool) -> dict[Key, Run]:
    """A linear layer by the rung's convolutions, a module by the rung's plans."""

    def linear_fprop(on, spec, x, w, b, y):
        runs["conv", "fprop"](on, _pointwise(spec), x, w, b, y)

    def linear_dgrad(on, spec, gy, w, y, gx):
        runs["conv", "dgrad"](on, _pointwise(spec), gy, w, y, gx, False)

    def linear_wgrad(on, spec, x, gy, y, gw, gb):
        runs["conv", "wgrad"](on, _pointwise(spec), x, gy, y, gw, gb)

    def inception_fprop(on, spec, x, weights, y, saved):
        records.inception(on, "inception_fprop", spec, weights, saved, tensor_cores, x=x, y=y)

    def inception_backward(on, spec, gy, x, weights, y, saved, gx, grads):
        maps = {"x": x, "y": y, "gy": gy, "gx": gx, "grads": grads}
        records.inception(on, "inception_backward", spec, weights, saved, tensor_cores, **maps)

    made = locals()
    return _by_key({name: run for name, run in made.items() if callable(run)})


def _by_key(runs: dict[str, Any]) -> dict[Key, Run]:
    """(op, direction) -> run, from functions called op_direction."""
    return {(op, way): run for name, run in runs.items() for op, _, way in [name.rpartition("_")]}


def _pointwise(spec: LinearSpec) -> ConvSpec:
    """The linear layer as a 1x1 convolution of a 1x1 map."""
    return ConvSpec(spec.N, 1, 1, spec.C, spec.K, 1, 1, relu=spec.relu, function=spec.function)


RUNS: dict[str, dict[Key, Run]] = {"direct": _simt_runs(), "mma": _mma_runs()}
RUNS["tf32"] = RUNS["mma"]


# ----------------------------------------------------------------------------------------- the rows


def emulated(algorithm: str, key: Key) -> Run:
    """The row's run on the emulator."""

    return _row_run(algorithm, key, lambda arguments: Emulated())


def runtime(algorithm: str, key: Key) -> Run:
    """The row's run on the CUDA device that holds the arrays."""

    return _row_run(algorithm, key, lambda arguments: Runtime(arguments[0]))


def _row_run(algorithm: str, key: Key, start: Callable[[tuple[Any, ...]], Any]) -> Run:
    """``run(spec, *arguments)`` on a fresh executor; named as the run it stands for."""
    inner = RUNS[algorithm][key]

    def run(spec, *arguments):
        on = start(arguments)
        try:
            inner(on, spec, *arguments)
        except Declined as declined:
            raise BackendError(f"{getattr(spec, 'function', key[0])}: {declined}") from None
        on.finish()

    _, *rest = inspect.signature(inner).parameters.values()
    run.__signature__ = inspect.Signature(rest)  # type: ignore[attr-defined]
    return run


def why_not(
    algorithm: str,
    key: Key,
    spec: Any,
    dtype: str,
    device: tuple[int, int] | None = None,
    sm: int = 80,
) -> str | None:
    """Why a plan declines ``spec`` with dense maps of ``dtype``; None where none does.

    ``device``, ``sm``: `limits` and `capability` of the one that is to run it; None asks for one
    like sm_80.
    """
    if dtype not in STORAGES:
        return f"needs {', '.join(STORAGES)}, not {dtype}"
    if algorithm == "mma" and dtype == "float32":
        return 'would multiply float32 as tf32, which only algorithm="tf32" may'
    if algorithm == "tf32" and dtype != "float32":
        return f"needs float32, not {dtype}"
    try:
        RUNS[algorithm][key](Dry(device, sm), spec, *operands(key, spec, dtype))
    except Declined as declined:
        return str(declined)
    return None


def operands(key: Key, spec: Any, dtype: str) -> tuple[Any, ...]:
    """Arguments of a run by shape and dtype alone: stride-0 views that nobody reads."""
    way = key[1]

    def array(*shape: int, kind: Any = "float32") -> np.ndarray:
        return np.broadcast_to(np.zeros((), kind), shape)

    def maps(*shapes: tuple[int, ...]) -> list[np.ndarray]:
        return [array(*shape, kind=dtype_of(dtype)) for shape in shapes]

    if isinstance(spec, (ConvSpec, DepthwiseConvSpec)):
        x, w, y = maps(spec.x_shape, spec.w_shape, spec.y_shape)
        mask, b = (y if spec.relu else None), (array(spec.K) if spec.bias else None)
        ways = {"fprop": (x, w, b, y), "dgrad": (y, w, mask, x, False)}
        return ways.get(way, (x, y, mask, array(*spec.w_shape), b))
    if isinstance(spec, LinearSpec):
        x, w, y = maps((spec.N, spec.C), (spec.K, spec.C), (spec.N, spec.K))
        mask, b = (y if spec.relu else None), (array(spec.K) if spec.bias else None)
        ways = {"fprop": (x, w, b, y), "dgrad": (y, w, mask, x)}
        return ways.get(way, (x, y, mask, array(spec.K, spec.C), b))
    if isinstance(spec, BranchSpec):
        reduce, last = spec.stages
        x, wr, r = maps(reduce.x_shape, reduce.w_shape, reduce.y_shape)  # type: ignore[union-attr]
        w, y = maps(last.w_shape, last.y_shape)  # type: ignore[union-attr]
        br, b = array(reduce.K), array(last.K)  # type: ignore[union-attr]
        if way == "fprop":
            return x, wr, br, w, b, y, r
        return y, x, wr, w, r, y, x, array(*wr.shape), br, array(*w.shape), b, False
    if isinstance(spec, InceptionSpec):
        convs = [s for branch in spec.branches for s in branch.stages if isinstance(s, ConvSpec)]
        x, y = maps(spec.x_shape, spec.y_shape)
        pairs = [(maps(conv.w_shape)[0], array(conv.K)) for conv in convs]
        r3, r5 = maps(convs[1].y_shape, convs[3].y_shape)
        weights = tuple(a for pair in pairs for a in pair)
        saved = (r3, r5, x, array(*spec.x_shape, kind=np.uint8))
        grads = tuple(array(*a.shape) for a in weights)
        return (x, weights, y, saved) if way == "fprop" else (y, x, weights, y, saved, x, grads)
    if isinstance(spec, PoolSpec):
        x, y = maps(spec.x_shape, spec.y_shape)
        argmax = [array(*spec.y_shape, kind=np.uint8)] * (spec.kind == "max")
        return (x, y, *argmax) if way == "fprop" else (y, *argmax, x)
    if isinstance(spec, LrnSpec):
        (x,) = maps(spec.x_shape)
        return (x, x) if way == "fprop" else (x, x, x)
    if isinstance(spec, SoftmaxCrossEntropySpec):
        (logits,), probs = maps((spec.N, spec.K)), array(spec.N, spec.K)
        labels, loss = array(spec.N, kind=np.int64), array(spec.N)
        first, last_two = (logits, (loss, probs)) if way == "fprop" else (probs, (loss, logits))
        return first, labels, *last_two
    if isinstance(spec, BatchNormSpec):
        (x,), v = maps(spec.shape), array(spec.shape[-1])
        ways = {"fprop": (x, v, v, x, v, v), "inference": (x, v, v, v, v, x)}
        return ways.get(way, (x, x, v, v, v, x, x, v, v))
    if isinstance(spec, AddScaledSpec):
        a, b = maps(spec.shape, spec.shape)
        return (a, b, a) if way == "fprop" else (a, a if spec.relu else None, a, b)
    assert isinstance(spec, DropoutSpec)
    (x,) = maps(spec.shape)
    return x, x, 0, 0, 0, 0
