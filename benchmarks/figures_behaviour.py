"""Figures that need no oracle: resume, start, invariance; and the race against torch."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception import losses, rng
from pyinception.tensor import Tensor

IMPORT_LIMIT, FIRST_LIMIT = 0.15, 0.5  # seconds
PROCESSES = 7


# -------------------------------------------------------------------------------------- resume


def resume(quick: bool = False) -> Figure:
    """Weights of an uninterrupted run and of one taken up again, on other thread counts too."""
    for module in ("sklearn", "matplotlib", "tomli_w"):
        if find_spec(module) is None:
            raise Unavailable(f"{module} is not installed (extra 'train')")
    half = 1 if quick else 5
    promise = (
        f"{2 * half} epochs = {half} + resume {half}: SHA-256 of all weights and buffers equal"
    )
    figure = Figure("resume", f"{promise}, also with another thread count")
    models = ("tiny_inception",) if quick else ("tiny_inception", "small_inception")
    # (threads before, threads after); None runs through.
    ways = ((1, None), (2, 3)) if quick else ((1, None), (3, None), (1, 1), (2, 3), (3, 2))
    for model in models:
        digests = []
        for before, after in ways:
            with tempfile.TemporaryDirectory() as folder:
                outcome = _trained(f"{folder}/run", model, half, before, after)
            digests.append(outcome.weights_sha256)
            how = f"{2 * half} epochs" if after is None else f"{half} + resume {half}"
            threads = str(before) if after is None else f"{before}, then {after}"
            cells = {"steps": outcome.steps, "loss": outcome.train_loss}
            figure.add(model=model, run=how, threads=threads, **cells, sha256=digests[-1][:16])
            if outcome.epochs != 2 * half:
                figure.failures.append(f"{model}, {how}: ended at epoch {outcome.epochs}")
        wrong = sum(digest != digests[0] for digest in digests)
        if wrong:
            figure.failures.append(
                f"{model}: {wrong} of {len(digests)} runs end with other weights"
            )
    return figure


def _trained(folder: str, model: str, half: int, before: int, after: int | None) -> Any:
    from pyinception.train import train

    recipe = {"data": "digits", "model": model, "count": 96, "test_count": 32, "batch_size": 32}
    through = after is None
    with pyi.using(threads=before):
        whole = 2 * half if through else half
        outcome = train({**recipe, "epochs": whole}, folder, with_baselines=False)
    if through:
        return outcome
    with pyi.using(threads=after):
        return train({"epochs": 2 * half}, folder, resume=True, with_baselines=False)


# --------------------------------------------------------------------------------------- start

# CLOCK_MONOTONIC is one clock for all processes, so the parent's start is comparable.
FIRST = """
import time
marks = [("interpreter", time.monotonic())]
def mark(name): marks.append((name, time.monotonic()))
import numpy as np; mark("import numpy")
import pyinception as pyi; mark("import pyinception")
net = pyi.models.googlenet(); mark("weights")
x = np.ones((1, 224, 224, 3), np.float32)
y = {result}; mark("first result")
assert y.shape == (1, 1000) and np.isfinite(y).all()
import json; print(json.dumps(marks))
"""
RESULTS_OF = {
    "net.eval()(x)": "net.eval()(x).data",
    "Session": "pyi.Session(net, x.shape)(x)",
}
IMPORT = """
import time; start = time.perf_counter()
import pyinception
print(time.perf_counter() - start)
"""


def start(quick: bool = False) -> Figure:
    """Fresh processes: the import alone, and everything up to the first logits."""
    count = 2 if quick else PROCESSES
    promise = f"import pyinception <= {IMPORT_LIMIT} s; process start to first GoogLeNet result"
    figure = Figure("start", f"{promise} <= {FIRST_LIMIT} s; medians of {count} processes")
    imports = [float(_child(IMPORT)[0]) for _ in range(count + 1)][1:]
    _add_times(figure, "import pyinception", imports, IMPORT_LIMIT, {})
    for name, result in RESULTS_OF.items():
        totals, parts = [], []
        for turn in range(count + 1):
            output, begun = _child(FIRST.replace("{result}", result))
            marks = json.loads(output)
            if turn == 0:  # fills the page cache
                continue
            times = [begun, *(moment for _, moment in marks)]
            spans = (b - a for a, b in pairwise(times))
            parts.append(dict(zip((label for label, _ in marks), spans, strict=True)))
            totals.append(times[-1] - begun)
        medians = {key: statistics.median(part[key] for part in parts) for key in parts[0]}
        _add_times(figure, f"first result, {name}", totals, FIRST_LIMIT, medians)
    return figure


def _child(code: str) -> tuple[str, float]:
    begun = time.monotonic()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, begun


def _add_times(
    figure: Figure, what: str, times: list[float], limit: float, parts: dict[str, float]
) -> None:
    median = statistics.median(times)
    figure.add(what=what, median=median, best=min(times), limit=limit, **parts)
    figure.at_most(f"{what}: median", median, limit)


# ---------------------------------------------------------------------------------- invariance


def invariance(quick: bool = False) -> Figure:
    """The same bits for 1, 2 and 3 threads, alone or in a batch, forward and in training."""
    promise = "same bits for 1, 2, 3 threads; GoogLeNet's inference also for a sample alone"
    figure = Figure("invariance", f"{promise} or in a batch; differing numbers expected: 0")
    draw = np.random.default_rng(7)
    net = pyi.models.googlenet(seed=2)
    x = (60 * draw.standard_normal((3, 224, 224, 3))).astype(np.float32)
    for algorithm in ("direct", "auto"):
        with pyi.using(algorithm=algorithm):
            _forward_invariance(figure, algorithm, net.eval(), x)
    small = draw.standard_normal((8, 32, 32, 3)).astype(np.float32)
    nets = {"googlenet": (net, x[:2], 1000)}
    nets["small_inception"] = pyi.models.small_inception(seed=2), small, 10
    for kind, (trained, images, classes) in nets.items():
        labels = draw.integers(0, classes, len(images))
        for algorithm in ("direct",) if quick else ("direct", "auto"):
            with pyi.using(algorithm=algorithm):
                _gradient_invariance(figure, f"{kind}, {algorithm}", trained, images, labels)
    return figure


def _forward_invariance(figure: Figure, algorithm: str, net: Any, x: Any) -> None:
    with pyi.using(threads=1):
        expected = net(x).data.copy()
        session = pyi.Session(net, x.shape)
    for threads in (1, 2, 3):
        with pyi.using(threads=threads):
            alone = np.concatenate([net(x[i : i + 1]).data for i in range(len(x))])
            results = {"batch": net(x).data, "alone": alone, "Session": session(x)}
        differing = {name: _differing([expected], [y]) for name, y in results.items()}
        figure.add(what=f"logits, {algorithm}", threads=threads, numbers=expected.size, **differing)
        for name, count in differing.items():
            figure.same(f"logits, {algorithm}, {threads} threads, {name}", count)


def _gradient_invariance(figure: Figure, what: str, net: Any, x: Any, labels: Any) -> None:
    expected: list[Any] = []
    net.train()
    for threads in (1, 2, 3):
        for parameter in net.parameters():
            parameter.grad = None
        with pyi.using(threads=threads), rng.at(seed=3, step=5):  # dropout is on
            loss: Tensor = losses.cross_entropy(net(x), labels)
            loss.backward()
        got = [loss.data, *(parameter.grad for parameter in net.parameters())]
        expected = expected or got
        count = _differing(expected, got)
        numbers = sum(a.size for a in got)
        figure.add(what=f"gradients, {what}", threads=threads, numbers=numbers, batch=count)
        figure.same(f"gradients, {what}, {threads} threads", count)


def _differing(expected: Iterable[Any], got: Iterable[Any]) -> int:
    pairs = zip(expected, got, strict=True)
    return sum(int((a.view(np.uint32) != b.view(np.uint32)).sum()) for a, b in pairs)


# -------------------------------------------------------------------------------------- versus


def versus(quick: bool = False) -> Figure:
    """Both sides in turns in one run, by `pyinception bench net`."""
    if find_spec("torch") is None:
        raise Unavailable("torch is not installed (extra 'rivals')")
    from pyinception import bench

    promise = "GoogLeNet forward, batch 1, 2 threads: Session faster than torch eager channels_last"
    figure = Figure("versus", promise)
    report = bench.run_net(batch=1, threads=2, rivals=("torch",), rounds=5 if quick else 25)
    for failed in report.failed:
        figure.failures.append(f"{failed} is wrong")
    (row,) = report.rows
    for name, cell in row["columns"].items():
        times = {key: cell[key] / 1e3 for key in ("median_us", "p20_us", "p80_us") if key in cell}
        cells = {f"{key.removesuffix('_us')} ms": value for key, value in times.items()}
        figure.add(what={"fused": "Session"}.get(name, name), **cells, error=cell.get("error"))
    rival = row["columns"].get("torch", {}).get("median_us")
    ours = row["columns"]["fused"].get("median_us")
    if rival is None or ours is None:
        figure.failures.append(f"no time for both sides: {report.left_out or report.failed}")
    else:
        figure.at_most("Session's time over torch's", ours / rival, 1.0)
        figure.notes.append(f"torch takes {rival / ours:.2f} times our time")
    figure.notes += [note for note in report.notes if note.startswith("DISTURBED")]
    return figure


def turns(quick: bool = False) -> Figure:
    """A team that spins after its call steals the cores of the next library's team."""
    if find_spec("torch") is None:
        raise Unavailable("torch is not installed (extra 'rivals')")
    import torch

    figure = Figure("turns", "our calls and torch's in turns, 2 threads: either loses at most 10 %")
    draw = np.random.default_rng(0)
    x = draw.standard_normal((8, 28, 28, 96), np.float32)
    w = draw.standard_normal((128, 3, 3, 96), np.float32)
    mine = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(w).permute(0, 3, 1, 2)
    y = np.empty((8, 28, 28, 128), np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def ours() -> None:
        pyi.conv2d(x, w, padding=1, algorithm="direct", out=y)

    def theirs() -> None:
        with torch.no_grad():
            torch.nn.functional.conv2d(*mine, padding=1)

    def seconds(call: Any) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    calls, alone, in_turns = {"ours": ours, "torch": theirs}, {}, {}
    try:
        with pyi.using(threads=2):
            samples: dict[tuple[str, str], list[float]] = {}
            for _ in range(3 if quick else 15):
                for name, call in calls.items():
                    call()
                    found = samples.setdefault((name, "alone"), [])
                    found += [seconds(call) for _ in range(10)]
                for _ in range(10):
                    for name, call in calls.items():
                        samples.setdefault((name, "turns"), []).append(seconds(call))
    finally:
        torch.set_num_threads(before)
    for name in calls:
        alone[name], in_turns[name] = (
            float(np.median(samples[name, way])) for way in ("alone", "turns")
        )
        loss = in_turns[name] / alone[name] - 1
        figure.add(what=name, alone_ms=alone[name] * 1e3, turns_ms=in_turns[name] * 1e3, loss=loss)
        figure.at_most(f"what {name} loses", loss, 0.10)
    return figure
