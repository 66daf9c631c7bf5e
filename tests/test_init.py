"""Initial weights: Caffe's rule, and bits that depend on seed and name alone."""

from math import sqrt

import numpy as np
import pytest

from pyinception import init, layers, rng
from pyinception.module import Sequential


def test_xavier_is_uniform_by_fan_in() -> None:
    bound = sqrt(3 / 288)
    w = init.xavier((64, 3, 3, 32), 288, seed=0, name="conv.weight")
    assert w.dtype == np.float32
    assert np.abs(w).max() <= bound
    assert np.abs(w).max() > 0.99 * bound
    assert abs(w.mean()) < 3 * bound / sqrt(3 * w.size)
    assert w.std() == pytest.approx(bound / sqrt(3), rel=0.01)  # variance 1 / fan_in


def test_bits_are_those_of_seed_and_name() -> None:
    a = init.xavier((4, 5), 5, seed=7, name="fc.weight")
    np.testing.assert_array_equal(a, init.xavier((4, 5), 5, seed=7, name="fc.weight"))
    assert not np.array_equal(a, init.xavier((4, 5), 5, seed=8, name="fc.weight"))
    assert not np.array_equal(a, init.xavier((4, 5), 5, seed=7, name="fd.weight"))


def test_uniform_takes_the_top_24_bits() -> None:
    from zlib import crc32

    key = np.array([3, crc32(b"here")], np.uint64)
    raw = np.random.Philox(key=key, counter=np.zeros(4, np.uint64)).random_raw(6)
    expected = [-2 + 4 * float(int(word) >> 40) / 2**24 for word in raw]
    got = rng.uniform((2, 3), -2, 2, seed=3, purpose="here")
    np.testing.assert_allclose(got.ravel(), expected, rtol=0, atol=1e-6)


def test_every_parameter_follows_its_own_rule() -> None:
    net = Sequential(conv=layers.Conv2d(3, 4, 3), fc=layers.Linear(4, 2), norm=layers.BatchNorm(2))
    init.initialise(net, seed=1)
    values = net.state_dict()
    np.testing.assert_array_equal(values["conv.bias"], np.float32(0.2))
    np.testing.assert_array_equal(values["fc.bias"], 0)
    np.testing.assert_array_equal(values["norm.gamma"], 1)
    np.testing.assert_array_equal(values["norm.beta"], 0)
    assert np.abs(values["conv.weight"]).max() <= sqrt(3 / 27)
    assert values["conv.weight"].std() > 0.1


def test_order_of_definition_does_not_matter() -> None:
    a = Sequential(one=layers.Linear(3, 2), two=layers.Linear(3, 2))
    b = Sequential(two=layers.Linear(3, 2), one=layers.Linear(3, 2))
    init.initialise(a, seed=5)
    init.initialise(b, seed=5)
    for name, array in a.state_dict().items():
        np.testing.assert_array_equal(array, b.state_dict()[name])
    assert not np.array_equal(a.one.weight.data, a.two.weight.data)  # type: ignore[attr-defined]


def test_generator_streams_are_apart_and_repeat() -> None:
    keys = [
        (0, 0, 0, "order"),
        (1, 0, 0, "order"),
        (0, 1, 0, "order"),
        (0, 0, 1, "order"),
        (0, 0, 0, "crop"),
    ]
    draws = [rng.generator(*key).integers(0, 2**62, 4).tolist() for key in keys]
    assert len({tuple(draw) for draw in draws}) == len(keys)
    assert rng.generator(*keys[0]).integers(0, 2**62, 4).tolist() == draws[0]
    with pytest.raises(ValueError, match="epoch is -1"):
        rng.generator(0, -1, 0, "order")


def test_stream_context() -> None:
    before = rng.current()
    with rng.at(seed=3, step=4, first_sample=5) as stream:
        assert (stream.seed, stream.step, stream.first_sample) == (3, 4, 5)
        rng.set_step(9)
        assert rng.current() == rng.Stream(3, 9, 5)
    assert rng.current() == before
    with pytest.raises(ValueError, match="at: step is"), rng.at(0, 2**32):
        pass
