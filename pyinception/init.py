"""Initial weights, a function of (seed, parameter name): the same bits on every machine."""

from math import sqrt

from pyinception import rng
from pyinception.backend import Array, beside
from pyinception.module import Module


def xavier(shape: tuple[int, ...], fan_in: int, *, seed: int, name: str) -> Array:
    """w ~ U(-s, s), s = sqrt(3 / fan_in), float32: Caffe's "xavier" filler (filler.hpp)."""
    bound = sqrt(3 / fan_in)
    return rng.uniform(shape, -bound, bound, seed=seed, purpose=f"init {name}")


def initialise(net: Module, seed: int = 0) -> Module:
    """Fill every parameter by its own rule and return ``net``.

    Weights (``fan_in`` > 0) are `xavier` by their dotted name; the others take their constant:
    0.2 for the biases of GoogLeNet's convolutions, 0 for its classifiers.
    """
    for name, parameter in net.named_parameters():
        shape, fan_in = parameter.shape, parameter.fan_in
        if fan_in:
            values = xavier(shape, fan_in, seed=seed, name=name)
            parameter.values[...] = beside(values, parameter.values)
        else:
            parameter.values[...] = parameter.constant
        parameter.changed()
    return net
