"""The papers' claims, run: ``outcome = study.run("all3x3")``, ``study.save("results", outcome)``.

Each study trains networks that differ in one thing, from several seeds, and says what the figures
say; `tables.STUDIES` has them as rows of text.
"""

from pyinception.study.experiment import SEEDS, Outcome, run, sentence, verdict
from pyinception.study.picture import draw
from pyinception.study.report import load, markdown, prepare, save, text
from pyinception.study.tables import STUDIES, Study, StudyError, find

__all__ = [
    "SEEDS",
    "STUDIES",
    "Outcome",
    "Study",
    "StudyError",
    "draw",
    "find",
    "load",
    "markdown",
    "prepare",
    "run",
    "save",
    "sentence",
    "text",
    "verdict",
]
