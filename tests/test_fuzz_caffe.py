"""Fuzzing of the Caffe reader: `fuzzing` in a child, and what earlier runs have found."""

import tracemalloc
from pathlib import Path

import fuzz_targets
import fuzzing
import pytest

REGRESSIONS = Path(__file__).parent / "fuzz_regressions"
SECONDS = 20.0


def test_caffemodels(tmp_path):
    found = fuzzing.run("caffe", SECONDS, tmp_path)
    assert found["read"] > 5 and found["refused"] > 50 and found["kinds"] > 5, found


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.caffemodel")), ids=lambda p: p.stem)
def test_found_before(path):
    """Read or refused, in memory that fits the file."""
    target = fuzz_targets.caffe_target()
    tracemalloc.start()
    try:
        fuzzing.attempt(target, path)  # another exception than the documented one goes through
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 1.1 * path.stat().st_size + fuzzing.SPARE


@pytest.mark.parametrize("name, error", [("strange", "KeyError"), ("greedy", "MemoryError")])
def test_the_fuzzer_sees_what_it_should(tmp_path, name, error):
    """A reader that fails, and one that takes too much memory, end the run with the mutant kept."""
    with pytest.raises(AssertionError, match=rf"FUZZ_SEED=1 [\s\S]*\n{error}"):
        fuzzing.run(name, SECONDS, tmp_path, seed=1)
    assert len((tmp_path / "failed").read_bytes()) % 7 == 3
