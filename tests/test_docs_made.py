"""What scripts make of the pages: figures, tables, reading times, the API from docstrings."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from built import needs_core

import pyinception
from pyinception import config
from pyinception.train.recipe import Recipe

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def make_docs() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("make_docs")
    sys.path.remove(str(DOCS))


@needs_core
def test_figures_and_tables_are_those_of_the_script(make_docs: ModuleType) -> None:
    assert make_docs.old() == [], "run docs/make_docs.py"


def test_ten_stops_in_two_hours(make_docs: ModuleType) -> None:
    minutes = [make_docs.minutes(page) for page in make_docs.STOPS]
    assert len(minutes) == 10 and sum(minutes) <= 120 and max(minutes) <= 20
    listed = re.findall(r"^\| \d+ \| \[.*\]\((path/.*)\) \|", make_docs.path_table(), re.M)
    assert [DOCS / page for page in listed] == make_docs.STOPS


def test_minutes_count_included_code(make_docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def f():\n    a = 1\n    return a\n\n\nb = 2\n")
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n" + "word " * 358 + "\n")
    assert make_docs.minutes(page) == 2
    page.write_text(page.read_text() + "```python\n" + "x = 1\n" * 24 + "```\n")
    assert make_docs.minutes(page) == 4
    lines = make_docs.included(page, "code.py", ":pyobject: f\n")
    assert lines == ["def f():", "    a = 1", "    return a"]
    assert (
        make_docs.included(page, "code.py", ":start-after: def\n:end-before: b =\n")[0] == lines[1]
    )


def test_every_entry_and_every_switch_is_explained(make_docs: ModuleType) -> None:
    for table, names in (
        (make_docs.recipe_table(), list(Recipe.__dataclass_fields__)),
        (make_docs.switch_table(), list(config.SWITCHES)),
    ):
        rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
        assert [row[0].strip("`") for row in rows] == names
        assert all(len(row[-1].split()) > 1 for row in rows)


# -------------------------------------------------------------------------------------- docstrings

MODULES = sorted(
    {"pyinception"}
    | {
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
    }
)
# Extents and shapes of the specs: letters that the head of spec.py explains for all of them.
LETTERS = {"P", "Q", "K", "x_shape", "y_shape", "w_shape", "bytes"}


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """(name, function or class) that a module offers."""
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    for name in getattr(module, "__all__", [n for n in own if not n.startswith("_")]):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value


def undocumented(kind: type) -> list[str]:
    """Public methods and properties without a docstring, their own or an inherited one."""
    found = []
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if name.startswith("_") or name in LETTERS or not inspect.isfunction(function):
            continue
        above = (getattr(getattr(base, name, None), "__doc__", None) for base in kind.__mro__[1:])
        if not (function.__doc__ or any(above)):
            found.append(name)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for part, value in public(module):
        assert value.__doc__ and len(value.__doc__.split()) >= 5, f"{name}.{part}"
        if inspect.isclass(value):
            assert undocumented(value) == [], f"{name}.{part}"


def test_functions_on_arrays_name_every_argument_and_their_errors() -> None:
    for name, function in public(pyinception):
        if not inspect.isfunction(function) or not function.__module__.count("functional"):
            continue
        text = inspect.getdoc(function) or ""
        for argument in inspect.signature(function).parameters:
            assert re.search(rf"\b{argument}\b", text), f"{name}: {argument}"
        assert "ValueError\n" in text and "Parameters\n" in text
        assert re.match(r"(y|r|gx|\(gx)\S* ?[=,:]|\(gx", text), (
            f"{name} does not open with its formula"
        )


def test_the_check_can_fail() -> None:
    class Bare:
        def method(self) -> None:
            pass

    assert undocumented(Bare) == ["method"]


def test_docstrings_become_markup() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        converted = importlib.import_module("docstrings").converted
    finally:
        sys.path.remove(str(DOCS))
    text = ["y = a * b_", "", "    y = |x|", "", "Parameters", "----------", "x, w : (N, C) and *",
            "", "Returns", "-------", "y : (N,)."]  # fmt: skip
    assert converted(text) == [
        "y = a \\* b\\_", "", "::", "", "    y = |x|", "", "", "Parameters", "----------", "x, w",
        "    (N, C) and \\*", "", "", "", ".. rubric:: Returns", "", "y : (N,).",
    ]  # fmt: skip
