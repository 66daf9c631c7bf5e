"""Training on the CUDA kernels without a GPU: emulated steps beside those of the CPU's kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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
NOTES = (
    "errors are relative to the largest value in their layer, or to 0.01 if less; the CPU runs its "
    "direct kernels",
    "gradients and weights: backward and update by the CUDA kernels from the activations of the "
    "CPU's forward, so that both sides have the same ReLU masks and argmaxes",
    "free: forward by the CUDA kernels too; a value that rounds to the other side of a ReLU or "
    "loses a window switches its gradient on or off, so that column has no limit",
)


def emulated(quick: bool = False) -> Figure:
    """SGD steps on backend "emulated", each from the weights and momenta of the CPU run."""
    if reason := backend.why_not("emulated"):
        raise Unavailable(reason)
    steps = 1 if quick else 20
    promise = (
        f"{steps} training steps on the emulated CUDA kernels, each from the CPU run's weights"
    )
    what = "logits, loss, every gradient and every updated weight"
    figure = Figure("emulated", f"{promise}: {what} within {LIMIT:g}", notes=list(NOTES))
    for kind in NETS:
        beside(figure, kind, steps)
    return figure


class _Run:
    """A network with its optimiser, and what its last step gave."""

    def __init__(self, kind: str) -> None:
        _, classes, rate, decay = NETS[kind]
        self.net: Any = getattr(pyi.models, kind)(classes, seed=5).train()
        self.sgd = pyi.optim.SGD(self.net, rate, momentum=0.9, weight_decay=decay)

    def take(self, other: _Run) -> None:
        """The state of another run."""
        self.net.load_state_dict({name: a.copy() for name, a in other.net.state_dict().items()})
        self.sgd.load_state_dict(other.sgd.state_dict())

    def step(
        self, x: np.ndarray, labels: np.ndarray, number: int, forward: str, backward: str
    ) -> None:
        """One update, forward and backward each on its backend."""
        with _on(forward), rng.at(seed=5, step=number):
            outputs = self.net(x)
            loss = losses.cross_entropy(outputs, labels)
        with _on(backward), rng.at(seed=5, step=number):
            loss.backward()
            heads = outputs if isinstance(outputs, tuple) else (outputs,)
            self.logits = {f"logits {i}": head.data for i, head in enumerate(heads)}
            self.gradients = {n: np.array(p.grad) for n, p in self.net.named_parameters()}
            self.sgd.step()
        self.loss = float(loss.item())


@contextmanager
def _on(name: str) -> Iterator[None]:
    how = {"algorithm": "direct"} if name == "cpu" else {}
    with pyi.using(backend=name, **how), emulator.using(checked=False, workers=2):  # type: ignore[arg-type]
        yield


def beside(figure: Figure, kind: str, steps: int) -> None:
    """One row of the figure: ``steps`` steps of a network, errors the worst of all steps."""
    images, classes, *_ = NETS[kind]
    cpu, ours, free = (_Run(kind) for _ in range(3))
    draw = np.random.default_rng(6)
    worst: dict[str, tuple[float, str]] = {}
    seconds, losses_seen = 0.0, []
    for number in range(steps):
        x = draw.standard_normal(images).astype(np.float32)
        labels = draw.integers(0, classes, len(x))
        ours.take(cpu)
        free.take(cpu)
        cpu.step(x, labels, number, "cpu", "cpu")
        ours.step(x, labels, number, "cpu", "emulated")
        start = time.perf_counter()
        free.step(x, labels, number, "emulated", "emulated")
        seconds += time.perf_counter() - start
        losses_seen.append(cpu.loss)
        found = {
            "loss": [("loss", abs(free.loss - cpu.loss) / abs(cpu.loss))],
            "logits": _errors(free.logits, cpu.logits),
            "gradients": _errors(ours.gradients, cpu.gradients),
            "weights": _errors(ours.net.state_dict(), cpu.net.state_dict()),
            "free": _errors(free.gradients, cpu.gradients),
        }
        for what, errors in found.items():
            name, error = max(errors, key=lambda pair: pair[1])
            worst[what] = max(worst.get(what, (0.0, "")), (error, f"{name}, step {number}"))
    cells = {"first loss": losses_seen[0], "last loss": losses_seen[-1]}
    errors_of = {what: error for what, (error, _) in worst.items()}
    figure.add(
        net=kind, batch=images[0], steps=steps, **cells, **errors_of,
        **{"seconds a step": seconds / steps},
    )  # fmt: skip
    for what, (error, where) in worst.items():
        if what != "free":
            figure.at_most(f"{kind}: {what} ({where})", error, LIMIT)


def _errors(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> list[tuple[str, float]]:
    """Largest difference of each array over the largest value in its layer: the gradient of a bias
    before a batch norm is 0 but for rounding."""
    scale: dict[str, float] = {}
    for name, array in wanted.items():
        layer = name.rpartition(".")[0]
        scale[layer] = max(scale.get(layer, 1e-2), float(np.abs(array).max(initial=0)))
    return [
        (name, float(np.abs(got[name] - a).max(initial=0)) / scale[name.rpartition(".")[0]])
        for name, a in wanted.items()
    ]
