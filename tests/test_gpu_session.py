"""benchmarks/gpu_session.py without a GPU: the list, a rehearsal, resume, budget, damaged files."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_session.py"
sys.path.insert(0, str(BENCHMARKS))

import gpu_device  # noqa: E402
import gpu_session  # noqa: E402
import gpu_store  # noqa: E402
import gpu_table  # noqa: E402
import gpu_timing as timing  # noqa: E402


def session(*arguments, timeout=240):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_list_runs_nothing(tmp_path):
    out = tmp_path / "s.json"
    done = session("--list", "--out", out, "--batches", "32", "--cases", "3a,net")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    keys = [line.split()[0] for line in lines]
    assert len(keys) == len(set(keys))
    assert "cudnn/stacked/3a/b32/bf16" in keys and "torch_max_autotune/net/b32/tf32" in keys
    assert "cudnn/stacked/net/b32/bf16" not in keys
    assert keys[:3] == ["golden/ptx", "build/kernels", "check/conv/fprop/mma"]
    assert keys.index("check/dropout/dgrad/direct") < keys.index("bandwidth/read/mib1")
    assert "ours_net/net/b32/bf16" in keys and "fusion/3a/b32/bf16" in keys
    assert keys.index("interop/torch") < keys.index("bandwidth/read/mib1")
    assert "torch_compile/3a/b32/fp32" not in keys and "torch_eager/3a/b32/fp32" in keys
    assert not out.exists()


def test_without_a_gpu_every_stage_is_skipped_with_a_reason(tmp_path):
    try:
        gpu_device.Cuda()
    except gpu_device.CudaError:
        pass
    else:
        pytest.skip("this machine has a GPU")
    out = tmp_path / "s.json"
    done = session("--out", out)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert {row["key"] for row in rows} == {f"{name}/all" for name in gpu_session.STAGES}
    assert all(row["status"] == "skipped" and row["reason"] for row in rows)
    assert not any(row.get("times") for row in rows)


def test_calls_from_frameworks_are_rehearsed_on_the_cpu(tmp_path):
    """Bits and gradients from PyTorch and JAX; what needs a GPU is skipped in words."""
    out = tmp_path / "r.json"
    done = session("--dry-run", "--stages", "interop", "--out", out)
    assert done.returncode == 0, done.stderr
    rows = {row["key"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["interop/cupy"]["status"] == "skipped" and rows["interop/cupy"]["reason"]
    for what in ("torch", "jax"):
        row = rows[f"interop/{what}"]
        if row["status"] == "skipped":
            assert "not installed" in row["reason"]
            continue
        assert row["status"] == "rehearsed" and row["times"] is None, row
        assert len(row["error"]) == 6 and not any(row["error"].values())


def test_rehearsal_runs_once_and_resumes(tmp_path):
    pytest.importorskip("torch", reason="the rehearsal runs torch rows on the CPU")
    out = tmp_path / "r.json"
    arguments = ("--dry-run", "--stages", "cudnn,torch_eager,torch_train_eager")
    arguments += ("--precisions", "tf32", "--out", out)
    first = session(*arguments)
    assert first.returncode == 0, first.stderr
    document = json.loads(out.read_text())
    rows = {row["key"]: row for row in document["rows"]}
    assert document["rehearsal"] is True
    assert rows["cudnn/all"]["status"] == "skipped" and rows["cudnn/all"]["reason"]
    keys = ["torch_eager/5a/b1/tf32", "torch_train_eager/5a/b1/tf32"]
    for key in keys:
        row = rows[key]
        assert row["status"] == "rehearsed" and row["rehearsal"], row
        assert row["times"] is None and row["rates"] is None, "no device figure from a host clock"
        assert row["clock"] == "host clock" and row["host_times"]["host_warm"]["samples"] >= 3
        assert 0 < row["error"]["l2_rel"] <= row["error_limit"]
    second = session(*arguments)
    again = {row["key"]: row for row in json.loads(out.read_text())["rows"]}
    assert second.returncode == 0 and not any(key in second.stdout for key in keys)
    assert [again[key] for key in keys] == [rows[key] for key in keys]
    mixed = session("--stages", "bandwidth", "--out", out)
    assert mixed.returncode == 2 and "rehearsal" in mixed.stderr
    assert json.loads(out.read_text())["rehearsal"] is True


def test_the_net_trains_and_infers_in_the_rehearsal():
    torch = pytest.importorskip("torch", reason="the model is torch's")
    import gpu_rivals

    net = gpu_rivals.GoogLeNet(heads=False)
    assert sum(p.numel() for p in net.parameters()) == timing.NET_PARAMETERS
    assert sum(p.numel() for p in gpu_rivals.GoogLeNet(heads=True).parameters()) == 13_378_280
    before = torch.get_float32_matmul_precision()
    for precision, train in (("bf16", False), ("fp32", True)):
        row = gpu_rivals.torch_row("net", 1, precision, mode=None, train=train, cuda=False)
        assert row["status"] == "ok", row["error"]
        assert row["error"]["l2_rel"] > 0 and row["flops"] >= 2 * timing.NET_MACS
    assert torch.get_float32_matmul_precision() == before


class FakeMachine:
    """A machine whose rows are made here; counts what is measured."""

    def __init__(self, rehearsal):
        self.rehearsal, self.cuda, self.libraries, self.measured = rehearsal, None, {}, []

    def look(self, plans):
        pass

    def missing(self, stage):
        return None if stage.name == "torch_eager" else "not here"

    def release(self):
        pass

    def measure(self, task):
        self.measured.append(task.key)
        if "3b" in task.key:
            raise RuntimeError("this one breaks")
        if "4a" in task.key:
            try:
                time.sleep(30)
            except Exception:  # what a row's own retries do must not swallow the limit
                return {"status": "ok", "times": {}}
        return {"status": "ok", "times": {"host_warm": {"median_us": 1.0}}, "rates": {}}


@pytest.fixture
def fake(monkeypatch):
    machines = []

    def make(rehearsal):
        machines.append(FakeMachine(rehearsal))
        return machines[-1]

    monkeypatch.setattr(gpu_session, "Machine", make)
    return machines


@pytest.fixture
def still(monkeypatch):
    """The session's own clock stands: a busy machine uses up no budget."""
    monkeypatch.setattr(gpu_session, "time", SimpleNamespace(monotonic=lambda: 0.0))


def options(out, *more):
    return [
        "--dry-run",
        "--stages",
        "torch_eager",
        "--precisions",
        "tf32",
        "--out",
        str(out),
        *more,
    ]


def test_failed_rows_are_tried_twice_and_a_long_one_is_stopped(tmp_path, fake):
    out = tmp_path / "s.json"
    arguments = options(out, "--cases", "3a,3b,4a", "--row-seconds", "0.2")
    for attempt, left in ((1, 3), (2, 2), (3, 0)):
        assert gpu_session.main(arguments) == 0
        assert len(fake[-1].measured) == left, attempt
    rows = {row["key"]: row for row in json.loads(out.read_text())["rows"]}
    assert "RuntimeError: this one breaks" in rows["torch_eager/3b/b1/tf32"]["reason"]
    assert "RowTooLong" in rows["torch_eager/4a/b1/tf32"]["reason"]
    assert rows["torch_eager/4a/b1/tf32"]["attempts"] == 2
    assert gpu_session.main([*arguments, "--rerun", "--limit", "1"]) == 0
    assert fake[-1].measured == ["torch_eager/3a/b1/tf32"]


def test_budget_stops_before_a_row_that_would_not_fit(tmp_path, fake, still, capsys):
    out = tmp_path / "s.json"
    assert gpu_session.main(options(out, "--cases", "3a,5a", "--budget-seconds", "1")) == 0
    assert fake[-1].measured == [] and "2 rows left" in capsys.readouterr().out
    assert json.loads(out.read_text())["stopped"] == "budget: 2 rows left"
    assert gpu_session.main(options(out, "--cases", "3a,5a")) == 0
    assert len(fake[-1].measured) == 2
    assert json.loads(out.read_text())["stopped"] is None


def test_a_row_cut_off_by_the_budget_is_not_held_against_it(tmp_path, fake, still, monkeypatch):
    out = tmp_path / "s.json"
    eager = gpu_session.STAGES["torch_eager"]
    quick = {"torch_eager": type(eager)("torch_eager", 1, 0.1, ("torch",))}
    monkeypatch.setattr(gpu_session, "STAGES", quick)
    assert gpu_session.main(options(out, "--cases", "4a", "--budget-seconds", "1")) == 0
    assert fake[-1].measured == ["torch_eager/4a/b1/tf32"]
    document = json.loads(out.read_text())
    assert document["rows"] == [] and document["stopped"] == "budget: 1 rows left"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": 1, "rows": [', "not valid JSON"),
        ("[]", "not a GPU session"),
        ('{"format": 99}', "format 1"),
        ('{"format": 1, "rehearsal": true, "environments": {}, "rows": [7]}', "damaged"),
        ('{"format": 1, "rehearsal": false, "environments": {}, "rows": []}', "never share a file"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_kept(tmp_path, fake, capsys, text, words):
    out = tmp_path / "s.json"
    out.write_text(text)
    assert gpu_session.main(options(out)) == 2
    message = capsys.readouterr().err
    assert words in message and str(out) in message and "--out" in message
    assert out.read_text() == text and fake == []


def test_a_row_that_ends_the_process_is_known_afterwards(tmp_path, fake, monkeypatch):
    """It stands in the file while it is measured, and is not begun a third time."""
    out = tmp_path / "s.json"

    class Killed(BaseException):
        pass

    def dies(self, task):
        (row,) = json.loads(out.read_text())["rows"]
        assert row["status"] == "failed" and "the process ended" in row["reason"]
        raise Killed

    arguments = options(out, "--cases", "3a")
    with monkeypatch.context() as patch:
        patch.setattr(FakeMachine, "measure", dies)
        for _ in range(2):
            with pytest.raises(Killed):
                gpu_session.main(arguments)
    assert gpu_session.main(arguments) == 0 and fake[-1].measured == []
    (row,) = json.loads(out.read_text())["rows"]
    assert row["attempts"] == 2
    assert gpu_session.main([*arguments, "--rerun"]) == 0  # asked for by name, it is tried
    (row,) = json.loads(out.read_text())["rows"]
    assert row["status"] == "rehearsed" and row["attempts"] == 1


class Again(Exception):
    """What stands for the fresh process."""


@pytest.fixture
def again(monkeypatch):
    """The command lines of fresh processes."""
    lines = []

    def execv(program, arguments):
        lines.append(arguments)
        raise Again

    monkeypatch.setattr(gpu_session.os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["gpu_session.py", "--dry-run", "--rerun"])
    return lines


def test_a_lost_context_is_left_for_a_fresh_process(tmp_path, fake, still, again, monkeypatch):
    class Lost:
        def synchronize(self):
            raise gpu_device.CudaError("cudaStreamSynchronize: error 700")

    monkeypatch.setattr(FakeMachine, "look", lambda self, plans: setattr(self, "cuda", Lost()))
    monkeypatch.setattr(gpu_session.probes, "environment", lambda *_: {"fingerprint": {}})
    monkeypatch.setattr(gpu_session.probes, "Monitor", lambda: None)
    out = tmp_path / "s.json"
    with pytest.raises(Again):
        gpu_session.main(options(out, "--cases", "3b,3a", "--rerun", "--budget-seconds", "100"))
    (line,) = again
    assert "--rerun" not in line and line[-2:] == ["--budget-seconds", "100"]
    assert fake[-1].measured == ["torch_eager/3b/b1/tf32"]
    assert json.loads(out.read_text())["rows"][0]["reason"] == "RuntimeError: this one breaks"


def test_a_row_that_hangs_is_left_for_a_fresh_process(tmp_path, fake, again, monkeypatch):
    """The limit's signal does not end it, as in a call that waits for the device."""

    def hangs(self, task):
        try:
            time.sleep(30)
        except timing.RowTooLong:
            while not again:
                time.sleep(0.01)
        return {"status": "ok", "times": {}}

    monkeypatch.setattr(FakeMachine, "measure", hangs)
    monkeypatch.setattr(gpu_session, "HANGING_SECONDS", 0.1)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # `Again`, in the timer
    gpu_session.main(options(tmp_path / "s.json", "--cases", "3a", "--row-seconds", "0.1"))
    assert len(again) == 1 and again[0][1:3] == ["gpu_session.py", "--dry-run"]


def test_the_table_beside_the_file(tmp_path, fake):
    """Least time of each side; no time of a wrong row, none of a rehearsal, predictions apart."""
    place = {"batch": 128, "precision": "bf16"}

    def row(stage, us=None, status="ok", **more):
        times = {"graph_warm": {"median_us": us}} if us else None
        return {"stage": stage, "status": status, "times": times, "case": {"case": "3a", **place},
                **more}  # fmt: skip

    text = gpu_table.tables(
        [
            row("ours_module", 50.0, predicted={"us": 40.0}),
            row("cudnn", 90.0), row("cudnn", 75.0), row("cudnn", 10.0, status="wrong"),
            row("torch_compile", 80.0),
            row("ours_train") | {"times": {"step_warm": {"median_us": 100.0}}},
            {"stage": "golden", "status": "failed", "case": {"what": "ptx"}},
        ]
    )  # fmt: skip
    assert "| 3a | 128 | bf16 | forward | 50.0 | 40.0 | 75.0 cuDNN | 1.50 |" in text
    assert "| 3a | 128 | bf16 | training | 100.0 | - | - | - |" in text
    assert "| cudnn | 2 ok, 1 wrong |" in text and "| golden | 1 failed |" in text
    assert gpu_session.main(options(tmp_path / "s.json", "--cases", "3a")) == 0
    assert "| torch_eager | 1 rehearsed |" in (tmp_path / "s.md").read_text()


def test_long_rows_that_nothing_rests_on_stand_behind_the_first_figures():
    keys = [task.key for task in gpu_session.plan(list(gpu_session.STAGES), ["net", "3a"], [8],
                                                  ["bf16", "tf32"])]  # fmt: skip
    places = [keys.index(key) for key in (
        "golden/ptx", "build/kernels", "check/conv/fprop/mma", "bandwidth/read/mib1",
        "ours_net/net/b8/bf16", "torch_compile/3a/b8/bf16", "kernelbench/6", "fusion/3a/b8/bf16",
        "sanitizer/memcheck", "torch_max_autotune/net/b8/bf16", "ours_net/net/b8/tf32",
    )]  # fmt: skip
    assert places == sorted(places)


def test_another_machine_does_not_reuse_rows(tmp_path):
    store = gpu_store.Store(tmp_path / "s.json", rehearsal=False)
    store.use({"fingerprint": {"device": "one"}, "commit": "a"})
    store.put({"key": "k", "stage": "s", "status": "ok", "seconds": 2.0, "error": float("nan")})
    again = gpu_store.Store(tmp_path / "s.json", rehearsal=False)
    again.use({"fingerprint": {"device": "one"}, "commit": "b"})
    assert again.finished("k") and again.slowest("s") == 2.0 and again.find("k")["error"] == "nan"
    assert not again.finished("k", of_this_commit=True)  # of kernels that have changed since
    again.use({"fingerprint": {"device": "two"}, "commit": "b"})
    assert not again.finished("k") and again.slowest("s") == 0
    again.put({"key": "k", "stage": "s", "status": "ok"})
    assert [row["environment"] for row in again.document["rows"]].count(again.environment_id) == 1
    assert len(again.document["rows"]) == 2 and list(tmp_path.iterdir()) == [tmp_path / "s.json"]


@pytest.mark.parametrize("arguments", [["--stages", "nope"], ["--batches", "0"], ["--cases", "6z"]])
def test_bad_arguments_name_what_is_expected(arguments, capsys):
    with pytest.raises(SystemExit):
        gpu_session.parse(arguments)
    assert "expected" in capsys.readouterr().err
