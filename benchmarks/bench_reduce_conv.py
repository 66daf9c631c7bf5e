"""The 18 branches 1x1 -> KxK of GoogLeNet, fused, unfused and in other libraries."""

import pytest

from pyinception.bench import shapes


@pytest.mark.parametrize("name", shapes.BRANCHES)
def test_reduce_conv(compete, name, contender):
    compete("branch", name, contender)
