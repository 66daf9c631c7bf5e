"""What a call costs above the compiled core: one branch, batch 1, from NumPy and from PyTorch.

    python benchmarks/call_overhead.py [--layer 5a/5x5] [--rounds 300] [--json FILE]

Every row runs the same kernel on the same packed filters, one thread. *over* is the median of the
call minus the median of the bare call of ``pyinception._C``, whose output exists already: checks,
allocation of the result, dispatch. Samples are taken in turns (blocks of about 1 ms).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import pyinception as pyi
from pyinception.backend import core
from pyinception.bench import shapes
from pyinception.bench.timing import interleave
from pyinception.prepack import Format

Call = Callable[[], Any]
LIMITS = {"numpy": 10.0, "torch": 15.0}  # us over the bare call


def calls(layer: str) -> dict[str, Call]:
    """name -> call: the bare core first, then NumPy, then PyTorch where it is installed."""
    first, last = shapes.branch(layer).stages
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape, np.float32)

    x, b_reduce, b = draw(*first.x_shape), draw(first.K), draw(last.K)
    w_reduce, w = draw(*first.w_shape), draw(*last.w_shape)
    packed = [pyi.prepack(f, Format(*f.shape, "fprop", "auto")) for f in (w_reduce, w)]
    operands = (x, packed[0].data, b_reduce, packed[1].data, b, np.empty(last.y_shape, np.float32))
    rest = (None, last.kernel, last.stride, last.padding, "auto", "", 1)
    bare = core().reduce_conv_fprop
    made: dict[str, Call] = {
        "bare": lambda: bare(*operands, *rest),
        "numpy": lambda: pyi.reduce_conv2d(x, packed[0], b_reduce, packed[1], b),
    }
    if find_spec("torch") is not None:
        made |= torch_calls(x, (w_reduce, b_reduce, w, b), packed)
    return made


def torch_calls(x: Any, weights: tuple[Any, ...], packed: list[Any]) -> dict[str, Call]:
    """The same branch on tensors: as a function of packed filters, and as a module."""
    import torch

    from pyinception.interop.torch import ReduceConv2d, reduce_conv2d

    torch.set_num_threads(1)
    tensor = torch.from_numpy(x).permute(0, 3, 1, 2)
    filters = [torch.from_numpy(f.transpose(0, 3, 1, 2)) for f in weights[::2]]
    biases = [torch.from_numpy(b) for b in weights[1::2]]
    (k, cr, r, s), c = filters[1].shape, tensor.shape[1]
    module = ReduceConv2d(c, cr, k, (r, s)).eval().requires_grad_(False)
    with torch.no_grad():
        for name, value in zip(
            ("w_reduce", "b_reduce", "w", "b"),
            (filters[0], biases[0], filters[1], biases[1]),
            strict=True,
        ):
            getattr(module, name).copy_(value)
    operands = tensor, packed[0], biases[0], packed[1], biases[1]
    return {"torch": lambda: reduce_conv2d(*operands), "torch module": lambda: module(tensor)}


def measure(layer: str, rounds: int) -> list[dict[str, Any]]:
    """One row per way of calling: median, p20, p80 and time over the bare call, us."""
    with pyi.using(threads=1):
        timed = interleave(calls(layer), rounds=rounds)
    bare = timed["bare"].median
    return [
        {
            "call": name,
            "median_us": 1e6 * timing.median,
            "p20_us": 1e6 * timing.p20,
            "p80_us": 1e6 * timing.p80,
            "over_us": 1e6 * (timing.median - bare),
        }
        for name, timing in timed.items()
    ]


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", default="5a/5x5", choices=shapes.BRANCHES)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args(arguments)
    rows = measure(options.layer, options.rounds)
    print(f"{options.layer}, batch 1, 1 thread, {options.rounds} blocks of about 1 ms each")
    print(f"{'call':14} {'us':>8} {'p20 - p80':>17} {'over':>7} {'limit':>6}")
    for row in rows:
        spread = f"{row['p20_us']:.1f} - {row['p80_us']:.1f}"
        limit = LIMITS.get(row["call"].partition(" ")[0])
        cells = f"{row['median_us']:8.1f} {spread:>17} {row['over_us']:7.1f}"
        print(f"{row['call']:14} {cells} {limit or '-':>6}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
