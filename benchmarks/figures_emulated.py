"""Training on the CUDA kernels without a GPU: emulated steps beside those of the CPU's kernels."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception import backend, emulator, losses, rng

LIMIT = 1e-5
# images of a step, classes, rate, decay: as the network's own recipe has them
NETS: dict[str, tuple[tuple[int, ...], int, float, float]] = {
    "small_inception": ((2, 28, 28, 3), 10, 0.1, 1e-4),
    "googlenet": ((1, 224, 224, 3), 10, 0.01, 2e-4),
}


def emulated(quick: bool = False) -> Figure:
    """SGD steps on backend "emulated", each from the weights and momenta of the CPU run."""
    if reason := backend.why_not("emulated"):
        raise Unavailable(reason)
    steps = 1 if quick else 20
    promise = (
        f"{steps} training steps on the emulated CUDA kernels, each from the CPU run's weights"
    )
    figure = Figure("emulated", f"{promise}: loss and every updated weight within {LIMIT:g}")
    figure.notes.append("an error is relative to the largest of its array, or to 0.01 if less")
    for kind in ("small_inception",) if quick else NETS:
        _train_beside(figure, kind, steps)
    return figure


def _train_beside(figure: Figure, kind: str, steps: int) -> None:
    images, classes, rate, decay = NETS[kind]
    nets = [getattr(pyi.models, kind)(classes, seed=5) for _ in range(2)]
    sgds = [pyi.optim.SGD(net, rate, momentum=0.9, weight_decay=decay) for net in nets]
    for net in nets:
        net.train()
    draw = np.random.default_rng(6)
    worst: dict[str, tuple[float, str]] = {"loss": (0.0, ""), "weights": (0.0, "")}
    seconds, first, last = 0.0, 0.0, 0.0
    for number in range(steps):
        x = draw.standard_normal(images).astype(np.float32)
        labels = draw.integers(0, classes, len(x))
        _copy(nets[0], sgds[0], nets[1], sgds[1])
        last = _step(nets[0], sgds[0], x, labels, number, "cpu")
        start = time.perf_counter()
        with emulator.using(checked=False, workers=2):
            other = _step(nets[1], sgds[1], x, labels, number, "emulated")
        seconds += time.perf_counter() - start
        first = first or last
        worst["loss"] = max(worst["loss"], (abs(other - last) / abs(last), f"step {number}"))
        pairs = zip(nets[0].named_parameters(), nets[1].named_parameters(), strict=True)
        for (name, a), (_, b) in pairs:
            error = float(np.abs(a.data - b.data).max() / max(np.abs(a.data).max(), 1e-2))
            worst["weights"] = max(worst["weights"], (error, f"{name}, step {number}"))
    errors = {f"{what} error": error for what, (error, _) in worst.items()}
    cells = {"first loss": first, "last loss": last, "seconds a step": seconds / steps}
    figure.add(net=kind, batch=images[0], steps=steps, **cells, **errors, where=worst["weights"][1])
    for what, (error, where) in worst.items():
        figure.at_most(f"{kind}: {what} ({where})", error, LIMIT)


def _copy(net: Any, sgd: Any, to: Any, to_sgd: Any) -> None:
    """The state of one run into the other."""
    to.load_state_dict({name: np.array(a) for name, a in net.state_dict().items()})
    for name, velocity in sgd.velocity.items():
        to_sgd.velocity[name][...] = velocity


def _step(net: Any, sgd: Any, x: np.ndarray, labels: np.ndarray, number: int, name: str) -> float:
    with pyi.using(backend=name), rng.at(seed=5, step=number):
        loss = losses.cross_entropy(net(x), labels)
        loss.backward()
        sgd.step()
    return float(loss.item())
