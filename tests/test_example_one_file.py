"""The one-file example: it stands alone, its gradient is right, it learns, it repeats itself."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "googlenet_one_file.py"


def run_example(*arguments: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess:
    """Run the file as a user would, away from the checkout, so that nothing of ours is in reach."""
    command = [sys.executable, str(EXAMPLE), *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def example():
    """The file as a module; the thread settings it makes for itself are taken back."""
    before = dict(os.environ)
    spec = importlib.util.spec_from_file_location("googlenet_one_file", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    os.environ.clear()
    os.environ.update(before)
    return module


@pytest.fixture(scope="module")
def short_run(tmp_path_factory) -> str:
    """What 200 steps print."""
    done = run_example("--steps", "200", "--seed", "1", cwd=tmp_path_factory.mktemp("short"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_times(text: str) -> str:
    return re.sub(r" *[\d.]+ (ms/step|seconds per step|GFLOP/s)", r" * \1", text)


def conv_loops(x, w, b, stride, pad):
    """conv + bias as one loop per index; no ReLU."""
    (N, H, W, C), (K, R, S, _) = x.shape, w.shape
    P, Q = (H + 2 * pad - R) // stride + 1, (W + 2 * pad - S) // stride + 1
    y = np.zeros((N, P, Q, K))
    for n, p, q, k in np.ndindex(y.shape):
        y[n, p, q, k] = b[k]
        for r, s, c in np.ndindex(R, S, C):
            i, j = p * stride + r - pad, q * stride + s - pad
            if 0 <= i < H and 0 <= j < W:
                y[n, p, q, k] += x[n, i, j, c] * w[k, r, s, c]
    return y


def integer_conv(example, size, stride, bias, rng):
    """A Conv(3 -> 5) with small integer weights in float64, so that every sum is exact."""
    conv = example.Conv("conv", 3, 5, size, rng, stride=stride)
    conv.w.value = rng.integers(-4, 5, conv.w.value.shape).astype(np.float64)
    conv.b.value = np.full(5, bias, np.float64)
    return conv


# ---- the file itself --------------------------------------------------------------------------


def test_at_most_500_lines_of_100_letters():
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 500
    assert max(map(len, lines)) <= 100


def test_imports_numpy_and_the_standard_library_only():
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    seen = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = [node.module]
        else:
            continue
        for name in (name.split(".")[0] for name in names):
            seen.add(name)
            optional = name == "sklearn" and id(node) in lazy
            assert name in sys.stdlib_module_names | {"numpy"} or optional, name
    assert {"numpy", "sklearn"} <= seen
    called = {
        n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and hasattr(n.func, "id")
    }
    assert not called & {"__import__", "eval", "exec"}


# ---- what it prints ---------------------------------------------------------------------------


def test_gradient_check_is_printed_and_below_1e_6(short_run):
    error = re.search(r"gradient check.*relative error (\S+)", short_run)
    assert float(error[1]) < 1e-6


def test_loss_falls_and_accuracy_beats_chance(short_run):
    lines = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)% .* ms/step$", short_run, re.M)
    assert len(lines) == 12 and int(lines[-1][0]) == 200
    losses = [float(line[2]) for line in lines]
    assert losses[-1] < losses[0] - 0.3
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", short_run)[1])
    assert accuracy > 35  # chance is 20
    rows = re.findall(r"^(disc|square|triangle|cross|ring) +([\d. ]+)$", short_run, re.M)
    counts = np.array([[int(n) if n != "." else 0 for n in row.split()] for _, row in rows])
    assert counts.shape == (5, 5) and counts.sum() == 1000
    assert 100 * np.trace(counts) / 1000 == pytest.approx(accuracy, abs=0.051)


def test_table_has_the_right_counts(short_run):
    """Parameters K (R S C + 1) and multiply-adds P Q K R S C of each row, computed here again."""

    def conv(pixels, C, K, size):
        return [K * (size * size * C + 1), pixels * K * size * size * C]

    def module(pixels, C, k1, r3, k3, r5, k5, kp):
        shapes = [(C, k1, 1), (C, r3, 1), (r3, k3, 3), (C, r5, 1), (r5, k5, 5), (C, kp, 1)]
        return [conv(pixels, *shape) for shape in shapes]

    expected = [
        conv(256, 1, 16, 5),
        *module(256, 16, 16, 12, 24, 4, 8, 8),
        *module(64, 56, 24, 24, 48, 8, 16, 16),
        [5 * 105, 5 * 104],
    ]
    row = re.compile(r"^(\S.*?) +[\dx]+ +([\d,]+) +([\d,]+)$", re.M)
    table = short_run[short_run.index("layer ") : short_run.index("total ")]
    printed = [[int(n.replace(",", "")) for n in m.groups()[1:]] for m in row.finditer(table)]
    assert printed == expected
    total = re.search(r"^total +([\d,]+) +([\d,]+)$", short_run, re.M)
    assert [int(n.replace(",", "")) for n in total.groups()] == np.sum(expected, axis=0).tolist()
    assert re.search(r"^inception_b +8x8x104$", short_run, re.M)


def test_first_layer_filters_are_drawn(short_run):
    pictures = short_run.split("the 16 filters of conv1")[1].split("\n", 1)[1]
    assert len(pictures.strip("\n").splitlines()) == 5 + 1 + 5
    assert set(pictures) <= set(" .:-=+*#%@\n") and len(set(pictures)) >= 8


def test_same_seed_same_numbers_other_seed_others(tmp_path):
    few = ("--steps", "12", "--batch", "8")
    first, again, other = (
        without_times(run_example(*few, "--seed", seed, cwd=tmp_path).stdout) for seed in "445"
    )
    assert "test accuracy" in first
    assert first == again
    assert first != other


def test_digits(tmp_path):
    pytest.importorskip("sklearn", reason="the digits ship with scikit-learn")
    done = run_example("--digits", "--steps", "3", "--batch", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data: digits, 10 classes, 360 test images" in done.stdout
    assert "(chance: 10%)" in done.stdout


def test_digits_without_scikit_learn_say_what_to_install(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit, match="pip install scikit-learn"):
        example.load_digits(np.random.default_rng(0))


@pytest.mark.parametrize(
    "option", [("--steps", "0"), ("--batch", "-1"), ("--seed", "-1"), ("--lr", "nan")]
)
def test_bad_options_are_refused(option, tmp_path):
    done = run_example(*option, cwd=tmp_path)
    assert done.returncode == 2 and "--lr a positive number" in done.stderr
    assert done.stdout == ""


def test_divergence_ends_with_advice(tmp_path):
    done = run_example("--lr", "1e20", "--steps", "20", "--batch", "4", cwd=tmp_path)
    assert done.returncode == 1 and "try a smaller --lr" in done.stderr


# ---- the layers -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_gradient_check_holds_for_other_seeds(example, seed):
    assert example.gradient_check(seed) < 1e-6


@pytest.mark.parametrize("fault", ["mask", "bias", "shift", "pool", "branch", "mean"])
def test_gradient_check_finds_a_wrong_backward(example, monkeypatch, fault):
    """Each fault is a plausible slip in one backward; the check must not pass it."""
    conv, pool, inception, head = (
        getattr(example, name).backward for name in ("Conv", "MaxPool", "Inception", "Head")
    )

    def without_mask(self, gy):
        self.decisions = np.ones_like(self.decisions)
        return conv(self, gy)

    def mean_bias(self, gy):
        gx = conv(self, gy)
        self.b.grad = self.b.grad / gy.shape[0]
        return gx

    def shifted(self, gy):
        return np.roll(conv(self, gy), 1, axis=2)

    def every_pixel_wins(self, gy):
        self.decisions = np.zeros_like(self.decisions)
        return pool(self, gy)

    def branch_twice(self, gy):
        gx = inception(self, gy)
        return gx + self.conv1.backward(gy[..., : self.ends[0]])

    def undivided(self, gy):
        return head(self, gy) * 2

    owner, broken = {
        "mask": (example.Conv, without_mask),
        "bias": (example.Conv, mean_bias),
        "shift": (example.Conv, shifted),
        "pool": (example.MaxPool, every_pixel_wins),
        "branch": (example.Inception, branch_twice),
        "mean": (example.Head, undivided),
    }[fault]
    monkeypatch.setattr(owner, "backward", broken)
    assert example.gradient_check(0) > 1e-3


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2), (1, 2)])
def test_conv_equals_plain_loops_and_its_backward_is_the_adjoint(example, size, stride):
    """On integers all sums are exact, so equality is exact. A large bias keeps every ReLU open."""
    rng = np.random.default_rng(size * 10 + stride)
    x = rng.integers(-4, 5, (2, 7, 6, 3)).astype(np.float64)
    for bias in (-3.0, 10_000.0):
        conv = integer_conv(example, size, stride, bias, rng)
        expected = conv_loops(x, conv.w.value, conv.b.value, stride, size // 2)
        np.testing.assert_array_equal(conv.forward(x), np.maximum(expected, 0))
    gy = rng.integers(-4, 5, expected.shape).astype(np.float64)
    gx = conv.backward(gy)
    linear = (gy * (expected - bias)).sum()  # <gy, A x> with y = A x + b
    assert linear != 0
    assert (gx * x).sum() == linear
    assert (conv.w.grad * conv.w.value).sum() == linear
    np.testing.assert_array_equal(conv.b.grad, gy.sum(axis=(0, 1, 2)))


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_first_maximum_wins(example, stride):
    rng = np.random.default_rng(stride)
    x = rng.integers(-3, 0, (2, 5, 6, 2)).astype(np.float64)  # many ties, all below the padding's 0
    pool = example.MaxPool("pool", 3, stride)
    y = pool.forward(x)
    gy = rng.integers(1, 9, y.shape).astype(np.float64)
    expected = np.zeros_like(x)
    for n, p, q, c in np.ndindex(y.shape):
        rows = range(max(0, p * stride - 1), min(5, p * stride + 2))
        columns = range(max(0, q * stride - 1), min(6, q * stride + 2))
        cells = [(i, j) for i in rows for j in columns]
        best = max(cells, key=lambda cell: x[n, *cell, c])  # max keeps the first of equals
        assert y[n, p, q, c] == x[n, *best, c]
        expected[n, *best, c] += gy[n, p, q, c]
    np.testing.assert_array_equal(pool.backward(gy), expected)


def test_inception_branches_are_views_of_one_output(example):
    rng = np.random.default_rng(0)
    block = example.Inception("block", 6, (2, 3, 4, 2, 3, 5), rng)
    x = rng.standard_normal((2, 5, 4, 6)).astype(np.float32)
    y = block.forward(x)
    assert y.shape == (2, 5, 4, 14)
    branches = [block.conv1, block.conv3, block.conv5, block.proj]
    assert all(np.shares_memory(y, branch.y) for branch in branches)
    np.testing.assert_array_equal(np.concatenate([b.y for b in branches], axis=3), y)
    again = block.conv3.forward(block.reduce3.forward(x))
    np.testing.assert_array_equal(again, y[..., 2:6])


def test_softmax_cross_entropy_survives_huge_logits(example):
    logits, labels = np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]), np.array([0, 2])
    loss, glogits = example.softmax_cross_entropy(logits, labels)
    assert loss == pytest.approx(np.log(3) / 2, rel=1e-15)
    np.testing.assert_allclose(glogits, [[0, 0, 0], [1 / 6, 1 / 6, -1 / 3]], atol=1e-16)


def test_shapes_lie_on_the_image_and_differ_in_size(example):
    images, labels, radii = example.draw_shapes(500, np.random.default_rng(3))
    assert images.shape == (500, 32, 32, 1) and images.dtype == np.float32
    assert set(labels.tolist()) == set(range(5))
    assert radii.min() < 4 and radii.max() > 12.5
    # The border stays background: pure noise of deviation 0.1, whatever the shape's contrast.
    border = np.concatenate([images[:, 0], images[:, -1]], axis=1)
    large = np.abs(images[..., 0]) > 0.5
    assert np.abs(border).mean() < 0.12
    assert np.all(large.sum(axis=(1, 2)) > 10)
    again = example.draw_shapes(500, np.random.default_rng(3))[0]
    np.testing.assert_array_equal(images, again)
