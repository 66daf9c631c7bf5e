"""The gates on compiled tile programs, and what the linked library shows of them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pyinception.kernels.cpu import gates

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")
LIBRARY = Path(core.__file__).with_name("libpyinception.so")

LOOP = "\n".join(
    ["\tvbroadcastss\t(%rbp), %zmm1"] * gates.TILE_BROADCASTS
    + ["\tvfmadd231ps\t%zmm1, %zmm2, %zmm3"] * gates.TILE_FMAS
)


def test_gates_pass_a_clean_loop():
    clean = f".LBB0_1:\n\tvbroadcastss\t(%rbp), %zmm1\n{LOOP}\n\tjl\t.LBB0_1\n"
    assert len(gates.tile_loops(clean)) == 1
    assert gates.check({"memset"}, clean) is None


@pytest.mark.parametrize(
    ("symbols", "assembly", "word"),
    [
        ({"memset", "powf"}, "", "powf"),
        ({"PyErr_Clear"}, "", "PyErr_Clear"),
        (set(), "\tvmulsd\t%xmm0, %xmm1, %xmm2\n", "double"),
        (set(), "\tvfmadd231pd\t%zmm0, %zmm1, %zmm2\n", "double"),
        (
            set(),
            f".LBB0_1:\n{LOOP}\n\tvmovups\t%zmm3, 64(%rsp)\n",
            "spills 1",
        ),
        (
            set(),
            f".LBB0_1:\n{LOOP}\n\tvmovups\t64(%rsp), %zmm3\n",
            "spills 1",
        ),
    ],
)
def test_gates_refuse(symbols, assembly, word):
    failure = gates.check(symbols, assembly)
    assert failure is not None
    assert word in failure


def test_spills_outside_the_tile_are_nobodys_business():
    assert gates.check(set(), ".LBB0_1:\n\tvmovups\t%zmm3, (%rsp)\n") is None


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm to read the library with")
def test_library_exports_the_public_interface_only():
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    exported = {s for s in re.findall(r" [TW] (\S+)", symbols) if not s.startswith("_Z")}
    header = (LIBRARY.parent / "include" / "pyinception.h").read_text()
    declared = set(re.findall(r"\b(pyi_\w+)\(", header))
    assert declared <= exported | {"pyi_status"}
    public = {s for s in exported if s.startswith("pyi_") and not s.startswith("pyi_cuda_")}
    assert public <= declared


def test_every_program_exists_for_every_level():
    rows = core.kernels()
    levels = {row["level"] for row in rows}
    assert levels == {"x86-64-v3", "x86-64-v4"}
    by_level = {level: {r["name"] for r in rows if r["level"] == level} for level in levels}
    widest = {"conv_bfloat16_dot", "reduce_conv_bfloat16_dot"}  # zmm registers alone
    assert by_level["x86-64-v3"] | widest == by_level["x86-64-v4"]
    assert not by_level["x86-64-v3"] & widest
    plain = {name for name in by_level["x86-64-v3"] if name.endswith("_plain")}
    assert plain, "the plain twins"
