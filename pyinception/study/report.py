"""An outcome as text, as Markdown, and as a file of JSON with its picture beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyinception.data.dataset import require
from pyinception.study.experiment import Outcome
from pyinception.study.picture import draw
from pyinception.study.tables import StudyError
from pyinception.train.run_folder import explained, write_whole


def cells(outcome: Outcome) -> list[list[str]]:
    """Heads, then a line a network."""
    first = outcome.rows[0]
    if not outcome.seeds:
        lines = [["network", "image", "parameters", "multiply-adds", "parameters / AlexNet's"]]
        for row in outcome.rows:
            share = f"1 / {first['parameters'] / row['parameters']:.1f}"
            counts = [f"{row[kind]:,}" for kind in ("parameters", "multiply_adds")]
            lines.append([row["network"], str(row["side"]), *counts, share])
        return lines
    lines = [["network", "parameters", "multiply-adds", "of the first", "test accuracy", "by seed"]]
    for row in outcome.rows:
        counts = [f"{row[kind]:,}" for kind in ("parameters", "multiply_adds")]
        times = f"{row['multiply_adds'] / first['multiply_adds']:.3f}"
        mean = f"{row['mean']:.1%}"
        if row["spread"] is not None:
            mean += f" ± {100 * row['spread']:.1f}"
        seeds = " ".join(f"{100 * a:.1f}" for a in row["accuracies"])
        lines.append([row["network"], *counts, times, mean, seeds])
    return lines


def how(outcome: Outcome) -> str:
    """Data, seeds and epochs in words; "" where nothing was trained."""
    if not outcome.seeds:
        return ""
    said = outcome.recipe
    count = f", {said['count']} images" if said["count"] else ""
    rate = f"lr {said['lr']:g} ({said['schedule']}), batches of {said['batch_size']}"
    rate += f", clipped at {said['clip']:g}" if said["clip"] else ""
    numbers = _some(outcome.seeds, "seed"), _some(said["epochs"], "epoch")
    return f"{said['data']}{count}: {', '.join(numbers)}, {rate}"


def _some(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def text(outcome: Outcome) -> str:
    """A table of aligned columns between the claim and the sentence."""
    lines = cells(outcome)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    body = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths)))
        for line in lines
    ]
    parts = [f"{outcome.study}: {outcome.claim}", how(outcome), *body, outcome.sentence]
    return "\n".join(part.rstrip() for part in parts if part)


def markdown(outcome: Outcome) -> str:
    """The same as a Markdown table, the sentence below it."""
    heads, *lines = cells(outcome)
    ruled = [heads, ["---"] + ["---:"] * (len(heads) - 1), *lines]
    body = "\n".join(f"| {' | '.join(line)} |" for line in ruled)
    about = outcome.environment
    where = (
        f"{about['cpu']}, {_some(about['threads'], 'thread')}, commit {str(about['commit'])[:10]}"
    )
    made = f"{how(outcome)}; {where}" if outcome.seeds else ""
    return "\n\n".join(part for part in (body, outcome.sentence, made) if part)


def stem(outcome: Outcome) -> str:
    """The name of its files: ``study_NAME_DATA``."""
    parts = ["study", outcome.study, *([outcome.recipe["data"]] if outcome.seeds else [])]
    return "_".join(parts)


def prepare(folder: str | Path) -> Path:
    """Make the folder that `save` writes to, and see that it can draw: before hours of training."""
    require("matplotlib", "train", "pictures of studies")
    root = Path(folder)
    with explained(root):
        root.mkdir(parents=True, exist_ok=True)
    return root


def save(folder: str | Path, outcome: Outcome, *, quick: bool = False) -> Path:
    """Write ``study_NAME_DATA.json`` and ``.svg`` into ``folder``; the JSON's path.

    The names of a ``quick`` trial begin with ``quick_``, so that it is taken for no result.
    """
    mark = "quick_" if quick and outcome.seeds else ""
    path = prepare(folder) / f"{mark}{stem(outcome)}.json"
    draw(path.with_suffix(".svg"), outcome)
    write_whole(path, (json.dumps(outcome.as_dict(), indent=1, allow_nan=False) + "\n").encode())
    return path


def load(path: str | Path) -> Outcome:
    """What `save` wrote; StudyError if it did not."""
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return Outcome(**found)
    except (TypeError, ValueError) as error:
        raise StudyError(f"study: {path} was not written by a study ({error})") from None
