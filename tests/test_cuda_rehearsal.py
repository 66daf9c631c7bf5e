"""The half of a GPU session that runs our kernels, rehearsed on the emulator: no device figure."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyinception import backend, emulator, table
from pyinception.cuda import runs

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_build  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_fused  # noqa: E402
import gpu_ours  # noqa: E402
import gpu_sanitizer  # noqa: E402

SMALL_STEMS = {
    "conv1": (1, 15, 14, 3, 16, 7, 2, 3, True), "conv2": (1, 7, 8, 16, 24, 3, 1, 1, False)
}  # fmt: skip
STAGES = "build,ours_module,fusion"


def test_the_rehearsal_writes_rows_without_device_figures(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_session.py"), "--dry-run", "--out", str(out)]
    command += ["--stages", STAGES, "--precisions", "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    rows = {row["key"]: row for row in document["rows"]}
    assert document["rehearsal"] and document["stopped"] is None
    assert set(rows) == {"build/kernels", "ours_module/5a/b1/fp32", "fusion/5a/b1/fp32"}
    for key, row in rows.items():
        assert row["status"] == "rehearsed", (key, row)
        assert row["times"] is None and row["rates"] is None, key
    fusion = rows["fusion/5a/b1/fp32"]
    sides = fusion["sides"]
    assert sides["fused"]["launches"] < sides["unfused"]["launches"]
    assert 0 < sides["fused"]["bytes"] < sides["unfused"]["bytes"]
    assert set(fusion["host_times"]) == {
        f"{side} {mode}" for side in sides
        for mode in ("host_graph", "host_call", "host_eager", "training host_step")
    }  # fmt: skip
    again = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert again.returncode == 0 and "fusion/" not in again.stdout


def test_the_checks_cover_the_table() -> None:
    there = {(*key, rung) for rung in table.CUDA_RUNGS for key in runs.RUNS[rung]}
    # "tf32" has the runs of "mma", the stem's kernel among them, which has no float32
    there.remove(("conv_lrn_pool", "fprop", "tf32"))
    checks = set(gpu_checks.CHECKS)
    assert len(checks) == len(gpu_checks.CHECKS) and checks <= there
    assert {c for c in there - checks if c[0] != "linear" or c[2] == "direct"} == set()


@pytest.mark.parametrize(("op", "rung"), [("lrn_pool", "direct"), ("conv_lrn_pool", "mma")])
def test_checks_of_what_a_session_fuses(op: str, rung: str, monkeypatch) -> None:
    """Every storage of both orders; a reference bent by one is noticed in each."""
    monkeypatch.setattr(gpu_fused, "STEMS", SMALL_STEMS)
    ours = gpu_ours.Ours(rehearsal=True)
    with emulator.using(checked=False):
        row = ours.check_row(op, "fprop", rung)
        assert row["status"] == "ok" and row["cases"] == len(row["errors"]), row
        assert set(row["errors"]) == {
            f"{stem} {storage}" for stem in SMALL_STEMS for storage in gpu_fused.STORAGES[op]
        }
        real = backend.reference().lrn_fprop
        monkeypatch.setattr(backend.reference(), "lrn_fprop", lambda *a, **k: real(*a, **k) + 1)
        wrong = ours.check_row(op, "fprop", rung)
    assert wrong["status"] == "wrong"
    limits = wrong["error_limit"]
    assert all(error > limits[name.split()[1]] for name, error in wrong["errors"].items())


def test_a_check_finds_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is bent by one: every check that compares with it must say so."""
    ours = gpu_ours.Ours(rehearsal=True)
    row = ours.check_row("conv", "fprop", "direct")
    assert (row["status"], row["error"]["max_rel"], row["error_limit"]) == ("ok", 0, 0)
    assert ours.check_row("lrn", "fprop", "direct")["error"]["max_rel"] < 1e-5
    real = backend.reference().conv2d_fprop
    monkeypatch.setattr(backend.reference(), "conv2d_fprop", lambda *a, **k: real(*a, **k) + 1)
    row = ours.check_row("conv", "fprop", "direct")
    assert row["status"] == "wrong" and row["error"]["max_rel"] > 0


def test_what_building_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_build.reason(rehearsal=True) is None
    with monkeypatch.context() as patch:
        patch.setattr(gpu_build, "_built", lambda: False)
        patch.setattr(gpu_build, "NVCC", None)
        assert "needs nvcc, which was not found" in str(gpu_build.reason(rehearsal=False))
        patch.setattr(gpu_build, "NVCC", "/opt/nvcc")
        patch.setattr(gpu_build.shutil, "which", lambda name: None)
        assert "needs cmake, which was not found" in str(gpu_build.reason(rehearsal=False))
        patch.setattr(gpu_build.shutil, "which", lambda name: f"/usr/bin/{name}")
        patch.setattr(gpu_build, "NEEDED", "raise ImportError('Numba needs another NumPy')")
        assert "Numba and pybind11 (ImportError: Numba needs" in str(gpu_build.reason(False))
    row = gpu_build.build_row(rehearsal=True)
    assert row["status"] == "ok" and row["doctor"]["backends"]["emulated"] is None


def test_a_checkout_that_was_never_installed() -> None:
    hide = "import sys; sys.meta_path = [f for f in sys.meta_path if 'Editable' not in repr(f)]; "
    for first, works in (("import gpu_checkout", True), ("pass", False)):
        code = f"{hide}{first}; from pyinception.kernels import cuda_args; import pyinception"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
        if works:
            assert done.returncode == 0, done.stderr
        else:
            assert "No module named 'pyinception" in done.stderr


def test_one_process_under_a_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it told of counts, also where it is cut off; what it reports is a fault."""
    program = tmp_path / "tool.py"
    program.write_text(
        "import sys\n"
        "for name in sys.argv[1:]:\n"
        "    print('CHECKED', name, 'wrong' if 'lrn' in name else 'ok', {}, flush=True)\n"
        "print('========= ERROR SUMMARY: ' + ('1 error' if 'bad' in sys.argv else '0 errors'))\n"
    )
    command = [sys.executable, str(program)]
    row = gpu_sanitizer.sanitized(command, ["conv", "pool"])
    assert (row["status"], row["runs"], row["faults"], row["left_out"]) == ("ok", 2, {}, [])
    assert gpu_sanitizer.sanitized(command, ["conv", "lrn"])["faults"] == {"lrn": "wrong"}
    row = gpu_sanitizer.sanitized(command, ["bad"])
    assert row["status"] == "wrong" and "ERROR SUMMARY: 1 error" in row["faults"]["report"]
    row = gpu_sanitizer.sanitized(
        [sys.executable, "-c", "raise SystemExit('no such device')"], ["conv"]
    )
    assert row["status"] == "wrong" and row["faults"]["report"] == "no such device"
    assert gpu_sanitizer.sanitized([sys.executable, "-c", ""], ["conv"])["status"] == "failed"

    def cut_off(command: list[str], *, timeout: float, **how: Any) -> None:
        """As `subprocess.run` where the time is over, whenever that is on a busy machine."""
        told = b"".join(b"CHECKED %s ok {}\n" % name for name in (b"conv", b"slow"))
        raise subprocess.TimeoutExpired(command, timeout, output=told)

    monkeypatch.setattr(subprocess, "run", cut_off)
    row = gpu_sanitizer.sanitized(command, ["conv", "slow", "pool"], seconds=3)
    assert (row["status"], row["runs"], row["left_out"]) == ("ok", 2, ["pool"])


def test_problem_6_beside_numpy() -> None:
    row = gpu_ours.Ours(rehearsal=True).kernelbench_row("6")
    assert row["status"] == "ok" and 0 < row["error"]["max_rel"] < row["error_limit"], row
    assert np.isfinite(row["times"]["host_events"]["median_us"])
