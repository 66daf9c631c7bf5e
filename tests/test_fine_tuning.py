"""Features at any endpoint, and training what stands above frozen parts."""

import numpy as np
import pytest

import pyinception as pyi
from pyinception import losses, models, optim

NETS = {
    "googlenet": (
        lambda: models.googlenet(num_classes=3, aux=False),
        224,
        ("pool2", "inception_3a"),
    ),
    "googlenet_bn": (lambda: models.googlenet_bn(num_classes=3, aux=False), 64, ("conv3", "pool3")),
    "small_inception": (lambda: models.small_inception(num_classes=3), 12, ("conv1", "inc3b")),
}


@pytest.mark.parametrize("name", NETS)
def test_endpoints_are_the_maps_of_forward(name):
    make, side, wanted = NETS[name]
    net = make().eval()
    x = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
    seen = {}
    for row in wanted:
        layer = getattr(net, row)
        inside = layer.forward

        def forward(x, inside=inside, row=row):
            seen[row] = inside(x)
            return seen[row]

        layer.__dict__["forward"] = forward
    net(x)
    expected = {row: y.data.copy() for row, y in seen.items()}
    found = net.endpoints(x, wanted)
    assert set(found) == set(wanted)
    for row, y in found.items():
        np.testing.assert_array_equal(y.data, expected[row])
    with pytest.raises(ValueError, match=r"endpoints: names has \['fc'\], expected some of conv1"):
        net.endpoints(x, ["fc"])


def step(net, sgd, labels, x):
    with pyi.rng.at(0, 0):
        losses.cross_entropy(net(x), labels).backward()
    sgd.step()


def test_what_is_frozen_keeps_every_bit():
    net = models.googlenet_cifar(num_classes=3, seed=1)
    for name in net.rows[:-2]:
        getattr(net, name).freeze()
    sgd = optim.SGD(net, 0.1, weight_decay=0.1)
    before = {name: array.copy() for name, array in net.state_dict().items()}
    draw = np.random.default_rng(0)
    x = draw.standard_normal((4, 8, 8, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0])
    for _ in range(2):
        step(net.train(), sgd, labels, x)
    moved = {name for name, a in net.state_dict().items() if not np.array_equal(a, before[name])}
    assert {name.split(".")[0] for name in moved} == {*net.rows[-2:], "fc"}
    assert any(name.endswith("norm.mean") for name in moved)  # those above do learn statistics
    names = {n for n, p in net.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in names} == {*net.rows[-2:], "fc"}
    for name in net.rows:
        getattr(net, name).freeze(False)
    step(net.train(), sgd, labels, x)
    assert not np.array_equal(net.state_dict()["conv1.conv.weight"], before["conv1.conv.weight"])


def test_gradients_pass_through_a_frozen_middle():
    """What stands below a frozen part learns the same as beside a part in evaluation."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2, 8, 8, 3)).astype(np.float32)
    gradients = []
    for freeze in (True, False):
        net = models.small_inception(num_classes=2, seed=3)
        middle = net.inc1a
        if freeze:
            net.train()
            middle.freeze()
        else:
            middle.eval()
        losses.cross_entropy(net(x), np.array([0, 1])).backward()
        gradients.append(net.conv1.conv.weight.grad)
        assert (middle.conv3x3.conv.weight.grad is None) == freeze
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_array_equal(*gradients)
