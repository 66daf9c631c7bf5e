"""The usual normalisation of one pixel, five channels and beta = 3/4, in registers.

    y_c  = x_c s_c^-3/4,   s_c = k + scale (x_{c-2}^2 + ... + x_{c+2}^2)
    gx_c = gy_c s_c^-3/4 - slope x_c (t_{c-2} + ... + t_{c+2}),   t_c = gy_c s_c^-3/4 x_c / s_c

The window of a vector of channels is cut out of its numbers and its neighbours'; written to memory
and read again a channel further on, a load would wait for two stores. Sums, roots and quotients are
those of lrn.py, so the bits are.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .register_tile import I32, Emit


class _Pixel:
    """Vectors of a pixel's channels and what the formulas make of them."""

    def __init__(self, e: Emit, C, k, scale):
        self.e, self.b, self.C = e, e.b, C
        self.zero, self.one = (self.splat(number) for number in (0.0, 1.0))
        self.k, self.scale = e.broadcast(k), e.broadcast(scale)

    def splat(self, number: float) -> ir.Constant:
        return ir.Constant(self.e.vector, [number] * self.e.vl)

    def at(self, address, first):
        """Address of channel `first`."""
        return self.b.add(address, self.b.mul(first, self.e.const(self.e.OUT_BYTES)))

    def channels(self, address, first):
        """The vector of channels from `first` on, zero from C on."""
        mask = self.e.lane_mask(self.b.sub(self.C, first), 0)
        return self.e.take(self.at(address, first), mask)

    def put(self, value, address, first) -> None:
        """Write the vector of channels from `first` on, below C."""
        end = self.b.add(first, self.e.const(self.e.vl))
        with self.b.if_else(self.b.icmp_signed("<=", end, self.C)) as (whole, part):
            with whole:
                self.e.put(value, self.at(address, first))
            with part:
                mask = self.e.lane_mask(self.b.sub(self.C, first), 0)
                self.e.put(value, self.at(address, first), mask)

    def window(self, before, here, behind):
        """Sums of five neighbouring lanes, rising, around each lane of `here`."""
        b, VL = self.b, self.e.vl

        def cut(low, high, first):
            lanes = ir.Constant(ir.VectorType(I32, VL), [first + i for i in range(VL)])
            return b.shuffle_vector(low, high, lanes)

        total = b.fadd(cut(before, here, VL - 2), cut(before, here, VL - 1))
        for term in (here, cut(here, behind, 1), cut(here, behind, 2)):
            total = b.fadd(total, term)
        return total

    def power(self, sums):
        """(s, s^-3/4) of the sums of squares."""
        b = self.b
        s = b.fadd(self.k, b.fmul(self.scale, sums))
        root = self._root(s)
        return s, b.fdiv(self.one, b.fmul(root, self._root(root)))

    def _root(self, value):
        return self.e._intrinsic(f"llvm.sqrt.v{self.e.vl}f32", self.e.vector, value)

    def loop(self, state: list, body) -> None:
        """first, *state = first + VL, *body(first, *state) from channel 0 until `first` >= C.

        body gives (where the loop goes on, new state); it may end in another block.
        """
        b, entry = self.b, self.b.block
        start = [self.e.const(0), *state]
        head, end = (b.append_basic_block(name) for name in ("loop", "end"))
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(value.type) for value in start]
        for phi, value in zip(phis, start, strict=True):
            phi.add_incoming(value, entry)
        goes_on, *new = body(*phis)
        for phi, value in zip(phis, new, strict=True):
            phi.add_incoming(value, b.block)
        b.cbranch(goes_on, head, end)
        b.position_at_end(end)


def lrn_pixel(VL: int, emit_map=Emit):
    """Intrinsic pixel(x, y, C, k, scale): y[0:C] of x[0:C], addresses of elements of `emit_map`."""

    @intrinsic
    def pixel(typingctx, x, y, C, k, scale):
        signature = types.void(*[types.int64] * 3, *[types.float32] * 2)

        def emit(context, b, sig, values):
            x, y, C, k, scale = values
            p = _Pixel(emit_map(b, VL), C, k, scale)
            value = p.channels(x, p.e.const(0))

            def body(first, before, value, squares):
                after = b.add(first, p.e.const(VL))
                following = p.channels(x, after)
                behind = b.fmul(following, following)
                _, power = p.power(p.window(before, squares, behind))
                p.put(b.fmul(value, power), y, first)
                return b.icmp_signed("<", after, C), after, squares, following, behind

            p.loop([p.zero, value, b.fmul(value, value)], body)
            return context.get_dummy_value()

        return signature, emit

    return pixel


def lrn_gradient_pixel(VL: int):
    """Intrinsic pixel(x, gy, gx, C, k, scale, slope): gx[0:C] of x[0:C] and gy[0:C], float32.

    t of a vector needs the next one's squares, gx the next one's t: it is a vector behind.
    """

    @intrinsic
    def pixel(typingctx, x, gy, gx, C, k, scale, slope):
        signature = types.void(*[types.int64] * 4, *[types.float32] * 3)

        def emit(context, b, sig, values):
            x, gy, gx, C, k, scale, slope = values
            p = _Pixel(Emit(b, VL), C, k, scale)
            slope, step = p.e.broadcast(slope), p.e.const(VL)

            def finish(first, value, direct, t_before, t, t_behind):
                sums = p.window(t_before, t, t_behind)
                result = b.fsub(direct, b.fmul(b.fmul(slope, value), sums))
                p.put(result, gx, first)

            def body(first, squares_before, value, squares, *last):
                after = b.add(first, step)
                following = p.channels(x, after)
                behind = b.fmul(following, following)
                s, power = p.power(p.window(squares_before, squares, behind))
                direct = b.fmul(p.channels(gy, first), power)
                t = b.fdiv(b.fmul(direct, value), s)
                # Lanes from C on would be 0 / k: of no channel, and NaN where k is zero.
                t = b.select(p.e.lane_mask(b.sub(C, first), 0), t, p.zero)
                last_value, last_direct, t_before, last_t = last
                with b.if_then(b.icmp_signed(">", first, p.e.const(0))):
                    finish(b.sub(first, step), last_value, last_direct, t_before, last_t, t)
                goes_on = b.icmp_signed("<", after, C)
                with b.if_then(b.not_(goes_on)):
                    finish(first, value, direct, last_t, t, p.zero)
                return goes_on, after, squares, following, behind, value, direct, last_t, t

            value = p.channels(x, p.e.const(0))
            p.loop([p.zero, value, b.fmul(value, value), *[p.zero] * 4], body)
            return context.get_dummy_value()

        return signature, emit

    return pixel
