"""ONNX Runtime on the same problem: the graph as an ONNX model, all optimisations, float32."""

from typing import Any

import numpy as np

from pyinception.backend import Array
from pyinception.bench.rivals import Graph, Opponent, each, to_nhwc
from pyinception.bench.timing import once

OPSET = 17


class OnnxRuntime:
    """ONNX Runtime's CPU provider; NCHW outside, its own blocked layout inside."""

    def __init__(self, threads: int) -> None:
        import onnx
        import onnxruntime

        self.onnx, self.runtime, self.threads = onnx, onnxruntime, threads
        self.name, self.version = "onnxruntime", str(onnxruntime.__version__)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def prepare(self, graph: Graph, x: Array, weights: Any) -> Opponent:
        """``weights``: a list or a dict of arrays, filters KRSC or (K, C)."""
        shared: dict[str, Any] = {}

        def convert() -> Array:
            return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

        def build() -> None:
            given = convert()
            self.nodes, self.constants = [], []
            result = graph(self, "x", each(self.weight, weights))
            session = self._session(self._model(given.shape, result))
            binding = session.io_binding()
            binding.bind_cpu_input("x", given)
            binding.bind_output(result)
            shared.update(session=session, binding=binding, given=given)
            call()

        def call() -> None:
            shared["session"].run_with_iobinding(shared["binding"])

        def output() -> Array:
            return to_nhwc(shared["binding"].copy_outputs_to_cpu()[0])

        return Opponent(call, output, convert, once(build))

    def _model(self, shape: tuple[int, ...], result: str) -> bytes:
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        ends = [
            [helper.make_tensor_value_info("x", kind, list(shape))],
            [helper.make_tensor_value_info(result, kind, None)],
        ]
        made = helper.make_graph(self.nodes, "bench", *ends, self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(made, opset_imports=opset, ir_version=8)
        text: bytes = model.SerializeToString()
        return text

    def _session(self, model: bytes) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = self.runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        return self.runtime.InferenceSession(model, options, ["CPUExecutionProvider"])

    def weight(self, array: Array) -> str:
        """A constant: KRSC as KCRS, others as they are."""
        turned = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        name = f"c{len(self.constants)}"
        constant = self.onnx.numpy_helper.from_array(np.ascontiguousarray(turned), name)
        self.constants.append(constant)
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        node = self.onnx.helper.make_node(kind, list(inputs), [name], **attributes)
        self.nodes.append(node)
        return name

    def conv(self, x: str, w: str, b: str, stride: Any, padding: Any, relu: bool) -> str:
        y = self._node("Conv", x, w, b, strides=list(stride), pads=[*padding, *padding])
        return self._node("Relu", y) if relu else y

    def max_pool(self, x: str, kernel: Any, stride: Any, padding: Any, ceil: bool) -> str:
        window = _window(kernel, stride, padding)
        return self._node("MaxPool", x, **window, ceil_mode=int(ceil))

    def avg_pool(self, x: str, kernel: Any, stride: Any, padding: Any, include_pad: bool) -> str:
        window = _window(kernel, stride, padding)
        return self._node("AveragePool", x, **window, count_include_pad=int(include_pad))

    def mean(self, x: str) -> str:
        return self._node("GlobalAveragePool", x)

    def lrn(self, x: str, size: int, alpha: float, beta: float, k: float) -> str:
        return self._node("LRN", x, size=size, alpha=alpha, beta=beta, bias=k)

    def concat(self, parts: list[str]) -> str:
        return self._node("Concat", *parts, axis=1)

    def linear(self, x: str, w: str, b: str) -> str:
        return self._node("Gemm", self._node("Flatten", x), w, b, transB=1)


def _window(kernel: Any, stride: Any, padding: Any) -> dict[str, list[int]]:
    pads = [*padding, *padding]
    return {"kernel_shape": list(kernel), "strides": list(stride), "pads": pads}
