"""Figure: every recipe that comes with the package, cut off and taken up again, with workers."""

from __future__ import annotations

import hashlib
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception import checkpoint

# What makes a recipe small. Sizes are the smallest that each network takes.
SMALL: dict[str, dict[str, Any]] = {
    "googlenet-bvlc-quick": {},
    "googlenet-paper": {"average_from": 0},
    "inception-v3": {"size": 75, "aux": False},
    "bn-inception-x5": {"size": 64},
    "small-inception-cifar10": {"size": 32},
    "small-inception-digits": {},
}
QUICK = ("small-inception-cifar10", "small-inception-digits")
WORKERS = (0, 1, 2)


def recipes(quick: bool = False) -> Figure:
    """SHA-256 of all that a checkpoint holds: runs without a break, and resumed with N workers."""
    for module in ("PIL", "matplotlib", "tomli_w"):
        if find_spec(module) is None:
            raise Unavailable(f"{module} is not installed (extra 'train')")
    promise = "every recipe at a tiny size: 2 epochs = 1 + resume 1, workers 0, 1, 2: SHA-256 equal"
    figure = Figure("recipes", promise)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "pictures")
        for name in QUICK if quick else SMALL:
            _add(figure, name, Path(folder))
    return figure


def write_pictures(root: Path) -> None:
    """Eight JPEGs of two classes, six to train on."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for n in range(8):
        path = root / ("train" if n < 6 else "test") / "ab"[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (80 + 3 * n, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def _add(figure: Figure, name: str, folder: Path) -> None:
    from pyinception.train import papers, train

    given = papers.read(name) | SMALL[name] | {"epochs": 2, "batch_size": 2}
    pictures = name != "small-inception-digits"
    if pictures:
        root = str(folder / "pictures")
        given |= {"data": "image_folder", "root": root}
    else:
        given |= {"count": 6, "test_count": 2}
    # A data set in memory takes no workers.
    digests = []
    for workers in (None, *WORKERS) if pictures else (None, 0):
        with tempfile.TemporaryDirectory(dir=folder) as runs:
            run = f"{runs}/run"
            if workers is None:
                outcome = train(given, run, with_baselines=False)
            else:
                train(given, run, with_baselines=False, workers=workers, stop_after=1)
                with pyi.using(threads=1):
                    other = 2 - workers if pictures else 0
                    outcome = train({}, run, resume=True, with_baselines=False, workers=other)
            digests.append(_digest(Path(run) / "checkpoints/last.safetensors"))
        how = "2 epochs" if workers is None else "1 + resume 1"
        then = "0" if workers is None else f"{workers}, then {2 - workers if pictures else 0}"
        cells = {"steps": outcome.steps, "loss": outcome.train_loss}
        figure.add(recipe=name, run=how, workers=then, **cells, sha256=digests[-1][:16])
    wrong = sum(digest != digests[0] for digest in digests)
    if wrong:
        figure.failures.append(f"{name}: {wrong} of {len(digests)} runs end otherwise")


def _digest(path: Path) -> str:
    """Over every tensor: weights, buffers, momenta, squares, averages."""
    loaded, digest = checkpoint.load(path), hashlib.sha256()
    for state in (loaded.model, loaded.optimizer):
        for name, array in sorted(state.items()):
            digest.update(name.encode() + b"\0" + array.tobytes())
    return digest.hexdigest()
