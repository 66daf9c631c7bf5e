"""Every tile program of the CPU, by the name it has in the core's table."""

from collections.abc import Callable

from . import conv, conv_plain, wgrad
from .target import Target

PROGRAMS: dict[str, Callable] = {
    "conv": conv.conv,
    "reduce_conv": conv.reduce_conv,
    "conv_wgrad": wgrad.conv_wgrad,
    "pack": wgrad.pack,
    "conv_fprop_plain": conv_plain.conv_fprop_plain,
    "conv_dgrad_plain": conv_plain.conv_dgrad_plain,
    "conv_wgrad_plain": conv_plain.conv_wgrad_plain,
}


def compile_all(target: Target) -> dict[str, object]:
    """Compiled cfunc of every program for one CPU level."""
    return {name: make(target) for name, make in PROGRAMS.items()}
