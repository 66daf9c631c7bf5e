"""SGD against Caffe's formula written out, its multipliers, schedules and state."""

from itertools import product

import numpy as np
import pytest
from built import needs_core

from pyinception import backend, config, init, layers, losses, optim, rng
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


def gradients(net: layers.Linear, step: int) -> dict[str, np.ndarray]:
    draw = rng.generator(3, 0, step, "gradient")
    found = {}
    for name, parameter in net.named_parameters():
        found[name] = draw.standard_normal(parameter.shape)
        parameter.grad = found[name].astype(np.float32)
    return found


@pytest.mark.parametrize("dialect", ["tensorflow", "torch"])
def test_rmsprop_by_hand(dialect: str) -> None:
    net = init.initialise(layers.Linear(3, 2, bias=0.5), seed=1)
    own = optim.RMSProp(net, 0.1, decay=0.8, momentum=0.7, eps=0.5, dialect=dialect)
    names = dict(net.named_parameters())
    w = {n: p.data.astype(np.float64) for n, p in names.items()}
    m = {n: np.zeros_like(a) for n, a in w.items()}
    s = {n: np.full_like(a, dialect == "tensorflow") for n, a in w.items()}
    rates = {"weight": 0.1, "bias": 0.2}
    for step in range(3):
        for name, g in gradients(net, step).items():
            s[name] = 0.8 * s[name] + 0.2 * g**2
            if dialect == "tensorflow":
                m[name] = 0.7 * m[name] + rates[name] * g / np.sqrt(s[name] + 0.5)
                w[name] -= m[name]
            else:
                m[name] = 0.7 * m[name] + g / (np.sqrt(s[name]) + 0.5)
                w[name] -= rates[name] * m[name]
        own.step()
    for name, parameter in names.items():
        np.testing.assert_allclose(parameter.data, w[name], rtol=2e-6, atol=1e-7)


def test_nesterov_looks_ahead() -> None:
    net = init.initialise(layers.Linear(3, 2), seed=1)
    sgd = optim.SGD(net, 0.1, momentum=0.9, nesterov=True)
    w, v = net.weight.data.astype(np.float64), np.zeros((2, 3))
    for step in range(3):
        g = gradients(net, step)["weight"]
        v = 0.9 * v + 0.1 * g
        w = w - (0.9 * v + 0.1 * g)
        sgd.step()
    np.testing.assert_allclose(net.weight.data, w, rtol=2e-6, atol=1e-7)


def test_more_schedules() -> None:
    exponential, cosine = optim.exponential(0.045, 0.94, 100), optim.cosine(0.1, 200)
    assert exponential(0) == 0.045 and exponential(50) == pytest.approx(0.045 * 0.94**0.5)
    assert cosine(0) == 0.1 and cosine(100) == pytest.approx(0.05)
    assert cosine(200) == cosine(999) == 0.0


def test_clipping_is_by_the_norm_of_all_gradients() -> None:
    net = layers.Linear(3, 2)
    gradients(net, 0)
    before = {n: p.grad.copy() for n, p in net.named_parameters()}
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in before.values()))
    assert optim.clip_gradients(net, norm * 2) == pytest.approx(norm)
    assert all(np.array_equal(p.grad, before[n]) for n, p in net.named_parameters())
    assert optim.clip_gradients(net, norm / 2) == pytest.approx(norm)
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.grad, before[name] / 2, rtol=1e-6)
    for value in (np.inf, np.nan):
        net.bias.grad[1] = value
        kept = net.weight.grad.copy()
        with pytest.raises(FloatingPointError, match="gradient of bias is not finite"):
            optim.clip_gradients(net, norm / 4)
        assert np.array_equal(net.weight.grad, kept)
    with pytest.raises(ValueError, match="limit is 0, expected more than 0"):
        optim.clip_gradients(net, 0)


@pytest.mark.parametrize("decay", [None, 0.9, 0.05])
def test_averages_of_weights(decay: float | None) -> None:
    net = init.initialise(Sequential(layers.Linear(3, 2), layers.BatchNorm(2)), seed=1)
    average = optim.Average(net, decay)
    seen = [net.state_dict()["0.weight"].copy()]
    expected = seen[0].astype(np.float64)
    for t in range(5):
        for array in net.state_dict().values():
            array += np.float32(0.5 + t)
        now = net.state_dict()["0.weight"].astype(np.float64)
        seen.append(now)
        if decay is None:
            expected = np.mean(seen[1:], axis=0)
        else:
            d = min(decay, (1 + t) / (10 + t))
            expected = d * expected + (1 - d) * now
        average.update()
        if t == 2:
            kept = {n: a.copy() for n, a in average.state_dict().items()}
            resumed = optim.Average(net, decay)
            resumed.load_state_dict(kept)
        if t > 2:
            resumed.update()
    np.testing.assert_allclose(average.average["0.weight"], expected, rtol=1e-6)
    for name, array in average.state_dict().items():
        np.testing.assert_array_equal(array, resumed.state_dict()[name])
    own = net.state_dict()["1.mean"].copy()
    with average.applied():
        np.testing.assert_array_equal(net.state_dict()["1.mean"], average.average["1.mean"])
    np.testing.assert_array_equal(net.state_dict()["1.mean"], own)


def test_rmsprop_resumes_to_the_bit() -> None:
    net, other = (init.initialise(layers.Linear(3, 2), seed=1) for _ in range(2))
    one = optim.RMSProp(net, optim.exponential(0.1, 0.9, 2))
    for step in range(4):
        if step == 2:
            kept = {n: a.copy() for n, a in one.state_dict().items()}
            other.load_state_dict({n: a.copy() for n, a in net.state_dict().items()})
        gradients(net, step)
        one.step()
    two = optim.RMSProp(other, optim.exponential(0.1, 0.9, 2))
    two.load_state_dict(kept)
    for step in (2, 3):
        gradients(other, step)
        two.step()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda net: optim.RMSProp(net, dialect="keras"), "dialect is 'keras', expected"),
        (
            lambda net: optim.RMSProp(net, decay=1.0),
            "decay is 1.0, expected at least 0, b",
        ),
        (lambda net: optim.RMSProp(net, eps=-1), "RMSProp: eps is -1, expected at least 0"),
        (lambda net: optim.Average(net, 1.0), "Average: decay is 1.0"),
        (lambda net: optim.SGD(net, -0.1), "SGD: lr is -0.1, expected at least 0"),
        (lambda net: optim.RMSProp(net, float("nan")), "RMSProp: lr is nan, expected at least 0"),
        (lambda net: optim.SGD(net, "0.1"), r"SGD: lr is '0.1' \(str\), expected a number"),
        (lambda net: optim.SGD(net, momentum=None), r"momentum is None \(NoneType\), expected a n"),
        (lambda net: optim.Average(net, "x"), r"Average: decay is 'x' \(str\), expected a number"),
        (lambda net: optim.clip_gradients(net, "x"), r"clip_gradients: limit is 'x' \(str\), exp"),
        (lambda net: optim.step(size=0), "step: size is 0, expected at least 1"),
        (lambda net: optim.step(-1.0), "step: base is -1.0, expected at least 0"),
        (lambda net: optim.poly(last=0), "poly: last is 0, expected at least 1"),
        (lambda net: optim.exponential(gamma=-0.5), "exponential: gamma is -0.5, expected at l"),
        (lambda net: optim.cosine(0.1, 0), "cosine: last is 0, expected at least 1"),
        (lambda net: optim.cosine(float("inf")), "cosine: base is inf, expected at least 0"),
    ],
)
def test_strange_settings(make, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        make(layers.Linear(2, 2))


def numpys(w, v, g, rate, momentum, decay):
    """The update as `SGD.update` writes it, each product and sum rounded by itself."""
    rate, momentum, decay = map(np.float32, (rate, momentum, decay))
    with np.errstate(invalid="ignore"):
        g = g + decay * w if decay else g
        v = v * momentum + rate * g
        return w - v, v


@needs_core
@pytest.mark.parametrize("algorithm", ["auto", "plain"])
@pytest.mark.parametrize("count", [0, 1, 17, 16_384, 50_001])
def test_the_fused_step_has_the_bits_of_numpy(count: int, algorithm: str) -> None:
    draw = np.random.default_rng(count)
    given = [draw.standard_normal(count, np.float32) for _ in range(3)]
    if count > 3:
        given[0][1:3] = np.inf, np.nan
    for decay, level, threads in product((0.0, 2e-4), backend.core().levels(), (1, 3)):
        w, v, g = (a.copy() for a in given)
        switches = {"algorithm": algorithm, "level": level, "threads": threads}
        backend.core().sgd(w, v, g, 0.1, 0.9, decay, **switches)
        wanted = numpys(*given, 0.1, 0.9, decay)
        for found, right in zip((w, v, g), (*wanted, given[2]), strict=True):
            np.testing.assert_array_equal(found.view(np.uint32), right.view(np.uint32))


@needs_core
def test_the_fused_step_refuses_before_it_writes() -> None:
    w, v, g = (np.full(4, i, np.float32) for i in range(3))
    sgd = backend.core().sgd
    with pytest.raises(ValueError, match=r"sgd: v has shape \(3,\), expected \(4,\)"):
        sgd(w, v[:3], g, 0.1, 0.9, 0.0)
    with pytest.raises(ValueError, match=r"sgd: [vw] overlaps"):
        sgd(w, w, g, 0.1, 0.9, 0.0)
    with pytest.raises(TypeError, match="sgd: g"):
        sgd(w, v, g.astype(np.float64), 0.1, 0.9, 0.0)
    assert not w.any() and (v == 1).all()


@needs_core
@pytest.mark.parametrize("nesterov", [False, True])
def test_every_backend_takes_the_same_step(nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    launched: list[bool] = []
    monkeypatch.setattr(optim, "core", lambda s: launched.append(True) or backend.core(s))
    for name in ("reference", "cpu"):
        net = init.initialise(Sequential(a=layers.Linear(300, 200, relu=True)), seed=3)
        sgd = optim.SGD(net, 0.1, weight_decay=0.01, nesterov=nesterov)
        with config.using(backend=name):
            for step in range(3):
                for parameter in sgd.parameters.values():
                    draw = rng.generator(0, 0, step, "gradient")
                    parameter.grad = draw.standard_normal(parameter.shape, np.float32)
                sgd.step()
        found.append([*net.state_dict().values(), *sgd.state.values()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(launched) == (0 if nesterov else 6)  # two parameters, three steps


@needs_core
def test_a_weight_that_is_not_contiguous_is_moved_all_the_same() -> None:
    """Its flat form would be a copy."""
    net = layers.Linear(3, 2)
    net.weight.data = np.asfortranarray(np.ones((2, 3), np.float32))
    sgd = optim.SGD(net, 0.5)
    net.weight.grad = np.ones((2, 3), np.float32)
    sgd.step()
    np.testing.assert_array_equal(net.weight.data, np.full((2, 3), 0.5))


def test_a_step_below_0_is_refused() -> None:
    sgd = optim.SGD(layers.Linear(2, 2))
    state = sgd.state_dict() | {"iteration": np.array(-5)}
    with pytest.raises(ValueError, match=r"SGD\.load_state_dict: iteration is -5, expected"):
        sgd.load_state_dict(state)
    assert sgd.iteration == 0
