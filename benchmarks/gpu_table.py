"""The rows of a GPU session as two tables: ours beside the rivals, and the state of every stage.

    ratio = least time of a rival / ours, both by graph replay with a warm L2

Predicted times stand in a column of their own. What was not measured is a dash, in a rehearsal all
of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

RIVALS = {
    "forward": {"cuDNN": "cudnn", "eager": "torch_eager", "compile": "torch_compile",
                "max-autotune": "torch_max_autotune"},
    "training": {"eager": "torch_train_eager", "compile": "torch_train_compile",
                 "max-autotune": "torch_train_max_autotune"},
}  # fmt: skip
OURS = {"forward": ("ours_net", "ours_module"), "training": ("ours_train",)}
HEAD = ["case", "batch", "precision", "what", "ours us", "predicted us", "best rival us", "ratio"]


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [HEAD]
    for what, rivals in RIVALS.items():
        for place, mine in _found(rows, OURS[what]).items():
            given = {name: _found(rows, (stage,)).get(place, []) for name, stage in rivals.items()}
            best = min(
                ((t, name) for name, some in given.items() for t in _times(some)), default=None
            )
            ours = min(_times(mine), default=None)
            predicted = next((r["predicted"]["us"] for r in mine if r.get("predicted")), None)
            ratio = f"{best[0] / ours:.2f}" if best and ours else "-"
            rival = f"{best[0]:.1f} {best[1]}" if best else "-"
            shown = [f"{us:.1f}" if us else "-" for us in (ours, predicted)]
            lines.append([*map(str, place), what, *shown, rival, ratio])
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row["stage"], Counter())[row["status"]] += 1
    states = [["stage", "rows"]]
    for stage, found in counts.items():
        states.append([stage, ", ".join(f"{n} {status}" for status, n in sorted(found.items()))])
    return f"{_markdown(lines)}\n{_markdown(states)}"


def _found(rows: list[dict[str, Any]], stages: tuple[str, ...]) -> dict[Any, list[dict[str, Any]]]:
    """Rows of some stages by (case, batch, precision)."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        case = row.get("case")
        if row["stage"] in stages and isinstance(case, dict) and "precision" in case:
            place = case["case"], case["batch"], case["precision"]
            found.setdefault(place, []).append(row)
    return found


def _times(rows: list[dict[str, Any]]) -> list[float]:
    """Device times of rows that were measured and right, in us."""
    modes = [(row.get("times") or {}) for row in rows if row["status"] == "ok"]
    first = [times.get("graph_warm") or times.get("step_warm") or {} for times in modes]
    return [times["median_us"] for times in first if times.get("median_us")]


def _markdown(lines: list[list[str]]) -> str:
    body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([body[0], "|" + " --- |" * len(lines[0]), *body[1:], ""])
