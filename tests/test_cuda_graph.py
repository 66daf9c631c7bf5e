"""Capture into a CUDA graph, call by call: launcher.cu and the core's lists over a stand-in.

Both are compiled as they are; the stand-in (cuda_runtime_stub.cpp) notes what is asked of the CUDA
runtime and lets one call fail.
"""

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_run import CUDA, CXX, NVCC
from pyinception.kernels.cuda_args import CAST_CUDA_ARGS, REDUCE_CONV_CUDA_ARGS

INCLUDE = None if NVCC is None else Path(NVCC).resolve().parents[1] / "include"
CANDIDATES = [path for path in (INCLUDE, Path("/usr/local/cuda/include")) if path is not None]
HEADERS = next((path for path in CANDIDATES if (path / "cuda_runtime.h").exists()), None)
if CXX is None or HEADERS is None:
    pytest.skip("needs a C++ compiler and the headers of CUDA", allow_module_level=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    core, kernels = CUDA.parents[1] / "csrc" / "core", CUDA.parent
    sources = [CUDA / "launcher.cu", core / "cuda_plan.cpp"]
    sources.append(Path(__file__).with_name("cuda_runtime_stub.cpp"))
    target = tmp_path_factory.mktemp("graph") / "graph.so"
    where = [f"-I{core}", f"-I{kernels}", "-isystem", str(HEADERS)]
    flags = ["-std=c++17", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
    command = [str(CXX), *flags, "-DPYI_CUDA", *where, "-include", "cuda_runtime.h"]
    command += ["-x", "c++", *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(target))
    loaded.pyi_cuda_list_create.restype = ctypes.c_void_p
    loaded.pyi_cuda_list_size.restype = ctypes.c_int64
    for name in ("stub_calls", "stub_message"):
        getattr(loaded, name).restype = ctypes.c_char_p
    return loaded


class List:
    """The core's list of launches."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.handle = ctypes.c_void_p(library.pyi_cuda_list_create())
        library.stub_begin(b"", 9)

    def begin(self, failing: str = "", major: int = 9) -> None:
        self.library.stub_begin(failing.encode(), major)

    def did(self) -> list[str]:
        return list(self.library.stub_calls().decode().splitlines())

    def said(self) -> str:
        return str(self.library.stub_message().decode())

    def add(self, plan: str, record: np.ndarray) -> int:
        raw = record.tobytes()
        status: int = self.library.pyi_cuda_list_add(
            self.handle, plan.encode(), raw, ctypes.c_int64(len(raw))
        )
        return status

    def call(self, name: str, *arguments: Any) -> int:
        status: int = getattr(self.library, f"pyi_cuda_list_{name}")(self.handle, *arguments)
        return status


@pytest.fixture
def launches(library: ctypes.CDLL) -> Iterator[List]:
    made = List(library)
    yield made
    library.pyi_cuda_list_destroy(made.handle)


def cast(x: int = 0x1000) -> np.ndarray:
    record = np.zeros((), CAST_CUDA_ARGS)
    record["x"], record["y"], record["to"], record["count"] = x, 0x2000, 1, 1025
    return record


def wide(side: int = 14) -> np.ndarray:
    """A fused branch that asks for more than 48 KB of shared memory, less on smaller maps."""
    record = np.zeros((), REDUCE_CONV_CUDA_ARGS)
    for name in ("x", "wr", "br", "w", "b", "y"):
        record[name] = 0x4000
    extents = {"N": 200, "H": side, "W": side, "C": 64, "Cr": 96, "K": 128, "R": 3, "S": 3}
    fields = {**extents, "stride_h": 1, "stride_w": 1, "pad_h": 1, "pad_w": 1}
    for name, value in {**fields, "shared_limit": 163 << 10}.items():
        record[name] = value
    record["x_strides"] = side * side * 64, side * 64, 64
    record["y_strides"] = side * side * 128, side * 128, 128
    return record


def test_captured_on_a_stream_of_its_own_and_replayed_on_the_caller_s(launches: List) -> None:
    assert launches.add("cast", cast()) == 0 and launches.add("reduce_conv_fprop", wide()) == 0
    size = launches.library.pyi_cuda_list_size(launches.handle)
    assert size == 2 and launches.did() == []  # adding asks nothing of CUDA
    assert launches.call("capture", 0) == 0
    did = [line.split() for line in launches.did()]
    names = [line[0] for line in did]
    # Loaded and given their shared memory first, all of them; then one capture.
    begin = names.index("begin")
    assert names[:begin].count("load") == 2 and names[:begin].count("set_shared") == 1
    assert names[begin - 1] == "create_stream" and did[begin] == ["begin", "1", "1"]
    asked = "set_shared", "get_device", "attribute"
    inside = [line for line in did[begin + 1 :] if line[0] not in asked]
    assert [line[0] for line in inside] == [
        "launch", "launch", "end", "instantiate", "destroy_graph", "destroy_stream",
    ]  # fmt: skip
    assert inside[0] == ["launch", "0x10", "-1", "0", "2", "256", "0", "0x1000"]
    shared = next(line for line in did if line[0] == "set_shared")
    assert shared[1] == inside[1][1] and 227 << 10 == int(shared[3]) > int(inside[1][6]) > 48 << 10
    launches.begin()
    assert launches.call("replay", ctypes.c_void_p(55)) == 0
    assert launches.did() == ["replay 55"]
    launches.begin()
    assert launches.add("cast", cast()) == 0  # a longer list: its graph has gone
    assert launches.did() == ["forget"]
    assert launches.call("replay", None) != 0 and "not captured" in launches.said()


def test_a_smaller_launch_takes_no_shared_memory_from_a_captured_one(launches: List) -> None:
    """Both are of one kernel, whose limit is one number: it never falls."""
    for side in (8, 14):  # whole maps of the first, quarters of the second
        assert launches.add("reduce_conv_fprop", wide(side)) == 0
    assert launches.call("capture", 0) == 0
    did = [line.split() for line in launches.did()]
    kernels = [(line[1], int(line[6])) for line in did if line[0] == "launch"]
    assert kernels[0][0] == kernels[1][0] and kernels[0][1] > kernels[1][1] > 48 << 10
    assert {int(line[3]) for line in did if line[0] == "set_shared"} == {227 << 10}


@pytest.mark.parametrize(("major", "second"), [(9, "1"), (8, "0")])
def test_dependent_launches_where_the_device_has_them(
    launches: List, major: int, second: str
) -> None:
    launches.begin(major=major)
    for _ in range(2):
        launches.add("cast", cast())
    assert launches.call("capture", 1) == 0
    overlaps = [line.split()[3] for line in launches.did() if line.startswith("launch")]
    assert overlaps == ["0", second]  # the first waits for what the stream did before


@pytest.mark.parametrize(("compiled_for", "overlapping"), [(90, "1"), (89, "0"), (80, "0")])
def test_code_that_does_not_wait_is_not_launched_early(
    launches: List, compiled_for: int, overlapping: str
) -> None:
    """One kernel without griddepcontrol.wait is enough: it would read what is not written yet."""
    launches.library.stub_compiled_for(compiled_for)
    launches.add("cast", cast())
    launches.add("cast", cast())
    launches.add("reduce_conv_fprop", wide())
    assert launches.call("capture", 1) == 0
    overlaps = [line.split()[3] for line in launches.did() if line.startswith("launch")]
    assert overlaps == ["0", overlapping, overlapping]


def test_without_a_graph_it_runs_on_the_caller_s_stream(launches: List) -> None:
    launches.add("cast", cast(0x3000))
    assert launches.call("run", ctypes.c_void_p(55)) == 0
    assert launches.did() == ["launch 0x10 55 0 2 256 0 0x3000"]


@pytest.mark.parametrize("failing", ["set_shared", "load", "create_stream", "begin", "launch",
                                     "end", "instantiate"])  # fmt: skip
def test_every_call_s_answer_is_looked_at(launches: List, failing: str) -> None:
    """The first error is told, an open capture is ended, streams and graphs are given back."""
    launches.add("reduce_conv_fprop", wide())
    launches.begin(failing)
    assert launches.call("capture", 0) != 0
    assert (
        launches.said() == "cuda_list_capture: CUDA says: too many resources requested for launch"
    )
    names = [line.split()[0] for line in launches.did()]
    assert names.count("begin") == 0 or failing == "begin" or names.count("end") == 1
    if "create_stream" in names and failing != "create_stream":
        assert names[-1] == "destroy_stream"
    assert ("destroy_graph" in names) == (failing in ("end", "instantiate"))
    launches.begin()
    assert launches.call("capture", 0) == 0 and launches.call("replay", None) == 0


def test_a_launch_that_fails_is_told(launches: List) -> None:
    launches.add("cast", cast())
    launches.begin("launch")
    assert launches.call("run", None) != 0
    assert launches.said() == "cuda_list_run: CUDA says: too many resources requested for launch"


def test_what_no_plan_takes_is_not_added(launches: List) -> None:
    bad = cast()
    bad["to"] = 7
    assert launches.add("cast", bad) != 0 and "storage must be" in launches.said()
    assert launches.add("cost", cast()) != 0 and 'plan is "cost"' in launches.said()
    assert launches.library.pyi_cuda_list_size(launches.handle) == 0
    launches.add("lrn_pool", np.zeros((), CAST_CUDA_ARGS))
    assert "record has" in launches.said()


def test_what_is_asked_of_the_device(launches: List) -> None:
    sm = ctypes.c_int32()
    launches.begin(major=7)
    assert launches.library.pyi_cuda_capability(ctypes.byref(sm)) == 0 and sm.value == 75
    launches.begin("get_device")
    assert launches.library.pyi_cuda_capability(ctypes.byref(sm)) != 0
    assert launches.said().startswith("cuda_capability: CUDA says: ")
