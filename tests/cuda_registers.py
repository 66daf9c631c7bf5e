"""The table of registers beside the CUDA kernels: entries by unit, and their budgets."""

import tomllib

from cuda_run import CUDA

_TABLE = tomllib.loads((CUDA / "registers.toml").read_text(encoding="utf-8"))

PTXAS: str = _TABLE["ptxas"]  # the one whose counts the table holds
ARCHITECTURES: dict[str, list[str]] = _TABLE["architectures"]
REGISTERS: dict[str, dict[str, int]] = _TABLE["registers"]
