"""Filters packed together: the bits of one after the other, in whatever memory they lie."""

import numpy as np
import pytest
from core_contract import bits

import pyinception as pyi
from pyinception.prepack import Format, Packed, packs, prepack, together

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")
DRAW = np.random.default_rng(6)


def filters(k: int, r: int, c: int) -> np.ndarray:
    return DRAW.standard_normal((k, r, r, c)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_are_those_of_packing_alone(threads: int) -> None:
    shapes = [(16, 1, 480), (96, 3, 64), (33, 5, 16), (1, 1, 1), (64, 7, 3), (128, 3, 130)]
    jobs: list[tuple[np.ndarray, Format]] = []
    for k, r, c in shapes:
        for direction in ("fprop", "dgrad"):
            for algorithm in ("auto", "direct"):
                jobs.append((filters(k, r, c), Format(k, r, r, c, direction, algorithm)))
    with pyi.using(threads=threads):
        alone = [bits(prepack(w, format).data) for w, format in jobs]
        before = sum(packs.values())
        with together() as pack:
            made: list[Packed] = [pack(w, format) for w, format in jobs]
    assert [bits(packed.data) for packed in made] == alone
    assert sum(packs.values()) == before + len(jobs)


def test_memory_that_is_read_again_or_written_twice_keeps_its_order() -> None:
    """Each second pack would be done long before the first, were both in one phase."""
    large, small = Format(96, 3, 3, 1024, algorithm="direct"), Format(1, 1, 1, 64)
    first, tail = filters(96, 3, 1024), filters(1, 1, 64)
    with pyi.using(threads=2):
        # Read what the first writes last.
        expected = bits(prepack(prepack(first, large).data[-64:].reshape(1, 1, 1, 64), small).data)
        into = np.full(large.size, np.nan, np.float32)
        with together() as pack:
            pack(first, large, into)
            read = pack(into[-64:].reshape(1, 1, 1, 64), small)
        assert bits(read.data) == expected
        # Write what the first reads last.
        given = first.copy()
        whole = bits(prepack(given, large).data)
        with together() as pack:
            made = pack(given, large)
            pack(tail, small, given.reshape(-1)[-small.size :])
        assert bits(made.data) == whole
        assert bits(given.reshape(-1)[-small.size :]) == bits(prepack(tail, small).data)
        # Write what the first writes last.
        with together() as pack:
            made = pack(first, large)
            pack(tail, small, made.data[-small.size :])
        assert bits(made.data[-small.size :]) == bits(prepack(tail, small).data)


def test_a_refused_filter_packs_nothing() -> None:
    w = filters(16, 3, 16)
    into = np.zeros(Format(16, 3, 3, 16).size, np.float32)
    with pytest.raises(ValueError, match="prepack: weights has shape"), together() as pack:
        pack(w, Format(16, 3, 3, 16), into)
        pack(w, Format(16, 3, 3, 15))
    assert not into.any()
    assert prepack(w, Format(16, 3, 3, 16), into).data.any()
