"""Arrays by name from files that cannot run code, and loading them whole into a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import checkpoint
from pyinception.backend import Array
from pyinception.module import Module


class ConvertError(ValueError):
    """Foreign weights that are damaged or not those of the network; the message says where."""


def read_arrays(path: Path) -> dict[str, Array]:
    """Name -> array of a ``.safetensors`` or ``.npz``, or of a ``.pth`` by the user's torch."""
    if path.suffix == ".safetensors":
        return checkpoint.load(path).model
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds
            kind = type(error).__name__  # NumPy's own text advises to unpickle
            raise ConvertError(f"convert: {path} is not a readable .npz ({kind})") from None
    if path.suffix in (".pth", ".pt"):
        return _torch_arrays(path)
    text = "expected .safetensors, .npz, .pth, .pt or .caffemodel"
    raise ConvertError(f"convert: {path} ends in {path.suffix!r}, {text}")


def _torch_arrays(path: Path) -> dict[str, Array]:
    try:
        import torch
    except ImportError:
        remedy = "pip install torch, or save the state dict as .safetensors where torch is"
        raise ImportError(f"convert: {path} needs torch to be read; {remedy}") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): tensor.detach().numpy() for name, tensor in state.items()}
    except Exception as error:  # torch raises many kinds
        raise ConvertError(f"convert: {path} holds no state dict of tensors ({error})") from None


def require_onnx(function: str) -> Any:
    """The package onnx with the parts used here; ImportError names the extra."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        remedy = "pip install 'pyinception[onnx]'"
        raise ImportError(f"{function}: onnx is not installed; {remedy}") from None
    return onnx


def load_onnx(path: Path, *, external_data: bool = False) -> Any:
    """A checked ModelProto; tensors kept in other files are refused unless asked for."""
    onnx = require_onnx("convert")
    try:
        model = onnx.load(path, load_external_data=external_data)
        outside = [t.name or "?" for t in _tensors(model.graph) if t.data_location == t.EXTERNAL]
        if not outside:
            onnx.checker.check_model(model)
    except FileNotFoundError:
        raise
    except Exception as error:  # protobuf and the checker raise many kinds
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise ConvertError(f"convert: {path} is no valid ONNX file ({text[0][:200]})") from None
    if outside:
        what = f"{len(outside)} tensors in other files ({outside[0]}, ...)"
        raise ConvertError(f"convert: {path} keeps {what}; pass external_data=True to read them")
    return model


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph: initialisers, constants in attributes, those of graphs inside."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)


def initializers(path: Path) -> dict[str, Array]:
    """Name -> constant of an ONNX file."""
    to_array = require_onnx("convert").numpy_helper.to_array
    return {t.name: to_array(t) for t in load_onnx(path).graph.initializer}


def fill(net: Module, state: Mapping[str, Array], source: str) -> Module:
    """Load ``state`` as float32; every name and shape is checked before anything is written."""
    ready = {name: np.ascontiguousarray(array, np.float32) for name, array in state.items()}
    try:
        net.load_state_dict(ready)
    except ValueError as error:
        text = str(error).partition(": ")[2]
        raise ConvertError(f"convert: these are not the weights of {source}: {text}") from None
    return net.eval()


def count_classes(state: Mapping[str, Array], columns: int, heads: Iterable[str] = ()) -> int:
    """Rows of the classifier ``fc`` and of every head, (classes, columns) and (classes,) alike.

    Asked before a network is made: it is as large as its classifier, and a file may say anything.

    Raises
    ------
    ConvertError
        If a weight or a bias is missing, or of another shape.
    """
    if "fc.bias" not in state:
        raise ConvertError("convert: there is no fc.bias: not a classifier")
    classes = state["fc.bias"].size
    for layer in ("fc", *heads):
        for part, shape in (("weight", (classes, columns)), ("bias", (classes,))):
            array = state.get(f"{layer}.{part}")
            if array is None or array.shape != shape:
                found = "is missing" if array is None else f"has shape {array.shape}"
                raise ConvertError(f"convert: {layer}.{part} {found}, expected {shape}")
    return classes


def krsc(filter: Array) -> Array:
    """A filter in the order K C R S, as ours."""
    return np.transpose(filter, (0, 2, 3, 1))


def hwc_columns(weight: Any, cells: tuple[int, int]) -> Array:
    """A linear layer's (K, C H W) weight on a map of H x W cells, its columns in H, W, C order."""
    k, columns = weight.shape
    h, w = cells
    return weight.reshape(k, columns // (h * w), h, w).transpose(0, 2, 3, 1).reshape(k, columns)
