"""Recipes that come with the package, ``recipes/NAME.toml``: each entry with its source."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pyinception.train.recipe import RecipeError, read_toml

FOLDER = Path(__file__).parents[1] / "recipes"


def names() -> list[str]:
    """What `read` takes, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def about(name: str) -> str:
    """What the first line of a recipe says, up to a colon."""
    text = _path(name).read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ").partition(":")[0].rstrip(".")


def read(name: str) -> dict[str, Any]:
    """The entries of the recipe ``name``, for `recipe.resolve`.

    Raises
    ------
    RecipeError
        If there is none of that name; the nearest is suggested.
    """
    return read_toml(_path(name))


def _path(name: str) -> Path:
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise RecipeError(f"recipe: there is no {name!r}, expected {', '.join(known)}{hint}")
    return FOLDER / f"{name}.toml"
