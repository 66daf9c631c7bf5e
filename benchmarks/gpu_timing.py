"""What every GPU row shares: the nine modules as data, samples, errors and their limits.

Standard library and NumPy only. Times are seconds inside, microseconds in the JSON.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Module:
    """One Inception module of GoogLeNet (Szegedy et al. 2015, table 1), square maps, NHWC."""

    name: str
    H: int
    C: int
    c1: int
    r3: int
    c3: int
    r5: int
    c5: int
    proj: int

    @property
    def K(self) -> int:
        return self.c1 + self.c3 + self.c5 + self.proj

    def convs(self) -> dict[str, tuple[int, int, int]]:
        """Name -> (C, K, R) of the six convolutions."""
        return {
            "c1": (self.C, self.c1, 1),
            "r3": (self.C, self.r3, 1),
            "c3": (self.r3, self.c3, 3),
            "r5": (self.C, self.r5, 1),
            "c5": (self.r5, self.c5, 5),
            "proj": (self.C, self.proj, 1),
        }

    def flops(self, N: int) -> int:
        """Nominal floating-point operations of one forward pass (2 per multiply-add)."""
        return 2 * N * self.H**2 * sum(C * K * R * R for C, K, R in self.convs().values())

    def weight_elements(self) -> int:
        return sum(C * K * R * R + K for C, K, R in self.convs().values())

    def bytes_min(self, N: int, itemsize: int) -> int:
        """x and weights read once, y written once: what one fused kernel must move."""
        return itemsize * (N * self.H**2 * (self.C + self.K) + self.weight_elements())


MODULES: dict[str, Module] = {
    row[0]: Module(*row)
    for row in (
        ("3a", 28, 192, 64, 96, 128, 16, 32, 32),
        ("3b", 28, 256, 128, 128, 192, 32, 96, 64),
        ("4a", 14, 480, 192, 96, 208, 16, 48, 64),
        ("4b", 14, 512, 160, 112, 224, 24, 64, 64),
        ("4c", 14, 512, 128, 128, 256, 24, 64, 64),
        ("4d", 14, 512, 112, 144, 288, 32, 64, 64),
        ("4e", 14, 528, 256, 160, 320, 32, 128, 128),
        ("5a", 7, 832, 256, 160, 320, 32, 128, 128),
        ("5b", 7, 832, 384, 192, 384, 48, 128, 128),
    )
}

NET_MACS = 1_582_671_872  # GoogLeNet at 224x224, one image, without auxiliary heads
NET_PARAMETERS = 6_998_552

ITEMSIZE = {"bf16": 2, "tf32": 4, "fp32": 4}
# Unit roundoff of the operands: 8, 11 and 24 significant bits.
ROUNDOFF = {"bf16": 2.0**-8, "tf32": 2.0**-11, "fp32": 2.0**-24}


def error_limit(precision: str, depth: int, *, gradient: bool = False) -> float:
    """Largest error a row may show and still show its time: 4 u sqrt(depth), u = roundoff.

    Each of `depth` layers rounds operands and result; independent roundings add as a square
    root. In fp32 the summation dominates the operands' roundoff, hence the floor of 1e-5. A
    gradient also crosses ReLU and pooling kinks, where the rounded run takes another branch than
    the float64 run: a factor of 8, and a floor of 1e-2. The limit separates a wrong result from
    a rounded one; the error itself stands in the row.
    """
    limit = max(4.0 * ROUNDOFF[precision] * depth**0.5, 1e-5)
    return max(8.0 * limit, 1e-2) if gradient else limit


def compare(out: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """max|out - ref| / max|ref| and ||out - ref|| / ||ref||, in float64. NaN in, NaN out."""
    difference = out.astype(np.float64) - reference
    scale = max(float(np.abs(reference).max()), 1e-300)
    norm = max(float(np.linalg.norm(reference.ravel())), 1e-300)
    return {
        "max_rel": float(np.abs(difference).max()) / scale,
        "l2_rel": float(np.linalg.norm(difference.ravel())) / norm,
    }


def sample(
    measure: Callable[[], float], *, seconds: float = 0.3, least: int = 20, most: int = 200
) -> list[float]:
    """Call `measure` at least `least` times, then until `seconds` have passed or `most` calls."""
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < least or (len(samples) < most and time.perf_counter() < end):
        samples.append(measure())
    return samples


def host_timer(work: Callable[[], Any]) -> float:
    """Seconds of the host clock around `work`: for rehearsals without a GPU."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def summarize(samples: Iterable[float], *, calls: int = 1) -> dict[str, float | int]:
    """Median, p20 and p80 in microseconds per call, of samples that each cover `calls` calls."""
    us = np.asarray(list(samples), np.float64) * 1e6 / calls
    low, middle, high = np.percentile(us, [20, 50, 80])
    return {
        "median_us": float(middle),
        "p20_us": float(low),
        "p80_us": float(high),
        "samples": int(us.size),
        "calls_per_sample": calls,
    }


def rates(times: dict[str, dict[str, Any]], flops: int, nbytes: int) -> dict[str, dict[str, float]]:
    """GFLOP/s and GB/s (minimum bytes) of each timing mode."""
    return {
        mode: {
            "gflops": flops / row["median_us"] * 1e-3,
            "gb_per_s": nbytes / row["median_us"] * 1e-3,
        }
        for mode, row in times.items()
        if row.get("median_us")
    }


# -- numbers a card sees: bf16 as uint16, and the float64 truth of a module


def round_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> bf16 bit patterns (uint16), to nearest, ties to even; finite inputs."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widen_bf16(bits: np.ndarray) -> np.ndarray:
    """bf16 bit patterns (uint16) -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def store(x: np.ndarray, precision: str) -> np.ndarray:
    """float32 values as the bytes a buffer of that precision holds."""
    return round_bf16(x) if precision == "bf16" else np.ascontiguousarray(x, np.float32)


def load(raw: np.ndarray) -> np.ndarray:
    """The values of a downloaded buffer (uint16 is bf16)."""
    return widen_bf16(raw) if raw.dtype == np.uint16 else raw


def storage_dtype(precision: str) -> type:
    return np.uint16 if precision == "bf16" else np.float32


def conv_relu(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """relu(conv(x, w) + b), stride 1, same padding: x (N,H,W,C), w (K,R,R,C), y (N,H,W,K)."""
    N, H, W, _ = x.shape
    K, R = w.shape[:2]
    pad = R // 2
    wide = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y = np.zeros((N, H, W, K), x.dtype)
    for r in range(R):
        for s in range(R):
            y += wide[:, r : r + H, s : s + W] @ w[:, r, s].T
    return np.maximum(y + b, 0)


def max_pool_3x3(x: np.ndarray) -> np.ndarray:
    """3x3 maximum, stride 1, window clipped to the image: (N,H,W,C) -> (N,H,W,C)."""
    _, H, W, _ = x.shape
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    wide = np.pad(x, edges, constant_values=-np.inf)
    taps = [wide[:, r : r + H, s : s + W] for r in range(3) for s in range(3)]
    return np.maximum.reduce(taps)


def module_truth(x: np.ndarray, weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """y = [1x1 | 3x3 | 5x5 | pool proj] in float64 from the values a buffer holds."""
    x = x.astype(np.float64)
    wide = {name: (w.astype(np.float64), b.astype(np.float64)) for name, (w, b) in weights.items()}
    branches = (
        conv_relu(x, *wide["c1"]),
        conv_relu(conv_relu(x, *wide["r3"]), *wide["c3"]),
        conv_relu(conv_relu(x, *wide["r5"]), *wide["c5"]),
        conv_relu(max_pool_3x3(x), *wide["proj"]),
    )
    return np.concatenate(branches, axis=-1)


def module_weights(
    module: Module, precision: str, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """He-scaled weights and small biases, already rounded: name -> (w (K,R,R,C), b (K,))."""
    weights = {}
    for name, (C, K, R) in module.convs().items():
        w = rng.standard_normal((K, R, R, C), np.float32) * np.float32((2 / (C * R * R)) ** 0.5)
        b = rng.standard_normal(K, np.float32) * np.float32(0.1)
        weights[name] = (load(store(w, precision)), load(store(b, precision)))
    return weights


class RowTooLong(BaseException):
    """A row ran past its limit. Not an `Exception`, so that no retry inside a row swallows it."""


def with_limit(seconds: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` gives, or `RowTooLong` after ``seconds``."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise RowTooLong(f"the row ran longer than --row-seconds {seconds:g}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
