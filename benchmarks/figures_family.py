"""Figures of torchvision's networks, random weights moved through `convert`, against torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures_accuracy import (
    ALGORITHMS,
    FORCED_SEEDS,
    GRADIENT_LIMIT,
    RIVALS,
    TIMES_TORCH,
    judge_forced,
    judge_free,
    largest,
    median_worst,
    our_gradients,
    ratio,
)
from figures_oracle import Oracle
from figures_record import Figure
from pyinception.kernels.args import SUM_CHUNK

import pyinception as pyi
from pyinception.convert import torchvision
from pyinception.layers import BatchNorm, Dropout, fold_batch_norms

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # torch's side of both

import torch_family

FORWARD_LIMIT = 1e-5
CASES = {
    "googlenet_bn": (torch_family.GoogLeNet, 224),
    "inception_v3": (torch_family.InceptionV3, 299),
}
CLASSES = 1000
TIMES_FORCED = {"direct": 2.0, "auto": 4.0}  # Winograd's transforms round more than a direct sum
# The partial sums of n terms of either sign grow as sqrt(i): n roundings err sqrt(n / 2) times as
# much as the one that stores the result.
TIMES_STORED = (SUM_CHUNK / 2) ** 0.5
DRAWS = 12
QUICK_SIDE = 96
CELLS = (1, 8, 48)  # pixels of the patches that an image is the sum of


def converted(name: str, seed: int) -> tuple[Any, Any]:
    """(ours in evaluation, torch's in evaluation): torch's own random weights, moved."""
    torch.manual_seed(seed)
    theirs = torch_family.randomised(CASES[name][0](CLASSES))
    state = {key: value.numpy().copy() for key, value in theirs.state_dict().items()}
    net, _, _ = torchvision.build(state, name)
    return net, theirs


def family(quick: bool = False) -> Figure:
    """Evaluation, unfolded, folded and as a session; largest difference over largest logit."""
    promise = "forward through `convert`, batch 2, random weights: error / largest logit at most"
    figure = Figure("family", f"{promise} {FORWARD_LIMIT:g}, folded or not")
    for name in ("googlenet_bn",) if quick else CASES:
        for seed in (0,) if quick else (0, 1, 2):
            net, theirs = converted(name, seed)
            x = torch.randn(2, 3, *(QUICK_SIDE if quick else CASES[name][1],) * 2)
            images = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))
            with torch.no_grad():
                single = theirs(x)[0].numpy()
                truth = theirs.double()(x.double())[0].numpy()
            folded = fold_batch_norms(net)
            results = {"unfolded": net(images).data, "folded": folded(images).data}
            results["session"] = pyi.Session(folded, images.shape)(images)
            errors = {how: largest(y, truth) for how, y in results.items()}
            figure.add(network=name, seed=seed, **errors, torch_fp32=largest(single, truth))
            for how, error in errors.items():
                figure.at_most(f"{name}, seed {seed}, {how}", error, FORWARD_LIMIT)
    return figure


def training(seed: int, side: int, *, running: bool = False) -> tuple[Any, Any, Any]:
    """(googlenet_bn in training without dropout, x (2, side, side, 3), labels).

    The images have detail at every scale, as photographs have: on white noise all positions of a
    deep map are nearly alike, and a norm by the batch takes the difference of nearly equal numbers.

    Parameters
    ----------
    running : norms by their running statistics, as in fine-tuning, instead of the batch's.
    """
    net, _ = converted("googlenet_bn", seed)
    for module in net.train().modules():
        if isinstance(module, Dropout):
            module.p = 0.0
        if running and isinstance(module, BatchNorm):
            module.training = False
    draw = np.random.default_rng(seed)
    x = np.zeros((2, side, side, 3))
    for cell in CELLS:
        coarse = draw.standard_normal((2, -(-side // cell), -(-side // cell), 3))
        x += np.kron(coarse, np.ones((1, cell, cell, 1)))[:, :side, :side]
    return net, (x / len(CELLS) ** 0.5).astype(np.float32), draw.integers(0, CLASSES, 2)


def family_gradients(quick: bool = False) -> Figure:
    """Every gradient of L + 0.3 (L1 + L2); see `figures_accuracy.gradients`.

    With the batch's statistics float32 itself is further from float64 than with the running ones,
    ours and torch's alike: a norm of two images' deep maps magnifies what the maps before it were
    rounded by. So two runs stand beside ours, under the same masks: torch's fp32, and float64 that
    rounds each map and its gradient to float32 once, as no float32 maps can avoid. A direct sum
    has chains of at most SUM_CHUNK roundings to that one, which says how much further it may be.
    Free, the mean over draws is judged, against torch in both of its memory formats.
    """
    side = QUICK_SIDE if quick else 224
    promise = f"googlenet_bn's gradients through `convert`, {side}x{side}, batch 2: with our masks"
    figure = Figure(
        "family_gradients",
        f"{promise} all at most {GRADIENT_LIMIT:g} by running statistics; by the batch's at most "
        f"{TIMES_STORED:.1f}x those of float64 with maps rounded to float32 (direct) and 2x torch "
        f"fp32's (auto 4x); free, median and worst at most {TIMES_TORCH:g}x torch fp32's",
    )
    for seed in FORCED_SEEDS[:1] if quick else FORCED_SEEDS:
        for running in (True, False):
            _forced(figure, seed, side, running)
    if not quick:
        _free(figure, side)
    return figure


def _forced(figure: Figure, seed: int, side: int, running: bool) -> None:
    net, x, labels = training(seed, side, running=running)
    truth = Oracle("rows", net, torch.float64)
    others = {
        "torch fp32": Oracle("rows", net, torch.float32),
        "float64, maps rounded": Oracle("rows", net, torch.float64, rounded=True),
    }
    what = "running statistics" if running else "the batch's"
    for algorithm in ALGORITHMS:
        got, forced = our_gradients(net, x, labels, algorithm)
        truth.loss(x, labels, forced)
        exact = truth.gradients()
        name = f"{what}, {algorithm}, seed {seed}"
        if running:
            judge_forced(figure, name, got, exact)
            continue
        found = {"ours": got}
        for which, other in others.items():
            other.loss(x, labels, forced)
            found[which] = other.gradients()
        errors = {w: median_worst([ratio(g[n], exact[n]) for n in exact]) for w, g in found.items()}
        for which, cells in errors.items():
            figure.add(run="forced", what=f"{name}: {which}", **cells)
        limits = {"torch fp32": TIMES_FORCED[algorithm]}
        if algorithm == "direct":
            limits["float64, maps rounded"] = TIMES_STORED
        for which, limit in limits.items():
            for kind, error in errors["ours"].items():
                times = error / errors[which][kind]
                figure.at_most(f"forced, {name}: {kind} over {which}'s", times, limit)


def _free(figure: Figure, side: int) -> None:
    free: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, DRAWS + 1):
        net, x, labels = training(seed, side)
        truth = Oracle("rows", net, torch.float64)
        truth.loss(x, labels)
        exact = truth.gradients()
        runs = {algorithm: our_gradients(net, x, labels, algorithm)[0] for algorithm in ALGORITHMS}
        for name, channels_last in RIVALS.items():
            rival = Oracle("rows", net, torch.float32, channels_last)
            rival.loss(x, labels)
            runs[name] = rival.gradients()
        for name, got in runs.items():
            errors = [ratio(got[n], exact[n]) for n in exact]
            free.setdefault(name, []).append(median_worst(errors))
    judge_free(figure, free)
