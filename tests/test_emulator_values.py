"""Conformance of value opcodes: each opcode, with its modifiers, against its definition in PTX.

64 operand vectors each: NaN, infinities, signed zeros, subnormals, the ends of every range, ties.
"""

from collections.abc import Iterator

import emulator_harness as harness
import pytest
from emulator_oracle import case_of

from pyinception.emulator import rules

pytestmark = harness.needs_cxx

CASES = {opcode: case for opcode in rules.accepted() if (case := case_of(opcode))}
STEMS = sorted({opcode.split(".")[0] for opcode in CASES})


@pytest.mark.parametrize("stem", STEMS)
def test_every_form_has_the_value_of_its_definition(stem: str) -> None:
    trials = [
        harness.Trial(opcode, case, {})
        for opcode, case in CASES.items()
        if opcode.split(".")[0] == stem
    ]
    assert harness.failures(trials) == []


# Opcodes whose sources may be constants, one for each type of source that takes them.
WITH_CONSTANTS = {
    "add.u16": (1,), "add.s16": (1,), "add.u32": (1,), "add.s32": (0, 1), "add.u64": (1,),
    "add.s64": (1,), "add.f32": (0, 1), "add.rn.f64": (1,), "and.b16": (1,), "and.b32": (1,),
    "and.b64": (1,), "selp.b16": (0, 1), "selp.u16": (0, 1), "selp.b32": (0, 1), "selp.f32": (0, 1),
    "selp.b64": (0, 1), "selp.f64": (0, 1), "shl.b32": (0, 1), "shl.b64": (1,), "mov.u16": (0,),
    "mov.s16": (0,), "mov.b16": (0,), "mov.u32": (0,), "mov.s32": (0,), "mov.b32": (0,),
    "mov.u64": (0,), "mov.s64": (0,), "mov.b64": (0,), "mov.f32": (0,), "mov.f64": (0,),
    "mov.pred": (0,),
    "setp.eq.s32": (0, 1), "prmt.b32": (2,), "bfe.u32": (1, 2), "cvt.rn.f32.s32": (0,),
    "cvt.u32.u16": (0,), "cvt.s64.s32": (0,), "cvt.u32.u64": (0,),
}  # fmt: skip


def constants() -> list[harness.Trial]:
    """Each with one constant after the other, then with all of them."""
    trials = []
    for opcode, positions in WITH_CONSTANTS.items():
        case = CASES[opcode]
        for number, row in enumerate(harness.vectors(opcode, case)[:3]):
            chosen = positions if number else positions[:1]
            trials.append(harness.Trial(opcode, case, {i: row[i] for i in chosen}))
    return trials


def test_constants_stand_for_their_bits() -> None:
    assert harness.failures(constants()) == []


def texts() -> Iterator[str]:
    """Every PTX text of this file, for the census."""
    trials = [harness.Trial(opcode, case, {}) for opcode, case in CASES.items()] + constants()
    yield from harness.batches(trials)[1]
