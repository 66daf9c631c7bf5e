"""Layers and modules: names, modes, state, running statistics, dropout."""

import copy
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from built import BACKENDS
from pyinception.kernels import reference

import pyinception as pyi
from pyinception import init, layers, rng, workspace
from pyinception.module import Module, Sequential
from pyinception.tensor import Tensor

DRAW = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape).astype(np.float32)


@pytest.fixture(params=BACKENDS, autouse=True)
def where(request: pytest.FixtureRequest) -> Any:
    with pyi.using(backend=request.param):
        yield request.param


def test_module_has_caffes_names_and_shapes() -> None:
    module = layers.Inception(5, 2, 3, 4, 1, 2, 3)
    shapes = {name: p.shape for name, p in module.named_parameters()}
    assert list(shapes) == [
        f"{layer}.{part}"
        for layer in ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "pool_proj")
        for part in ("weight", "bias")
    ]
    assert shapes["conv3x3.weight"] == (4, 3, 3, 3)
    assert shapes["reduce5x5.weight"] == (1, 1, 1, 5)
    assert shapes["conv5x5.bias"] == (2,)
    assert module.out_channels == 2 + 4 + 2 + 3


def test_inception_is_one_op_equal_to_its_parts() -> None:
    module = init.initialise(layers.Inception(5, 2, 3, 4, 1, 2, 3), seed=4)
    x = Tensor(normal(2, 6, 5, 5))
    y = module(x)
    assert len(y.node.inputs) == 13  # type: ignore[union-attr]
    pooled = layers.MaxPool2d(3, 1, 1)(x)
    parts = [
        module.conv1x1(x),
        module.conv3x3(module.reduce3x3(x)),
        module.conv5x5(module.reduce5x5(x)),
        module.pool_proj(pooled),
    ]
    expected = np.concatenate([part.data for part in parts], axis=3)
    np.testing.assert_allclose(y.data, expected, rtol=1e-5, atol=1e-6)
    gy = normal(*y.shape)
    y.backward(gy)
    fused = {name: p.grad for name, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = None
    pyi.concat(parts).backward(gy)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(fused[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_reduce_conv_layer_equals_two_convolutions() -> None:
    branch = init.initialise(layers.ReduceConv2d(5, 2, 3, 3), seed=2)
    x = Tensor(normal(2, 6, 5, 5), requires_grad=True)
    y = branch(x)
    gy = normal(*y.shape)
    y.backward(gy)
    fused, x.grad = x.grad, None
    r = pyi.ops.Conv(relu=True)(x, branch.reduce.weight, branch.reduce.bias)
    z = pyi.ops.Conv(1, 1, relu=True)(r, branch.conv.weight, branch.conv.bias)
    np.testing.assert_allclose(y.data, z.data, rtol=1e-5, atol=1e-6)
    z.backward(gy)
    np.testing.assert_allclose(fused, x.grad, rtol=1e-4, atol=1e-5)


def test_linear_flattens_a_map_in_hwc_order() -> None:
    layer = init.initialise(layers.Linear(2 * 3 * 4, 5), seed=1)
    x = normal(2, 2, 3, 4)
    expected = x.reshape(2, -1) @ layer.weight.data.T  # type: ignore[attr-defined]
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-5, atol=1e-6)


def test_batch_norm_moves_its_statistics() -> None:
    layer = layers.BatchNorm(3, relu=True, momentum=0.25)
    x = normal(4, 5, 6, 3) * 2 + 1
    y = layer(x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = np.maximum((x - mean) / np.sqrt(var + 1e-5), 0)
    np.testing.assert_allclose(y.data, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(layer.mean.data, 0.25 * mean, rtol=1e-4, atol=1e-6)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.var.data, 0.75 + 0.25 * unbiased, rtol=1e-4)
    layer.eval()
    before = layer.mean.data.copy()
    y = layer(x)
    expected = (x - before) / np.sqrt(layer.var.data + 1e-5)
    np.testing.assert_allclose(y.data, np.maximum(expected, 0), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(layer.mean.data, before)
    assert set(layer.state_dict()) == {"gamma", "beta", "mean", "var"}
    inner, gy = Tensor(x, True), np.ones_like(x)
    layer(inner).backward(gy)
    wanted, inner.grad = inner.grad, None
    y = layer(inner)
    layer.var.data[...] *= 4  # training may go on between an evaluation and its backward
    y.backward(gy)
    np.testing.assert_array_equal(inner.grad, wanted)
    layer.train()
    with pytest.raises(ValueError, match="expected at least one sample"):
        layer(x[:0])


def test_dropout_is_a_function_of_seed_step_path_and_place() -> None:
    net = Sequential(first=layers.Dropout(0.5), second=layers.Dropout(0.5))
    x = np.ones((6, 40), np.float32)

    def masks(seed: int, step: int, part: slice = slice(None)) -> tuple[bytes, bytes]:
        with rng.at(seed, step, first_sample=part.start or 0):
            return tuple(layer(x[part]).data.tobytes() for _, layer in net.children())  # type: ignore[return-value]

    first, second = masks(1, 2)
    assert first != second
    assert masks(1, 2) == (first, second)
    assert masks(1, 3)[0] != first != masks(2, 2)[0]
    halves = [masks(1, 2, part)[0] for part in (slice(0, 4), slice(4, 6))]
    assert b"".join(halves) == first
    expected = reference.dropout(x, 0.5, seed=1, step=2, layer=crc32(b"first"))
    assert first == expected.tobytes()
    net.eval()
    assert net(x).data is not None
    np.testing.assert_array_equal(net(x).data, x)


def test_dropout_uses_the_same_mask_backward() -> None:
    layer = layers.Dropout(0.4)
    x = Tensor(np.ones((5, 30), np.float32), requires_grad=True)
    with rng.at(seed=3, step=1):
        y = layer(x)
    y.backward(np.ones((5, 30), np.float32))  # outside: the step has moved on by then
    np.testing.assert_array_equal(x.grad, y.data)
    assert 0 < np.count_nonzero(y.data) < y.data.size


def test_paths_follow_the_tree_and_copies() -> None:
    net = Sequential(body=Sequential(drop=layers.Dropout(0.5)))
    assert net.body.drop.path == "body.drop"  # type: ignore[attr-defined]
    twin = copy.deepcopy(net)
    del net
    assert twin.body.drop.path == "body.drop"
    assert twin.body.path == "body"


def test_evaluation_records_nothing_unless_asked() -> None:
    net = init.initialise(layers.Conv2d(3, 2, 1)).eval()
    x = normal(1, 2, 2, 3)
    assert net(x).node is None
    asked = Tensor(x, requires_grad=True)
    net(asked).backward(np.ones((1, 2, 2, 2), np.float32))
    assert asked.grad is not None
    assert net.train()(x).node is not None


def test_errors_name_the_layer() -> None:
    net = Sequential(stem=layers.Conv2d(3, 2, 1), head=layers.Conv2d(5, 2, 1))
    with pytest.raises(ValueError, match="conv2d: w has shape") as caught:
        net(normal(1, 2, 2, 3))
    assert caught.value.__notes__ == ["in layer head"]
    with pytest.raises(TypeError, match="Sequential: x is a list"):
        net([1.0])
    with pytest.raises(ValueError, match="6"):
        layers.Inception(3, 1, 2)
    with pytest.raises(ValueError, match="out_channels is 0"):
        layers.Conv2d(3, 0, 1)


def test_load_state_dict_checks_everything_first() -> None:
    net = init.initialise(Sequential(a=layers.Conv2d(3, 2, 1), b=layers.BatchNorm(2)), seed=1)
    state = {name: array + 1 for name, array in net.state_dict().items()}
    before = {name: array.copy() for name, array in net.state_dict().items()}

    def unchanged() -> bool:
        return all(np.array_equal(before[n], a) for n, a in net.state_dict().items())

    wrong: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in state.items() if k != "b.var"}, "missing b.var, unexpected none"),
        (state | {"c": np.ones(1)}, "missing none, unexpected c"),
        (state | {"b.var": np.ones(3, np.float32)}, r"b.var has shape \(3,\)"),
        (state | {"b.var": np.ones(2)}, "b.var has shape .* dtype float64"),
    ]
    for given, message in wrong:
        with pytest.raises(ValueError, match=message):
            net.load_state_dict(given)
        assert unchanged()
    versions = [p.version for p in net.parameters()]
    net.load_state_dict(state)
    np.testing.assert_array_equal(net.b.var.data, before["b.var"] + 1)  # type: ignore[attr-defined]
    assert [p.version for p in net.parameters()] == [v + 1 for v in versions]


def test_out_slices_alias() -> None:
    net = init.initialise(layers.ConvBatchNorm(3, 4, 3), seed=1)
    y = np.full((2, 5, 5, 7), np.nan, np.float32)
    part = net(Tensor(normal(2, 5, 5, 3)), out=y[..., 3:])
    assert np.shares_memory(part.data, y)
    assert np.isnan(y[..., :3]).all()
    assert np.isfinite(y[..., 3:]).all()


def test_strided_inputs_of_a_module_are_copied_and_counted() -> None:
    layer = init.initialise(layers.Conv2d(3, 2, 1), seed=1)
    counted = workspace.copies["Conv2d: x"]
    x = normal(1, 4, 4, 6)
    np.testing.assert_array_equal(layer(x[..., ::2]).data, layer(x[..., ::2].copy()).data)
    assert workspace.copies["Conv2d: x"] == counted + 1


def test_base_classes_say_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match=r"Module\.forward"):
        Module()(normal(1, 1))


def test_small_layers() -> None:
    x = normal(2, 4, 4, 3)
    np.testing.assert_array_equal(layers.Relu()(x).data, np.maximum(x, 0))
    np.testing.assert_array_equal(layers.Flatten()(x).data, x.reshape(2, -1))
    means = layers.GlobalAvgPool()(x).data
    np.testing.assert_allclose(means[:, 0, 0], x.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layers.Lrn()(x).data, reference.lrn_fprop(x), rtol=1e-6)
    with pytest.raises(ValueError, match="p is 1"):
        layers.Dropout(1.0)
    with pytest.raises(ValueError, match=r"DepthwiseConv2d: out_channels is 6, .*in_channels = 4"):
        layers.DepthwiseConv2d(4, 6, 3)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"eps": -1e-5}, "BatchNorm: eps is -1e-05, expected at least 0"),
        ({"eps": float("nan")}, "BatchNorm: eps is nan, expected at least 0"),
        ({"momentum": 1.5}, "BatchNorm: momentum is 1.5, expected at least 0, at most 1"),
        ({"momentum": None}, r"BatchNorm: momentum is None \(NoneType\), expected a number"),
    ],
)
def test_strange_numbers_of_a_batch_norm_are_named(how: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        layers.BatchNorm(3, **how)


def test_a_name_for_freeze_or_a_dtype_that_holds_no_weights_changes_nothing() -> None:
    net = Sequential(a=layers.Conv2d(2, 3, 1))
    init.initialise(net, 0)
    before = net.state_dict()["a.weight"].copy()
    with pytest.raises(TypeError, match="freeze: mode is 'a', expected True or False"):
        net.freeze("a")  # type: ignore[arg-type]
    assert not net.frozen and all(p.requires_grad for p in net.parameters())
    for dtype in ("int8", "complex64", "nothing"):
        with pytest.raises(TypeError, match=f"astype: dtype is '{dtype}', expected float32 or fl"):
            net.astype(dtype)
    np.testing.assert_array_equal(net.state_dict()["a.weight"], before)
    for wide, narrow in (("float64", np.float32), (float, "f4"), (np.dtype("d"), "single")):
        assert net.astype(wide).state_dict()["a.weight"].dtype == np.float64
        assert net.astype(narrow).state_dict()["a.weight"].dtype == np.float32


@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn", "inception_v3"])
def test_a_network_s_switches_are_true_or_false(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: aux is 'no', expected True or False"):
        getattr(pyi.models, name)(aux="no")
