"""The promised figures in their quick variants, and that they can fail: benchmarks/figures.py."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyinception import backend

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

if (reason := backend.why_not("cpu")) is not None:
    pytest.skip(f"the figures measure the compiled core: {reason}", allow_module_level=True)

import figures
import figures_behaviour
import figures_data
import figures_fusion
import figures_recipes
from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception import losses
from pyinception.models.googlenet import TRUNK

without_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed (extra 'oracles')"
)


def oracle(test: Any) -> Any:
    return pytest.mark.oracles(without_torch(test))


@oracle
@pytest.mark.parametrize(
    "name", ["logits", "ranks", "gradients", "steps", "family", "family_gradients"]
)
def test_accuracy(name: str) -> None:
    figure = figures.FIGURES[name](True)
    assert figure.rows
    assert figure.failures == [], figure.table()


def test_invariance() -> None:
    figure = figures_behaviour.invariance(quick=True)
    assert {row["threads"] for row in figure.rows} == {1, 2, 3}
    assert figure.failures == [], figure.table()


def test_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import without_pictures  # needs the extra `train`

    without_pictures(monkeypatch)
    try:
        figure = figures_behaviour.resume(quick=True)
    except Unavailable as missing:
        pytest.skip(str(missing))
    assert figure.failures == [], figure.table()


def test_recipes_resume_with_any_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import without_pictures

    without_pictures(monkeypatch)
    try:
        figure = figures_recipes.recipes(quick=True)
    except Unavailable as missing:
        pytest.skip(str(missing))
    assert figure.failures == [], figure.table()
    assert len(figure.rows) == 6


def test_a_run_survives_kills_at_random_moments() -> None:
    try:
        figure = figures_data.survive(quick=True)
    except Unavailable as missing:
        pytest.skip(str(missing))
    assert figure.failures == [], figure.table()
    assert sum(row["kills"] for row in figure.rows) == 6


def test_loader_gives_the_same_bits() -> None:
    """Seconds are judged by `make figures`."""
    try:
        figure = figures_data.loader(quick=True)
    except Unavailable as missing:
        pytest.skip(str(missing))
    assert figure.failures == [] and [row["workers"] for row in figure.rows] == [0, 1, 2]


def test_fusion():
    """Both ways give the same numbers, gradients too; their maps and bytes are counted."""
    figure = figures_fusion.fusion(quick=True)
    assert figure.passed and len(figure.rows) == 4
    module, branch = figure.rows[:2]
    assert branch["unfused MB held"] == pytest.approx(4e-6 * 49 * (32 + 128))
    assert branch["fused MB held"] == pytest.approx(4e-6 * 49 * 128)
    assert module["fused MB held"] == pytest.approx(4e-6 * 49 * 832)
    assert module["unfused MB held"] > module["fused MB held"] + 4e-6 * 49 * 832
    assert all(row[way] > 0 for row in figure.rows for way in ("forward", "training"))
    assert any("branch, direct, training" in note for note in figure.notes)


def test_start_measures_its_phases() -> None:
    """Seconds are judged by `make figures` on a quiet machine, not here; the parts must add up."""
    figure = figures_behaviour.start(quick=True)
    for row in figure.rows[1:]:
        parts = [row[key] for key in ("interpreter", "import pyinception", "weights")]
        assert min(parts) > 0
        assert sum(parts) < row["median"]  # of two processes: medians are means, and add up
        assert 0 < row["best"] <= row["median"]


# ------------------------------------------------------------------ the tools of the comparison


@oracle
def test_forced_decisions_are_ours() -> None:
    """With one mask entry and one tap turned, the forced float64 run is another function."""
    import figures_accuracy
    import torch
    from figures_oracle import Oracle, decisions

    net, x, labels = figures_accuracy.googlenet(1)
    outputs = net(x)
    found = decisions(losses.cross_entropy(outputs, labels), net)
    modules = [name for name, kind, *_ in TRUNK if kind == "inception"]
    assert set(found.taps) == {*modules, *(f"pool {i}" for i in range(4))}
    relus = {n.removesuffix(".weight") for n, _ in net.named_parameters() if n.endswith(".weight")}
    assert set(found.positive) == relus - {"fc", "aux1.fc2", "aux2.fc2"}
    truth = Oracle("googlenet", net, torch.float64)
    before = truth(x, found)
    assert figures_accuracy.largest(outputs[0].data, before[0]) < 2e-6
    mask, tap = found.positive["inception_5b.conv5x5"], found.taps["pool 3"]
    mask[0, 3, 3] = ~mask[0, 3, 3]
    after = truth(x, found)
    assert not np.array_equal(before[0][0], after[0][0])
    assert np.array_equal(before[0][1], after[0][1])  # the other sample, untouched
    mask[0, 3, 3] = ~mask[0, 3, 3]
    tap[1, 2, 2] = (tap[1, 2, 2] + 1) % 9
    after = truth(x, found)
    assert np.array_equal(before[0][0], after[0][0])
    assert not np.array_equal(before[0][1], after[0][1])


@oracle
def test_the_family_in_float64_is_torchs_own() -> None:
    """The network of rows that forced gradients come from, against torch's by its own names."""
    import figures_family
    import torch
    from figures_oracle import Oracle, decisions

    net, x, labels = figures_family.training(2, 64)
    theirs = figures_family.converted("googlenet_bn", 2)[1].double().train()
    with torch.no_grad():
        expected = theirs(torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2))
    truth = Oracle("rows", net, torch.float64)
    for ours, other in zip(truth(x), expected, strict=True):
        assert figures_family.largest(ours, other.numpy()) < 1e-12
    net, x, labels = figures_family.training(2, 64, running=True)
    truth = Oracle("rows", net, torch.float64)
    for ours, other in zip(net(x), truth(x), strict=True):
        assert figures_family.largest(ours.data, other) < 1e-5
    found = decisions(losses.cross_entropy(net(x), labels), net)
    assert len(found.positive) == 59 + 2 and len(found.taps) == 4 + 9
    before = truth(x, found)
    mask = found.positive["inception_5b.branch2.1.norm"]
    mask[0, 0, 0] = ~mask[0, 0, 0]
    after = truth(x, found)
    assert not np.array_equal(before[0][0], after[0][0])
    assert np.array_equal(before[1], after[1])  # the heads stand before it


@oracle
def test_float64_and_reference_agree_unforced() -> None:
    """The oracle with free kinks against our own float64 reference: small Inception, 16x16."""
    import figures_accuracy
    import torch
    from figures_oracle import Oracle

    net = figures_accuracy.small_inception(2)
    truth = Oracle("small_inception", net, torch.float64)
    x = np.random.default_rng(4).standard_normal((2, 16, 16, 3))
    net.astype(np.float64)
    with pyi.using(backend="reference"):
        loss = losses.cross_entropy(net(x), np.array([3, 8]))
    assert abs(truth.loss(x, np.array([3, 8])) - loss.item()) < 1e-10 * loss.item()


@oracle
@pytest.mark.parametrize("name", ["logits", "steps"])
def test_a_wrong_kernel_fails_the_figure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative error of 1e-4 in the linear layers."""
    import figures_accuracy

    from pyinception import ops

    whole = ops.Linear.forward

    def slightly_off(self: Any, x: Any, w: Any, b: Any) -> Any:
        y = whole(self, x, w, b)
        y *= np.float32(1.0001)
        return y

    monkeypatch.setattr(ops.Linear, "forward", slightly_off)
    monkeypatch.setattr(figures_accuracy, "ALGORITHMS", ("direct",))
    monkeypatch.setattr(figures_accuracy, "QUICK_STEPS", 1)
    figure = figures.FIGURES[name](True)
    assert figure.failures


def test_other_bits_fail_the_figure() -> None:
    a = np.ones(5, np.float32)
    b = a.copy()
    b[3] = np.nextafter(b[3], np.float32(2))
    assert figures_behaviour._differing([a, a], [a, b]) == 1
    figure = Figure("x", "same")
    figure.same("a and b", 1)
    figure.at_most("NaN", float("nan"), 1.0)
    assert len(figure.failures) == 2
    assert not figure.passed
    assert "FAILED" in figure.table()


def test_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """Exit codes, reasons, and a file that keeps what other runs have measured."""
    path = tmp_path / "results" / "figures.json"

    def holds(quick: bool) -> Figure:
        figure = Figure("logits", "small")
        figure.add(error=0.25, what="y")
        figure.at_most("error", 0.25, 1.0)
        return figure

    def fails(quick: bool) -> Figure:
        figure = holds(quick)
        figure.at_most("error", 0.25, 0.1)
        return figure

    def missing(quick: bool) -> Figure:
        raise Unavailable("torch is not installed")

    into = ["--results", str(path)]
    monkeypatch.setattr(figures, "FIGURES", {"good": holds, "bad": fails, "absent": missing})
    assert figures.main(["good", *into]) == 0
    assert figures.main(["absent", *into]) == 0
    assert "absent left out: torch is not installed" in capsys.readouterr().out
    assert figures.main(into) == 1
    assert "failed: bad" in capsys.readouterr().out
    stored = json.loads(path.read_text())["figures"]
    assert {name: figure["passed"] for name, figure in stored.items()} == {
        "good": True,
        "bad": False,
    }
    assert stored["good"]["rows"] == [{"error": 0.25, "what": "y"}]
    assert stored["good"]["environment"]["cpu"]
    with pytest.raises(SystemExit):
        figures.main(["unheard_of"])
    path.unlink()
    assert figures.main(["--quick", "good", *into]) == 0
    assert not path.exists()  # nor does a quick variant take a figure's place
