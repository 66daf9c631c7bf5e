"""Charts show the numbers of their reports: bars, heat map, roofline."""

import numpy as np
import pytest

from pyinception.bench import charts
from pyinception.bench.report import Report

figures = pytest.importorskip("matplotlib.figure", reason="charts need matplotlib (extra train)")


def cell(us, gflops=50.0):
    return {"median_us": us, "gflops": gflops, "bytes": 1_000_000}


def report(batch, ours, rivals):
    """One row a name: our time, the rivals' times."""
    rows = [
        {"name": name, "macs": 2_000_000, "columns": {"fused": cell(us), "unfused": cell(9 * us)}}
        for name, us in ours.items()
    ]
    for row in rows:
        row["columns"] |= {r: cell(times[row["name"]]) for r, times in rivals.items()}
    settings = {"batch": batch, "algorithm": "auto", "peak_gflops": 100.0, "copy_gb_s": 10.0}
    return Report("module", rows, {"cpu": "a processor", "threads": 2}, settings)


@pytest.fixture
def reports():
    first = report(1, {"3a": 10.0, "3b": 20.0}, {"torch": {"3a": 30.0, "3b": 15.0}})
    first.rows[0]["columns"]["openvino"] = cell(20.0)
    first.rows[1]["columns"]["openvino"] = {"failed": "wrong"}
    return [first, report(8, {"3a": 40.0, "3b": 50.0}, {"torch": {"3a": 60.0, "3b": 100.0}})]


def drawn(kind, reports):
    figure = figures.Figure()
    charts.KINDS[kind](figure, reports)
    return figure.axes[0]


def test_bars_are_times_over_ours_and_a_wrong_result_has_none(reports):
    axes = drawn("bars", reports)
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights == [[3.0, 0.75], [2.0, 0.0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["torch", "openvino"]


def test_heat_is_the_fastest_rival_by_layer_and_batch(reports):
    axes = drawn("heat", reports)
    np.testing.assert_allclose(axes.images[0].get_array(), [[2.0, 1.5], [0.75, 2.0]])
    assert [t.get_text() for t in axes.texts] == ["2.00", "1.50", "0.75", "2.00"]
    del reports[1].rows[0]
    assert len(drawn("heat", reports).texts) == 3  # a hole, not a zero
    alone = report(1, {"3a": 1.0}, {})
    with pytest.raises(ValueError, match="no rival's time"):
        drawn("heat", [alone])


def test_roofline_has_every_row_below_its_roofs(reports):
    axes = drawn("roofline", reports)
    points = np.concatenate([dots.get_offsets() for dots in axes.collections])
    np.testing.assert_allclose(points, [[4.0, 50.0]] * 4)
    roof, memory = axes.lines
    assert list(roof.get_ydata()) == [100.0, 100.0]
    np.testing.assert_allclose(memory.get_ydata(), 10.0 * np.asarray(memory.get_xdata()))


def test_files_and_refusals(reports, tmp_path):
    for name, begin in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        charts.draw(reports, "bars", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begin)
    with pytest.raises(ValueError, match="kind is 'pie', expected one of bars, heat, roofline"):
        charts.draw(reports, "pie", tmp_path / "b.png")
    with pytest.raises(ValueError, match="no row with a time of ours"):
        charts.draw([], "bars", tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
