"""googlenet_bn and inception_v3, weights moved through `convert`, against torch in float64."""

import numpy as np
import pytest
from reference_cases import relative_error

torch = pytest.importorskip("torch", reason="torch is not installed (extra `oracles`)")

import torch_family  # noqa: E402

import pyinception as pyi  # noqa: E402
from pyinception import losses  # noqa: E402
from pyinception.convert import torchvision  # noqa: E402
from pyinception.layers import Dropout, fold_batch_norms  # noqa: E402

CASES = {
    "googlenet_bn": (torch_family.GoogLeNet, 224, 7),
    "inception_v3": (torch_family.InceptionV3, 299, 5),
}


@pytest.mark.parametrize("name", CASES)
def test_forward_folded_and_session(name: str) -> None:
    make, side, classes = CASES[name]
    torch.manual_seed(0)
    theirs = torch_family.randomised(make(classes))
    state = {key: value.numpy().copy() for key, value in theirs.state_dict().items()}
    net, found, _ = torchvision.build(state, None)
    assert found == name
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        truth = [y.numpy() for y in theirs.double()(x.double())]
    images = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))
    assert relative_error(net(images).data, truth[0]) <= 1e-5
    folded = fold_batch_norms(net)
    assert relative_error(folded(images).data, truth[0]) <= 1e-5
    assert relative_error(pyi.Session(folded, images.shape)(images), truth[0]) <= 1e-5
    for module in net.modules():  # heads run in training only: norms frozen, dropout off
        module.training = not hasattr(module, "momentum") and not isinstance(module, Dropout)
    outputs = net(images)
    assert len(outputs) == len(truth)
    for ours, expected in zip(outputs, truth, strict=True):
        assert relative_error(ours.data, expected) <= 1e-5


def test_gradients_of_a_training_step() -> None:
    """Batch statistics, both heads: median and worst not above twice torch fp32's own."""
    torch.manual_seed(0)
    theirs = torch_family.randomised(torch_family.GoogLeNet(4)).train()
    state = {key: value.numpy().copy() for key, value in theirs.state_dict().items()}
    net, _, _ = torchvision.build(state, None)
    net.train()
    for module in net.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    x = torch.randn(4, 3, 224, 224)
    labels = torch.tensor([0, 3, 1, 2])

    def torch_gradients(model, images):
        model.zero_grad()
        logits, aux1, aux2 = model(images)
        loss = torch.nn.functional.cross_entropy
        value = loss(logits, labels) + 0.3 * (loss(aux1, labels) + loss(aux2, labels))
        value.backward()
        return {key: p.grad.double().numpy().copy() for key, p in model.named_parameters()}

    single = torch_gradients(theirs, x)
    double = torch_gradients(theirs.double(), x.double())
    images = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))
    losses.cross_entropy(net(images), labels.numpy()).backward()
    ours, torchs = [], []
    for own, parameter in net.named_parameters():
        key = torchvision.googlenet_name(own)
        truth = torchvision.as_ours(own, double[key])
        ours.append(relative_error(parameter.grad, truth))
        torchs.append(relative_error(torchvision.as_ours(own, single[key]), truth))
    assert np.median(ours) <= 2 * np.median(torchs), (np.median(ours), np.median(torchs))
    assert max(ours) <= 2 * max(torchs), (max(ours), max(torchs))
