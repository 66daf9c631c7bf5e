"""One convolution in cuDNN: conv + bias + ReLU as a graph, its plans timed, the fastest kept.

Through ``nvidia-cudnn-frontend`` (1.23 or later): its support surface holds exactly one convolution
per graph, so seven kernels is the least an unfused Inception module takes. Plans come from the
heuristics modes A, B and FALLBACK and are timed by graph replay. Workspace is reported, since some
engines serve a wide pixel stride by packing into workspace first.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gpu_timing as timing
from gpu_device import Cuda, CudaError, load_library

WORKSPACE_LIMIT = 512 << 20


@dataclass
class Layer:
    """A convolution's cuDNN graph, its tensors, and the plan that won."""

    graph: Any
    x: Any
    w: Any
    b: Any
    y: Any
    index: int = -1
    workspace_bytes: int = 0
    report: dict[str, Any] = field(default_factory=dict)


class Cudnn:
    """cuDNN graphs on one stream. Raises `CudaError` with the reason where cuDNN cannot be used."""

    def __init__(self, cuda: Cuda, *, plans: int = 12, tune_seconds: float = 6.0):
        try:
            import cudnn
        except (ImportError, OSError, RuntimeError) as error:
            raise CudaError(f"nvidia-cudnn-frontend cannot be imported: {error}") from error
        self.cuda, self.cudnn = cuda, cudnn
        self.plans, self.tune_seconds = plans, tune_seconds
        try:
            self.backend_version = int(cudnn.backend_version())
            self.handle = cudnn.create_handle()
            cudnn.set_stream(handle=self.handle, stream=cuda.stream)
        except Exception as error:
            raise CudaError(f"cuDNN's library is missing or refused a handle: {error}") from error
        self.layers: dict[tuple[Any, ...], Layer] = {}
        self._workspace, self._workspace_bytes = 0, 0
        self._pool_library: Any = None

    def versions(self) -> dict[str, Any]:
        frontend = getattr(self.cudnn, "__version__", None)
        return {"cudnn_backend": self.backend_version, "cudnn_frontend": frontend}

    # -- one convolution

    def build(
        self, N: int, H: int, C: int, K: int, R: int, ldx: int, ldy: int, precision: str
    ) -> Layer:
        """Graph of relu(conv(x) + b) with every candidate plan listed, none compiled yet."""
        kind = self.cudnn.data_type
        io = kind.BFLOAT16 if precision == "bf16" else kind.FLOAT
        graph = self.cudnn.pygraph(
            io_data_type=io,
            intermediate_data_type=kind.FLOAT,
            compute_data_type=kind.FLOAT,
            handle=self.handle,
        )

        def nhwc(channels: int, pixel: int) -> dict[str, list[int]]:
            return {"dim": [N, channels, H, H], "stride": [H * H * pixel, 1, H * pixel, pixel]}

        x = graph.tensor(name="x", data_type=io, **nhwc(C, ldx))
        filters = [R * R * C, 1, R * C, C]
        w = graph.tensor(name="w", dim=[K, C, R, R], stride=filters, data_type=io)
        # A bias of the tensors' own type: precompiled engines of 9.28 refuse an fp32 bias in bf16.
        b = graph.tensor(name="b", dim=[1, K, 1, 1], stride=[K, 1, K, K], data_type=io)
        raw = graph.conv_fprop(
            image=x, weight=w, padding=[R // 2] * 2, stride=[1, 1], dilation=[1, 1], name="conv"
        )
        y = graph.relu(input=graph.bias(input=raw, bias=b, name="bias"), name="relu")
        shape = nhwc(K, ldy)
        y.set_output(True).set_data_type(io).set_dim(shape["dim"]).set_stride(shape["stride"])
        self._list_plans(graph, precision)
        return Layer(graph, x, w, b, y)

    def build_matmul(self, M: int, C: int, K: int, ldx: int, ldy: int, precision: str) -> Layer:
        """A 1x1 as the matrix product that it is: (M, C) x (C, K), rows `ldx` and `ldy` apart."""
        kind = self.cudnn.data_type
        io = kind.BFLOAT16 if precision == "bf16" else kind.FLOAT
        graph = self.cudnn.pygraph(
            io_data_type=io,
            intermediate_data_type=kind.FLOAT,
            compute_data_type=kind.FLOAT,
            handle=self.handle,
        )
        x = graph.tensor(name="x", dim=[1, M, C], stride=[M * ldx, ldx, 1], data_type=io)
        w = graph.tensor(name="w", dim=[1, C, K], stride=[K * C, 1, C], data_type=io)
        b = graph.tensor(name="b", dim=[1, 1, K], stride=[K, K, 1], data_type=io)
        raw = graph.matmul(A=x, B=w, name="matmul")
        y = graph.relu(input=graph.bias(input=raw, bias=b, name="bias"), name="relu")
        y.set_output(True).set_data_type(io).set_dim([1, M, K]).set_stride([M * ldy, ldy, 1])
        self._list_plans(graph, precision)
        return Layer(graph, x, w, b, y)

    def _list_plans(self, graph: Any, precision: str) -> None:
        modes, notes = self.cudnn.heur_mode, self.cudnn.numerical_note
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([modes.A, modes.B, modes.FALLBACK])
        if precision == "fp32":
            graph.deselect_numeric_notes([notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS])

    def tuned(self, key: tuple[Any, ...], x: int, w: int, b: int, y: int) -> Layer:
        """The fastest layer for `key`, the arguments of `build`; a 1x1 also tries the product."""
        if key in self.layers:
            return self.layers[key]
        N, H, C, K, R, ldx, ldy, precision = key
        makers = {"conv": lambda: self.build(*key)}
        if R == 1:
            makers["matmul"] = lambda: self.build_matmul(N * H * H, C, K, ldx, ldy, precision)
        layers, refused = {}, {}
        for name, make in makers.items():
            try:
                layer = make()
                self.tune(layer, x, w, b, y)
            except Exception as error:  # cuDNN's own refusals derive from Exception alone
                refused[name] = str(error)[:300]
                continue
            layers[name] = layer
        if not layers:
            raise CudaError(f"cuDNN runs none of {list(makers)}: {refused}")
        best = min(layers, key=lambda name: layers[name].report["us"])
        others = {name: layer.report["us"] for name, layer in layers.items() if name != best}
        layers[best].report |= {"graph": best, "others_us": others, "refused": refused}
        self.layers[key] = layers[best]
        return layers[best]

    def execute(self, layer: Layer, x: int, w: int, b: int, y: int) -> None:
        """Enqueue the layer's chosen plan; arguments are device addresses."""
        pack = {layer.x: x, layer.w: w, layer.b: b, layer.y: y}
        layer.graph.execute_plan_at_index(pack, self._workspace, layer.index, handle=self.handle)

    def tune(self, layer: Layer, x: int, w: int, b: int, y: int) -> dict[str, Any]:
        """Time the candidate plans by graph replay, choose the fastest, report what was tried."""
        count = layer.graph.get_execution_plan_count()
        # The last rows are the fallback engines, which take any stride without a packing copy.
        order = list(range(count))
        if count > self.plans:
            order = order[: self.plans - 2] + order[-2:]
        start = time.perf_counter()
        tried: list[dict[str, Any]] = []
        declined: list[str] = []
        seen: set[str] = set()
        for index in order:
            if tried and time.perf_counter() - start > self.tune_seconds:
                break
            try:
                name = layer.graph.get_plan_name_at_index(index)
                if name in seen:
                    continue
                seen.add(name)
                layer.graph.build_plan_at_index(index)
                need = int(layer.graph.get_workspace_size_plan_at_index(index))
                if need > WORKSPACE_LIMIT:
                    raise CudaError(f"workspace of {need} bytes is over the limit")
                self._reserve(need)
                layer.index = index
                us = self.time_us(lambda: self.execute(layer, x, w, b, y))
            except Exception as error:  # cuDNN's own refusals derive from Exception alone
                declined.append(f"{index}: {str(error)[:120]}")
                continue
            tried.append({"index": index, "plan": name, "workspace_bytes": need, "us": us})
        if not tried:
            raise CudaError(f"none of {count} plans ran; first reasons: {declined[:3]}")
        best = min(tried, key=lambda row: row["us"])
        layer.index, layer.workspace_bytes = best["index"], best["workspace_bytes"]
        native = [row["us"] for row in tried if row["workspace_bytes"] < 1 << 20]
        layer.report = best | {
            "plans_listed": count,
            "plans_timed": len(tried),
            "plans_declined": len(declined),
            "first_plan_us": tried[0]["us"],
            "best_us_without_workspace": min(native, default=None),
        }
        return layer.report

    def time_us(self, work: Callable[[], None], calls: int = 10) -> float:
        """Median microseconds of one call, from replays of a graph of `calls` of them."""

        def repeat() -> None:
            for _ in range(calls):
                work()

        work()
        self.cuda.synchronize()
        graph = self.cuda.capture(repeat)
        graph.launch()
        samples = [self.cuda.elapsed(graph.launch) for _ in range(5)]
        graph.close()
        return float(timing.summarize(samples, calls=calls)["median_us"])

    def _reserve(self, nbytes: int) -> None:
        if nbytes > self._workspace_bytes:
            self.cuda.synchronize()
            if self._workspace:
                self.cuda.free(self._workspace)
            self._workspace, self._workspace_bytes = self.cuda.alloc(nbytes), nbytes

    # -- pool and copy

    def probe_pool(self, x: int, y: int, N: int, H: int, C: int, precision: str) -> None:
        per_vector = 16 // timing.ITEMSIZE[precision]
        name = "pool3x3_bf16" if precision == "bf16" else "pool3x3_fp32"
        total = N * H * H * C // per_vector
        sizes = [ctypes.c_int(v) for v in (N, H, H, C // per_vector)]
        pointers = ctypes.c_void_p(x), ctypes.c_void_p(y)
        self.cuda.launch(name, min(math.ceil(total / 256), 1 << 20), 256, *pointers, *sizes)

    def copy_slice(
        self, x: int, ldx: int, y: int, ldy: int, K: int, pixels: int, itemsize: int
    ) -> None:
        per_vector = 16 // itemsize
        total = pixels * K // per_vector
        args = (
            ctypes.c_void_p(x),
            ctypes.c_int(ldx // per_vector),
            ctypes.c_void_p(y),
            ctypes.c_int(ldy // per_vector),
            ctypes.c_int(K // per_vector),
            ctypes.c_longlong(pixels),
        )
        self.cuda.launch("copy_slice", min(math.ceil(total / 256), 1 << 20), 256, *args)

    def library_pool(self, N: int, H: int, C: int, precision: str) -> Callable[[int, int], None]:
        """cudnnPoolingForward for NHWC as ``run(x, y)``; `CudaError` where it refuses."""
        if self._pool_library is None:
            library = load_library("cudnn")
            handle = ctypes.c_void_p()
            self._legacy(library, "cudnnCreate", ctypes.byref(handle))
            self._legacy(library, "cudnnSetStream", handle, ctypes.c_void_p(self.cuda.stream))
            self._pool_library = (library, handle)
        library, handle = self._pool_library
        window, tensor = ctypes.c_void_p(), ctypes.c_void_p()
        self._legacy(library, "cudnnCreatePoolingDescriptor", ctypes.byref(window))
        max_mode, propagate_nan = 0, 1
        shape = (3, 3, 1, 1, 1, 1)  # window, padding, stride
        name = "cudnnSetPooling2dDescriptor"
        self._legacy(library, name, window, max_mode, propagate_nan, *shape)
        self._legacy(library, "cudnnCreateTensorDescriptor", ctypes.byref(tensor))
        data_type = 9 if precision == "bf16" else 0
        strides = (H * H * C, 1, H * C, C)
        name = "cudnnSetTensor4dDescriptorEx"
        self._legacy(library, name, tensor, data_type, N, C, H, H, *strides)
        one, zero = ctypes.c_float(1), ctypes.c_float(0)

        def run(x: int, y: int) -> None:
            scale, source = (ctypes.byref(one), tensor), ctypes.c_void_p(x)
            target = (ctypes.byref(zero), tensor, ctypes.c_void_p(y))
            name = "cudnnPoolingForward"
            self._legacy(library, name, handle, window, *scale, source, *target)

        return run

    @staticmethod
    def _legacy(library: Any, name: str, *args: Any) -> None:
        status = getattr(library, name)(*args)
        if status:
            raise CudaError(f"{name}: cuDNN status {status}")
