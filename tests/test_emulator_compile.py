"""Compilers of the emulator: what is kept, what is made anew, and the words when one is missing."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import emulator_harness as harness
import pytest

from pyinception.emulator import compile as compiling
from pyinception.emulator import parse, translate

KERNEL = '#include "value.h"\nextern "C" __global__ void k(int* y) { y[threadIdx.x] = VALUE; }\n'
PTX = harness.HEAD + ".visible .entry k() { ret; }"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiling._host_compiler.cache_clear()
    yield tmp_path / "cache" / "pyinception" / "emulator"
    compiling._host_compiler.cache_clear()


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "value.h").write_text("#define VALUE 1\n")
    path = tmp_path / "kernel.cu"
    path.write_text(KERNEL)
    return path


needs_cuda = pytest.mark.skipif(
    compiling.cuda_reason() is not None, reason=str(compiling.cuda_reason())
)


def translation() -> translate.Translation:
    return translate.translate(parse.parse(PTX), "k")


@needs_cuda
def test_ptx_is_kept_until_a_header_changes(kernel: Path, cache: Path) -> None:
    include = kernel.parent / "include"
    first = compiling.ptx_of(kernel, include=[include])
    assert "kernel.cu" in first and ".entry k" in first
    (kept,) = cache.glob("*.ptx")
    kept.write_text("kept")
    assert compiling.ptx_of(kernel, include=[include]) == "kept"
    (include / "value.h").write_text("#define VALUE 2\n")
    assert "2" in compiling.ptx_of(kernel, include=[include])
    assert len(list(cache.glob("*.ptx"))) == 2


@needs_cuda
def test_ptx_is_compiled_anew_when_a_header_outside_its_folders_changes(
    tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = tmp_path / "a" / "k.cu"
    source.write_text(
        '#include "../b/first.cuh"\n__global__ void k(int* p) { *p = VALUE; }\n', "utf-8"
    )
    (tmp_path / "b" / "first.cuh").write_text('#include "second.cuh"\n')
    (tmp_path / "b" / "second.cuh").write_text("#define VALUE 1111\n")
    assert "1111" in compiling.ptx_of(source)
    (tmp_path / "b" / "second.cuh").write_text("#define VALUE 2222\n")
    assert "2222" in compiling.ptx_of(source)


@needs_cuda
def test_machine_code_of_one_architecture(kernel: Path, cache: Path) -> None:
    code = compiling.cubin_of(kernel, include=[kernel.parent / "include"], arch="90a")
    assert code.startswith(b"\x7fELF") and b".text.k" in code
    assert [path.suffix for path in cache.iterdir()] == [".cubin"]


@needs_cuda
def test_a_kernel_that_does_not_compile_says_why(kernel: Path, cache: Path) -> None:
    kernel.write_text("__global__ void k() { undeclared(); }")
    with pytest.raises(compiling.CompileError, match=r"(?s)kernel\.cu: .*undeclared"):
        compiling.ptx_of(kernel)
    assert not list(cache.glob("*"))


@harness.needs_cxx
def test_libraries_are_kept_by_what_they_were_made_from(cache: Path) -> None:
    plain = compiling.library_of(translation(), checked=False)
    made = plain.stat().st_ino
    assert compiling.library_of(translation(), checked=False) == plain
    assert plain.stat().st_ino == made
    checked = compiling.library_of(translation(), checked=True)
    assert checked != plain
    assert sorted(cache.iterdir()) == sorted([plain, checked])


@harness.needs_cxx
def test_the_cache_loses_what_was_used_longest_ago(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compiling.library_of(translation(), checked=False)
    now = time.time()
    for name, age in (("first.ptx", 9), ("second.ptx", 8), ("third.ptx", 7), ("now.ptx", 0)):
        (cache / name).write_bytes(bytes(1000))
        os.utime(cache / name, (now, now - age * compiling.CACHE_GRACE))
    os.utime(plain, (now, now - 8.5 * compiling.CACHE_GRACE))
    assert compiling.library_of(translation(), checked=False) == plain  # used: the youngest now
    monkeypatch.setattr(compiling, "CACHE_BYTES", plain.stat().st_size + 2000)
    compiling._prune(cache)
    assert {path.name for path in cache.iterdir()} == {plain.name, "third.ptx", "now.ptx"}
    monkeypatch.setattr(compiling, "CACHE_BYTES", 0)
    checked = compiling.library_of(translation(), checked=True)  # what is new or in use stays
    assert {path.name for path in cache.iterdir()} == {plain.name, checked.name, "now.ptx"}


def test_the_message_without_a_compiler_of_cuda(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_nvcc", lambda: None)
    monkeypatch.setattr(compiling, "_nvrtc", lambda: None)
    with pytest.raises(compiling.CompileError, match=r"pip install 'pyinception\[emulator\]'"):
        compiling.ptx_of(kernel)
    assert "nvcc or NVRTC" in str(compiling.why_not())


def test_the_message_without_a_host_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    words = r"looked for CXX=/nowhere/c\+\+.*install g\+\+"
    with pytest.raises(compiling.CompileError, match=words):
        compiling.library_of(translation(), checked=False)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert "no C++ compiler was found" in str(compiling.host_reason())


@harness.needs_cxx
def test_a_compiler_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    wrapper = tmp_path / "old-c++"
    script = '[ "$1" = --version ] && exit 0\necho "error: what is C++17?" >&2; exit 1\n'
    wrapper.write_text("#!/bin/sh\n" + script)
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    words = r"k: .*old-c\+\+ does not take .*what is C\+\+17"
    with pytest.raises(compiling.CompileError, match=words):
        compiling.library_of(translation(), checked=False)
    assert not list(cache.iterdir())


@needs_cuda
def test_nvrtc_takes_the_shipped_kernels() -> None:
    nvrtc = compiling._nvrtc()
    if nvrtc is None:
        pytest.skip("NVRTC is not installed (extra emulator)")
    root = harness.repository() / "kernels"
    for source in sorted((root / "cuda").glob("*.cu")):
        text = nvrtc.compile(source, [root, source.parent], "80", "ptx").decode()
        module = parse.parse(text)
        assert module.entries
        for entry in module.entries:
            assert translate.translate(module, entry).sites
