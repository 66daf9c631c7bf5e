"""The CUDA driver's side of own kernels without a GPU: a library with the driver's names stands in.

It keeps device memory in the host's and "launches" one kernel, which adds one to every word; so
each call, its arguments and its errors pass the same lines as with a driver.
"""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyinception.bench import driver as driving
from pyinception.bench import executors

CXX = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler found")

FAKE = r"""
#include <cstdlib>
#include <cstring>
typedef unsigned u;
typedef unsigned long long u64;
extern "C" {
int devices = 1, freed = 0, shared = 0, unloaded = 0, broken = 0;
u last[7];
int cuInit(u flags) { return flags ? 1 : 0; }
int cuDeviceGetCount(int* n) { return *n = devices, 0; }
int cuDeviceGet(int* d, int i) { return *d = 40 + i, 0; }
int cuDeviceGetName(char* t, int n, int d) { return strncpy(t, "Stand-in", n), d != 40; }
int cuDeviceGetAttribute(int* v, int code, int d) {
  *v = code == 75 ? 9 : code == 76 ? 0 : code == 97 ? 232448 : 132;
  return d != 40;
}
int cuDriverGetVersion(int* v) { return *v = 13000, 0; }
int cuDevicePrimaryCtxRetain(void** c, int d) { return *c = &devices, d != 40; }
int cuCtxSetCurrent(void* c) { return c != &devices; }
int cuCtxSynchronize() { return broken ? 700 : 0; }
int cuGetErrorName(int e, const char** t) {
  *t = e == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : e == 500 ? "CUDA_ERROR_NOT_FOUND" : 0;
  return *t ? 0 : 1;
}
int cuMemAlloc_v2(u64* p, size_t n) { return *p = (u64)malloc(n), 0; }
int cuMemFree_v2(u64 p) { return free((void*)p), freed++, 0; }
int cuMemcpyHtoD_v2(u64 p, const void* s, size_t n) { return memcpy((void*)p, s, n), 0; }
int cuMemcpyDtoH_v2(void* d, u64 p, size_t n) { return memcpy(d, (void*)p, n), 0; }
int cuMemsetD8_v2(u64 p, unsigned char b, size_t n) { return memset((void*)p, b, n), 0; }
int cuModuleLoadData(void** m, const char* image) {
  return *m = &shared, memcmp(image, "\177ELF", 4) ? 200 : 0;
}
int cuModuleUnload(void* m) { return unloaded++, m != &shared; }
int cuModuleGetFunction(void** f, void* m, const char* name) {
  return *f = &freed, m != &shared || strcmp(name, "add_one") ? 500 : 0;
}
int cuFuncSetAttribute(void* f, int code, int v) { return shared = v, f != &freed || code != 8; }
int cuLaunchKernel(void* f, u gx, u gy, u gz, u bx, u by, u bz, u bytes, void* stream,
                   void** params, void** extra) {
  const u shape[] = {gx, gy, gz, bx, by, bz, bytes};
  memcpy(last, shape, sizeof last);
  if (f != &freed || stream || params || extra[0] != (void*)1 || extra[2] != (void*)2 || extra[4])
    return 1;
  struct { u* data; u64 count; } p;
  if (*(size_t*)extra[3] != sizeof p) return 1;
  memcpy(&p, extra[1], sizeof p);
  for (u64 i = 0; i < p.count; i++) p.data[i]++;
  return 0;
}
int cuEventCreate(void** e, u flags) { return *e = &broken, flags ? 1 : 0; }
int cuEventRecord(void* e, void* stream) { return e != &broken || stream; }
int cuEventSynchronize(void* e) { return e != &broken; }
int cuEventElapsedTime(float* ms, void* a, void* b) { return *ms = 2.5f, a != b; }
}
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    (tmp_path / "fake.cpp").write_text(FAKE)
    path = tmp_path / "libcuda.so.1"
    command = [str(CXX), "-shared", "-fPIC", "-w", str(tmp_path / "fake.cpp"), "-o", str(path)]
    subprocess.run(command, check=True)
    monkeypatch.setattr(driving, "LIBRARY", str(path))
    yield ctypes.CDLL(str(path))


def value(library: ctypes.CDLL, name: str) -> ctypes.c_int:
    return ctypes.c_int.in_dll(library, name)


def test_every_call(fake: ctypes.CDLL) -> None:
    driver = driving.Driver()
    about = (driver.name, driver.version, driver.arch, driver.shared_limit, driver.multiprocessors)
    assert about == ("Stand-in", 13000, "90", 232448, 132)
    words = np.arange(12, dtype=np.uint32)
    pointer = driver.alloc(words.nbytes)
    driver.upload(pointer, words)
    module = driver.load(b"\x7fELF")
    function = driver.function(module, "add_one")
    params = struct.pack("<2Q", pointer, len(words))
    took = driver.elapsed(lambda: driver.launch(function, (3, 2), (64,), params, 50 << 10))
    assert took == 2.5e-3 and value(fake, "shared").value == 50 << 10
    shape = (ctypes.c_uint * 7).in_dll(fake, "last")
    assert list(shape) == [3, 2, 1, 64, 1, 1, 50 << 10]
    back = np.empty_like(words)
    driver.download(pointer, back)
    np.testing.assert_array_equal(back, words + 1)
    driver.fill(pointer, 0xFF, 4)
    driver.download(pointer, back)
    assert back[0] == 0xFFFFFFFF and back[1] == 2
    driver.free(pointer)
    driver.unload(module)
    assert value(fake, "freed").value == value(fake, "unloaded").value == 1


def test_errors_name_the_call_and_the_drivers_word(
    fake: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driving.Driver()
    with pytest.raises(driving.DriverError, match=r"cuModuleLoadData: error 200 \(unknown\)"):
        driver.load(b"text")
    with pytest.raises(driving.DriverError, match=r"cuModuleGetFunction: .*CUDA_ERROR_NOT_FOUND"):
        driver.function(driver.load(b"\x7fELF"), "other")
    value(fake, "broken").value = 1
    with pytest.raises(driving.DriverError, match=r"cuCtxSynchronize.*ILLEGAL_ADDRESS"):
        driver.synchronize()
    value(fake, "devices").value = 0
    with pytest.raises(driving.DriverError, match="no device"):
        driving.Driver()
    monkeypatch.setattr(driving, "LIBRARY", "/nowhere/libcuda.so.1")
    with pytest.raises(driving.DriverError, match="no CUDA driver: /nowhere"):
        driving.Driver()


def test_an_executor_over_it(
    fake: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers by name, an entry by name; what the compilers make is given."""
    asked = []

    def made(source, *, include, arch):
        asked.append(arch)
        return b"\x7fELF"

    text = ".visible .entry add_one(\n.param .u64 p)\n{ ret; }"
    monkeypatch.setattr(executors.compiling, "cubin_of", made)
    monkeypatch.setattr(executors.compiling, "ptx_of", lambda source, **how: text)
    executor = executors.DriverExecutor()
    assert (executor.name, executor.arch) == ("Stand-in", "90a")
    for _ in range(2):
        assert executor.compile(tmp_path / "k.cu") == ("add_one",)
    assert asked == ["90a", "90a"] and value(fake, "unloaded").value == 1
    address = executor.buffer("x", np.zeros((2, 3), np.uint32))
    executor.launch("add_one", (1,), (32,), struct.pack("<2Q", address, 5))
    np.testing.assert_array_equal(executor.read("x"), [[1, 1, 1], [1, 1, 0]])
    executor.empty("x", (2,), np.float32)
    assert np.isnan(executor.read("x")).all() and value(fake, "freed").value == 1
