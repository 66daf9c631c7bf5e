"""The programs of docs/interop.md run as they stand; TensorFlow's recipe gives our gradients."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adaptors import problem, slopes, truth

from pyinception import backend

PAGE = Path(__file__).resolve().parents[1] / "docs" / "interop.md"
NEEDS = {
    "Arrays": None,
    "PyTorch": "torch",
    "JAX": "jax",
    "TensorFlow": "tensorflow",
    "CuPy": "cupy",
}
MARKS = {name: [pytest.mark.oracles] for name in ("PyTorch", "JAX", "TensorFlow")}


def program(heading: str) -> str:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


def run(heading: str) -> dict[str, Any]:
    needed = NEEDS[heading]
    if needed and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    if reason := backend.why_not("cpu"):
        pytest.skip(reason)
    if needed == "jax":
        from pyinception.interop import jax as ours

        try:
            ours.build()
        except backend.BackendError as error:
            pytest.skip(str(error))
    names: dict[str, Any] = {}
    exec(compile(program(heading), str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize(
    "heading", [pytest.param(name, marks=MARKS.get(name, [])) for name in NEEDS if name != "CuPy"]
)
def test_programs_run(heading: str) -> None:
    assert "pyi" in program(heading)
    run(heading)


@pytest.mark.oracles
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "tf.function"])
def test_the_recipe_for_tensorflow(graph: bool) -> None:
    names = run("TensorFlow")
    import tensorflow as tf

    function = tf.function(names["reduce_conv2d"]) if graph else names["reduce_conv2d"]
    arrays = problem("reduce_conv2d")
    turned = [a.transpose(1, 2, 3, 0) if i in (1, 3) else a for i, a in enumerate(arrays)]
    given = [tf.constant(np.ascontiguousarray(a)) for a in turned]
    expected, _ = truth("reduce_conv2d", arrays)
    gy = np.random.default_rng(1).integers(-2, 3, expected.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        y = function(*given)
        total = tf.reduce_sum(y * gy)
    np.testing.assert_array_equal(y.numpy(), expected)
    grads = [g.numpy() for g in tape.gradient(total, given)]
    for i, (mine, right) in enumerate(zip(grads, slopes("reduce_conv2d", arrays, gy), strict=True)):
        hwio = right.transpose(1, 2, 3, 0) if i in (1, 3) else right
        np.testing.assert_array_equal(mine, hwio)
