"""Training inside tests: no pictures, which take longer than it, no team for maps of 8 x 8."""

import pytest

from pyinception.train import loop


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """A run draws nothing and writes no report."""
    for name in ("draw_curves", "draw_filters", "draw_features", "write_report"):
        patch.setattr(loop, name, lambda *args, **how: None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every test of a module that imports it."""
    monkeypatch.setenv("PYINCEPTION_THREADS", "1")
    without_pictures(monkeypatch)
