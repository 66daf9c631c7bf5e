"""Every CPU comparison in one go: JSON, tables and charts, in a folder.

    python benchmarks/everything.py [--out build/bench] [--rounds 5] [--threads 2]

Each run is a process of its own: no library's team of threads is there when another is timed,
but for those that share a run on purpose. Direct against direct, then any algorithm with its error
beside it; float32, then bfloat16 on every side; what fusion buys; a training step. What is not
installed is named in the table and left out.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

EACH = ("torch", "openvino", "onnxruntime")
ONE = (*EACH, "torch.nchw", "numpy")  # at batch 1: those that are slow
WHOLE = (*EACH, "openvino.throughput")
COMPILED = ("torch.compile",)  # its team spins through a run, so it has runs of its own
BFLOAT16 = ("torch", "openvino")  # those that have it, in runs of its own
BENCH = (str(Path(sys.executable).with_name("pyinception")), "bench")
SUFFIX = {COMPILED: "_compile", BFLOAT16: "_bfloat16"}
FIGURES = ("fusion", "training")  # of figures.py: tables, stored beside the JSON
RUNS = [
    (verb, batch, algorithm, ONE if batch == 1 else EACH)
    for verb in ("reduce_conv", "module")
    for algorithm in ("direct", "auto")
    for batch in (1, 8)
]
RUNS += [
    ("conv", 1, "direct", ONE),
    ("conv", 1, "auto", ONE),
    ("net", 1, "auto", (*WHOLE, "torch.nchw", "numpy")),
]
RUNS += [("net", batch, "auto", WHOLE) for batch in (8, 32)]
RUNS += [("net", batch, "auto", COMPILED) for batch in (1, 8)]
RUNS += [("net", batch, "auto", BFLOAT16) for batch in (1, 8)]


def main() -> int:
    """Run all that is asked for; 1 where a result was wrong or a promised figure does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="runs whose file name has this in it")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    began, wrong, made = time.monotonic(), False, {}
    for verb, batch, algorithm, rivals in RUNS:
        name = f"{verb}_{algorithm}_batch{batch}{SUFFIX.get(rivals, '')}"
        if asked.only and asked.only not in name:
            continue
        file = asked.out / f"{name}.json"
        command = [*BENCH, verb, "--batch", str(batch)]
        command += [word for rival in rivals for word in ("--rival", rival)]
        command += ["--threads", str(asked.threads), "--rounds", str(asked.rounds)]
        command += ["--algorithm", algorithm, "--save", str(file)]
        command += ["--dtype", "bfloat16"] * (rivals == BFLOAT16)
        print(f"== {name} ({time.monotonic() - began:.0f} s)", flush=True)
        wrong |= subprocess.run(command, check=False).returncode != 0
        if rivals != BFLOAT16:  # a chart is of one precision
            made.setdefault((verb, algorithm), []).append(file)
    for (verb, algorithm), files in made.items():
        for kind in ("bars", "heat", "roofline"):
            picture = asked.out / f"{verb}_{algorithm}_{kind}.png"
            chart = subprocess.run(
                [*BENCH, "chart", *map(str, files), "--kind", kind, "--save", str(picture)],
                check=False, capture_output=True, text=True,
            )  # fmt: skip
            said = chart.stdout.strip() or chart.stderr.strip().splitlines()[-1]
            print(said, flush=True)
    for figure in FIGURES:
        if asked.only and asked.only not in figure:
            continue
        print(f"== {figure} ({time.monotonic() - began:.0f} s)", flush=True)
        command = [sys.executable, str(Path(__file__).with_name("figures.py")), figure]
        command += ["--results", str(asked.out / "figures.json")]
        wrong |= subprocess.run(command, check=False).returncode != 0
    print(f"== done ({time.monotonic() - began:.0f} s), in {asked.out}")
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
