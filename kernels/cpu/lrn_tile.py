"""The usual normalisation of one pixel, five channels and beta = 3/4, in registers.

    y_c = x_c s_c^-3/4,   s_c = k + scale (x_{c-2}^2 + ... + x_{c+2}^2)

The window of a vector of channels is cut out of its squares and its neighbours'; written to memory
and read again a channel further on, a load would wait for two stores. Sums and roots are those of
lrn.py, so the bits are.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .register_tile import I32, I64, Emit


def lrn_pixel(VL: int, emit_map=Emit):
    """Intrinsic pixel(x, y, C, k, scale): y[0:C] of x[0:C], addresses of elements of `emit_map`."""

    @intrinsic
    def pixel(typingctx, x, y, C, k, scale):
        signature = types.void(*[types.int64] * 3, *[types.float32] * 2)

        def emit(context, b, sig, values):
            x, y, C, k, scale = values
            e = emit_map(b, VL)
            zero, one = (ir.Constant(e.vector, [number] * VL) for number in (0.0, 1.0))
            k, scale = e.broadcast(k), e.broadcast(scale)

            def channels(first):
                """A vector of x from channel `first` on, zero from C on, and its squares."""
                at = b.add(x, b.mul(first, e.const(e.OUT_BYTES)))
                value = e.take(at, e.lane_mask(b.sub(C, first), 0))
                return value, b.fmul(value, value)

            def window(low, high, first):
                """VL lanes of the two vectors from lane `first` on."""
                lanes = ir.Constant(ir.VectorType(I32, VL), [first + i for i in range(VL)])
                return b.shuffle_vector(low, high, lanes)

            entry = b.block
            loop, end = (b.append_basic_block(name) for name in ("loop", "end"))
            head = e.const(0), zero, *channels(e.const(0))
            b.branch(loop)
            b.position_at_end(loop)
            state = [b.phi(kind) for kind in (I64, *[e.vector] * 3)]
            for phi, value in zip(state, head, strict=True):
                phi.add_incoming(value, entry)
            first, before, value, squares = state
            after = b.add(first, e.const(VL))
            following, behind = channels(after)
            total = b.fadd(window(before, squares, VL - 2), window(before, squares, VL - 1))
            for term in (squares, window(squares, behind, 1), window(squares, behind, 2)):
                total = b.fadd(total, term)
            root = _root(e, b.fadd(k, b.fmul(scale, total)))
            result = b.fmul(value, b.fdiv(one, b.fmul(root, _root(e, root))))
            to = b.add(y, b.mul(first, e.const(e.OUT_BYTES)))
            with b.if_else(b.icmp_signed("<=", after, C)) as (whole, part):
                with whole:
                    e.put(result, to)
                with part:
                    e.put(result, to, e.lane_mask(b.sub(C, first), 0))
            for phi, new in zip(state, (after, squares, following, behind), strict=True):
                phi.add_incoming(new, b.block)
            b.cbranch(b.icmp_signed("<", after, C), loop, end)
            b.position_at_end(end)
            return context.get_dummy_value()

        return signature, emit

    return pixel


def _root(e: Emit, value):
    return e._intrinsic(f"llvm.sqrt.v{e.vl}f32", e.vector, value)
