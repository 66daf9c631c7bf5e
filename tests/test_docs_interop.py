"""The programs of docs/interop.md run as they stand."""

from importlib.util import find_spec

import pytest
from adaptors_tensorflow import PAGE, program

from pyinception import backend

NEEDS = {
    "Arrays": None,
    "PyTorch": "torch",
    "JAX": "jax",
    "TensorFlow": "tensorflow",
    "CuPy": "cupy",
}
MARKS = {name: [pytest.mark.oracles] for name in ("PyTorch", "JAX", "TensorFlow")}


def run(heading: str) -> None:
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
    exec(compile(program(heading), str(PAGE), "exec"), {})


@pytest.mark.parametrize(
    "heading", [pytest.param(name, marks=MARKS.get(name, [])) for name in NEEDS if name != "CuPy"]
)
def test_programs_run(heading: str) -> None:
    assert "pyi" in program(heading)
    run(heading)
