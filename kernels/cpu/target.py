"""The CPU levels that kernels are compiled for, and the tile sizes of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One CPU level: LLVM's name and features, vector length in floats, register tiles.

    mr x nv is the full convolution tile and half x nv the one for the last pixels of a map;
    wgrad_mr x wgrad_nv the tile of the filter gradient. Each leaves room for its weights and one
    broadcast in the register file (tests count the spills of the objects).
    """

    name: str
    symbol: str
    features: str
    vl: int
    mr: int
    half: int
    nv: int
    wgrad_mr: int
    wgrad_nv: int

    @property
    def nr(self) -> int:
        """Output channels of a full panel."""
        return self.nv * self.vl


# Features are spelled out: the CPU name alone leaves those of the building machine switched on.
_V3 = (
    "+64bit,+cmov,+cx8,+cx16,+fxsr,+mmx,+sahf,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,"
    "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+xsave"
)
_V4 = _V3 + ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+evex512,-prefer-256-bit"

# Lost on v4: 12x32 and 7x64 spill; 28x16 loads as often as it multiplies. On v3: 14x16 spills.
V3 = Target("x86-64-v3", "v3", _V3, vl=8, mr=6, half=3, nv=2, wgrad_mr=4, wgrad_nv=2)
V4 = Target("x86-64-v4", "v4", _V4, vl=16, mr=14, half=7, nv=2, wgrad_mr=8, wgrad_nv=3)
TARGETS = {t.name: t for t in (V3, V4)}
