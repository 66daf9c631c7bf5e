"""How far a module's results may be from the truth, and how far they are.

16 bits: at most twice the error of a plain run in the same storage, both against float64. tf32: a
bound that follows the rounding of every operand through the module.
"""

import numpy as np
from module_problems import (
    FILTER3,
    FILTER5,
    PLAIN,
    PROJECTION,
    REDUCE3,
    REDUCE5,
    Forward,
    Gradients,
    Module,
)
from pyinception.kernels import reference

UNIT = 2.0**-11  # tf32: relative error of a rounded operand


def error(got: np.ndarray, truth: np.ndarray) -> float:
    """|got - truth| / |truth|, Euclidean."""
    return float(np.linalg.norm((got - truth).ravel()) / np.linalg.norm(truth.ravel()))


def worst_ratio(got: dict, plain: dict, truth: dict) -> tuple[str, float]:
    """(name, ratio) of the array whose error is the largest multiple of the plain run's."""
    ratios = {}
    for name, exact in truth.items():
        own, other = error(got[name], exact), error(plain[name], exact)
        # sums of fp32 that both get nearly right: a ratio of two roundings says nothing
        ratios[name] = own / max(other, 1e-6)
    name = max(ratios, key=ratios.__getitem__)
    return name, ratios[name]


def _slack(terms: int) -> float:
    """Relative error of a sum of products: both operands rounded to tf32, the sum to fp32."""
    return 2 * UNIT + UNIT**2 + (terms + 2) * 2.0**-23


def _half(w: np.ndarray) -> tuple[int, int]:
    return (w.shape[1] // 2,) * 2


def forward_bound(case: Module) -> np.ndarray:
    """|y - truth| on tensor cores with fp32 storage, entry by entry."""
    x, w = np.abs(case.x.astype(np.float64)), [np.abs(v.astype(np.float64)) for v in case.w]
    b = [np.abs(v.astype(np.float64)) for v in case.b]

    def step(value, wrong, i):
        """(|value|, error) after convolution i, ReLU being no wider than its argument."""
        size = reference.conv2d_fprop(value + wrong, w[i], b[i], padding=_half(w[i]))
        carried = reference.conv2d_fprop(wrong, w[i], padding=_half(w[i]))
        return size, carried + _slack(w[i][0].size) * size

    none = np.zeros_like(x)
    pooled, _ = reference.max_pool_fprop(x, (3, 3), (1, 1), (1, 1))  # |max| is at most max ||
    r3, r5 = step(x, none, REDUCE3), step(x, none, REDUCE5)
    ends = [step(x, none, PLAIN), step(*r3, FILTER3), step(*r5, FILTER5)]
    ends.append(step(pooled, none, PROJECTION))
    return np.concatenate([wrong for _, wrong in ends], axis=3)


def backward_bound(case: Module, done: Forward) -> dict[str, np.ndarray]:
    """|gradient - truth| on tensor cores with fp32 storage, by name, entry by entry."""
    w = [np.abs(v.astype(np.float64)) for v in case.w]
    x = np.abs(case.x.astype(np.float64))
    gy = np.abs(np.where(done.y > 0, case.gy.astype(np.float64), 0))
    g1, g3, g5, gp = np.split(gy, case.cuts, axis=3)

    def step(value, wrong, i, shape):
        size = reference.conv2d_dgrad(value + wrong, w[i], shape, padding=_half(w[i]))
        carried = reference.conv2d_dgrad(wrong, w[i], shape, padding=_half(w[i]))
        return size, carried + _slack(w[i].shape[0] * w[i].shape[1] ** 2) * size

    def masked(pair, r):
        return tuple(np.where(r > 0, v, 0) for v in pair)

    none = [np.zeros_like(g) for g in (g1, g3, g5, gp)]
    r3, r5 = (
        masked(step(g3, none[1], FILTER3, done.r3.shape), done.r3),
        masked(step(g5, none[2], FILTER5, done.r5.shape), done.r5),
    )
    from_pool = step(gp, none[3], PROJECTION, x.shape)
    gathered = [
        reference.max_pool_dgrad(v, done.argmax, x.shape, (3, 3), (1, 1), (1, 1)) for v in from_pool
    ]
    wrong = gathered[1] + _slack(9) * gathered[0]
    sources = {PLAIN: (g1, none[0]), REDUCE3: r3, REDUCE5: r5}
    for i, (value, off) in sources.items():
        size, more = step(value, off, i, x.shape)
        wrong = wrong + more + _slack(4) * size
    inputs = {PLAIN: x, REDUCE3: x, REDUCE5: x, FILTER3: np.abs(done.r3.astype(np.float64)),
              FILTER5: np.abs(done.r5.astype(np.float64)),
              PROJECTION: np.abs(done.pooled.astype(np.float64))}  # fmt: skip
    sources |= {FILTER3: (g3, none[1]), FILTER5: (g5, none[2]), PROJECTION: (gp, none[3])}
    named = {"gx": wrong}
    for i, (value, off) in sources.items():
        how = {"padding": _half(w[i])}
        size, sums = reference.conv2d_wgrad(inputs[i], value + off, w[i].shape, **how)
        carried, carried_sums = reference.conv2d_wgrad(inputs[i], off, w[i].shape, **how)
        terms = value[..., 0].size
        named[f"gw{i}"] = carried + _slack(terms) * size
        named[f"gb{i}"] = carried_sums + (terms + 2) * 2.0**-23 * sums
    return named


def plain_and_truth(case: Module, done: Forward) -> tuple[Gradients, Gradients]:
    """Backward in the storage's own plain arithmetic, and in float64."""
    return case.backward(done), case.backward(done, np.float64)
