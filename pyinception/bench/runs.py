"""The runs: check every result against float64, then time all variants and rivals in turns."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyinception import config
from pyinception.backend import Array
from pyinception.bench import ours, problems
from pyinception.bench import shapes as catalogue
from pyinception.bench.problems import TimedSpec
from pyinception.bench.report import Report, environment
from pyinception.bench.rivals import Graph, graph_of, opened
from pyinception.bench.timing import (
    SETTLE_SECONDS,
    SPINNING_SECONDS,
    Call,
    Peak,
    Timing,
    copy_rate,
    disturbed,
    disturbed_note,
    interleave,
    once,
    unsteady_note,
)
from pyinception.session import MODES

Rivals = bool | tuple[str, ...]
Progress = Callable[[str], None] | None

_NOTES = [
    "ours: weights packed beforehand (pack us), launches recorded, as Session runs them; unfused: "
    "same tile, same algorithm; call us: the public function with packed weights",
    "rivals: convert us is what a caller with NHWC arrays pays on each call to reach the timed "
    "layout, first ms the way from weights to the first result; torch eager packs on each call; "
    "openvino.throughput has as many requests in flight as it asks for, its time is that of one",
    "GFLOP/s and the share of the peak count nominal FLOPs, padding included; inside counts only "
    "filter rows inside the image (others are skipped): what the FMA units really did, if direct",
    "MB is the least traffic of that way; error is max|y - float64| / max|float64|",
]


def run_reduce_conv(
    names: Iterable[str] | str = "all",
    *,
    shapes: Iterable[str] = (),
    batch: int = 1,
    threads: int = 1,
    rivals: Rivals = True,
    rounds: int = 15,
    algorithm: str | None = None,
    progress: Progress = None,
) -> Report:
    """The fused branch 1x1 -> RxR against the same two convolutions unfused and against rivals.

    Parameters
    ----------
    names : of `shapes.BRANCHES`, such as "3a/3x3"; a module's name means both of its branches.
    shapes : own shapes "N,H,W,C,Cr,K,R"; where they are given, "all" adds no named ones.
    batch : images, for named shapes.
    threads : of every competitor.
    rivals : True for torch and OpenVINO where installed, False, or some of `rivals.NAMES`.
    rounds : samples of each competitor, taken in turns.
    algorithm : the switch of that name; fused and unfused share it.
    progress : told each shape's name before it runs.

    Returns
    -------
    A `Report` with one row a shape.

    Raises
    ------
    ValueError
        For unknown names and malformed shapes.
    """
    specs: list[tuple[str, TimedSpec]] = [catalogue.own_shape(text) for text in shapes]
    if not specs or names != "all":
        chosen = catalogue.select(names, catalogue.BRANCHES, "run_reduce_conv")
        specs = [(name, catalogue.branch(name, batch)) for name in chosen] + specs
    run = _Run("reduce_conv", batch, threads, rivals, rounds, algorithm, progress)
    return run.over(specs)


def run_module(
    names: Iterable[str] | str = "all",
    *,
    batch: int = 1,
    threads: int = 1,
    rivals: Rivals = True,
    rounds: int = 15,
    algorithm: str | None = None,
    progress: Progress = None,
) -> Report:
    """GoogLeNet's modules: one call against seven kernels and a concatenation, and rivals.

    Parameters as in `run_reduce_conv`; ``names`` of `shapes.MODULES`, such as "3a".
    """
    chosen = catalogue.select(names, catalogue.MODULES, "run_module")
    run = _Run("module", batch, threads, rivals, rounds, algorithm, progress)
    return run.over((name, catalogue.module(name, batch)) for name in chosen)


def run_conv(
    names: Iterable[str] | str = "all",
    *,
    batch: int = 1,
    threads: int = 1,
    rivals: Rivals = True,
    rounds: int = 15,
    algorithm: str | None = None,
    progress: Progress = None,
) -> Report:
    """Single convolutions with bias and ReLU against rivals.

    Parameters as in `run_reduce_conv`; ``names`` of `shapes.CONVS`, such as "conv2" or
    "3a/pool_proj"; a module's name means all of its convolutions.
    """
    chosen = catalogue.select(names, catalogue.CONVS, "run_conv")
    run = _Run("conv", batch, threads, rivals, rounds, algorithm, progress)
    return run.over((name, catalogue.conv(name, batch)) for name in chosen)


def run_net(
    *,
    model: str = "googlenet",
    batch: int = 1,
    threads: int = 2,
    rivals: Rivals = True,
    rounds: int = 15,
    algorithm: str | None = None,
    dtype: str = "float32",
    mode: str = "auto",
    progress: Progress = None,
) -> Report:
    """A network, forward, through `Session`, against the same network in other libraries.

    Parameters as in `run_reduce_conv`; ``model`` is one of `net.SIDES`, ``rivals`` may name
    "torch.compile" too, which compiles for half a minute. The weights are ours in every library,
    batch norms folded; logits are compared with float64. ``dtype`` is "float32" or "bfloat16", of
    weights and maps on every side (sums are float32). ``mode`` is that of our `Session`.
    """
    from pyinception.bench.net import LIMITS, Net

    if dtype not in LIMITS:
        raise ValueError(f"bench: dtype is {dtype!r}, expected one of {', '.join(LIMITS)}")
    if mode not in MODES:
        raise ValueError(f"bench: mode is {mode!r}, expected one of {', '.join(MODES)}")
    run = _Run("net", batch, threads, rivals, rounds, algorithm, progress, dtype)
    return run.over_net(
        lambda batch, algorithm: Net(batch, algorithm, model, dtype, mode), batch, model
    )


@dataclass
class _Run:
    """One run: settings, the peak that is measured along, the rows so far."""

    kind: str
    batch: int
    threads: int
    rivals: Rivals
    rounds: int
    algorithm: str | None
    progress: Progress
    dtype: str = "float32"
    rows: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "rounds"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"bench: {name} is {value!r}, expected an integer of at least 1")
        self.algorithm = config.get("algorithm", self.algorithm)
        self.level = config.get("cpu_level")

    def over(self, specs: Iterable[tuple[str, TimedSpec]]) -> Report:
        self.peak = Peak(self.threads, self.level)
        with config.using(threads=self.threads), opened(self.threads, self.rivals) as found:
            competitors, self.left_out = found
            for name, spec in specs:
                self._tell(name)
                self.rows.append(self._row(name, spec, competitors))
        return self._report()

    def over_net(self, make_net: Any, batch: int, name: str) -> Report:
        self.peak = Peak(self.threads, self.level)
        rivals = opened(self.threads, self.rivals, self.dtype)
        with config.using(threads=self.threads), rivals as found:
            competitors, self.left_out = found
            self._tell(name)
            net = make_net(batch, self.algorithm)
            checked = net.check()
            cells = {"fused": {"bytes": net.bytes, "first_us": 1e6 * net.first} | checked}
            calls = {"fused": net.call}
            self._meet(competitors, net.graph, net.x, net.weights, net.judge, cells, calls)
            around = self._time(cells, calls, net.macs)
            row = {"name": name, "shape": list(net.x.shape), "kernel": net.kernel}
            row |= {"macs": net.macs, "macs_inside": net.macs_inside}
            row |= {"checked": len(net.expected)}
            row |= {"peak_gflops": around}
            self.rows.append(row | {"columns": cells})
        return self._report()

    def _tell(self, name: str) -> None:
        if self.progress is not None:
            self.progress(name)

    def _row(self, name: str, spec: TimedSpec, competitors: list[Any]) -> dict[str, Any]:
        problem = problems.make(name, spec)
        mine = ours.prepare(problem, str(self.algorithm), self.level, self.threads)
        cells: dict[str, dict[str, Any]] = {}
        calls: dict[str, Call] = {}
        for column, variant in mine.variants.items():
            variant.poison()
            variant.call()
            cells[column] = {"bytes": variant.bytes, **self._judge(problem.error(variant.output))}
            calls[column] = variant.call
        outputs = {column: variant.output.copy() for column, variant in mine.variants.items()}

        def judge(y: Array) -> dict[str, Any]:
            return self._judge(problem.error(y))

        graph, weights = graph_of(spec), list(problem.weights)
        self._meet(competitors, graph, problem.x, weights, judge, cells, calls)
        around = self._time(cells, calls, spec.macs)
        for column, variant in mine.variants.items():
            moved = not np.array_equal(variant.output, outputs[column])
            if moved and "failed" not in cells[column]:
                self._fail(cells[column], "the result changed while it was timed")
        pack = float(np.median([once(mine.pack) for _ in range(5)])) * 1e6
        row: dict[str, Any] = {"name": name, "shape": list(spec.x_shape), "kernel": mine.kernel}
        row |= {
            "macs": spec.macs,
            "macs_inside": problems.macs_inside(spec),
            "checked": len(problem.checked),
            "pack_us": pack,
        }
        row["peak_gflops"] = around
        if "unfused" in outputs:
            row["same_bits"] = bool(np.array_equal(outputs["fused"], outputs["unfused"]))
        return row | {"columns": cells}

    def _meet(
        self,
        competitors: list[Any],
        graph: Graph,
        x: Array,
        weights: Any,
        judge: Callable[[Array], dict[str, Any]],
        cells: dict[str, dict[str, Any]],
        calls: dict[str, Call],
    ) -> None:
        """Prepare every rival, check its first result, note conversion and first call."""
        for rival in competitors:
            opponent = rival.prepare(graph, x, weights)
            convert = float(np.median([once(opponent.convert) for _ in range(5)]))
            cells[rival.name] = {
                **judge(opponent.output()),
                "first_us": 1e6 * opponent.first,
                "convert_us": 1e6 * convert,
                "passes": opponent.passes,
            }
            calls[rival.name] = opponent.call
            self.versions[rival.name.partition(".")[0]] = rival.version

    @staticmethod
    def _judge(error: tuple[float, float]) -> dict[str, Any]:
        """A cell's errors; not a number or beyond the bound is a failure."""
        relative, of_bound = error
        if of_bound <= 1:
            return {"error": relative, "error_of_bound": of_bound}
        if np.isfinite(of_bound):
            return {"failed": f"error {relative:.2g} is {of_bound:.3g} times its bound"}
        return {"failed": "the result is not finite everywhere"}

    @staticmethod
    def _fail(cell: dict[str, Any], reason: str) -> None:
        for key in ("median_us", "p20_us", "p80_us", "samples", "gflops", "share", "ratio"):
            cell.pop(key, None)
        cell["failed"] = reason

    def _time(
        self, cells: Mapping[str, dict[str, Any]], calls: Mapping[str, Call], macs: int
    ) -> float:
        """Time what is right and fill the cells; returns the peak loop's median meanwhile."""
        right: dict[str, Call] = {n: call for n, call in calls.items() if "failed" not in cells[n]}
        # Ours among ourselves need no pause on one thread; whatever runs after a rival does (the
        # call after OpenVINO's took 10 % longer, warm caches or not).
        alone = self.threads == 1 and not set(right) - {"fused", "unfused", "call"}
        settle = 0.0 if alone else SETTLE_SECONDS
        spinning = SPINNING_SECONDS if self.threads > 1 else {}
        before = len(self.peak.rates)
        timings = interleave(
            right | {"peak": self.peak}, rounds=self.rounds, settle=settle, spinning=spinning
        )
        del timings["peak"]
        around = float(np.median(self.peak.rates[before:]))
        fused = timings.get("fused")
        for name, timing in timings.items():
            each = timing.over(cells[name].get("passes", 1))
            cells[name] |= self._numbers(each, macs)
            if fused is not None:
                cells[name]["ratio"] = each.median / fused.median
        return around

    @staticmethod
    def _numbers(timing: Timing, macs: int) -> dict[str, Any]:
        return {
            "median_us": 1e6 * timing.median,
            "p20_us": 1e6 * timing.p20,
            "p80_us": 1e6 * timing.p80,
            "samples": timing.count,
            "gflops": 2e-9 * macs / timing.median,
        }

    def _report(self) -> Report:
        """Shares come last: only now is the best peak of the run known."""
        for row in self.rows:
            for cell in row["columns"].values():
                if "gflops" in cell:
                    cell["share"] = cell["gflops"] / self.peak.best
                    cell["share_inside"] = cell["share"] * row["macs_inside"] / row["macs"]
        best = self.peak.best
        places = [
            row["name"]
            for row in self.rows
            if disturbed(row["columns"]["fused"], row["peak_gflops"], best)
        ]
        notes = [*_NOTES, *disturbed_note(places), *unsteady_note(self.rows)]
        if self.dtype != "float32":
            notes.append(f"{self.dtype}: weights and maps, on every side; the peak is float32's")
        about = environment(self.threads, self.level)
        about["versions"] |= self.versions
        settings = {
            "batch": self.batch,
            "rounds": self.rounds,
            "algorithm": self.algorithm,
            "dtype": self.dtype,
            "peak_gflops": self.peak.best,
            "peak_samples": len(self.peak.rates),
            "copy_gb_s": copy_rate(self.threads),
            "peak_method": self.peak.method,
        }
        return Report(self.kind, self.rows, about, settings, dict(self.left_out), notes)
