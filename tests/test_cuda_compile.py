"""What can be held of the CUDA kernels without a GPU.

Records equal field by field in C++ and NumPy; index arithmetic and launch plans as plain C++ (both
need a C++ compiler). What is missing is named in the skip; compilation is tested in
test_cuda_gates.py.
"""

import ctypes
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cuda_run import SENTENCES, Refused, plan
from pyinception.kernels import cuda_args

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "kernels" / "cuda"
HEADER = ROOT / "kernels" / "cuda_args.h"
CXX = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
needs_cxx = pytest.mark.skipif(CXX is None, reason="no C++ compiler found")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc found")

RECORDS = {
    "".join(word.title() for word in name.split("_")): getattr(cuda_args, name)
    for name in cuda_args.__all__
}  # ReduceConvCudaArgs and the others

WITH_PTX = ("ptx.cuh", "storage.cuh")  # headers whose functions wrap instructions
KB = 1024
POINTERS = ("x", "wr", "br", "w", "b", "y", "r", "gy", "gx", "gwr", "gbr", "gw", "gb", "workspace")

# map, C, then (Cr, K) of the 3x3 and of the 5x5 branch
MODULES = {
    "3a": (28, 192, (96, 128), (16, 32)),
    "3b": (28, 256, (128, 192), (32, 96)),
    "4a": (14, 480, (96, 208), (16, 48)),
    "4b": (14, 512, (112, 224), (24, 64)),
    "4c": (14, 512, (128, 256), (24, 64)),
    "4d": (14, 512, (144, 288), (32, 64)),
    "4e": (14, 528, (160, 320), (32, 128)),
    "5a": (7, 832, (160, 320), (32, 128)),
    "5b": (7, 832, (192, 384), (48, 128)),
}

WRAPPERS = """
#include "conv_plan.h"
#include "depthwise_plan.h"
#include "elementary_plan.h"
#include "inception_mma_plan.h"
#include "pool_plan.h"
#include "reduce_conv_plan.h"
extern "C" {
int t_divide(int n, unsigned d) { return divide(n, make_divisor(d)); }
int t_output_extent(int e, int f, int s, int p) { return output_extent(e, f, s, p); }
int t_halo_origin(int first, int s, int p) { return halo_origin(first, s, p); }
int t_halo_extent(int t, int f, int s) { return halo_extent(t, f, s); }
int t_owns(int i, int t, int f, int s, int p) { return owns(i, owned_lead(f, s, p), t, s); }
int t_tiles(int o, int e, int t, int f, int s, int p, int r) {
  return tiles_along(o, e, t, f, s, p, r);
}
int t_source(int h, int tap, int p, int s, int o) {
  return gradient_source(h, tap, p, make_divisor(s), o);
}
int t_offset(const CudaStrides* s, int n, int h, int w) { return offset_of(*s, n, h, w); }
int t_inside(int i, int e) { return inside(i, e); }
int t_pitch(int c) { return resident_pitch(c); }
int t_chunk(int pixels, int blocks) { return chunk_extent(pixels, blocks); }
}
"""


def build(command: list[str]) -> str:
    """Run a compiler and return what it said; its text is the failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)}\n{text}"
    return text


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The host side of the index arithmetic, and every plan's header, warnings being errors."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "wrappers.cpp").write_text(WRAPPERS)
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{CUDA}"]
    build([CXX, *flags, str(folder / "wrappers.cpp"), "-o", str(folder / "index.so")])
    library = ctypes.CDLL(str(folder / "index.so"))
    return library


def record(extents, stride=(1, 1), padding=(0, 0), limit=99 * KB, /, **fields):
    """A caller's record over dense maps at made-up addresses; nothing here follows a pointer."""
    _, h, w, c, cr, k, r, s = extents
    a = np.zeros((), cuda_args.REDUCE_CONV_CUDA_ARGS)
    for i, name in enumerate(POINTERS):
        a[name] = (i + 1) << 32
    a["workspace_bytes"] = 1 << 40
    for name, value in zip(("N", "H", "W", "C", "Cr", "K", "R", "S"), extents, strict=True):
        a[name] = value
    a["stride_h"], a["stride_w"] = stride
    a["pad_h"], a["pad_w"] = padding
    a["shared_limit"] = limit
    p = (h + 2 * padding[0] - r) // stride[0] + 1
    q = (w + 2 * padding[1] - s) // stride[1] + 1
    for name, (rows, columns, channels) in {
        "x": (h, w, c), "gx": (h, w, c), "r": (h, w, cr), "y": (p, q, k), "gy": (p, q, k)
    }.items():  # fmt: skip
        a[f"{name}_strides"] = (rows * columns * channels, columns * channels, channels)
    for name, value in fields.items():
        a[name] = value
    return a


FPROP, BACKWARD, SIZE = (f"reduce_conv_{s}" for s in ("fprop", "backward", "backward_size"))


# ---- records -----------------------------------------------------------------------------------
@needs_cxx
@pytest.mark.parametrize("name", RECORDS)
def test_offsets_equal(name, tmp_path):
    dtype = RECORDS[name]
    prints = "".join(
        f'  std::printf("{f} %zu %zu\\n", offsetof({name}, {f}), sizeof({name}::{f}));\n'
        for f in dtype.names
    )
    program = (
        f'#include <cstddef>\n#include <cstdio>\n#include "{HEADER}"\n'
        f'int main() {{\n{prints}  std::printf("size %zu 0\\n", sizeof({name}));\n}}\n'
    )
    (tmp_path / "offsets.cpp").write_text(program)
    build([CXX, "-std=c++17", str(tmp_path / "offsets.cpp"), "-o", str(tmp_path / "offsets")])
    lines = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True)
    expected = [f"{f} {dtype.fields[f][1]} {dtype.fields[f][0].itemsize}" for f in dtype.names]
    assert lines.stdout.split("\n")[:-1] == [*expected, f"size {dtype.itemsize} 0"]


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_is_mirrored(name):
    text = re.sub(r"//[^\n]*", "", HEADER.read_text())
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL).group(1)
    declared = [
        re.search(r"(\w+)(\[\d+\])?\s*$", part).group(1)
        for statement in body.split(";")
        if statement.strip()
        for part in statement.split(",")
    ]
    assert declared == list(RECORDS[name].names)


# ---- index arithmetic --------------------------------------------------------------------------
@needs_cxx
def test_division_by_multiplication_is_exact(index):
    top = 2**31 - 1
    divisors = [*range(1, 130), 784, 3136, 50176, 65535, 65536, 65537, 2**30 + 1, top - 1, top]
    for d in divisors:
        around = [m * d + e for m in (0, 1, 2, 77, top // d - 1, top // d) for e in (-1, 0, 1)]
        for n in [*range(200), *around, top - 1, top]:
            if 0 <= n <= top:
                assert index.t_divide(n, d) == n // d, (n, d)


GEOMETRIES = [
    (extent, filter_, stride, pad)
    for extent, filter_, stride, pad in itertools.product(
        (1, 2, 5, 8, 13), (1, 2, 3, 5, 7), (1, 2, 3), (0, 1, 2, 4)
    )
    if extent + 2 * pad >= filter_
]


def outputs_of(extent, filter_, stride, pad):
    """Starts of all windows that lie in the padded map, counted one by one."""
    starts = range(-pad, extent + pad)
    return [h for h in starts if (h + pad) % stride == 0 and h + filter_ <= extent + pad]


@needs_cxx
def test_output_extent(index):
    for geometry in GEOMETRIES:
        assert index.t_output_extent(*geometry) == len(outputs_of(*geometry)), geometry
    assert index.t_output_extent(2, 7, 2, 1) == 0
    assert index.t_output_extent(2, 5, 2, 1) == 0  # -1 / 2 truncates to 0, which is not an output


@needs_cxx
@pytest.mark.parametrize("tile", (1, 2, 4, 7, 16))
def test_halo_holds_every_tap_and_every_pixel_has_one_owner(index, tile):
    for extent, filter_, stride, pad in GEOMETRIES:
        windows = outputs_of(extent, filter_, stride, pad)
        for store in (0, 1):
            count = index.t_tiles(len(windows), extent, tile, filter_, stride, pad, store)
            assert count * tile >= len(windows)
            assert store or (count - 1) * tile < len(windows)
            owners = np.zeros(extent, int)
            for t in range(count):
                origin = index.t_halo_origin(t * tile, stride, pad)
                halo = range(origin, origin + index.t_halo_extent(tile, filter_, stride))
                for start in windows[t * tile : (t + 1) * tile]:
                    assert start in halo and start + filter_ - 1 in halo
                for i, h in enumerate(halo):
                    if 0 <= h < extent and index.t_owns(i, tile, filter_, stride, pad):
                        owners[h] += 1
            if store:
                assert (owners == 1).all(), (extent, filter_, stride, pad, owners)
            else:
                assert (owners <= 1).all()


@needs_cxx
def test_same_convolution_needs_no_further_tile_to_store_r(index):
    for extent, filter_ in itertools.product((7, 14, 28), (1, 3, 5, 7)):
        for tile in (7, 14, 28):
            args = (extent, extent, tile, filter_, 1, filter_ // 2)
            assert index.t_tiles(*args, 1) == index.t_tiles(*args, 0)


@needs_cxx
def test_gradient_source_inverts_the_windows(index):
    for extent, filter_, stride, pad in GEOMETRIES:
        windows = outputs_of(extent, filter_, stride, pad)
        for h, tap in itertools.product(range(extent), range(filter_)):
            wanted = [p for p, start in enumerate(windows) if start + tap == h] or [-1]
            assert [index.t_source(h, tap, pad, stride, len(windows))] == wanted


@needs_cxx
def test_offsets_of_a_channel_slice(index):
    whole = np.arange(2 * 5 * 7 * 40, dtype=np.float32).reshape(2, 5, 7, 40)
    part = whole[:, ::2, 1:, 11:24]
    strides = np.array([s // 4 for s in part.strides[:3]], np.int32)
    for n, h, w in np.ndindex(part.shape[:3]):
        at = index.t_offset(strides.ctypes.data_as(ctypes.c_void_p), n, h, w)
        assert part[0, 0, 0, 0] + at == part[n, h, w, 0]
    assert [index.t_inside(i, 3) for i in (-(2**31), -1, 0, 2, 3, 2**31 - 1)] == [0, 0, 1, 1, 0, 0]


@needs_cxx
def test_resident_rows_and_chunks(index):
    for channels in (1, 15, 16, 17, 24, 96, 112, 144, 192, 528):
        pitch = index.t_pitch(channels)
        assert pitch >= channels and pitch % 4 == 0 and pitch % 32 != 0 and pitch % 16 == 4
    for pixels, blocks in itertools.product((0, 1, 49, 784, 6272, 200704, 10**7), (1, 9, 54, 500)):
        extent = index.t_chunk(pixels, blocks)
        assert extent % 16 == 0 and extent >= 256
        assert extent * 32 >= pixels and (extent == 256 or pixels / extent * blocks < 264 + blocks)


# ---- plans -------------------------------------------------------------------------------------
@needs_cxx
@pytest.mark.parametrize("limit", (64 * KB, 99 * KB, 163 * KB, 227 * KB))
@pytest.mark.parametrize("name", MODULES)
def test_plans_of_the_modules(index, name, limit):
    extent, c, *branches = MODULES[name]
    for (cr, k), filter_ in zip(branches, (3, 5), strict=True):
        for n in (1, 256):
            pad = (filter_ // 2,) * 2
            extents = (n, extent, extent, c, cr, k, filter_, filter_)
            a = record(extents, (1, 1), pad, limit)
            [launch], _ = plan(FPROP, a)
            done = launch.record(a.dtype)
            assert (done["P"], done["Q"]) == (extent,) * 2
            tiles = -(-extent // int(done["tile_p"])) * -(-extent // int(done["tile_q"]["value"]))
            assert launch.grid[0] == n * tiles and launch.shared_bytes <= limit
            reduced = int(done["halo_h"]) * int(done["halo_w"]["value"]) * index.t_pitch(cr) * 4
            panels = 15 * KB if launch.entry.endswith("narrow") else 20 * KB
            assert launch.shared_bytes - reduced == panels

            launches, workspace = plan(BACKWARD, a)
            assert max(launch.shared_bytes for launch in launches) <= limit
            dgrad = launches[0]
            pixels = dgrad.record(a.dtype)["tile_pixels"]
            assert dgrad.grid[0] * pixels >= n * extent * extent
            dry = record(extents, (1, 1), pad, limit)
            for field in dry.dtype.names:
                if dry.dtype[field] == np.uint64:
                    dry[field] = 0
            assert plan(SIZE, dry)[1] == workspace
            a["workspace_bytes"] = workspace - 1
            with pytest.raises(Refused, match=SENTENCES[-8]):
                plan(BACKWARD, a)


def test_a_fused_launch_fills_the_device_and_repeats_little():
    """Small tiles and slices of the channels at batch 1; enough images need neither."""

    def blocks(n):
        [launch], _ = plan(FPROP, record((n, 14, 14, 480, 96, 208, 3, 3), (1, 1), (1, 1), 227 * KB))
        return launch.grid[0] // n, launch.grid[1]

    assert blocks(1) == (6, 7)  # of five lines by seven columns, 32 of 208 channels each
    assert blocks(256) == (2, 1)
    [tiny], _ = plan(FPROP, record((1, 14, 14, 64, 32, 32, 3, 3), (1, 1), (1, 1), 227 * KB))
    assert tiny.grid[0] <= 16  # not 98 of two pixels, 20 times the work


SMALL = (2, 9, 8, 20, 16, 24, 3, 3)
DECLINED = {
    "H 0": (-1, FPROP, {"H": 0}),
    "N -1": (-1, BACKWARD, {"N": -1}),
    "stride 0": (-2, FPROP, {"stride_w": 0}),
    "padding -1": (-2, BACKWARD, {"pad_h": -1}),
    "filter too large": (-3, FPROP, {"R": 13}),
    "negative stride": (-4, FPROP, {"x_strides": (-1440, 160, 20)}),
    "map beyond 32 bits": (-5, FPROP, {"y_strides": (2**31 - 1, 192, 24)}),
    "gradient beyond 32 bits": (-5, BACKWARD, {"gx_strides": (1440, 2**29, 20)}),
    "filter beyond 32 bits": (-5, FPROP, {"K": 2**30, "Cr": 16}),
    "shared memory": (-6, FPROP, {"shared_limit": 15 * KB}),
    "shared memory of dgrad": (-6, BACKWARD, {"shared_limit": 15 * KB}),
    "y null": (-7, FPROP, {"y": 0}),
    "r null": (-7, BACKWARD, {"r": 0}),
    "gb without gw": (-7, BACKWARD, {"gw": 0}),
    "workspace null": (-8, BACKWARD, {"workspace": 0}),
    "workspace misaligned": (-8, BACKWARD, {"workspace": (1 << 32) + 4}),
}


@pytest.mark.parametrize("case", DECLINED)
def test_plans_decline_with_a_reason(case):
    code, direction, fields = DECLINED[case]
    with pytest.raises(Refused, match=SENTENCES[code]):
        plan(direction, record(SMALL, (1, 1), (1, 1), **fields))


@pytest.mark.parametrize("direction", (FPROP, BACKWARD))
def test_the_shared_memory_that_is_asked_for_suffices(direction):
    def asked(limit):
        return record(SMALL, (1, 1), (1, 1), shared_limit=limit)

    with pytest.raises(Refused, match=r"expected at most 1000$") as refused:
        plan(direction, asked(1000))
    needs = int(re.search(r"needs (\d+) bytes", str(refused.value))[1])
    assert max(launch.shared_bytes for launch in plan(direction, asked(needs))[0]) == needs
    with pytest.raises(Refused, match=f"needs {needs} bytes, expected at most {needs - 1}"):
        plan(direction, asked(needs - 1))


def test_optional_results_and_the_empty_batch():
    def entries(direction, n=2, **fields):
        launches, _ = plan(direction, record((n, *SMALL[1:]), (1, 1), (1, 1), **fields))
        return [re.split("_(?:wide|narrow)", launch.entry)[0] for launch in launches]

    dgrad, wgrad = "reduce_conv_dgrad", "conv_wgrad"
    assert entries(BACKWARD) == [dgrad, wgrad, wgrad]
    assert entries(BACKWARD, gx=0) == [dgrad, wgrad, wgrad]
    assert entries(BACKWARD, gwr=0, gbr=0, gw=0, gb=0) == [dgrad]
    assert entries(BACKWARD, gx=0, gwr=0, gbr=0) == [wgrad]
    assert entries(FPROP, n=0) == []
    assert entries(BACKWARD, n=0) == [wgrad, wgrad]  # the filters' gradients are zeros, not garbage


# ---- the source itself -------------------------------------------------------------------------
def test_source_rules():
    """One source for nvcc and NVRTC: our own headers, no atomics, inline PTX in few headers."""
    files = [*sorted(HEADER.parent.glob("cuda*.h")), *sorted(CUDA.glob("*.*"))]
    known = {path.name for path in files}
    for path in files:
        text = path.read_text()
        code = re.sub(r"//[^\n]*", "", text)
        assert text.count("\n") < 400 and max(map(len, text.split("\n"))) <= 100, path.name
        assert {Path(i).name for i in re.findall(r'#include\s+[<"]([^>"]+)', code)} <= known
        found = re.search(r"\b(printf|asm|atomic\w+|fmaxf|double|__pow|powf?|assert)\b", code)
        allowed = {".h": "double", ".cuh": "asm" if path.name in WITH_PTX else ""}
        assert found is None or found[0] == allowed.get(path.suffix), (path.name, found)
        # Where launches depend on one another, a kernel that does not wait reads too early.
        for _, body in re.findall(r"__global__([^;{]*)\{([^;]*);", code):
            assert body.strip(" \\\n") == "await_launches_before()", (path.name, body)
