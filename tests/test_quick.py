"""`bench --quick`: rows that are judged before they are timed, a JSON that `compare` reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pyinception as pyi
from pyinception import backend, bench
from pyinception.bench import quick
from pyinception.bench import timing as timing_module
from pyinception.cli.main import app

pytest.importorskip("pyinception._C", reason="the compiled core is not built")


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small module instead of the list."""

    def rows(where: str) -> Any:
        yield "5a", "fp32", 1, lambda batch: quick._module("5a", batch)

    monkeypatch.setattr(quick, "_rows", rows)


def test_two_runs_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    files = []
    for name, seconds in (("a", 1e-3), ("b", 4e-3)):

        def clock(call: Any, seconds: float = seconds) -> float:
            call()
            return seconds

        report = bench.run_quick(clock=clock)
        assert report.failed == [] and "5a b1" in report.table() and report.left_out == {}
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(report.to_json())
    cell = json.loads(files[0].read_text())["rows"][0]["columns"]["fp32"]
    assert cell["median_us"] == pytest.approx(1000) and 0 < cell["error"] < 1e-5
    assert cell["gflops"] == pytest.approx(2e-9 * 51_100_000 / 1e-3, rel=0.05)
    done = CliRunner().invoke(app, ["bench", "compare", *map(str, files), "--json"])
    (row,) = json.loads(done.output)["rows"]
    assert (row["verdict"], row["ratio"]) == ("slower", pytest.approx(4.0))


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    saved = tmp_path / "quick.json"
    run = CliRunner().invoke
    done = run(app, ["bench", "--quick", "--backend", "cpu", "--save", str(saved)])
    assert done.exit_code == 0, done.output
    report = bench.report.load(saved)
    assert report.kind == "quick" and report.rows[0]["name"] == "5a b1"
    assert report.settings["backend"] == "cpu" and "5a b1" in done.output
    assert run(app, ["bench", "--quick", "net"]).exit_code == 2


def test_every_row_is_judged_by_another_arithmetic() -> None:
    """Float64 of the reference: the net's own kernels would find no error in themselves."""
    net, x, truth = quick._net(1)
    assert truth.dtype == np.float64
    cell = quick._cell("cpu", "fp32", (net, x, truth), lambda call: call() is None or 1.0, None)
    assert 0 < cell["error"] < 1e-5


def test_samples_are_blocks_beside_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    calls, blocks = [0], []

    def clock(call: Any) -> float:
        before = calls[0]
        call()
        blocks.append(calls[0] - before)
        return 2e-4 * blocks[-1]

    def count() -> None:
        calls[0] += 1

    timing = quick._timing(count, clock, None)
    assert blocks == [1, *[5] * quick.ROUNDS]  # 1 ms of calls of 0.2 ms
    assert timing.median == pytest.approx(2e-4) and timing.count == quick.ROUNDS
    monkeypatch.setattr(quick, "ROW_SECONDS", 0.0)
    assert quick._timing(count, clock, None).count == 3
    with pyi.using(threads=1):
        report = bench.run_quick()
    (row,) = report.rows
    assert 0 < row["peak_gflops"] <= report.settings["peak_gflops"]
    assert f"FMA peak {report.settings['peak_gflops']:.0f}" in report.table()
    monkeypatch.setattr(timing_module, "SPREAD", 0.0)
    with pyi.using(threads=1):
        assert bench.run_quick().notes[0].startswith("DISTURBED beside 5a b1 fp32:")


def test_the_json_has_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    report = bench.run_quick(seconds=-1)
    assert report.environment["threads"] == backend.core().default_threads() > 0
    with pyi.using(threads=3):
        assert bench.run_quick(seconds=-1).environment["threads"] == 3


def test_a_wrong_result_shows_no_time_and_time_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    monkeypatch.setitem(quick.LIMITS, "fp32", 0.0)
    report = bench.run_quick()
    (cell,) = report.rows[0]["columns"].values()
    assert set(cell) == {"failed"} and report.failed == ["5a b1: fp32"]
    assert "WRONG" in report.table()
    assert bench.run_quick(seconds=-1).left_out == {"5a fp32": "-1 seconds were over"}


def test_without_a_gpu_cuda_says_why() -> None:
    if backend.why_not("cuda") is None:
        pytest.skip("this machine has a GPU")
    with pyi.using(backend="cuda"), pytest.raises(pyi.BackendError, match='"cuda" cannot run: '):
        bench.run_quick()


def test_the_list_has_the_net_and_modules_everywhere() -> None:
    for where in ("cpu", "reference", "cuda"):
        names = {name for name, *_ in quick._rows(where)}
        assert names == {"googlenet", "3a", "4a", "5a"}
    for where in ("cpu", "reference"):
        assert {precision for _, precision, *_ in quick._rows(where)} == {"fp32"}
    precisions = {precision for _, precision, *_ in quick._rows("cuda")}
    assert precisions == {"bf16", "fp32"} == set(quick.LIMITS)
    assert np.all([batch > 0 for _, _, batch, _ in quick._rows("cuda")])
