"""Average pooling to a given number of cells, as torch's adaptive_avg_pool2d divides the map.

Cell i of n over an extent H covers rows floor(i H / n) ... ceil((i + 1) H / n) - 1: all of it, with
overlaps where n does not divide H.
"""

from pyinception import workspace
from pyinception.dispatch import Array, check
from pyinception.op import Op


class AdaptiveAvgPool(Op):
    """y (N, cells, cells, C) = means over the cells of x (N, H, W, C)."""

    def __init__(self, cells: int) -> None:
        self.cells = cells

    def _windows(self, x_shape: tuple[int, ...]) -> list[tuple[int, int, slice, slice]]:
        rows, columns = (
            [slice(i * n // self.cells, -(-(i + 1) * n // self.cells)) for i in range(self.cells)]
            for n in x_shape[1:3]
        )
        return [(i, j, r, s) for i, r in enumerate(rows) for j, s in enumerate(columns)]

    def forward(self, x: Array) -> Array:
        check("adaptive_avg_pool", "x", x, "N H W C")
        self.x_shape = tuple(x.shape)
        y = workspace.empty((x.shape[0], self.cells, self.cells, x.shape[3]), x)

        def write(x: Array, y: Array) -> None:
            for i, j, rows, columns in self._windows(x.shape):
                x[:, rows, columns].mean(axis=(1, 2), out=y[:, i, j])

        workspace.host(write, x, y)
        return y

    def backward(self, gy: Array) -> Array:
        gx = workspace.empty(self.x_shape, gy)
        gx[...] = 0
        for i, j, rows, columns in self._windows(self.x_shape):
            cell = gx[:, rows, columns]
            cell += gy[:, i : i + 1, j : j + 1] / gy.dtype.type(cell.shape[1] * cell.shape[2])
        return gx
