"""Gates of every CUDA kernel that need its compiler and no GPU.

Clean compilation for the architectures of kernels/cuda/registers.toml: no spill, no local or static
shared memory, no C75xx message, registers within the table; and what the PTX may not hold.
"""

import re
import subprocess

import pytest
from cuda_registers import ARCHITECTURES, PTXAS, REGISTERS
from cuda_run import CUDA, NVCC
from translate_kernels import emulated_architecture

from pyinception.emulator import compile as compiling

pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc found")

INSTANCES = 80  # entries of all units together
CASES = [(unit, arch) for unit, architectures in ARCHITECTURES.items() for arch in architectures]
FORMS = {
    "tf32": "m16n8k8.row.col.f32.tf32",
    "bf16": "m16n8k16.row.col.f32.bf16",
    "fp16": "m16n8k16.row.col.f32.f16",
    "sm75": "m16n8k8.row.col.f32.f16",
}


def release() -> str:
    said = subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+\.\d+)", said).group(1)


def test_every_unit_is_in_the_table():
    units = {path.stem for path in CUDA.glob("*.cu")} - {"launcher"}
    assert set(REGISTERS) == set(ARCHITECTURES) == units
    names = [name for table in REGISTERS.values() for name in table]
    assert len(names) == len(set(names)) <= INSTANCES


@pytest.mark.parametrize(("unit", "arch"), CASES)
def test_compiles_without_spills(unit, arch, tmp_path):
    gates = "-Xptxas=-v,--warn-on-spills,--warn-on-local-memory-usage,-Werror"
    target = ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    command = [NVCC, "-std=c++17", "-cubin", *target, gates, str(CUDA / f"{unit}.cu")]
    command += ["-keep", "-keep-dir", str(tmp_path)]
    done = subprocess.run([*command, "-o", str(tmp_path / "k")], capture_output=True, text=True,
                          check=False)  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0 and not re.search(r"warning|C75\d\d", said), said
    used = {}
    for part in said.split("Compiling entry function '")[1:]:
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", part)
        assert frame.groups() == ("0", "0", "0"), part
        assert " bytes smem" not in part, part  # all shared memory is asked for at launch
        used[part.split("'")[0]] = int(re.search(r"Used (\d+) registers", part).group(1))
    most = REGISTERS[unit]
    assert used.keys() == most.keys()
    if release() == PTXAS:
        assert {name: r for name, r in used.items() if r > most[name]} == {}
    if arch == "90a":  # blocks may start before the launch before has ended
        text = (tmp_path / f"{unit}.ptx").read_text()
        for entry, body in re.findall(r"\.entry (\w+)\((.*?)(?=\.visible|\Z)", text, re.DOTALL):
            before, wait, _ = body.partition("griddepcontrol.wait")
            assert wait and not re.search(r"global|\bbra\b", before), entry


@pytest.mark.parametrize("unit", REGISTERS)
def test_ptx(unit):
    text = compiling.ptx_of(CUDA / f"{unit}.cu", arch=emulated_architecture(unit))
    entries = re.findall(r"\.entry (\w+)\((.*?)(?=\.visible|\Z)", text, re.DOTALL)
    assert {entry for entry, _ in entries} == set(REGISTERS[unit])
    for entry, body in entries:
        # max.f32 would lose NaN (max.NaN.f32 is the pool's); atomics, the order of a sum; f64, a
        # factor of 64
        banned = r"\b(max|min)\.f32|\.f64|\batom|(?<!bar\.)\bred\.|\.local|\bcall\b"
        assert not re.search(banned, body), entry
        assert not re.search(r"\b(div|rem)\.[us](32|64)", body), f"{entry} divides integers"
        if "_mma_" in entry:
            kind = next(part for part in entry.split("_") if part in FORMS)
            found = set(re.findall(r"mma\.sync\.aligned\.(\S+?)\.\w+\.f32 ", body))
            assert found == {FORMS[kind]}, entry
            copies = bool(re.search(r"\bcp\.async", body))
            assert copies == (kind != "sm75"), f"{entry}: copies are asynchronous from sm_80 on"
            stores = "st.global.v2.f32" if kind == "tf32" else "st.global.v4.u32"
            assert "wgrad" in entry or stores in body, f"{entry}: narrow stores"
        elif unit in ("reduce_conv", "conv"):
            assert entry == "conv_sum_chunks" or "fma.rn.f32" in body, entry
        if "mma" not in unit:
            assert "ld.global.nc" in body, f"{entry}: inputs are not read as constant"
        if entry == "sgd":  # each operation rounded by itself
            assert "fma" not in body
