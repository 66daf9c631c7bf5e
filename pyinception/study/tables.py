"""The papers' claims, each as the networks that would show it; the first network is the paper's.

Equal cost means multiply-adds within 1 % for one image of 32x32.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pyinception.study.networks import (
    ALL_3X3,
    ASYMMETRIC,
    NAIVE,
    NARROW,
    PAIRS,
    PROJECTION_FIRST,
    REDUCED,
    Variant,
    modules,
)


class StudyError(ValueError):
    """There is no such study, or an argument does not fit it."""


@dataclass(frozen=True)
class Study:
    """A claim with its source, and the networks to compare; ``variants[0]`` is the reference.

    Without variants nothing is trained: the published networks are counted.
    """

    name: str
    claim: str
    variants: tuple[Variant, ...] = ()


_REDUCED = modules(REDUCED)
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "reduction",
            "1x1 reductions before the 3x3 and the 5x5 make modules affordable (Szegedy et al. "
            "2015, section 4, figure 2).",
            (
                Variant("reduced", _REDUCED),
                Variant("naive, same widths", modules(NAIVE)),
                Variant("naive, equal cost", modules(NAIVE, NARROW)),
            ),
        ),
        Study(
            "pool_proj",
            "The pool's branch is projected after the maximum (Szegedy et al. 2015, figure 2b); "
            "before it, the projection costs the same.",
            (
                Variant("1x1 after the pool", _REDUCED),
                Variant("1x1 before the pool", modules(PROJECTION_FIRST)),
            ),
        ),
        Study(
            "factorise",
            "A 5x5 may be two 3x3, or a row and a column, for less work (Szegedy et al. 2016, "
            "sections 3.1 and 3.2).",
            (
                Variant("5x5", _REDUCED),
                Variant("3x3 + 3x3", modules(PAIRS)),
                Variant("1x5 + 5x1", modules(ASYMMETRIC)),
            ),
        ),
        Study(
            "heads",
            "An auxiliary classifier helps as a regulariser, more so with batch norm (Szegedy et "
            "al. 2016, section 4).",
            (
                Variant("no head", _REDUCED),
                Variant("head", _REDUCED, "plain"),
                Variant("head with batch norm", _REDUCED, "batch norm"),
            ),
        ),
        Study(
            "all3x3",
            "Networks of modules are two to three times cheaper than equally good ones without "
            "(Szegedy et al. 2015, section 4); so at equal cost they should be better.",
            (Variant("modules", _REDUCED), Variant("all 3x3, equal cost", ALL_3X3)),
        ),
        Study("cost", "12 times fewer parameters than AlexNet (Szegedy et al. 2015, section 1)."),
    )
}


def find(name: str) -> Study:
    """The study called ``name``; StudyError suggests the nearest name."""
    if name not in STUDIES:
        close = difflib.get_close_matches(name, STUDIES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise StudyError(
            f"study: unknown study {name!r}, expected one of {', '.join(STUDIES)}{hint}"
        )
    return STUDIES[name]
