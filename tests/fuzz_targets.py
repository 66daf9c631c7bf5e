"""What is fuzzed: readers of files that others wrote, their small corpora, their structure."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import NUMBERS, Draw, Target
from picture_files import encoded, resum
from test_convert import field, varint

from pyinception import checkpoint, convert
from pyinception.convert import caffe
from pyinception.data import DatasetError
from pyinception.data.tar_index import members
from pyinception.data.tar_shards import TarShards


def pick(items: Any, draw: Draw) -> Any:
    return items[int(draw.integers(len(items)))]


# ---- Caffe: a message is a list of (field number, value); a value is an int, floats or a message


def blob(array: np.ndarray, style: str) -> list[Any]:
    flat = array.astype("<f4").tobytes()
    if style == "shape":
        return [(7, [(1, b"".join(map(varint, array.shape)))]), (5, flat)]
    if style == "loose":
        return [(7, [(1, int(n)) for n in array.shape]), *((5, float(v)) for v in array.ravel())]
    shape = (1,) * (4 - array.ndim) + array.shape
    numbers = (5, flat) if style == "legacy" else (8, array.astype("<f8").tobytes())
    return [*((i + 1, int(n)) for i, n in enumerate(shape)), numbers]


def net(names: list[str], old: bool, style: str, shapes: dict[str, tuple[int, ...]]) -> list[Any]:
    """A NetParameter with tiny blobs: every mutant is read in a millisecond."""
    draw = np.random.default_rng(0)
    layers: list[Any] = [(1, b"GoogleNet")]
    for name in names:
        weight = draw.standard_normal(shapes.get(name, (2, 3, 1, 1))).astype(np.float32)
        bias = np.zeros(len(weight), np.float32)
        body: list[Any] = [(4 if old else 1, name.encode()), (9, 5)]
        body += [(6 if old else 7, blob(a, style)) for a in (weight, bias)]
        layers.append((2 if old else 100, body))
    return layers


def encode_message(message: Any) -> bytes:
    if isinstance(message, bytes):
        return message
    parts = []
    for number, value in message:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        elif isinstance(value, float):
            parts.append(varint(number << 3 | 5) + np.float32(value).tobytes())
        else:
            parts.append(field(number, encode_message(value)))
    return b"".join(parts)


def mutate_message(message: Any, draw: Draw) -> Any:
    """One field somewhere in the tree: another number, value, place, kind, once more or gone."""
    if not isinstance(message, list) or not message:
        return message
    changed = list(message)
    at = int(draw.integers(len(changed)))
    number, value = changed[at]
    if isinstance(value, list) and draw.random() < 0.8:
        changed[at] = (number, mutate_message(value, draw))
        return changed
    kind = int(draw.integers(7))
    if kind == 0:
        changed[at] = (pick((0, 1, 2, 4, 5, 6, 7, 8, 9, 100, 2**28), draw), value)
    elif kind == 1:
        changed[at] = (number, int(pick(NUMBERS, draw)))
    elif kind == 2:
        changed[at] = (number, draw.bytes(int(draw.integers(0, 24))))
    elif kind == 3:
        changed.insert(at, pick(changed, draw))
    elif kind == 4:
        del changed[at]
    elif kind == 5:
        changed[at] = (number, [(1, varint(int(pick(NUMBERS, draw))) * int(draw.integers(1, 10)))])
    else:
        changed[at] = (number, float(draw.standard_normal()))
    return changed


def caffe_target() -> Target:
    names = list(caffe._NAMES)
    classifier = {"loss3/classifier": (1, 1024)}
    seeds = [
        net(names[:4], False, "shape", {}),
        net(names[:3], True, "legacy", {}),
        net(names[2:5], True, "double", {}),
        net(names[:2], False, "loose", {}),
        net([n for n in names if not n.startswith("loss")] + [*classifier], False, "shape", {}),
        net(names, False, "shape", classifier),
    ]

    def read(path: Path) -> Any:
        with path.open("rb") as file:
            layers = caffe.read_layers(memoryview(file.read()))
        try:
            convert.convert(path)
        except convert.ConvertError:
            return tuple(sorted(len(blobs) for blobs in layers.values()))
        return "a network"

    return Target(seeds, mutate_message, encode_message, read, (convert.ConvertError,),
                  "net.caffemodel")  # fmt: skip


# ---- shards: a list of (name, type, length field or None for the true one, content, right sum)


def member(name: str, content: bytes) -> tuple[Any, ...]:
    return (name, b"0", None, content, True)


def encode_tar(files: Any) -> bytes:
    parts = []
    for name, kind, length, content, right in files:
        field_ = b"%011o\0" % len(content) if length is None else length
        head = name.encode("utf-8", "surrogateescape")[:100].ljust(100, b"\0")
        head += b"0000644\0" * 3 + field_ + b"0" * 11 + b"\0" * 9 + kind
        head = head.ljust(257, b"\0") + b"ustar\00000"
        head = head.ljust(512, b"\0")
        parts += [
            resum(head) if right else head,
            content.ljust(-(-len(content) // 512) * 512, b"\0"),
        ]
    return b"".join([*parts, bytes(1024)])


NAMES = ("000000.png", "000000.cls", "000001.jpg", "a/000001.cls", "", "/", "../x.png", "x" * 100,
         "000000.PNG", "000002.cls", "\udcff.png", "..cls")  # fmt: skip
LENGTHS = (b"77777777777\0", b"00000000000\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\0" * 12,
           b"        10 \0", b"00000001000\0", b"\x80" + bytes(10) + b"\x05")  # fmt: skip
LABELS = (b"0", b"5", b"99999", b"100000", b"999999", b"-1", b"1\n", b" 7 ", b"1" * 21, b"\xb2")


def mutate_tar(files: Any, draw: Draw) -> Any:
    changed = list(files)
    if not changed:
        return [member(str(pick(NAMES, draw)), pick(LABELS, draw))]
    at = int(draw.integers(len(changed)))
    name, kind, length, content, right = changed[at]
    which = int(draw.integers(9))
    if which == 0:
        name = str(pick(NAMES, draw))
    elif which == 1:
        kind = pick((b"0", b"\0", b"5", b"1", b"2", b"L", b"x", b"g", b"S", b"7"), draw)
    elif which == 2:
        length = pick(LENGTHS, draw)
    elif which == 3:
        content = pick(LABELS, draw)
    elif which == 4:
        right = not right
    elif which == 5:
        changed.insert(at, pick(changed, draw))
        return changed
    elif which == 6:
        del changed[at]
        return changed
    elif which == 7:
        record = pick((b"path", b"size", b"GNU.sparse.map", b"mtime"), draw) + b"=0.png\n"
        count = pick((len(record) + 3, 0, 5, 10**5), draw)
        content, kind = b"%d " % count + record, pick((b"x", b"g", b"L"), draw)
        changed.insert(at, (name, kind, None, content, True))
        return changed
    else:
        picture = bytearray(content)
        for _ in range(int(draw.integers(1, 4))):
            if picture:
                picture[int(draw.integers(len(picture)))] = int(draw.integers(256))
        content = bytes(picture)
    changed[at] = (name, kind, length, content, right)
    return changed


def shards_target() -> Target:
    png, small = encoded((9, 8, 7)), encoded((1, 2, 3), (3, 2))
    seeds = [
        [member("000000.png", png), member("000000.cls", b"1"), member("000001.png", small),
         member("000001.cls", b"0")],
        [("long", b"L", None, b"deep/" * 40 + b"a.png\0", True), member("cut.png", png),
         ("x", b"x", None, b"19 path=deep/b.cls\n", True), member("b.cls", b"3")],
        [member("d/k.png", small), ("d/", b"5", None, b"", True), member("d/k.json", b"{}"),
         member("d/k.cls", b"12\n")],
    ]  # fmt: skip

    def read(path: Path) -> Any:
        other = path.parent / "test.tar"
        if not other.exists():
            other.write_bytes(encode_tar(seeds[0]))
        size = path.stat().st_size
        for one in members(path):
            assert 0 <= one.offset and one.offset + one.length <= size, one
        found = TarShards(path.parent, "train", size=(4, 4), max_pixels=10**6, cache_bytes=0)
        found.images(np.arange(len(found)))
        return len(found), len(found.classes)

    return Target(seeds, mutate_tar, encode_tar, read, (DatasetError,), "train.tar")


# ---- safetensors: (header as plain data, content)


def encode_safetensors(form: Any) -> bytes:
    header, content = form
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def mutate_safetensors(form: Any, draw: Draw) -> Any:
    header, content = json.loads(json.dumps(form[0])), form[1]
    at: Any = header
    while isinstance(at, (dict, list)) and at:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = pick(list(keys), draw)
        if isinstance(at[key], (dict, list)) and draw.random() < 0.8:
            at = at[key]
            continue
        odd = (None, -1, 2**63, [], {}, "[" * 2000, "{}", "F64", True, 1.5, "\udcff", [2**40, 0])
        at[key] = pick((*odd, *NUMBERS), draw)
        break
    return header, content


def safetensors_target() -> Target:
    content = np.arange(12, dtype="<f4").tobytes()
    tensors = {
        "fc.bias": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "optimizer/v": {"dtype": "F16", "shape": [4, 4], "data_offsets": [16, 48]},
    }
    note = {"format": 1, "crc32": {"fc.bias": 5}, "record": {"model": "googlenet", "options": {}}}
    seeds = [
        (tensors, content),
        (tensors | {"__metadata__": {"pyinception": json.dumps(note)}}, content),
        (tensors | {"__metadata__": {"pyinception": '{"crc32": ["fc.bias"]}'}}, content),
        (tensors | {"__metadata__": {"pyinception": '{"record": {"preprocessing": {}}}'}}, content),
    ]

    def read(path: Path) -> Any:
        found = checkpoint.load(path)
        try:
            convert.read(path)
        except convert.ConvertError:
            pass
        return len(found.model), len(found.optimizer), found.record is None

    return Target(seeds, mutate_safetensors, encode_safetensors, read,
                  (checkpoint.CheckpointError,), "net.safetensors")  # fmt: skip


# ---- ONNX: bytes alone


def onnx_target() -> Target:
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    shapes = {"w": (2, 3, 3, 3), "b": (2,), "f": (4, 2), "g": (4,)}
    weights = [
        numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["m"]),
        helper.make_node("Flatten", ["m"], ["v"]),
        helper.make_node("Gemm", ["v", "f", "g"], ["y"], transB=1),
    ]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
              for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 4]))}  # fmt: skip
    graph = helper.make_graph(nodes, "g", [values["x"]], [values["y"]], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    def read(path: Path) -> Any:
        return convert.read_onnx(path).count_parameters()

    def same(form: Any, draw: Draw) -> Any:
        return form

    return Target([model.SerializeToString()], same, bytes, read, (convert.ConvertError,),
                  "net.onnx")  # fmt: skip


def planted_target(fault: Callable[[], int]) -> Target:
    """Bytes whose reader does `fault` where their number is 3 modulo 7: for the fuzzer to see."""

    def read(path: Path) -> int:
        return fault() if len(path.read_bytes()) % 7 == 3 else 1

    def same(form: Any, draw: Draw) -> Any:
        return form

    return Target([bytes(50)], same, bytes, read, (ValueError,), "a")


def strange() -> int:
    raise KeyError("not documented")


def greedy() -> int:
    return len(bytearray(200 << 20))


TARGETS = {"caffe": caffe_target, "shards": shards_target, "safetensors": safetensors_target,
           "onnx": onnx_target, "strange": partial(planted_target, strange),
           "greedy": partial(planted_target, greedy)}  # fmt: skip
