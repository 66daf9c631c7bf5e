"""Networks out to ONNX and back: onnx's own evaluator in float64 is the judge."""

import errno
import os
import re

import numpy as np
import pytest
from reference_cases import relative_error

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra `oracles`)")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402
from test_convert import caffe_blobs  # noqa: E402

import pyinception as pyi  # noqa: E402
from pyinception import convert, layers, models, tracing  # noqa: E402
from pyinception.convert import onnx_export  # noqa: E402
from pyinception.layers import fold_batch_norms  # noqa: E402
from pyinception.module import Sequential  # noqa: E402

pytestmark = pytest.mark.oracles

FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE

# name: what makes it, the smallest image it takes
NETWORKS = {
    "googlenet": (lambda: models.googlenet(num_classes=5), 224),
    "googlenet_bn": (lambda: models.googlenet_bn(num_classes=5), 64),
    "bn_inception": (lambda: models.bn_inception(num_classes=5), 64),
    "inception_v2": (lambda: models.inception_v2(num_classes=5), 75),
    "inception_v3": (lambda: models.inception_v3(num_classes=5), 75),
    "inception_v3 folded": (lambda: fold_batch_norms(models.inception_v3(num_classes=5)), 75),
    "inception_v4": (lambda: models.inception_v4(num_classes=5), 75),
    "inception_resnet_v2": (lambda: models.inception_resnet_v2(num_classes=5), 75),
    "xception": (lambda: models.xception(num_classes=5), 71),
    "googlenet separable": (lambda: models.googlenet(5, separable_stem=True), 224),
    "network_in_network": (lambda: models.network_in_network(num_classes=5), 67),
    "googlenet_cifar": (lambda: models.googlenet_cifar(num_classes=5), 16),
    "small_inception": (lambda: models.small_inception(num_classes=5), 28),
}


class LRN(OpRun):
    """By ONNX's definition; the evaluator's own walks over the batch where it means channels."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        total = np.zeros_like(x)
        for c in range(x.shape[1]):
            window = x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]
            total[:, c] = (window**2).sum(1)
        return (x / (bias + alpha / size * total) ** beta,)


def evaluator(model):
    return ReferenceEvaluator(model, new_ops=[LRN])


def in_double(path):
    """The file with every float a double."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = DOUBLE
    return evaluator(model)


def images(side: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, side, side, 3)).astype(np.float32)


def randomised(net: pyi.Module) -> pyi.Module:
    draw = np.random.default_rng(2)
    for name, buffer in net.named_buffers():
        low, high = (0.5, 1.5) if name.endswith("var") else (-0.1, 0.1)
        buffer.data[...] = draw.uniform(low, high, buffer.data.shape)
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name: str, tmp_path) -> None:
    make, side = NETWORKS[name]
    net = randomised(make())
    x = images(side)
    path = tmp_path / "net.onnx"
    convert.export(net, x.shape, path)
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float64)
    truth = in_double(path).run(None, {"input": nchw})[0]
    assert np.ptp(truth) > 0
    assert relative_error(net(x).data, truth) <= 1e-5
    again = convert.read_onnx(path)
    assert again.input_shape == (side, side, 3)
    assert relative_error(again(x).data, truth) <= 1e-5
    assert relative_error(pyi.Session(again, x.shape)(x), truth) <= 1e-5
    both = np.concatenate([x, x[:, ::-1]])
    assert again(both).shape == (2, 5)


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch) -> None:
    net = Sequential(layers.Conv2d(3, 2, 1))
    path = tmp_path / "net.onnx"
    convert.export(net, (1, 2, 2, 3), path)
    before = path.read_bytes()

    def full(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"cannot write .*net\.onnx.*ENOSPC"):
        convert.export(net, (1, 2, 2, 3), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_parameters_keep_their_names(tmp_path) -> None:
    net = models.googlenet(num_classes=5, aux=False)
    convert.export(net, (1, 224, 224, 3), tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert {t.name for t in graph.initializer} == {*net.state_dict(), "rows_of_1024"}
    assert [n.op_type for n in graph.node].count("Conv") == 57


# ---- graphs of others --------------------------------------------------------------------------
def write(path, nodes, arrays, shape=("N", 3, 8, 8), outputs=None, **how) -> None:
    value, outputs = helper.make_tensor_value_info, outputs or {"y": ["k"]}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", FLOAT, list(shape))],
        [value(name, FLOAT, ["N", *rest]) for name, rest in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opset = how.pop("opset", 17)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path, **how)


def node(kind, inputs, output, **how):
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind}_{output}", **how)


def test_old_ceil_pools_softmax_and_flatten(tmp_path) -> None:
    """What Caffe's converters wrote: padding at the end for ceil, dropout, a softmax at the end."""
    draw = np.random.default_rng(1)
    arrays = {
        "w": draw.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b": draw.standard_normal(4).astype(np.float32),
        "m": draw.standard_normal((5, 4 * 4 * 4)).astype(np.float32),
        "c": draw.standard_normal(5).astype(np.float32),
    }
    nodes = [
        node("Conv", "x w b", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "r"),
        node("MaxPool", "r", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("LRN", "p", "n", size=5, alpha=0.01, beta=0.75, bias=1.0),
        node("Dropout", "n", "d"),
        node("Flatten", "d", "f"),
        node("Gemm", "f m c", "g", transB=1),
        node("Softmax", "g", "y"),
    ]
    write(tmp_path / "net.onnx", nodes, arrays)
    net = convert.read_onnx(tmp_path / "net.onnx")
    x = images(8, 2)
    logits = net(x).data.astype(np.float64)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    nchw = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    truth = evaluator(onnx.load(tmp_path / "net.onnx")).run(None, {"x": nchw})[0]
    assert relative_error(odds / odds.sum(1, keepdims=True), truth) <= 1e-5
    assert sum(isinstance(m, pyi.layers.Conv2d) and m.relu for m in net.modules()) == 1


def test_an_input_transform_by_channel(tmp_path) -> None:
    """As torchvision's export has it: gather, unsqueeze, times, plus, concatenate."""
    arrays = {"one": np.array([1]), "axes": np.array([2, 3])}
    nodes = []
    for c, (scale, shift) in enumerate(((0.4, -0.1), (0.5, 0.2), (0.6, 0.3))):
        arrays |= {f"c{c}": np.array(c), f"s{c}": np.float32(scale), f"t{c}": np.float32(shift)}
        arrays |= {f"s{c}": np.array(scale, np.float32), f"t{c}": np.array(shift, np.float32)}
        nodes += [
            node("Gather", f"x c{c}", f"g{c}", axis=1),
            node("Unsqueeze", f"g{c} one", f"u{c}"),
            node("Mul", f"u{c} s{c}", f"m{c}"),
            node("Add", f"m{c} t{c}", f"a{c}"),
        ]
    nodes += [
        node("Concat", "a0 a1 a2", "k", axis=1),
        node("ReduceMean", "k", "y", axes=[2, 3], keepdims=0),
    ]
    write(tmp_path / "net.onnx", nodes, arrays)
    x = images(8, 2)
    expected = x.mean((1, 2)) * [0.4, 0.5, 0.6] + [-0.1, 0.2, 0.3]
    y = convert.read_onnx(tmp_path / "net.onnx")(x).data
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_all_strange_nodes_are_listed_at_once(tmp_path) -> None:
    arrays = {"w": np.zeros((4, 3, 3, 3), np.float32), "v": np.zeros((4, 2, 3, 3), np.float32)}
    nodes = [
        node("Conv", "x w", "a", dilations=[2, 2]),
        node("Conv", "a v", "g", group=2),
        node("Sigmoid", "g", "s"),
        node("MaxPool", "s", "p", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 0, 0, 1]),
        node("Elu", "p", "y"),
    ]
    write(tmp_path / "net.onnx", nodes, arrays, outputs={"y": [3, 5, 5]})
    with pytest.raises(convert.ConvertError) as caught:
        convert.read_onnx(tmp_path / "net.onnx")
    text = str(caught.value)
    dilated, grouped = (
        "Conv 'Conv_a': dilated",
        "Conv 'Conv_g': dilated, not over images, or in groups",
    )
    for words in (dilated, grouped, "Sigmoid", "MaxPool 'MaxPool_p': pads", "Elu"):
        assert words in text


def test_data_in_other_files_is_refused(tmp_path) -> None:
    arrays = {"w": np.ones((4, 3, 3, 3), np.float32)}
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "y")]
    how = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    write(tmp_path / "net.onnx", nodes, arrays, outputs={"y": [4, 1, 1]}, **how)
    with pytest.raises(convert.ConvertError, match="1 tensors in other files"):
        convert.read_onnx(tmp_path / "net.onnx")
    net = convert.read_onnx(tmp_path / "net.onnx", external_data=True)
    assert net(images(8)).shape == (1, 1, 1, 4)


def test_constants_in_other_files_are_refused(tmp_path) -> None:
    secret = helper.make_tensor("", FLOAT, [3], bytes(12), raw=True)
    secret.ClearField("raw_data")
    secret.data_location = secret.EXTERNAL
    secret.external_data.add(key="location", value="secret.bin")
    constant = helper.make_node("Constant", [], ["c"], value=secret)
    write(tmp_path / "net.onnx", [constant, node("Identity", "x", "y")], {},
          outputs={"y": [3, 8, 8]})  # fmt: skip
    with pytest.raises(convert.ConvertError, match="1 tensors in other files"):
        convert.read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "extent", "takes"),
    [
        ([3, 3], [2, 2], [0, 0, 1, 1], (8, 8), True),
        ([3, 3], [2, 2], [0, 0, 1, 1], (7, 8), True),
        ([2, 2], [2, 2], [0, 0, 0, 1], (7, 8), False),
        ([3, 3], [2, 2], [0, 0, 1, 0], (8, 8), False),
        ([3, 3], [3, 3], [0, 0, 1, 1], (10, 10), False),
    ],
)
def test_padding_at_the_end_is_ceil_or_refused(tmp_path, kernel, stride, pads, extent, takes):
    pool = node("MaxPool", "x", "y", kernel_shape=kernel, strides=stride, pads=pads)
    write(tmp_path / "net.onnx", [pool], {}, shape=("N", 3, *extent), outputs={"y": [3, 1, 1]})
    if not takes:
        with pytest.raises(convert.ConvertError, match="no ceil extents"):
            convert.read_onnx(tmp_path / "net.onnx")
        return
    x = np.random.default_rng(0).standard_normal((2, *extent, 3)).astype(np.float32)
    truth = evaluator(onnx.load(tmp_path / "net.onnx")).run(None, {"x": x.transpose(0, 3, 1, 2)})
    y = convert.read_onnx(tmp_path / "net.onnx")(x).data
    np.testing.assert_array_equal(y.transpose(0, 3, 1, 2), truth[0])


def test_googlenet_by_caffes_names(tmp_path) -> None:
    """The model zoo's file: initialisers <layer>_w_0 and _b_0."""
    net = models.googlenet(num_classes=3, aux=False, seed=4)
    arrays = {}
    for layer, (w, b) in caffe_blobs(net).items():
        arrays |= {f"{layer}_w_0": w, f"{layer}_b_0": b}
    write(tmp_path / "net.onnx", [node("Identity", "x", "y")], arrays, outputs={"y": [3, 8, 8]})
    found = convert.convert(tmp_path / "net.onnx")
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(found.net.state_dict()[name], array, err_msg=name)


def test_files_that_are_no_onnx(tmp_path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07not a model")
    with pytest.raises(convert.ConvertError, match="no valid ONNX file"):
        convert.read_onnx(tmp_path / "a.onnx")
    write(tmp_path / "b.onnx", [node("Identity", "x", "y")], {}, outputs={"y": [3, 8, 8]})
    with pytest.raises(convert.ConvertError, match="no weights by Caffe's names"):
        convert.convert(tmp_path / "b.onnx")


def test_networks_that_onnx_cannot_say(tmp_path) -> None:
    class Doubled(pyi.Module):
        def forward(self, x):
            return x * 2.0

    with pytest.raises(convert.ConvertError, match=re.escape("ONNX has no node for Mul")):
        convert.export(Doubled(), (1, 4, 4, 3), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    "net, shape, words",
    [
        (lambda x: x, (1, 4, 4, 3), "export: net is a function, expected a Module"),
        (
            pyi.layers.Conv2d(3, 4, 3),
            (4, 4, 3),
            "export: input_shape is .4, 4, 3., expected .N, H, W",
        ),
        (pyi.layers.Conv2d(3, 4, 3), (1, 4, 0, 3), r"export: input_shape\[2\] is 0, expected 1"),
        (
            pyi.layers.Conv2d(3, 4, 3),
            (1, 4, 4, 5),
            r"conv2d: w has shape .*, expected .* = .4, 3, 3, 5.",
        ),
    ],
)
def test_what_is_no_network_or_shape_is_not_written(tmp_path, net, shape, words) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        convert.export(net, shape, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_an_empty_batch_is_exported_as_any_other(tmp_path, monkeypatch) -> None:
    """By one image: maps of none share addresses, by which the graph knows them."""
    traced: list[tuple[int, ...]] = []

    def trace(net, x):
        traced.append(x.shape)
        return tracing.trace(net, x)

    monkeypatch.setattr(onnx_export, "trace", trace)
    net = models.small_inception(3)
    for batch in (0, 1):
        convert.export(net, (batch, 12, 12, 3), tmp_path / f"{batch}.onnx")
    assert traced == [(1, 12, 12, 3)] * 2
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


def test_an_imported_graph_has_gradients(tmp_path) -> None:
    """Through a channel, a flatten of a map, a convolution: against differences in float64."""
    draw = np.random.default_rng(3)
    arrays = {
        "i": np.array(1), "one": np.array([1]), "s": np.array(0.5, np.float32),
        "w": draw.standard_normal((2, 1, 3, 3)).astype(np.float32),
        "m": draw.standard_normal((3, 2 * 3 * 2)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        node("Gather", "x i", "g", axis=1),
        node("Unsqueeze", "g one", "u"),
        node("Mul", "u s", "v"),
        node("Conv", "v w", "c"),
        node("Flatten", "c", "f"),
        node("Gemm", "f m", "y", transB=1),
    ]
    write(tmp_path / "net.onnx", nodes, arrays, shape=("N", 3, 5, 4), outputs={"y": [3]})
    net = convert.read_onnx(tmp_path / "net.onnx").astype(np.float64)
    pyi.gradcheck(net, draw.standard_normal((2, 5, 4, 3)))
