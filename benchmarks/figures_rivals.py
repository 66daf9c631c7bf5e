"""A new process up to the first logits of a stored GoogLeNet, beside ONNX Runtime."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from typing import Any

from figures_record import Figure, Unavailable

import pyinception as pyi
from pyinception.convert import onnx_export

PROCESSES = 7


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
    command, environment = [sys.executable, "-c", code], dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package comes with bytecode
    how: dict[str, Any] = {"capture_output": True, "text": True, "env": environment}
    return subprocess.run(command, timeout=300, check=True, **how).stdout


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
