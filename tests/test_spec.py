"""Specs: extents, counts and refusals, against the published tables of GoogLeNet."""

from dataclasses import FrozenInstanceError, replace

import pytest

from pyinception.extents import padding_pair, pair
from pyinception.spec import (
    BatchNormSpec,
    BranchSpec,
    ConvSpec,
    DropoutSpec,
    InceptionSpec,
    LinearSpec,
    LrnSpec,
    PoolSpec,
)


def test_trunk_sides_of_googlenet() -> None:
    sides = [ConvSpec(1, 224, 224, 3, 64, 7, 7, (2, 2), (3, 3)).P]
    for _ in range(4):
        pool = PoolSpec("max", 1, sides[-1], sides[-1], 8, (3, 3), (2, 2), ceil_mode=True)
        sides.append(pool.P)
    assert sides == [112, 56, 28, 14, 7]
    assert PoolSpec("avg", 1, 7, 7, 8, (7, 7), (1, 1)).y_shape == (1, 1, 1, 8)
    assert PoolSpec("max", 1, 112, 112, 8, (3, 3), (2, 2)).P == 55  # floor would not do


def test_ceil_mode_drops_a_window_beyond_image_and_padding() -> None:
    # 5 + 2 = 7 cells, kernel 2, stride 2: ceil gives 4 windows, the last starting at 6 = H + p.
    spec = PoolSpec("max", 1, 5, 5, 1, (2, 2), (2, 2), (1, 1), ceil_mode=True)
    assert spec.P == 3


MODULES = {  # name: side, in, widths, weights, multiply-adds
    "3a": (28, 192, (64, 96, 128, 16, 32, 32), 163_328, 128_049_152),
    "4d": (14, 512, (112, 144, 288, 32, 64, 64), 604_672, 118_515_712),
    "5b": (7, 832, (384, 192, 384, 48, 128, 128), 1_442_816, 70_697_984),
}


@pytest.mark.parametrize("name", MODULES)
def test_module_counts(name: str) -> None:
    side, channels, widths, weights, macs = MODULES[name]
    spec = InceptionSpec.of_widths((1, side, side, channels), widths)
    assert spec.macs == macs
    assert spec.flops == 2 * macs
    assert spec.is_googlenet
    convs = [s for b in spec.branches for s in b.stages if isinstance(s, ConvSpec)]
    assert sum(c.K * c.R * c.S * c.C for c in convs) == weights
    assert spec.slices[-1].stop == spec.y_shape[3] == sum(widths[i] for i in (0, 2, 4, 5))
    assert spec.bytes < spec.bytes_unfused


def test_fused_bytes_leave_out_the_reduced_map() -> None:
    first = ConvSpec(2, 6, 5, 8, 3, 1, 1, relu=True)
    last = ConvSpec(2, 6, 5, 3, 4, 3, 3, (1, 1), (1, 1), True)
    spec = BranchSpec((first, last))
    assert spec.is_reduce_conv
    assert spec.bytes_unfused - spec.bytes == 2 * 4 * 2 * 6 * 5 * 3
    assert spec.macs == 2 * 6 * 5 * (8 * 3 + 9 * 3 * 4)
    assert not BranchSpec((replace(first, relu=False), last)).is_reduce_conv


def test_a_fork_ends_a_branch() -> None:
    first = ConvSpec(1, 8, 8, 6, 4, 1, 1, relu=True)
    row = ConvSpec(1, 8, 8, 4, 5, 1, 3, (1, 1), (0, 1), True)
    column = ConvSpec(1, 8, 8, 4, 7, 3, 1, (1, 1), (1, 0), True)
    spec = BranchSpec((first, (row, column)))
    assert spec.y_shape == (1, 8, 8, 12)
    assert spec.macs == first.macs + row.macs + column.macs
    with pytest.raises(ValueError, match="only the last stage may be a pair"):
        BranchSpec(((row, column), row))


def test_stages_and_branches_must_fit() -> None:
    first = ConvSpec(1, 8, 8, 6, 4, 1, 1)
    with pytest.raises(ValueError, match="the output of the stage before"):
        BranchSpec((first, ConvSpec(1, 8, 8, 5, 4, 3, 3)))
    with pytest.raises(ValueError, match="branches differ"):
        InceptionSpec((BranchSpec((first,)), BranchSpec((replace(first, stride=(2, 2)),))))


def test_the_callers_name_takes_no_part_in_comparison() -> None:
    a, b = (ConvSpec(1, 8, 8, 3, 4, 3, 3, function=name) for name in ("a", "b"))
    assert a == b
    assert hash(a) == hash(b)
    with pytest.raises(FrozenInstanceError):
        a.N = 2  # type: ignore[misc]


def test_empty_batch_is_legal() -> None:
    spec = ConvSpec(0, 8, 8, 3, 4, 3, 3)
    assert spec.y_shape == (0, 6, 6, 4)
    assert spec.macs == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvSpec(1, 4, 4, 3, 4, 7, 7), r"kernel \(R, S\) = \(7, 7\) is larger than"),
        (lambda: ConvSpec(1, 0, 4, 3, 4, 1, 1), "H is 0, expected 1"),
        (lambda: ConvSpec(-1, 4, 4, 3, 4, 1, 1), "N is -1, expected 0"),
        (lambda: ConvSpec(1, 4, 4, 3, 4, 1, 1, (0, 1)), "stride is 0, expected 1"),
        (lambda: ConvSpec(1, 4, 4, 3, 4, 1, 1, padding=(-1, 0)), "padding is -1"),
        (lambda: ConvSpec(1, 2**31, 4, 3, 4, 1, 1), "H is 2147483648"),
        (lambda: PoolSpec("sum", 1, 4, 4, 3, (2, 2), (2, 2)), "kind is 'sum'"),
        (lambda: PoolSpec("max", 1, 4, 4, 3, (2, 2), (2, 2), (2, 0)), "less than kernel"),
        (lambda: PoolSpec("max", 1, 40, 40, 3, (16, 16), (1, 1)), "at most 255 taps"),
        (lambda: LrnSpec(1, 4, 4, 3, size=4), "expected an odd number"),
        (lambda: LrnSpec(1, 4, 4, 3, k=0.0), "k > 0"),
        (lambda: LinearSpec(1, 0, 3), "C is 0"),
        (lambda: BatchNormSpec((1, 2), eps=0.0), "eps is 0.0"),
        (lambda: DropoutSpec((1, 2), p=1.0), "p is 1.0"),
        (lambda: BranchSpec(()), "stages is empty"),
        (lambda: padding_pair("f", "full", (3, 3)), "padding is 'full'"),
        (lambda: padding_pair("f", "same", (2, 3)), "expected an odd kernel"),
        (lambda: pair("f", "stride", (1, 2, 3), 1), "expected an int or a pair"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("value", [1.0, "1", None, True, [1.5, 2]])
def test_pairs_are_ints(value: object) -> None:
    with pytest.raises(TypeError, match="f: stride is"):
        pair("f", "stride", value, 1)


def test_padding_words() -> None:
    assert padding_pair("f", "same", (3, 5)) == (1, 2)
    assert padding_pair("f", "valid", (3, 5)) == (0, 0)
    assert padding_pair("f", 2, (3, 5)) == (2, 2)


@pytest.mark.parametrize("third", [3, 5, 7])
def test_the_third_branch_may_be_3x3(third):
    spec = InceptionSpec.of_widths((1, 9, 9, 4), (1, 2, 3, 4, 5, 6), third=third)
    assert spec.is_googlenet is (third in (3, 5))
    assert spec.branches[2].stages[1].kernel == (third, third)
    assert spec.y_shape == (1, 9, 9, 1 + 3 + 5 + 6)
