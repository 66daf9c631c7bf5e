"""The networks written as rows: published counts, the rows' language, folding, features."""

import numpy as np
import pytest

import pyinception as pyi
from pyinception import losses, models, workspace
from pyinception.layers import ConvBatchNorm, fold_batch_norms
from pyinception.models.rows import Mixed, batch_norm_unit, build, plain_unit
from pyinception.spec import BranchSpec
from pyinception.tracing import specs

# function, arguments, image side, parameters, multiply-adds (None: none published)
COUNTS = [
    ("googlenet_bn", {"aux": False}, 224, 6_624_904, 1_498_376_192),
    ("googlenet_bn", {}, 224, 13_004_888, 1_498_376_192),
    ("bn_inception", {}, 224, 11_285_224, 2_032_600_064),
    ("bn_inception", {"slim": True}, 224, 11_194_984, 2_018_851_840),
    ("inception_v3", {"aux": False}, 299, 23_834_568, 5_713_216_096),
    ("inception_v3", {}, 299, 27_161_264, 5_713_216_096),
    ("inception_v4", {}, 299, 42_679_816, 12_253_974_624),
    ("inception_resnet_v2", {}, 299, 55_843_464, 13_155_794_016),
    ("xception", {}, 299, 22_855_952, 8_357_403_496),
    ("googlenet_cifar", {}, 32, 6_166_250, 1_521_756_160),
    ("googlenet_cifar", {"pairs": False}, 32, 5_998_362, None),
]


@pytest.mark.parametrize(("name", "how", "side", "parameters", "macs"), COUNTS)
def test_counts(name: str, how: dict[str, bool], side: int, parameters: int, macs: int) -> None:
    net = getattr(models, name)(**how)
    assert net.count_parameters() == parameters
    if macs is not None:
        assert sum(spec.macs for _, _, spec in specs(net, (1, side, side, 3))) == macs


# name: (side, row -> (H, W, C) of its map)
SIZES = {
    "inception_v2": (299, {"conv4b": (35, 35, 288), "mixed_5d": (35, 35, 288),
                           "mixed_6e": (17, 17, 768), "mixed_7c": (8, 8, 2048)}),
    "inception_v3": (299, {"pool2": (35, 35, 192), "mixed_5b": (35, 35, 256),
                           "mixed_7a": (8, 8, 1280)}),
    "bn_inception": (224, {"inception_3c": (14, 14, 576), "inception_4c": (14, 14, 608),
                           "inception_4e": (7, 7, 1056), "inception_5b": (7, 7, 1024)}),
    "network_in_network": (224, {"pool1": (27, 27, 96), "pool3": (6, 6, 384),
                                 "mlp4b": (6, 6, 1000)}),
    "xception": (299, {"conv2": (147, 147, 64), "block3": (37, 37, 256), "block12": (19, 19, 728),
                       "block13": (10, 10, 1024), "block14b": (10, 10, 2048)}),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_maps(name: str) -> None:
    side, expected = SIZES[name]
    net = getattr(models, name)()
    with workspace.record():  # shapes only, nothing computed
        found = net.eval().endpoints(np.empty((1, side, side, 3), np.float32), expected)
    assert {row: y.shape[1:] for row, y in found.items()} == expected


def randomised(net: pyi.Module, seed: int = 0) -> pyi.Module:
    draw = np.random.default_rng(seed)
    for name, buffer in net.named_buffers():
        low, high = (0.5, 1.5) if name.endswith("var") else (-0.2, 0.2)
        buffer.data[...] = draw.uniform(low, high, buffer.data.shape)
    for name, parameter in net.named_parameters():
        if name.endswith(("gamma", "beta")):
            parameter.data[...] = draw.uniform(0.2, 0.9, parameter.data.shape)
    return net.eval()


BLOCKS = {
    "chain of three": "1x1 16 > 3x3 24 > 3x3 20 | avg 3x3 > 1x1 8",
    "asymmetric": "1x1 8 | 1x1 8 > 1x7 12 > 7x1 16",
    "halving": "3x3/2v 8 | 1x1 8 > 3x3/2v 12 | max 3x3/2v",
    "fork": "1x1 8 > 1x3 8 & 3x1 12 | 1x1 8 > 3x3 12 > 1x3 8 & 3x1 4",
    "residual": "res 0.3 1x1 8 | 1x1 8 > 3x3 12",
    "residual without ReLU": "res 1.0 linear 1x1 8 > 3x3 12",
    "separable": "1x1 8 | sep 3x3 12 > sep 1x5 8",
    "separable sum": "1x1/2 12 linear + relu > sep 3x3 8 > sep 3x3 12 linear > max 3x3/2",
    "separable sum with x": "x + relu > sep 3x3 8 > sep 3x3 {} linear",
}


class Around(pyi.Module):
    def __init__(self, layer: pyi.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: pyi.Tensor) -> pyi.Tensor:
        return self.layer(x)


@pytest.mark.parametrize("text", BLOCKS.values(), ids=BLOCKS)
def test_blocks_fold_and_replay(text: str) -> None:
    """Folded = unfolded within 1e-5, in a session too; nothing is copied to concatenate."""
    net = Around(build("block", text.format(10), 10, batch_norm_unit())[0])
    pyi.init.initialise(net, 1)
    randomised(net)
    x = np.random.default_rng(1).standard_normal((2, 9, 11, 10)).astype(np.float32)
    before = sum(workspace.copies.values())
    y = net(x).data
    folded = fold_batch_norms(net)
    results = [folded(x).data, pyi.Session(net, x.shape)(x), pyi.Session(folded, x.shape)(x)]
    assert sum(workspace.copies.values()) == before
    assert np.abs(y).max() > 0
    for other in results:
        assert np.abs(other - y).max() <= 1e-5 * np.abs(y).max()
    assert not any(isinstance(m, ConvBatchNorm) for m in folded.modules())
    assert any(isinstance(m, ConvBatchNorm) for m in net.modules())


@pytest.mark.parametrize("bias", [False, 0.3])
def test_a_convolution_with_its_norm_is_one_convolution(bias: float | bool) -> None:
    net = ConvBatchNorm(5, 7, 3, 2, bias=bias)
    pyi.init.initialise(net, 3)
    randomised(net)
    x = np.random.default_rng(5).standard_normal((2, 7, 6, 5)).astype(np.float32)
    y = net(x).data
    assert np.abs(fold_batch_norms(net)(x).data - y).max() <= 1e-5 * np.abs(y).max() > 0


@pytest.mark.parametrize("text", BLOCKS.values(), ids=BLOCKS)
def test_gradients_of_blocks(text: str) -> None:
    """Batch norms in training, against differences in float64."""
    layer, _ = build("block", text.format(6), 6, batch_norm_unit())
    net = Around(layer)
    pyi.init.initialise(net, 2)
    randomised(net).train()
    x = np.random.default_rng(3).standard_normal((2, 5, 6, 6))
    pyi.gradcheck(net.astype(np.float64), x)


def test_a_1x1_and_its_successor_run_fused() -> None:
    text = "1x1 16 > 3x3 24 > 3x3 20 | 1x1 8 > 1x7 8"
    net = Around(build("block", text, 10, plain_unit)[0])
    noted = [spec for _, _, spec in specs(net, (1, 9, 9, 10))]
    assert sum(isinstance(spec, BranchSpec) for spec in noted) == 2 and len(noted) == 3


def test_network_steps_and_remembers(tmp_path: object) -> None:
    net = models.googlenet_cifar(num_classes=3, seed=1)
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    loss = losses.cross_entropy(net(x), np.array([0, 1, 2, 0]))
    loss.backward()
    assert all(p.grad is not None and np.isfinite(p.grad).all() for p in net.parameters())
    net.save(f"{tmp_path}/net.safetensors")
    other = models.googlenet_cifar(num_classes=3, seed=9)
    other.load(f"{tmp_path}/net.safetensors")
    np.testing.assert_array_equal(net.eval()(x).data, other.eval()(x).data)


def test_separable_stem_counts_as_the_paper_prints() -> None:
    """Table 1's first row: 2.7K parameters, 34M operations; the whole as section 1.7 has it."""
    net = models.googlenet(aux=False, separable_stem=True)
    sizes = {name: p.data.size for name, p in net.named_parameters() if name.endswith("weight")}
    assert sizes["conv1.depthwise.weight"] + sizes["conv1.pointwise.weight"] == 2_712
    assert sum(sizes.values()) == 6_983_576
    found = specs(net, (1, 224, 224, 3))
    assert sum(spec.macs for _, _, spec in found[:2]) == 34_019_328
    assert sum(spec.macs for _, _, spec in found) == 1_498_677_248


def test_a_small_xception_learns() -> None:
    """A few steps of SGD on one batch of shapes: every weight moves and the loss falls."""
    from pyinception.data.shapes import Shapes
    from pyinception.models.rows import Network
    from pyinception.optim import SGD

    rows = (
        ("conv1", "3x3/2 8"),
        ("block2", "1x1/2 16 linear + sep 3x3 16 > sep 3x3 16 linear > max 3x3/2"),
        ("block3", "x + relu > sep 3x3 16 > sep 3x3 16 linear"),
        ("block4", "sep 3x3 32"),
    )
    net = Network(rows, 8, 3, batch_norm_unit())
    pyi.init.initialise(net, 0)
    pictures = Shapes("train", count=24)
    x, labels = pictures.images(range(24)), pictures.labels
    optimizer = SGD(net, 0.1, momentum=0.9)
    before = {name: p.data.copy() for name, p in net.named_parameters()}
    history = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = losses.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        history.append(float(loss.data))
    assert history[-1] < 0.85 * history[0], history
    assert all((p.data != before[name]).any() for name, p in net.named_parameters())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3x3", "can't read the stage '3x3'"),
        ("max 3x3 64", "can't read the stage 'max 3x3 64'"),
        ("1x1 8 | 3x3/x 8", "row name: can't read the stage '3x3/x 8'"),
        ("1x1 8 > ", "can't read the stage ''"),
        ("sep 3x3", "can't read the stage 'sep 3x3'"),
        ("x + 1x1 8", r"row name: the sides of \+ have 4 and 8 channels"),
    ],
)
def test_rows_that_say_nothing(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build("name", text, 4, plain_unit)


def test_unknown_endpoint() -> None:
    net = models.googlenet_cifar()
    with pytest.raises(
        ValueError, match=r"endpoints: names has \['conv9'\], expected some of conv1"
    ):
        net.endpoints(np.zeros((1, 32, 32, 3), np.float32), ["conv9"])


def test_modules_differ_in_extents() -> None:
    net = Around(Mixed(4, [([], [plain_unit(4, 8, 3, 1, "same", relu=True)], 8),
                           ([], [plain_unit(4, 8, 3, 2, "same", relu=True)], 8)]))  # fmt: skip
    with pytest.raises(ValueError, match="out has shape"):
        net(np.zeros((1, 8, 8, 4), np.float32))


def test_adaptive_average_matches_torchs_cells() -> None:
    x = np.arange(2 * 14 * 14 * 3, dtype=np.float32).reshape(2, 14, 14, 3)
    y = pyi.ops.AdaptiveAvgPool(4)(pyi.Tensor(x)).data
    starts = (0, 3, 7, 10)
    expected = [[x[:, r : r + 4, s : s + 4].mean((1, 2)) for s in starts] for r in starts]
    np.testing.assert_allclose(y, np.moveaxis(np.array(expected), (0, 1), (1, 2)), rtol=1e-6)
    double = np.random.default_rng(0).standard_normal((2, 5, 7, 3))
    pyi.gradcheck(lambda t: pyi.ops.AdaptiveAvgPool(4)(t), double)
