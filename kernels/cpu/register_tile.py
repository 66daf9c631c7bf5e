"""The register tile: MR pixels x NV vectors of output channels, as LLVM vector IR.

    acc[i, j] = init[i, j] + sum over runs t, terms c of  row[t, i][c] * weights[t, c, j]

The whole CPU side stands on the two intrinsics of this file. What they hold in registers:

             j=0      j=1      weights: NV vectors, loaded once per channel
    i=0    acc[0,0] acc[0,1]   <- one scalar of pixel 0, broadcast, times both
    i=1    acc[1,0] acc[1,1]
    ...                        MR * NV accumulators, NV weights, one broadcast must fit: 32 zmm
    i=13   acc[13,0] ...       registers take 14 x 2, 16 ymm registers take 6 x 2.

Pixels arrive through a list of row addresses, one per run and pixel, so a tap outside the image is
the address of a zero row and no im2col exists. FMA is explicit, and the sum of one output is cut
into chunks by the filter's shape alone (sums.py): each chunk is one chain of multiply-adds from
zero, and the chunks are added in order. Its bits depend neither on the tile nor on the vector
length, and its error grows with the chunk, not with the filter.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .target import Target

F32, I64, I32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
RUN_HEADER = 3  # first, terms and chunk, before the row addresses of a run


class Emit:
    """A few vector idioms over an llvmlite builder; what a float32 tile does with its operands.

    bfloat16_tile.py has another kind of operands in the same tile.
    """

    OUT_BYTES = 4  # of an element of the output
    ACCUMULATES = True  # whether a tile may start from what the output holds

    def __init__(self, builder: ir.IRBuilder, vl: int):
        self.b, self.vl, self.vector = builder, vl, ir.VectorType(F32, vl)
        self.bits = ir.VectorType(ir.IntType(1), vl)

    @staticmethod
    def pixels(target: Target) -> int:
        """Pixels of a full tile."""
        return target.mr

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

    def add_term(self, rows, weights_at, c, acc):
        """acc[i, j] + row[i][c] * weights[c, j] for every (i, j) of acc, one term of the sum."""
        NV = 1 + max(j for _, j in acc)
        w = [self.load(self.b.add(weights_at, self.const(4 * self.vl * j))) for j in range(NV)]
        offset = self.b.mul(c, self.const(4))
        new = {}
        for i, row in enumerate(rows):
            pixel = self.broadcast(self.scalar(self.b.add(row, offset)))
            for j in range(NV):
                new[i, j] = self.fma(pixel, w[j], acc[i, j])
        return new

    def take(self, address, mask=None):
        """A vector of a map's elements in float32, or its lanes of `mask` and zeros."""
        return self.load(address) if mask is None else self.masked_load(address, mask)

    def put(self, value, address, mask=None):
        """Write a vector of the output, or its lanes of `mask`."""
        if mask is None:
            self.store(value, address)
        else:
            self.masked_store(value, address, mask)

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


def conv_tile(MR: int, NV: int, VL: int, emit: type[Emit] = Emit):
    """Intrinsic tile(runs, count, weights, bias, out, lanes, floor, accumulate, totals).

    out[i][0:lanes] = max(init + sum over runs t, c < terms[t] of
                                 row[t][i][c] weights[first[t] + c, :], floor)

    runs: address of `count` entries of (first, terms, chunk, MR row addresses), all int64; chunk is
    0 where the run continues the chunk of the run before, 1 where it begins the second chunk and 2
    where it begins a later one. weights: (any terms, NR) float32, NR = NV * VL, zero beyond
    `lanes`. bias: address of `lanes` floats. out: address of MR output addresses. lanes in 1..NR.
    floor: float32, 0 for ReLU and -inf for none. accumulate: init is what out holds instead of the
    bias. totals: address of MR * NR floats, written where there is a second chunk. terms >= 1.
    """

    @intrinsic
    def tile(typingctx, runs, count, weights, bias, out, lanes, floor, accumulate, totals):
        i64 = types.int64
        signature = types.void(i64, i64, i64, i64, i64, i64, types.float32, i64, i64)

        def codegen(context, b, sig, values):
            runs, count, weights, bias, out, lanes, floor, accumulate, totals = values
            e, grid = emit(b, VL), [(i, j) for i in range(MR) for j in range(NV)]
            entry, zero = b.block, ir.Constant(e.vector, [0.0] * VL)
            names = "run ready second later term run_end last add_totals init from_out from_bias"
            block = {n: b.append_basic_block(n) for n in f"{names} whole part done".split()}
            step = e.const(NV * VL * 4)
            total_at = {(i, j): b.add(totals, e.const(4 * VL * (i * NV + j))) for i, j in grid}
            b.branch(block["run"])

            # Loop over runs; the accumulators travel through both loops as phi nodes.
            b.position_at_end(block["run"])
            t, kept, run_acc = b.phi(I64), b.phi(I64), {ij: b.phi(e.vector) for ij in grid}
            t.add_incoming(e.const(0), entry)
            kept.add_incoming(e.const(0), entry)
            for ij in grid:
                run_acc[ij].add_incoming(zero, entry)
            b.cbranch(b.icmp_signed("<", t, count), block["ready"], block["last"])

            b.position_at_end(block["ready"])
            list_at = b.add(runs, b.mul(t, e.const(8 * (MR + RUN_HEADER))))
            first, terms, chunk = (e.scalar(b.add(list_at, e.const(8 * i)), I64) for i in range(3))
            row = [e.scalar(b.add(list_at, e.const(8 * (i + RUN_HEADER))), I64) for i in range(MR)]
            run_weights = b.add(weights, b.mul(first, step))
            now_kept = b.or_(kept, chunk)
            begin = b.switch(chunk, block["later"])
            begin.add_case(e.const(0), block["term"])
            begin.add_case(e.const(1), block["second"])
            # A chunk ends: its sum is kept in memory, for no register is free.
            b.position_at_end(block["second"])
            for ij in grid:
                e.store(run_acc[ij], total_at[ij])
            b.branch(block["term"])
            b.position_at_end(block["later"])
            for ij in grid:
                e.store(b.fadd(e.load(total_at[ij]), run_acc[ij]), total_at[ij])
            b.branch(block["term"])

            b.position_at_end(block["term"])
            c, w_at, acc = b.phi(I64), b.phi(I64), {ij: b.phi(e.vector) for ij in grid}
            for source in ("ready", "second", "later"):
                c.add_incoming(e.const(0), block[source])
                w_at.add_incoming(run_weights, block[source])
                for ij in grid:
                    acc[ij].add_incoming(run_acc[ij] if source == "ready" else zero, block[source])
            new = e.add_term(row, w_at, c, acc)
            c_next = b.add(c, e.const(1))
            c.add_incoming(c_next, block["term"])
            w_at.add_incoming(b.add(w_at, step), block["term"])
            for ij in grid:
                acc[ij].add_incoming(new[ij], block["term"])
            b.cbranch(b.icmp_signed("<", c_next, terms), block["term"], block["run_end"])

            b.position_at_end(block["run_end"])
            t.add_incoming(b.add(t, e.const(1)), block["run_end"])
            kept.add_incoming(now_kept, block["run_end"])
            for ij in grid:
                run_acc[ij].add_incoming(new[ij], block["run_end"])
            b.branch(block["run"])

            b.position_at_end(block["last"])
            b.cbranch(b.icmp_signed("!=", kept, e.const(0)), block["add_totals"], block["init"])
            b.position_at_end(block["add_totals"])
            whole_sum = {ij: b.fadd(e.load(total_at[ij]), run_acc[ij]) for ij in grid}
            b.branch(block["init"])
            b.position_at_end(block["init"])
            total = {ij: b.phi(e.vector) for ij in grid}
            for ij in grid:
                total[ij].add_incoming(run_acc[ij], block["last"])
                total[ij].add_incoming(whole_sum[ij], block["add_totals"])
            out_row = [e.scalar(b.add(out, e.const(8 * i)), I64) for i in range(MR)]
            at = {(i, j): b.add(out_row[i], e.const(e.OUT_BYTES * VL * j)) for i, j in grid}
            masks, low = [e.lane_mask(lanes, j) for j in range(NV)], e.broadcast(floor)
            full = b.icmp_signed(">=", lanes, e.const(NV * VL))
            added = ir.Constant(ir.IntType(1), 0)  # else: the block goes unreachable and away
            if e.ACCUMULATES:
                added = b.icmp_signed("!=", accumulate, e.const(0))
            b.cbranch(added, block["from_out"], block["from_bias"])
            b.position_at_end(block["from_out"])
            from_out = {ij: b.fadd(e.masked_load(at[ij], masks[ij[1]]), total[ij]) for ij in grid}
            epilogue = b.append_basic_block("epilogue")
            b.branch(epilogue)
            b.position_at_end(block["from_bias"])
            row_bias = [
                e.masked_load(b.add(bias, e.const(4 * VL * j)), masks[j]) for j in range(NV)
            ]
            from_bias = {ij: b.fadd(row_bias[ij[1]], total[ij]) for ij in grid}
            b.branch(epilogue)

            b.position_at_end(epilogue)
            result = {ij: b.phi(e.vector) for ij in grid}
            for ij in grid:
                result[ij].add_incoming(from_out[ij], block["from_out"])
                result[ij].add_incoming(from_bias[ij], block["from_bias"])
            result = {ij: e.clamp_below(result[ij], low) for ij in grid}
            b.cbranch(full, block["whole"], block["part"])
            # Whole vectors are stored plainly: masked stores are slow on AVX2.
            b.position_at_end(block["whole"])
            for ij in grid:
                e.put(result[ij], at[ij])
            b.branch(block["done"])
            b.position_at_end(block["part"])
            for ij in grid:
                e.put(result[ij], at[ij], masks[ij[1]])
            b.branch(block["done"])
            b.position_at_end(block["done"])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def wgrad_tile(MR: int, NV: int, VL: int, fresh: bool = False):
    """Intrinsic tile(x, x_step, gy, gy_step, pixels, out, lanes).

    out[i][0:lanes] += sum over pixels p of gy[p, i] x[p, 0:lanes], or `=` if fresh

    x: rows of NV VL floats, gy: rows of MR floats, one a pixel, so many bytes apart; out: address
    of MR output addresses (int64). The sum of a call starts at zero and is added to out at the end,
    so the sums stay short and their error small. pixels >= 1.
    """

    @intrinsic
    def tile(typingctx, x, x_step, gy, gy_step, pixels, out, lanes):
        signature = types.void(*[types.int64] * 7)

        def codegen(context, b, sig, values):
            x, x_step, gy, gy_step, pixels, out, lanes = values
            e, grid = Emit(b, VL), [(i, j) for i in range(MR) for j in range(NV)]
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
            x_at.add_incoming(b.add(x_at, x_step), loop)
            g_at.add_incoming(b.add(g_at, gy_step), loop)
            for ij in grid:
                acc[ij].add_incoming(new[ij], loop)
            b.cbranch(b.icmp_signed("<", p_next, pixels), loop, end)

            b.position_at_end(end)
            masks = [e.lane_mask(lanes, j) for j in range(NV)]
            for i in range(MR):
                out_row = e.scalar(b.add(out, e.const(8 * i)), I64)
                for j in range(NV):
                    at = b.add(out_row, e.const(4 * VL * j))
                    total = new[i, j]
                    if not fresh:
                        total = b.fadd(e.masked_load(at, masks[j]), total)
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
            e = Emit(b, width)
            mask = e.lane_mask(count, 0)
            value = e.masked_load(x, mask)
            if gated:
                zero = ir.Constant(e.vector, [0.0] * width)
                value = b.select(b.fcmp_ordered(">", e.masked_load(y, mask), zero), value, zero)
            e.store(value, to)
            return context.get_dummy_value()

        return signature, codegen

    return copy
