"""One figure: what is promised, what was measured, what failed; as a table and as plain data."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "figures.json"


class Unavailable(RuntimeError):
    """A figure cannot be measured here; the message says what is missing."""


@dataclass
class Figure:
    """Rows of plain data under a promise.

    Attributes
    ----------
    promise : one sentence with its numbers.
    rows : dicts; the keys are the table's heads, in order of appearance.
    failures : what does not hold, one sentence each; empty if the figure holds.
    notes : what a reader should know beside the numbers.
    """

    name: str
    promise: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, **cells: Any) -> None:
        """One more row."""
        self.rows.append(cells)

    def at_most(self, what: str, value: float, limit: float) -> None:
        """Note a failure unless value <= limit; NaN fails."""
        if not value <= limit:
            self.failures.append(f"{what} is {value:.3g}, expected at most {limit:g}")

    def same(self, what: str, differing: int) -> None:
        """Note a failure unless ``differing`` numbers is none."""
        if differing:
            self.failures.append(f"{what}: {differing} numbers differ, expected 0")

    @property
    def passed(self) -> bool:
        return not self.failures

    def table(self) -> str:
        """Heads, aligned rows, notes, and the verdict."""
        heads = list(dict.fromkeys(key for row in self.rows for key in row))
        lines = [heads, *([_text(row.get(head, "")) for head in heads] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        body = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
        verdict = [f"FAILED: {text}" for text in self.failures] or ["holds"]
        named = [f"{self.name}: {self.promise}", *(line.rstrip() for line in body)]
        return "\n".join([*named, *self.notes, *verdict])

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**vars(self), "passed": self.passed}


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def store(name: str, measured: dict[str, Any], path: Path = RESULTS) -> None:
    """Put one figure into the file, beside the others; written whole or not at all."""
    figures: dict[str, Any] = {}
    if path.exists():
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    figures[name] = measured
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"figures": figures}, file, indent=1)
        file.write("\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
