"""Weights from elsewhere, as a network of ours with its preprocessing.

==================  =======================================================================
source              files
==================  =======================================================================
``torchvision``     googlenet, inception_v3: ``.safetensors``, ``.npz``, or a state dict that
                    the user's own torch reads (``.pth``, weights only)
``caffe``           bvlc_googlenet: ``.caffemodel`` of either layer format
``slim``            inception_v1 and v3 of TF-slim: ``.npz`` of its variables by name
``onnx``            bvlc_googlenet with Caffe's names in an ``.onnx``; `read_onnx` takes others
==================  =======================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from pyinception import checkpoint
from pyinception.backend import Array
from pyinception.convert import caffe, slim, torchvision
from pyinception.convert.files import ConvertError, read_arrays
from pyinception.convert.onnx_export import export
from pyinception.convert.onnx_import import read_onnx
from pyinception.data.picture import PictureError, read_picture
from pyinception.module import Module

__all__ = [
    "SOURCES",
    "ConvertError",
    "Converted",
    "Preprocessing",
    "convert",
    "export",
    "read",
    "read_onnx",
]


@dataclass(frozen=True)
class Preprocessing:
    """x = (pixels / scale - mean) / std by channel, of an image resized and cut to a square.

    ``resize`` is the short side before the centre ``crop``; ``channels`` the order of mean and std.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    crop: int
    channels: str = "RGB"

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            text = f"crop is {self.crop}, expected 1 ... resize = {self.resize}"
            raise ValueError(f"Preprocessing: {text}")
        if not (isfinite(self.scale) and self.scale):
            text = f"scale is {self.scale}, expected a number that is not 0"
            raise ValueError(f"Preprocessing: {text}")
        if self.channels not in ("RGB", "BGR"):
            text = f"channels is {self.channels!r}, expected RGB or BGR"
            raise ValueError(f"Preprocessing: {text}")
        for name in ("mean", "std"):  # lists, as JSON gives them back
            values = tuple(map(float, getattr(self, name)))
            zero = name == "std" and 0 in values
            if len(values) != 3 or zero or not all(map(isfinite, values)):
                text = f"{name} is {values}, expected three numbers, of std none 0"
                raise ValueError(f"Preprocessing: {text}")
            object.__setattr__(self, name, values)


@dataclass(frozen=True)
class Converted:
    """A network with converted weights, its name in `models`, and what its images need."""

    net: Module
    model: str
    preprocessing: Preprocessing
    options: dict[str, Any] = field(default_factory=dict)  # of the function in `models`

    @property
    def classes(self) -> int:
        """How many the network tells apart."""
        return _classes(self.net.state_dict())

    def images(self, paths: Sequence[str | os.PathLike[str]]) -> Array:
        """The pictures as the network wants them, (N, crop, crop, 3) float32.

        Raises
        ------
        PictureError
            Naming every file that is no whole image, each with its reason.
        """
        how = self.preprocessing
        pictures, faults = [], []
        for path in paths:
            try:
                pictures.append(read_picture(Path(path), (how.resize, how.resize)))
            except PictureError as error:
                faults.append(f"{path}: {error}")
        if faults:
            raise PictureError("images: " + "; ".join(faults))
        first = (how.resize - how.crop) // 2
        inside = slice(first, first + how.crop)
        return self.normalise(np.stack(pictures)[:, inside, inside])

    def normalise(self, pixels: Array) -> Array:
        """(pixels / scale - mean) / std of (N, H, W, 3) RGB bytes, float32."""
        how, pixels = self.preprocessing, pixels.astype(np.float32)
        if how.channels == "BGR":
            pixels = pixels[..., ::-1]
        mean, std = np.array(how.mean, np.float32), np.array(how.std, np.float32)
        return np.ascontiguousarray((pixels / np.float32(how.scale) - mean) / std)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, and model name and preprocessing as the record, for `read`."""
        preprocessing = asdict(self.preprocessing)
        record = {"model": self.model, "options": self.options, "preprocessing": preprocessing}
        self.net.save(path, record)


Reader = Callable[[Path, str | None], tuple[Module, str, dict[str, Any]]]


def _of_arrays(build: Callable[[Mapping[str, Array], str | None], Any]) -> Reader:
    return lambda path, model: build(read_arrays(path), model)


SOURCES: dict[str, Reader] = {
    "torchvision": _of_arrays(torchvision.build),
    "caffe": caffe.build,
    "slim": _of_arrays(slim.build),
    "onnx": caffe.build_onnx,
}


def convert(
    path: str | os.PathLike[str], source: str | None = None, model: str | None = None
) -> Converted:
    """Read foreign weights into one of our networks.

    Parameters
    ----------
    path : the file.
    source : one of `SOURCES`; None: what the file's names and suffix say.
    model : "googlenet_bn", "inception_v3", "googlenet"; None: what the names say. A file of ours
        says it itself: another one is refused.

    Raises
    ------
    ConvertError
        The file is damaged, or its names or shapes are not those of such a network: says which.
    FileNotFoundError, ImportError
        No such file; a ``.pth`` without torch (the remedy is named).
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"convert: there is no file {file}")
    if source not in (None, *SOURCES):
        expected = ", ".join(SOURCES)
        raise ConvertError(f"convert: source is {source!r}, expected one of {expected}")
    try:
        if source is None:
            if file.suffix == ".safetensors" and checkpoint.load(file).record is not None:
                found = read(file)
                if model not in (None, found.model):
                    text = f"{file} holds {found.model}, but model is {model!r}"
                    raise ConvertError(f"convert: {text}")
                return found
            source = _guess(file)
        net, name, how = SOURCES[source](file, model)
    except ConvertError as error:
        text = str(error)
        if str(file) not in text:
            text = f"convert: {file}: {text.removeprefix('convert: ')}"
        if file.suffix == ".safetensors" and source == "torchvision" and model is None:
            text += "; of a network that `save` wrote, convert.export(net, ...) writes ONNX"
        raise ConvertError(text) from None
    except (ValueError, TypeError, IndexError) as error:  # arrays of strange ranks and kinds
        raise ConvertError(f"convert: {file} is damaged or foreign: {error}") from None
    options = {"include_pad": False} if (source, name) == ("slim", "inception_v3") else {}
    return Converted(net, name, Preprocessing(**how), options)


def _guess(file: Path) -> str:
    if file.suffix in (".caffemodel", ".onnx"):
        return {".caffemodel": "caffe", ".onnx": "onnx"}[file.suffix]
    return (
        "slim"
        if any(name.startswith("Inception") for name in read_arrays(file))
        else ("torchvision")
    )


def _classes(state: Mapping[str, Array]) -> int:
    """Biases of the linear layer, or of the last convolution of Network in Network."""
    return len(state["fc.bias"] if "fc.bias" in state else state["mlp4b.bias"])


def read(path: str | os.PathLike[str]) -> Converted:
    """A file of `Converted.save` back as network, model name and preprocessing."""
    from pyinception import models

    loaded = checkpoint.load(path)
    record = loaded.record if isinstance(loaded.record, dict) else {}
    try:
        name, options = record["model"], dict(record["options"])
        how = Preprocessing(**record["preprocessing"])
        if name not in models.__all__:
            raise KeyError(name)
        build = getattr(models, name)
        heads = {"aux": any(key.startswith("aux") for key in loaded.model)}
        has_heads = "aux" in signature(build).parameters
        net = build(_classes(loaded.model), **(heads if has_heads else {}) | options)
        net.load_state_dict(loaded.model)
    except (KeyError, TypeError, ValueError) as error:
        what = f"its record is {record!r:.80} ({type(error).__name__}: {error})"
        raise ConvertError(f"read: {path} was not written by convert: {what}") from None
    return Converted(net.eval(), name, how, options)
