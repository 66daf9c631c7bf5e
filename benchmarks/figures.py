"""The figures this library promises, measured: tables, JSON, exit code 1 on failure.

    python benchmarks/figures.py                  # all of them, about ten minutes on two cores
    python benchmarks/figures.py logits start     # some
    python benchmarks/figures.py --quick steps    # the smaller variant that the tests run

logits      GoogLeNet's three classifiers against float64 torch
ranks       the first class and the first five of 200 random images against float64 torch
gradients   every gradient, with our ReLU masks and argmaxes forced into float64, and free
steps       20 training steps of GoogLeNet and of the small Inception against float64 torch
family      googlenet_bn and inception_v3 through `convert` against float64 torch
family_gradients
            googlenet_bn's gradients, forced and free
survive     200 kills -9 at random moments of a run: all states readable, all resumes equal
recipes     every recipe of the papers, tiny: cut off and resumed with 0, 1, 2 workers, to the bit
loader      2 worker processes against none, decoding JPEGs
resume      10 epochs = 5 + resume 5, to the bit, on any number of threads
start       seconds of the import, and of a process up to its first logits
invariance  the same bits for any number of threads, alone or in a batch
emulated    20 training steps on the CUDA kernels, emulated, beside the CPU's
cold        the same from a stored network, beside ONNX Runtime
versus      GoogLeNet forward beside torch eager
training    a training step of GoogLeNet beside torch (eager, compiled) and TensorFlow, its memory;
            --tensorflow PYTHON: an interpreter that has TensorFlow
modules_cores, modules_tensor
            GoogLeNet's nine modules by the CUDA kernels on the emulator, in every storage
depthwise   depthwise convolution on Xception's maps beside torch, a copy of its bytes, its 1x1
fusion      GoogLeNet's branches and modules, fused over unfused: time, bytes, maps; training
turns       our calls and torch's in turns: what either loses to the other's team of threads

A figure that cannot be measured here is left out with the reason. Results go to
benchmarks/results/figures.json (--results FILE), each with its own date and environment.
"""

from __future__ import annotations

import os

# Before NumPy is imported: its team of threads would compete with the kernels that are timed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import figures_behaviour as behaviour
import figures_data
import figures_depthwise
import figures_fusion
import figures_recipes
import figures_rivals
import figures_training
from figures_emulated import emulated
from figures_record import RESULTS, Figure, Unavailable, store

from pyinception import config
from pyinception.bench.report import environment


def _accuracy(name: str, module: str = "figures_accuracy") -> Callable[[bool], Figure]:
    """A figure of a module that imports torch."""

    def measure(quick: bool = False) -> Figure:
        if find_spec("torch") is None:
            raise Unavailable("torch is not installed (extra 'oracles')")
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)  # beside other work a team of two took up to five times longer
        try:
            figure: Figure = getattr(import_module(module), name)(quick)
        finally:
            torch.set_num_threads(before)
        return figure

    return measure


def _modules(tensor_cores: bool) -> Callable[[bool], Figure]:
    """A figure of `figures_modules`, which needs what the tests need."""

    def measure(quick: bool = False) -> Figure:
        import figures_modules

        figure: Figure = figures_modules.modules(tensor_cores, quick)
        return figure

    return measure


# `start` first: its processes should meet a machine that our own torch does not load.
FIGURES: dict[str, Callable[[bool], Figure]] = {
    "start": behaviour.start,
    "cold": figures_rivals.cold,
    "versus": behaviour.versus,
    "training": figures_training.training,
    "fusion": figures_fusion.fusion,
    "turns": behaviour.turns,
    "invariance": behaviour.invariance,
    "logits": _accuracy("logits"),
    "ranks": _accuracy("ranks"),
    "gradients": _accuracy("gradients"),
    "steps": _accuracy("steps"),
    "family": _accuracy("family", "figures_family"),
    "family_gradients": _accuracy("family_gradients", "figures_family"),
    "resume": behaviour.resume,
    "survive": figures_data.survive,
    "loader": figures_data.loader,
    "emulated": emulated,
    "modules_cores": _modules(False),
    "modules_tensor": _modules(True),
    "depthwise": figures_depthwise.depthwise,
    "recipes": figures_recipes.recipes,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure the figures named; 0 if every one that could be measured holds, else 1."""
    parser = argparse.ArgumentParser(description="Measure the figures that are promised.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="smaller variants, nothing stored")
    parser.add_argument("--tensorflow", metavar="PYTHON", help="interpreter with TensorFlow")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file they go to")
    options = parser.parse_args(arguments)
    if options.tensorflow:
        figures_training.interpreters["tensorflow"] = options.tensorflow
    unknown = [name for name in options.names if name not in FIGURES]
    if unknown:
        parser.error(f"unknown figure {unknown[0]!r}, expected some of {', '.join(FIGURES)}")
    failed = []
    for name in options.names or FIGURES:
        begun = time.perf_counter()
        try:
            figure = FIGURES[name](options.quick)
        except Unavailable as reason:
            print(f"{name} left out: {reason}\n", flush=True)
            continue
        seconds = round(time.perf_counter() - begun, 1)
        print(f"{figure.table()}\n({seconds} s)\n", flush=True)
        if not figure.passed:
            failed.append(name)
        if not options.quick:
            about = environment(config.get("threads") or len(os.sched_getaffinity(0)))
            if "torch" in sys.modules:
                about["versions"]["torch"] = sys.modules["torch"].__version__
            measured = {**figure.as_dict(), "seconds": seconds, "environment": about}
            store(name, measured, options.results)
            print(f"written to {options.results}\n", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
