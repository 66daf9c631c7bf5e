"""A library of its own for tests: arrays that speak DLPack through capsules made here.

`Produced` exports a NumPy array's memory as old or versioned capsules, with any flags, dtype and
device it is told, and counts the calls of every export's deleter.
"""

import ctypes
import itertools
from typing import Any

import numpy as np

_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_api = ctypes.PyDLL(None)  # of our own: the signatures of ctypes.pythonapi are shared
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_IsValid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

PLAIN, VERSIONED = b"dltensor", b"dltensor_versioned"
READ_ONLY = 1
HOST, CUDA = 1, 2
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]


class _ManagedVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", _DELETER), ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    ]  # fmt: skip


# Every export ever made: what keeps its memory, until its deleter is called; and the calls.
_alive: dict[int, Any] = {}
_tickets = itertools.count(1)
deleted: dict[int, int] = {}


@_DELETER
def _delete(address: int) -> None:
    # The context stands at another offset in each struct, so the ticket is found by address.
    ticket = _by_address.pop(address, 0)
    deleted[ticket] = deleted.get(ticket, 0) + 1  # 0: called twice
    _alive.pop(ticket, None)


_by_address: dict[int, int] = {}


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _drop(capsule: int) -> None:
    """A capsule dies: what nobody took over is deleted, as the protocol wants it."""
    for name in (PLAIN, VERSIONED):
        if _api.PyCapsule_IsValid(capsule, name):
            _delete(_api.PyCapsule_GetPointer(capsule, name))


class Produced:
    """An array of this library.

    ``version`` None exports capsules of before DLPack 1.0; ``offset`` puts bytes into
    ``byte_offset``; ``used`` hands out a capsule that somebody has taken already.
    """

    def __init__(
        self,
        array: np.ndarray,
        *,
        version: tuple[int, int] | None = (1, 0),
        read_only: bool | None = None,
        device: int = HOST,
        dtype: tuple[int, int, int] | None = None,
        offset: int = 0,
        dense: bool = False,
        used: bool = False,
    ) -> None:
        self.array, self.version, self.device, self.offset = array, version, device, offset
        self.read_only = not array.flags.writeable if read_only is None else read_only
        self.dtype = dtype or (CODES[array.dtype.kind], array.dtype.itemsize * 8, 1)
        self.dense, self.used = dense, used
        self.shape = array.shape
        self.tickets: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, **options: Any) -> Any:
        if self.version is None and options:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        a, ticket = self.array, next(_tickets)
        if any(stride % a.itemsize for stride in a.strides):
            raise BufferError("strides are no multiples of the element")
        managed = _Managed() if self.version is None else _ManagedVersioned()
        extents = (ctypes.c_int64 * max(a.ndim, 1))(*a.shape)
        strides = (ctypes.c_int64 * max(a.ndim, 1))(*(s // a.itemsize for s in a.strides))
        t = managed.tensor
        t.data, t.byte_offset = a.ctypes.data - self.offset, self.offset
        t.device_type, t.ndim, (t.code, t.bits, t.lanes) = self.device, a.ndim, self.dtype
        t.shape = ctypes.cast(extents, ctypes.POINTER(ctypes.c_int64))
        if not self.dense:
            t.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
        managed.deleter = _delete
        if self.version is not None:
            managed.major, managed.minor = self.version
            managed.flags = READ_ONLY if self.read_only else 0
        address = ctypes.addressof(managed)
        _alive[ticket] = managed, extents, strides, a
        _by_address[address] = ticket
        self.tickets.append(ticket)
        name = PLAIN if self.version is None else VERSIONED
        if self.used:
            _delete(address)
            name = b"used_" + name
            _names.append(name)
            return _api.PyCapsule_New(1, _names[-1], None)
        return _api.PyCapsule_New(address, name, ctypes.cast(_drop, ctypes.c_void_p))

    def __array_namespace__(self) -> Any:
        return _Namespace

    def calls(self) -> list[int]:
        """Deleter calls of every export so far."""
        return [deleted.get(ticket, 0) for ticket in self.tickets]


_names: list[bytes] = []  # a capsule keeps the address of its name


class _Namespace:
    """What a caller's library offers to take results in."""

    @staticmethod
    def from_dlpack(array: np.ndarray) -> Produced:
        return Produced(np.from_dlpack(array))


def alive() -> int:
    """Exports whose deleter has not been called."""
    return len(_alive)
