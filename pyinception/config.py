"""The six switches. An argument wins over `using(...)`, which wins over the environment.

=========  ==========================  ==========  ================================================
switch     environment                 default     values
=========  ==========================  ==========  ================================================
backend    PYINCEPTION_BACKEND         auto        auto cpu cuda emulated reference
threads    PYINCEPTION_THREADS         0           0 = affinity, quota and OMP_NUM_THREADS decide
algorithm  PYINCEPTION_ALGORITHM       auto        auto direct winograd plain mma tf32
cpu_level  PYINCEPTION_CPU_LEVEL       (empty)     empty = the host's best; x86-64-v3 x86-64-v4 neon
jit        PYINCEPTION_JIT             0           1 = compile the CPU kernels live (extra ``jit``)
log        PYINCEPTION_LOG             warning     debug info warning error
=========  ==========================  ==========  ================================================
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Switch:
    """One switch: its default and the values it takes."""

    name: str
    default: Any
    choices: tuple[str, ...] = ()
    parse: Callable[[Any], Any] = str
    about: str = ""

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return f"PYINCEPTION_{self.name.upper()}"

    def read(self, value: Any, source: str) -> Any:
        """``value`` in the switch's own type; ValueError names the source."""
        try:
            parsed = self.parse(value)
        except (TypeError, ValueError):
            parsed = None
        if parsed is None or (self.choices and parsed not in self.choices):
            expected = "one of " + ", ".join(repr(c) for c in self.choices)
            expected = expected if self.choices else f"like {self.default!r}"
            raise ValueError(f"{source}: {self.name} is {value!r}, expected {expected}")
        return parsed


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    number = None if isinstance(value, (bool, float)) else int(value)
    return number if number is not None and 0 <= number <= 4096 else None


def _flag(value: Any) -> bool | None:
    return {"1": True, "0": False, "": False, True: True, False: False}.get(value)


# "mma" and "tf32" are rungs of the CUDA kernels; float32 is rounded to tf32 only where it is named.
ALGORITHMS = ("auto", "direct", "winograd", "plain", "mma", "tf32")

BACKENDS = ("auto", "cpu", "cuda", "emulated", "reference")
LOG_LEVELS = ("debug", "info", "warning", "error")
LEVELS = ("", "x86-64-v3", "x86-64-v4", "neon")

SWITCHES: Mapping[str, Switch] = MappingProxyType(
    {
        switch.name: switch
        for switch in (
            Switch("backend", "auto", BACKENDS, _text, "which rows of the table may run"),
            Switch("threads", 0, (), _count, "0: affinity, quota and OMP_NUM_THREADS decide"),
            Switch("algorithm", "auto", ALGORITHMS, _text, "taken where such a row can run"),
            Switch("cpu_level", "", LEVELS, _text, "of the CPU kernels; empty: the host's best"),
            Switch("jit", False, (), _flag, "1: compile the CPU kernels live (extra `jit`)"),
            Switch("log", "warning", LOG_LEVELS, _text, "the least that is reported"),
        )
    }
)

# A call reads five switches, mostly unset. os.environ raises and catches a KeyError inside for
# each, 0.7 us; the dictionary below it answers in 0.05.
_ENVIRONMENT: Mapping[bytes, bytes] = getattr(os.environb, "_data", os.environb)
_VARIABLES = {os.fsencode(switch.environment): name for name, switch in SWITCHES.items()}


class Values(NamedTuple):
    """The six switches as they stand, in their own types."""

    backend: str
    threads: int
    algorithm: str
    cpu_level: str
    jit: bool
    log: str


class _Overrides(dict[str, Any]):
    """What `using` has set here, and the values of all switches where the environment is silent."""

    def __init__(self, chosen: Mapping[str, Any]) -> None:
        super().__init__(chosen)
        self.values_if_silent = Values(
            *(chosen.get(name, switch.default) for name, switch in SWITCHES.items())
        )
        self.with_threads: dict[int, _Overrides] = {}  # these, but for the number of threads


_NONE = _Overrides({})
_OVERRIDES: ContextVar[_Overrides] = ContextVar("pyinception_switches", default=_NONE)


def get(name: str, argument: Any = None) -> Any:
    """The value of a switch here and now: argument, else `using`, else environment, else default.

    Raises
    ------
    ValueError
        For a value that the switch does not take, naming where it came from.
    """
    if argument is not None:
        return SWITCHES[name].read(argument, "argument")
    overrides = _OVERRIDES.get()
    if name in overrides:
        return overrides[name]
    switch = SWITCHES[name]
    text = os.environ.get(switch.environment)
    return switch.default if text is None else switch.read(text, switch.environment)


def values() -> Values:
    """All switches at once, as `get` finds them, at the price of a look at the environment."""
    if _ENVIRONMENT.keys().isdisjoint(_VARIABLES):
        return _OVERRIDES.get().values_if_silent
    return Values(*map(get, SWITCHES))


def origin(name: str) -> str:
    """Where `get` finds a switch: "using", the environment variable's name, or "default"."""
    if name in _OVERRIDES.get():
        return "using"
    variable = SWITCHES[name].environment
    return variable if variable in os.environ else "default"


@contextmanager
def using(
    *,
    backend: str | None = None,
    threads: int | None = None,
    algorithm: str | None = None,
    cpu_level: str | None = None,
    jit: bool | None = None,
    log: str | None = None,
) -> Iterator[None]:
    """Set switches for the calls inside a ``with`` block (a context variable: per thread and task).

    Parameters that stay None keep their outer value. Values are listed at the head of this file.

    Examples
    --------
    >>> with using(backend="reference", threads=1):
    ...     get("backend")
    'reference'
    """
    given = {
        "backend": backend,
        "threads": threads,
        "algorithm": algorithm,
        "cpu_level": cpu_level,
        "jit": jit,
        "log": log,
    }
    chosen = {n: SWITCHES[n].read(v, "using") for n, v in given.items() if v is not None}
    token = _OVERRIDES.set(_Overrides({**_OVERRIDES.get(), **chosen}))
    try:
        yield
    finally:
        _OVERRIDES.reset(token)


def with_threads(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` with the switch ``threads`` at ``count``, without `using`'s cost."""
    overrides = _OVERRIDES.get()
    chosen = overrides.with_threads.get(count)
    if chosen is None:
        number = SWITCHES["threads"].read(count, "with_threads")
        chosen = overrides.with_threads[count] = _Overrides({**overrides, "threads": number})
    token = _OVERRIDES.set(chosen)
    try:
        return function(*arguments)
    finally:
        _OVERRIDES.reset(token)


def report(level: str, message: str) -> None:
    """Log ``message`` if the ``log`` switch lets ``level`` through."""
    import logging  # 3 ms that most processes never need

    logger = logging.getLogger("pyinception")
    number = getattr(logging, level.upper())
    if number >= getattr(logging, get("log").upper()):
        # The switch decides, not Python's default threshold, which would drop "info" and "debug".
        logger.log(max(number, logger.getEffectiveLevel()), message)
