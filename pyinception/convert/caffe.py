"""bvlc_googlenet from a ``.caffemodel``: a reader of just the protobuf wire format that it needs.

A message is a list of (field number, wire type, value); a value is a varint, 4 or 8 bytes, or a
length and that many bytes. Of NetParameter we read ``layers`` (2, old) and ``layer`` (100), of a
layer its name and blobs, of a blob its floats and shape (src/caffe/proto/caffe.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import models
from pyinception.backend import Array
from pyinception.convert.files import (
    ConvertError,
    count_classes,
    fill,
    hwc_columns,
    initializers,
    krsc,
)
from pyinception.module import Module

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_LAYERS = {2: (4, 6), 100: (1, 7)}  # field of NetParameter: fields of name and blobs in its layers
_LIMIT = 1 << 31  # of one extent: shapes are products of these

_PARTS = {"1x1": "conv1x1", "3x3_reduce": "reduce3x3", "3x3": "conv3x3", "5x5_reduce": "reduce5x5",
          "5x5": "conv5x5", "pool_proj": "pool_proj"}  # fmt: skip
_NAMES = {"conv1/7x7_s2": "conv1", "conv2/3x3_reduce": "conv2_reduce", "conv2/3x3": "conv2",
          "loss3/classifier": "fc"}  # fmt: skip
_HEAD = {"conv": "conv", "fc": "fc1", "classifier": "fc2"}
_NAMES |= {f"loss{i}/{theirs}": f"aux{i}.{ours}" for i in (1, 2) for theirs, ours in _HEAD.items()}
_NAMES |= {f"inception_{m}/{theirs}": f"inception_{m}.{ours}"
           for m in "3a 3b 4a 4b 4c 4d 4e 5a 5b".split()
           for theirs, ours in _PARTS.items()}  # fmt: skip

# Caffe's order is B, G, R; the filters of conv1 are turned round, so that ours takes R, G, B.
_HOW = {"scale": 1.0, "mean": (123.0, 117.0, 104.0), "std": (1.0, 1.0, 1.0),
        "crop": 224, "resize": 256}  # fmt: skip


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value) of a message; bytes stay views of the file."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ConvertError("convert: the file is damaged: a field has number 0")
        if kind == _VARINT:
            value: Any
            value, at = _varint(data, at)
        elif kind in (_EIGHT, _FOUR, _BYTES):
            size = {_EIGHT: 8, _FOUR: 4}.get(kind)
            if size is None:
                size, at = _varint(data, at)
            if size > end - at:
                text = f"a field of {size} bytes, but {end - at} are left"
                raise ConvertError(f"convert: the file is truncated or damaged: {text}")
            value, at = data[at : at + size], at + size
        else:
            raise ConvertError(f"convert: the file is damaged: wire type {kind}")
        yield number, kind, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ConvertError("convert: the file is truncated inside a number")
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise ConvertError("convert: the file is damaged: a number of more than ten bytes")


def _message(kind: int, value: Any) -> memoryview:
    if kind != _BYTES:
        raise ConvertError(f"convert: the file is damaged: wire type {kind}, expected a message")
    view: memoryview = value
    return view


def read_layers(data: memoryview) -> dict[str, list[Array]]:
    """Layer name -> its blobs; the arrays are views of ``data`` where the file packs them."""
    layers: dict[str, list[Array]] = {}
    for number, kind, value in _fields(data):
        if number not in _LAYERS:
            continue
        name_field, blob_field = _LAYERS[number]
        name, blobs = "", []
        for inner, inner_kind, content in _fields(_message(kind, value)):
            if inner == name_field:
                name = bytes(_message(inner_kind, content)).decode("utf-8", "replace")
            elif inner == blob_field:
                blobs.append(_blob(_message(inner_kind, content)))
        if blobs:
            layers[name] = blobs
    return layers


def _blob(data: memoryview) -> Array:
    shape: list[int] | None = None
    legacy = [0, 0, 0, 0]
    packed: list[Array] = []
    single = {_FOUR: bytearray(), _EIGHT: bytearray()}
    for number, kind, value in _fields(data):
        if number in (1, 2, 3, 4) and kind == _VARINT:
            legacy[number - 1] = value
        elif number == 7:
            shape = _shape(_message(kind, value))
        elif number in (5, 8):
            dtype = np.dtype("<f4" if number == 5 else "<f8")
            if kind == _BYTES and len(value) % dtype.itemsize == 0:
                packed.append(np.frombuffer(value, dtype))
            elif kind == (_FOUR if number == 5 else _EIGHT):
                single[kind] += value
            else:
                raise ConvertError("convert: the file is damaged: floats of a strange length")
    packed += [
        np.frombuffer(single[k], t) for k, t in ((_FOUR, "<f4"), (_EIGHT, "<f8")) if single[k]
    ]
    numbers = packed[0] if len(packed) == 1 else np.concatenate(packed) if packed else np.empty(0)
    wanted = legacy if shape is None else shape
    if len(wanted) > 8 or any(n >= _LIMIT for n in wanted) or prod(wanted) != numbers.size:
        text = f"a blob of shape {tuple(wanted[:8])} has {numbers.size} numbers"
        raise ConvertError(f"convert: the file is damaged: {text}")
    return numbers.reshape(wanted)


def _shape(data: memoryview) -> list[int]:
    shape: list[int] = []
    for number, kind, value in _fields(data):
        if number == 1 and kind == _VARINT:
            shape.append(value)
        elif number == 1:
            at, dims = 0, _message(kind, value)
            while at < len(dims):
                extent, at = _varint(dims, at)
                shape.append(extent)
    return shape


def build(path: Path, model: str | None) -> tuple[Module, str, dict[str, Any]]:
    """(GoogLeNet in evaluation, its name, preprocessing) of a caffemodel."""
    if model not in (None, "googlenet"):
        raise ConvertError(f"convert: model is {model!r}, a caffemodel holds googlenet")
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise ConvertError(f"convert: {path} is empty")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return from_blobs(read_layers(memoryview(content)))


def build_onnx(path: Path, model: str | None) -> tuple[Module, str, dict[str, Any]]:
    """The same from an ONNX file whose initialisers carry Caffe's names: ``conv1/7x7_s2_w_0``."""
    if model not in (None, "googlenet"):
        raise ConvertError(f"convert: model is {model!r}, expected googlenet")
    blobs: dict[str, list[Array]] = {}
    for name, array in initializers(path).items():
        layer, part = name[:-4], name[-4:]
        if part in ("_w_0", "_b_0") and layer in _NAMES:
            pair = blobs.setdefault(layer, [np.empty(0), np.empty(0)])
            pair[part == "_b_0"] = array
    if not blobs:
        text = "read_onnx makes a network of its graph instead"
        raise ConvertError(f"convert: {path} has no weights by Caffe's names; {text}")
    return from_blobs(blobs)


def from_blobs(layers: dict[str, list[Array]]) -> tuple[Module, str, dict[str, Any]]:
    """(GoogLeNet in evaluation, its name, preprocessing) of (weight, bias) by Caffe's layer."""
    state: dict[str, Array] = {}
    for theirs, blobs in layers.items():
        ours = _NAMES.get(theirs)
        if ours is None or len(blobs) != 2:
            text = f"layer {theirs[:60]!r} with {len(blobs)} blobs"
            raise ConvertError(f"convert: bvlc_googlenet has no {text}")
        state[f"{ours}.weight"] = _weight(ours, blobs[0])
        state[f"{ours}.bias"] = blobs[1].reshape(-1)
    heads = sorted({name.partition(".")[0] for name in state if name.startswith("aux")})
    wanted = {
        f"{ours}.{part}"
        for ours in _NAMES.values()
        for part in ("weight", "bias")
        if not ours.startswith("aux") or heads
    }
    if missing := sorted(wanted - state.keys()):
        text = f"{len(missing)} arrays are missing, such as {missing[0]}"
        raise ConvertError(f"convert: these are not the weights of bvlc_googlenet: {text}")
    classes = count_classes(state, 1024, [f"{head}.fc2" for head in heads])
    net = models.googlenet(classes, aux=bool(heads))
    return fill(net, state, "bvlc_googlenet"), "googlenet", dict(_HOW)


def _weight(name: str, blob: Array) -> Array:
    if ".fc" in name or name == "fc":  # 1 x 1 x out x in in old files
        flat = blob.reshape(blob.shape[-2:]) if blob.ndim >= 2 else blob
        cells = name.endswith("fc1") and flat.ndim == 2 and flat.shape[1] % 16 == 0
        return hwc_columns(flat, (4, 4)) if cells else flat
    if blob.ndim != 4:
        raise ConvertError(
            f"convert: {name} has a filter of shape {blob.shape}, expected 4 extents"
        )
    return krsc(blob[:, ::-1] if name == "conv1" else blob)
