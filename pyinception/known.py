"""Calls that look like one made before go straight to the kernel that it found.

What a call checks of an array (`Border`, `dispatch.check`, the specs) is a function of its kind,
shape, strides, dtype and alignment. So a call that passed every check and copied nothing is noted
under the looks of its arrays, its options and the switches; the next one that looks the same takes
its plan at once. What depends on more than looks takes the long way: ``out`` (overlap), arrays of
other libraries, a recording. The core still checks every operand of every call.
"""

from typing import Any

import numpy as np

from pyinception import config, workspace
from pyinception.backend import Array
from pyinception.dispatch import Plan, choose, known_plans, target_of
from pyinception.prepack import Packed

_MOST = 4096  # looks; a server that sees ever new shapes must not grow without end
_PLAIN = frozenset((int, str, bool, type(None)))


class _Stranger(Exception):
    """An operand that has to take the long way."""


def looks(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """What checks read of NumPy arrays, packed filters, None and tuples of them."""
    return tuple(
        [
            (array.shape, array.strides, array.dtype, array.flags.aligned)
            if type(array) is np.ndarray
            else array.key
            if type(array) is Packed
            else _other(array)
            for array in arrays
        ]
    )


def _other(array: Any) -> Any:
    if type(array) is tuple:
        return looks(array)
    if array is not None:
        raise _Stranger


def _is_plain(option: Any) -> bool:
    kind = type(option)
    return kind in _PLAIN or (kind is tuple and all(type(part) is int for part in option))


def find(function: str, seen: Any, options: tuple[Any, ...]) -> tuple[Any, Plan | None]:
    """(key, plan): what a call is known by, and its plan; each None where there is none.

    Parameters
    ----------
    seen : the looks of the operands.
    options : all else that the call was given: ints, strings, bools, None, tuples of ints.
    """
    kinds = tuple(map(type, options))  # 1, 1.0 and True are equal, and one of them is an int
    plain = _PLAIN.issuperset(kinds) or all(map(_is_plain, options))
    if not plain or workspace.recording() is not None:
        return None, None
    key = function, seen, options, kinds, config.values()
    return key, known_plans.get(key)


def call(
    function: str, arrays: tuple[Any, ...], options: tuple[Any, ...], more: bool
) -> tuple[Any, Array | None]:
    """(key, y): y of the forward op on ``arrays`` if a call like this is known, else None.

    ``more`` says that the call wants more than y as a new array: it takes the long way.
    """
    if more:
        return None, None
    try:
        key, plan = find(function, looks(arrays), options)
    except _Stranger:
        return None, None
    if plan is None:
        return key, None
    y = workspace.empty(plan.spec.y_shape, arrays[0])  # type: ignore[union-attr]
    if plan.op == "conv":
        plan.row.run(plan.spec, *arrays, y)
    else:
        plan.row.run(plan.spec, *arrays, y, None)  # nothing is saved
    return key, y


def learn(key: Any, op: str, direction: str, spec: Any, like: Array, **how: Any) -> None:
    """Note the plan of a call that passed its checks and copied nothing."""
    if key is not None:
        note(key, choose(op, direction, spec, target_of(like), **how))


def note(key: Any, plan: Plan) -> None:
    """Note ``plan`` under ``key``, if it is one of the core, which checks operands by itself."""
    if key is not None and plan.row.backend == "cpu":
        if len(known_plans) >= _MOST:
            known_plans.clear()
        known_plans[key] = plan
