"""Operands of the register tile in bfloat16: pairs of channels, float32 accumulators.

    acc[i, j] + x[i][2c + 1] w[2c + 1, j] + x[i][2c] w[2c, j],   from left to right

An element of a row of x, and of the weights, is a pair of channels in four bytes, the even one in
the lower half; so a term of the sum is a pair, and everything around the tile stays as it is. Two
versions with the same bits: `vdpbf16ps`, which multiplies 32 numbers at a time and adds the odd
channel first, and multiply-adds of float32 on the two halves taken apart. Products of two bfloat16
are exact in float32, so both round twice a pair. But for subnormal numbers, which the instruction
takes, and makes, as zero.
"""

import llvmlite.binding as llvm
from llvmlite import ir

from .register_tile import I32, Emit
from .target import Target

llvm.initialize_native_asmparser()  # for the one instruction below


class EmitBfloat16(Emit):
    """Halves taken apart: an exact float32 from each, then two multiply-adds."""

    OUT_BYTES = 2
    ACCUMULATES = False

    def __init__(self, builder: ir.IRBuilder, vl: int):
        super().__init__(builder, vl)
        self.words, self.halves = ir.VectorType(I32, vl), ir.VectorType(ir.IntType(16), vl)

    @staticmethod
    def pixels(target: Target) -> int:
        """Pixels of a full tile: halves want registers of their own."""
        return target.half

    def _splat(self, value: int) -> ir.Constant:
        return ir.Constant(self.words, [value] * self.vl)

    def _load(self, address):
        return self.b.load(self._pointer(address, self.words), align=4)

    def _pixel(self, row, offset):
        pair = self.b.load(self._pointer(self.b.add(row, offset), I32), align=2)
        return self.broadcast(pair, self.words)

    def add_term(self, rows, weights_at, c, acc):
        """The term of the pair c: odd channels of all accumulators, then even ones."""
        NV = 1 + max(j for _, j in acc)
        offset = self.b.mul(c, self.const(4))
        for odd in (True, False):
            w = [
                self._half(self._load(self.b.add(weights_at, self.const(4 * self.vl * j))), odd)
                for j in range(NV)
            ]
            new = {}
            for i, row in enumerate(rows):
                pixel = self._half(self._pixel(row, offset), odd)
                for j in range(NV):
                    new[i, j] = self.fma(pixel, w[j], acc[i, j])
            acc = new
        return acc

    def _half(self, pairs, odd: bool):
        """The float32 of the odd or the even channel of each pair."""
        if odd:
            return self.b.bitcast(self.b.and_(pairs, self._splat(0xFFFF0000)), self.vector)
        return self.b.bitcast(self.b.shl(pairs, self._splat(16)), self.vector)

    def take(self, address, mask=None):
        """The float32 of a vector of elements, each by itself."""
        pointer = self._pointer(address, self.halves)
        if mask is None:
            half = self.b.load(pointer, align=2)
        else:
            name = f"llvm.masked.load.v{self.vl}i16.p0"
            zero = ir.Constant(self.halves, [0] * self.vl)
            half = self._intrinsic(name, self.halves, pointer, ir.Constant(I32, 2), mask, zero)
        return self.b.bitcast(
            self.b.shl(self.b.zext(half, self.words), self._splat(16)), self.vector
        )

    def put(self, value, address, mask=None):
        """Round a vector, ties to even and NaN to NaN, and write it."""
        bits = self.b.bitcast(value, self.words)
        odd = self.b.and_(self.b.lshr(bits, self._splat(16)), self._splat(1))
        rounded = self.b.add(self.b.add(bits, self._splat(0x7FFF)), odd)
        quiet = self.b.or_(bits, self._splat(0x400000))
        bits = self.b.select(self.b.fcmp_ordered("ord", value, value), rounded, quiet)
        half = self.b.trunc(self.b.lshr(bits, self._splat(16)), self.halves)
        pointer = self._pointer(address, self.halves)
        if mask is None:
            self.b.store(half, pointer, align=2)
        else:
            name = f"llvm.masked.store.v{self.vl}i16.p0"
            self._intrinsic(name, ir.VoidType(), half, pointer, ir.Constant(I32, 2), mask)


class EmitDot(EmitBfloat16):
    """`vdpbf16ps` of AVX512_BF16, which not every CPU of the level has: the core asks."""

    @staticmethod
    def pixels(target: Target) -> int:
        """Pixels of a full tile."""
        return target.mr

    def add_term(self, rows, weights_at, c, acc):
        """The term of the pair c."""
        NV = 1 + max(j for _, j in acc)
        offset = self.b.mul(c, self.const(4))
        kind = ir.FunctionType(self.vector, [self.vector, self.words, self.words])
        # As assembly: an intrinsic would need the feature switched on for the whole level.
        dot = ir.InlineAsm(kind, "vdpbf16ps $3, $2, $0", "=v,0,v,v")
        w = [self._load(self.b.add(weights_at, self.const(4 * self.vl * j))) for j in range(NV)]
        new = {}
        for i, row in enumerate(rows):
            pixel = self._pixel(row, offset)
            for j in range(NV):
                new[i, j] = self.b.call(dot, [acc[i, j], w[j], pixel])
        return new
