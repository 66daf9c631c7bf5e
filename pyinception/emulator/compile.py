"""CUDA C++ -> PTX -> a library of the host, each step kept in a cache under the hash of its inputs.

``.cu`` becomes PTX (or machine code of a GPU) by nvcc where there is one, else by NVRTC from
wheels; neither needs a GPU or a driver. The translation becomes a shared library by the host's C++
compiler: ``$CXX``, else c++, g++ or clang++. The cache is ``$XDG_CACHE_HOME/pyinception/emulator``,
or ``~/.cache/...``; every file in it can be deleted at any time, and beyond ``CACHE_BYTES`` those
unused longest are.
"""

import contextlib
import ctypes
import ctypes.util
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from pyinception.emulator.parse import parse
from pyinception.emulator.ptx import Module
from pyinception.emulator.translate import Translation, translate

# ldmatrix, cp.async and mma.sync of 16-bit and tf32 operands exist from here on.
ARCHITECTURE = "80"
CACHE_BYTES = 512 << 20
CACHE_GRACE = 3600.0  # seconds: what was used since may be about to be loaded by another process
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)
PACKAGE = Path(__file__).resolve().parents[1]


class CompileError(RuntimeError):
    """A compiler is missing or refused its input; the message says what to install or correct."""


def ptx_of(source: Path, *, include: Sequence[Path] = (), arch: str = ARCHITECTURE) -> str:
    """PTX of a ``.cu`` file, with line information.

    Parameters
    ----------
    source
        The file; the folder of an including file, then ``include`` are searched for headers.
    arch
        Compute capability without its point: ``"80"``, ``"90a"``.

    Raises
    ------
    CompileError
        Neither nvcc nor NVRTC is here, or the file does not compile; the compiler's words follow.
    """
    made = _compiled(source, include, arch, "ptx")
    return made.read_text(encoding="utf-8", errors="replace")


def cubin_of(source: Path, *, include: Sequence[Path] = (), arch: str) -> bytes:
    """Machine code of a ``.cu`` file for one architecture; parameters and errors as `ptx_of`."""
    return _compiled(source, include, arch, "cubin").read_bytes()


def _compiled(source: Path, include: Sequence[Path], arch: str, kind: str) -> Path:
    source = source.resolve()
    folders = [source.parent, *(Path(folder).resolve() for folder in include)]
    compiler = _nvcc() or _nvrtc()
    if compiler is None:
        raise CompileError(
            "no compiler of CUDA C++ was found; install the CUDA toolkit (nvcc), or "
            "pip install 'pyinception[emulator]' for NVRTC and its headers"
        )
    key = _digest(compiler.name, arch, *_read_by(source, folders))
    target = _cache() / f"{source.stem}-{key}.{kind}"
    if not _kept(target):
        _write(target, compiler.compile(source, folders, arch, kind))
    return target


def module_of(source: Path, *, include: Sequence[Path] = (), arch: str = ARCHITECTURE) -> Module:
    """`parse.parse` of `ptx_of`."""
    return parse(ptx_of(source, include=include, arch=arch))


def library_of(translation: Translation, *, checked: bool) -> Path:
    """The shared library of a translated entry, in the checked or in the plain variant.

    Raises
    ------
    CompileError
        The host has no C++17 compiler, or its compiler does not take the translation.
    """
    compiler, identity = _host_compiler()
    headers = _device_headers()
    flags = [*_FLAGS, "-Og", "-DEMU_CHECKED"] if checked else [*_FLAGS, "-O2"]
    if platform.machine().lower() in ("x86_64", "amd64"):
        flags.append("-march=x86-64-v3")
    key = _digest(identity, *flags, translation.code, *_read_by(headers / "generated.h", []))
    target = _cache() / f"{translation.entry}-{key}.so"
    if _kept(target):
        return target
    with tempfile.TemporaryDirectory(dir=_cache()) as folder:
        text = Path(folder) / f"{translation.entry}.cpp"
        text.write_text(translation.code, encoding="utf-8")
        built = Path(folder) / "built.so"
        command = [*compiler, *flags, f"-I{headers}", str(text), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CompileError(
                f"{translation.entry}: {shlex.join(compiler)} does not take the translation "
                f"({_first_error(done.stderr)}); it needs C++17, set CXX to another compiler"
            )
        os.replace(built, target)
    _prune(target.parent)
    return target


def build(module: Module, entry: str, *, checked: bool) -> tuple[Translation, Path]:
    """An entry, translated, and its library."""
    translation = translate(module, entry)
    return translation, library_of(translation, checked=checked)


def why_not() -> str | None:
    """None where CUDA C++ and its translation can be compiled, else the cause and the remedy."""
    return cuda_reason() or host_reason()


def cuda_reason() -> str | None:
    """None where there is a compiler of CUDA C++, else the cause and the remedy."""
    if _nvcc() is not None or _nvrtc() is not None:
        return None
    return (
        "no compiler of CUDA C++ was found (nvcc or NVRTC); "
        "pip install 'pyinception[emulator]' brings NVRTC"
    )


def host_reason() -> str | None:
    """None where translations can be compiled, else the cause and the remedy."""
    try:
        _host_compiler()
    except CompileError as error:
        return str(error)
    return None


# ---- the cache -----------------------------------------------------------------------------------
def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "pyinception" / "emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(target: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, target)
    _prune(target.parent)


def _kept(target: Path) -> bool:
    """Is it in the cache? If so its time of modification becomes that of this use."""
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def _prune(folder: Path) -> None:
    """Delete what was used longest ago until ``CACHE_BYTES`` hold the rest."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                files.append((found.st_mtime, found.st_size, path))
    left = sum(size for _, size, _ in files)
    for used, size, path in sorted(files):
        if left <= CACHE_BYTES or used > time.time() - CACHE_GRACE:
            break
        path.unlink(missing_ok=True)
        left -= size


def _digest(*parts: str | bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:24]


def _read_by(source: Path, folders: Sequence[Path]) -> Iterable[str | bytes]:
    """Paths and bytes of the file and of every header that it may include, directly or not.

    Quoted includes are followed whatever ``#if`` stands around them, wherever they lead: a key made
    of the headers below some folder would miss ``../other/folder.cuh``.
    """
    seen, open_ = {source}, [source]
    while open_:
        path = open_.pop()
        text = path.read_bytes()
        yield str(path)
        yield text
        for name in _INCLUDE.findall(text):
            places = (folder / os.fsdecode(name) for folder in (path.parent, *folders))
            found = next((place.resolve() for place in places if place.is_file()), None)
            if found is not None and found not in seen:
                seen.add(found)
                open_.append(found)


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line.lower()]
    return (lines or text.splitlines() or ["no message"])[0].strip()


# ---- the host's compiler -------------------------------------------------------------------------
# Products are not contracted into sums (PTX writes fma itself), integers wrap.
_FLAGS = ("-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off",
          "-fno-strict-aliasing", "-fwrapv", "-fno-math-errno", "-w")  # fmt: skip


@cache
def _host_compiler() -> tuple[tuple[str, ...], str]:
    given = os.environ.get("CXX")
    names = [given] if given else ["c++", "g++", "clang++"]
    for name in names:
        command = tuple(shlex.split(name))
        if command and shutil.which(command[0]):
            done = subprocess.run([*command, "--version"], capture_output=True, text=True)
            if done.returncode == 0:
                return command, done.stdout
    looked = f"CXX={given}" if given else "c++, g++, clang++"
    raise CompileError(
        f"no C++ compiler was found (looked for {looked}); install g++ 9 or clang 10, or later"
    )


def _device_headers() -> Path:
    source, installed = PACKAGE.parent / "csrc" / "emulator", PACKAGE / "include" / "emulator"
    for folder in (source, installed):
        if (folder / "generated.h").exists():
            return folder
    raise CompileError(
        f"the emulator's headers are missing from {installed}; reinstall pyinception"
    )


# ---- compilers of CUDA C++ -----------------------------------------------------------------------
class _Nvcc:
    def __init__(self, path: str) -> None:
        self.path = path
        version = subprocess.run([path, "--version"], capture_output=True, text=True)
        self.name = f"{path} {version.stdout}"

    def compile(self, source: Path, folders: Iterable[Path], arch: str, kind: str) -> bytes:
        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / f"out.{kind}"
            code = {"ptx": f"compute_{arch}", "cubin": f"sm_{arch}"}[kind]
            command = [self.path, f"-{kind}", "-std=c++17", "-lineinfo"]
            command += [f"-gencode=arch=compute_{arch},code={code}"]
            command += [f"-I{folder}" for folder in folders]
            done = subprocess.run(
                [*command, str(source), "-o", str(target)], capture_output=True, text=True
            )
            if done.returncode:
                raise CompileError(f"{source.name}: nvcc: {done.stderr.strip() or 'failed'}")
            return target.read_bytes()


class _Nvrtc:
    def __init__(self, path: Path | str, headers: Path | None) -> None:
        self.library = ctypes.CDLL(str(path))
        self.headers = headers
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"

    def compile(self, source: Path, folders: Iterable[Path], arch: str, kind: str) -> bytes:
        library, program = self.library, ctypes.c_void_p()
        target = {"ptx": f"compute_{arch}", "cubin": f"sm_{arch}"}[kind]
        options = ["--std=c++17", "--generate-line-info", f"--gpu-architecture={target}"]
        searched = [*folders, *([self.headers] if self.headers else [])]
        options += [f"--include-path={folder}" for folder in searched]
        array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        text = source.read_bytes()
        created = library.nvrtcCreateProgram(
            ctypes.byref(program), text, str(source).encode(), 0, None, None
        )
        if created:
            raise CompileError(f"{source.name}: {self.name}: status {created}")
        try:
            if library.nvrtcCompileProgram(program, len(options), array):
                log = self._bytes(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                raise CompileError(f"{source.name}: {self.name}: {log.strip()}")
            made = self._bytes(program, kind.upper())
            return made.rstrip(b"\0") if kind == "ptx" else made
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw


@cache
def _nvcc() -> _Nvcc | None:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    found = shutil.which("nvcc")
    for home in homes:
        found = found or (shutil.which(f"{home}/bin/nvcc") if home else None)
    return _Nvcc(found) if found else None


@cache
def _nvrtc() -> _Nvrtc | None:
    """NVRTC of the wheels (``nvidia/cu13/lib``, ``nvidia/cuda_nvrtc/lib``), else of the system."""
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        libraries = sorted(
            path
            for path in Path(root).glob("*/lib/libnvrtc.so.*")
            if "builtins" not in path.name and ".alt." not in path.name
        )
        headers = sorted(Path(root).glob("*/include/cuda_runtime.h"))
        if libraries:
            return _Nvrtc(libraries[-1], headers[-1].parent if headers else None)
    name = ctypes.util.find_library("nvrtc")
    return _Nvrtc(name, None) if name else None
