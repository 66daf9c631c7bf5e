"""The register tiles of depthwise convolution, as LLVM vector IR.

    acc[i, j] = sum over taps t of x[t, pixel i, vector j] * weights[t, vector j]

A channel meets its own filter only, so nothing is broadcast and nothing is shared between channels:
weights stay in registers for PIXELS pixels, and every multiply-add reads its x from memory. That is
one load to an FMA, which is what a core can do, so a larger tile would gain nothing. Each output is
one chain of multiply-adds over its taps.

With a channel multiplier M > 1 the M filters of one input channel are the lanes, and x is one
number, broadcast.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .register_tile import I64, Emit

PIXELS = 4  # neighbouring outputs of a tile: eight accumulators hide the latency of an FMA
TAPS = 3  # neighbouring taps of a filter gradient's tile
ENTRY = 3  # a tap: address of x, its number, address of the mask


def fprop_tile(pixels: int, NV: int, VL: int, *, whole=False, broadcast=False, gated=False):
    """Intrinsic tile(taps, count, shift, step, mask_shift, mask_step, weights, weight_step, out,
    out_step, bias, lanes, floor, accumulate).

    out[i][0:lanes] = max(init + sum over taps t of x[t][i] weights[t], floor), i < pixels

    taps: address of `count` entries (x, tap, mask), int64. x[t][i] lies at x + shift + i step
    bytes, the mask likewise, a tap's weights at weights + tap weight_step, out[i] at out + i
    out_step. init: bias, or with accumulate what out holds. whole: lanes is NV VL. broadcast: x is
    one float for all lanes. gated: x counts where its mask is positive.
    """

    @intrinsic
    def tile(
        typingctx, taps, count, shift, step, mask_shift, mask_step, weights, weight_step, out,
        out_step, bias, lanes, floor, accumulate,
    ):  # fmt: skip
        i64 = types.int64
        signature = types.void(*[i64] * 12, types.float32, i64)

        def codegen(context, b, sig, values):
            taps, count, shift, step, mask_shift, mask_step, filters, weight_step = values[:8]
            out, out_step, bias, lanes, floor, accumulate = values[8:]
            e, grid = Emit(b, VL), [(i, j) for i in range(pixels) for j in range(NV)]
            zero = ir.Constant(e.vector, [0.0] * VL)
            masks = [e.lane_mask(lanes, j) for j in range(NV)]

            def lanes_at(address, j):
                at = b.add(address, e.const(4 * VL * j))
                return e.load(at) if whole else e.masked_load(at, masks[j])

            entry = b.block
            loop, body, last, from_out, from_bias, epilogue = (
                b.append_basic_block(n)
                for n in ("tap", "body", "last", "from_out", "from_bias", "epilogue")
            )
            x_offset = [b.add(shift, b.mul(step, e.const(i))) for i in range(pixels)]
            mask_offset = [b.add(mask_shift, b.mul(mask_step, e.const(i))) for i in range(pixels)]
            b.branch(loop)

            b.position_at_end(loop)
            t, acc = b.phi(I64), {ij: b.phi(e.vector) for ij in grid}
            t.add_incoming(e.const(0), entry)
            for ij in grid:
                acc[ij].add_incoming(zero, entry)
            b.cbranch(b.icmp_signed("<", t, count), body, last)

            b.position_at_end(body)
            at = b.add(taps, b.mul(t, e.const(8 * ENTRY)))
            x, tap, mask = (e.scalar(b.add(at, e.const(8 * i)), I64) for i in range(ENTRY))
            w = b.add(filters, b.mul(tap, weight_step))
            weights = [e.load(b.add(w, e.const(4 * VL * j))) for j in range(NV)]
            new = {}
            for i in range(pixels):
                x_at = b.add(x, x_offset[i])
                one = e.broadcast(e.scalar(x_at)) if broadcast else None
                for j in range(NV):
                    value = one if broadcast else lanes_at(x_at, j)
                    if gated:
                        y = lanes_at(b.add(mask, mask_offset[i]), j)
                        value = b.select(b.fcmp_ordered(">", y, zero), value, zero)
                    new[i, j] = e.fma(value, weights[j], acc[i, j])
            t.add_incoming(b.add(t, e.const(1)), body)
            for ij in grid:
                acc[ij].add_incoming(new[ij], body)
            b.branch(loop)

            b.position_at_end(last)
            out_at = [b.add(out, b.mul(out_step, e.const(i))) for i in range(pixels)]
            b.cbranch(b.icmp_signed("!=", accumulate, e.const(0)), from_out, from_bias)
            b.position_at_end(from_out)
            before = {(i, j): lanes_at(out_at[i], j) for i, j in grid}
            b.branch(epilogue)
            b.position_at_end(from_bias)
            row = [lanes_at(bias, j) for j in range(NV)]
            b.branch(epilogue)

            b.position_at_end(epilogue)
            for i, j in grid:
                init = b.phi(e.vector)
                init.add_incoming(before[i, j], from_out)
                init.add_incoming(row[j], from_bias)
                before[i, j] = init
            low = e.broadcast(floor)
            for i, j in grid:
                value = e.clamp_below(b.fadd(before[i, j], acc[i, j]), low)
                at = b.add(out_at[i], e.const(4 * VL * j))
                if whole:
                    e.store(value, at)
                else:
                    e.masked_store(value, at, masks[j])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def wgrad_tile(taps: int, NV: int, VL: int, *, whole=False, broadcast=False, gated=False):
    """Intrinsic tile(x, x_step, tap_step, gy, gy_step, mask, mask_step, pixels, sums, sum_step,
    lanes).

    sums[t][0:lanes] += sum over pixels i of g[i] x[i, t], t < taps, g = gy where mask is positive

    x[i, t] lies at x + i x_step + t tap_step bytes, gy and the mask of pixel i at i gy_step and
    i mask_step, sums[t] at sums + t sum_step, NV whole vectors wide. The chain of multiply-adds
    goes on from what sums holds.
    """

    @intrinsic
    def tile(
        typingctx, x, x_step, tap_step, gy, gy_step, mask, mask_step, pixels, sums, sum_step, lanes
    ):
        signature = types.void(*[types.int64] * 11)

        def codegen(context, b, sig, values):
            x, x_step, tap_step, gy, gy_step, mask, mask_step = values[:7]
            pixels, sums, sum_step, lanes = values[7:]
            e, grid = Emit(b, VL), [(t, j) for t in range(taps) for j in range(NV)]
            zero = ir.Constant(e.vector, [0.0] * VL)
            masks = [e.lane_mask(lanes, j) for j in range(NV)]

            def lanes_at(address, j):
                at = b.add(address, e.const(4 * VL * j))
                return e.load(at) if whole else e.masked_load(at, masks[j])

            sum_at = {
                (t, j): b.add(b.add(sums, b.mul(sum_step, e.const(t))), e.const(4 * VL * j))
                for t, j in grid
            }
            start = {tj: e.load(sum_at[tj]) for tj in grid}
            offset = [b.mul(tap_step, e.const(t)) for t in range(taps)]
            entry = b.block
            loop, body, last = (b.append_basic_block(n) for n in ("pixel", "body", "last"))
            b.branch(loop)

            b.position_at_end(loop)
            places = [(x, x_step), (gy, gy_step), (mask, mask_step), (e.const(0), e.const(1))]
            moving = [b.phi(I64) for _ in places]
            acc = {tj: b.phi(e.vector) for tj in grid}
            for phi, (first, _) in zip(moving, places, strict=True):
                phi.add_incoming(first, entry)
            for tj in grid:
                acc[tj].add_incoming(start[tj], entry)
            b.cbranch(b.icmp_signed("<", moving[3], pixels), body, last)

            b.position_at_end(body)
            x_at, g_at, mask_at, _ = moving
            g = [lanes_at(g_at, j) for j in range(NV)]
            if gated:
                for j in range(NV):
                    open_ = b.fcmp_ordered(">", lanes_at(mask_at, j), zero)
                    g[j] = b.select(open_, g[j], zero)
            new = {}
            for t in range(taps):
                at = b.add(x_at, offset[t])
                one = e.broadcast(e.scalar(at)) if broadcast else None
                for j in range(NV):
                    new[t, j] = e.fma(g[j], one if broadcast else lanes_at(at, j), acc[t, j])
            for phi, (_, step) in zip(moving, places, strict=True):
                phi.add_incoming(b.add(phi, step), body)
            for tj in grid:
                acc[tj].add_incoming(new[tj], body)
            b.branch(loop)

            b.position_at_end(last)
            for tj in grid:
                e.store(acc[tj], sum_at[tj])
            return context.get_dummy_value()

        return signature, codegen

    return tile
