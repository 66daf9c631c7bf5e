"""Models against the published tables: names, counts, shapes, multiply-adds."""

import numpy as np
import pytest

import pyinception as pyi
from pyinception import losses, optim
from pyinception.spec import ConvSpec, InceptionSpec, LinearSpec
from pyinception.tracing import specs

# name: multiply-adds at 224x224 (facts of Caffe's bvlc_googlenet/train_val.prototxt)
MODULE_MACS = (
    128_049_152, 304_267_264, 73_608_192, 87_908_352, 99_850_240, 118_515_712, 169_996_288,
    51_079_168, 70_697_984,
)  # fmt: skip
HEADS_MACS = 8_372_224


@pytest.fixture(scope="module")
def net() -> pyi.models.GoogLeNet:
    return pyi.models.googlenet()


def test_googlenet_parameters(net: pyi.models.GoogLeNet) -> None:
    sizes = {name: p.data.size for name, p in net.named_parameters()}
    heads = sum(size for name, size in sizes.items() if name.startswith("aux"))
    assert (sum(sizes.values()), heads) == (13_378_280, 6_379_728)
    assert net.count_parameters() == 13_378_280
    assert pyi.models.googlenet(aux=False).count_parameters() == 6_998_552
    for name in (
        "conv1.weight", "conv2_reduce.bias", "conv2.weight", "inception_3a.conv1x1.weight",
        "inception_4e.reduce5x5.bias", "inception_5b.pool_proj.weight", "aux1.conv.weight",
        "aux2.fc1.bias", "aux1.fc2.weight", "fc.weight",
    ):  # fmt: skip
        assert name in sizes
    assert len(sizes) == 2 * (3 + 9 * 6 + 2 * 3 + 1)


def test_googlenet_initial_weights(net: pyi.models.GoogLeNet) -> None:
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            classifier = name in ("fc.bias", "aux1.fc2.bias", "aux2.fc2.bias")
            np.testing.assert_array_equal(parameter.data, np.float32(0 if classifier else 0.2))
            assert (parameter.lr_mult, parameter.decay_mult) == (2, 0)
        else:
            bound = np.sqrt(3 / np.prod(parameter.shape[1:]))
            assert 0.95 * bound < np.abs(parameter.data).max() <= bound
            assert (parameter.lr_mult, parameter.decay_mult) == (1, 1)


def test_googlenet_multiply_adds(net: pyi.models.GoogLeNet) -> None:
    noted = [spec for _, _, spec in specs(net, (1, 224, 224, 3))]
    assert sum(spec.macs for spec in noted) == 1_582_671_872
    modules = [spec for spec in noted if isinstance(spec, InceptionSpec)]
    assert tuple(spec.macs for spec in modules) == MODULE_MACS
    assert [spec.y_shape[1:] for spec in modules][::4] == [
        (28, 28, 256), (14, 14, 512), (7, 7, 1024)
    ]  # fmt: skip
    convs = [spec.y_shape for spec in noted if isinstance(spec, ConvSpec)]
    assert convs == [(1, 112, 112, 64), (1, 56, 56, 64), (1, 56, 56, 192)]
    assert [spec.K for spec in noted if isinstance(spec, LinearSpec)] == [1000]
    assert sum(spec.macs for _, _, spec in specs(net, (3, 224, 224, 3))) == 3 * 1_582_671_872


def test_head_multiply_adds() -> None:
    total = 0
    for head, channels in (("aux1", 512), ("aux2", 528)):
        part = getattr(pyi.models.googlenet(), head)
        total += sum(spec.macs for _, _, spec in specs(part, (1, 14, 14, channels)))
    assert total == HEADS_MACS


def test_googlenet_outputs_and_a_step() -> None:
    """One forward, backward and update at full size, through whatever runs fastest here."""
    net = pyi.models.googlenet(num_classes=7)
    x = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)
    outputs = net(x)
    assert [y.shape for y in outputs] == [(1, 7)] * 3
    losses.cross_entropy(outputs, np.array([3])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert np.isfinite(parameter.grad).all(), name
        assert np.abs(parameter.grad).max() > 0, name
    optim.SGD(net, 0.01).step()
    assert net.eval()(x).shape == (1, 7)


def test_same_seed_same_network() -> None:
    a, b, c = (pyi.models.small_inception(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["fc.weight"], c["fc.weight"])


@pytest.mark.parametrize(("side", "macs"), [(28, 204.2e6), (32, 266.7e6)])
def test_small_inception_counts(side: int, macs: float) -> None:
    net = pyi.models.small_inception()
    sizes = {name: p.data.size for name, p in net.named_parameters()}
    assert sum(size for name, size in sizes.items() if ".norm." not in name) == 1_649_402
    assert sum(size for name, size in sizes.items() if ".norm." in name) == 3_424
    noted = specs(net, (1, side, side, 3))
    assert sum(spec.macs for _, _, spec in noted) == pytest.approx(macs, abs=0.06e6)


def test_small_inception_copies_nothing_to_concatenate() -> None:
    from pyinception import workspace

    net = pyi.models.small_inception(num_classes=4, in_channels=1)
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 1)).astype(np.float32)
    before = sum(workspace.copies.values())
    losses.cross_entropy(net(x), np.array([0, 3])).backward()
    assert sum(workspace.copies.values()) == before
    assert all(p.grad is not None for p in net.parameters())


def test_small_inception_learns_and_remembers(tmp_path: object) -> None:
    net = pyi.models.small_inception(num_classes=2, in_channels=1)
    sgd = optim.SGD(net, 0.05)
    draw = np.random.default_rng(1)
    x = draw.standard_normal((8, 8, 8, 1)).astype(np.float32)
    labels = np.arange(8) % 2
    x[labels == 1, 2:5, 2:5] += 2
    values = []
    for _ in range(4):
        loss = losses.cross_entropy(net(x), labels)
        loss.backward()
        sgd.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]
    path = f"{tmp_path}/net.safetensors"
    net.save(path)
    other = pyi.models.small_inception(num_classes=2, in_channels=1, seed=9)
    other.load(path)
    np.testing.assert_array_equal(net.eval()(x).data, other.eval()(x).data)
