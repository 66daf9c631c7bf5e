"""The pages on data and runs hold: their programs run, their table is that of the recipe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="extra `train`")
pytest.importorskip("matplotlib", reason="extra `train`")
pytest.importorskip("PIL", reason="extra `train`")

from PIL import Image

from pyinception.cli.train import toml
from pyinception.data import NAMES
from pyinception.train.recipe import describe

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- recipe begin -->\n", "<!-- recipe end -->"


def programs(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)


def recipe_table() -> str:
    """What stands between the markers of docs/training.md."""
    lines = ["", "| entry | type | default | meaning |", "| --- | --- | --- | --- |"]
    for entry in describe():
        cells = (f"`{entry['name']}`", entry["type"], f"`{toml(entry['default'])}`", entry["about"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", ""])


def test_the_table_of_entries_is_that_of_the_recipe() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == recipe_table(), f"docs/training.md should have:\n{recipe_table()}"


def test_every_data_set_is_on_the_page() -> None:
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    assert all(f"| `{name}" in text for name in NAMES)


def test_programs_run(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYINCEPTION_THREADS", "1")
    for n in range(10):
        path = tmp_path / "pictures" / ("train" if n < 8 else "test") / "ab"[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), 20 * n, np.uint8)).save(path)
    (data_page,) = programs("data.md")
    exec(compile(data_page, "data.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("(40, 50, 3) a train/a/") and len(lines) == 3
    assert lines[1].startswith("0 (4, 64, 64, 3) ")
    run, gradient = programs("training.md")
    exec(compile(run, "training.md", "exec"), {})
    assert capsys.readouterr().out.split()[:2] == ["2", "3"]
    exec(compile(gradient, "training.md", "exec"), {})
    assert float(capsys.readouterr().out) < 1e-7
