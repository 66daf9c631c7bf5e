"""Wrong kernels are found: a defect planted in a copy of the sources must show, by name.

Each row plants one defect by replacing text, which must be there, runs the kernel it is in, and
names what must notice: an array of the module that differs, a slice written beside, or a fault of
the checker. What the tests of the right kernels compare is what is compared here.
"""

import re
import shutil
from typing import NamedTuple

import numpy as np
import pytest
from cuda_run import CUDA, Memory, integers, open_device, plan
from mma_problems import ReduceConv
from mma_runs import STORAGE, Planned, read_slice
from module_device import Device
from module_problems import SAVED, Module
from pyinception.kernels import reference
from separable_runs import add_scaled, depthwise

from pyinception import emulator
from pyinception.cuda import executor, records_mma, records_stem
from pyinception.spec import ConvSpec, LrnSpec, PoolSpec


class Mutant(NamedTuple):
    entry: str  # the kernel that is run with the defect
    source: str  # its .cu file
    file: str  # where the text is replaced
    right: str
    wrong: str
    noticed: str  # by: an array's name, "beside", or the kind of a fault


FORWARD = {
    "halo: the right border is not looked at": Mutant(
        "conv_fprop_narrow_f32", "conv.cu", "conv.cuh",
        "inside(top[i] + r, a.H) && inside(left[i] + s, a.W)", "inside(top[i] + r, a.H)",
        "out of bounds"),
    "halo: the corner is a row too low": Mutant(
        "conv_fprop_narrow_f32", "conv.cu", "conv.cuh",
        "top[i] = halo_origin(p, a.stride_h, a.pad_h);",
        "top[i] = halo_origin(p, a.stride_h, a.pad_h) + 1;", "y"),
    "the slice begins a channel late": Mutant(
        "conv_fprop_narrow_f32", "conv.cu", "conv.cuh",
        "pixel - p * a.map_w.value) + k, acc[i],", "pixel - p * a.map_w.value) + k + 1, acc[i],",
        "beside"),
    "the sum begins at zero, not at the bias": Mutant(
        "conv_fprop_narrow_f32", "conv.cu", "conv.cuh",
        "start<T>(acc, b, k, panel.K);", "start<T>(acc, nullptr, k, panel.K);", "y"),
    "the last maximum wins": Mutant(
        "pool_fprop", "pool.cu", "pool.cuh",
        "!(v <= most) && most == most", "!(v < most) && most == most", "argmax"),
}  # fmt: skip
FUSED = {
    "halo: the border holds relu(bias), not zero": Mutant(
        "reduce_conv_mma_bf16_flat", "reduce_conv_mma.cu", "reduce_conv_mma.cuh",
        "store_shared(reduced + i * 16, make_uint4(0, 0, 0, 0));",
        "store_shared(reduced + i * 16, make_uint4(0x3f803f80u, 0, 0, 0));", "y"),
    "halo: a band begins a row late": Mutant(
        "reduce_conv_mma_bf16_flat", "reduce_conv_mma.cu", "reduce_conv_mma.cuh",
        "h0 = halo_origin(p0, a.stride_h, a.pad_h);",
        "h0 = halo_origin(p0, a.stride_h, a.pad_h) + 1;", "y"),
    "units leave before their words are there": Mutant(
        "reduce_conv_mma_bf16_flat", "reduce_conv_mma.cu", "mma_results.cuh",
        "      });\n      __syncthreads();\n      Staged<T>::each_unit",
        "      });\n      Staged<T>::each_unit", "race"),
}  # fmt: skip
TENSOR_BACKWARD = {
    "copies do not fill with zeros": Mutant(
        "conv_mma_bf16_flat", "conv_mma.cu", "mma_tile.cuh",
        "source.from, source.wanted);", "source.from, true);", "out of bounds"),
    "two fragments of B are swapped": Mutant(
        "conv_mma_bf16_flat", "conv_mma.cu", "mma_tile.cuh",
        "b[j][0] = v[0], b[j][1] = v[1], b[j + 1][0] = v[2], b[j + 1][1] = v[3];",
        "b[j][0] = v[0], b[j][1] = v[2], b[j + 1][0] = v[1], b[j + 1][1] = v[3];", "gx"),
    "the gradient of the reduced map has no mask": Mutant(
        "conv_mma_bf16_flat", "conv_mma.cu", "conv_mma.cuh",
        "v = mask > 0.f ? v : 0.f;", "v = v;", "gw1"),
    "words of the mask are read before they are there": Mutant(
        "conv_mma_bf16_flat", "conv_mma.cu", "mma_results.cuh",
        "      });\n      __syncthreads();\n      Staged<T>::each_word",
        "      });\n      Staged<T>::each_word", "race"),
    "no barrier in the ring": Mutant(
        "conv_wgrad_mma_bf16", "conv_mma.cu", "mma_tile.cuh",
        "cp_async_wait<T::kStages - 2>();\n    __syncthreads();",
        "cp_async_wait<T::kStages - 2>();\n    __syncwarp();", "uninitialised"),
    "the ring waits a stage too little": Mutant(
        "conv_wgrad_mma_bf16", "conv_mma.cu", "mma_tile.cuh",
        "cp_async_wait<T::kStages - 2>();", "cp_async_wait<T::kStages - 1>();",
        "copy not waited for"),
    "pixels past the end count in the bias": Mutant(
        "conv_wgrad_mma_bf16", "conv_mma.cu", "conv_wgrad_mma.cuh",
        "one(m) < end && k < a.K);", "k < a.K);", "gb0"),
    "the filter is not turned": Mutant(
        "flip_filters", "conv_mma.cu", "conv_mma.cu",
        "tap = taps - 1 - (line - c * taps)", "tap = line - c * taps", "gx"),
    "stacked filters are not side by side": Mutant(
        "flip_filters", "conv_mma.cu", "conv_mma.cu",
        "to = line * a.out_pitch + k", "to = line * a.K + k", "race"),
    "a zero of y lets its gradient pass": Mutant(
        "mask_units", "conv_mma.cu", "conv_mma.cu", "lo > 0.f ?", "lo >= 0.f ?", "gb0"),
    "the gather takes rows for columns": Mutant(
        "pool_dgrad", "pool.cu", "pool.cuh",
        "won[j] == r * a.S + s ?", "won[j] == s * a.S + r ?", "gx"),
}  # fmt: skip
SEPARABLE = {
    "depthwise: filters are not turned": Mutant(
        "depthwise_fprop", "depthwise.cu", "depthwise.cuh",
        "weights[tap * width + k] =", "weights[k * taps + tap] =", "y"),
    "depthwise: no barrier behind the filters": Mutant(
        "depthwise_fprop", "depthwise.cu", "depthwise.cuh",
        "  __syncthreads();\n}\n\n// Four", "}\n\n// Four", "uninitialised"),
    "depthwise: a row below the image is read": Mutant(
        "depthwise_fprop", "depthwise.cu", "depthwise.cuh",
        "r < min(a.R, a.H - top)", "r < a.R", "out of bounds"),
    "depthwise: a zero of the mask lets its gradient pass": Mutant(
        "depthwise_dgrad", "depthwise.cu", "depthwise.cuh",
        "m[j] > 0.f ? g[j]", "m[j] >= 0.f ? g[j]", "gx"),
    "depthwise: the last lane is not added": Mutant(
        "depthwise_wgrad", "depthwise.cu", "depthwise.cuh",
        "lane < a.lanes; lane++", "lane < a.lanes - 1; lane++", "gw"),
    "residual sum: the scale is forgotten": Mutant(
        "add_scaled", "elementary.cu", "elementary.cuh",
        "__fmul_rn(a.scale, w[j])", "w[j]", "sum"),
}  # fmt: skip
STEM = {
    "stem: the tile's rows of the convolution are a row too low": Mutant(
        "conv_lrn_pool_mma_bf16", "conv_lrn_pool_mma.cu", "conv_lrn_pool_mma.cuh",
        "p = top + line;", "p = top + line + 1;", "y"),
    "stem: rows of the convolution beyond the map are pooled": Mutant(
        "conv_lrn_pool_mma_bf16", "conv_lrn_pool_mma.cu", "conv_lrn_pool_mma.cuh",
        "r < min(tail.R, c.P - h)", "r < tail.R", "y"),
    "stem: no barrier before the pool": Mutant(
        "conv_lrn_pool_mma_bf16", "conv_lrn_pool_mma.cu", "conv_lrn_pool_mma.cuh",
        "  }\n  __syncthreads();\n", "  }\n", "race"),
    "stem: the sum leaves out the unit before": Mutant(
        "conv_lrn_pool_mma_bf16", "conv_lrn_pool_mma.cu", "conv_lrn_pool_mma.cuh",
        "if (first) before", "if (true) before", "y"),
    "padding: the tap of zeros in front is forgotten": Mutant(
        "pad_maps", "conv_mma.cu", "conv_mma.cu", ">> shift) - a.front, c", ">> shift), c", "y"),
}  # fmt: skip
CORES_BACKWARD = {
    "gx forgets what the gather wrote": Mutant(
        "conv_dgrad_narrow_f32", "conv.cu", "conv.cuh",
        "acc[i][j] = old[j] + acc[i][j];", "acc[i][j] = acc[i][j];", "gx"),
    "a zero of the mask lets its gradient pass": Mutant(
        "conv_dgrad_narrow_f32", "conv.cu", "storage.cuh",
        "f[j] = m[j] > 0.f ? f[j]", "f[j] = m[j] >= 0.f ? f[j]", "gx"),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def emulated() -> None:
    open_device()  # or skip


def planted(mutant: Mutant, folder) -> Device:
    """A device that runs the one entry from sources with the defect."""
    shutil.copytree(CUDA.parent, folder / "kernels", ignore=shutil.ignore_patterns("cpu", "*.py"))
    file = folder / "kernels" / "cuda" / mutant.file
    text = file.read_text()
    assert mutant.right in text, "the defect has no place any more"
    file.write_text(text.replace(mutant.right, mutant.wrong))
    source = folder / "kernels" / "cuda" / mutant.source
    source.write_text(_alone(source.read_text(), mutant.entry))
    return Device(substitutes={mutant.entry: source})


def _alone(text: str, entry: str) -> str:
    """A source without the other entries that its macros make, and without its table."""
    stem = re.sub("_(f32|bf16|f16)$", "", entry)
    kept = [line for line in text.split("#ifndef __CUDACC_RTC__")[0].splitlines()
            if not re.match(r"PYI_\w+\(", line) or re.match(rf"PYI_\w+\({stem}\b", line)
            or f"({entry}," in line]  # fmt: skip
    return "\n".join(kept) + "\n"


def names_of(mutant: Mutant, run, expected: dict[str, np.ndarray], device: Device) -> set[str]:
    """What noticed the defect."""
    try:
        got = run()
    except emulator.EmulatorFault as fault:
        assert fault.kernel == mutant.entry
        return {fault.kind}
    except AssertionError:  # of assert_only_slice_written
        return {"beside"}
    assert mutant.entry in device.entries, "the kernel was not run"
    return {n for n, v in expected.items() if not np.array_equal(got[n], v, equal_nan=True)}


def forward_of(case: Module, device: Device) -> dict[str, np.ndarray]:
    return vars(case.run_forward(device, Memory(device)))


NARROW = (16, 24, 32, 8, 24, 16)  # narrow tiles on CUDA cores


@pytest.mark.parametrize("name", FORWARD)
def test_forward_on_cuda_cores(name, tmp_path):
    case = Module(1, 6, 16, NARROW, frame=(3, 1))
    device = planted(FORWARD[name], tmp_path)
    expected = vars(case.forward())
    assert set(expected) == {"y", *SAVED}
    noticed = names_of(FORWARD[name], lambda: forward_of(case, device), expected, device)
    assert FORWARD[name].noticed in noticed


@pytest.mark.parametrize("name", [*CORES_BACKWARD, *TENSOR_BACKWARD])
def test_backward(name, tmp_path):
    tensor = name in TENSOR_BACKWARD
    mutant = TENSOR_BACKWARD[name] if tensor else CORES_BACKWARD[name]
    how = {"tensor_cores": True, "storage": "bf16", "seed": 1} if tensor else {}
    case = Module(1, 7, 72 if tensor else 16, NARROW, **how)  # 72: three tiles of columns a warp
    case.gy[0, 0, 0] = 1  # what a copy without zero fill reads
    device, done = planted(mutant, tmp_path), case.forward()
    noticed = names_of(
        mutant,
        lambda: case.run_backward(device, Memory(device), done).named(),
        case.backward(done).named(),
        device,
    )
    assert mutant.noticed in noticed


@pytest.mark.parametrize("name", SEPARABLE)
def test_separable(name, tmp_path):
    case = (1, 9, 8, 20), 1, (3, 3), (1, 1), (1, 1)
    rng = np.random.default_rng(1)
    x, gy, y = (integers(rng, case[0]) for _ in range(3))
    w, ones = integers(rng, (20, 3, 3, 1)), np.ones(20, np.float32)
    gw, gb = reference.depthwise_conv2d_wgrad(x, gy, w.shape, padding=(1, 1), y=y)
    expected = {
        "y": reference.depthwise_conv2d_fprop(x, w, ones, padding=(1, 1)),
        "gx": reference.depthwise_conv2d_dgrad(gy, w, x.shape, padding=(1, 1), y=y),
        "gw": gw,
        "gb": gb,
        "sum": reference.add_scaled_fprop(x, gy, scale=0.5, relu=False),
    }
    device = planted(SEPARABLE[name], tmp_path)

    def run() -> dict[str, np.ndarray]:
        got = {n: np.full(v.shape, np.nan, np.float32) for n, v in expected.items()}
        depthwise(device, case, "fprop", x=x, w=w, b=ones, y=got["y"])
        depthwise(device, case, "dgrad", gy=gy, w=w, y=y, gx=got["gx"])
        depthwise(device, case, "wgrad", x=x, gy=gy, y=y, gw=got["gw"], gb=got["gb"])
        add_scaled(device, "fprop", x.shape, scale=0.5, a=x, b=gy, y=got["sum"])
        return got

    assert SEPARABLE[name].noticed in names_of(SEPARABLE[name], run, expected, device)


@pytest.mark.parametrize("name", FUSED)
def test_fused_branch(name, tmp_path):
    case = ReduceConv((1, 9, 7, 40, 40, 40, 3, 3), padding=(1, 1), frame=(8, 8), save_r=True)
    device = planted(FUSED[name], tmp_path)
    buffers = {}

    def buffer(name: str, array: np.ndarray) -> int:
        buffers[name] = device.device.buffer(name, array)
        return buffers[name].ctypes.data

    planned = Planned("reduce_conv_mma", case.place(buffer))
    assert planned.launches[0].grid[0] > 1, "several bands"

    def run() -> dict[str, np.ndarray]:
        for launch in planned.launches:
            device.launch(launch)
        return {"y": read_slice(case.maps["y"], buffers["y"])}

    assert names_of(FUSED[name], run, {"y": case.expected()[0]}, device) == {FUSED[name].noticed}


class Planting(executor.Emulated):
    """The engine's executor on a device with a defect."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.planted, self.device = device, device.device

    def run(self, name: str, record: np.ndarray) -> None:
        for launch in plan(name, record)[0]:
            self.planted.launch(launch)


@pytest.mark.parametrize("name", STEM)
def test_stem(name, tmp_path):
    """Several tiles; below the map relu(bias) is more than what the last rows hold."""
    kind, rng = STORAGE["bfloat16"], np.random.default_rng(0)
    conv = ConvSpec(1, 40, 21, 3, 24, 3, 3, (2, 2), (1, 1), relu=True)
    pool = PoolSpec("max", 1, conv.P, conv.Q, 24, (3, 3), (2, 2), ceil_mode=True)
    chain = conv, pool, LrnSpec(1, pool.P, pool.Q, 24, 5, 0.5)
    x, w = (integers(rng, shape).astype(kind) for shape in (conv.x_shape, conv.w_shape))
    x[:, -3:] = -1
    b = np.full(24, 9, np.float32)
    between, expected = np.empty(conv.y_shape, kind), np.empty(pool.y_shape, kind)
    right = executor.Emulated()
    records_mma.conv_mma_fprop(right, conv, x, w, b, between)
    records_stem.lrn_pool(right, chain[1:], between, expected)
    right.finish()
    device = planted(STEM[name], tmp_path)

    def run() -> dict[str, np.ndarray]:
        on, y = Planting(device), np.full(expected.shape, np.nan, kind)
        records_stem.conv_lrn_pool(on, chain, x, w, b, y)
        on.finish()
        return {"y": y.astype(np.float32)}

    wanted = {"y": expected.astype(np.float32)}
    assert names_of(STEM[name], run, wanted, device) == {STEM[name].noticed}
