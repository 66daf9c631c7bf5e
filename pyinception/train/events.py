"""Metrics as TensorBoard events, beside metrics.jsonl and with the same names.

    {"kind": "step", "step": 7, "loss": 2.1, "heads": [2, 3]}  ->  step/loss, step/heads/0, ... at 7

Written by tensorboardX (extra ``train``), which needs no TensorFlow and no PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyinception.data.dataset import require

_PLACES = ("kind", "epoch", "step")


class Events:
    """A file of events in a run folder; `add` takes each line of metrics.jsonl.

    Parameters
    ----------
    folder : the run folder.
    step : steps that the run has done: what another file says after it was lost to a crash.
    """

    def __init__(self, folder: Path, step: int) -> None:
        writer = require("tensorboardX", "train", "TensorBoard events")
        # Names have seconds: without the step, a second start within one would replace the file.
        # No purge at 0: a new run has nothing to take back.
        self._writer = writer.SummaryWriter(
            str(folder), purge_step=step + 1 if step else None, filename_suffix=f".{step}"
        )

    def add(self, line: Mapping[str, Any]) -> None:
        """One line of metrics."""
        step = int(line["step"])
        for name, value in scalars(line):
            self._writer.add_scalar(f"{line['kind']}/{name}", value, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


def scalars(line: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """(name/of/the/part, number) of every number inside; texts and places are left out."""
    for key, value in line.items():
        if not above and key in _PLACES:
            continue
        name = f"{above}{key}".replace(" ", "_")
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from scalars({str(k): v for k, v in value.items()}, f"{name}/")
        elif isinstance(value, (int, float)):
            yield name, float(value)
