"""What the plans' own model says of a session's launches: a prediction, in a column of its own.

    us = sum of the launches' clocks (kernels/cuda/*_plan.h) / clock rate

Launches that no model covers are counted beside it; nothing here is measured.
"""

from __future__ import annotations

from typing import Any

from pyinception import backend, session
from pyinception.cuda import launches

MODEL_GHZ = 1.755  # an H100's boost clock, which the plans' model counts in


class _Clocks:
    """A list of launches that only adds up what the plans' model says of them."""

    def __init__(self) -> None:
        self.modelled, self.unknown = 0.0, 0

    def add(self, plan: str, record: bytes) -> None:
        for *_, clocks in backend.core().cuda_plan(plan, record)[0]:
            self.modelled += clocks
            self.unknown += clocks == 0


class _Counting:
    """The memory of a session, whose launches go into `_Clocks`."""

    def __init__(self, memory: launches.Memory) -> None:
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def launches(self) -> _Clocks:
        return _Clocks()


def predicted(made: session.Session) -> dict[str, float] | None:
    """What the plans' own model says of a session's launches; nothing in it is measured."""
    if made._launches is None:
        return None
    calls = [(plan, made._settle(arguments)) for plan, arguments in made._calls]
    found: Any = launches.note_all(calls, _Counting(made._on))[0]  # type: ignore[arg-type]
    return {
        "us": round(found.modelled / MODEL_GHZ / 1e3, 2),
        "at_ghz": MODEL_GHZ,
        "launches_not_modelled": found.unknown,
    }
