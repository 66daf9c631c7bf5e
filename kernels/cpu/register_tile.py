"""The register tile: MR pixels x NV vectors of output channels, as LLVM vector IR.

    acc[i, j] = init[i, j] + sum over taps t, channels c of  row[t, i][c] * weights[t, c, j]

The whole CPU side stands on the two intrinsics of this file. What they hold in registers:

             j=0      j=1      weights: NV vectors, loaded once per channel
    i=0    acc[0,0] acc[0,1]   <- one scalar of pixel 0, broadcast, times both
    i=1    acc[1,0] acc[1,1]
    ...                        MR * NV accumulators, NV weights, one broadcast must fit: 32 zmm
    i=13   acc[13,0] ...       registers take 14 x 2, 16 ymm registers take 6 x 2.

Pixels arrive through a list of row addresses, one per tap and pixel, so a tap outside the image is
the address of a zero row and no im2col exists. FMA is explicit and the sum of one output is one
chain over (tap, channel), so its bits depend neither on the tile nor on the vector length.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F32, I64, I32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
CACHE_LINE = 64


class _Emit:
    """A few vector idioms over an llvmlite builder."""

    def __init__(self, builder: ir.IRBuilder, vl: int):
        self.b, self.vl, self.vector = builder, vl, ir.VectorType(F32, vl)
        self.bits = ir.VectorType(ir.IntType(1), vl)

    def const(self, value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def _pointer(self, address, kind):
        return self.b.inttoptr(address, kind.as_pointer())

    def scalar(self, address, kind=F32):
        return self.b.load(self._pointer(address, kind))

    def load(self, address):
        return self.b.load(self._pointer(address, self.vector), align=4)

    def store(self, value, address):
        self.b.store(value, self._pointer(address, self.vector), align=4)

    def _intrinsic(self, name, result, *arguments):
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), arguments)

    def masked_load(self, address, mask):
        pointer, zero = (
            self._pointer(address, self.vector),
            ir.Constant(self.vector, [0.0] * self.vl),
        )
        name = f"llvm.masked.load.v{self.vl}f32.p0"
        align = ir.Constant(I32, 4)
        return self._intrinsic(name, self.vector, pointer, align, mask, zero)

    def masked_store(self, value, address, mask):
        pointer, align = self._pointer(address, self.vector), ir.Constant(I32, 4)
        name = f"llvm.masked.store.v{self.vl}f32.p0"
        self._intrinsic(name, ir.VoidType(), value, pointer, align, mask)

    def fma(self, a, b, c):
        return self._intrinsic(f"llvm.fma.v{self.vl}f32", self.vector, a, b, c)

    def broadcast(self, value, kind=None):
        kind = kind or self.vector
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(undefined, value, ir.Constant(I32, 0))
        lanes = ir.Constant(ir.VectorType(I32, self.vl), [0] * self.vl)
        return self.b.shuffle_vector(first, undefined, lanes)

    def lane_mask(self, lanes, j: int):
        """Lanes of vector j below `lanes`."""
        wide = ir.VectorType(I64, self.vl)
        index = ir.Constant(wide, [j * self.vl + lane for lane in range(self.vl)])
        return self.b.icmp_signed("<", index, self.broadcast(lanes, wide))

    def clamp_below(self, value, floor):
        """value <= floor ? floor : value; keeps NaN, and -0.0 becomes the floor's +0.0."""
        return self.b.select(self.b.fcmp_ordered("<=", value, floor), floor, value)


def conv_tile(MR: int, NV: int, VL: int):
    """Intrinsic tile(rows, taps, C, weights, bias, out, lanes, floor, accumulate).

    out[i][0:lanes] = max(init + sum over t, c of rows[t][i][c] weights[index[t], c, :], floor)

    rows: address of `taps` entries of (index, MR row addresses); out: address of MR output
    addresses (all int64). weights: (any taps, C, NR) float32, NR = NV * VL, zero beyond `lanes`.
    bias: address of `lanes` floats. lanes in 1..NR. floor: float32, 0 for ReLU and -inf for none.
    accumulate: init is what out holds instead of the bias. C >= 1; taps >= 0.
    """

    @intrinsic
    def tile(typingctx, rows, taps, C, weights, bias, out, lanes, floor, accumulate):
        i64 = types.int64
        signature = types.void(i64, i64, i64, i64, i64, i64, i64, types.float32, i64)

        def codegen(context, b, sig, values):
            rows, taps, C, weights, bias, out, lanes, floor, accumulate = values
            e, grid = _Emit(b, VL), [(i, j) for i in range(MR) for j in range(NV)]
            blocks = "load_out bias_init tap channel tap_end epilogue whole part done"
            block = {name: b.append_basic_block(name) for name in blocks.split()}
            step = e.const(NV * VL * 4)
            out_row = [e.scalar(b.add(out, e.const(8 * i)), I64) for i in range(MR)]
            masks = [e.lane_mask(lanes, j) for j in range(NV)]
            at = {(i, j): b.add(out_row[i], e.const(4 * VL * j)) for i, j in grid}
            b.cbranch(
                b.icmp_signed("!=", accumulate, e.const(0)), block["load_out"], block["bias_init"]
            )

            b.position_at_end(block["load_out"])
            from_out = {ij: e.masked_load(at[ij], masks[ij[1]]) for ij in grid}
            b.branch(block["tap"])
            b.position_at_end(block["bias_init"])
            from_bias = [
                e.masked_load(b.add(bias, e.const(4 * VL * j)), masks[j]) for j in range(NV)
            ]
            b.branch(block["tap"])

            # Loop over taps; the accumulators travel through both loops as phi nodes.
            b.position_at_end(block["tap"])
            t = b.phi(I64)
            tap_acc = {ij: b.phi(e.vector) for ij in grid}
            for start in ("load_out", "bias_init"):
                t.add_incoming(e.const(0), block[start])
            for ij in grid:
                tap_acc[ij].add_incoming(from_out[ij], block["load_out"])
                tap_acc[ij].add_incoming(from_bias[ij[1]], block["bias_init"])
            ready = b.append_basic_block("tap_ready")
            b.cbranch(b.icmp_signed("<", t, taps), ready, block["epilogue"])
            b.position_at_end(ready)
            list_at = b.add(rows, b.mul(t, e.const(8 * (MR + 1))))
            index = e.scalar(list_at, I64)
            row = [e.scalar(b.add(list_at, e.const(8 * (i + 1))), I64) for i in range(MR)]
            tap_weights = b.add(weights, b.mul(b.mul(index, C), step))
            b.branch(block["channel"])

            b.position_at_end(block["channel"])
            c, w_at = b.phi(I64), b.phi(I64)
            c.add_incoming(e.const(0), ready)
            w_at.add_incoming(tap_weights, ready)
            acc = {ij: b.phi(e.vector) for ij in grid}
            for ij in grid:
                acc[ij].add_incoming(tap_acc[ij], ready)
            w = [e.load(b.add(w_at, e.const(4 * VL * j))) for j in range(NV)]
            new = {}
            for i in range(MR):
                pixel = e.broadcast(e.scalar(b.add(row[i], b.mul(c, e.const(4)))))
                for j in range(NV):
                    new[i, j] = e.fma(pixel, w[j], acc[i, j])
            c_next = b.add(c, e.const(1))
            c.add_incoming(c_next, block["channel"])
            w_at.add_incoming(b.add(w_at, step), block["channel"])
            for ij in grid:
                acc[ij].add_incoming(new[ij], block["channel"])
            b.cbranch(b.icmp_signed("<", c_next, C), block["channel"], block["tap_end"])

            b.position_at_end(block["tap_end"])
            t.add_incoming(b.add(t, e.const(1)), block["tap_end"])
            for ij in grid:
                tap_acc[ij].add_incoming(new[ij], block["tap_end"])
            b.branch(block["tap"])

            b.position_at_end(block["epilogue"])
            low = e.broadcast(floor)
            result = {ij: e.clamp_below(tap_acc[ij], low) for ij in grid}
            full = b.icmp_signed(">=", lanes, e.const(NV * VL))
            b.cbranch(full, block["whole"], block["part"])
            # Whole vectors are stored plainly: masked stores are slow on AVX2.
            b.position_at_end(block["whole"])
            for ij in grid:
                e.store(result[ij], at[ij])
            b.branch(block["done"])
            b.position_at_end(block["part"])
            for ij in grid:
                e.masked_store(result[ij], at[ij], masks[ij[1]])
            b.branch(block["done"])
            b.position_at_end(block["done"])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def wgrad_tile(MR: int, NV: int, VL: int):
    """Intrinsic tile(x, gy, pixels, out, lanes).

    out[i][0:lanes] += sum over pixels p of gy[p, i] x[p, 0:lanes]

    x: (pixels, NV VL) float32, gy: (pixels, MR) float32, out: address of MR output addresses
    (int64). The sum of a call starts at zero and is added to out at the end, so the sums stay
    short and their error small. pixels >= 1.
    """

    @intrinsic
    def tile(typingctx, x, gy, pixels, out, lanes):
        signature = types.void(*[types.int64] * 5)

        def codegen(context, b, sig, values):
            x, gy, pixels, out, lanes = values
            e, grid = _Emit(b, VL), [(i, j) for i in range(MR) for j in range(NV)]
            entry = b.block
            loop, end = b.append_basic_block("pixel"), b.append_basic_block("end")
            b.branch(loop)

            b.position_at_end(loop)
            p, x_at, g_at = b.phi(I64), b.phi(I64), b.phi(I64)
            acc = {ij: b.phi(e.vector) for ij in grid}
            for phi, start in ((p, e.const(0)), (x_at, x), (g_at, gy)):
                phi.add_incoming(start, entry)
            for ij in grid:
                acc[ij].add_incoming(ir.Constant(e.vector, [0.0] * VL), entry)
            lane = [e.load(b.add(x_at, e.const(4 * VL * j))) for j in range(NV)]
            new = {}
            for i in range(MR):
                g = e.broadcast(e.scalar(b.add(g_at, e.const(4 * i))))
                for j in range(NV):
                    new[i, j] = e.fma(g, lane[j], acc[i, j])
            p_next = b.add(p, e.const(1))
            p.add_incoming(p_next, loop)
            x_at.add_incoming(b.add(x_at, e.const(4 * VL * NV)), loop)
            g_at.add_incoming(b.add(g_at, e.const(4 * MR)), loop)
            for ij in grid:
                acc[ij].add_incoming(new[ij], loop)
            b.cbranch(b.icmp_signed("<", p_next, pixels), loop, end)

            b.position_at_end(end)
            masks = [e.lane_mask(lanes, j) for j in range(NV)]
            for i in range(MR):
                out_row = e.scalar(b.add(out, e.const(8 * i)), I64)
                for j in range(NV):
                    at = b.add(out_row, e.const(4 * VL * j))
                    total = b.fadd(e.masked_load(at, masks[j]), new[i, j])
                    e.masked_store(total, at, masks[j])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def copy_lanes(width: int, gated: bool = False):
    """Intrinsic copy(to, x, y, count): to[0:width] = x[0:count], zeros after.

    gated: a lane is zero too where y is not positive (NaN included). count in 0..width.
    """

    @intrinsic
    def copy(typingctx, to, x, y, count):
        signature = types.void(*[types.int64] * 4)

        def codegen(context, b, sig, values):
            to, x, y, count = values
            e = _Emit(b, width)
            mask = e.lane_mask(count, 0)
            value = e.masked_load(x, mask)
            if gated:
                zero = ir.Constant(e.vector, [0.0] * width)
                value = b.select(b.fcmp_ordered(">", e.masked_load(y, mask), zero), value, zero)
            e.store(value, to)
            return context.get_dummy_value()

        return signature, codegen

    return copy
