"""Which forms are tested: every accepted opcode, and every form the shipped kernels' PTX has.

A form is the opcode with its modifiers, and the kind of each operand in its slot of the rule: the
two things a translation depends on.
"""

from collections.abc import Iterator
from functools import cache

import emulator_harness as harness
import pytest
import test_emulator_atomics
import test_emulator_matrix
import test_emulator_memory
import test_emulator_values
import test_emulator_warp

from pyinception.emulator import compile as compiling
from pyinception.emulator import parse, ptx, rules

KERNELS = harness.repository() / "kernels"
ENTRIES = sorted((KERNELS / "cuda").glob("*.cu"))


def forms(text: str) -> Iterator[tuple[str, set[str], ptx.Statement]]:
    """(opcode, forms of its operands, statement) of every statement."""
    for function in parse.parse(text).functions.values():
        for item in function.body or ():
            if isinstance(item, ptx.Statement):
                yield item.opcode, set(rules.operand_forms(item, function.name)), item


@cache
def covered() -> tuple[set[str], set[str]]:
    """Opcodes and operand forms of everything the conformance tests run."""
    opcodes, operands = set(), set()
    modules = (
        test_emulator_values, test_emulator_memory, test_emulator_atomics, test_emulator_matrix,
        test_emulator_warp,
    )  # fmt: skip
    for module in modules:
        for text in module.texts():
            for opcode, kinds, _ in forms(harness.HEAD + text):
                opcodes.add(opcode)
                operands |= kinds
    return opcodes, operands


def test_every_accepted_opcode_is_tested() -> None:
    assert sorted(set(rules.accepted()) - covered()[0]) == []


@pytest.mark.skipif(compiling.cuda_reason() is not None, reason=str(compiling.cuda_reason()))
@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_shipped_kernels_have_tested_forms_only(path) -> None:
    opcodes, operands = covered()
    missing = set()
    for opcode, kinds, statement in forms(compiling.ptx_of(path, include=[KERNELS])):
        if opcode not in opcodes:
            missing.add(f"{opcode} at {statement.where}")
        missing |= {f"{kind} of {opcode} at {statement.where}" for kind in kinds - operands}
    assert sorted(missing) == []


def test_the_census_sees_a_form_that_is_not_tested() -> None:
    text = ".visible .entry k() { .reg .b64 %d; ld.const.v2.b64 {%d, %d}, [8]; ret; }"
    found = [kinds for opcode, kinds, _ in forms(harness.HEAD + text) if opcode != "ret"]
    assert found[0] - covered()[1] == {"[const [i+]"}
