"""Problems for the tensor-core kernels: integers, records over a device's buffers, references.

Storage is float32 (multiplied as tf32), bfloat16 or float16. Integers are small enough that every
product and partial sum is exact in float32; results are rounded to the storage type, as the kernels
do, and so is r between the stages.
"""

import numpy as np
from mma_runs import KB, STORAGE, Planned, Slice, integers, rounded, strides_of
from pyinception.kernels import cuda_mma_args as records
from pyinception.kernels import reference


class ReduceConv:
    """One fused problem: integers, NaN-framed slices, the record over a device's buffers."""

    def __init__(self, extents, *, stride=(1, 1), padding=(0, 0), storage="bfloat16", seed=0,
                 frame=(0, 0), bias=True, save_r=False, limit=227 * KB,
                 multiprocessors=132) -> None:  # fmt: skip
        self.extents, self.stride, self.padding = extents, stride, padding
        n, h, w, c, cr, k, r, s = extents
        self.storage, rng = STORAGE[storage], np.random.default_rng(seed)
        p = (h + 2 * padding[0] - r) // stride[0] + 1
        q = (w + 2 * padding[1] - s) // stride[1] + 1
        # r stays within 256, where bf16 still holds every integer: a few ones in each row of wr
        self.x = integers(rng, (n, h, w, c), 3)
        self.wr = integers(rng, (cr, 1, 1, c), 1, min(1.0, 24 / c))
        self.w = integers(rng, (k, r, s, cr), 2, min(1.0, 200 / (r * s * cr)))
        self.br = integers(rng, cr, 8) if bias else None
        self.b = integers(rng, k, 8) if bias else None
        self.maps = {
            "x": Slice((n, h, w, c), self.storage, *frame).fill(self.x),
            "y": Slice((n, p, q, k), self.storage, *frame),
            "r": Slice((n, h, w, cr), self.storage, *frame) if save_r else None,
        }
        a = self.asked = np.zeros((), records.REDUCE_CONV_MMA_ARGS)
        for name, value in zip(("N", "H", "W", "C", "Cr", "K", "R", "S"), extents, strict=True):
            a[name] = value
        (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = stride, padding
        a["type"], a["shared_limit"] = records.MMA_TYPES[storage], limit
        a["multiprocessors"] = multiprocessors

    def place(self, buffer) -> np.ndarray:
        """The record; ``buffer(name, array)`` puts an array on the device, returns its address."""
        a = self.asked
        for name, piece in self.maps.items():
            if piece is not None:
                a[name] = piece.address(buffer(name, piece.buffer))
                a[f"{name}_strides"] = strides_of(piece.buffer)
        for name in ("wr", "w"):
            a[name] = buffer(name, getattr(self, name).astype(self.storage))
        for name in ("br", "b"):
            if getattr(self, name) is not None:
                a[name] = buffer(name, getattr(self, name))
        return a

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """y and r: r rounded to the storage type between the stages, y at the end."""
        _, r = reference.reduce_conv_fprop(self.x, self.wr, self.br, self.w, self.b,
                                           stride=self.stride, padding=self.padding)  # fmt: skip
        r = rounded(r, self.storage)
        y = reference.conv2d_fprop(r, self.w, self.b, stride=self.stride, padding=self.padding,
                                   relu=True)  # fmt: skip
        return rounded(y, self.storage), r


class Conv:
    """One convolution, its gradients, or stacked 1x1s: integers and NaN-framed slices.

    ``outputs`` are the columns of each output; more than one for stacked filters.
    """

    def __init__(self, extents, *, stride=(1, 1), padding=(0, 0), storage="bfloat16", seed=0,
                 frame=(0, 0), outputs=None, relu=True, bias=True, limit=227 * KB,
                 multiprocessors=132) -> None:  # fmt: skip
        self.extents, self.stride, self.padding, self.relu = extents, stride, padding, relu
        n, h, w, c, k, r, s = extents
        self.storage, rng = STORAGE[storage], np.random.default_rng(seed)
        self.p = (h + 2 * padding[0] - r) // stride[0] + 1
        self.q = (w + 2 * padding[1] - s) // stride[1] + 1
        self.x = integers(rng, (n, h, w, c), 3)
        self.w = integers(rng, (k, r, s, c), 2, min(1.0, 60 / (r * s * c)))
        self.b = integers(rng, k, 8) if bias else None
        self.gy = integers(rng, (n, self.p, self.q, k), 2, min(1.0, 60 / (r * s * k)))
        self.y = integers(rng, (n, self.p, self.q, k), 1)  # a mask: zeros and both signs
        self.r = integers(rng, (n, h, w, c), 1)  # the mask of gx
        self.old = integers(rng, (n, h, w, c), 9)
        self.outputs, self.frame, self.type = outputs or (k,), frame, records.MMA_TYPES[storage]
        self.limit, self.multiprocessors = limit, multiprocessors

    def framed(self, values: np.ndarray) -> Slice:
        return Slice(values.shape, self.storage, *self.frame).fill(values)

    def forward(self, buffer) -> tuple[np.ndarray, list[Slice]]:
        """The record of fprop and the outputs it writes, buffers y0, y1 ..."""
        n = self.extents[0]
        a = np.zeros((), records.CONV_MMA_ARGS)
        for name, value in zip("NHWCKRS", self.extents, strict=True):
            a[name] = value
        (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = self.stride, self.padding
        a["step_h"] = a["step_w"] = 1
        a["P"], a["Q"], a["relu"], a["type"] = self.p, self.q, self.relu, self.type
        a["shared_limit"], a["multiprocessors"] = self.limit, self.multiprocessors
        x = self.framed(self.x)
        a["x"], a["x_strides"] = x.address(buffer("x", x.buffer)), strides_of(x.buffer)
        a["w"] = buffer("w", self.w.astype(self.storage))
        if self.b is not None:
            a["b"] = buffer("b", self.b)
        pieces, first = [], 0
        for i, columns in enumerate(self.outputs):
            piece = Slice((n, self.p, self.q, columns), self.storage, *self.frame)
            out = a["outputs"][i]
            out["y"] = piece.address(buffer(f"y{i}", piece.buffer))
            out["strides"] = strides_of(piece.buffer)
            out["first"], out["count"] = first, columns
            first += columns
            pieces.append(piece)
        a["output_count"] = len(pieces)
        return a, pieces

    def expected_forward(self) -> np.ndarray:
        y = reference.conv2d_fprop(self.x, self.w, self.b, stride=self.stride,
                                   padding=self.padding, relu=self.relu)  # fmt: skip
        return rounded(y, self.storage)

    def mask(self, buffer) -> np.ndarray:
        """gy [y > 0] into the contiguous buffer gm."""
        n, *_, k, _, _ = self.extents
        a = np.zeros((), records.MASK_MMA_ARGS)
        a["N"], a["P"], a["Q"], a["K"], a["type"] = n, self.p, self.q, k, self.type
        for name in ("gy", "y"):
            piece = self.framed(getattr(self, name))
            a[name] = piece.address(buffer(name, piece.buffer))
            a[f"{name}_strides"] = strides_of(piece.buffer)
        a["out"] = buffer("gm", np.full((n, self.p, self.q, k), np.nan, self.storage))
        return a

    def flip(self, buffer) -> np.ndarray:
        _, _, _, c, k, r, s = self.extents
        a = np.zeros((), records.FLIP_FILTERS_MMA_ARGS)
        f, a["filter_count"] = a["filters"][0], 1
        f["K"], f["R"], f["S"], f["C"], f["type"] = k, r, s, c, self.type
        f["w"] = buffer("w", self.w.astype(self.storage))
        f["out"] = buffer("flipped", np.full((c, r, s, k), np.nan, self.storage))
        return a

    def dgrad(self, forward, addresses, buffer) -> tuple[np.ndarray, Slice]:
        """gx += dgrad [r > 0]: the record over the masked gy and the flipped filter."""
        c, k = self.extents[3:5]
        a = np.zeros((), forward.dtype)
        for name in ("N", "R", "S", "type", "shared_limit", "multiprocessors"):
            a[name] = forward[name]
        for name, source in zip(("H", "W", "C", "K", "P", "Q"), ("P", "Q", "K", "C", "H", "W"),
                                strict=True):  # fmt: skip
            a[name] = forward[source]
        a["stride_h"] = a["stride_w"] = 1
        for i, axis in enumerate("hw"):  # x is gy, dilated by the stride
            a[f"step_{axis}"] = self.stride[i]
            a[f"pad_{axis}"] = self.extents[5 + i] - 1 - self.padding[i]
        a["x"], a["w"] = addresses["gm"], addresses["flipped"]
        a["x_strides"] = (self.p * self.q * k, self.q * k, k)
        mask, gx = self.framed(self.r), self.framed(self.old)
        a["mask"], a["mask_strides"] = (
            mask.address(buffer("r", mask.buffer)),
            strides_of(mask.buffer),
        )
        a["output_count"], a["accumulate"] = 1, 1
        a["outputs"][0] = (gx.address(buffer("gx", gx.buffer)), strides_of(gx.buffer), 0, c)
        return a, gx

    def expected_dgrad(self) -> np.ndarray:
        gx = reference.conv2d_dgrad(self.gy, self.w, self.x.shape, stride=self.stride,
                                    padding=self.padding, y=self.y)  # fmt: skip
        return rounded(np.where(self.r > 0, gx, 0) + self.old, self.storage)

    def wgrad(self, addresses, buffer) -> np.ndarray:
        _, _, _, c, k, r, s = self.extents
        a = np.zeros((), records.CONV_WGRAD_MMA_ARGS)
        for name, value in zip("NHWCKRS", self.extents, strict=True):
            a[name] = value
        (a["stride_h"], a["stride_w"]), (a["pad_h"], a["pad_w"]) = self.stride, self.padding
        a["P"], a["Q"], a["type"], a["shared_limit"] = self.p, self.q, self.type, self.limit
        x = self.framed(self.x)
        a["x"], a["x_strides"] = x.address(buffer("x", x.buffer)), strides_of(x.buffer)
        a["gy"], a["gy_strides"] = addresses["gm"], (self.p * self.q * k, self.q * k, k)
        a["gw"] = buffer("gw", np.full((k, r, s, c), np.nan, np.float32))
        a["gb"] = buffer("gb", np.full(k, np.nan, np.float32))
        a["workspace_bytes"] = size = Planned("conv_wgrad_mma_size", a).workspace_bytes
        if size:
            a["workspace"] = buffer("workspace", np.full(size // 4, np.nan, np.float32))
        return a

    def expected_wgrad(self) -> tuple[np.ndarray, np.ndarray]:
        return reference.conv2d_wgrad(self.x, self.gy, self.w.shape, stride=self.stride,
                                      padding=self.padding, y=self.y)  # fmt: skip


class Inception:
    """A module: four roles over one x, each with its slice of one y that NaN surrounds."""

    def __init__(self, n, extent, c, widths, *, storage="bfloat16", seed=0, limit=227 * KB,
                 multiprocessors=132, frames=((8, 8), (8, 16))) -> None:  # fmt: skip
        self.frame, around = frames  # of x, of y
        c1, c3r, c3, c5r, c5, cp = self.widths = widths
        self.storage, rng = STORAGE[storage], np.random.default_rng(seed)
        self.x = integers(rng, (n, extent, extent, c), 3)
        sparse = min(1.0, 24 / c)
        one = lambda k: (integers(rng, (k, 1, 1, c), 1, sparse), integers(rng, k, 8))  # noqa: E731
        self.w1, self.wr3, self.wr5, self.wp = one(c1), one(c3r), one(c5r), one(cp)
        self.w3 = integers(rng, (c3, 3, 3, c3r), 2, min(1, 200 / (9 * c3r))), integers(rng, c3, 8)
        self.w5 = integers(rng, (c5, 5, 5, c5r), 2, min(1, 200 / (25 * c5r))), integers(rng, c5, 8)
        self.type, self.limit, self.multiprocessors = (
            records.MMA_TYPES[storage],
            limit,
            multiprocessors,
        )
        self.piece = Slice((n, extent, extent, c1 + c3 + c5 + cp), self.storage, *around)

    def place(self, buffer) -> np.ndarray:
        c1, c3r, c3, c5r, c5, cp = self.widths
        n, extent, _, c = self.x.shape
        x = Slice(self.x.shape, self.storage, *self.frame).fill(self.x)
        at = {name: [buffer(f"{name}.w", getattr(self, name)[0].astype(self.storage)),
                     buffer(f"{name}.b", getattr(self, name)[1])]
              for name in ("w1", "wr3", "w3", "wr5", "w5", "wp")}  # fmt: skip
        from_x, y = (
            x.address(buffer("x", x.buffer)),
            self.piece.address(buffer("y", self.piece.buffer)),
        )
        bytes_ = self.storage.itemsize
        a = np.zeros((), records.INCEPTION_MMA_ARGS)
        common = {"x": from_x, "x_strides": strides_of(x.buffer), "N": n, "H": extent, "W": extent,
                  "C": c, "type": self.type, "shared_limit": self.limit, "stride_h": 1,
                  "stride_w": 1, "multiprocessors": self.multiprocessors}  # fmt: skip
        roles = [(a["branches"][0], "wr3", "w3", c3r, c3, 3, c1),
                 (a["branches"][1], "wr5", "w5", c5r, c5, 5, c1 + c3),
                 (a["ones"], None, "w1", 0, c1, 1, 0),
                 (a["projection"], None, "wp", 0, cp, 1, c1 + c3 + c5)]  # fmt: skip
        for role, reduce, last, cr, k, filter_, first in roles:
            for name, value in common.items():
                role[name] = value
            role["K"], role["R"], role["S"] = k, filter_, filter_
            role["w"], role["b"] = at[last]
            if reduce:
                role["wr"], role["br"] = at[reduce]
                role["Cr"], role["pad_h"], role["pad_w"] = cr, filter_ // 2, filter_ // 2
                role["y"], role["y_strides"] = y + first * bytes_, strides_of(self.piece.buffer)
            else:
                role["P"], role["Q"], role["step_h"], role["step_w"] = extent, extent, 1, 1
                role["relu"], role["output_count"] = 1, 1
                role["outputs"][0] = (y + first * bytes_, strides_of(self.piece.buffer), 0, k)
        return a

    def expected(self) -> np.ndarray:
        def conv(x, name, padding=0):
            w, b = getattr(self, name)
            y = reference.conv2d_fprop(x, w, b, padding=(padding, padding), relu=True)
            return rounded(y, self.storage)

        pooled, _ = reference.max_pool_fprop(self.x, (3, 3), (1, 1), (1, 1))
        parts = [conv(self.x, "w1"), conv(conv(self.x, "wr3"), "w3", 1),
                 conv(conv(self.x, "wr5"), "w5", 2), conv(pooled, "wp")]  # fmt: skip
        return np.concatenate(parts, axis=3)
