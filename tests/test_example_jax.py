"""The JAX example: it runs as a user would run it, and it learns."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pyinception import backend

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "jax_train.py"
REASON = backend.why_not("cpu")
for package, extra in (("jax", "oracles"), ("sklearn", "train")):
    if find_spec(package) is None:
        REASON = f"{package} is not installed (extra `{extra}`)"

pytestmark = [pytest.mark.oracles, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


def test_it_learns_in_a_few_epochs(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--epochs", "4", "--seed", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [float(text) for text in re.findall(r"loss (\S+)", done.stdout)]
    assert len(losses) == 4 and losses[0] > 1 > losses[-1]
    accuracy = re.search(r"(\S+)% of 360 digits it has never seen", done.stdout)
    assert accuracy is not None and float(accuracy[1]) > 70  # chance: 10
