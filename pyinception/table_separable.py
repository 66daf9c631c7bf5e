"""Runs of depthwise convolution and of the residual sum, on the core and on the reference."""

# mypy: allow-untyped-defs, allow-untyped-calls

from collections.abc import Callable
from typing import Any

from pyinception.backend import reference

Run = Callable[..., None]


def cpu_runs(call: Callable[..., None]) -> dict[str, Run]:
    """op_direction -> run; ``call(name, *arguments)`` calls the core with the switches in force."""

    def depthwise_conv_fprop(spec, x, w, b, y):
        where = spec.kernel, spec.stride, spec.padding
        call("depthwise_conv_fprop", x, w, b, y, *where, spec.relu)

    def depthwise_conv_dgrad(spec, gy, w, y, gx, accumulate):
        where = spec.kernel, spec.stride, spec.padding
        call("depthwise_conv_dgrad", gy, w, y, gx, *where, accumulate)

    def depthwise_conv_wgrad(spec, x, gy, y, gw, gb):
        where = spec.kernel, spec.stride, spec.padding
        call("depthwise_conv_wgrad", x, gy, y, gw, gb, *where)

    def add_scaled_fprop(spec, a, b, y):
        call("add_scaled_fprop", a, b, y, spec.scale, spec.relu)

    def add_scaled_dgrad(spec, gy, y, ga, gb):
        call("add_scaled_dgrad", gy, y, ga, gb, spec.scale)

    return _runs(locals())


def reference_runs() -> dict[str, Run]:
    """op_direction -> run that copies the reference's results into the outputs."""

    def window(spec):
        return {"stride": spec.stride, "padding": spec.padding}

    def put(outputs, results):
        for output, result in zip(outputs, results, strict=True):
            if output is not None:
                output[...] = result

    def depthwise_conv_fprop(spec, x, w, b, y):
        y[...] = reference().depthwise_conv2d_fprop(x, w, b, relu=spec.relu, **window(spec))

    def depthwise_conv_dgrad(spec, gy, w, y, gx, accumulate):
        new = reference().depthwise_conv2d_dgrad(gy, w, spec.x_shape, y=y, **window(spec))
        gx[...] = gx + new if accumulate else new

    def depthwise_conv_wgrad(spec, x, gy, y, gw, gb):
        put((gw, gb), reference().depthwise_conv2d_wgrad(x, gy, spec.w_shape, y=y, **window(spec)))

    def add_scaled_fprop(spec, a, b, y):
        y[...] = reference().add_scaled_fprop(a, b, scale=spec.scale, relu=spec.relu)

    def add_scaled_dgrad(spec, gy, y, ga, gb):
        put((ga, gb), reference().add_scaled_dgrad(gy, scale=spec.scale, y=y))

    return _runs(locals())


def _runs(found: dict[str, Any]) -> dict[str, Run]:
    return {name: run for name, run in found.items() if name.endswith(("_fprop", "grad"))}
