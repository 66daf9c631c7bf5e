"""Our kernels and their rivals on an NVIDIA GPU: resumable, best rows first, raw JSON after each.

    python benchmarks/gpu_session.py --budget-seconds 540      # run it again to go on
    python benchmarks/gpu_session.py --list                    # what would run, what is done
    python benchmarks/gpu_session.py --dry-run                 # rehearse on the CPU, no GPU needed

First the GPU's answers to every PTX form (golden, a minute), our kernels built, checked against the
reference and called from torch, CuPy and JAX (interop), then the machine's record, bandwidth and
launch gap, ours and the rivals' times. A stage whose library is missing is skipped with the reason.
A row whose result is wrong shows its error and no time. A row stands in the file from its begin on,
so that one that kills or hangs the process is known when the session starts again; see
docs/gpu_session.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_interop
import gpu_probes as probes
from gpu_device import CudaError
from gpu_machine import Machine, Stage, Task
from gpu_store import Store, StoreError
from gpu_table import tables
from gpu_timing import MODULES, RowTooLong, with_limit

FORMS = ("stacked", "inplace", "chain")  # of gpu_modules, named here so that --list stays light
CASES = ("net", *MODULES)
PRECISIONS = ("bf16", "tf32", "fp32")
FP32_STAGES = ("cudnn", "torch_eager", "ours_module", "fusion")
RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parents[1]
ROW_SECONDS = 300.0  # longest time for a row whose stage does not expect more
REHEARSED_ROW_SECONDS = 3600.0  # the emulator translates a kernel when it is met first
BUDGET_SECONDS = 1500.0
HANGING_SECONDS = 30.0  # past its limit a row that is in no Python code is taken for hanging

STAGES = {
    stage.name: stage
    for stage in (
        Stage("golden", -4, 20, ("golden",)),
        Stage("build", -3, 300, ("source",)),
        Stage("check", -2, 4, ("ours",)),
        Stage("interop", -1, 30, ("ours", "interop")),
        Stage("bandwidth", 0, 3, ("cuda",)),
        Stage("launch_gap", 0, 3, ("cuda",)),
        Stage("ours_net", 1, 20, ("ours",)),
        Stage("ours_module", 1, 4, ("ours",)),
        Stage("cudnn", 1, 10, ("cuda", "cudnn")),
        Stage("torch_eager", 1, 8, ("torch",)),
        Stage("torch_compile", 1, 40, ("torch",), "default"),
        Stage("ours_train", 2, 30, ("ours",)),
        Stage("kernelbench", 2, 40, ("ours",)),
        Stage("fusion", 2, 8, ("ours",)),
        Stage("torch_train_eager", 2, 15, ("torch",), None, True),
        Stage("torch_train_compile", 2, 60, ("torch",), "default", True),
        Stage("sanitizer", 3, 250, ("ours",)),
        Stage("torch_max_autotune", 3, 120, ("torch",), "max_autotune"),
        Stage("torch_train_max_autotune", 3, 150, ("torch",), "max_autotune", True),
    )
}


def plan(
    stages: list[str], cases: list[str], batches: list[int], precisions: list[str]
) -> list[Task]:
    """Every row asked for, in the order: precision, tier, batch, stage, case."""
    tasks = []
    for place, name in enumerate(stages):
        stage = STAGES[name]
        for serial, case in enumerate(_cases(stage, cases, batches, precisions)):
            key = "/".join([name, *(f"{letter}{value}" for letter, value in _labels(case))])
            # What has no precision comes first, but for long rows that others do not rest on.
            first = (
                precisions.index(case["precision"]) if "precision" in case else -(stage.tier < 1)
            )
            batch = batches.index(case["batch"]) if "batch" in case else -1
            tasks.append(Task(stage, key, case, (first, stage.tier, batch, place, serial)))
    return sorted(tasks, key=lambda task: task.order)


def _labels(case: dict[str, Any]) -> list[tuple[str, Any]]:
    letters = {"batch": "b", "mib": "mib", "blocks": "blocks"}
    return [(letters.get(name, ""), value) for name, value in case.items()]


def _cases(
    stage: Stage, cases: list[str], batches: list[int], precisions: list[str]
) -> Iterator[dict[str, Any]]:
    if stage.name == "golden":
        yield {"what": "ptx"}
    elif stage.name == "interop":
        yield from ({"what": what} for what in gpu_interop.WHAT)
    elif stage.name == "bandwidth":
        for kind in ("read", "copy"):
            for mib in probes.BANDWIDTH_MIB:
                yield {"kind": kind, "mib": mib}
        yield {"kind": "memcpy", "mib": max(probes.BANDWIDTH_MIB)}
    elif stage.name == "build":
        yield {"what": "kernels"}
    elif stage.name == "check":
        from gpu_checks import CHECKS

        for op, direction, rung in CHECKS:
            yield {"op": op, "direction": direction, "rung": rung}
    elif stage.name == "sanitizer":
        for tool in ("memcheck", "racecheck"):
            yield {"tool": tool}
    elif stage.name == "kernelbench":
        for number in ("6", "7"):
            yield {"problem": number}
    elif stage.name == "launch_gap":
        for blocks in (1, 128, 1024):
            yield {"blocks": blocks}
    else:
        for precision in precisions:
            few = precision == "fp32"  # a math problem on ordinary cores: cheap rows only
            if few and stage.name not in FP32_STAGES:
                continue
            for batch in ([32] if 32 in batches else batches[:1]) if few else batches:
                for case in cases:
                    if stage.name in ("ours_net", "ours_train"):
                        if case == cases[0]:
                            yield {"case": "net", "batch": batch, "precision": precision}
                    elif stage.name in ("ours_module", "fusion"):
                        if case != "net":
                            yield {"case": case, "batch": batch, "precision": precision}
                    elif stage.name != "cudnn":
                        yield {"case": case, "batch": batch, "precision": precision}
                    elif case != "net":
                        for form in FORMS[:1] if few else FORMS:
                            names = {"form": form, "case": case}
                            yield names | {"batch": batch, "precision": precision}


def run(options: argparse.Namespace) -> int:
    """Carry out a session; returns the exit status."""
    started = time.monotonic()
    store = Store(options.out, rehearsal=options.dry_run)
    machine = Machine(rehearsal=options.dry_run)
    machine.golden_folder = options.golden
    machine.look(options.plans)
    store.use(probes.environment(machine.cuda, machine.libraries, options.commit))
    tasks = plan(options.stages, options.cases, options.batches, options.precisions)

    def done(task: Task) -> bool:
        return store.finished(task.key, of_this_commit="ours" in task.stage.needs)

    if options.list:
        for task in tasks:
            reason = machine.missing(task.stage)
            state = "done" if done(task) else "skipped" if reason else "pending"
            _say(f"{task.key:60} {state}{f': {reason}' if reason and state != 'done' else ''}")
        return 0
    for name in options.stages:
        reason = machine.missing(STAGES[name])
        if reason:
            row = {"key": f"{name}/all", "stage": name, "status": "skipped", "reason": reason}
            store.put(row)
            _say(f"{name}: skipped: {reason}")
    todo = [task for task in tasks if machine.missing(task.stage) is None]
    if not options.rerun:
        todo = [task for task in todo if not done(task)]
    todo = todo[: options.limit] if options.limit is not None else todo
    if options.rerun:
        store.reopen(task.key for task in todo)
    monitor = probes.Monitor() if machine.cuda else None
    passed = 0
    for task in todo:
        left = options.budget_seconds - (time.monotonic() - started)
        if left < (store.slowest(task.stage.name) or task.stage.guess):
            passed += 1  # a shorter row further down may still fit
            continue
        whole = options.row_seconds or max(ROW_SECONDS, 2 * task.stage.guess)
        limit = min(whole, left)
        before = store.begin({"key": task.key, "stage": task.stage.name, "case": task.case})
        with _restarted_after(limit + HANGING_SECONDS, options, started):
            row = _row(machine, task, limit, monitor)
        if limit < whole and str(row.get("reason")).startswith(RowTooLong.__name__):
            store.take_back(task.key, before)
            passed += 1  # the budget cut it off, which says nothing against the row
            continue
        row = store.finish(row)
        _say(_line(row))
        if row.get("restart"):
            _restart(options, started, "a fresh process takes the library that was just built")
        if row["status"] == "failed" and machine.cuda is not None:
            try:
                machine.cuda.synchronize()
            except CudaError as error:
                _restart(options, started, f"the CUDA context is lost ({error})")
    store.document["stopped"] = f"budget: {passed} rows left" if passed else None
    store.save()
    rows = [row for row in store.document["rows"] if row["environment"] == store.environment_id]
    options.out.with_suffix(".md").write_text(tables(rows), encoding="utf-8")
    left_over = f"budget spent, {passed} rows left, run again to go on"
    _say(f"{left_over if passed else 'all rows asked for are finished'}: {options.out}")
    return 0


def _restart(options: argparse.Namespace, started: float, why: str) -> None:
    """Go on in a fresh process, with the budget's rest; what is done stands in the file."""
    _say(f"{why}: starting again")
    left = max(options.budget_seconds - (time.monotonic() - started), 1.0)
    again = [argument for argument in sys.argv if argument != "--rerun"]
    os.execv(sys.executable, [sys.executable, *again, "--budget-seconds", f"{left:.0f}"])


@contextmanager
def _restarted_after(seconds: float, options: argparse.Namespace, started: float) -> Iterator[None]:
    """Start again where a row does not end: a kernel that hangs is waited for beyond signals."""
    timer = threading.Timer(seconds, _restart, (options, started, "a row hangs"))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _row(
    machine: Machine, task: Task, seconds: float, monitor: probes.Monitor | None
) -> dict[str, Any]:
    start = time.monotonic()
    row: dict[str, Any] = {"key": task.key, "stage": task.stage.name, "case": task.case}
    try:
        row |= with_limit(seconds, lambda: machine.measure(task))
    except (Exception, RowTooLong) as error:  # a rival may fail in any way: the row says how
        reason = f"{type(error).__name__}: {str(error)[:600]}"
        row |= {"status": "failed", "reason": reason, "times": None}
    machine.release()
    row["seconds"] = time.monotonic() - start
    row["card"] = monitor.read() if monitor else None
    if machine.rehearsal:  # a host clock is not a device figure: it stands under another name
        status = "rehearsed" if row["status"] == "ok" else row["status"]
        host = row.get("times")
        row |= {"rehearsal": True, "status": status, "host_times": host, "times": None}
        row["rates"] = None
    return row


def _line(row: dict[str, Any]) -> str:
    times = row.get("times") or row.get("host_times") or {}
    shown = [
        f"{mode} {entry['median_us']:.2f} us"
        for mode, entry in times.items()
        if entry.get("median_us") is not None
    ]
    if row.get("predicted"):
        shown.append(f"predicted {row['predicted']['us']:.2f} us")
    error = row.get("error") or {}
    worst = error.get("max_rel") if error.get("max_rel") is not None else error.get("l2_rel")
    tail = row.get("reason") or ", ".join(shown)
    size = f" error {worst:.1e}" if isinstance(worst, float) else ""
    return f"{row['key']:60} {row['status']}{size} {tail} [{row['seconds']:.1f} s]"


def _say(text: str) -> None:
    print(text, flush=True)


def _words(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        words = list(known) if text == "all" else [word for word in text.split(",") if word]
        wrong = [word for word in words if word not in known]
        if wrong or not words:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a list of {', '.join(known)}")
        return words

    return parse


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected positive integers with commas")
    return sizes


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--stages", type=_words(tuple(STAGES)), default=list(STAGES), help="comma list, in order")
    add("--cases", type=_words(CASES), default=None, help="net and modules; 'all'")
    add("--batches", type=_sizes, default=None, help="default 128,32,1,256 (rehearsal: 1)")
    add("--precisions", type=_words(PRECISIONS), default=list(PRECISIONS))
    add("--budget-seconds", type=float, default=None, help="begin no row that would not fit [1500]")
    add("--row-seconds", type=float, default=None, help="longest time for one row [300, or more]")
    add("--plans", type=int, default=12, help="cuDNN plans timed per convolution")
    add("--limit", type=int, default=None, help="at most this many rows")
    add("--rerun", action="store_true", help="measure finished rows again")
    add("--list", action="store_true", help="print the rows and their state, measure nothing")
    add("--dry-run", action="store_true", help="rehearse on the CPU: emulator, host clock")
    add("--commit", default=None, help="commit to record where there is no git")
    add("--golden", type=Path, default=None, help="folder of ptx_<sm>.npz [tests/golden]")
    add("--out", type=Path, default=None, help="the JSON file")
    options = parser.parse_args(arguments)
    options.cases = options.cases or (["5a"] if options.dry_run else list(CASES))
    options.batches = options.batches or ([1] if options.dry_run else [128, 32, 1, 256])
    if options.dry_run:
        options.row_seconds = options.row_seconds or REHEARSED_ROW_SECONDS
        options.budget_seconds = options.budget_seconds or float("inf")
    else:  # a rehearsal's answers go to a temporary folder
        options.golden = options.golden or ROOT / "tests" / "golden"
        options.budget_seconds = options.budget_seconds or BUDGET_SECONDS
    name = "gpu_rehearsal.json" if options.dry_run else "gpu_session.json"
    options.out = options.out or RESULTS / name
    return options


def main(arguments: list[str] | None = None) -> int:
    try:
        return run(parse(arguments))
    except StoreError as error:
        print(f"gpu_session: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
