"""Kill a small training run at random moments and take it up again; one JSON line per kill.

    python benchmarks/kills.py KILLS SEED FOLDER

This process trains nothing itself: every run is a fork of it, so no start-up is waited for. A
moment is drawn by progress, so that a busy machine does not move it: a step out of all, its start
being the first, and a random while after its line is in metrics.jsonl. A run that ends before its
moment is no kill, and is drawn again. Pictures and the report are left out: they take longer than
the training here.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pyinception as pyi
from pyinception import checkpoint, data, rng
from pyinception.train import RunFolder, loop, train

# 5 steps an epoch; the network has batch norms (buffers) and dropout (the step's stream).
RECIPE = {
    "data": "digits",
    "model": "tiny_inception",
    "size": 8,
    "count": 72,
    "test_count": 24,
    "batch_size": 16,
    "epochs": 4,
}
STEPS = 20
KEPT = ("kind", "epoch", "step", "loss", "accuracy", "lr", "test_loss", "test_accuracy")


def run(folder: Path, threads: int) -> None:
    """Train to the end, or take up what is there, with a checkpoint after every step."""
    resume = (folder / "config.toml").exists()
    given = {} if resume else RECIPE
    with pyi.using(threads=threads):
        train(given, folder, resume=resume, checkpoint_steps=1, with_baselines=False)


def forked(work: Callable[[], None]) -> int:
    """Start ``work`` in a child; its process number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def begun(folder: Path) -> float:
    """When the folder of a run that was just started appears."""
    deadline = time.monotonic() + 60
    while not folder.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{folder} does not appear")
        time.sleep(0.001)
    return time.monotonic()


def killed(child: int, folder: Path, steps: int, after: float) -> bool:
    """Whether ``child`` was killed ``after`` seconds past ``steps`` steps; False: it had ended."""
    moment = math.inf
    while time.monotonic() < moment:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        if moment == math.inf and reached(folder) >= steps:
            moment = time.monotonic() + after
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)  # of one that has just ended this does nothing
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def reached(folder: Path) -> int:
    """Steps whose lines are on disk; -1 before the run has a folder."""
    if not folder.exists():
        return -1
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b'"kind": "step"') if metrics.exists() else 0


def result(folder: Path) -> dict[str, Any]:
    """What a finished run left: its weights and its metrics, without the clock's part."""
    record = checkpoint.load(folder / "checkpoints" / "last.safetensors").record
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: line[key] for key in KEPT if key in line} for line in lines]
    return {
        "weights": record["weights_sha256"],
        "epoch": record["state"]["epoch"],
        "metrics": metrics,
    }


def state(folder: Path) -> str:
    """Where a killed run stands; raises where something cannot be read."""
    if not (folder / "config.toml").exists():
        return "no run yet"
    found = RunFolder(folder)
    found.reopen({}, loop.resolve)
    if found.best.exists():
        checkpoint.load(found.best)
    if not found.last.exists():
        return "before the first step"
    where = checkpoint.load(found.last).record["state"]
    whole = found.metrics_path.read_bytes()[: where["metrics"]]
    lines = [json.loads(line) for line in whole.splitlines()]
    steps = sum(line["kind"] == "step" for line in lines)
    if len(whole) != where["metrics"] or steps != 5 * where["epoch"] + where["batch"]:
        raise ValueError(f"metrics hold {steps} steps, the checkpoint {where}")
    if where["epoch"] == RECIPE["epochs"]:
        return "finished"
    return "inside an epoch" if where["batch"] else "between epochs"


def main(kills: int, seed: int, root: Path) -> None:
    """Measure the uninterrupted run, then kill and resume; results go to stdout."""
    for name in ("draw_curves", "draw_filters", "draw_features", "write_report"):
        setattr(loop, name, lambda *given, **how: None)
    data.load("digits")  # imported once, for all children
    durations = []
    for turn in range(2):
        child = forked(lambda turn=turn: run(root / f"whole{turn}", 1))
        start = begun(root / f"whole{turn}")
        os.waitpid(child, 0)
        durations.append(time.monotonic() - start)
    wanted = result(root / "whole0")
    duration = min(durations)
    print(json.dumps({"seconds": duration, "weights": wanted["weights"]}), flush=True)
    draw = rng.generator(seed, 0, 0, "kills")
    for n in range(kills):
        folder = root / f"run{n}"
        while True:
            steps, after = int(draw.integers(0, STEPS)), 2 * duration / STEPS * draw.random()
            child = forked(lambda folder=folder, n=n: run(folder, 1 + n % 2))
            if killed(child, folder, steps, after):
                break
            shutil.rmtree(folder)
        line = {
            "kill": n,
            "steps": steps,
            "after": after,
            "state": "",
            "readable": True,
            "equal": False,
        }
        try:
            line["state"] = state(folder)
        except Exception as error:
            line |= {"readable": False, "state": f"{type(error).__name__}: {error}"}
        _, code = os.waitpid(forked(lambda folder=folder, n=n: run(folder, 2 - n % 2)), 0)
        line["equal"] = code == 0 and result(folder) == wanted
        left = [path.name for path in folder.rglob("*.tmp")]
        line["litter"] = left
        print(json.dumps(line), flush=True)
        if line["equal"]:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
