"""The records of kernels/args.py and kernels/args.h have the same fields at the same offsets."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pyinception.kernels import args

HEADER = Path(args.__file__).with_name("args.h")


def test_every_struct_has_a_dtype_and_the_other_way_round():
    structs = re.findall(r"^struct (\w+)", HEADER.read_text(), flags=re.M)
    assert sorted(structs) == sorted(args.RECORDS)


def test_sums_are_cut_alike():
    assert f"kSumChunk = {args.SUM_CHUNK};" in HEADER.read_text()


# constexpr int64_t kEntryBytes = 24;  // 8 ENTRY of kernels/cpu/pool.py
TWIN = re.compile(r"(k\w+) = (\d+);\s+// (?:(\d+) )?([A-Z_]+) of kernels/cpu/(\w+)\.py")


def test_numbers_of_the_core_are_those_of_the_kernels():
    """The core sizes scratch and counts tiles by them; a difference may be seen in no result."""
    pytest.importorskip("numba", reason="extra `jit`")
    found = []
    for path in sorted((Path(__file__).resolve().parents[1] / "csrc" / "core").glob("*.cpp")):
        for name, value, times, twin, module in TWIN.findall(path.read_text()):
            kernel = importlib.import_module(f"pyinception.kernels.cpu.{module}")
            assert int(value) == int(times or 1) * getattr(kernel, twin), f"{path.name}: {name}"
            found.append(name)
    assert len(found) == 14, found


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the header with")
def test_offsets_are_equal(tmp_path):
    lines = []
    for name, dtype in args.RECORDS.items():
        lines.append(f'std::printf("{name} size %zu\\n", sizeof(pyi::{name}));')
        for field in dtype.names:
            lines.append(
                f'std::printf("{name} {field} %zu %zu\\n", offsetof(pyi::{name}, {field}),'
                f" sizeof(pyi::{name}::{field}));"
            )
    program = tmp_path / "offsets.cpp"
    program.write_text(
        '#include <cstddef>\n#include <cstdio>\n#include "args.h"\nint main() {\n'
        + "\n".join(lines)
        + "\n}\n"
    )
    binary = tmp_path / "offsets"
    subprocess.run(
        ["g++", "-std=c++17", f"-I{HEADER.parent}", str(program), "-o", str(binary)], check=True
    )
    seen = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    expected = []
    for name, dtype in args.RECORDS.items():
        expected.append(f"{name} size {dtype.itemsize}")
        for field in dtype.names:
            kind, offset = dtype.fields[field][:2]
            expected.append(f"{name} {field} {offset} {kind.itemsize}")
    assert [line for line in seen if line] == expected
