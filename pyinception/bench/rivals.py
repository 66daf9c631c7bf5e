"""Other libraries on the same problem: same dtype, threads, epilogue; each in its best layout.

A problem is written once as a graph over seven operations; a rival supplies them. PyTorch runs the
graph eagerly, in channels_last or NCHW, or compiled; OpenVINO compiles it with the latency or the
throughput hint; ONNX Runtime reads it as a model (`rival_onnx`); NumPy has im2col and BLAS
(`rival_numpy`). All are imported on demand.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyinception.backend import Array
from pyinception.bench.problems import TimedSpec, branches
from pyinception.bench.timing import Call, once
from pyinception.spec import PoolSpec

Graph = Callable[[Any, Any, Any], Any]  # (operations, x, weights) -> y
NAMES = ("torch", "torch.nchw", "torch.compile", "openvino", "openvino.throughput", "onnxruntime",
         "numpy")  # fmt: skip
FLOAT32_ONLY = ("onnxruntime", "numpy")
QUICK = ("torch", "openvino")  # to install and to compile: what a plain run meets


@dataclass(eq=False)
class Opponent:
    """One rival ready for one problem."""

    call: Call
    output: Callable[[], Array]  # the result, NHWC or (N, K), as NumPy has it
    convert: Call  # what a caller with NHWC arrays pays on each call to reach the timed layout
    first: float  # seconds from weights to the first result: conversion, compilation, first run
    passes: int = 1  # of the problem in one call: requests in flight side by side


def graph_of(spec: TimedSpec) -> Graph:
    """The graph of a timed op: chains of convolution + bias + ReLU and pools, side by side."""

    def graph(ops: Any, x: Any, weights: Any) -> Any:
        ends, rest = [], iter(weights.values() if isinstance(weights, dict) else weights)
        for chain in branches(spec):
            value = x
            for stage in chain:
                if isinstance(stage, PoolSpec):
                    window = stage.kernel, stage.stride, stage.padding
                    value = ops.max_pool(value, *window, stage.ceil_mode)
                else:
                    w, b = next(rest), next(rest)
                    value = ops.conv(value, w, b, stage.stride, stage.padding, stage.relu)
            ends.append(value)
        return ops.concat(ends) if len(ends) > 1 else ends[0]

    return graph


class Torch:
    """PyTorch on the CPU, inference mode: eager, channels_last or NCHW; or compiled, frozen."""

    def __init__(self, threads: int, way: str = "", dtype: str = "float32") -> None:
        """``way``: "" for channels_last, "nchw" or "compile"."""
        import torch

        self.dtype = getattr(torch, dtype)
        self.torch, self.compiled, self.nchw = torch, way == "compile", way == "nchw"
        self.name = f"torch.{way}" if way else "torch"
        self.version = str(torch.__version__)
        self.functional = torch.nn.functional
        if self.compiled:
            importlib.import_module("torch._inductor.config")
        torch.set_num_threads(threads)

    def prepare(self, graph: Graph, x: Array, weights: Any) -> Opponent:
        """``weights``: a list or a dict of arrays, filters KRSC or (K, C)."""
        torch = self.torch
        results: dict[str, Any] = {}

        def convert() -> Any:
            return self.weight(x)

        def build() -> None:
            ready = each(self.weight, weights)
            results["x"] = convert()
            if self.compiled:
                results["forward"] = self._compile(graph, ready)
                with torch._inductor.config.patch(freezing=True):
                    call()
            else:
                results["forward"] = lambda x: graph(self, x, ready)
                call()

        def call() -> None:
            with torch.inference_mode():
                results["y"] = results["forward"](results["x"])

        def output() -> Array:
            return to_nhwc(results["y"].float().numpy())

        return Opponent(call, output, convert, once(build))

    def _compile(self, graph: Graph, weights: Any) -> Any:
        """The graph as a module whose weights torch may fold into the layouts its kernels want."""
        torch, ops = self.torch, self

        class Net(torch.nn.Module):  # type: ignore[name-defined]
            def __init__(self) -> None:
                super().__init__()
                named = weights if isinstance(weights, dict) else dict(enumerate(weights))
                self.names = list(named)
                self.kept = torch.nn.ParameterList(named.values()).requires_grad_(False)

            def forward(self, x: Any) -> Any:
                return graph(ops, x, dict(zip(self.names, self.kept, strict=True)))

        torch._dynamo.reset()  # else a second shape is compiled for any shape, which cannot freeze
        return torch.compile(Net().eval(), dynamic=False)

    def weight(self, array: Array) -> Any:
        """KRSC or NHWC memory under the shape KCRS or NCHW: channels_last, no copy; or a copy."""
        tensor = self.torch.from_numpy(array).to(self.dtype)
        turned = tensor.permute(0, 3, 1, 2) if array.ndim == 4 else tensor
        return turned.contiguous() if self.nchw else turned

    def conv(self, x: Any, w: Any, b: Any, stride: Any, padding: Any, relu: bool) -> Any:
        y = self.functional.conv2d(x, w, b, stride, padding)
        return self.functional.relu_(y) if relu else y

    def max_pool(self, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool) -> Any:
        return self.functional.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil)

    def avg_pool(self, x: Any, kernel: Any, stride: Any, padding: Any, include_pad: bool) -> Any:
        pad = {"padding": padding, "count_include_pad": include_pad}
        return self.functional.avg_pool2d(x, kernel, stride, **pad)

    def mean(self, x: Any) -> Any:
        return x.mean((2, 3), keepdim=True)

    def lrn(self, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
        # PyTorch has none for bfloat16 on the CPU; in float32 these are no copies.
        return self.functional.local_response_norm(x.float(), size, alpha, beta, k).to(x.dtype)

    def concat(self, parts: list[Any]) -> Any:
        return self.torch.cat(parts, 1)

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        return self.functional.linear(x.flatten(1), w, b)


class OpenVino:
    """OpenVINO on the CPU; NCHW and float32 outside, its own blocked layout inside.

    With the latency hint all threads work on one request; with ``throughput`` a call starts as many
    requests as OpenVINO asks for and waits for all of them.
    """

    def __init__(self, threads: int, throughput: bool = False, dtype: str = "float32") -> None:
        import openvino
        from openvino import opset13

        self.openvino, self.opset = openvino, opset13
        self.name = "openvino.throughput" if throughput else "openvino"
        self.version = str(openvino.__version__).split("-")[0]
        self.core = openvino.Core()
        self.settings = {
            "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # By default it takes bf16 where the CPU has it.
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        }

    def prepare(self, graph: Graph, x: Array, weights: Any) -> Opponent:
        """``weights``: a list or a dict of arrays, filters KRSC or (K, C)."""
        shared: dict[str, Any] = {}

        def convert() -> Array:
            return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

        def build() -> None:
            given = convert()
            parameter = self.opset.parameter(list(given.shape), np.float32)
            result = graph(self, parameter, each(self.weight, weights))
            model = self.openvino.Model([result], [parameter], "bench")
            compiled = self.core.compile_model(model, "CPU", self.settings)
            most = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            count = int(most) if self.settings["PERFORMANCE_HINT"] == "THROUGHPUT" else 1
            requests = [compiled.create_infer_request() for _ in range(count)]
            for request in requests:
                request.set_input_tensor(self.openvino.Tensor(given, shared_memory=True))
            shared.update(requests=requests, given=given)
            call()

        def call() -> None:  # start and wait: `infer` would also copy the result out
            for request in shared["requests"]:
                request.start_async()
            for request in shared["requests"]:
                request.wait()

        def output() -> Array:
            return to_nhwc(shared["requests"][-1].get_output_tensor(0).data)

        first = once(build)
        return Opponent(call, output, convert, first, len(shared["requests"]))

    def weight(self, array: Array) -> Any:
        """A constant: KRSC as KCRS, others as they are."""
        turned = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        return self.opset.constant(np.ascontiguousarray(turned))

    def _biased(self, y: Any, b: Any, axes: tuple[int, ...]) -> Any:
        return self.opset.add(y, self.opset.constant(b.data.reshape(axes)))

    def conv(self, x: Any, w: Any, b: Any, stride: Any, padding: Any, relu: bool) -> Any:
        window = list(stride), list(padding), list(padding), [1, 1]
        y = self._biased(self.opset.convolution(x, w, *window), b, (1, -1, 1, 1))
        return self.opset.relu(y) if relu else y

    def max_pool(self, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool) -> Any:
        window = list(stride), [1, 1], list(padding), list(padding), list(kernel)
        rounding = "ceil" if ceil else "floor"
        return self.opset.max_pool(x, *window, rounding_type=rounding).output(0)

    def avg_pool(self, x: Any, kernel: Any, stride: Any, padding: Any, include_pad: bool) -> Any:
        pads = list(padding)
        return self.opset.avg_pool(x, list(stride), pads, pads, list(kernel), not include_pad)

    def mean(self, x: Any) -> Any:
        return self.opset.reduce_mean(x, np.array([2, 3], np.int64), True)

    def lrn(self, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
        axes = self.opset.constant(np.array([1], np.int64))
        return self.opset.lrn(x, axes, alpha, beta, k, size)

    def concat(self, parts: list[Any]) -> Any:
        return self.opset.concat(parts, 1)

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        flat = self.opset.reshape(x, np.array([0, -1], np.int64), True)
        return self._biased(self.opset.matmul(flat, w, False, True), b, (1, -1))


def each(convert: Callable[[Array], Any], weights: Any) -> Any:
    """``weights`` with every array converted, in the same kind of container."""
    if isinstance(weights, dict):
        return {name: convert(array) for name, array in weights.items()}
    return [convert(array) for array in weights]


def to_nhwc(array: Array) -> Array:
    """A result NCHW as NHWC; (N, K) as it is."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


@contextmanager
def opened(
    threads: int, wanted: bool | tuple[str, ...] = True, dtype: str = "float32"
) -> Iterator[tuple[list[Any], dict[str, str]]]:
    """The rivals that are installed, and why each other one is left out.

    Parameters
    ----------
    threads : of every rival; PyTorch's own setting is put back afterwards.
    wanted : True for those that compile quickly, False for none, or names of `NAMES`.
    dtype : "float32", or "bfloat16" for weights and maps of those that have it.

    Raises
    ------
    ValueError
        For a name that is no rival.
    """
    names = QUICK if wanted is True else wanted or ()
    for name in names:
        if name not in NAMES:
            raise ValueError(f"bench: rivals has {name!r}, expected some of {', '.join(NAMES)}")
    missing = {
        name: "not installed: pip install 'pyinception[rivals]'"
        for name in names
        if not all(importlib.util.find_spec(package) for package in _packages(name))
    }
    if dtype != "float32":
        for name in set(FLOAT32_ONLY) & set(names):
            missing[name] = f"has no {dtype} on the CPU"
    before = None
    if any(name.startswith("torch") and name not in missing for name in names):
        import torch

        before = torch.get_num_threads()
    try:
        found: list[Any] = []
        for name in names:
            if name not in missing:
                found.append(_open(name, threads, dtype))
        yield found, missing
    finally:
        if before is not None:
            torch.set_num_threads(before)


def _packages(name: str) -> tuple[str, ...]:
    several = {"onnxruntime": ("onnx", "onnxruntime"), "numpy": ("threadpoolctl",)}
    return several.get(name, (name.partition(".")[0],))


def _open(name: str, threads: int, dtype: str) -> Any:
    if name.startswith("torch"):
        return Torch(threads, name.partition(".")[2], dtype)
    if name == "numpy":
        from pyinception.bench.rival_numpy import NumPy

        return NumPy(threads)
    if name == "onnxruntime":
        from pyinception.bench.rival_onnx import OnnxRuntime

        return OnnxRuntime(threads)
    return OpenVino(threads, throughput=name == "openvino.throughput", dtype=dtype)
