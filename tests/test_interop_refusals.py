"""What every way in refuses, with the frameworks themselves: one clear sentence each."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from producer import CUDA, Produced

import pyinception as pyi
from pyinception import backend
from pyinception.backend import BackendError

if reason := backend.why_not("cpu"):
    pytest.skip(reason, allow_module_level=True)

X, W = np.ones((1, 5, 4, 3), np.float32), np.ones((2, 3, 3, 3), np.float32)


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed (extra `oracles`)")


def torch_like(array: np.ndarray, kind: str = "float32") -> Any:
    torch = library("torch")
    return torch.from_numpy(array).to(getattr(torch, kind))


def jax_like(array: np.ndarray, kind: str = "float32") -> Any:
    return library("jax").numpy.asarray(array, kind)


def numpy_like(array: np.ndarray, kind: str = "float32") -> Any:
    return array.astype(kind)


def call(x: Any, w: Any = W) -> Any:
    return pyi.conv2d(x, w, padding=1, layout="NHWC")


MAKERS = {"torch": torch_like, "jax": jax_like, "numpy": numpy_like}


@pytest.mark.parametrize(
    "name", ["numpy", *(pytest.param(n, marks=pytest.mark.oracles) for n in ("torch", "jax"))]
)
@pytest.mark.parametrize("kind", ["float16", "int32", "complex64"])
def test_dtypes(name: str, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^conv2d: x has dtype {kind}, expected float32"):
        call(MAKERS[name](X, kind), W.astype(kind))


@pytest.mark.oracles
def test_frameworks_do_not_mix() -> None:
    with pytest.raises(TypeError, match=r"w is an array of jax, expected torch as x is, or NumPy"):
        call(torch_like(X), jax_like(W))
    with pytest.raises(TypeError, match=r"w is an array of torch, expected jax as x is, or NumPy"):
        call(jax_like(X), torch_like(W))
    from pyinception.interop import jax as in_jax
    from pyinception.interop import torch as in_torch

    with pytest.raises(TypeError, match=r"^conv2d: w is a ArrayImpl, expected a torch\.Tensor"):
        in_torch.conv2d(torch_like(X), jax_like(W))
    with pytest.raises(TypeError, match=r"^conv2d: w is a Tensor, expected a jax\.Array"):
        in_jax.conv2d(jax_like(X), torch_like(W))


@pytest.mark.oracles
def test_gradients_that_would_be_lost() -> None:
    """`pyi` has no tape of theirs: a tensor on one is refused, with its library's own word."""
    x = torch_like(X).requires_grad_()
    with pytest.raises(TypeError, match=r"^conv2d: x is a Tensor that does not export its memory"):
        call(x)
    np.testing.assert_array_equal(call(x.detach()).numpy(), call(X))
    jax = library("jax")
    with pytest.raises(TypeError, match=r"x is a .*call pyinception\.interop\.jax"):
        jax.grad(lambda x: call(x).sum())(jax_like(X))


@pytest.mark.oracles
def test_a_capsule_is_no_array_and_a_used_one_no_capsule() -> None:
    x = torch_like(X)
    with pytest.raises(TypeError, match=r"^conv2d: x is a PyCapsule, expected an array"):
        call(x.__dlpack__())
    capsule = x.__dlpack__(max_version=(1, 0))

    class Once:
        """An array whose one capsule was taken by somebody else."""

        shape = X.shape

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **options: Any) -> Any:
            return capsule

    np.testing.assert_array_equal(call(Once()), call(X))
    with pytest.raises(TypeError, match=r"^conv2d: x.* gave a capsule that is used up, expected"):
        call(Once())


def test_cuda_arrays_without_cupy_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("cupy") is not None:
        pytest.skip("CuPy is installed")
    monkeypatch.setattr(backend, "_cuda_reason", lambda: None)
    with pytest.raises(TypeError, match=r"pip install 'pyinception\[cuda13\]' or \[cuda12\]"):
        call(Produced(X, device=CUDA))


@pytest.mark.oracles
def test_devices_that_nothing_serves() -> None:
    torch = library("torch")
    with pytest.raises(TypeError, match=r"^conv2d: x is .*meta"):
        call(torch.empty(X.shape, device="meta"))
    from pyinception.interop import torch as in_torch

    with pytest.raises(TypeError, match="expected a dense tensor on the cpu or a CUDA device"):
        in_torch.conv2d(torch.empty(1, 3, 5, 4, device="meta"), torch.empty(2, 3, 3, 3))


def test_a_backend_of_other_memory_is_refused() -> None:
    with pytest.raises(BackendError, match='conv2d: backend "cuda" takes CUDA arrays, these are'):
        pyi.conv2d(X, W, backend="cuda")
