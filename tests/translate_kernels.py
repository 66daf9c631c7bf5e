"""Translates every CUDA kernel for the emulator before the tests, on all cores and each one once.

Processes of one test run that meet a kernel at the same time would compile it side by side. What is
made stands in the emulator's cache; where a compiler is missing the tests say so themselves.
"""

import os
from concurrent.futures import ThreadPoolExecutor

from cuda_registers import ARCHITECTURES, REGISTERS
from cuda_run import CUDA

from pyinception.emulator import compile as compiling
from pyinception.emulator import parse

# Those with most to compile begin, so that all cores end at about the same time.
LONGEST = ("inception_mma", "reduce_conv_mma", "conv_mma", "mma_sm75", "reduce_conv", "conv")


def emulated_architecture(unit: str) -> str:
    """The one whose PTX the emulator runs: its own, or the only one that the unit is made for."""
    made_for = ARCHITECTURES[unit]
    return made_for[0] if len(made_for) == 1 else compiling.ARCHITECTURE


def main() -> None:
    if compiling.why_not():
        return
    units = sorted(REGISTERS, key=lambda u: LONGEST.index(u) if u in LONGEST else len(LONGEST))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = [
            pool.submit(compiling.ptx_of, CUDA / f"{unit}.cu", arch=emulated_architecture(unit))
            for unit in units
        ]
        modules = [parse.parse(text.result()) for text in texts]
        kernels = [(module, entry) for module in modules for entry in module.entries]
        for _ in pool.map(lambda kernel: compiling.build(*kernel, checked=True), kernels):
            pass


if __name__ == "__main__":
    main()
