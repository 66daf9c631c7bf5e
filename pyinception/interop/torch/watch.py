"""Whether anything in PyTorch wants to see the ops of a call: what decides about short cuts.

Much of this PyTorch tells by private names only. Where a version lacks one, the answer is the
careful one: the call goes the long way through the dispatcher, which is right always and costs some
microseconds.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def _named(path: str) -> Callable[[], Any] | None:
    """The function of this dotted name in torch, None where this version has none."""
    value: Any = torch
    for name in path.split("."):
        value = getattr(value, name, None)
    return value if callable(value) else None


_NOTHING = torch.zeros(0)
_modes = _named("_C._len_torch_dispatch_stack")
_function_modes = _named("_C._len_torch_function_stack")
_transform = _named("_C._functorch.peek_interpreter_stack")
_traced = _named("_C._get_tracing_state")
_profiled = _named("autograd._profiler_enabled")


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents: forward-mode differentiation, `torch.func.jvp`."""
    level = getattr(forward_ad, "_current_level", None)
    if level is not None:
        return bool(level >= 0)
    try:  # the public way, which is slower
        forward_ad.make_dual(_NOTHING, _NOTHING)
    except RuntimeError:
        return False
    return True


def in_transform() -> bool:
    """Whether the call is inside a transform of `torch.func`."""
    return _transform is None or _transform() is not None


def watched() -> bool:
    """Whether anything wants to see ops: a trace, transform, mode or profiler."""
    if _modes is None or _function_modes is None or _traced is None or _profiled is None:
        return True
    seen = _modes() > 0 or _function_modes() > 0 or in_transform()
    return bool(seen or _traced() is not None or _profiled())


def below_autograd(op: Any, *arguments: Any, **options: Any) -> Any:
    """A registered op where nothing is recorded: one layer less."""
    with torch._C._AutoDispatchBelowAutograd():  # what torch.library itself stands on
        return op(*arguments, **options)
