"""The table of rows: per (op, direction) every implementation, best first, the reference last.

A row is data: who it is, why it declines, how it runs. ``run`` takes (spec, inputs..., outputs...)
and writes the outputs; its parameters are the same for all backends of one (op, direction), and
optional arrays (b, mask y, r, gb, argmax, saved) may be None. This is the only file that knows
every kernel. The CPU rows call ``pyinception._C``, whose own "auto" picks direct or Winograd by
layer shape; the reference rows copy what `kernels/reference.py` returns.
"""

# The runs below share the parameters of their (op, direction); a test holds them equal by name.
# mypy: allow-untyped-defs, allow-untyped-calls

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pyinception import config, table_separable, winograd
from pyinception.backend import BFLOAT16, Target, core, level_reason, reference, why_not
from pyinception.prepack import Format, raw
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec, LinearSpec, Spec

Key = tuple[str, str]  # (op, direction)
Run = Callable[..., None]
Why = Callable[[Any, Target], str | None]


@dataclass(frozen=True)
class Row:
    """One implementation of one (op, direction)."""

    op: str
    direction: str
    name: str
    backend: str
    algorithm: str
    why_not: Why
    run: Run


# ------------------------------------------------------------------------------ weights that pack

# Where weights stand among a run's arguments after spec (a path into nested tuples).
SITES: dict[Key, tuple[tuple[int, ...], ...]] = {
    ("conv", "fprop"): ((1,),),
    ("conv", "dgrad"): ((1,),),
    ("reduce_conv", "fprop"): ((1,), (3,)),
    ("inception", "fprop"): tuple((1, i) for i in range(0, 12, 2)),
    ("linear", "fprop"): ((1,),),
    ("linear", "dgrad"): ((1,),),
}


def formats(key: Key, spec: Spec, algorithm: str, target: Target) -> tuple[Format, ...]:
    """The packed format of each weight of `SITES`, in its order."""
    direction, level, dtype = key[1], target.level, target.dtype
    if key not in SITES:
        return ()
    if isinstance(spec, LinearSpec):
        return (Format(spec.K, 1, 1, spec.C, direction, algorithm, level, dtype),)
    convs: list[ConvSpec] = []
    if isinstance(spec, ConvSpec):
        convs = [spec]
    elif isinstance(spec, (BranchSpec, InceptionSpec)):
        branches = spec.branches if isinstance(spec, InceptionSpec) else (spec,)
        stages = [stage for branch in branches for stage in branch.stages]
        convs = [stage for stage in stages if isinstance(stage, ConvSpec)]

    return tuple(
        Format(*conv.w_shape, direction, winograd.format_of(conv, algorithm), level, dtype)
        for conv in convs
    )


# ------------------------------------------------------------------------------------ CPU rows


def _cpu_runs(algorithm: str) -> dict[Key, Run]:
    """The runs of one algorithm of the compiled core."""

    def call(name: str, *arguments: Any, last: tuple[Any, ...] = ()) -> None:
        """An entry point of the core; the switches are read once, since calls cost microseconds."""
        switches = config.values()
        entry = getattr(core(switches), name)
        entry(*arguments, algorithm, switches.cpu_level, switches.threads, *last)

    def conv_fprop(spec, x, w, b, y):
        where = spec.kernel, spec.stride, spec.padding
        call("conv_fprop", x, raw(w), b, y, *where, spec.relu)

    def conv_dgrad(spec, gy, w, y, gx, accumulate):
        where = spec.kernel, spec.stride, spec.padding
        call("conv_dgrad", gy, raw(w), y, gx, *where, accumulate)

    def conv_wgrad(spec, x, gy, y, gw, gb):
        where = spec.kernel, spec.stride, spec.padding
        call("conv_wgrad", x, gy, y, gw, gb, *where)

    def reduce_conv_fprop(spec, x, wr, br, w, b, y, r):
        second = spec.stages[1]
        where = second.kernel, second.stride, second.padding
        arrays = x, raw(wr), br, raw(w), b, y, r
        call("reduce_conv_fprop", *arrays, *where, last=(second.C,))

    def reduce_conv_backward(spec, gy, x, wr, w, r, y, gx, gwr, gbr, gw, gb, accumulate):
        second = spec.stages[1]
        where = second.kernel, second.stride, second.padding
        arrays = gy, x, wr, w, r, y, gx, gwr, gbr, gw, gb
        call("reduce_conv_backward", *arrays, *where, accumulate)

    def inception_fprop(spec, x, weights, y, saved):
        call("inception_fprop", x, tuple(raw(w) for w in weights), y, saved)

    def inception_backward(spec, gy, x, weights, y, saved, gx, grads):
        call("inception_backward", gy, x, weights, y, saved, gx, grads)

    def max_pool_fprop(spec, x, y, argmax):
        call("max_pool_fprop", x, y, argmax, spec.kernel, spec.stride, spec.padding)

    def max_pool_dgrad(spec, gy, argmax, gx):
        call("max_pool_dgrad", gy, argmax, gx, spec.kernel, spec.stride, spec.padding)

    def avg_pool_fprop(spec, x, y):
        where = spec.kernel, spec.stride, spec.padding
        call("avg_pool_fprop", x, y, *where, spec.count_include_pad)

    def avg_pool_dgrad(spec, gy, gx):
        where = spec.kernel, spec.stride, spec.padding
        call("avg_pool_dgrad", gy, gx, *where, spec.count_include_pad)

    def lrn_fprop(spec, x, y):
        call("lrn_fprop", x, y, spec.size, spec.alpha, spec.beta, spec.k)

    def lrn_dgrad(spec, gy, x, gx):
        call("lrn_dgrad", gy, x, gx, spec.size, spec.alpha, spec.beta, spec.k)

    def linear_fprop(spec, x, w, b, y):
        call("linear_fprop", x, raw(w), b, y, spec.relu)

    def linear_dgrad(spec, gy, w, y, gx):
        call("linear_dgrad", gy, raw(w), y, gx)

    def linear_wgrad(spec, x, gy, y, gw, gb):
        call("linear_wgrad", x, gy, y, gw, gb)

    def softmax_cross_entropy_fprop(spec, logits, labels, loss, probs):
        call("softmax_cross_entropy_fprop", logits, labels, loss, probs)

    def softmax_cross_entropy_dgrad(spec, probs, labels, g, glogits):
        call("softmax_cross_entropy_dgrad", probs, labels, g, glogits)

    def batch_norm_fprop(spec, x, gamma, beta, y, mean, var):
        call("batch_norm_fprop", x, gamma, beta, y, mean, var, spec.eps, spec.relu)

    def batch_norm_inference(spec, x, gamma, beta, mean, var, y):
        call("batch_norm_inference", x, gamma, beta, mean, var, y, spec.eps, spec.relu)

    def batch_norm_dgrad(spec, gy, x, gamma, mean, var, y, gx, ggamma, gbeta):
        arrays = gy, x, gamma, mean, var, y, gx, ggamma, gbeta
        call("batch_norm_dgrad", *arrays, spec.eps)

    def dropout_fprop(spec, x, y, seed, step, layer, first_sample):
        call("dropout", x, y, spec.p, seed, step, layer, first_sample)

    return _by_key(locals() | table_separable.cpu_runs(call), dropout_fprop)


def _by_key(found: dict[str, Any], dropout: Run) -> dict[Key, Run]:
    """(op, direction) -> run, from functions called op_direction; dropout is its own gradient."""
    keyed: dict[Key, Run] = {("dropout", "dgrad"): dropout}
    for name, run in found.items():
        op, _, direction = name.rpartition("_")
        if op and direction in ("fprop", "dgrad", "wgrad", "backward", "inference"):
            keyed[op, direction] = run
    return keyed


# ------------------------------------------------------------------------------- reference rows


def _reference_runs() -> dict[Key, Run]:
    """The runs that copy the reference's results into the outputs."""

    def put(outputs, results):
        for output, result in zip(outputs, results, strict=True):
            if output is not None:
                output[...] = result

    def add(gx, result, accumulate):
        if accumulate:
            gx += result
        else:
            gx[...] = result

    def window(spec):
        return {"stride": spec.stride, "padding": spec.padding}

    def conv_fprop(spec, x, w, b, y):
        y[...] = reference().conv2d_fprop(x, w, b, relu=spec.relu, **window(spec))

    def conv_dgrad(spec, gy, w, y, gx, accumulate):
        result = reference().conv2d_dgrad(gy, w, spec.x_shape, y=y, **window(spec))
        add(gx, result, accumulate)

    def conv_wgrad(spec, x, gy, y, gw, gb):
        put((gw, gb), reference().conv2d_wgrad(x, gy, spec.w_shape, y=y, **window(spec)))

    def reduce_conv_fprop(spec, x, wr, br, w, b, y, r):
        put((y, r), reference().reduce_conv_fprop(x, wr, br, w, b, **window(spec.stages[1])))

    def reduce_conv_backward(spec, gy, x, wr, w, r, y, gx, gwr, gbr, gw, gb, accumulate):
        where = window(spec.stages[1])
        gx_new, *rest = reference().reduce_conv_backward(gy, x, wr, w, r, y, **where)
        add(gx, gx_new, accumulate)
        put((gwr, gbr, gw, gb), rest)

    def inception_fprop(spec, x, weights, y, saved):
        y[...], new = reference().inception_fprop(x, weights)
        put(saved or (None,) * 4, new)

    def inception_backward(spec, gy, x, weights, y, saved, gx, grads):
        gx[...], new = reference().inception_backward(gy, x, weights, y, saved)
        put(grads, new)

    def max_pool_fprop(spec, x, y, argmax):
        where = spec.kernel, spec.stride, spec.padding
        put((y, argmax), reference().max_pool_fprop(x, *where, spec.ceil_mode))

    def max_pool_dgrad(spec, gy, argmax, gx):
        where = spec.kernel, spec.stride, spec.padding
        gx[...] = reference().max_pool_dgrad(gy, argmax, spec.x_shape, *where)

    def avg_pool_fprop(spec, x, y):
        where = spec.kernel, spec.stride, spec.padding
        y[...] = reference().avg_pool_fprop(x, *where, spec.ceil_mode, spec.count_include_pad)

    def avg_pool_dgrad(spec, gy, gx):
        where = spec.kernel, spec.stride, spec.padding
        gx[...] = reference().avg_pool_dgrad(gy, spec.x_shape, *where, spec.count_include_pad)

    def lrn_fprop(spec, x, y):
        y[...] = reference().lrn_fprop(x, spec.size, spec.alpha, spec.beta, spec.k)

    def lrn_dgrad(spec, gy, x, gx):
        gx[...] = reference().lrn_dgrad(gy, x, spec.size, spec.alpha, spec.beta, spec.k)

    def linear_fprop(spec, x, w, b, y):
        y[...] = reference().linear_fprop(x, w, b, relu=spec.relu)

    def linear_dgrad(spec, gy, w, y, gx):
        gx[...] = reference().linear_dgrad(gy, w, y=y)

    def linear_wgrad(spec, x, gy, y, gw, gb):
        put((gw, gb), reference().linear_wgrad(x, gy, y=y))

    def softmax_cross_entropy_fprop(spec, logits, labels, loss, probs):
        put((loss, probs), reference().softmax_cross_entropy_fprop(logits, labels))

    def softmax_cross_entropy_dgrad(spec, probs, labels, g, glogits):
        glogits[...] = reference().softmax_cross_entropy_dgrad(probs, labels, g)

    def batch_norm_fprop(spec, x, gamma, beta, y, mean, var):
        how = {"eps": spec.eps, "relu": spec.relu}
        put((y, mean, var), reference().batch_norm_fprop(x, gamma, beta, **how))

    def batch_norm_inference(spec, x, gamma, beta, mean, var, y):
        how = {"eps": spec.eps, "relu": spec.relu}
        y[...] = reference().batch_norm_inference(x, gamma, beta, mean, var, **how)

    def batch_norm_dgrad(spec, gy, x, gamma, mean, var, y, gx, ggamma, gbeta):
        result = reference().batch_norm_dgrad(gy, x, gamma, mean, var, eps=spec.eps, y=y)
        put((gx, ggamma, gbeta), result)

    def dropout_fprop(spec, x, y, seed, step, layer, first_sample):
        how = {"seed": seed, "step": step, "layer": layer, "first_sample": first_sample}
        y[...] = reference().dropout(x, spec.p, **how)

    return _by_key(locals() | table_separable.reference_runs(), dropout_fprop)


# ------------------------------------------------------------------------------------ CUDA rows

# Rungs of the CUDA kernels, best first: tensor cores on 16-bit maps, tensor cores that round
# float32 to tf32 (only where it is asked for), CUDA cores.
CUDA_RUNGS = ("mma", "tf32", "direct")


def _cuda_rows(key: Key, backend: str) -> list[Row]:
    """The rows of backend "cuda", or "emulated": the same kernels by the same plans."""
    from pyinception.cuda import runs  # a fifth of the import, which the host's rows do without

    start = runs.emulated if backend == "emulated" else runs.runtime
    return [
        Row(*key, f"{backend}/{rung}", backend, rung, _cuda_declines(key, backend, rung),
            start(rung, key))
        for rung in CUDA_RUNGS
        if key in runs.RUNS[rung]
    ]  # fmt: skip


def _cuda_declines(key: Key, backend: str, rung: str) -> Why:
    from pyinception.cuda import executor, runs

    def why(spec: Spec, target: Target) -> str | None:
        memory = "host" if backend == "emulated" else "cuda"
        if target.memory != memory:
            return f"needs arrays in {memory} memory"
        if reason := _other_problem(spec) or why_not(backend):
            return reason
        if backend == "emulated":
            return runs.why_not(rung, key, spec, target.dtype)
        device = executor.limits(), executor.capability()
        return runs.why_not(rung, key, spec, target.dtype, *device)

    return why


# -------------------------------------------------------------------------------------- refusals


def _cpu_declines(key: Key, algorithm: str) -> Why:
    def why(spec: Spec, target: Target) -> str | None:
        narrow = target.dtype == "bfloat16" and algorithm in BFLOAT16.get(key, ())
        as_if = replace(target, dtype="float32") if narrow else target
        if reason := _reference_declines(spec, as_if) or why_not("cpu"):
            return reason
        if as_if.dtype != "float32":
            return f"needs float32, not {target.dtype}"
        if reason := level_reason(target.level):
            return reason
        if algorithm == "winograd":
            return winograd.why_not(key[1], spec)
        return None

    return why


def _reference_declines(spec: Spec, target: Target) -> str | None:
    """What the rows of the host refuse: other memory, 16 bits, other chains, other modules."""
    if target.memory != "host":
        return "needs arrays in host memory"
    if target.dtype not in ("float32", "float64"):
        return f"needs float32 or float64, not {target.dtype}"
    return _other_problem(spec)


def _other_problem(spec: Spec) -> str | None:
    """Chains and modules that no row takes."""
    if isinstance(spec, BranchSpec) and not spec.is_reduce_conv:
        return "takes chains of two convolutions, 1x1 -> RxS with ReLU after both"
    if isinstance(spec, InceptionSpec) and not spec.is_googlenet:
        return "takes GoogLeNet's four branches: 1x1, 1x1 -> 3x3, 1x1 -> 5x5, pool -> 1x1"
    return None


# ------------------------------------------------------------------------------------- the table

ALGORITHMS = ("auto", "winograd", "direct", "plain")
_WITH_WINOGRAD = ("conv", "reduce_conv", "inception")


def _host_rows() -> dict[Key, tuple[Row, ...]]:
    cpu = {algorithm: _cpu_runs(algorithm) for algorithm in ALGORITHMS}
    table: dict[Key, tuple[Row, ...]] = {}
    for key, run in _reference_runs().items():
        op = key[0]
        rows = [
            Row(*key, f"cpu/{a}", "cpu", a, _cpu_declines(key, a), cpu[a][key])
            for a in ALGORITHMS
            if key in cpu[a] and (op in _WITH_WINOGRAD or a in ("auto", "plain"))
        ]
        rows.append(Row(*key, "reference", "reference", "plain", _reference_declines, run))
        table[key] = tuple(rows)
    return table


# What arrays in host memory run on, unless the emulator is asked for.
HOST_ROWS: dict[Key, tuple[Row, ...]] = _host_rows()


@cache
def rows(op: str, direction: str) -> tuple[Row, ...]:
    """Every row of one (op, direction): the CPU's, CUDA's, the emulator's, the reference."""
    *cpu, last = HOST_ROWS[key := (op, direction)]
    return (*cpu, *_cuda_rows(key, "cuda"), *_cuda_rows(key, "emulated"), last)
