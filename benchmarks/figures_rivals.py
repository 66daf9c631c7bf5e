"""Figures beside other libraries that `pyinception bench` does not take.

training   a step of GoogLeNet with both heads (forward, backward, SGD with momentum) beside torch
           in channels_last, in turns; peak memory of such steps, each library in its own process
cold       a new process up to the first logits of a stored GoogLeNet, beside ONNX Runtime
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception import losses
from pyinception.bench.timing import SETTLE_SECONDS, Call, interleave
from pyinception.convert import onnx_export

RATE, MOMENTUM, DECAY, THREADS = 0.01, 0.9, 2e-4, 2
TIMES, MEMORY = 1.3, 0.7  # promised: torch's time over ours, our memory over torch's
PROCESSES = 7


# ------------------------------------------------------------------------------------ training


def _batch(count: int) -> tuple[Any, Any]:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((count, 224, 224, 3)).astype(np.float32)
    return x, draw.integers(0, 1000, count)


def _our_step(count: int) -> Call:
    x, labels = _batch(count)
    net = pyi.models.googlenet(seed=1)
    net.drop.p = net.aux1.drop.p = net.aux2.drop.p = 0.0  # a draw of ours is not one of torch's
    sgd = pyi.optim.SGD(net, RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> float:
        loss = losses.cross_entropy(net(x), labels)
        loss.backward()
        sgd.step()
        return float(loss.item())

    return step


def _torch_step(count: int) -> Call:
    import torch
    from figures_oracle import Oracle

    x, labels = _batch(count)
    theirs = Oracle("googlenet", pyi.models.googlenet(seed=1), torch.float32, channels_last=True)
    sgd = torch.optim.SGD(theirs.weights.values(), RATE, MOMENTUM, weight_decay=DECAY, foreach=True)
    images, target = theirs._take(x), torch.tensor(labels)
    torch.set_num_threads(pyi.config.get("threads") or THREADS)

    def step() -> float:
        theirs.forced, theirs._pools = None, 0
        outputs = theirs.forward(images)
        main, *heads = (torch.nn.functional.cross_entropy(y, target) for y in outputs)
        total = main + 0.3 * sum(heads)
        sgd.zero_grad(set_to_none=True)
        total.backward()
        sgd.step()
        return float(total.detach())

    return step


STEPS = {"pyinception": _our_step, "torch, channels_last": _torch_step}
PEAK = """
import sys; sys.path.insert(0, {here!r})
import figures_rivals as f, pyinception
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
step = f.{maker}({count})
before = peak()
with pyinception.using(threads=2):
    step(); step()
print((peak() - before) / 1024)
"""


def _peak(maker: str, count: int) -> float:
    """MB by which two steps raise the peak of a process that holds weights and images already."""
    here = str(Path(__file__).resolve().parent)
    return float(_child(PEAK.format(here=here, maker=maker, count=count)))


def training(quick: bool = False) -> Figure:
    """Both sides in turns; memory in processes of their own."""
    if find_spec("torch") is None:
        raise Unavailable("torch is not installed (extra 'rivals')")
    promise = f"a training step: torch takes at least {TIMES} times our time, memory at most"
    figure = Figure("training", f"{promise} {MEMORY} of torch's at batch 32")
    for count, rounds in ((2, 2),) if quick else ((8, 7), (32, 3)):
        with pyi.using(threads=THREADS):
            calls = {name: make(count) for name, make in STEPS.items()}
            first = [call() for call in calls.values()]
            times = interleave(calls, rounds=rounds, settle=SETTLE_SECONDS)
        ours, theirs = times.values()
        for name, timing in times.items():
            spans = {"ms": timing.median * 1e3, "p20": timing.p20 * 1e3, "p80": timing.p80 * 1e3}
            figure.add(batch=count, what=name, **spans, ratio=timing.median / ours.median)
        share = ours.median / theirs.median
        figure.at_most(f"batch {count}: our time over torch's", share, 9 if quick else 1 / TIMES)
        figure.at_most("first losses, difference", abs(first[0] - first[1]), 1e-4 * first[0])
    count = 2 if quick else 32
    mine, other = _peak("_our_step", count), _peak("_torch_step", count)
    for name, megabytes in zip(STEPS, (mine, other), strict=True):
        figure.add(batch=count, what=f"{name}: memory of two steps", MB=megabytes)
    if not quick:
        figure.at_most("memory: ours over torch's", mine / other, MEMORY)
    return figure


# ---------------------------------------------------------------------------------------- cold

INPUT = "import numpy as np\nx = np.ones((1, 224, 224, 3), np.float32)\n"
FIRST = {
    "ours": """import pyinception as pyi
net = pyi.models.GoogLeNet(1000, 3, False)
net.load({path!r})
y = pyi.Session(net.eval(), x.shape)(x)""",
    "onnxruntime": """import onnxruntime
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
y = session.run(None, {{session.get_inputs()[0].name: x.transpose(0, 3, 1, 2).copy()}})[0]""",
}
END = "\nimport time; print(float(y[0, 0]), time.monotonic())"


def _child(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def cold(quick: bool = False) -> Figure:
    """New processes in turns, files in the page cache."""
    for module in ("onnx", "onnxruntime"):
        if find_spec(module) is None:
            raise Unavailable(f"{module} is not installed (extra 'rivals')")
    count = 1 if quick else PROCESSES
    promise = "process start to first logits of a stored GoogLeNet: at most ONNX Runtime's time"
    figure = Figure("cold", f"{promise}; medians of {count} processes")
    net = pyi.models.googlenet(aux=False, seed=1).eval()
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: f"{folder}/net.{name}" for name in FIRST}
        net.save(paths["ours"])
        onnx_export.export(net, (1, 224, 224, 3), paths["onnxruntime"])
        spans: dict[str, list[float]] = {name: [] for name in FIRST}
        logits = {}
        for turn in range(count + 1):
            for name, code in FIRST.items():
                begun = time.monotonic()
                value, end = _child(INPUT + code.format(path=paths[name]) + END).split()
                logits[name] = float(value)
                if turn > 0:  # the first fills the page cache
                    spans[name].append(float(end) - begun)
    for name, found in spans.items():
        figure.add(what=name, median=statistics.median(found), best=min(found))
    ours, theirs = (statistics.median(found) for found in spans.values())
    figure.at_most("our time over ONNX Runtime's", ours / theirs, 1.0)
    figure.at_most("logits, difference", abs(logits["ours"] - logits["onnxruntime"]), 1e-4)
    return figure
