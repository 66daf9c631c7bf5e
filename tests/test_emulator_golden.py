"""What GPUs answered to every PTX form, replayed on the emulator; and a rehearsal of recording it.

The folder golden/ holds one file per architecture that a GPU session has recorded, if any.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pyinception.bench.executors import EmulatedExecutor
from pyinception.emulator import compile as compiling

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_golden  # noqa: E402
import gpu_session  # noqa: E402

RECORDED = sorted((ROOT / "tests" / "golden").glob("*.npz"))
needs_compilers = pytest.mark.skipif(
    compiling.why_not() is not None, reason=str(compiling.why_not())
)


@needs_compilers
@pytest.mark.parametrize("path", RECORDED or [None], ids=lambda path: path and path.stem)
def test_the_emulator_answers_as_the_gpu_did(path: Path | None) -> None:
    if path is None:
        pytest.skip("no GPU session has recorded its answers in tests/golden yet")
    assert gpu_golden.replay(path, EmulatedExecutor()) == []


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole session of the one stage, with the emulator in the GPU's place."""
    folder = tmp_path_factory.mktemp("golden")
    arguments = ["--dry-run", "--stages", "golden", "--golden", str(folder)]
    assert gpu_session.main([*arguments, "--out", str(folder / "session.json")]) == 0
    return folder / "ptx_rehearsal.npz"


@needs_compilers
def test_the_rehearsal_has_answers_and_no_device_figure(rehearsed: Path) -> None:
    document = json.loads((rehearsed.parent / "session.json").read_text())
    (row,) = document["rows"]
    assert document["rehearsal"] and row["key"] == "golden/ptx" and row["status"] == "rehearsed"
    assert row["error"] == {"differences": []} and row["file"] == str(rehearsed)
    assert row["times"] is row["rates"] is row["host_times"] is row["card"] is None
    assert row["forms"] == len(gpu_golden.FORMS) >= 50
    names = [rehearsed.name, "session.json", "session.md"]
    assert sorted(p.name for p in rehearsed.parent.iterdir()) == names


@needs_compilers
def test_answers_do_not_depend_on_the_order_of_threads(rehearsed: Path) -> None:
    executor = EmulatedExecutor(order="greedy", seed=5)
    assert gpu_golden.replay(rehearsed, executor, rehearsal=True) == []


def tampered(path: Path, folder: Path, **changes) -> Path:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        key = name.replace("__", "/")
        change(arrays, key)
    target = folder / "tampered.npz"
    np.savez(target, **arrays)
    return target


def flip(at: int, bit: int):
    def change(arrays, key) -> None:
        arrays[key].view(np.uint32)[at] ^= np.uint32(1 << bit)

    return change


@needs_compilers
def test_a_tampered_file_is_caught(rehearsed: Path, tmp_path: Path) -> None:
    """Wrong by one bit: an exact answer, a sum of integers, a row, an approximation, an input."""
    path = tampered(
        rehearsed, tmp_path, pack_bf16__d=flip(3, 0), mma_m16n8k16_bf16__d=flip(9, 0),
        ldmatrix_x2_trans__d=flip(5, 17), cp_async_wanted__d=flip(0, 31),
        rsqrt_approx_f32__d=flip(5, 3), add_f32__d=flip(-1, 31),
    )  # fmt: skip
    found = gpu_golden.replay(path, EmulatedExecutor(), rehearsal=True)
    names = ["add_f32", "rsqrt_approx_f32", "pack_bf16", "mma_m16n8k16_bf16", "ldmatrix_x2_trans",
             "cp_async_wanted"]  # fmt: skip
    assert [text.partition(":")[0] for text in found] == names
    assert "1 of 1024 answers differ, the first at 3:" in found[2] and "on emulator" in found[2]
    with np.load(rehearsed) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["value f16x2 0/a"] = np.roll(arrays["value f16x2 0/a"], 1)
    np.savez(path, **arrays)
    found = gpu_golden.replay(path, EmulatedExecutor(), rehearsal=True)
    assert {text.partition(":")[0] for text in found} == {
        name for name, form in gpu_golden.FORMS.items() if form.operands == "f16x2"
    }


@needs_compilers
def test_what_is_no_record_of_a_gpu_is_refused(rehearsed: Path, tmp_path: Path) -> None:
    executor = EmulatedExecutor()
    with pytest.raises(gpu_golden.GoldenError, match="rehearsal True; expected 1, False"):
        gpu_golden.replay(rehearsed, executor)

    def other(arrays, key) -> None:
        arrays[key] = np.array("0123456789abcdef")

    def gone(arrays, key) -> None:
        del arrays[key]

    def pickled(arrays, key) -> None:
        arrays[key] = np.array([{}], object)

    for change, words in (
        ({"source": other}, "its kernels were others"),
        ({"max_f32__d": gone}, "max_f32/d is missing"),
        ({"format": pickled}, "not a record of answers"),
    ):
        with pytest.raises(gpu_golden.GoldenError, match=words):
            gpu_golden.replay(tampered(rehearsed, tmp_path, **change), executor, rehearsal=True)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(gpu_golden.GoldenError, match="not a record of answers"):
        gpu_golden.replay(tmp_path / "empty.npz", executor)


# ---- how answers are compared --------------------------------------------------------------------
def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32).view(np.uint32)


def test_nan_is_nan_only_where_its_payload_is_open() -> None:
    one, other = np.array([0x7FFFFFFF], np.uint32), np.array([0xFFC00001], np.uint32)
    given = (one, one, one)
    assert gpu_golden.close(gpu_golden.FORMS["add_f32"], given, one, other).all()
    assert not gpu_golden.close(gpu_golden.FORMS["larger_f32"], given, one, other).any()
    assert not gpu_golden.close(gpu_golden.FORMS["add_f32"], given, floats(0), floats(-0.0)).any()
    assert not gpu_golden.close(gpu_golden.FORMS["ex2_approx_f32"], given, one, floats(1)).any()


def test_approximations_have_the_bounds_that_they_state() -> None:
    form = gpu_golden.FORMS["rsqrt_approx_f32"]
    want = floats(1.0)
    for ulps, near in ((1, True), (8, False)):
        assert gpu_golden.close(form, (want,) * 3, want + np.uint32(ulps), want).all() == near


def test_sums_may_differ_by_the_cut_and_integers_not_at_all() -> None:
    form = gpu_golden.FORMS["mma_m16n8k16_f16"]
    given = gpu_golden.inputs(form)
    bound = gpu_golden.sum_bound(form, given)
    assert (bound[: 2 * 128] == 0).all() and (bound[2 * 128 : 5 * 128] > 0).all()
    assert bound[2 * 128 : 3 * 128].max() < 1e-4  # of sums of sixteen products of about one
