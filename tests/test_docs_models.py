"""The table of docs/models.md says what the networks have."""

import re
from pathlib import Path

import numpy as np
import pytest

from pyinception import models
from pyinception.tracing import specs

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"


def rows() -> list[list[str]]:
    lines = re.findall(
        r"^\| `(\w+)(?:\((.*?)\))?` \|(.*)\|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    return [[name, how, *(cell.strip() for cell in rest.split("|"))] for name, how, rest in lines]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]} {row[1]}")
def test_the_table(row: list[str]) -> None:
    name, how, _, parameters, macs, side = row
    options = {key: value == "True" for key, _, value in [how.partition("=")] if key}
    counts = [int(n.replace(",", "")) for n in re.findall(r"[\d,]{7,}", parameters)]
    if name == "small_inception":
        net = models.small_inception()
        sizes = {n: p.data.size for n, p in net.named_parameters() if ".norm." not in n}
        assert sum(sizes.values()) == counts[0]
    else:
        build = getattr(models, name)
        net = build(**options, aux=False) if "aux" in build.__kwdefaults__ else build(**options)
        assert net.count_parameters() == counts[0]
        assert len(counts) == 1 or build(**options).count_parameters() == counts[1]
    total = sum(spec.macs for _, _, spec in specs(net, (1, int(side), int(side), 3)))
    digits = len(macs.partition(".")[2].split()[0])
    assert np.isclose(total / 1e9, float(macs.split()[0]), atol=0.5001 * 10**-digits)
