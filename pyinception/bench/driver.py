"""A GPU through the CUDA driver alone (``libcuda``): memory, modules, launches, events.

For kernels that are no part of the library; needs neither a CUDA runtime nor CuPy. Pointers are
integers. Every return code is checked and raises `DriverError` with the call's name and the
driver's own word. No setting of the card is changed.
"""

import ctypes
import ctypes.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np

LIBRARY = "libcuda.so.1"
# CUdevice_attribute, CUfunction_attribute and the keys of cuLaunchKernel's `extra`, from cuda.h
_MULTIPROCESSORS, _MAJOR, _MINOR, _SHARED_BYTES = 16, 75, 76, 97
_MAX_DYNAMIC_SHARED = 8
_PARAMS, _PARAMS_SIZE, _PARAMS_END = 1, 2, 0
_PLAIN_SHARED = 48 << 10  # more than this must be asked for

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxSynchronize": (),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoD_v2": (c_uint64, c_void_p, c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_uint64, c_size_t),
    "cuMemsetD8_v2": (c_uint64, ctypes.c_ubyte, c_size_t),
    "cuModuleLoadData": (POINTER(c_void_p), c_char_p),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, c_void_p, POINTER(c_void_p)),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
}


@contextmanager
def nvtx_range(name: str) -> Iterator[None]:
    """Name what runs inside for a profiler, where the package ``nvtx`` is installed."""
    try:
        import nvtx
    except ImportError:
        yield
        return
    with nvtx.annotate(name):
        yield


class DriverError(RuntimeError):
    """No driver, no device, or a call that failed."""


class Driver:
    """Device 0 in its primary context; work goes to the default stream.

    Raises
    ------
    DriverError
        There is no driver, no device, or a call failed; the message says which.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise DriverError(f"no CUDA driver: {LIBRARY} could not be loaded ({error})") from None
        for name, arguments in _SIGNATURES.items():
            getattr(self._library, name).argtypes = arguments
        self._call("cuInit", 0)
        count, self._device = c_int(), c_int()
        self._call("cuDeviceGetCount", byref(count))
        if not count.value:
            raise DriverError("cuDeviceGetCount: the driver has no device")
        self._call("cuDeviceGet", byref(self._device), 0)
        context = c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._start, self._stop = self._event(), self._event()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            word = c_char_p()
            known = self._library.cuGetErrorName(status, byref(word)) == 0 and word.value
            raise DriverError(f"{name}: error {status} ({known.decode() if known else 'unknown'})")

    # ---- the device ------------------------------------------------------------------------------
    def _attribute(self, code: int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", byref(value), code, self._device)
        return value.value

    @property
    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, 256, self._device)
        return text.value.decode(errors="replace")

    @property
    def version(self) -> int:
        value = c_int()
        self._call("cuDriverGetVersion", byref(value))
        return value.value

    @property
    def arch(self) -> str:
        """Compute capability without its point: "90"."""
        return f"{self._attribute(_MAJOR)}{self._attribute(_MINOR)}"

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory that a block may ask for."""
        return self._attribute(_SHARED_BYTES)

    @property
    def multiprocessors(self) -> int:
        return self._attribute(_MULTIPROCESSORS)

    def synchronize(self) -> None:
        """Wait for all work; a fault of a kernel shows here."""
        self._call("cuCtxSynchronize")

    # ---- memory ----------------------------------------------------------------------------------
    def alloc(self, nbytes: int) -> int:
        pointer = c_uint64()
        self._call("cuMemAlloc_v2", byref(pointer), max(nbytes, 256))
        return pointer.value

    def free(self, pointer: int) -> None:
        self._call("cuMemFree_v2", pointer)

    def fill(self, pointer: int, byte: int, nbytes: int) -> None:
        self._call("cuMemsetD8_v2", pointer, byte, nbytes)

    def upload(self, pointer: int, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array)
        if data.nbytes:
            self._call("cuMemcpyHtoD_v2", pointer, data.ctypes.data, data.nbytes)

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Fill a C-contiguous array."""
        if array.nbytes:
            self._call("cuMemcpyDtoH_v2", array.ctypes.data, pointer, array.nbytes)

    # ---- kernels ---------------------------------------------------------------------------------
    def load(self, image: bytes) -> int:
        """A module from a cubin."""
        module = c_void_p()
        self._call("cuModuleLoadData", byref(module), image)
        return module.value or 0

    def unload(self, module: int) -> None:
        self._call("cuModuleUnload", module)

    def function(self, module: int, entry: str) -> int:
        function = c_void_p()
        self._call("cuModuleGetFunction", byref(function), module, entry.encode())
        return function.value or 0

    def launch(
        self,
        function: int,
        grid: Sequence[int],
        block: Sequence[int],
        params: bytes,
        shared_bytes: int = 0,
    ) -> None:
        """Enqueue a kernel; ``params`` are its parameters as bytes, laid out as PTX declares."""
        if shared_bytes > _PLAIN_SHARED:
            self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared_bytes)
        data, size = ctypes.create_string_buffer(params, len(params)), c_size_t(len(params))
        extra = (c_void_p * 5)(
            _PARAMS, ctypes.addressof(data), _PARAMS_SIZE, ctypes.addressof(size), _PARAMS_END
        )
        shape = [int(v) for v in (*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])]
        self._call("cuLaunchKernel", function, *shape, shared_bytes, None, None, extra)

    # ---- time ------------------------------------------------------------------------------------
    def _event(self) -> c_void_p:
        event = c_void_p()
        self._call("cuEventCreate", byref(event), 0)
        return event

    def elapsed(self, work: Callable[[], None]) -> float:
        """Seconds on the device between an event before ``work`` and one after it."""
        self._call("cuEventRecord", self._start, None)
        work()
        self._call("cuEventRecord", self._stop, None)
        self._call("cuEventSynchronize", self._stop)
        milliseconds = c_float()
        self._call("cuEventElapsedTime", byref(milliseconds), self._start, self._stop)
        return milliseconds.value * 1e-3
