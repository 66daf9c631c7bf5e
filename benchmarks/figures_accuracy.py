"""Figures against float64 torch: logits, gradients, training steps; see `figures_oracle`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import figures_oracle as oracle
import numpy as np
import torch
from figures_oracle import Decisions, Oracle, decisions
from figures_record import Figure

import pyinception as pyi
from pyinception import losses

ALGORITHMS = ("direct", "auto")
OUTPUTS = ("logits", "aux1", "aux2")
LOGIT_LIMITS = {"direct": 2e-6, "auto": 2e-5}
GRADIENT_LIMIT = 1e-5
STEP_LIMIT = 1e-5
RIVALS = {"torch NCHW": False, "torch channels_last": True}
STEPS, QUICK_STEPS = 20, 3
TIMES_TORCH = 2.0
FORCED_SEEDS = (3, 4)
DRAWS = 32  # of the free comparison, where a single draw is decided by chance: see `gradients`


def googlenet(seed: int) -> tuple[Any, Any, Any]:
    """(net with heads and no dropout, x (2, 224, 224, 3) in Caffe's range, labels)."""
    net = pyi.models.googlenet(seed=seed)
    net.drop.p = net.aux1.drop.p = net.aux2.drop.p = 0.0
    draw = np.random.default_rng(seed)
    x = (60 * draw.standard_normal((2, 224, 224, 3))).astype(np.float32)
    return net, x, draw.integers(0, 1000, 2)


def small_inception(seed: int) -> Any:
    """The net with biases that are not zero: before a batch norm their true gradient is zero, so
    a bias that starts at zero would have no norm to be compared with."""
    net = pyi.models.small_inception(seed=seed)
    draw = np.random.default_rng(seed)
    for name, parameter in net.named_parameters():
        if name.endswith("conv.bias"):
            parameter.data[...] = draw.uniform(-0.1, 0.1, parameter.shape)
    return net


def ratio(a: Any, truth: Any) -> float:
    """|a - truth| / |truth|, Euclidean."""
    return float(np.linalg.norm((a - truth).ravel()) / np.linalg.norm(truth.ravel()))


def largest(a: Any, truth: Any) -> float:
    """max |a - truth| / max |truth|."""
    return float(np.abs(a - truth).max() / np.abs(truth).max())


def logits(quick: bool = False) -> Figure:
    """The three classifiers of GoogLeNet, with the same weights."""
    promise = "GoogLeNet's three logits, 224x224, batch 2: error / largest logit at most "
    figure = Figure("logits", promise + "2e-6 (direct), 2e-5 (auto)")
    same = True
    for seed in (3,) if quick else (3, 4, 5):
        net, x, _ = googlenet(seed)
        truth = Oracle("googlenet", net, torch.float64)(x)
        rival = Oracle("googlenet", net, torch.float32)(x)
        outputs = {}
        for algorithm in ALGORITHMS:
            with pyi.using(algorithm=algorithm), pyi.no_grad():
                outputs[algorithm] = [y.data for y in net(x)]
            errors = [largest(y, z) for y, z in zip(outputs[algorithm], truth, strict=True)]
            named = dict(zip(OUTPUTS, errors, strict=True))
            figure.add(seed=seed, what=algorithm, **named, limit=LOGIT_LIMITS[algorithm])
            for name, error in named.items():
                figure.at_most(f"{algorithm}, seed {seed}: {name}", error, LOGIT_LIMITS[algorithm])
        errors = [largest(y, z) for y, z in zip(rival, truth, strict=True)]
        figure.add(seed=seed, what="torch fp32", **dict(zip(OUTPUTS, errors, strict=True)))
        first, *others = outputs.values()
        same &= all(all(map(np.array_equal, first, other)) for other in others)
    if same and len(ALGORITHMS) > 1:
        figure.notes.append("auto gave the bits of direct: no Winograd row ran in this build")
    return figure


def ranks(quick: bool = False) -> Figure:
    """Which classes come first, for many images; the logits' error beside it."""
    count, batch = (4, 2) if quick else (200, 8)
    promise = f"GoogLeNet, {count} random images: first class and first five equal to float64's"
    figure = Figure("ranks", f"{promise}, logits within 2e-5")
    net = googlenet(3)[0].eval()
    truth = Oracle("googlenet", net, torch.float64)
    session = pyi.Session(net, (batch, 224, 224, 3), algorithm="auto")
    draw = np.random.default_rng(7)
    firsts, fives, worst, closest = 0, 0, 0.0, np.inf
    for _ in range(count // batch):
        x = draw.standard_normal((batch, 224, 224, 3)).astype(np.float32)
        right, found = truth(x)[0], session(x)
        order, ours = np.argsort(-right, 1), np.argsort(-found, 1)
        firsts += int((order[:, 0] != ours[:, 0]).sum())
        fives += int((order[:, :5] != ours[:, :5]).any(1).sum())
        worst = max(worst, largest(found, right))
        sorted_logits = np.take_along_axis(right, order[:, :6], 1)
        closest = min(closest, float(-np.diff(sorted_logits, axis=1).max()))
    figure.add(images=count, first_differs=firsts, five_differ=fives, error=worst, closest=closest)
    figure.notes.append("closest: least difference between two of the first six logits")
    figure.same("first classes", firsts)
    figure.same("first five classes, in order", fives)
    figure.at_most("error / largest logit", worst, LOGIT_LIMITS["auto"])
    return figure


def gradients(quick: bool = False) -> Figure:
    """Every gradient of L + 0.3 (L1 + L2): kinks forced, then free beside torch's own fp32.

    Free, the error of a gradient is about 1e-6 until a unit or a maximum flips behind it, and 1e-4
    to 1e-2 from then on. A draw of weights and images shows a few flips, here and in torch, where
    they move with the memory format and the number of threads. So median and worst over the
    parameters are averaged over draws, against torch in both of its memory formats.
    """
    promise = (
        "GoogLeNet's gradients, 224x224, batch 2: all at most 1e-5 with our masks and argmaxes"
    )
    figure = Figure("gradients", f"{promise}; free, median and worst at most 2x torch fp32's")
    for seed in FORCED_SEEDS[:1] if quick else FORCED_SEEDS:
        net, x, labels = googlenet(seed)
        truth = Oracle("googlenet", net, torch.float64)
        for algorithm in ALGORITHMS:
            got, forced = our_gradients(net, x, labels, algorithm)
            truth.loss(x, labels, forced)
            judge_forced(figure, f"{algorithm}, seed {seed}", got, truth.gradients())
    if quick:
        return figure
    free: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, DRAWS + 1):
        net, x, labels = googlenet(seed)
        truth = Oracle("googlenet", net, torch.float64)
        truth.loss(x, labels)
        exact = truth.gradients()
        runs = {algorithm: our_gradients(net, x, labels, algorithm)[0] for algorithm in ALGORITHMS}
        for name, channels_last in RIVALS.items():
            rival = Oracle("googlenet", net, torch.float32, channels_last)
            rival.loss(x, labels)
            runs[name] = rival.gradients()
        for name, got in runs.items():
            errors = [ratio(got[n], exact[n]) for n in exact]
            free.setdefault(name, []).append(median_worst(errors))
    judge_free(figure, free)
    return figure


def our_gradients(
    net: Any, x: Any, labels: Any, algorithm: str
) -> tuple[dict[str, Any], Decisions]:
    """Our gradients by name, and what the forward pass decided."""
    for parameter in net.parameters():
        parameter.grad = None
    with pyi.using(algorithm=algorithm):
        loss = losses.cross_entropy(net(x), labels)
        found = decisions(loss, net)
        loss.backward()
    return {name: p.grad for name, p in net.named_parameters()}, found


def judge_forced(figure: Figure, what: str, got: Mapping[str, Any], exact: Any) -> None:
    norms = {name: ratio(got[name], exact[name]) for name in exact}
    peaks = {name: largest(got[name], exact[name]) for name in exact}
    worst, peak = max(norms, key=norms.__getitem__), max(peaks, key=peaks.__getitem__)
    cells = median_worst(list(norms.values()))
    figure.add(run="forced", what=what, **cells, where=worst, largest=peaks[peak])
    figure.at_most(f"forced, {what}: {worst}", norms[worst], GRADIENT_LIMIT)
    figure.at_most(f"forced, {what}: {peak}, largest", peaks[peak], GRADIENT_LIMIT)


def judge_free(figure: Figure, free: Mapping[str, list[dict[str, float]]]) -> None:
    """Means over draws, each of ours at most twice each of torch's."""
    means: dict[str, dict[str, float]] = {}
    for name, draws in free.items():
        medians, worsts = ([draw[kind] for draw in draws] for kind in ("median", "worst"))
        means[name] = {"median": float(np.mean(medians)), "worst": float(np.mean(worsts))}
        smooth = sum(median < GRADIENT_LIMIT for median in medians)
        spread = {"median below 1e-5 in": smooth, "worst of all": max(worsts)}
        figure.add(run=f"free, mean of {len(draws)} draws", what=name, **means[name], **spread)
    for rival in RIVALS:
        for algorithm in ALGORITHMS:
            for kind in ("median", "worst"):
                times = means[algorithm][kind] / means[rival][kind]
                figure.at_most(f"free: {kind} of {algorithm} over {rival}", times, TIMES_TORCH)


def median_worst(errors: list[float]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "worst": float(np.max(errors))}


NETS = {  # lr and weight decay of the nets' own recipes
    "googlenet": {"rate": 0.01, "decay": 2e-4, "images": (2, 224, 224, 3), "classes": 1000},
    "small_inception": {"rate": 0.1, "decay": 5e-4, "images": (8, 32, 32, 3), "classes": 10},
}


def steps(quick: bool = False) -> Figure:
    """SGD steps, each from the float64 run's weights and momenta rounded to float32."""
    promise = "20 training steps, masks and argmaxes forced, each from the float64 run's weights: "
    figure = Figure("steps", f"{promise}loss and every updated weight within 1e-5")
    for kind in ("small_inception",) if quick else NETS:
        for algorithm in ("auto",) if quick else ALGORITHMS:
            with pyi.using(algorithm=algorithm):
                _train_beside(figure, kind, algorithm, QUICK_STEPS if quick else STEPS)
    return figure


def _train_beside(figure: Figure, kind: str, algorithm: str, count: int) -> None:
    setting: Any = NETS[kind]
    net = googlenet(5)[0] if kind == "googlenet" else small_inception(5)
    truth = Oracle(kind, net, torch.float64)
    start = {name: oracle.to_numpy(w) for name, w in truth.weights.items()}
    momentum, decay = 0.9, setting["decay"]
    sgd = pyi.optim.SGD(net, setting["rate"], momentum=momentum, weight_decay=decay)
    draw = np.random.default_rng(6)
    scale = 60 if kind == "googlenet" else 1
    exact_losses: list[float] = []
    worst: dict[str, tuple[float, str]] = {}

    def note(what: str, error: float, where: str) -> None:
        if not error <= worst.get(what, (-1.0, ""))[0]:
            worst[what] = error, where

    for number in range(count):
        x = (scale * draw.standard_normal(setting["images"])).astype(np.float32)
        labels = draw.integers(0, setting["classes"], len(x))
        for name, parameter in net.named_parameters():
            parameter.data[...] = oracle.to_numpy(truth.weights[name])
            parameter.version += 1
            sgd.state[name][...] = oracle.to_numpy(truth.momenta[name])
        loss = losses.cross_entropy(net(x), labels)
        forced, value = decisions(loss, net), loss.item()
        loss.backward()
        sgd.step()
        exact = truth.loss(x, labels, forced)
        exact_losses.append(exact)
        truth.update(setting["rate"], momentum, decay)
        note("loss", abs(value - exact) / abs(exact), f"step {number}")
        for name, parameter in net.named_parameters():
            w, v = (oracle.to_numpy(t[name]) for t in (truth.weights, truth.momenta))
            note("weights", ratio(parameter.data, w), f"{name}, step {number}")
            if not name.endswith("conv.bias") or kind == "googlenet":
                note("momenta", ratio(sgd.state[name], v), f"{name}, step {number}")
    moved = np.median(
        [ratio(oracle.to_numpy(truth.weights[n]), w) for n, w in start.items() if w.any()]
    )
    cells = {f"{what} error": error for what, (error, _) in worst.items()}
    about = {"first loss": exact_losses[0], "last loss": exact_losses[-1], "moved": float(moved)}
    where = worst["weights"][1]
    figure.add(net=kind, algorithm=algorithm, steps=count, **about, **cells, where=where)
    for what in ("loss", "weights"):
        error, where = worst[what]
        figure.at_most(f"{kind}, {algorithm}: {what} ({where})", error, STEP_LIMIT)
