"""What the tests of PyTorch's side share; importing it skips the module where there is no torch."""

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra `oracles`)")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two teams of threads that take turns on busy cores make small tests many times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image(*shape: int) -> Any:
    """Normal numbers of an NCHW shape, in channels_last memory."""
    return torch.randn(shape).to(memory_format=torch.channels_last)


def relative_error(mine: Any, right: Any) -> float:
    """max|mine - right| / max|right|, of tensors, in float64."""
    mine, right = (t.detach().double() for t in (mine, right))
    return float((mine - right).abs().max() / right.abs().max().clamp_min(1e-30))
