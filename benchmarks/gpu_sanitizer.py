"""A row of a GPU session from a program under compute-sanitizer."""

from __future__ import annotations

import subprocess
from typing import Any

SECONDS = 240.0  # for one tool; what it has not reached then is left out


def sanitized(command: list[str], wanted: list[str], seconds: float = SECONDS) -> dict[str, Any]:
    """The fields of a row from ``command`` on all of ``wanted``, which tells of each as it ends.

    One process, since starting one under a sanitizer takes longer than the cases of an op.
    """
    end = None
    try:
        done = subprocess.run(
            [*command, *wanted], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds,
            check=False,
        )  # fmt: skip
        output, end = done.stdout, done.returncode
    except subprocess.TimeoutExpired as cut:
        output = cut.output or b""
    lines = output.decode(errors="replace").splitlines()
    told = dict(line.split()[1:3] for line in lines if line.startswith("CHECKED "))
    faults = {name: status for name, status in told.items() if status not in ("ok", "skipped")}
    found = [line for line in lines if line.startswith("=========")]
    if end or any("ERROR SUMMARY" in line and " 0 errors" not in line for line in found):
        faults["report"] = "\n".join(found or lines)[:2000]
    elif not told:
        return {"status": "failed", "reason": "\n".join(lines)[-600:], "times": None}
    row = {"status": "wrong" if faults else "ok", "runs": len(told), "faults": faults}
    return row | {"left_out": [name for name in wanted if name not in told], "times": None}
