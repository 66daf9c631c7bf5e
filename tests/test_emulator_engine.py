"""The engine on backend "emulated": a small Inception net trained beside the CPU backend.

Same weights, same images, three steps of SGD: after each one loss, gradients and weights agree to
1e-5. Every op of the step ran on the CUDA kernels by their plans.
"""

from typing import Any

import numpy as np
import pytest

import pyinception as pyi
from pyinception import backend, dispatch, emulator, init, losses, optim, rng
from pyinception.layers import (
    ConvBatchNorm,
    Dropout,
    GlobalAvgPool,
    Inception,
    Linear,
    Lrn,
    MaxPool2d,
)
from pyinception.module import Module
from pyinception.tensor import Tensor

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)


class Net(Module):
    """14x14x3 -> logits (N, 5): batch norm, LRN, three modules, both pools, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(3, 16, 3)
        self.norm1 = Lrn()
        self.inception_a = Inception(16, 8, 8, 16, 4, 8, 8)
        self.inception_b = Inception(40, 16, 8, 16, 4, 8, 8)
        self.pool = MaxPool2d(3, 2)
        self.inception_c = Inception(48, 16, 12, 24, 6, 8, 12)
        self.average = GlobalAvgPool()
        self.drop = Dropout(0.4)
        self.fc = Linear(60, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inception_b(self.inception_a(self.norm1(self.conv1(x))))
        logits: Tensor = self.fc(self.drop(self.average(self.inception_c(self.pool(x)))))
        return logits


def trained(name: str, x: np.ndarray, labels: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Loss, gradients and weights after each of three steps."""
    net, states = Net(), []
    init.initialise(net, 3)
    net.train()
    sgd = optim.SGD(net, 0.05, momentum=0.9, weight_decay=1e-4)
    with pyi.using(backend=name), rng.at(seed=1, step=0):
        for _ in range(3):
            loss = losses.cross_entropy(net(x), labels)
            loss.backward()
            state = {"loss": np.array(loss.data)}
            for path, parameter in net.named_parameters():
                state[f"g {path}"] = np.array(parameter.grad)
            sgd.step()
            state |= {path: np.array(a) for path, a in net.state_dict().items()}
            states.append(state)
    return states


def test_three_steps_beside_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2, 14, 14, 3)).astype(np.float32)
    labels = np.array([1, 4])
    wanted = trained("cpu", x, labels)
    ran: set[tuple[str, str, str]] = set()
    choose = dispatch.choose

    def noting(op: str, direction: str, *arguments: Any, **how: Any) -> Any:
        plan = choose(op, direction, *arguments, **how)
        ran.add((op, direction, plan.row.backend))
        return plan

    monkeypatch.setattr(dispatch, "choose", noting)
    with emulator.using(order="greedy", seed=1):  # checked: the translations are there already
        got = trained("emulated", x, labels)
    assert {backend for _, _, backend in ran} == {"emulated"}
    assert {op for op, _, _ in ran} == {
        "avg_pool", "batch_norm", "conv", "dropout", "inception", "linear", "lrn", "max_pool",
        "softmax_cross_entropy",
    }  # fmt: skip
    moved = 0
    for step, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            # a bias before a batch norm has no gradient but rounding
            scale = np.abs(b[name]).max(initial=1e-2)
            error = np.abs(a[name] - b[name]).max(initial=0) / scale
            assert error <= 1e-5, (step, name, error)
        moved += any(not np.array_equal(b[name], wanted[0][name]) for name in b)
    assert moved == 2  # the weights did change between the steps
