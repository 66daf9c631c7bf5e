"""The plans of the tensor-core kernels as the tests call them, and slices framed by NaN."""

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
from cuda_run import Refused, plan

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "kernels" / "cuda"
CXX = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
KB = 1024
STORAGE = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}

# map, C, then (Cr, K) of the 3x3 and of the 5x5 branch
MODULES = {
    "3a": (28, 192, (96, 128), (16, 32)),
    "3b": (28, 256, (128, 192), (32, 96)),
    "4a": (14, 480, (96, 208), (16, 48)),
    "4b": (14, 512, (112, 224), (24, 64)),
    "4c": (14, 512, (128, 256), (24, 64)),
    "4d": (14, 512, (144, 288), (32, 64)),
    "4e": (14, 528, (160, 320), (32, 128)),
    "5a": (7, 832, (160, 320), (32, 128)),
    "5b": (7, 832, (192, 384), (48, 128)),
}


class Planned:
    """What a plan says: reason ("" if it takes the problem), completed record, launches, clocks.

    Where it launches nothing, the record is the one that was asked.
    """

    def __init__(self, name: str, asked: np.ndarray) -> None:
        self.reason, self.launches, self.workspace_bytes = "", [], 0
        try:
            self.launches, self.workspace_bytes = plan(name, asked)
        except Refused as refused:
            self.reason = str(refused)
        self.record = self.launches[0].record(asked.dtype) if self.launches else asked
        self.clocks = self.launches[0].clocks if self.launches else 0.0


def strides_of(a: np.ndarray) -> tuple[int, int, int]:
    return tuple(s // a.itemsize for s in a.strides[:3])


def integers(rng: np.random.Generator, shape, limit: int, density: float = 1.0) -> np.ndarray:
    values = rng.integers(-limit, limit + 1, shape)
    if density < 1:
        values = values * (rng.random(shape) < density)
    return values.astype(np.float32)


class Slice:
    """A map as a slice of the channels of a wider buffer, NaN around it."""

    def __init__(self, shape, storage: np.dtype, before: int = 0, after: int = 0) -> None:
        n, h, w, c = shape
        self.buffer = np.full((n, h, w, before + c + after), np.nan, storage)
        self.before, self.channels = before, c

    @property
    def map(self) -> np.ndarray:
        return self.buffer[..., self.before : self.before + self.channels]

    def fill(self, values: np.ndarray) -> "Slice":
        self.map[...] = values.astype(self.buffer.dtype)
        return self

    def address(self, base: int) -> int:
        return base + self.before * self.buffer.itemsize


def rounded(values: np.ndarray, storage: np.dtype) -> np.ndarray:
    return values.astype(storage).astype(values.dtype)


def read_slice(piece: Slice, buffer: np.ndarray) -> np.ndarray:
    """The slice of a buffer that came back; what lies around it must still be NaN."""
    buffer = buffer.astype(np.float32)
    end = piece.before + piece.channels
    around = np.concatenate([buffer[..., : piece.before], buffer[..., end:]], axis=3)
    assert np.isnan(around).all(), "written outside the slice"
    return buffer[..., piece.before : end]


def made_up_addresses():
    """A ``buffer`` for plans that are not run."""
    addresses = iter(range(1 << 32, 1 << 40, 1 << 32))
    return lambda name, array: next(addresses)
