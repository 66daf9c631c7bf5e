"""Fuzzing of shards and, for less long, of safetensors and ONNX files."""

from pathlib import Path

import fuzz_targets
import fuzzing
import pytest

REGRESSIONS = Path(__file__).parent / "fuzz_regressions"
SECONDS, BRIEF = 20.0, 3.0


def test_shards(tmp_path):
    found = fuzzing.run("shards", SECONDS, tmp_path)
    assert found["read"] > 5 and found["refused"] > 50 and found["kinds"] > 5, found


def test_safetensors(tmp_path):
    found = fuzzing.run("safetensors", BRIEF, tmp_path)
    assert found["read"] > 5 and found["refused"] > 50, found


@pytest.mark.oracles
def test_onnx(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed (extra `oracles`)")
    found = fuzzing.run("onnx", BRIEF, tmp_path)
    assert found["read"] > 5 and found["refused"] > 50, found


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.safetensors")), ids=lambda p: p.stem)
def test_safetensors_found_before(path):
    assert fuzzing.attempt(fuzz_targets.safetensors_target(), path)[0] == "refused"


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.tar")), ids=lambda p: p.stem)
def test_shards_found_before(path, tmp_path):
    (tmp_path / "train.tar").write_bytes(path.read_bytes())
    target = fuzz_targets.shards_target()
    assert fuzzing.attempt(target, tmp_path / "train.tar")[0] == "refused"


@pytest.mark.oracles
@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.onnx")), ids=lambda p: p.stem)
def test_onnx_found_before(path):
    pytest.importorskip("onnx", reason="onnx is not installed (extra `oracles`)")
    assert fuzzing.attempt(fuzz_targets.onnx_target(), path)[0] == "refused"
