"""Lifetimes under a storm: one deleter call for each export, whatever the order of letting go."""

import subprocess
import sys
from pathlib import Path

import pytest
from built import needs_core

pytestmark = needs_core


def test_ten_thousand_rounds() -> None:
    import storm

    assert storm.storm(10_000) > 10_000


EXIT = """
import sys, threading; sys.path.insert(0, sys.argv[1]); import conftest
import numpy as np, pyinception as pyi, storm, random
left = [storm.used(random.Random(i)) + storm.viewed(random.Random(i)) for i in range(5)]
{last}
"""
THREAD = "threading.Thread(target=lambda: storm.rounds(0, 10**9, []), daemon=True).start()"
ENDS = {
    "held by the module": "",
    "held by a thread": THREAD + "; import time; time.sleep(0.2)",
    "held by a cycle": "left.append(left); del left",
    "an exception": "raise SystemExit(0)",
    "from a finaliser": "import atexit; atexit.register(lambda: storm.rounds(0, 50, []))",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_survives_its_exit(end: str) -> None:
    code = EXIT.format(last=ENDS[end])
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
