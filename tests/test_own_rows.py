"""A network by a table of rows in a recipe: read, built, refused, trained, taken up again."""

import numpy as np
import pytest

from pyinception.layers import ConvBatchNorm, MaxPool2d
from pyinception.models.rows import Mixed
from pyinception.train import RecipeError, RunError, train
from pyinception.train.networks import build, read_rows

ROWS = """
stem   3x3 8
pool1  max 3x3/2
mixed  1x1 4 | 1x1 4 > 3x3 8 | max 3x3 > 1x1 4
"""


def test_rows_are_layers_in_order() -> None:
    assert read_rows("a 3x3 8;  b  max 3x3/2 ;") == [("a", "3x3 8"), ("b", "max 3x3/2")]
    net = build(ROWS, 5, (8, 8, 1), seed=1)
    assert net.rows == ["stem", "pool1", "mixed"]
    kinds = [type(getattr(net, name)) for name in net.rows]
    assert kinds == [ConvBatchNorm, MaxPool2d, Mixed] and net.mixed.out_channels == 16
    assert net(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 5)
    again = build(ROWS.replace("\n", ";"), 5, (8, 8, 1), seed=1)
    for mine, other in zip(net.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(mine.data, other.data)


@pytest.mark.parametrize(
    "rows, words",
    [
        ("stem 3x3 8; mixed", "row 'mixed' has no stages"),
        ("stem 3x3 8; pool max 3x3/2", "'pool' cannot be the name of a row"),
        ("stem 3x3 8; forward 3x3 8", "'forward' cannot be the name of a row"),
        ("stem 3x3 8; a-b 3x3 8", "'a-b' cannot be the name of a row"),
        ("stem 3x3 8; stem 3x3 8", "two rows are called 'stem'"),
        ("stem 3x3", "row stem: can't read the stage '3x3'"),
        ("stem 9x9v 8", "the network takes no images of 8 x 8"),
    ],
)
def test_refusals(rows: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build(rows, 5, (8, 8, 1), seed=0)


def test_a_run_keeps_its_table(tmp_path) -> None:
    for module in ("sklearn", "matplotlib", "tomli_w"):
        pytest.importorskip(module, reason="extra `train`")
    given = {"data": "digits", "model": ROWS, "size": 8, "count": 64, "epochs": 1}
    train(given, tmp_path / "run", with_baselines=False)
    assert (
        'model = "stem 3x3 8; pool1 max 3x3/2; mixed 1x1'
        in (tmp_path / "run/config.toml").read_text()
    )
    again = train({"epochs": 2}, tmp_path / "run", resume=True, with_baselines=False)
    once = train(given | {"epochs": 2}, tmp_path / "once", with_baselines=False)
    assert again.weights_sha256 == once.weights_sha256 and again.epochs == 2
    with pytest.raises(RunError, match="model is"):
        train({"model": ROWS.replace("3x3 8", "3x3 9")}, tmp_path / "run", resume=True)
