"""A classifier of the Inception family from an ONNX file, as a network of our layers.

Maps are NHWC inside, so filters turn to KRSC and flattening goes back to C, H, W order. A softmax
at the end is left out: the network gives logits, as all of ours.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import ops, workspace
from pyinception.backend import Array
from pyinception.convert.files import ConvertError, krsc, load_onnx, require_onnx
from pyinception.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    DepthwiseConv2d,
    GlobalAvgPool,
    Linear,
    Lrn,
    MaxPool2d,
    Relu,
)
from pyinception.module import Module
from pyinception.op import Op
from pyinception.tensor import Tensor

Step = tuple[str, str, list[str]]  # what runs: a layer's name or a word; its result; its inputs


def read_onnx(path: str | os.PathLike[str], *, external_data: bool = False) -> OnnxNetwork:
    """The network of a file, in evaluation.

    Parameters
    ----------
    external_data : whether tensors in files beside this one may be read; they are refused unless
        asked for, as a file could name any path.

    Raises
    ------
    ConvertError
        The file is no ONNX, keeps tensors outside, or has nodes that we can't run: lists them all.
    ImportError
        onnx is not installed (extra ``onnx``).
    """
    onnx, model = require_onnx("read_onnx"), load_onnx(Path(path), external_data=external_data)
    try:
        return OnnxNetwork(onnx, model.graph)
    except ConvertError:
        raise
    # A checked file may still hold arrays that fit no shape, nodes without inputs, and so on.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        text = f"{type(error).__name__}: {error}"
        raise ConvertError(f"read_onnx: {path} is damaged or foreign: {text:.200}") from None


class OnnxNetwork(Module):
    """x (N, H, W, C) -> the graph's result; ``input_shape`` is (H, W, C) where the file says it."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        super().__init__()
        reader = _Reader(onnx, graph, self)
        self.input, self.output = reader.input, reader.output
        self.input_shape = reader.input_shape
        self.steps: list[Step] = reader.steps
        last: dict[str, int] = {}
        for i, (_, _, inputs) in enumerate(self.steps):
            last |= dict.fromkeys(inputs, i)
        self.last = last
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        values = {self.input: x}
        for i, (what, result, inputs) in enumerate(self.steps):
            given = [values[name] for name in inputs]
            values[result] = _WORDS[what](*given) if what in _WORDS else self._call(what, given)
            for name in inputs:  # maps that nobody reads again
                if self.last[name] == i and name != self.output:
                    values.pop(name, None)
        return values[self.output]

    def _call(self, what: str, given: list[Tensor]) -> Tensor:
        word, _, numbers = what.partition(" ")
        if word == "channel":
            return _Channel(int(numbers))(given[0])
        if word in ("times", "plus"):
            y: Tensor = given[0] * float(numbers) if word == "times" else given[0] + float(numbers)
            return y
        layer: Tensor = getattr(self, what)(given[0])
        return layer


class _Channel(Op):
    """y = x[..., c : c + 1], a view."""

    def __init__(self, channel: int) -> None:
        self.channel = channel

    def forward(self, x: Array) -> Array:
        self.x_shape = tuple(x.shape)
        return x[..., self.channel : self.channel + 1]

    def backward(self, gy: Array) -> Array:
        gx = workspace.empty(self.x_shape, gy)
        gx[...] = 0
        gx[..., self.channel : self.channel + 1] = gy
        return gx


class _Rows(Op):
    """y (N, C H W) = x (N, H, W, C) in the order of channels first."""

    shares_gradient = True

    def forward(self, x: Array) -> Array:
        self.x_shape = n, h, w, c = x.shape
        y = workspace.empty((n, c, h, w), x)
        workspace.host(_turn, x, y)
        return y.reshape(n, c * h * w)

    def backward(self, gy: Array) -> Array:
        n, h, w, c = self.x_shape
        return gy.reshape(n, c, h, w).transpose(0, 2, 3, 1)


def _flatten(x: Tensor) -> Tensor:
    if len(x.shape) == 2 or x.shape[1:3] == (1, 1):
        return ops.flatten(x)
    return _Rows()(x)


def _turn(x: Array, y: Array) -> None:
    y[...] = x.transpose(0, 3, 1, 2)


_WORDS: dict[str, Callable[..., Tensor]] = {
    "same": lambda x: x,
    "concat": lambda *parts: ops.concat(list(parts)),
    "add": lambda a, b: a + b,
    "mean": lambda x: GlobalAvgPool()(x),
    "relu": lambda x: Relu()(x),
    "flatten": _flatten,
}


class _Reader:
    """One pass over the nodes: steps for the network, its layers set on it, faults gathered."""

    def __init__(self, onnx: Any, graph: Any, net: Module) -> None:
        self.onnx, self.net = onnx, net
        self.arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.arrays]
        if len(inputs) != 1 or len(graph.output) < 1:
            names = [value.name for value in inputs]
            raise ConvertError(f"convert: the graph has inputs {names}, expected one image")
        self.input, self.output = inputs[0].name, graph.output[0].name
        extents = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
        self.input_shape = tuple(extents[i] for i in (2, 3, 1)) if len(extents) == 4 else None
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses[self.output] += 1
        self.makers = {name: node for node in graph.node for name in node.output}
        self.steps: list[Step] = []
        self.faults: list[str] = []
        self.fused: dict[str, str] = {}  # a ReLU's result -> the step that already has it
        for node in graph.node:
            self._node(node)
        if self.faults:
            raise ConvertError(f"convert: ONNX nodes that we can't run: {'; '.join(self.faults)}")

    def _node(self, node: Any) -> None:
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        method = getattr(self, f"_{node.op_type.lower()}", None)
        try:
            if method is None:
                raise _Fault(node.op_type)
            method(node, attributes)
        except _Fault as fault:
            label = node.name or (node.output[0] if node.output else "?")
            self.faults.append(f"{node.op_type} {label!r}: {fault}" if method else f"{fault}")

    def _step(self, node: Any, what: str, inputs: Sequence[str] | None = None) -> None:
        names = [node.input[0]] if inputs is None else list(inputs)
        self.steps.append((what, node.output[0], names))

    def _layer(self, node: Any, layer: Module) -> None:
        """Set a layer under a name made of the node's, and run it there."""
        text = re.sub(r"\W+", "_", node.name or node.output[0]).strip("_")
        name = f"n{len(self.steps)}_{text}"
        setattr(self.net, name, layer)
        self._step(node, name)

    def _constant_of(self, name: str, what: str) -> Array:
        if name not in self.arrays:
            raise _Fault(f"{what} is not a constant")
        return self.arrays[name]

    def _followed_by_relu(self, node: Any) -> bool:
        """Whether all that reads the result is one ReLU, which the layer then does itself."""
        result = node.output[0]
        readers = [n for n in self.makers.values() if result in n.input]
        if self.uses[result] != 1 or not readers or readers[0].op_type != "Relu":
            return False
        self.fused[readers[0].output[0]] = result
        return True

    # ---- nodes, each with the attributes as ONNX defines them -----------------------------------
    def _constant(self, node: Any, how: dict[str, Any]) -> None:
        if "value" not in how:
            raise _Fault(f"attributes {sorted(how)}, expected value")
        self.arrays[node.output[0]] = self.onnx.numpy_helper.to_array(how["value"])

    def _conv(self, node: Any, how: dict[str, Any]) -> None:
        w = self._constant_of(node.input[1], "the filter")
        b = self._constant_of(node.input[2], "the bias") if len(node.input) > 2 else None
        groups = how.get("group", 1)
        depthwise = groups > 1 and w.ndim == 4 and w.shape[1] == 1 and len(w) % groups == 0
        if w.ndim != 4 or set(how.get("dilations", [1])) != {1} or (groups != 1 and not depthwise):
            raise _Fault("dilated, not over images, or in groups of several channels")
        padding = _symmetric(_padding(how, w.shape[2:]))
        stride = tuple(how.get("strides", (1, 1)))
        k, c, r, s = w.shape
        relu = self._followed_by_relu(node)
        kind, more = (DepthwiseConv2d, groups) if depthwise else (Conv2d, c)
        bias = b is not None and 0.0
        layer = kind(more, k, (r, s), stride, padding, relu=relu, bias=bias)
        layer.weight.data[...] = krsc(w)
        if b is not None and layer.bias is not None:
            layer.bias.data[...] = b
        self._layer(node, layer)

    def _batchnormalization(self, node: Any, how: dict[str, Any]) -> None:
        vectors = [self._constant_of(name, "a vector") for name in node.input[1:5]]
        eps, relu = how.get("epsilon", 1e-5), self._followed_by_relu(node)
        layer = BatchNorm(len(vectors[0]), relu=relu, eps=eps)
        parts: tuple[Any, ...] = (layer.gamma, layer.beta, layer.mean, layer.var)
        for part, vector in zip(parts, vectors, strict=True):
            part.data[...] = vector
        self._layer(node, layer)

    def _gemm(self, node: Any, how: dict[str, Any]) -> None:
        w = self._constant_of(node.input[1], "the matrix")
        w = w if how.get("transB", 0) else w.T
        if (how.get("alpha", 1.0), how.get("transA", 0)) != (1.0, 0):
            raise _Fault("alpha or transA")
        b = np.zeros(len(w), np.float32)
        if len(node.input) > 2:
            b = b + how.get("beta", 1.0) * self._constant_of(node.input[2], "the bias")
        relu = self._followed_by_relu(node)
        layer = Linear(w.shape[1], w.shape[0], relu=relu)
        layer.weight.data[...], layer.bias.data[...] = w, b
        self._layer(node, layer)

    def _relu(self, node: Any, how: dict[str, Any]) -> None:
        self._step(node, "same" if node.output[0] in self.fused else "relu")

    def _maxpool(self, node: Any, how: dict[str, Any]) -> None:
        self._pool(node, how, MaxPool2d)

    def _averagepool(self, node: Any, how: dict[str, Any]) -> None:
        self._pool(node, how, AvgPool2d)

    def _pool(self, node: Any, how: dict[str, Any], kind: Any) -> None:
        if set(how.get("dilations", [1])) != {1} or how.get("storage_order", 0):
            raise _Fault("dilations or storage_order")
        kernel, stride = tuple(how["kernel_shape"]), tuple(how.get("strides", (1, 1)))
        padding, ceil = _padding(how, kernel), bool(how.get("ceil_mode", 0))
        first, last = padding[:2], padding[2:]
        if first != last:
            # Before opset 10 ceil extents were written as padding at the end, which no maximum sees
            # and no mean counts.
            ends = [b - a for a, b in zip(first, last, strict=True)]
            counted = kind is AvgPool2d and how.get("count_include_pad", 0)
            if counted or ceil or any(e != s - 1 for e, s in zip(ends, stride, strict=True)):
                raise _Fault(f"pads {list(padding)}, which are no ceil extents")
            ceil = True
        include = bool(how.get("count_include_pad", 0))
        self._layer(node, kind(kernel, stride, first, ceil, include))

    def _globalaveragepool(self, node: Any, how: dict[str, Any]) -> None:
        self._step(node, "mean")

    def _reducemean(self, node: Any, how: dict[str, Any]) -> None:
        axes = how.get("axes") or [*self._constant_of((*node.input, "", "")[1], "axes")]
        if sorted(int(a) % 4 for a in axes) != [2, 3]:
            raise _Fault(f"axes {list(axes)}, expected rows and columns")
        self._step(node, "mean")
        if not how.get("keepdims", 1):
            what, result, inputs = self.steps.pop()
            self.steps.append((what, f"{result}/map", inputs))
            self.steps.append(("flatten", result, [f"{result}/map"]))

    def _lrn(self, node: Any, how: dict[str, Any]) -> None:
        alpha, beta = how.get("alpha", 1e-4), how.get("beta", 0.75)
        self._layer(node, Lrn(how["size"], alpha, beta, how.get("bias", 1.0)))

    def _concat(self, node: Any, how: dict[str, Any]) -> None:
        if how["axis"] not in (1, -3):
            raise _Fault(f"axis {how['axis']}, expected channels")
        self._step(node, "concat", node.input)

    def _flatten(self, node: Any, how: dict[str, Any]) -> None:
        if how.get("axis", 1) != 1:
            raise _Fault(f"axis {how['axis']}")
        self._step(node, "flatten")

    def _reshape(self, node: Any, how: dict[str, Any]) -> None:
        shape = self._constant_of(node.input[1], "the shape")
        if len(shape) != 2 or shape[0] > 0:
            raise _Fault(f"shape {shape.tolist()}, expected (0 or -1, features)")
        self._step(node, "flatten")

    def _transpose(self, node: Any, how: dict[str, Any]) -> None:
        raise _Fault(f"perm {list(how.get('perm', []))}")

    def _squeeze(self, node: Any, how: dict[str, Any]) -> None:
        axes = how.get("axes")
        if axes is None and len(node.input) > 1:
            axes = self._constant_of(node.input[1], "axes").tolist()
        if sorted(int(a) % 4 for a in axes or ()) != [2, 3]:
            raise _Fault(f"axes {axes}, expected rows and columns")
        self._step(node, "flatten")

    def _dropout(self, node: Any, how: dict[str, Any]) -> None:
        self._step(node, "same")

    def _identity(self, node: Any, how: dict[str, Any]) -> None:
        if node.input[0] in self.arrays:
            self.arrays[node.output[0]] = self.arrays[node.input[0]]
        else:
            self._step(node, "same")

    def _softmax(self, node: Any, how: dict[str, Any]) -> None:
        if self.uses[node.output[0]] != 1 or node.output[0] != self.output:
            raise _Fault("not at the end")
        self._step(node, "same")

    # An input transform by channel: gather one, scale it, shift it, put it back.
    def _gather(self, node: Any, how: dict[str, Any]) -> None:
        index = self._constant_of(node.input[1], "the index")
        if (
            how.get("axis", 0) != 1
            or index.size != 1
            or index.min() < 0
            or (node.input[0] != self.input)
        ):
            raise _Fault("anything but one channel of the input")
        self._step(node, f"channel {int(index.item())}")

    def _unsqueeze(self, node: Any, how: dict[str, Any]) -> None:
        maker = self.makers.get(node.input[0])
        if maker is None or maker.op_type != "Gather":
            raise _Fault("anything but a gathered channel")
        self._step(node, "same")

    def _mul(self, node: Any, how: dict[str, Any]) -> None:
        self._scalar(node, "times")

    def _add(self, node: Any, how: dict[str, Any]) -> None:
        if any(name in self.arrays for name in node.input):
            self._scalar(node, "plus")
        else:
            self._step(node, "add", node.input)

    def _scalar(self, node: Any, word: str) -> None:
        constants = [name for name in node.input if name in self.arrays]
        if len(constants) != 1 or self.arrays[constants[0]].size != 1:
            raise _Fault("anything but one number")
        other = next(name for name in node.input if name != constants[0])
        self._step(node, f"{word} {float(self.arrays[constants[0]].item())!r}", [other])


class _Fault(Exception):
    """What a node has that we do not run."""


def _padding(how: dict[str, Any], kernel: Sequence[int]) -> tuple[int, ...]:
    """(top, left, bottom, right)."""
    auto = how.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b"VALID"):
        return tuple(how.get("pads", (0, 0, 0, 0))) if auto == b"NOTSET" else (0, 0, 0, 0)
    if set(how.get("strides", [1])) == {1} and all(k % 2 for k in kernel):
        half = tuple(k // 2 for k in kernel)
        return half + half
    raise _Fault(f"auto_pad {auto.decode()} with a stride or an even kernel")


def _symmetric(padding: tuple[int, ...]) -> tuple[int, int]:
    if padding[:2] != padding[2:]:
        raise _Fault(f"pads {list(padding)}, expected the same on both sides")
    return padding[0], padding[1]
