"""Training in 16 bits: float32 masters, a dynamic loss scale, overflows that cost one step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_standin import standing_in

import pyinception as pyi
from pyinception import backend, emulator, losses, ops, optim, train
from pyinception.cuda import steps
from pyinception.layers import Conv2d, ConvBatchNorm, GlobalAvgPool, Linear
from pyinception.module import Sequential
from pyinception.precision import LossScale
from pyinception.train import loop

if reason := backend.why_not("emulated"):
    pytest.skip(reason, allow_module_level=True)

RECIPE: dict[str, Any] = {
    "data": "digits", "model": "tiny_inception", "size": 8, "padding": 0, "count": 48,
    "test_count": 8, "batch_size": 16, "epochs": 2,
}  # fmt: skip


def run(folder: Path, precision: str, count: int = 48, **more: Any) -> Any:
    how = {"with_baselines": False} | more
    with pyi.using(backend="emulated"), emulator.using(checked=False, workers=2):
        return train.train(RECIPE | {"precision": precision, "count": count}, folder, **how)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["kind"] == kind]


def overflow_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinity among the gradients of one step, as fp16 leaves it."""
    unscale = LossScale.unscale

    def planted(self: LossScale, net: Any) -> bool:
        if planted.count == step:  # type: ignore[attr-defined]
            next(net.parameters()).grad.flat[3] = np.inf
        planted.count += 1  # type: ignore[attr-defined]
        return unscale(self, net)

    planted.count = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(LossScale, "unscale", planted)


def test_the_loss_falls_beside_that_of_float32(tmp_path: Path) -> None:
    run(tmp_path / "wide", "fp32")
    outcome = run(tmp_path / "narrow", "bf16")
    wide, narrow = (lines(tmp_path / name, "step") for name in ("wide", "narrow"))
    assert narrow[-1]["loss"] < 0.9 * narrow[0]["loss"]
    for a, b in zip(wide, narrow, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.05) and b["loss"] != a["loss"]
    assert {(line["loss_scale"], line["overflows"]) for line in narrow} == {(1.0, 0)}
    assert "loss_scale" not in wide[0]
    last = train.load_trained(tmp_path / "narrow/checkpoints/last.safetensors")
    assert all(p.dtype == np.float32 for p in last.net.parameters())
    assert loop.weights_sha256(last.net) == outcome.weights_sha256


def test_an_overflow_costs_its_step_and_halves_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted; a run taken up again after it has the bits of one that was never stopped."""
    with monkeypatch.context() as patch:
        overflow_at(1, patch)
        whole = run(tmp_path / "whole", "fp16", 32)
    with monkeypatch.context() as patch:
        overflow_at(1, patch)
        run(tmp_path / "halves", "fp16", 32, stop_after=1)
    again = run(tmp_path / "halves", "fp16", 32, resume=True)
    assert again.weights_sha256 == whole.weights_sha256 and whole.steps == 4
    for name in ("whole", "halves"):
        seen = [(line["loss_scale"], line["overflows"]) for line in lines(tmp_path / name, "step")]
        assert seen == [(2.0**16, 0)] + [(2.0**15, 1)] * 3
        assert lines(tmp_path / name, "epoch")[-1]["overflows"] == 1


def small(dtype: str = "float16") -> Sequential:
    net = Sequential(Conv2d(8, 8, 3, padding=1, relu=True), GlobalAvgPool(), Linear(8, 4))
    return pyi.init.initialise(net, 3).store_as(dtype).train()  # type: ignore[return-value]


def test_a_skipped_step_moves_nothing_and_a_calm_one_the_masters() -> None:
    net = small()
    sgd, scale = optim.SGD(net, 0.1), LossScale(8.0, 2)
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 8)).astype(np.float16)
    with pyi.using(backend="emulated"), emulator.using(checked=False):
        moved = []
        for step in range(4):
            before = {name: array.copy() for name, array in net.state_dict().items()}
            scale.backward(losses.cross_entropy(net(x), np.array([0, 1])))
            if step == 1:
                next(net.parameters()).grad.flat[0] = np.nan
            if scale.unscale(net):
                sgd.step()
            else:
                sgd.skip()
            after = net.state_dict()
            moved.append(any(not np.array_equal(before[n], after[n]) for n in after))
            assert all(p.grad is None for p in net.parameters())
    assert moved == [True, False, True, True] and sgd.iteration == 4
    assert (scale.overflows, scale.scale, scale.calm) == (1, 8.0, 0)  # 4 after it, 8 after two more
    for parameter in net.parameters():
        narrow = len(parameter.shape) > 1
        assert parameter.dtype == (np.float16 if narrow else np.float32)
        if narrow:
            assert parameter.master is not None and parameter.master.dtype == np.float32
            np.testing.assert_array_equal(parameter.data, parameter.master.astype(np.float16))


def test_gradients_do_not_depend_on_the_scale() -> None:
    """A power of two goes in and comes out, where nothing leaves the range."""
    x = np.random.default_rng(1).standard_normal((2, 6, 6, 8)).astype(np.float16)
    found = []
    for power in (1.0, 2.0**7):
        net, scale = small(), LossScale(power, 0)
        with pyi.using(backend="emulated"), emulator.using(checked=False):
            scale.backward(losses.cross_entropy(net(x), np.array([0, 1])))
            assert scale.unscale(net)
        found.append([np.array(p.grad) for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        assert a.dtype == np.float32 and np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_sgd_kernel_has_numpy_s_bits_and_writes_the_copy(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(2)
    gradients = [draw.standard_normal((5, 7)).astype(np.float32) for _ in range(2)]

    def trained(memory: str, name: str) -> tuple[np.ndarray, ...]:
        net = pyi.init.initialise(Sequential(Linear(7, 5)), 1).store_as(dtype).to(memory)
        weight = next(net.parameters())
        sgd = optim.SGD(net, 0.3, momentum=0.9, weight_decay=0.01)
        with pyi.using(backend=name):
            for g in gradients:
                weight.grad = backend.moved(g, memory)
                sgd.step()
        return tuple(map(backend.to_host, (weight.values, weight.data, sgd.state["0.weight"])))

    wanted = trained("host", "reference")  # by NumPy
    emulated = trained("host", "emulated")
    with standing_in(monkeypatch) as runtime:
        cuda = trained("cuda", "cuda")
        plans = [plan for plan, _ in runtime.ran]
        assert plans.count("sgd") == 2
    for got in (emulated, cuda):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    assert wanted[1].dtype == backend.dtype_of(dtype)


def test_all_finite_and_cast_where_the_arrays_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = [np.ones(n, np.float32) for n in (1, 300, 70_000)]
    with pyi.using(backend="emulated"):
        assert steps.all_finite(sound) and steps.all_finite([])
        for bad in (np.inf, -np.inf, np.nan):
            sound[2][69_999] = bad
            assert not steps.all_finite(sound)
    with standing_in(monkeypatch) as runtime:
        arrays = [runtime.asarray(array) for array in sound]
        assert not steps.all_finite(arrays) and steps.all_finite(arrays[:2])
        x = runtime.asarray(np.array([1 / 3, 1e9], np.float32))
        y = runtime.empty((2,), np.float16)
        backend.rounded(x, y)
        np.testing.assert_array_equal(y.host, np.array([1 / 3, np.inf], np.float16))


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pyi.BackendError, match='precision bf16 with backend "auto", expected "cud'):
        train.train(RECIPE | {"precision": "bf16"}, tmp_path / "run", with_baselines=False)
    with pytest.raises(train.RecipeError, match="precision is 'fp8', expected fp32, bf16, fp16"):
        train.resolve({"precision": "fp8"})
    with pytest.raises(ValueError, match="store_as: dtype is 'float64'"):
        Linear(2, 2).store_as("float64")
    for wrong in (0.0, -2.0, 3.0, float("inf")):
        with pytest.raises(ValueError, match="expected a power of two"):
            LossScale(wrong)
    net, scale = small(), LossScale(2.0**-24)
    next(net.parameters()).grad = np.full((8, 3, 3, 8), np.nan, np.float32)
    with pytest.raises(FloatingPointError, match="1 overflows have brought it to"):
        scale.unscale(net)


def test_a_frozen_norm_keeps_16_bit_gradients_and_folds_from_the_masters() -> None:
    frozen = ops.FrozenBatchNorm(np.zeros(3, np.float32), np.ones(3, np.float32))
    frozen.recording = True
    x = np.ones((2, 4, 4, 3), np.float16)
    frozen.saved = x, np.full(3, 2, np.float32), frozen.mean, frozen.var, None
    gx, ggamma, gbeta = frozen.backward(np.full_like(x, 3000))
    assert gx.dtype == np.float16 and (gx == 6000).all()
    assert ggamma.dtype == gbeta.dtype == np.float32 and (gbeta == 96000).all()

    unit = ConvBatchNorm(3, 4, 1)
    unit.conv.weight.data[...] = 1 + 2.0**-20  # what fp16 would round away
    unit.norm.gamma.data[...] = 1024
    folded = unit.store_as("float16").folded()
    assert folded.weight.dtype == np.float16 and folded.bias.dtype == np.float32
    np.testing.assert_allclose(folded.weight.values, 1024 * (1 + 2.0**-20), rtol=2e-5)
    assert (folded.weight.values != 1024 / np.float32(1 + 1e-5) ** 0.5).all()
