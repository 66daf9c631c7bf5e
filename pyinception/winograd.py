"""Which convolutions the compiled core takes by Winograd: a rule of filter and stride."""

from pyinception.spec import BranchSpec, ConvSpec, Spec

# Filters that it transforms, and the stride it wants: a 7x7 is 4x4 over the map's four phases.
STRIDES = dict.fromkeys(((3, 3), (5, 5), (1, 3), (3, 1), (1, 7), (7, 1)), (1, 1))
STRIDES[7, 7] = (2, 2)


def format_of(conv: ConvSpec, algorithm: str) -> str:
    """The algorithm to pack for: the core's "auto" is a rule of the filter and knows no stride."""
    stride = STRIDES.get(conv.kernel, (1, 1))
    if algorithm != "auto" or conv.stride == stride == (1, 1):
        return algorithm
    return "winograd" if conv.stride == stride else "direct"


def why_not(direction: str, spec: Spec) -> str | None:
    """What it lacks for ``spec``, or None; a module has a 3x3 and a 5x5 branch for it."""
    last = spec.stages[-1] if isinstance(spec, BranchSpec) else spec
    if not isinstance(last, ConvSpec):
        return None
    if last.kernel not in STRIDES:
        kernels = ", ".join("x".join(map(str, kernel)) for kernel in STRIDES)
        return f"needs a filter of one of {kernels}, not {last.kernel}"
    stride = STRIDES[last.kernel]
    if last.stride != stride:
        return f"needs stride {stride[0]} for {last.kernel}, not {last.stride}"
    if stride != (1, 1) and direction in ("dgrad", "backward"):
        return f"has no gradient of x for {last.kernel}"
    return None
