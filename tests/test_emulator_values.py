"""Conformance of value opcodes: each opcode, with its modifiers, against its definition in PTX.

64 operand vectors each: NaN, infinities, signed zeros, subnormals, the ends of every range, ties.
"""

import emulator_harness as harness
import pytest
from emulator_oracle import case_of

from pyinception.emulator import compile as compiling
from pyinception.emulator import rules

pytestmark = pytest.mark.skipif(
    compiling.host_reason() is not None, reason=str(compiling.host_reason())
)

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
