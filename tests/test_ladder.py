"""The ladder: every rung computes the same, and says what it did."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built import needs_core
from pyinception.kernels import reference

from pyinception.bench import ladder
from pyinception.cli import main
from pyinception.cli.ladder import bar

ROOT = Path(__file__).resolve().parents[1]
pytestmark = needs_core


def test_the_python_rungs_are_convolutions() -> None:
    draw = np.random.default_rng(0)
    x = draw.integers(-3, 4, (1, 5, 6, 4)).astype(np.float32)
    w = draw.integers(-3, 4, (3, 3, 3, 4)).astype(np.float32)
    b = draw.integers(-3, 4, 3).astype(np.float32)
    expected = reference.conv2d_fprop(x, w, b, padding=(1, 1), relu=True)
    np.testing.assert_array_equal(ladder.im2col(x, w, b), expected)
    for row in (0, 2, 4):
        assert ladder.loops(x[0], w, b, row, 3) == expected[0, row].tolist()


def test_the_verb(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "ROUNDS", 1)
    chart = tmp_path / "chart.png"
    assert main.run(["ladder", "--json", "--chart", str(chart)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [rung["name"] for rung in value["rungs"]][:4] == [
        "loops",
        "reference",
        "im2col",
        "plain",
    ]
    assert all(rung["gflops"] > 0 and rung["error"] < 1e-4 for rung in value["rungs"])
    assert value["peak_gflops"] > 0 and value["shape"] == "1 x 28 x 28 x 96 -> 128, 3x3"
    for rung in value["rungs"]:
        assert (ROOT / rung["read"]).exists(), rung["read"]
    assert chart.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_bars_are_logarithmic(tmp_path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bar(rate, 2.0).count("#") for rate in (2, 20, 200, 2000)] == [1, 5, 9, 13]
    monkeypatch.setattr(ladder, "ROUNDS", 1)
    chart = tmp_path / "chart.svg"
    assert main.run(["ladder", "--chart", str(chart)]) == 0
    lines = {
        line.partition(":")[0]: line.count("#") for line in capsys.readouterr().out.split("\n")
    }
    assert lines["loops"] == 1 < lines["plain"] < lines["register tile"]
    assert "<svg" in chart.read_text(encoding="utf-8")


def test_a_chart_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    rung = ladder.Rung("one", "what", "where", 1.0, 2.0, 0.0)
    found = ladder.Ladder([rung], 3.0, {"cpu": "any"}, "shape")
    chart = tmp_path / "chart.svg"
    chart.write_text("old")

    def full(*paths: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"chart\.svg.*ENOSPC"):
        patch.setattr(os, "replace", full)
        ladder.draw(found, chart)
    assert chart.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    ladder.draw(found, tmp_path / "chart")  # no suffix: a PNG
    assert (tmp_path / "chart").read_bytes()[:4] == b"\x89PNG"


def test_a_wrong_rung_is_no_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "im2col", lambda x, w, b: np.zeros((1, 28, 28, 128), np.float32))
    with pytest.raises(RuntimeError, match=r"ladder: wrong results.*im2col"):
        ladder.run_ladder()
