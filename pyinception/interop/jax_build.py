"""The XLA handlers of `interop.jax`: compiled on request, kept in the user's cache, loaded once.

They stand in one C++ file, jax_handlers.cpp, and need the headers of the installed jaxlib and a
C++17 compiler. The name of the compiled library is a digest of everything it was made from, so
another jaxlib or core never meets an old one.
"""

import ctypes
import hashlib
import importlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from pyinception import backend
from pyinception.backend import BackendError

COMMAND = "python -m pyinception.interop.jax build"
OPS = (
    "conv_fprop",
    "conv_dgrad",
    "conv_wgrad",
    "reduce_conv_fprop",
    "reduce_conv_backward",
    "inception_fprop",
    "inception_backward",
)
PREFIXES = {"cpu": "pyi_jax_", "CUDA": "pyi_jax_cuda_"}  # of the targets, by platform
_SOURCE = Path(__file__).with_name("jax_handlers.cpp")
_FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-Wl,--no-undefined")


def cache_folder() -> Path:
    """Where compiled handlers are kept: ``$XDG_CACHE_HOME/pyinception``, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pyinception"


def library() -> Path:
    """The path of the handlers for this jaxlib and this core, whether they are built or not."""
    core = _core()
    texts = _SOURCE.read_bytes(), (core.parent / "include" / "pyinception.h").read_bytes()
    made_from = (*texts, _jaxlib_version().encode(), os.fsencode(core), " ".join(_FLAGS).encode())
    digest = hashlib.sha256()
    for part in made_from:
        digest.update(len(part).to_bytes(8, "little") + part)
    return cache_folder() / f"jax-{digest.hexdigest()[:24]}.so"


def build(force: bool = False) -> Path:
    """Compile the handlers, unless they are there already; returns the path of the library.

    Raises
    ------
    BackendError
        Without a C++ compiler or the compiled core, in a cache folder that cannot be written, or
        if the compiler fails: cause and remedy in the message.
    """
    path = library()
    if path.exists() and not force:
        return path
    compiler = _compiler()
    core, headers = _core(), importlib.import_module("jax").ffi.include_dir()
    # Headers of others as system headers: their warnings are not ours.
    includes = [f"-I{core.parent / 'include'}", "-isystem", headers]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A name of its own, then a rename: nobody ever loads half a library.
        handle, name = tempfile.mkstemp(suffix=".so", dir=path.parent)
    except OSError as error:
        text = f"cannot write the cache folder {path.parent} ({error.strerror})"
        raise BackendError(f"interop.jax: {text}; set XDG_CACHE_HOME to one that you own") from None
    os.close(handle)
    try:
        paths = [str(_SOURCE), str(core), f"-Wl,-rpath,{core.parent}", "-o", name]
        command = [compiler, *_FLAGS, *includes, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.splitlines()
            errors = [line[:200] for line in said if " error: " in line] or said[:3]
            raise BackendError(f"interop.jax: {compiler} failed: {'; '.join(errors[:3])}")
        os.chmod(name, 0o700)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path


@cache
def load() -> None:
    """Register the handlers with JAX, those for host memory and those for CUDA memory.

    Raises
    ------
    BackendError
        Where they are not built, naming the command; for a library that others could have written.
    """
    jax = importlib.import_module("jax")
    path = library()
    if not path.exists():
        text = f"the handlers are not built for jaxlib {_jaxlib_version()}"
        raise BackendError(f"interop.jax: {text}; run `{COMMAND}` (needs a C++17 compiler)")
    for place in (path, path.parent):
        state = place.stat()
        if state.st_uid not in (os.getuid(), 0) or state.st_mode & 0o022:
            text = f"{place} belongs to or can be written by other users"
            raise BackendError(f"interop.jax: {text}; remove it, or set XDG_CACHE_HOME")
    handlers = ctypes.CDLL(str(path))
    for platform, prefix in PREFIXES.items():
        for op in OPS:
            capsule = jax.ffi.pycapsule(getattr(handlers, prefix + op))
            jax.ffi.register_ffi_target(prefix + op, capsule, platform=platform)


def _core() -> Path:
    """libpyinception.so, the core without Python."""
    return Path(backend.core().__file__).with_name("libpyinception.so")


def _jaxlib_version() -> str:
    return str(importlib.import_module("jaxlib").__version__)


def _compiler() -> str:
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    cause = f"CXX={asked} is not there" if asked else "found no c++, g++ or clang++"
    remedy = "install a C++17 compiler (such as the package g++), or set CXX to one"
    raise BackendError(f"interop.jax: {cause}; {remedy}")
