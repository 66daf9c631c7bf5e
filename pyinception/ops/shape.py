"""Ops that move no numbers: concatenation into slices of one map, reshape, flatten."""

from math import prod

from pyinception import workspace
from pyinception.dispatch import Array, check
from pyinception.op import Op, Tensor


def _aliases(part: Array, view: Array) -> bool:
    """Whether ``part`` is the very memory of ``view``."""
    return part is view or (_layout(part) == _layout(view))


def _layout(array: Array) -> tuple[object, ...]:
    host = hasattr(array, "__array_interface__")
    interface = array.__array_interface__ if host else array.__cuda_array_interface__
    return interface["data"][0], tuple(array.shape), tuple(array.strides), array.dtype


class Concat(Op):
    """y = [part_1 | part_2 | ...] along channels.

    With ``out`` = y the parts are expected to be y's own slices, written there by the ops that made
    them: then nothing is copied. A part that is not is copied and counted. Backward hands out views
    of gy.
    """

    shares_gradient = True
    fills_out = True

    def __init__(self, out: Array | None = None) -> None:
        self.out = out

    def forward(self, *parts: Array) -> Array:
        for i, part in enumerate(parts):
            check("concat", f"parts[{i}]", part, "N H W C", like=parts[0] if i else None)
            wanted = (*parts[0].shape[:3], part.shape[3])
            check("concat", f"parts[{i}]", part, "N H W C", wanted, like=parts[0])
        shape = (*parts[0].shape[:3], sum(part.shape[3] for part in parts))
        y = workspace.empty(shape, parts[0]) if self.out is None else self.out
        check("concat", "out", y, "N H W C", shape, like=parts[0])
        self.slices = []
        start = 0
        for i, part in enumerate(parts):
            where = slice(start, start + part.shape[3])
            if not _aliases(part, y[..., where]):
                workspace.count_copy("concat", f"parts[{i}]", part.nbytes)
                workspace.host(copy, part, y[..., where])
            self.slices.append(where)
            start = where.stop
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        return tuple(gy[..., where] for where in self.slices)


def copy(source: Array, out: Array) -> None:
    """out = source."""
    out[...] = source


def concat(parts: list[Tensor], out: Array | None = None) -> Tensor:
    """y (N, H, W, sum of channels) = [part 0 | part 1 | ...], along channels in order.

    ``parts`` are tensors (N, H, W, C_i); where they are slices of ``out`` already, nothing is
    copied. ValueError for no parts, or shapes that do not stand side by side.
    """
    if not parts:
        raise ValueError("concat: parts is empty, expected at least one")
    return Concat(out)(*parts)


class Reshape(Op):
    """y = x with another shape of as many elements: a view where memory allows."""

    shares_gradient = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        if prod(x.shape) != prod(self.shape):
            text = f"x has shape {tuple(x.shape)}, which does not fill {self.shape}"
            raise ValueError(f"reshape: {text}")
        self.before = tuple(x.shape)
        if x.flags.c_contiguous:
            return x.reshape(self.shape)
        workspace.count_copy("reshape", "x", x.nbytes)
        y = workspace.empty(tuple(x.shape), x)
        workspace.host(copy, x, y)
        return y.reshape(self.shape)

    def backward(self, gy: Array) -> Array:
        return gy.reshape(self.before)


def flatten(x: Tensor) -> Tensor:
    """y (N, H W C) from x (N, H, W, C), in that order of elements; (N, C) stays as it is."""
    if len(x.shape) == 2:
        return x
    return Reshape((x.shape[0], prod(x.shape[1:])))(x)
