"""Records of the CUDA kernels from specs and arrays: one function per plan, which it then runs.

Maps are (N, H, W, C), or (N, C) as (N, 1, 1, C), of one storage: float32, float16 or bfloat16.
Filters have the maps' storage; biases, vectors of batch normalisation, losses, probabilities and
filter gradients are float32. ``on`` is an `executor.Executor`; arrays that are None are null.
"""

from typing import Any, NamedTuple

import numpy as np

from pyinception.cuda.executor import Declined, Executor, launches_of
from pyinception.kernels import cuda_args
from pyinception.spec import (
    BatchNormSpec,
    BranchSpec,
    ConvSpec,
    DepthwiseConvSpec,
    DropoutSpec,
    InceptionSpec,
    LrnSpec,
    PoolSpec,
    SoftmaxCrossEntropySpec,
)

STORAGES = {"float32": 0, "bfloat16": 1, "float16": 2}  # `storage` and `type` of the records
SM75_FLOAT16 = 3  # `type` of float16 before sm_80, for the kernels that are made for it


def storage_of(array: Any) -> int:
    """The code of an array's dtype; `Declined` for one that no kernel stores."""
    name = np.dtype(array.dtype).name
    if name not in STORAGES:
        raise Declined(f"needs {', '.join(STORAGES)}, not {name}")
    return STORAGES[name]


def mma_type(on: Executor, array: Any) -> int:
    """The code of an array's dtype for tensor-core kernels on this device."""
    code = storage_of(array)
    if on.sm >= 80:
        return code
    if code != STORAGES["float16"]:
        name = np.dtype(array.dtype).name
        raise Declined(f"tensor cores of sm_{on.sm} multiply float16 only, not {name}")
    return SM75_FLOAT16


class Call:
    """One record on its way to one plan."""

    def __init__(self, on: Executor, dtype: np.dtype[Any], unit: int = 1, **fields: Any) -> None:
        self.on, self.unit, self.record = on, unit, np.zeros((), dtype)
        self.fill(**fields)

    def fill(self, **fields: Any) -> None:
        try:
            for name, value in fields.items():
                self.record[name] = value
        except OverflowError:
            raise Declined("an extent or a stride is beyond 32 bits") from None

    def array(self, name: str, array: Any, into: Any = None, **how: Any) -> None:
        """A contiguous operand."""
        if array is not None:
            (self.record if into is None else into)[name] = self.on.put(name, array, **how)[0]

    def map(self, name: str, array: Any, into: Any = None, **how: Any) -> None:
        """An operand with strides of image, row and pixel."""
        if array is None:
            return
        record = self.record if into is None else into
        record[name], strides = self.on.put(name, array, unit=self.unit, **how)
        image = strides[0]
        try:
            record[f"{name}_strides"] = strides[:3] if len(strides) == 4 else (image,) * 3
        except OverflowError:
            raise Declined("an extent or a stride is beyond 32 bits") from None

    def run(self, plan: str, sized: bool = False) -> None:
        """``sized``: the plan has a workspace, whose bytes its dry run tells."""
        if sized:
            _, count = launches_of(f"{plan}_size", self.record)
            workspace = self.on.scratch("workspace", (count // 4,), np.float32)
            self.fill(workspace=workspace.address if count else 0, workspace_bytes=count)
        self.on.run(plan, self.record)


def extents(shape: Any) -> dict[str, int]:
    """N, H, W, C of a map."""
    n, *middle, c = shape
    h, w = middle or (1, 1)
    return {"N": n, "H": h, "W": w, "C": c}


def window(spec: ConvSpec | DepthwiseConvSpec | PoolSpec) -> dict[str, int]:
    """R, S, strides and padding of a convolution or pool."""
    (stride_h, stride_w), (pad_h, pad_w) = spec.stride, spec.padding
    r, s = spec.kernel
    return {
        "R": r, "S": s, "stride_h": stride_h, "stride_w": stride_w, "pad_h": pad_h, "pad_w": pad_w,
    }  # fmt: skip


# --------------------------------------------------------------------------------- CUDA-core plans


class Panel(NamedTuple):
    """One filter of a launch with its maps; siblings read the same x."""

    w: Any  # (K, R, S, C)
    K: int
    b: Any = None
    y: Any = None  # the output of fprop, else the mask
    gy: Any = None
    relu: bool = False


def conv(
    on: Executor, plan: str, spec: ConvSpec, panels: list[Panel], *, x: Any = None, gx: Any = None,
    gw: Any = None, gb: Any = None, accumulate: bool = False,
) -> None:  # fmt: skip
    """conv_fprop, conv_dgrad or conv_wgrad of up to four filters with the window of ``spec``."""
    maps = [a for panel in panels for a in (x, gx, panel.y, panel.gy) if a is not None]
    call = Call(
        on, cuda_args.CONV_CUDA_ARGS, storage=storage_of(maps[0]), panel_count=len(panels),
        accumulate=accumulate, **extents(spec.x_shape), **window(spec),
    )  # fmt: skip
    for i, panel in enumerate(panels):
        into = call.record["panels"][i]
        into["K"], into["relu"] = panel.K, panel.relu
        call.array("w", panel.w, into)
        call.array("b", panel.b, into)
        call.map("y", panel.y, into, output=plan == "conv_fprop")
        call.map("gy", panel.gy, into)
    call.map("x", x)
    call.map("gx", gx, output=True, keeps=accumulate)
    call.array("gw", gw, output=True)
    call.array("gb", gb, output=True)
    call.run(plan, sized=plan == "conv_wgrad")


def reduce_conv(
    on: Executor, plan: str, spec: BranchSpec, inputs: dict[str, Any], outputs: dict[str, Any],
    accumulate: bool = False,
) -> None:  # fmt: skip
    """reduce_conv_fprop or reduce_conv_backward, float32; arrays by the record's names."""
    reduce, last = spec.stages
    assert isinstance(reduce, ConvSpec) and isinstance(last, ConvSpec)
    call = Call(
        on, cuda_args.REDUCE_CONV_CUDA_ARGS, Cr=reduce.K, K=last.K, accumulate=accumulate,
        shared_limit=on.shared_limit, **extents(reduce.x_shape), **window(last),
    )  # fmt: skip
    for arrays, output in ((inputs, False), (outputs, True)):
        for name, array in arrays.items():
            is_map = f"{name}_strides" in cuda_args.REDUCE_CONV_CUDA_ARGS.names
            put = call.map if is_map else call.array
            put(name, array, output=output, keeps=name == "gx" and accumulate)
    call.run(plan, sized=plan == "reduce_conv_backward")


def inception(
    on: Executor, plan: str, spec: InceptionSpec, weights: tuple[Any, ...], saved: Any,
    tensor_cores: bool, *, x: Any, y: Any, gy: Any = None, gx: Any = None, grads: Any = None,
) -> None:  # fmt: skip
    """inception_fprop or inception_backward: a GoogLeNet module on either rung.

    weights, grads: filters and biases in turn; saved: r3, r5, pooled, argmax, or None in fprop.
    """
    forward = gy is None
    if tensor_cores and mma_type(on, x) == SM75_FLOAT16:
        raise Declined(f"tensor cores of sm_{on.sm} have no kernel for a whole module")
    convs = [s for branch in spec.branches for s in branch.stages if isinstance(s, ConvSpec)]
    call = Call(
        on, cuda_args.INCEPTION_CUDA_ARGS, 16 // x.dtype.itemsize if tensor_cores else 1,
        K=[conv.K for conv in convs], filter=convs[4].R, storage=storage_of(x),
        tensor_cores=tensor_cores, shared_limit=on.shared_limit,
        multiprocessors=on.multiprocessors, **extents(spec.x_shape),
    )  # fmt: skip
    call.map("x", x)
    call.map("y", y, output=forward)
    for name, array in zip(("r3", "r5", "pooled"), saved or (), strict=False):
        call.map(name, array, output=forward)
    call.array("argmax", saved[3] if saved else None, output=forward)
    call.map("gy", gy)
    call.map("gx", gx, output=True)
    lists = [("w", weights[::2], False)]
    if forward:
        lists += [("b", weights[1::2], False)]
    else:
        lists += [("gw", grads[::2], True), ("gb", grads[1::2], True)]
    for field, arrays, output in lists:
        for i, array in enumerate(arrays):
            if array is not None:
                call.record[field][i] = on.put(f"{field}{i}", array, output=output)[0]
    call.run(plan, sized=True)


def pool(
    on: Executor, plan: str, spec: PoolSpec, *, x: Any = None, y: Any = None, argmax: Any = None,
    gy: Any = None, gx: Any = None, accumulate: bool = False,
) -> None:  # fmt: skip
    """pool_fprop or pool_dgrad."""
    call = Call(
        on, cuda_args.POOL_CUDA_ARGS, average=spec.kind == "avg", accumulate=accumulate,
        storage=storage_of(x if gy is None else gy), ceil_mode=spec.ceil_mode,
        count_include_pad=spec.count_include_pad, **extents(spec.x_shape), **window(spec),
    )  # fmt: skip
    call.map("x", x)
    call.map("y", y, output=True)
    call.array("argmax", argmax, output=gy is None)
    call.map("gy", gy)
    call.map("gx", gx, output=True, keeps=accumulate)
    call.run(plan)


def lrn(
    on: Executor, plan: str, spec: LrnSpec, x: Any, *, y: Any = None, gy: Any = None, gx: Any = None
) -> None:
    """lrn_fprop or lrn_dgrad."""
    call = Call(
        on, cuda_args.LRN_CUDA_ARGS, storage=storage_of(x), size=spec.size, alpha=spec.alpha,
        beta=spec.beta, k=spec.k, **extents(spec.x_shape),
    )  # fmt: skip
    call.map("x", x)
    call.map("y", y, output=True)
    call.map("gy", gy)
    call.map("gx", gx, output=True)
    call.run(plan)


def softmax(
    on: Executor, plan: str, spec: SoftmaxCrossEntropySpec, *, logits: Any = None, labels: Any,
    loss: Any = None, probs: Any, g: Any = None, glogits: Any = None,
) -> None:  # fmt: skip
    """softmax_fprop or softmax_backward; ``g`` may have any stride."""
    forward = g is None
    rows = logits if forward else glogits
    call = Call(
        on, cuda_args.SOFTMAX_CUDA_ARGS, storage=storage_of(rows), N=spec.N, K=spec.K
    )  # fmt: skip
    address, strides = on.put("logits" if forward else "glogits", rows, output=not forward, unit=1)
    call.fill(logits_row=strides[0], **{"logits" if forward else "glogits": address})
    call.array("labels", labels)
    call.array("loss", loss, output=True)
    call.array("probs", probs, output=forward)
    call.array("g", g)
    call.run(plan)


def batch_norm(
    on: Executor, plan: str, spec: BatchNormSpec, inputs: dict[str, Any], outputs: dict[str, Any]
) -> None:
    """batch_norm_fprop, batch_norm_inference or batch_norm_dgrad; arrays by the record's names."""
    call = Call(
        on, cuda_args.BATCH_NORM_CUDA_ARGS, storage=storage_of(inputs["x"]), relu=spec.relu,
        eps=spec.eps, **extents(spec.shape),
    )  # fmt: skip
    for arrays, output in ((inputs, False), (outputs, True)):
        for name, array in arrays.items():
            put = call.map if name in ("x", "y", "gx", "gy") else call.array
            put(name, array, output=output)
    call.run(plan, sized=plan != "batch_norm_inference")


def dropout(
    on: Executor, spec: DropoutSpec, x: Any, y: Any, seed: int, step: int, layer: int,
    first_sample: int,
) -> None:  # fmt: skip
    """dropout, of a map of any rank: elements of a sample count in memory order."""
    n, *rest = spec.shape
    shape = spec.shape if len(rest) in (1, 3) else (n, int(np.prod(rest)))
    call = Call(
        on, cuda_args.DROPOUT_CUDA_ARGS, storage=storage_of(x), threshold=round(spec.p * 2**32),
        divisor=np.float32(1 - spec.p), seed_low=seed % 2**32, seed_high=seed // 2**32, step=step,
        layer=layer, first_sample=first_sample, **extents(shape),
    )  # fmt: skip
    call.map("x", x)
    call.map("y", y, output=True)
    call.run("dropout")
