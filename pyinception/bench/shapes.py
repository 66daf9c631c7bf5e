"""The shapes that are timed: data, named after GoogLeNet's layers (Szegedy et al. 2015, table 1).

Names: a module is "3a", its fused branches are "3a/3x3" and "3a/5x5", its convolutions "3a/1x1",
"3a/reduce3x3", ... ; "all" is every one. Own shapes are "N,H,W,C,Cr,K,R" (see `own_shape`).
"""

from collections.abc import Iterable

from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec

#        side    C  (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj)
MODULES: dict[str, tuple[int, int, tuple[int, int, int, int, int, int]]] = {
    "3a": (28, 192, (64, 96, 128, 16, 32, 32)),
    "3b": (28, 256, (128, 128, 192, 32, 96, 64)),
    "4a": (14, 480, (192, 96, 208, 16, 48, 64)),
    "4b": (14, 512, (160, 112, 224, 24, 64, 64)),
    "4c": (14, 512, (128, 128, 256, 24, 64, 64)),
    "4d": (14, 512, (112, 144, 288, 32, 64, 64)),
    "4e": (14, 528, (256, 160, 320, 32, 128, 128)),
    "5a": (7, 832, (256, 160, 320, 32, 128, 128)),
    "5b": (7, 832, (384, 192, 384, 48, 128, 128)),
}
#        side   C    K  R  stride padding
STEM: dict[str, tuple[int, int, int, int, int, int]] = {
    "conv1": (224, 3, 64, 7, 2, 3),
    "conv2_reduce": (56, 64, 64, 1, 1, 0),
    "conv2": (56, 64, 192, 3, 1, 1),
}
BRANCHES = tuple(f"{module}/{kernel}" for module in MODULES for kernel in ("3x3", "5x5"))
_PARTS = ("1x1", "reduce3x3", "3x3", "reduce5x5", "5x5", "pool_proj")
CONVS = (*STEM, *(f"{module}/{part}" for module in MODULES for part in _PARTS))


def reduce_conv(N: int, H: int, W: int, C: int, Cr: int, K: int, R: int) -> BranchSpec:
    """1x1 (C to Cr) -> RxR (Cr to K), padding "same", ReLU after both."""
    if R % 2 == 0:
        raise ValueError(f'reduce_conv: R is {R}, expected an odd number (padding is "same")')
    first = ConvSpec(N, H, W, C, Cr, 1, 1, relu=True, function="reduce_conv")
    half = (R // 2, R // 2)
    last = ConvSpec(N, H, W, Cr, K, R, R, (1, 1), half, relu=True, function="reduce_conv")
    return BranchSpec((first, last), function="reduce_conv")


def own_shape(text: str) -> tuple[str, BranchSpec]:
    """(name, spec) of a branch given as "N,H,W,C,Cr,K,R", such as "1,28,28,192,96,128,3"."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 7 or min(numbers) < 1:
        wanted = "seven positive integers N,H,W,C,Cr,K,R"
        raise ValueError(f"own_shape: shape is {text!r}, expected {wanted}")
    N, H, W, C, Cr, K, R = numbers
    return f"{N}x{H}x{W}x{C}-{Cr}-{K}-{R}x{R}", reduce_conv(*numbers)


def module(name: str, batch: int = 1) -> InceptionSpec:
    """The module ``name`` on ``batch`` images."""
    side, channels, widths = MODULES[name]
    return InceptionSpec.of_widths((batch, side, side, channels), widths, "module")


def branch(name: str, batch: int = 1) -> BranchSpec:
    """The fused branch ``name``, such as "3a/3x3"."""
    of_module, kernel = name.split("/")
    return module(of_module, batch).branches[1 if kernel == "3x3" else 2]


def conv(name: str, batch: int = 1) -> ConvSpec:
    """The single convolution ``name``, with its ReLU."""
    if name in STEM:
        side, C, K, R, stride, pad = STEM[name]
        window = (stride, stride), (pad, pad)
        return ConvSpec(batch, side, side, C, K, R, R, *window, relu=True, function="conv")
    of_module, part = name.split("/")
    stages = [stage for b in module(of_module, batch).branches for stage in b.stages]
    found = [stage for stage in stages if isinstance(stage, ConvSpec)][_PARTS.index(part)]
    return found


def listing() -> str:
    """Every distinct convolution of GoogLeNet as text, a line each: `benchmarks/shapes`."""
    places: dict[tuple[int, ...], list[str]] = {}
    for name in CONVS:
        spec = conv(name)
        key = spec.H, spec.W, spec.C, spec.K, spec.R, spec.S, spec.stride[0], spec.padding[0]
        places.setdefault(key, []).append(name)
    lines = ["#  H   W    C    K  R  S stride pad times layers"]
    for (h, w, c, k, r, s, stride, pad), names in places.items():
        numbers = f"{h:4}{w:4}{c:5}{k:5}{r:3}{s:3}{stride:7}{pad:4}{len(names):6}"
        lines.append(f"{numbers} {' '.join(names)}")
    return "\n".join(lines) + "\n"


def select(names: Iterable[str] | str, known: Iterable[str], function: str) -> list[str]:
    """Names in the order given, "all" and a module's name standing for all they cover.

    Raises
    ------
    ValueError
        For a name that stands for nothing, listing what there is.
    """
    known = list(known)
    chosen: list[str] = []
    for name in [names] if isinstance(names, str) else list(names):
        covered = [k for k in known if name in ("all", k) or k.startswith(f"{name}/")]
        if not covered:
            expected = f"expected all or some of {', '.join(known)}"
            raise ValueError(f"{function}: names has {name!r}, {expected}")
        chosen += [k for k in covered if k not in chosen]
    return chosen
