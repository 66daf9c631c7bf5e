"""The pages on data and runs hold: their tables are those of recipe and data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="extra `train`")
pytest.importorskip("matplotlib", reason="extra `train`")
pytest.importorskip("PIL", reason="extra `train`")

from pyinception.cli.train import toml
from pyinception.data import NAMES
from pyinception.train.recipe import describe

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- recipe begin -->\n", "<!-- recipe end -->"


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
