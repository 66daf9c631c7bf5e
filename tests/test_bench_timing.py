"""Samples taken in turns, and the loop that measures the peak beside them."""

import itertools

import pytest
from built import REASON, needs_core

from pyinception import backend

pytestmark = needs_core
if REASON is None:
    from pyinception.bench import fma, timing


def test_interleave_takes_turns(monkeypatch):
    monkeypatch.setattr(timing, "repetitions", lambda call: 2)
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = timing.interleave(calls, rounds=3)
    # one untimed call and two timed ones each turn, another competitor first each round
    assert "".join(order) == "aaabbbcccbbbcccaaacccaaabbb"
    assert [found[name].count for name in "abc"] == [3, 3, 3]
    with pytest.raises(ValueError, match="rounds is 0"):
        timing.interleave(calls, rounds=0)


def test_only_what_follows_a_spinning_team_waits_for_it(monkeypatch):
    """A clock that moves by 1 ms a look: a pause of n ms takes n untimed calls."""
    monkeypatch.setattr(timing, "repetitions", lambda call: 1)
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) / 1000)
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timing.interleave(calls, rounds=2, settle=0.0035, spinning={"b": 0.0105})
    # 1 + 10 or 1 + 3 untimed calls and a timed one; the very first may follow the team's own.
    long, short = 12, 5
    first = "a" * long + "b" * short + "c" * long
    assert "".join(order) == first + "b" * short + "c" * long + "a" * short


def test_timing_has_the_percentiles_of_its_samples():
    found = timing.Timing.of([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (found.median, found.p20, found.p80, found.count) == (3.5, 2.0, 5.0, 6)


def test_fma_loop_computes_what_it_counts():
    for level, floats in (("x86-64-v3", 8), ("x86-64-v4", 16)):
        code = fma.assemble(floats)
        # The body: twelve multiply-adds of 5 or 6 bytes, dec, jnz back over all of them.
        assert code.count(b"\xb8") >= fma.SUMS
        length = fma.SUMS * (5 if floats == 8 else 6) + 3 + 6
        at = code.index(b"\x0f\x85") + 6
        assert int.from_bytes(code[at - 4 : at], "little", signed=True) == -length
        if level in backend.core().levels():
            loop = fma.FmaLoop(1, level, count=1000)
            assert loop.flops == 2 * floats * 12 * 1000
            assert loop() > 1
    with pytest.raises(OSError, match="level is 'neon'"):
        fma.FmaLoop(1, "neon")


def test_peak_is_above_any_convolution_and_has_a_stand_in(monkeypatch):
    peak = timing.Peak(1)
    assert peak.measure(20) > 1
    assert len(peak.rates) == 20 and peak.best == max(peak.rates)
    assert "register-only" in peak.method

    def forbidden(*arguments):
        raise OSError("no new machine code")

    monkeypatch.setattr(timing, "FmaLoop", forbidden)
    stand_in = timing.Peak(1)
    assert "1x1 convolution" in stand_in.method and "no new machine code" in stand_in.method
    assert stand_in.measure(20) > 0
