"""GoogLeNet's first three convolutions; the modules' own are parts of bench_module."""

import pytest

from pyinception.bench import shapes


@pytest.mark.parametrize("name", shapes.STEM)
@pytest.mark.parametrize("contender", ["fused", "torch", "openvino"])
def test_conv(compete, name, contender):
    compete("conv", name, contender)
