"""Instructions of the main loops on CUDA cores, read from the machine code.

    python benchmarks/cuda_sass.py [UNIT ...] [--arch sm_90a] [--only TEXT] [--json FILE]

Nothing is measured on a GPU: nvcc compiles kernels/cuda/UNIT.cu, cuobjdump (of the CUDA toolkit, or
`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`) prints it, and a turn of every innermost
loop that multiplies is counted along one path: the one with the most whole accesses, and of those
the shortest, so what happens once a tap or for unaligned maps is left out. A quarter of a
multiprocessor issues an instruction a clock: on CUDA cores the share of multiplies is what a kernel
that never waits reaches of the peak.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNITS = ("reduce_conv", "conv")
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+([^;]*?)\s*;")
BRANCH = re.compile(r"\bBRA\b.*?(0x[0-9a-f]+)")
LEAST = 16  # multiplies of a loop worth a row


@dataclass(frozen=True)
class Loop:
    """One turn of an innermost loop, by kind of instruction."""

    kernel: str
    at: str  # offset of its first instruction
    instructions: int
    multiplies: int  # FFMA
    reads: int  # of shared memory: LDS
    fetches: int  # from global memory: LDG
    stores: int  # to shared memory: STS

    @property
    def share(self) -> float:
        """Multiplies an instruction."""
        return self.multiplies / self.instructions


def tool() -> str:
    """cuobjdump on PATH or of the package in this environment; nvdisasm stands beside it."""
    found = shutil.which("cuobjdump")
    folders = [Path(folder) for folder in site.getsitepackages()]
    packaged = [str(p) for f in folders for p in f.glob("nvidia/*/bin/cuobjdump")]
    if not found and not packaged:
        sys.exit("cuobjdump is not found: install the CUDA toolkit's, or nvidia-cuda-cuobjdump "
                 "and nvidia-cuda-nvdisasm by pip")  # fmt: skip
    return found or packaged[0]


def machine_code(unit: str, arch: str, kernels: Path) -> dict[str, list[tuple[int, str]]]:
    """Instructions, with their offsets, of every entry of a unit."""
    nvcc, disassembler = shutil.which("nvcc"), tool()
    if not nvcc:
        sys.exit("nvcc is not found: install the CUDA toolkit and put its bin folder on PATH")
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/{unit}.cubin"
        source = kernels / "cuda" / f"{unit}.cu"
        subprocess.run(
            [nvcc, "-cubin", f"-arch={arch}", "-std=c++17", f"-I{kernels}", "-o", cubin, source],
            check=True,
        )
        printed = subprocess.run(
            [disassembler, "-sass", cubin], check=True, capture_output=True, text=True,
            env={"PATH": str(Path(disassembler).parent)},
        ).stdout  # fmt: skip
    functions = printed.split("Function : ")[1:]
    return {
        text.split("\n")[0].strip(): [(int(at, 16), what) for at, what in INSTRUCTION.findall(text)]
        for text in functions
    }


def target(instruction: str) -> int | None:
    """Where a branch leads; None: no branch."""
    found = BRANCH.search(instruction)
    return int(found[1], 16) if found else None


def operation(instruction: str) -> str:
    """Its name without predicate and modifiers."""
    return re.sub(r"^@\S+\s+", "", instruction).split()[0].split(".")[0]


def worth(instruction: str) -> int:
    """Whole accesses above all, then as few instructions as may be; single values never."""
    if re.search(r"LDG\.E\.(64|128)|STS\.(64|128)", instruction):
        return 10_000
    return -10_000 if operation(instruction) == "LDG" else -1


def turn(body: list[tuple[int, str]]) -> list[str]:
    """The instructions of the worthiest way through a loop's body, which branches forward only."""
    place = {at: i for i, (at, _) in enumerate(body)}
    best: list[tuple[int, int] | None] = [(0, -1)] + [None] * len(body)  # worth, from where
    for i, (_, instruction) in enumerate(body):
        here = best[i]
        if here is None:
            continue
        value, to = here[0] + worth(instruction), target(instruction)
        ways = [i + 1]
        if to is not None and i + 1 < len(body):
            conditional = instruction.startswith("@") or re.search(r"BRA !?U?P\d", instruction)
            ways = ([i + 1] if conditional else []) + ([place[to]] if to in place else [])
        for way in ways:
            known = best[way]
            if known is None or value > known[0]:
                best[way] = (value, i)
    path, i = [], len(body)
    while i > 0:
        step = best[i]
        assert step is not None, "the end of a loop is reached"
        i = step[1]
        path.append(body[i][1])
    return path[::-1]


def loops(kernel: str, code: list[tuple[int, str]]) -> list[Loop]:
    """The innermost loops of a kernel that multiply."""
    place = {at: i for i, (at, _) in enumerate(code)}
    spans = [
        (place[to], i)
        for i, (at, instruction) in enumerate(code)
        if (to := target(instruction)) in place and to < at
    ]
    found = []
    for begin, end in spans:
        if any((b, e) != (begin, end) and begin <= b and e <= end for b, e in spans):
            continue
        path = turn(code[begin : end + 1])
        count = Counter(map(operation, path))
        multiplies = count["FFMA"]
        if multiplies >= LEAST:
            found.append(
                Loop(kernel, hex(code[begin][0]), len(path), multiplies,
                     count["LDS"], count["LDG"], count["STS"])
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("units", nargs="*", default=list(UNITS))
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--only", default="", help="kernels whose name holds this text")
    parser.add_argument("--kernels", type=Path, default=ROOT / "kernels", help="another checkout's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [
        loop
        for unit in options.units
        for kernel, code in sorted(machine_code(unit, options.arch, options.kernels).items())
        if options.only in kernel
        for loop in loops(kernel, code)
    ]
    sys.stdout.write(
        f"{'kernel':28} {'at':>7} instructions multiplies share reads fetches stores\n"
    )
    for row in rows:
        sys.stdout.write(
            f"{row.kernel:28} {row.at:>7} {row.instructions:12} {row.multiplies:10} "
            f"{row.share:5.0%} {row.reads:5} {row.fetches:7} {row.stores:6}\n"
        )
    if options.json:
        what = {
            "counted": "in machine code, not measured on a GPU",
            "architecture": options.arch,
            "loops": [asdict(row) | {"share": round(row.share, 3)} for row in rows],
        }
        options.json.write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
