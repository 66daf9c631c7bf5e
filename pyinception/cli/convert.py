"""``pyinception convert FILE OUT``: weights of torchvision, Caffe or TF-slim as a file of ours."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("convert")(convert)


def convert(
    file: Annotated[str, typer.Argument(help=".caffemodel, .safetensors, .npz or .pth.")],
    out: Annotated[str, typer.Argument(help="The .safetensors or .onnx file to write.")],
    source: Annotated[
        str | None, typer.Option(help="torchvision, caffe or slim.", show_default="by the names")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="googlenet, googlenet_bn, inception_v3.", show_default="by the names"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Read foreign weights, check every name and shape, write them with their preprocessing.

    A file that an earlier call wrote is read again: `convert net.safetensors net.onnx` exports.
    """
    from pyinception import convert as converting

    if not out.endswith((".safetensors", ".onnx")):
        raise ValueError(f"convert: OUT is {out!r}, expected a .safetensors or .onnx file")
    found = converting.convert(file, source, model)
    how = found.preprocessing
    if out.endswith(".onnx"):
        converting.export(found.net, (1, how.crop, how.crop, 3), out)
    else:
        found.save(out)
    value = {
        "file": out,
        "model": found.model,
        "parameters": found.net.count_parameters(),
        "preprocessing": asdict(how),
    }
    text = (
        f"{out}: {found.model}, {value['parameters']:,} parameters\n"
        f"images: short side {how.resize}, centre {how.crop}, "
        f"(pixels / {how.scale:g} - {how.mean}) / {how.std}, {how.channels}"
    )
    emit(text, value, json)
