"""Training inside tests: a small run, no pictures, which take longer than it, no team of threads.

Importing it skips the module where the extra `train` is not installed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="extra `train`")
pytest.importorskip("matplotlib", reason="extra `train`")

from pyinception.train import loop

# 5 steps an epoch; tiny_inception has batch norms (buffers) and dropout (the step's stream).
QUICK: dict[str, Any] = {
    "data": "digits",
    "model": "tiny_inception",
    "size": 8,
    "count": 72,
    "test_count": 24,
    "batch_size": 16,
    "epochs": 2,
}


def train(folder: Path, given: dict[str, Any] = QUICK, **how: Any) -> loop.Outcome:
    """A run without baselines, unless ``how`` wants them."""
    return loop.train(given, folder, **{"with_baselines": False} | how)


def metrics(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl: all, or those of one kind."""
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if kind in ("", line["kind"])]


def at_step(patch: pytest.MonkeyPatch, at: int, action: Callable[[], object]) -> None:
    """Do ``action``, once, when ``at`` steps of the run are done."""
    real = loop.step

    def step(net: Any, update: Any, batch: Any, recipe: Any) -> Any:
        if update.iteration == at:
            patch.setattr(loop, "step", real)
            action()
        return real(net, update, batch, recipe)

    patch.setattr(loop, "step", step)


def fail() -> None:
    raise MemoryError


def without_pictures(patch: pytest.MonkeyPatch, *, report: bool = False) -> None:
    """A run draws nothing and, unless asked to, writes no report."""
    for name in ("draw_curves", "draw_filters", "draw_features", "write_report")[: 4 - report]:
        patch.setattr(loop, name, lambda *args, **how: None)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every test of a module that imports it: on small maps a team waits for itself."""
    monkeypatch.setenv("PYINCEPTION_THREADS", "1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and no pictures."""
    monkeypatch.setenv("PYINCEPTION_THREADS", "1")
    without_pictures(monkeypatch)
