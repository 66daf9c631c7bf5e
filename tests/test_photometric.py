"""Photometric distortions against colorsys; fixed crops; interpolation by chance."""

import colorsys
from collections import Counter

import numpy as np
import pytest

from pyinception.data import Augment
from pyinception.data.augment import centre_crop, random_crop
from pyinception.data.photometric import ORDERS, STEPS, amounts, hue, photometric, saturation
from pyinception.data.picture import FILTERS


def colours(n: int = 400) -> np.ndarray:
    """(1, n, 3) float32 in [0, 1]; greys, black, white and pure colours among them."""
    x = np.random.default_rng(0).random((1, n, 3), np.float32)
    x[0, :12] = np.repeat(np.linspace(0, 1, 12, dtype=np.float32)[:, None], 3, axis=1)
    x[0, 12:18] = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]
    return x


@pytest.mark.parametrize("t", [-0.2, -0.05, 0.0, 0.13, 0.2, 1 / 3])
def test_hue_turns_the_h_of_hsv(t: float) -> None:
    x = colours()
    expected = []
    for r, g, b in x[0].astype(float):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        expected.append(colorsys.hsv_to_rgb((h + t) % 1, s, v))
    np.testing.assert_allclose(hue(x, t)[0], expected, atol=3e-6)


@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 1.5])
def test_saturation_multiplies_the_s_of_hsv(s: float) -> None:
    x = colours()
    expected = []
    for r, g, b in x[0].astype(float):
        h, was, v = colorsys.rgb_to_hsv(r, g, b)
        expected.append(colorsys.hsv_to_rgb(h, min(1, was * s), v))
    np.testing.assert_allclose(saturation(x, s)[0], expected, atol=3e-6)


def test_contrast_and_brightness_keep_what_they_should() -> None:
    x = colours().reshape(20, 20, 3)
    y = STEPS["contrast"](x, 1.5)
    np.testing.assert_allclose(y.mean((0, 1)), x.mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(y.std((0, 1)), 1.5 * x.std((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(STEPS["brightness"](x, 0.1) - x, 0.1, atol=1e-6)


def test_amounts_fill_their_ranges_and_orders() -> None:
    found = [amounts(1, seed=3, epoch=1, index=i) for i in range(2000)]
    orders = Counter(tuple(name for name, _ in steps) for steps in found)
    assert set(orders) == set(ORDERS) and min(orders.values()) > 400  # 500 each expected
    ranges = {
        "brightness": (-32 / 255, 32 / 255),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-0.2, 0.2),
    }
    for name, (low, high) in ranges.items():
        values = [dict(steps)[name] for steps in found]
        width = high - low
        assert low <= min(values) < low + width / 50 and high - width / 50 < max(values) <= high
    half = dict(amounts(0.5, seed=3, epoch=1, index=0))
    assert half["hue"] == pytest.approx(dict(found[0])["hue"] / 2)
    assert half["contrast"] - 1 == pytest.approx((dict(found[0])["contrast"] - 1) / 2)


def test_an_image_is_distorted_by_index_seed_and_epoch_alone() -> None:
    images = np.random.default_rng(1).random((5, 6, 7, 3), np.float32)
    indices = np.array([4, 9, 2, 7, 0])
    whole = photometric(images, indices, strength=1, seed=1, epoch=2)
    alone = photometric(images[2:3], indices[2:3], strength=1, seed=1, epoch=2)
    assert np.array_equal(whole[2:3], alone) and not np.array_equal(whole, images)
    assert whole.min() >= 0 and whole.max() <= 1
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not np.array_equal(photometric(images, indices, strength=1, **other), whole)
    still = photometric(images, indices, strength=0, seed=1, epoch=2)
    np.testing.assert_allclose(still, images, atol=1e-6)


def test_grey_images_get_brightness_and_contrast() -> None:
    images = np.random.default_rng(1).random((1, 8, 8, 1), np.float32)
    x = images[0]
    for name, amount in amounts(1, seed=0, epoch=0, index=5):
        if name in ("brightness", "contrast"):
            x = STEPS[name](x, amount)
    out = photometric(images, np.array([5]), strength=1, seed=0, epoch=0)
    assert np.array_equal(out[0], np.clip(x, 0, 1))
    with pytest.raises(ValueError, match="photometric: images has 2 channels, expected 1 or 3"):
        photometric(np.zeros((1, 2, 2, 2), np.float32), np.array([0]), strength=1, seed=0, epoch=0)


def test_crops_are_windows() -> None:
    images = np.arange(2 * 9 * 8, dtype=np.float32).reshape(2, 9, 8, 1)
    assert np.array_equal(centre_crop(images, 4), images[:, 2:6, 2:6])
    places = set()
    for epoch in range(300):
        out = random_crop(images, np.arange(2), padding=0, size=6, seed=0, epoch=epoch)
        for n in range(2):
            dy, dx = divmod(int(out[n, 0, 0, 0]) - 72 * n, 8)
            assert np.array_equal(out[n], images[n, dy : dy + 6, dx : dx + 6])
            places.add((dy, dx))
    assert places == {(dy, dx) for dy in range(4) for dx in range(3)}
    with pytest.raises(ValueError, match="size is 9, expected at most that of the images, 9 x 8"):
        centre_crop(images, 9)


def test_test_images_get_the_centre_and_no_chance() -> None:
    augment = Augment(1, True, (0.5,), area=0.3, crop=4, photometric=1, scale=2)
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    plain = augment.without_chance()
    out = plain(images, np.arange(3), seed=5, epoch=6)
    assert np.array_equal(out, (images[:, 2:6, 2:6] - np.float32(0.5)) * 2)
    assert plain.scaled((8, 8)) == (8, 8) and augment.scaled((8, 8)) == (4, 4)
    assert augment.shape((8, 8, 1)) == plain.shape((8, 8, 1)) == (4, 4, 1)


def test_interpolations_are_equally_likely() -> None:
    augment = Augment(area=0.1, interpolation="random")
    drawn = Counter(augment.filter(seed=0, epoch=1, index=i) for i in range(2000))
    assert set(drawn) == set(FILTERS) and min(drawn.values()) > 430  # 500 each expected
    assert augment.without_chance().interpolation == "bilinear"
    with pytest.raises(ValueError, match="interpolation is 'lanczos', expected bilinear, area"):
        Augment(interpolation="lanczos")
