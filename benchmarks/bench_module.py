"""GoogLeNet's nine modules in one call, as seven kernels and a concatenation, and elsewhere."""

import pytest

from pyinception.bench import shapes


@pytest.mark.parametrize("name", shapes.MODULES)
def test_module(compete, name, contender):
    compete("module", name, contender)
