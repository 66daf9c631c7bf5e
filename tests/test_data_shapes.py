"""The drawn data set: a function of seed, split and index; outlines; what a search sees."""

from __future__ import annotations

import numpy as np
import pytest

from pyinception.data import DatasetError
from pyinception.data.outlines import CLASSES, hull, outline_boxes, signed_distance
from pyinception.data.shapes import Shapes


def test_shapes_are_a_function_of_seed_split_and_index() -> None:
    few, many = Shapes("train", count=20), Shapes("train", count=70)
    indices = np.arange(20)
    together = many.images(indices)
    assert few.images(indices).tobytes() == together.tobytes()
    assert together[::-1].tobytes() == few.images(indices[::-1]).tobytes()
    assert together[7:8].tobytes() == few.images([7]).tobytes()
    np.testing.assert_array_equal(few.boxes, many.boxes[:20])
    for other in (Shapes("test", count=20), Shapes("train", count=20, seed=1)):
        assert (np.abs(other.images(indices) - together).mean(axis=(1, 2, 3)) > 0.01).all()


def test_shapes_are_balanced_pictures_of_all_sizes() -> None:
    dataset = Shapes("train", count=400)
    assert np.bincount(dataset.labels).tolist() == [50] * 8 and len(dataset.classes) == 8
    images = dataset.images(np.arange(64))
    assert images.shape == (64, 32, 32, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    np.testing.assert_array_equal(images, np.rint(images * 255).astype(np.float32) / 255)
    assert 6 <= dataset.diameters.min() < 7 and 26 < dataset.diameters.max() <= 28
    # Log-uniform: the median is the geometric mean.
    assert abs(np.median(dataset.diameters) - np.sqrt(6 * 28)) < 1.5
    assert dataset.boxes.min() >= 1 - 1e-4 and dataset.boxes.max() <= 31 + 1e-4
    grey = (images.std(axis=-1).mean(axis=(1, 2)) < 0.06).mean()
    assert 0.2 < grey < 0.9


def _cover(shape: str, centre: tuple[float, float], rho: float, angle: float) -> np.ndarray:
    axis = np.arange(64) + 0.5
    x, y = np.meshgrid(axis - centre[0], axis - centre[1])
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return np.clip(0.5 - signed_distance(shape, u, v, np.float64(rho)), 0, 1)


def _area(shape: str) -> float:
    """Area of a shape for rho = 1, from textbook formulas."""
    arm_cross, arm_bar = 1 / np.hypot(1, 0.33), 1 / np.hypot(1, 0.28)
    at, bite = 0.45, 0.8
    lens = (
        np.arccos((at**2 + 1 - bite**2) / (2 * at))
        + bite**2 * np.arccos((at**2 + bite**2 - 1) / (2 * at * bite))
        - 0.5 * np.sqrt((1 + bite - at) * (at + 1 - bite) * (at - 1 + bite) * (at + 1 + bite))
    )
    return {
        "disc": np.pi,
        "ring": np.pi * 0.75,
        "square": 2.0,
        "triangle": 0.75 * np.sqrt(3),
        "cross": 4 * arm_cross**2 * (2 * 0.33 - 0.33**2),
        "star": 10 * 0.5 * 0.42 * np.sin(np.pi / 5),
        "bar": 4 * arm_bar**2 * 0.28,
        "crescent": np.pi - lens,
    }[shape]


@pytest.mark.parametrize("shape", CLASSES)
def test_outlines_have_their_area_and_box(shape: str) -> None:
    for centre, rho, angle in (((32.3, 31.2), 24.0, 0.4), ((30.0, 34.5), 10.0, 2.5)):
        cover = _cover(shape, centre, rho, angle)
        assert cover.sum() == pytest.approx(_area(shape) * rho**2, rel=0.01, abs=2.0)
        box = outline_boxes(
            np.array([CLASSES.index(shape)]),
            np.float32([centre]),
            np.float32([rho]),
            np.float32([angle]),
        )[0]
        rows, columns = np.nonzero(cover.max(axis=1) > 0), np.nonzero(cover.max(axis=0) > 0)
        seen = np.array([columns[0][0], rows[0][0], columns[0][-1] + 1, rows[0][-1] + 1])
        assert np.abs(seen - box).max() < 1.5
        points = hull(shape)
        distance = signed_distance(shape, points[:, 0], points[:, 1], np.float64(1))
        assert np.abs(distance).max() < 1e-6


def test_the_box_holds_the_object_in_the_picture() -> None:
    dataset = Shapes("train", count=160)
    scene = dataset._scene
    scene.clutter_present[:] = False
    everything = np.arange(160)
    with_object = scene.draw(everything, dataset.labels)
    without = scene._texture(everything, np.arange(32, dtype=np.float32) + np.float32(0.5))
    full = np.abs(scene.colour[:, None, None] - without).max(axis=-1)
    inside = np.abs(with_object - without).max(axis=-1) > full / 2  # pixel centres in the outline
    centre = np.arange(32) + 0.5
    for mask, (x0, y0, x1, y1) in zip(inside, dataset.boxes, strict=True):
        ys, xs = centre[mask.any(axis=1)], centre[mask.any(axis=0)]
        for low, first, last, high in ((x0, xs[0], xs[-1], x1), (y0, ys[0], ys[-1], y1)):
            # A star's tip may be thinner than a pixel for two pixels of its length.
            assert low - 1e-3 <= first <= low + 2.5 and high - 2.5 <= last <= high + 1e-3


def test_neighbours_in_pixel_space_do_not_know_the_shape() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="needs scikit-learn (extra train)")
    train, test = Shapes("train", count=1600), Shapes("test", count=400)
    x, y = (d.images(np.arange(len(d))).reshape(len(d), -1) for d in (train, test))
    accuracy = neighbors.KNeighborsClassifier(3).fit(x, train.labels).score(y, test.labels)
    assert 0.1 < accuracy < 0.4  # 0.125 is chance


def test_shapes_arguments() -> None:
    with pytest.raises(DatasetError, match="split is 'dev', expected one of train, test"):
        Shapes("dev")
    with pytest.raises(DatasetError, match="count is 0"):
        Shapes(count=0)
    with pytest.raises(DatasetError, match="size is 16, expected 24 "):
        Shapes(size=16)
