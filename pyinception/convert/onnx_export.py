"""Any network of ours as an ONNX file, from the calls that one evaluation makes.

The graph is NCHW with a free batch, filters KCRS. What our ops write into slices of one map becomes
a Concat; a fused op becomes its convolutions, pools and ReLUs.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import extents
from pyinception.backend import Array
from pyinception.convert.files import ConvertError, require_onnx
from pyinception.dispatch import Plan
from pyinception.module import Module
from pyinception.ops.shape import copy
from pyinception.spec import ConvSpec, DepthwiseConvSpec, PoolSpec
from pyinception.tensor import Tensor
from pyinception.tracing import trace

OPSET = 17


def export(net: Module, input_shape: tuple[int, ...], path: str | os.PathLike[str]) -> None:
    """Write ``net`` in evaluation as ONNX: "input" (N, C, H, W) -> "output" (N, K).

    Parameters
    ----------
    input_shape : (N, H, W, C), as for a `Session`; N is free in the file.
    path : the file to write, checked by onnx.checker first.

    Raises
    ------
    ConvertError
        The network makes calls that ONNX has no node for: all are listed.
    TypeError, ValueError
        ``net`` is no module; ``input_shape`` is not four extents.
    ImportError
        onnx is not installed (extra ``onnx``).
    OSError
        The file cannot be written; an older one is as it was.
    """
    if not isinstance(net, Module):
        raise TypeError(f"export: net is a {type(net).__name__}, expected a Module")
    onnx = require_onnx("export")
    _, h, w, c = input_shape = extents.input_shape("export", input_shape, "N H W C")
    x = np.zeros((1, h, w, c), np.float32)
    result, noted = trace(net, x)
    if not isinstance(result, Tensor):
        raise ConvertError(f"export: net gives a {type(result).__name__}, expected a Tensor")
    graph = _Graph(onnx, net, x, noted.arrays)
    unknown = []
    for call, arguments in noted.calls:
        name, method = _name_of(call)
        if hasattr(graph, method):
            getattr(graph, method)(call, *arguments)
        else:
            unknown.append(name)
    if unknown:
        raise ConvertError(f"export: ONNX has no node for {', '.join(sorted(set(unknown)))}")
    graph.node("Identity", [graph.read(result.data)], "output")
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            type(net).__name__,
            [value("input", kind, ["N", c, h, w])],
            [value("output", kind, ["N", *_nchw(result.data).shape[1:]])],
            list(graph.initializers.values()),
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        producer_name="pyinception",
    )
    model.ir_version = 8  # of opset 17: readers refuse a version they do not know
    onnx.checker.check_model(model, full_check=True)
    from pyinception.train.run_folder import write_whole  # `train` imports this package

    write_whole(Path(path), model.SerializeToString())


def _name_of(call: Any) -> tuple[str, str]:
    """What a call is, and the method of `_Graph` that writes it."""
    if isinstance(call, Plan):
        return f"{call.op} {call.direction}", f"{call.op}_{call.direction}"
    function = call.func if isinstance(call, partial) else call
    known = {copy: "host_copy"}
    return getattr(function, "__qualname__", str(function)), known.get(function, "")


def _nchw(array: Array) -> Array:
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


class _Graph:
    """Nodes so far, and the ONNX name of every array that a call has written."""

    def __init__(self, onnx: Any, net: Module, x: Array, blocks: list[Array]) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.blocks = sorted([x, *blocks], key=_address)
        self.starts = [_address(block) for block in self.blocks]
        # block -> (first channel, array's shape, name) of what was written into it
        self.pieces: dict[int, list[tuple[int, tuple[int, ...], str]]] = {}
        self.weights = {_address(a): name for name, a in net.state_dict().items() if a.size}
        self.write(x, "input")

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        made = self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        self.nodes.append(made)
        return output

    def constant(self, array: Array, name: str = "") -> str:
        """An initialiser, by its parameter's name where it is one."""
        name = name or self.weights.get(_address(array), f"constant_{len(self.initializers)}")
        if name not in self.initializers:
            value = np.ascontiguousarray(_nchw(array))
            self.initializers[name] = self.onnx.numpy_helper.from_array(value, name)
        return name

    def _place(self, array: Array) -> tuple[int, int]:
        """(block, first channel in it) of an array or slice."""
        block = bisect_right(self.starts, _address(array)) - 1
        return block, (_address(array) - self.starts[block]) // array.itemsize

    def write(self, array: Array, name: str) -> None:
        block, first = self._place(array)
        self.pieces.setdefault(block, []).append((first, array.shape, name))

    def read(self, array: Array) -> str:
        """The name of ``array``: written whole, put together from slices, or another shape."""
        block, first = self._place(array)
        written = self.pieces.get(block, [])
        for start, shape, name in reversed(written):
            if (start, shape) == (first, array.shape):
                return name
        for start, shape, name in reversed(written):
            if start == first and prod(shape) == array.size and array.ndim == 2:
                return self._flat(array, shape, name)
        if array.ndim == 4:
            end = first + array.shape[3]
            inside = sorted(piece for piece in written if first <= piece[0] < end)
            if sum(shape[3] for _, shape, _ in inside) == array.shape[3]:
                name = self.node("Concat", [name for _, _, name in inside], axis=1)
                self.write(array, name)
                return name
        if array.ndim == 2 and len(written) > 1:
            whole = self.blocks[block]
            return self._flat(array, whole.shape, self.read(whole))
        raise ConvertError(f"export: an array of shape {array.shape} was read before any call")

    def _flat(self, array: Array, shape: tuple[int, ...], name: str) -> str:
        """A map as rows, in H, W, C order as ours."""
        if shape[1:3] != (1, 1):
            name = self.node("Transpose", [name], perm=[0, 2, 3, 1])
        extents = np.array([0, array.shape[1]], np.int64)
        wanted = self.constant(extents, f"rows_of_{array.shape[1]}")
        name = self.node("Reshape", [name, wanted])
        self.write(array, name)
        return name

    def _conv(
        self, spec: ConvSpec | DepthwiseConvSpec, x: str, w: Array, b: Array | None,
        y: Array | None, group: int = 1,
    ) -> str:  # fmt: skip
        ph, pw = spec.padding
        inputs = [x, self.constant(w), *([] if b is None else [self.constant(b)])]
        how: dict[str, Any] = {"kernel_shape": spec.kernel, "strides": spec.stride}
        how["group"] = group
        how["pads"] = [ph, pw, ph, pw]
        name = self.node("Conv", inputs, **how)
        return self._end(name, spec.relu, y)

    def _end(self, name: str, relu: bool, y: Array | None) -> str:
        if relu:
            name = self.node("Relu", [name])
        if y is not None:
            self.write(y, name)
        return name

    def _pool(self, spec: PoolSpec, x: str, y: Array | None) -> str:
        ph, pw = spec.padding
        how: dict[str, Any] = {
            "kernel_shape": spec.kernel,
            "strides": spec.stride,
            "pads": [ph, pw, ph, pw],
            "ceil_mode": int(spec.ceil_mode),
        }
        if spec.kind == "avg":
            how["count_include_pad"] = int(spec.count_include_pad)
        name = self.node("MaxPool" if spec.kind == "max" else "AveragePool", [x], **how)
        return self._end(name, False, y)

    def conv_fprop(self, plan: Any, x: Array, w: Array, b: Any, y: Array) -> None:
        self._conv(plan.spec, self.read(x), w, b, y)

    def depthwise_conv_fprop(self, plan: Any, x: Array, w: Array, b: Any, y: Array) -> None:
        self._conv(plan.spec, self.read(x), w, b, y, group=plan.spec.C)

    def reduce_conv_fprop(
        self, plan: Any, x: Array, wr: Array, br: Any, w: Array, b: Any, y: Array, r: Any
    ) -> None:
        first, last = plan.spec.stages
        self._conv(last, self._conv(first, self.read(x), wr, br, r), w, b, y)

    def inception_fprop(self, plan: Any, x: Array, weights: Any, y: Array, saved: Any) -> None:
        source, at = self.read(x), 0
        for branch, channels in zip(plan.spec.branches, plan.spec.slices, strict=True):
            name = source
            for stage in branch.stages:
                if isinstance(stage, PoolSpec):
                    name = self._pool(stage, name, None)
                else:
                    name = self._conv(stage, name, weights[at], weights[at + 1], None)
                    at += 2
            self.write(y[..., channels], name)

    def max_pool_fprop(self, plan: Any, x: Array, y: Array, argmax: Any) -> None:
        self._pool(plan.spec, self.read(x), y)

    def avg_pool_fprop(self, plan: Any, x: Array, y: Array) -> None:
        self._pool(plan.spec, self.read(x), y)

    def lrn_fprop(self, plan: Any, x: Array, y: Array) -> None:
        s = plan.spec
        how = {"size": s.size, "alpha": s.alpha, "beta": s.beta, "bias": s.k}
        self.write(y, self.node("LRN", [self.read(x)], **how))

    def linear_fprop(self, plan: Any, x: Array, w: Array, b: Any, y: Array) -> None:
        inputs = [self.read(x), self.constant(w), *([] if b is None else [self.constant(b)])]
        self._end(self.node("Gemm", inputs, transB=1), plan.spec.relu, y)

    def batch_norm_inference(self, plan: Any, x: Array, *arrays: Array) -> None:
        gamma, beta, mean, var, y = arrays
        vectors = [self.constant(a) for a in (gamma, beta, mean, var)]
        inputs = [self.read(x), *vectors]
        name = self.node("BatchNormalization", inputs, epsilon=plan.spec.eps)
        self._end(name, plan.spec.relu, y)

    def host_copy(self, call: Any, x: Array, y: Array) -> None:
        self.write(y, self.node("Identity", [self.read(x)]))

    def add_scaled_fprop(self, plan: Any, a: Array, b: Any, y: Array) -> None:
        name = self.read(a)
        if b is not None:
            other, scale = self.read(b), plan.spec.scale
            if scale != 1:
                factor = self.constant(np.array(scale, np.float32), f"scale_{scale}")
                other = self.node("Mul", [other, factor])
            name = self.node("Add", [name, other])
        self._end(name, plan.spec.relu, y)
