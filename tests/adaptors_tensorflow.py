"""The ways in from TensorFlow, for `test_conformance.py`, and the programs of docs/interop.md."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from adaptors import NumPy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "interop.md"


def program(heading: str) -> str:
    """The programs under a heading of docs/interop.md, one after another."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


class TensorFlow(NumPy):
    """`pyi.*` on eager tensors of TensorFlow: immutable, always contiguous."""

    name, needs, has_out, has_views = "tensorflow", "tensorflow", False, False

    def wrap(self, array: np.ndarray) -> Any:
        import tensorflow as tf

        return tf.constant(array)

    def frozen(self, array: np.ndarray) -> Any:
        return self.give(array)


class RecipeTensorFlow(TensorFlow):
    """The recipe of docs/interop.md with `tf.custom_gradient`: filters HWIO."""

    name, backends, ops = "recipe.tensorflow", ("cpu",), ("reduce_conv2d",)

    def turn(self, array: np.ndarray) -> np.ndarray:
        is_filter = array.ndim == 4 and array.shape[1:3] in ((1, 1), (3, 3))
        return array.transpose(1, 2, 3, 0) if is_filter else array

    def back(self, value: Any) -> np.ndarray:
        array = self.unwrap(value)
        is_filter = array.ndim == 4 and array.shape[:2] in ((1, 1), (3, 3))
        return array.transpose(3, 0, 1, 2) if is_filter else array

    def compiled(self, function: Any) -> Any:
        return function

    @cached_property
    def recipe(self) -> Any:
        names: dict[str, Any] = {}
        exec(compile(program("TensorFlow"), str(PAGE), "exec"), names)
        return self.compiled(names["reduce_conv2d"])

    def forward(self, op: str, arrays: Any, where: str, out: Any = None) -> Any:
        return self.recipe(*arrays)

    def gradients(self, op: str, arrays: Any, gy: Any, where: str) -> list[Any]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(arrays)
            y = self.recipe(*arrays)
        return tape.gradient(y, arrays, output_gradients=gy)


class GraphTensorFlow(RecipeTensorFlow):
    """The same inside `tf.function`, traced once for every number of images."""

    name = "tf.function"

    @property
    def refusal(self) -> type[Exception]:  # type: ignore[override]
        """TensorFlow's own, which quotes ours."""
        import tensorflow as tf

        error: type[Exception] = tf.errors.InvalidArgumentError
        return error

    def compiled(self, function: Any) -> Any:
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True)


TENSORFLOW = TensorFlow(), RecipeTensorFlow(), GraphTensorFlow()
