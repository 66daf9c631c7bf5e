"""How ``backend="emulated"`` runs kernels: the schedule, the checker, the counters.

with emulator.using(order="greedy", seed=3):
    pyi.reduce_conv2d(..., backend="emulated")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from pyinception.emulator.device import BACK_EDGES, Counter, Device, Kernel


@dataclass(frozen=True, slots=True)
class Settings:
    """Arguments of `Device`, and ``checked``: whether every access goes through the checker."""

    order: str = "fair"
    seed: int = 0
    checked: bool = True
    workers: int = 1
    lazy_copies: bool = True
    back_edges: int = BACK_EDGES

    def device(self) -> Device:
        """A fresh device of these settings; it counts inside `counting`."""
        return Device(
            order=self.order, seed=self.seed, workers=self.workers,
            lazy_copies=self.lazy_copies, back_edges=self.back_edges,
            count=_rows.get() is not None,
        )  # fmt: skip


_rows: ContextVar[list[Counter] | None] = ContextVar("emulator_counters", default=None)
_DEFAULT = Settings()
_current: ContextVar[Settings] = ContextVar("emulator_settings", default=_DEFAULT)


def current() -> Settings:
    """The settings of this context."""
    return _current.get()


@contextmanager
def using(**changes: Any) -> Iterator[Settings]:
    """Change settings inside a ``with`` block; raises for what `Device` refuses."""
    settings = replace(_current.get(), **changes)
    settings.device()
    token = _current.set(settings)
    try:
        yield settings
    finally:
        _current.reset(token)


@contextmanager
def counting() -> Iterator[list[Counter]]:
    """Collect the counters of the checked kernels that run inside the ``with`` block, as rows."""
    rows: list[Counter] = []
    token = _rows.set(rows)
    try:
        yield rows
    finally:
        _rows.reset(token)


def collect(device: Device, kernel: Kernel) -> None:
    """Move what ``device`` counted for ``kernel`` to the rows of `counting`."""
    rows = _rows.get()
    if rows is not None:
        rows.extend(device.counters(kernel))
        device.clear_counters()
