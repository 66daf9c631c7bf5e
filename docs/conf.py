"""Sphinx reads this: `make docs` builds the pages of this folder into docs/_build."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import docstrings

import pyinception

project, author = "pyinception", "the pyinception authors"
copyright = author
release = version = pyinception.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", f"pyinception {version}"
html_copy_source = False
# furo's own style alone: a page asks no other host for anything.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_google_docstring, napoleon_use_rtype = False, False
napoleon_use_param, napoleon_use_ivar = False, True
default_role = "code"
python_use_unqualified_type_names = True
# `bytes` in an annotation is also an attribute of four specs.
suppress_warnings = ["ref.python"]

_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+([^)#]+)(#[^)]*)?\)")


def _links_out(app: Any, page: str, source: list[str]) -> None:
    """A link that leaves docs/ leads nowhere in the built pages: it becomes the file's name."""

    def name(match: re.Match[str]) -> str:
        target = (Path(app.srcdir, page).parent / _target(match[0])).resolve()
        if target.is_relative_to(app.srcdir):
            return match[0]
        return match[1] if match[2] in match[1] else f"{match[1]} (`{match[2]}`)"

    source[0] = _OUTSIDE.sub(name, source[0])


def _target(link: str) -> str:
    return link[link.rindex("](") + 2 : -1].partition("#")[0]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _links_out)
    # Before napoleon, whose priority is 500.
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)
