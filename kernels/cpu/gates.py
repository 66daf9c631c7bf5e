"""What every compiled object must satisfy; the build stops where one does not.

A tile program runs with no Python, no libm and no error path behind it, computes in float32 only,
and its register tiles keep their accumulators in registers.
"""

import re

ALLOWED_UNDEFINED = {"memcpy", "memset", "memmove"}
_DOUBLE = r"^\s+v?(?:add|sub|mul|div|sqrt|min|max|fn?m(?:add|sub)\d+)[sp]d\s.*$"
_FMA = r"(?:vfmadd\d+|vdpbf16)ps\s.*%[yz]mm"
# rsp is never a data pointer, so a vector beside it is one that did not fit the registers.
_SPILL = r"^.*(?:%[xyz]mm\d+.*\(%rsp\)|\(%rsp\).*%[xyz]mm\d+).*$"
# A scalar out of memory; constants, which lie beside the code (%rip), are those of a transform.
_BROADCAST = r"(?m)^(?!.*%rip).*(?:vbroadcastss\s|vpbroadcastd\s|\{1to\d+\})"
# An inner loop of a register tile multiplies and adds at least this many vectors, and broadcasts at
# least this many scalars to do so (which tells it from the loops of a transform).
TILE_FMAS, TILE_BROADCASTS = 6, 3


def undefined(symbols: set[str]) -> list[str]:
    """Symbols that the object would need beyond the memory functions."""
    return sorted(symbols - ALLOWED_UNDEFINED)


def double_arithmetic(assembly: str) -> list[str]:
    """Instructions that compute in double precision."""
    return [line.strip() for line in re.findall(_DOUBLE, assembly, flags=re.M)]


def tile_loops(assembly: str) -> list[str]:
    """Basic blocks that hold the inner loop of a register tile."""
    # From a label to the first jump: what follows the loop is not the loop.
    blocks = re.split(r"^(?:\.LBB\w+:.*|\s+j\w+\s.*)$", assembly, flags=re.M)
    return [
        block
        for block in blocks
        if len(re.findall(_FMA, block)) >= TILE_FMAS
        and len(re.findall(_BROADCAST, block)) >= TILE_BROADCASTS
    ]


def tile_spills(assembly: str) -> list[str]:
    """Vector registers saved to, or fetched from, the stack inside such a loop."""
    found = []
    for block in tile_loops(assembly):
        found += [line.strip() for line in re.findall(_SPILL, block, flags=re.M)]
    return found


def check(symbols: set[str], assembly: str) -> str | None:
    """The first gate that an object fails, or None."""
    if needs := undefined(symbols):
        return f"the object would need {', '.join(needs)}"
    if doubles := double_arithmetic(assembly):
        return f"{len(doubles)} instructions compute in double precision: {doubles[0]}"
    if spills := tile_spills(assembly):
        return f"a register tile spills {len(spills)} vectors: {spills[0]}"
    return None
