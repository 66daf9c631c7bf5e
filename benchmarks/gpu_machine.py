"""What a GPU session finds on its machine, and which code measures which row.

Works from a bare checkout, installed or not (`gpu_checkout`).
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_checkout  # noqa: F401
import gpu_interop
import gpu_probes as probes
from gpu_device import Cuda, CudaError
from gpu_timing import MODULES


@dataclass(frozen=True)
class Stage:
    """`tier` orders stages within a precision; `guess` is seconds per row before one was timed."""

    name: str
    tier: int
    guess: float
    needs: tuple[str, ...]
    mode: str | None = None
    train: bool = False


@dataclass
class Task:
    """One row to measure."""

    stage: Stage
    key: str
    case: dict[str, Any]
    order: tuple[int, ...]


@dataclass
class Machine:
    """What is here, looked for once; `reasons` says why something is not."""

    rehearsal: bool
    cuda: Cuda | None = None
    cudnn: Any = None
    rivals: Any = None
    golden: Any = None  # where the PTX forms run
    ours: Any = None
    source: Any = None  # what builds our kernels
    golden_folder: Path | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, Any] = field(default_factory=dict)

    def look(self, plans: int) -> None:
        try:
            import gpu_rivals  # torch first: it brings the CUDA libraries that it was built with

            self.libraries |= gpu_rivals.versions()
        except Exception as error:  # whatever a broken installation raises: its rows say so
            self.reasons["torch"] = f"torch cannot be imported: {error}"
        if self.rehearsal:
            self.reasons["cuda"] = "rehearsal on the CPU"
        else:
            try:
                self.cuda = Cuda()
            except CudaError as error:
                self.reasons["cuda"] = str(error)
        if "torch" not in self.reasons:
            if not self.rehearsal and self.cuda is None:
                self.reasons["torch"] = f"torch rows need a GPU: {self.reasons['cuda']}"
            elif not self.rehearsal and not gpu_rivals.torch.cuda.is_available():
                self.reasons["torch"] = "this torch sees no GPU (a CPU build, or another CUDA)"
            else:
                self.rivals = gpu_rivals
        self._look_for_cudnn(plans)
        self._look_for_golden()
        self._look_for_ours()
        try:
            reason = gpu_interop.why_not(self.rehearsal)
        except Exception as error:
            reason = str(error)
        if reason:
            self.reasons["interop"] = reason

    def _look_for_golden(self) -> None:
        """The driver and a compiler; in a rehearsal the emulator stands in for the driver."""
        try:
            from pyinception.bench import executors
            from pyinception.emulator import compile as compiling

            if self.rehearsal:
                reason = compiling.why_not()
                make: Callable[[], Any] = executors.EmulatedExecutor
            else:
                reason, make = compiling.cuda_reason(), executors.DriverExecutor
            self.golden = None if reason else make()
        except Exception as error:
            reason = str(error)
        if reason:
            self.reasons["golden"] = reason

    def _look_for_ours(self) -> None:
        if not self.rehearsal and self.cuda is None:
            self.reasons |= dict.fromkeys(("source", "ours"), self.reasons["cuda"])
            return
        try:
            import gpu_build

            self.source = gpu_build
            if reason := gpu_build.reason(self.rehearsal):
                self.source, self.reasons["source"] = None, reason
            import gpu_ours

            if reason := gpu_ours.reason(self.rehearsal):
                self.reasons["ours"] = f"our kernels: {reason}"
            else:
                self.ours = gpu_ours.Ours(self.rehearsal)
        except Exception as error:
            self.reasons.setdefault("source", f"our kernels cannot be imported: {error}")
            self.reasons["ours"] = f"our kernels cannot be imported: {error}"

    def _look_for_cudnn(self, plans: int) -> None:
        try:
            if self.cuda is None:
                raise CudaError(f"cuDNN needs a GPU: {self.reasons['cuda']}")
            from gpu_cudnn import Cudnn

            self.cudnn = Cudnn(self.cuda, plans=plans)
            self.libraries |= self.cudnn.versions()
        except Exception as error:
            self.reasons["cudnn"] = str(error)

    def missing(self, stage: Stage) -> str | None:
        here = {"cuda": self.cuda, "cudnn": self.cudnn, "torch": self.rivals}
        here |= {"golden": self.golden, "ours": self.ours, "source": self.source}
        here |= {"interop": "interop" not in self.reasons or None}
        for need in stage.needs:
            if here[need] is None:
                return self.reasons[need]
        return None

    def measure(self, task: Task) -> dict[str, Any]:
        """The fields of a row: status, error, times, sizes."""
        case = task.case
        if task.stage.name == "golden":
            return self._golden_row()
        if task.stage.name == "interop":
            return gpu_interop.row(case["what"], self.rehearsal)
        if task.stage.name == "bandwidth":
            return probes.bandwidth_row(_present(self.cuda), case["kind"], case["mib"])
        if task.stage.name == "launch_gap":
            return probes.launch_gap_row(_present(self.cuda), case["blocks"])
        if task.stage.name == "build":
            built: dict[str, Any] = self.source.build_row(self.rehearsal)
            return built
        if task.stage.name in ("check", "sanitizer", "kernelbench"):
            found: dict[str, Any] = getattr(self.ours, f"{task.stage.name}_row")(*case.values())
            return found
        N, precision = case["batch"], case["precision"]
        if task.stage.name in ("ours_net", "ours_train"):
            whole: dict[str, Any] = getattr(self.ours, f"{task.stage.name[5:]}_row")(N, precision)
            return whole
        if task.stage.name in ("ours_module", "fusion"):
            name = task.stage.name.removeprefix("ours_")
            part: dict[str, Any] = getattr(self.ours, f"{name}_row")(case["case"], N, precision)
            return part
        if task.stage.name == "cudnn":
            from gpu_modules import cudnn_row

            return cudnn_row(self.cudnn, MODULES[case["case"]], case["form"], N, precision)
        row: dict[str, Any] = self.rivals.torch_row(
            case["case"],
            N,
            precision,
            mode=task.stage.mode,
            train=task.stage.train,
            cuda=not self.rehearsal,
        )
        return row

    def release(self) -> None:
        """Give back device memory that nobody holds: a row's pools are no other row's."""
        gc.collect()
        if self.cuda is None:
            return
        with contextlib.suppress(Exception):  # after a fault; whether it was one is asked elsewhere
            if cupy := sys.modules.get("cupy"):
                cupy.get_default_memory_pool().free_all_blocks()
                cupy.get_default_pinned_memory_pool().free_all_blocks()
            if self.rivals is not None:
                self.rivals.torch.cuda.empty_cache()

    def _golden_row(self) -> dict[str, Any]:
        """Record the answers, then run them again: they must not depend on the moment."""
        import gpu_golden

        folder = self.golden_folder or Path(tempfile.mkdtemp(prefix="pyinception-golden-"))
        path, names = gpu_golden.record(self.golden, folder, rehearsal=self.rehearsal)
        differences = gpu_golden.replay(path, self.golden, rehearsal=self.rehearsal)
        row = {"forms": len(names), "file": str(path), "error": {"differences": differences}}
        return row | {"status": "wrong" if differences else "ok", "times": None, "rates": None}


def _present(cuda: Cuda | None) -> Cuda:
    if cuda is None:
        raise CudaError("no CUDA device")
    return cuda
