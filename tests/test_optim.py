"""SGD against Caffe's formula written out, its multipliers, schedules and state."""

import numpy as np
import pytest

from pyinception import init, layers, losses, optim, rng
from pyinception.module import Sequential


def test_two_steps_by_hand() -> None:
    net = init.initialise(layers.Linear(3, 2, bias=0.5), seed=1)
    sgd = optim.SGD(net, 0.1, momentum=0.9, weight_decay=0.01)
    names = dict(net.named_parameters())
    w = {n: p.data.astype(np.float64) for n, p in names.items()}
    v = {n: np.zeros_like(a) for n, a in w.items()}
    mults = {"weight": (1, 1), "bias": (2, 0)}  # learning rate, decay: as Caffe's model has them
    for step in range(2):
        for name, parameter in names.items():
            g = np.full(parameter.shape, 0.3 * (step + 1))
            parameter.grad = g.astype(np.float32)
            rate, decay = mults[name]
            v[name] = 0.9 * v[name] + 0.1 * rate * (g + 0.01 * decay * w[name])
            w[name] = w[name] - v[name]
        sgd.step()
    for name, parameter in names.items():
        np.testing.assert_allclose(parameter.data, w[name], rtol=1e-6)
        assert parameter.grad is None
        assert parameter.version == 3  # one initialisation, two steps
    assert sgd.iteration == 2


def test_parameters_without_gradient_are_left_alone() -> None:
    net = init.initialise(Sequential(a=layers.Linear(3, 2), b=layers.Linear(3, 2)), seed=1)
    before = {n: a.copy() for n, a in net.state_dict().items()}
    net.a.weight.grad = np.ones((2, 3), np.float32)  # type: ignore[attr-defined]
    optim.SGD(net, 0.1, weight_decay=0.1).step()
    changed = {n for n, a in net.state_dict().items() if not np.array_equal(a, before[n])}
    assert changed == {"a.weight"}


def test_schedules_are_functions_of_the_step() -> None:
    step, poly = optim.step(), optim.poly()
    assert step(319_999) == 0.01
    assert step(320_000) == pytest.approx(0.0096)
    assert step(640_000) == pytest.approx(0.01 * 0.96**2)
    assert poly(1_200_000) == pytest.approx(0.0070711, abs=5e-8)
    assert poly(2_400_000) == poly(3_000_000) == 0.0
    net = layers.Linear(2, 2)
    sgd = optim.SGD(net, lambda t: 1.0 / (t + 1))
    rates = []
    for _ in range(3):
        rates.append(sgd.lr)
        sgd.step()
    assert rates == [1.0, 0.5, 1 / 3]


def train(net: Sequential, sgd: optim.SGD, steps: range) -> list[float]:
    values = []
    for t in steps:
        draw = rng.generator(0, 0, t, "batch")
        x = draw.standard_normal((64, 6)).astype(np.float32)
        loss = losses.cross_entropy(net(x), (x[:, 0] > 0).astype(np.int64))
        loss.backward()
        sgd.step()
        values.append(loss.item())
    return values


def network() -> Sequential:
    net = Sequential(layers.Linear(6, 16, relu=True), layers.Dropout(0.3), layers.Linear(16, 2))
    init.initialise(net, seed=2)
    return net


def test_training_goes_down_and_resumes_to_the_bit() -> None:
    rng.set_step(0)
    net = network()
    sgd = optim.SGD(net, optim.poly(0.2, 0.5, 100), weight_decay=1e-3)
    values = train(net, sgd, range(20))
    half = {n: a.copy() for n, a in net.state_dict().items()}
    state = {n: a.copy() for n, a in sgd.state_dict().items()}
    values += train(net, sgd, range(20, 40))
    assert np.mean(values[-10:]) < 0.6 * np.mean(values[:10])

    rng.set_step(0)
    other = network()
    again = optim.SGD(other, optim.poly(0.2, 0.5, 100), weight_decay=1e-3)
    other.load_state_dict(half)
    again.load_state_dict(state)
    assert again.iteration == 20
    assert rng.current().step == 20  # dropout goes on where it stopped
    assert train(other, again, range(20, 40)) == values[20:]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name])


def test_refusals() -> None:
    net = layers.Linear(2, 2)
    with pytest.raises(ValueError, match="momentum is 1"):
        optim.SGD(net, 0.1, momentum=1.0)
    with pytest.raises(ValueError, match="weight_decay is -1"):
        optim.SGD(net, 0.1, weight_decay=-1.0)
    sgd = optim.SGD(net, 0.1)
    with pytest.raises(ValueError, match="missing bias"):
        sgd.load_state_dict({k: v for k, v in sgd.state_dict().items() if k != "bias"})
