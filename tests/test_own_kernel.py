"""A kernel of one's own beside ours: the template is right, and every way to be wrong is named.

The edits are those of docs/your_kernel.md; where a GPU is missing the emulator runs them, and a
stand-in for the driver shows that the way to a GPU is passable.
"""

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pyinception import backend, bench, emulator
from pyinception.bench import driver, executors, own_kernel, own_runs, shapes
from pyinception.emulator import compile as compiling

REASON = backend.why_not("cpu") or compiling.why_not()
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "examples" / "my_reduce_conv.cu"
PAGE = (ROOT / "docs" / "your_kernel.md").read_text(encoding="utf-8")
SMALL = "1,6,5,8,8,12,3"

# name: (line of the template, line in its place), as the page has them
EDITS = {
    "no barrier": (
        "  __syncthreads();  // all of the tile is there before anyone reads a neighbour's part",
        "  // __syncthreads();",
    ),
    "no edge": (
        "    if (p >= a.P || q >= a.Q || k >= a.K) continue;  // tiles hang over the map's edge",
        "    // if (p >= a.P || q >= a.Q || k >= a.K) continue;",
    ),
    "halo": (
        "    float sum = 0.f;  // outside the map the 3x3 sees zeros, not relu(br)",
        "    float sum = br ? relu(br[cr]) : 0.f;",
    ),
}
FASTER = {
    "      for (int c = 0; c < a.C; c++) sum += from[c] * wr[cr * a.C + c];":
    "      for (int c = 0; c < a.C; c += 4) sum += dot(from + c, wr + cr * a.C + c);",
    "        for (int c = 0; c < a.Cr; c++) sum += reduced[at * a.Cr + c] * filter[c];":
    "        for (int c = 0; c < a.Cr; c += 4) sum += dot(reduced + at * a.Cr + c, filter + c);",
    '#include "cuda/relu.cuh"\n':
    '#include "cuda/relu.cuh"\n\n'
    "__device__ float dot(const float* a, const float* b) {\n"
    "  const float4 u = *(const float4*)a, v = *(const float4*)b;\n"
    "  return u.x * v.x + u.y * v.y + u.z * v.z + u.w * v.w;\n}\n",
}  # fmt: skip


def edited(folder: Path, *changes: tuple[str, str]) -> str:
    text = TEMPLATE.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "my.cu"
    path.write_text(text, encoding="utf-8")
    return f"{path}:my_reduce_conv"


def run(kernel: str, **how):
    how = {"names": (), "shapes": [SMALL], "backend": "emulated"} | how
    return bench.run_own_kernel(kernel, **how)


def column(report, name: str = "my_reduce_conv") -> dict:
    return report.rows[0]["columns"][name]


# ---- right ---------------------------------------------------------------------------------------
def test_the_template_is_right_and_counted() -> None:
    report = run(f"{TEMPLATE}:my_reduce_conv", shapes=[SMALL, "2,5,7,20,16,40,5"])
    assert report.failed == [] and len(report.rows) == 2
    mine, ours = column(report), column(report, "ours")
    for cell in (mine, ours):
        assert 0 < cell["error"] < 1e-5 and cell["error_of_bound"] < 1
        assert cell["wavefronts"] >= cell["wavefronts_least"] > 0
        assert cell["sectors"] >= cell["sectors_least"] > 0 < cell["instructions"]
        assert cell["bytes"] == 32 * cell["sectors"] and "median_us" not in cell
    assert mine["sectors"] > 2 * ours["sectors"]  # uncoalesced filters: what the page mends
    text = report.table()
    assert "my_reduce_conv" in text and "ncu --set full --import-source yes" in text
    assert f"{mine['instructions']:,}" in text
    assert bench.Report.from_json(report.to_json()).rows == report.rows


def test_instructions_are_statements_times_executions() -> None:
    text = """.version 8.5
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p) { .reg .b32 %r<3>; .reg .pred %q;
 mov.u32 %r1, 0; mov.u32 %r2, %tid.x;
L: add.s32 %r1, %r1, 1; setp.lt.s32 %q, %r1, 5; @%q bra L;
 ret; }"""
    module = compiling.parse(text)
    translation, path = compiling.build(module, "k", checked=True)
    kernel = emulator.Kernel.load(path, "k", translation.sites)
    device = emulator.Device(count=True)
    device.launch(kernel, (2,), (64,), np.zeros(8, np.uint8))
    assert device.instructions(kernel) == 2 * 2 * (2 + 5 * 3 + 1)


def test_the_page_is_what_is_tested() -> None:
    for old, new in (*EDITS.values(), *FASTER.items()):
        for line in (*old.splitlines(), *new.splitlines()):
            assert line.strip() in PAGE, line
    assert TEMPLATE.read_text().count("\n") <= 80


def test_wider_loads_take_fewer_sectors_and_instructions(tmp_path: Path) -> None:
    wide = ["1,6,5,64,32,16,3"]
    before = column(run(f"{TEMPLATE}:my_reduce_conv", shapes=wide))
    after = column(run(edited(tmp_path, *FASTER.items()), shapes=wide))
    assert "failed" not in after
    assert after["sectors"] < before["sectors"] / 2
    assert after["instructions"] < 0.6 * before["instructions"]


# ---- wrong ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            "no barrier",
            r"fair order: .*: uninitialised read .* shared memory; at .*my\.cu:57",
        ),
        ("no edge", r"data race .* of y: .*my\.cu:59; .*the other by thread .*my\.cu:59"),
        ("halo", r"y\[n=0, p=0, q=0, k=0\] is 0, expected 9; 1761 of 3456 outputs are wrong"),
    ],
)
def test_a_broken_kernel_has_no_figures_and_the_reason(edit, words, tmp_path: Path) -> None:
    report = run(edited(tmp_path, EDITS[edit]))
    assert report.failed == [f"{report.rows[0]['name']}: my_reduce_conv"]
    cell = column(report)
    assert set(cell) == {"failed"}
    assert re.search(words, cell["failed"]), cell["failed"]
    assert cell["failed"] in report.table() and "WRONG" in report.table()
    assert "error" in column(report, "ours")


def test_an_output_that_is_not_written(tmp_path: Path) -> None:
    store = "    y[offset_of(a.y_strides, n, p, q) + k] = relu"
    report = run(edited(tmp_path, (store, "    if (p + q + k != 3)\n  " + store)))
    assert "y[n=0, p=0, q=0, k=3] was not written" in column(report)["failed"]


def test_a_form_that_is_not_emulated_is_named(tmp_path: Path) -> None:
    start = "  // ---- which tile"
    report = run(edited(tmp_path, (start, '  asm volatile("brkpt;");\n' + start)))
    assert "brkpt" in column(report)["failed"] and "my.cu:" in column(report)["failed"]


LINE = "// launch my_reduce_conv: threads=128 tile_p=4 tile_q=7 tile_k=32 reduced=0"
HEAD = "// launch my_reduce_conv: "


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("//", 'no launch line for my_reduce_conv, expected "// launch ENTRY'),
        (HEAD + "threads=100 tile_p=4 tile_q=7 tile_k=32", "threads=100, expected 32..1024 in st"),
        (HEAD + "threads=128 tile_p=0 tile_q=7 tile_k=32", r"tile_p=0, expected 1\.\."),
        (HEAD + "threads=128 tile_p=4 tile_q=7", "does not say tile_k"),
        (HEAD + "threads=128 tile=4", "has 'tile=4', expected one of threads, tile_p"),
        (HEAD + "threads=128 threads=64", "has 'threads=64', expected one of"),
        (HEAD + "threads=__import__('os')", "expected one of"),
        (LINE + " shared=200000", r"needs 20\d{4} bytes of shared memory, expected at most 166912"),
    ],
)
def test_launch_lines(line: str, words: str, tmp_path: Path) -> None:
    kernel = edited(tmp_path, (LINE, line))
    if "shared=" in line:
        assert re.search(words, column(run(kernel))["failed"])
    else:
        with pytest.raises(own_kernel.KernelError, match=words):
            run(kernel)


def test_files_and_entries(tmp_path: Path) -> None:
    for kernel, words in (
        ("my.cu", "expected FILE.cu:ENTRY"),
        ("my.cu:a b", "expected FILE.cu:ENTRY"),
        (f"{tmp_path}/none.cu:k", r"there is no file .*none\.cu"),
        (f"{TEMPLATE}:other", r"has no entry other; its entries: my_reduce_conv"),
    ):
        with pytest.raises(own_kernel.KernelError, match=words):
            run(kernel)
    empty = tmp_path / "empty.cu"
    empty.write_text("__device__ int f() { return 1; }\n")
    with pytest.raises(own_kernel.KernelError, match=r'its entries: none .extern "C"'):
        run(f"{empty}:k")
    broken = edited(tmp_path, ("  // ---- which tile", "  undeclared();"))
    with pytest.raises(compiling.CompileError, match=r"(?s)my\.cu: .*undeclared"):
        run(broken)
    with pytest.raises(ValueError, match="backend is 'gpu', expected one of auto, cuda, emulated"):
        run(broken, backend="gpu")
    for name in ("batch", "rounds"):
        with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
            run(broken, **{name: 0})


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pyinception.cli.main import run as command

    kernel = f"{TEMPLATE}:my_reduce_conv"
    line = ["bench", "reduce_conv", "--shape", SMALL, "--backend", "emulated", "--kernel"]
    assert command([*line, kernel, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "own" and document["environment"]["device"] == "emulator"
    assert command([*line, edited(tmp_path, EDITS["halo"])]) == 1
    assert "outputs are wrong" in capsys.readouterr().out
    assert command([*line, f"{tmp_path}/none.cu:k"]) == 1
    assert "there is no file" in capsys.readouterr().err


# ---- a launch's geometry -------------------------------------------------------------------------
def test_plan_fields_are_those_of_our_own_plan() -> None:
    """Tiles as our plan chose them give our plan's record."""
    _, spec = shapes.own_shape("2,9,8,20,16,24,3")
    executor = executors.EmulatedExecutor()
    record = own_kernel.place(executor, spec, *own_kernel.integers(spec, 0))
    _, grid, _, params, _ = own_kernel.ours().launch(record, own_runs.EMULATED_SHARED)
    planned = np.frombuffer(params, record.dtype)[0]
    tiles = int(planned["tile_p"]), int(planned["tile_q"]["value"])
    line = own_kernel.Geometry(128, *tiles, 24, 0)
    _, grid_here, block, params, shared = line.launch("k", record, 1 << 20)
    here = np.frombuffer(params, record.dtype)[0]
    assert (grid_here[0], block) == (grid[0], (128,)) and grid_here[1] == 1
    names = ["P", "Q", "tile_p", "halo_h", "tile_q", "halo_w", "image_tiles", "tiles_q"]
    for name in (*names, "map_pixels", "map_w", "step_h", "step_w"):
        assert here[name] == planned[name], name
    assert shared == 4 * int(here["halo_h"]) * int(here["halo_w"]["value"]) * 16


def test_divisors() -> None:
    rng = np.random.default_rng(0)
    for d in (1, 2, 3, 7, 28, 49, 784, 2**20 + 1):
        value, multiplier, shift = own_kernel.divisor(d)
        assert value == d and multiplier < 1 << 32
        for n in (0, 1, d - 1, d, 2**31 - 1, *rng.integers(0, 2**31, 50).tolist()):
            assert (((2 * n) * multiplier) >> 32) >> shift == n // d


# ---- the way to a GPU, with a stand-in -----------------------------------------------------------
class StandIn:
    """A driver whose kernels the emulator runs, found by the name of the entry."""

    name, arch, shared_limit = "Stand-in", "80", own_runs.EMULATED_SHARED

    def __init__(self) -> None:
        self.device = emulator.Device()
        self.memory: dict[int, np.ndarray] = {}
        self.images: list[bytes] = []
        self.launched: list[str] = []

    def alloc(self, nbytes: int) -> int:
        array = self.device.buffer("memory", np.full(max(nbytes, 256), 0xFF, np.uint8))
        self.memory[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def fill(self, pointer: int, byte: int, nbytes: int) -> None:
        assert byte == 0xFF

    def upload(self, pointer: int, array: np.ndarray) -> None:
        self.memory[pointer][: array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()

    def download(self, pointer: int, array: np.ndarray) -> None:
        array.view(np.uint8).ravel()[...] = self.memory[pointer][: array.nbytes]

    def load(self, image: bytes) -> int:
        self.images.append(image)
        return len(self.images)

    def unload(self, module: int) -> None:
        pass

    def function(self, module: int, entry: str) -> str:
        return entry

    def launch(self, entry: str, grid, block, params: bytes, shared_bytes: int) -> None:
        source = TEMPLATE if entry == "my_reduce_conv" else own_kernel.ours().source
        module = compiling.module_of(source, include=[own_kernel.KERNELS])
        translation, path = compiling.build(module, entry, checked=True)
        kernel = emulator.Kernel.load(path, entry, translation.sites)
        self.device.launch(kernel, grid, block, np.frombuffer(params, np.uint8), shared_bytes)
        self.launched.append(entry)

    def synchronize(self) -> None:
        pass

    def elapsed(self, work: Callable[[], None]) -> float:
        work()
        return 1e-6 * (1 + len(self.launched[-1]))


def test_on_a_gpu_the_two_race(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, ranges = StandIn(), []

    class Range:
        def __init__(self, name: str) -> None:
            ranges.append(name)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(own_runs, "Driver", lambda: stand_in)
    monkeypatch.setitem(sys.modules, "nvtx", types.SimpleNamespace(annotate=Range))
    report = run(f"{TEMPLATE}:my_reduce_conv", backend="auto", rounds=4)
    mine, ours = column(report), column(report, "ours")
    assert report.failed == [] and report.environment["device"] == "Stand-in"
    assert mine["samples"] == ours["samples"] == 4
    assert mine["median_us"] == pytest.approx(1 + len("my_reduce_conv"))
    assert "wavefronts" not in mine and "p20-p80" in report.table()
    entries = [entry == "my_reduce_conv" for entry in stand_in.launched[-8:]]
    assert entries == [True, False] * 4  # in turns
    assert ranges.count("my_reduce_conv") >= 7 and ranges.count("ours") >= 7
    assert all(image.startswith(b"\x7fELF") for image in stand_in.images)


def test_without_a_gpu_asking_for_one_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "/nowhere/libcuda.so.1")
    with pytest.raises(driver.DriverError, match="no CUDA driver"):
        run(f"{TEMPLATE}:my_reduce_conv", backend="cuda")
    notes = run(f"{TEMPLATE}:my_reduce_conv", backend="auto").notes
    assert any(note.startswith("no times: no CUDA driver") for note in notes)
