"""PyTorch as the rival: GoogLeNet's nine modules and the whole net, eager and compiled.

channels_last throughout. The net is the paper's: real 5x5 branches, LRN, pools that round up
(Caffe's rule), auxiliary heads in training (weight 0.3), dropout left out of the timed work.
On a GPU the clock is CUDA events and CUDA-graph replay; on a CPU the same code path runs with the
host's clock, for rehearsal only. Imports torch: import this module lazily.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import gpu_timing as timing
import numpy as np
import torch
import torch.nn.functional as F
from gpu_timing import MODULES, Module
from torch import Tensor, nn

HEAD_MACS = 2 * (128 * 16 + 1024) * 1024 + 16 * 128 * (512 + 528) + 2 * 1024 * (1000 - 1024)
CHUNK = 32  # images per step of the float64 reference
MOST_INPUTS = 64

COMPILE_MODES = {"default": "default", "max_autotune": "max-autotune-no-cudagraphs"}


class ConvRelu(nn.Conv2d):
    """relu(conv(x) + b)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Inception(nn.Module):
    """[1x1 | 1x1 -> 3x3 | 1x1 -> 5x5 | max pool -> 1x1], concatenated along channels."""

    def __init__(self, m: Module):
        super().__init__()
        layers = {name: ConvRelu(C, K, R, padding=R // 2) for name, (C, K, R) in m.convs().items()}
        self.c1, self.r3, self.c3 = layers["c1"], layers["r3"], layers["c3"]
        self.r5, self.c5, self.proj = layers["r5"], layers["c5"], layers["proj"]

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 3, 1, 1)
        branches = (self.c1(x), self.c3(self.r3(x)), self.c5(self.r5(x)), self.proj(pooled))
        return torch.cat(branches, 1)


class Head(nn.Module):
    """Auxiliary classifier: 5x5/3 average pool, 1x1 to 128, 1024, 1000."""

    def __init__(self, C: int):
        super().__init__()
        self.conv, self.fc1 = ConvRelu(C, 128, 1), nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.avg_pool2d(x, 5, 3))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def lrn(x: Tensor) -> Tensor:
    if x.device.type == "cpu" and x.dtype == torch.bfloat16:  # torch has no bf16 avg_pool3d there
        return lrn(x.float()).to(x.dtype)
    return F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)


def pool_up(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


class GoogLeNet(nn.Module):
    """(N,3,224,224) -> logits (N,1000); with `heads`, (logits, aux1, aux2)."""

    def __init__(self, *, heads: bool):
        super().__init__()
        self.conv1 = ConvRelu(3, 64, 7, stride=2, padding=3)
        self.conv2_reduce, self.conv2 = ConvRelu(64, 64, 1), ConvRelu(64, 192, 3, padding=1)
        self.inception = nn.ModuleDict({name: Inception(m) for name, m in MODULES.items()})
        self.heads = nn.ModuleDict({"4a": Head(512), "4d": Head(528)} if heads else {})
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = lrn(pool_up(self.conv1(x)))
        x = pool_up(lrn(self.conv2(self.conv2_reduce(x))))
        auxiliary = []
        for name, module in self.inception.items():
            x = module(x)
            if name in self.heads:
                auxiliary.append(self.heads[name](x))
            if name in ("3b", "4e"):
                x = pool_up(x)
        logits = self.fc(F.avg_pool2d(x, 7, 1).flatten(1))
        return (logits, *auxiliary) if auxiliary else logits


def build(case: str, *, train: bool) -> nn.Module:
    """A He-initialised model in float32, the same for every precision and mode."""
    torch.manual_seed(0)
    model = GoogLeNet(heads=train) if case == "net" else Inception(MODULES[case])
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.normal_(layer.bias, std=0.1)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextlib.contextmanager
def math_mode(precision: str) -> Iterator[None]:
    """TF32 on for "tf32" alone, cuDNN's own search on (the rival at its best), restored after."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    cudnn.allow_tf32, cudnn.benchmark = precision == "tf32", True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def versions() -> dict[str, Any]:
    record: dict[str, Any] = {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
    with contextlib.suppress(RuntimeError):  # a mismatched libcudnn raises here, not at import
        record["torch_cudnn"] = torch.backends.cudnn.version()
    with contextlib.suppress(ImportError):
        import triton

        record["triton"] = triton.__version__
    return record


class _Run:
    """Model, inputs and the timed call of one row."""

    def __init__(
        self, case: str, N: int, precision: str, mode: str | None, train: bool, cuda: bool
    ):
        self.case, self.N, self.precision, self.train, self.cuda = case, N, precision, train, cuda
        self.device = torch.device("cuda" if cuda else "cpu")
        model = build(case, train=train)
        if precision == "bf16" and not train:
            model = model.to(torch.bfloat16)
        self.model = model.to(self.device)
        self.model.requires_grad_(train)
        self.parameters: list[Tensor] = list(self.model.parameters()) if train else []
        self.call: Callable[..., Any] = self.model
        if mode is not None:
            self.call = torch.compile(self.model, mode=COMPILE_MODES[mode], dynamic=False)
        C, H = (3, 224) if case == "net" else (MODULES[case].C, MODULES[case].H)
        generator = torch.Generator().manual_seed(N)
        x = torch.randn(N, C, H, H, generator=generator)
        dtype = torch.bfloat16 if precision == "bf16" and not train else torch.float32
        self.x = x.to(self.device, dtype, memory_format=torch.channels_last)
        if train and case != "net":
            self.x.requires_grad_()
        K = 1000 if case == "net" else MODULES[case].K
        shape = (N,) if case == "net" else (N, K, H, H)
        if case == "net":
            self.target = torch.randint(0, K, shape, generator=generator).to(self.device)
        else:
            gy = torch.randn(shape, generator=generator).to(self.device)
            self.target = gy.contiguous(memory_format=torch.channels_last)

    # -- the work

    def work(self, x: Tensor) -> Any:
        """Forward, or forward and backward; returns the output or the list of gradients."""
        if not self.train:
            with torch.no_grad():
                return self.call(x)
        mixed = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            out = self.call(x)
        return self._gradients(out, x, self.parameters, self.target, 1.0)

    def _gradients(
        self, out: Any, x: Tensor, parameters: list[Tensor], target: Tensor, share: float
    ) -> list[Tensor]:
        if self.case == "net":
            losses = [F.cross_entropy(_at_least_float(logits), target) for logits in out]
            loss = (losses[0] + 0.3 * sum(losses[1:])) * share
            return list(torch.autograd.grad(loss, parameters))
        return list(torch.autograd.grad(out, [x, *parameters], target.to(out.dtype)))

    # -- the check

    def check(self, result: Any) -> dict[str, Any]:
        """Error against the same model in float64 (eager), on the values the run was given."""
        model = copy.deepcopy(self.model).double()
        if not self.train:
            picked = sorted({0, self.N // 2, self.N - 1})
            with torch.no_grad():
                truth = model(self.x[picked].double())
            error = timing.compare(_numpy(result[picked]), _numpy(truth))
            finite = bool(torch.isfinite(result).all())
            return error | {"against": "float64 eager", "images": picked, "all_finite": finite}
        truth_x, sums = [], None
        parameters: list[Tensor] = list(model.parameters())
        for start in range(0, self.N, CHUNK):
            piece = slice(start, start + CHUNK)
            x = self.x[piece].detach().double().requires_grad_(self.case != "net")
            share = len(x) / self.N
            grads = self._gradients(model(x), x, parameters, self.target[piece], share)
            if self.case != "net":
                truth_x.append(_numpy(grads.pop(0)))
            sums = grads if sums is None else [a + b for a, b in zip(sums, grads, strict=True)]
        names = [name for name, _ in model.named_parameters()]
        truths = [_numpy(grad) for grad in sums or []]
        if truth_x:
            names, truths = ["x", *names], [np.concatenate(truth_x), *truths]
        each = {
            name: timing.compare(_numpy(grad), truth)["l2_rel"]
            for name, grad, truth in zip(names, result, truths, strict=True)
        }
        worst = max(each, key=lambda name: math.inf if math.isnan(each[name]) else each[name])
        median = float(np.median(list(each.values())))
        extra = {"worst": worst, "median_l2_rel": median, "against": "float64 eager, gradients"}
        return {"max_rel": None, "l2_rel": each[worst]} | extra

    # -- the clock

    def times(self) -> dict[str, dict[str, Any]]:
        if not self.cuda:
            return self._host_times()
        l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
        flush = torch.empty(int(2.1 * l2), dtype=torch.uint8, device=self.device)

        def measure(cold: bool) -> float:
            if cold:
                flush.zero_()
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            self.work(self.x)
            stop.record()
            stop.synchronize()
            return start.elapsed_time(stop) * 1e-3

        warm = timing.sample(lambda: measure(False))
        times = {"events_warm": timing.summarize(warm)}
        times["events_cold"] = timing.summarize(timing.sample(lambda: measure(True)))
        times["events_cold"]["cold_by"] = f"{flush.numel()} bytes written between calls"
        nbytes = self.x.numel() * self.x.element_size()
        wanted = math.ceil(2.1 * l2 / nbytes)
        inputs = [self.x] + [self._another() for _ in range(min(max(wanted, 2), MOST_INPUTS) - 1)]
        calls = max(1, min(20, math.ceil(5e-4 / max(float(np.median(warm)), 1e-6))))
        for mode, order in (("graph_warm", [self.x] * calls), ("graph_cold", inputs)):
            try:
                times[mode] = self._graph_times(order)
            except RuntimeError as error:
                torch.cuda.synchronize()
                times[mode] = {"median_us": None, "reason": str(error)[:200]}
        times["graph_cold"]["rotated_input_bytes"] = nbytes * len(inputs)
        return times

    def _another(self) -> Tensor:
        return self.x.detach().clone().requires_grad_(self.x.requires_grad)

    def _graph_times(self, inputs: list[Tensor]) -> dict[str, Any]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.work(self.x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for x in inputs:
                self.work(x)

        def replay() -> float:
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            return start.elapsed_time(stop) * 1e-3

        replay()
        return timing.summarize(timing.sample(replay), calls=len(inputs))

    def _host_times(self) -> dict[str, dict[str, Any]]:
        flush = torch.empty(64 << 20, dtype=torch.uint8)

        def cold() -> float:
            flush.zero_()
            return timing.host_timer(lambda: self.work(self.x))

        def warm() -> float:
            return timing.host_timer(lambda: self.work(self.x))

        warm_samples, cold_samples = (
            timing.sample(measure, seconds=0.1, least=3, most=10) for measure in (warm, cold)
        )
        return {
            "host_warm": timing.summarize(warm_samples),
            "host_cold": timing.summarize(cold_samples),
        }


def _at_least_float(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).cpu().numpy()


def work_sizes(case: str, N: int, precision: str, train: bool) -> tuple[int, int]:
    """Nominal FLOPs (training: three forward passes) and minimum bytes of one call."""
    itemsize = timing.ITEMSIZE[precision]
    if case != "net":
        m = MODULES[case]
        return m.flops(N) * (3 if train else 1), m.bytes_min(N, itemsize) * (3 if train else 1)
    macs = timing.NET_MACS + (HEAD_MACS if train else 0)
    nbytes = itemsize * (N * (3 * 224**2 + 1000) + timing.NET_PARAMETERS)
    return 2 * N * macs * (3 if train else 1), nbytes * (3 if train else 1)


def torch_row(
    case: str, N: int, precision: str, *, mode: str | None, train: bool, cuda: bool
) -> dict[str, Any]:
    """Check and time one module or the net; the fields of a row.

    `case` is a module's name or "net"; `mode` None (eager) or a key of `COMPILE_MODES`.
    """
    with math_mode(precision):
        try:
            return _row(case, N, precision, mode, train, cuda)
        finally:
            if mode is not None:
                torch._dynamo.reset()  # else the eighth shape of a module would fall back to eager
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()


def _row(
    case: str, N: int, precision: str, mode: str | None, train: bool, cuda: bool
) -> dict[str, Any]:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    run = _Run(case, N, precision, mode, train, cuda)
    start = time.perf_counter()
    result = run.work(run.x)
    if cuda:
        torch.cuda.synchronize()
    first = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if cuda else None
    flops, nbytes = work_sizes(case, N, precision, train)
    error = run.check(result)
    del result
    depth = 22 if case == "net" else 2
    row: dict[str, Any] = {
        "error": error,
        "error_limit": timing.error_limit(precision, depth, gradient=train),
        "flops": flops,
        "bytes_min": nbytes,
        "first_call_seconds": first,
        "peak_bytes": peak,
        "layout": "channels_last",
        "mixed_precision": "autocast, fp32 weights" if train and precision == "bf16" else None,
        "compile_mode": COMPILE_MODES[mode] if mode else None,
        "clock": "cuda events" if cuda else "host clock",
    }
    shown = error["l2_rel"] if train else error["max_rel"]
    if not shown <= row["error_limit"] or error.get("all_finite") is False:
        return row | {"status": "wrong", "times": None}
    times = run.times()
    return row | {"status": "ok", "times": times, "rates": timing.rates(times, flops, nbytes)}
