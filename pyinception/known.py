"""Calls that look like one made before skip the checks that it has passed.

What a call checks of an array (`Border`, `dispatch.check`, the specs, the table) is a function of
its kind, shape, strides, dtype, alignment and whether it may be written. So a call that passed
every check and copied nothing is noted under the looks of its arrays, its options and the switches;
the next one that looks the same takes its spec and its plans at once. What depends on more than
looks is checked always: where ``out`` lies, what an argmax holds. The core still checks every
operand of every call.
"""

from typing import Any

from pyinception import backend, config
from pyinception.dispatch import Known, known_calls

_MOST = 4096  # looks; a server that sees ever new shapes must not grow without end


def find(
    arguments: tuple[Any, ...], kinds: tuple[type, ...] = ()
) -> tuple[bytes | None, Known | None]:
    """(key, known): what a call is known by, and it if it is; each None where there is none.

    Parameters
    ----------
    arguments : all that the call was given, and its name: NumPy arrays, packed filters, ints,
        floats, strings, bools, None, tuples of them. With anything else it takes the long way.
    kinds : types of further arrays: those that lend their memory (``__dlpack_c_exchange_api__``).
    """
    core = backend.built_core()
    key = None if core is None else core.looks(arguments, kinds, config.values())
    return key, known_calls.get(key)


def note(key: bytes | None, known: Known) -> None:
    """Note a call that passed its checks and copied nothing."""
    if key is not None:
        if len(known_calls) >= _MOST:
            known_calls.clear()
        known_calls[key] = known
