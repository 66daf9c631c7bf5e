"""Our docstrings, plain text made to be read in the source, as reStructuredText for napoleon.

- An indented block, or a paragraph in columns, is shown as it stands: a formula, a picture.
- ``*``, ``|`` and a trailing ``_`` of the prose are no markup.
- ``name : words`` below "Parameters" and "Attributes" is a name and its meaning; types stand in
  the signature.
- What stands below "Returns" and "Notes" is prose.
"""

import re
from itertools import groupby, pairwise
from typing import Any

_RULE = re.compile(r"^-{3,}$")
_ENTRY = re.compile(r"^(\w[\w, ]*?) : (.*)$")
_COLUMNS = re.compile(r"\S {3,}\S")
_CODE = re.compile(r"(``.+?``|`[^`]+`)")


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The handler of Sphinx's ``autodoc-process-docstring``: ``lines`` are changed in place."""
    lines[:] = converted(lines)


def converted(lines: list[str]) -> list[str]:
    """The lines of one docstring as reStructuredText that napoleon takes."""
    heads = [i for i, line in enumerate(lines[1:]) if _RULE.match(line)]
    edges = [*heads, len(lines)]
    found = _prose(lines[: edges[0]])
    for start, end in pairwise(edges):
        head, body = lines[start], lines[start + 2 : end]
        if head in ("Parameters", "Attributes"):
            found += ["", head, "-" * len(head), *_entries(body)]
        elif head in ("Returns", "Notes"):  # two empty lines end napoleon's section before it
            found += ["", "", f".. rubric:: {head}", "", *_prose(body)]
        else:
            found += ["", head, "-" * len(head), *map(_escaped, body)]
    return found


def _prose(lines: list[str]) -> list[str]:
    found: list[str] = []
    block = False
    lines = _in_columns(lines)
    for line in lines:
        indented = line.startswith("    ")
        if indented and not block and not (found and found[-1].strip()):
            found += ["::", ""]
            block = True
        elif line.strip() and not indented:
            block = False
        found.append(line if block else _escaped(line))
    return found


def _in_columns(lines: list[str]) -> list[str]:
    """The lines, with paragraphs that are set in columns indented."""
    found: list[str] = []
    for _, paragraph in groupby(lines, key=lambda line: bool(line.strip())):
        rows = list(paragraph)
        columns = sum(bool(_COLUMNS.search(row)) for row in rows) > 1
        table = rows[0].startswith(("===", "    "))
        found += [f"    {row}" if columns and not table else row for row in rows]
    return found


def _entries(lines: list[str]) -> list[str]:
    found: list[str] = []
    for line in lines:
        if entry := _ENTRY.match(line):
            found += [entry[1], f"    {_escaped(entry[2])}"]
        else:
            found.append(_escaped(line))
    return found


def _escaped(line: str) -> str:
    if line.lstrip().startswith((">>>", "...")):
        return line
    parts = _CODE.split(line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*|])", r"\\\1", parts[i])
        parts[i] = re.sub(r"_(?=[\s{'\")\],.;:!?/<>-]|$)", r"\\_", parts[i])
    return "".join(parts)
