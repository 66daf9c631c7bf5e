"""A file is data: safetensors with a JSON record in its metadata, written whole or not at all.

Model tensors stand under their dotted names, optimiser tensors under "optimizer/" + name, so any
safetensors reader can use the weights. The metadata entry "pyinception" is JSON: format version,
CRC-32 of every tensor, and the caller's record. Loading runs no code and opens no other file.
"""

import contextlib
import errno
import json
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from pyinception.backend import Array, built_core
from pyinception.workspace import ALIGNMENT, lasting

FORMAT = 1
_PREFIX = "optimizer/"
_MANY = 1 << 20  # bytes from which on several threads read
_PathLike = str | os.PathLike[str]


class CheckpointError(ValueError):
    """A file that is no whole checkpoint; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: model tensors, optimiser tensors, and the record saved beside them."""

    model: dict[str, Array]
    optimizer: dict[str, Array]
    record: Any


def check_state(function: str, own: Mapping[str, Array], given: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``given`` has the names, shapes and dtypes of ``own``."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or extra:
        text = f"missing {_some(missing)}, unexpected {_some(extra)}"
        raise ValueError(f"{function}: names differ: {text}")
    for name, array in own.items():
        actual = tuple(given[name].shape), np.dtype(given[name].dtype)
        wanted = tuple(array.shape), np.dtype(array.dtype)
        if actual != wanted:
            text = f"{name} has shape {actual[0]}, dtype {actual[1]}"
            raise ValueError(f"{function}: {text}, expected {wanted[0]}, {wanted[1]}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4]) or "none"
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _state(value: Any) -> Mapping[str, Array]:
    state: Mapping[str, Array] = value.state_dict() if hasattr(value, "state_dict") else value
    return state


def save(path: _PathLike, model: Any, optimizer: Any = None, record: Any = None) -> None:
    """Write a checkpoint: a unique temporary file, fsync, rename, fsync of the folder.

    Parameters
    ----------
    model, optimizer : state dicts, or objects that have ``state_dict()``.
    record : anything JSON can hold (configuration, epoch, metrics).

    Raises
    ------
    OSError
        If the file cannot be written (disk full, read-only): names the file, the bytes needed and
        errno; the old file stays whole and the temporary one is removed.
    """
    from safetensors.numpy import save as serialise

    tensors = {name: _host(array) for name, array in _state(model).items()}
    wrong = [name for name in tensors if name.startswith(_PREFIX)]
    if wrong:
        raise ValueError(f'save: model has a tensor "{wrong[0]}", but "{_PREFIX}" is reserved')
    if optimizer is not None:
        tensors |= {_PREFIX + name: _host(array) for name, array in _state(optimizer).items()}
    checks = {name: _crc32(array) for name, array in tensors.items()}
    try:
        text = json.dumps({"format": FORMAT, "crc32": checks, "record": record}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"save: record is not JSON: {error}") from None
    _write(Path(path), serialise(tensors, metadata={"pyinception": text}))


def _host(array: Array) -> Array:
    return np.asarray(array.get() if hasattr(array, "get") else array, order="C")


def _crc32(array: Array) -> int:
    """Of the array's bytes in C order; the core's is six times as fast as zlib's."""
    crc32 = getattr(built_core(), "crc32", zlib.crc32)
    return int(crc32(array.reshape(-1).view(np.uint8)))


def _write(path: Path, content: bytes) -> None:
    import tempfile  # with what it imports itself, longer than a network takes to be made

    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), _permissions(path))
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        text = f"save: cannot write {path} ({len(content)} bytes): {error.strerror} ({name})"
        raise OSError(error.errno, text, str(path)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _permissions(path: Path) -> int:
    """The mode of the file to be replaced, or what open() would give a new one."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def load(path: _PathLike) -> Checkpoint:
    """Read a checkpoint of `save`, or any safetensors file (then the record is None).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is truncated, damaged (CRC-32), or of another format; pickles are never opened.
    """
    file = Path(path)
    if file.exists() and not file.is_file():
        raise CheckpointError(f"load: {file} is not a regular file")
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        header = stream.read(min(length, size)) if size > 8 else b""
        try:
            metadata, entries = _parse(header, length, size - 8 - length)
            checks, record = _record(metadata)
            tensors = _read(stream.fileno(), 8 + length, entries, checks)
        except CheckpointError as error:
            raise CheckpointError(f"load: {file} {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            text = f"{_diagnosis(head + header[:2], size)} ({error})"
            raise CheckpointError(f"load: {file} {text}") from None
    cut = len(_PREFIX)
    return Checkpoint(
        {name: array for name, array in tensors.items() if not name.startswith(_PREFIX)},
        {name[cut:]: array for name, array in tensors.items() if name.startswith(_PREFIX)},
        record,
    )


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header of a file describes it."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int


_DTYPES = {f"F{8 * n}": f"<f{n}" for n in (2, 4, 8)} | {"BOOL": "?", "C64": "<c8"}
_DTYPES |= {f"{kind.upper()}{8 * n}": f"<{kind}{n}" for kind in "iu" for n in (1, 2, 4, 8)}


def _parse(header: bytes, length: int, size: int) -> tuple[Mapping[str, str], list[_Entry]]:
    """The metadata of a safetensors header, and its tensors in the order in which they lie.

    ``size`` bytes follow the header of ``length``. Tensors fill them without gaps or overlaps.
    """
    if len(header) != length or size < 0 or header[:1] != b"{":
        raise ValueError(f"a header of {length} bytes")
    found = json.loads(header)
    metadata = found.pop("__metadata__", {})
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("metadata that is no text")
    entries, end = [], 0
    for name, about in sorted(found.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = about["data_offsets"]
        if about["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise CheckpointError(f"holds {name} as {about['dtype']}, expected one of {known}")
        shape, dtype = tuple(about["shape"]), np.dtype(_DTYPES[about["dtype"]])
        numbers = [begin, stop, *shape]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"{name} has offsets {begin}, {stop} and shape {shape}")
        if begin != end or stop - begin != prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} of {shape}, {dtype} lies at {begin} ... {stop}")
        entries.append(_Entry(name, dtype, shape, stop - begin))
        end = stop
    if end != size:
        raise ValueError(f"{end} bytes of tensors, {size} in the file")
    return metadata, entries


def _record(metadata: Mapping[str, str]) -> tuple[dict[str, int], Any]:
    """(CRC-32 by name, the caller's record) of what `save` wrote; ({}, None) of another's file."""
    try:
        note = json.loads(metadata.get("pyinception", "{}"))
        checks, record = note.get("crc32", {}), note.get("record")
        version = int(note.get("format", FORMAT))
        if not isinstance(checks, dict):
            raise TypeError(f"crc32 is {checks!r:.40}")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"has a damaged record ({error})") from None
    if version > FORMAT:
        raise CheckpointError(f"has format {version}, this version reads up to {FORMAT}")
    return checks, record


def _read(
    file: int, start: int, entries: list[_Entry], checks: Mapping[str, int]
) -> dict[str, Array]:
    """Name -> array of every tensor, each on a cache line of its own, its CRC-32 checked.

    Model and optimiser have a block of memory each, so that nets which are loaded keep theirs only.
    Large files are read and checked by several threads.
    """
    parts = {True: 0, False: 0}
    for entry in entries:
        parts[entry.name.startswith(_PREFIX)] += -(-entry.nbytes // ALIGNMENT) * ALIGNMENT
    blocks = {key: lasting(size) for key, size in parts.items()}
    tensors: dict[str, Array] = {}
    jobs = []
    for entry in entries:
        key = entry.name.startswith(_PREFIX)
        memory, blocks[key] = blocks[key][: entry.nbytes], blocks[key][entry.nbytes :]
        blocks[key] = blocks[key][-entry.nbytes % ALIGNMENT :]
        tensors[entry.name] = memory.view(entry.dtype).reshape(entry.shape)
        jobs.append((entry.name, memory, start, checks.get(entry.name)))
        start += entry.nbytes
    wrong: list[Exception] = []
    count = min(len(os.sched_getaffinity(0)), 4) if sum(parts.values()) > _MANY else 1
    others = [Thread(target=_fill, args=(file, jobs[i::count], wrong)) for i in range(1, count)]
    for thread in others:
        thread.start()
    _fill(file, jobs[::count], wrong)
    for thread in others:
        thread.join()
    if wrong:
        raise wrong[0]
    return tensors


def _fill(file: int, jobs: list[tuple[str, Array, int, Any]], wrong: list[Exception]) -> None:
    """Read and check (name, memory, offset, CRC-32 or None), up to the first that fails."""
    try:
        for name, memory, offset, check in jobs:
            done = 0
            while done < memory.nbytes and not wrong:
                count = os.preadv(file, [memory[done:]], offset + done)
                if count == 0:
                    raise ValueError(f"{name} is cut off")
                done += count
            if check is not None and not wrong and _crc32(memory) != check:
                raise CheckpointError(f"is damaged: CRC-32 of {name} differs")
    except (OSError, ValueError) as error:
        wrong.append(error)


def _diagnosis(content: bytes, size: int) -> str:
    if content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        return (
            "is a zip or pickle file (torch.save?), which can run code and is never opened; "
            "convert it to safetensors first"
        )
    length = int.from_bytes(content[:8], "little")
    if size < 8 or (content[8:9] == b"{" and 8 + length > size):
        return f"is truncated: {size} bytes"
    if content[8:9] == b"{":
        return f"is truncated or damaged: {size} bytes"
    return "is not a safetensors file"


def restore(path: _PathLike, model: Any, optimizer: Any = None) -> Any:
    """Load ``path`` into a module and an optimiser, all checked before either changes.

    Returns
    -------
    The record saved with it.
    """
    loaded = load(path)
    check_state("restore: model", model.state_dict(), loaded.model)
    if optimizer is not None:
        check_state("restore: optimizer", optimizer.state_dict(), loaded.optimizer)
        optimizer.load_state_dict(loaded.optimizer)
    model.load_state_dict(loaded.model)
    return loaded.record
