"""What stands beside the loss of a run: on the bar, in its lines and in metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyinception.cuda import machine
from pyinception.module import Module
from pyinception.train.job import State
from pyinception.train.update import Update


def step(line: Mapping[str, Any], state: State, update: Update, net: Module) -> str:
    """What stands beside a bar: means of the epoch so far; heads and learning rate of this step."""
    mean, share = state.loss_sum / state.seen, state.waited / state.seconds
    heads = "/".join(f"{loss:.3f}" for loss in line.get("heads", ()))
    parts = [f"loss {mean:.4f}" + (f" ({heads})" if heads else "")]
    parts.append(f"accuracy {state.correct / state.seen:.1%}")
    parts.append(f"lr {line['lr']:.3g}")
    if line["roofline"] is not None:
        parts.append(f"roofline {line['roofline']:.0%}")
    return "  ".join([*parts, f"data {share:.0%}"]) + scale(update) + memory(net)


def scale_metrics(update: Update) -> dict[str, float]:
    """What the metrics of training in 16 bits have beside the others."""
    scale = update.scale
    return {} if scale is None else {"loss_scale": scale.scale, "overflows": scale.overflows}


def scale(update: Update) -> str:
    """The loss scale and its overflows, where there is a dynamic one."""
    found = update.scale
    if found is None or not found.interval:
        return ""
    return f"  scale {found.scale:g}, {found.overflows} overflows"


def memory(net: Module) -> str:
    """What the device has, where the weights lie on one."""
    found = machine.memory(next(net.parameters()).data)
    if found is None:
        return ""
    used = (found["device_bytes"] - found["free_bytes"]) / 2**30
    held = found["pool_bytes"] / 2**30
    return f"  GPU {used:.1f} of {found['device_bytes'] / 2**30:.0f} GiB, {held:.1f} ours"
