"""The inner loop of the convolution's register tile, as the machine has it.

    python examples/inner_loop.py [x86-64-v4 | x86-64-v3]

Compiles `kernels/cpu/conv.py` as the build does (extra `jit`) and prints the largest loop of the
tile: one term of the sum for every pixel and channel of the tile.
"""

import re
import sys


def inner_loop(level: str) -> str:
    """The assembly of the loop with the most multiply-adds in the program `conv`."""
    from pyinception.kernels.cpu import build

    build.select_target(level)  # before Numba is imported
    import llvmlite.binding as llvm
    from pyinception.kernels.cpu import conv, gates
    from pyinception.kernels.cpu.target import TARGETS

    program = conv.conv(TARGETS[level])
    module, machine = build.emit({"conv": program}, level, TARGETS[level].symbol)
    assert isinstance(module, llvm.ModuleRef)
    return max(gates.tile_loops(machine.emit_assembly(module)), key=multiply_adds)


def multiply_adds(loop: str) -> int:
    """Vector multiply-adds in a piece of assembly."""
    return len(re.findall(r"\bvfmadd", loop))


if __name__ == "__main__":
    found = inner_loop(sys.argv[1] if len(sys.argv) > 1 else "x86-64-v4")
    lines = [line.strip() for line in found.splitlines() if line.startswith("\t")]
    print("\n".join(lines))
    loads = sum("(" in line and "vmov" in line for line in lines)
    print(f"{len(lines)} instructions, {multiply_adds(found)} multiply-adds, {loads} vector loads")
