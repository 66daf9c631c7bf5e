"""On which CUDA stream a call runs: the one that is given, else the producer's current one.

The stream of a call is CuPy's current stream while the call lasts, so everything it does is in its
order: copies, allocation, launches, and what DLPack exchanges on both sides. Where an operand comes
from another stream, streams wait for each other by events; the host waits for nothing.
"""

import importlib
from contextlib import ExitStack
from typing import Any

from pyinception import backend

CUDA_DEVICES = (2, 13)  # kDLCUDA, kDLCUDAManaged


def handle_of(function: str, stream: Any) -> int:
    """The ``cudaStream_t`` of ``stream``: an object with ``__cuda_stream__``, or the handle.

    Streams of PyTorch and CuPy that do not have the protocol yet are known by their attributes.
    """
    protocol = getattr(stream, "__cuda_stream__", None)
    version, handle = 0, stream
    if protocol is not None:
        version, handle = protocol() if callable(protocol) else protocol
    elif not isinstance(stream, int):
        handle = getattr(stream, "cuda_stream", getattr(stream, "ptr", None))
    if version != 0:
        text = f"stream speaks version {version} of __cuda_stream__, expected version 0"
        raise TypeError(f"{function}: {text}")
    if not isinstance(handle, int) or isinstance(handle, bool) or handle < 0:
        text = f"stream is a {type(stream).__name__}, expected an object with __cuda_stream__"
        raise TypeError(f"{function}: {text} or a handle")
    return int(handle)


def on_cuda(value: Any) -> bool:
    """Whether ``value`` says that it lies in CUDA memory."""
    if backend.is_cupy(value):
        return True
    if not hasattr(value, "__dlpack_device__"):
        return hasattr(value, "__cuda_array_interface__")
    try:
        return int(value.__dlpack_device__()[0]) in CUDA_DEVICES
    except Exception:  # whatever its library raises: taking its memory will say so
        return False


def surroundings(function: str, x: Any, stream: Any) -> ExitStack | None:
    """What a call on x in CUDA memory runs inside: the device of x and its stream.

    None where CUDA cannot be used here; taking x over gives the reason.

    Raises
    ------
    TypeError
        ``stream`` is none.
    BackendError
        It says that it belongs to another device than x.
    """
    if backend.why_not("cuda") or backend.cupy_reason():
        return None
    cuda = importlib.import_module("cupy").cuda
    handle = handle_of(function, stream) if stream is not None else _current(x)
    with ExitStack() as stack:
        if backend.is_cupy(x):
            stack.enter_context(x.device)
        elif hasattr(x, "__dlpack_device__"):
            stack.enter_context(cuda.Device(int(x.__dlpack_device__()[1])))
        owner, here = _owner_of(stream), cuda.Device().id
        if owner not in (None, -1, here):
            text = f"stream belongs to CUDA device {owner}, expected {here} as x does"
            raise backend.BackendError(f"{function}: {text}")
        if handle is not None:
            stack.enter_context(cuda.Stream.from_external(_Handle(handle)))
        return stack.pop_all()


class _Handle:
    """A ``cudaStream_t`` with the protocol by which CuPy takes one."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def _owner_of(stream: Any) -> int | None:
    """The number of a stream's device, where CuPy (-1: unknown) or PyTorch tells it."""
    number = getattr(stream, "device_id", getattr(getattr(stream, "device", None), "index", None))
    return number if isinstance(number, int) else None


def _current(x: Any) -> int | None:
    """The stream that the library of x works on now, where it says so.

    None leaves CuPy's own current stream: DLPack makes the producer's work come before it.
    """
    if backend.is_cupy(x):
        return None
    if not hasattr(x, "__dlpack__"):
        stated: int | None = x.__cuda_array_interface__.get("stream")
        return stated
    found: int | None = backend.core().current_stream(x)
    return found


class _Lent:
    """Memory of an ``__cuda_array_interface__`` without its stream, which CuPy would wait for."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner  # the interface keeps nothing alive
        self.__cuda_array_interface__ = {**owner.__cuda_array_interface__, "stream": None}


def taken(value: Any) -> Any:
    """An array of CuPy on the memory of ``value``, in order before CuPy's current stream."""
    cupy = importlib.import_module("cupy")
    if hasattr(value, "__dlpack__"):
        return cupy.from_dlpack(value)
    stated, now = value.__cuda_array_interface__.get("stream"), cupy.cuda.get_current_stream()
    if stated is not None and stated != now.ptr:
        event = cupy.cuda.Event(disable_timing=True)
        event.record(cupy.cuda.Stream.from_external(_Handle(stated)))
        now.wait_event(event)
    return cupy.asarray(_Lent(value))


def read_only(value: Any) -> bool:
    """Whether an ``__cuda_array_interface__`` forbids writing; CuPy's arrays cannot tell."""
    if backend.is_cupy(value) or hasattr(value, "__dlpack__"):
        return False
    return bool(getattr(value, "__cuda_array_interface__", {"data": (0, False)})["data"][1])
