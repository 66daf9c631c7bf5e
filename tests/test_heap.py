"""The heap of large results: blocks apart, free ones taken again, pages given back."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from pyinception import workspace

LIKE = np.empty(0, np.float32)
PAGE = 4096


def place(array):
    begin = array.__array_interface__["data"][0]
    return begin, begin + array.nbytes


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_blocks_that_live_at_once_are_apart_and_keep_their_numbers():
    draw = np.random.default_rng(1)
    held: dict[int, np.ndarray] = {}
    for turn in range(600):
        if held and draw.random() < 0.5:
            number = draw.choice(list(held))
            assert (held.pop(number) == number).all()
        elements = int(draw.choice([10, 32767, 32768, 40000, 100_003, 700_000]))
        array = workspace.empty((elements,), LIKE)
        begin, end = place(array)
        assert begin % workspace.ALIGNMENT == 0
        for other in held.values():
            first, last = place(other)
            assert end <= first or last <= begin
        array.fill(turn)
        held[turn] = array
    assert all((array == number).all() for number, array in held.items())


def test_a_round_of_blocks_takes_no_fresh_page_the_second_time():
    shapes = [(3, 1000, 1000), (8, 112, 112, 64), (5, 40_000), (8, 56, 56, 192)]

    def one_round() -> list[int]:
        arrays = [workspace.empty(shape, LIKE) for shape in shapes]
        for array in arrays:
            array.fill(1)
        return [place(array)[0] for array in arrays]

    first = one_round()
    before = faults()
    assert one_round() == first
    assert faults() - before < 50  # 58 MB have 14,000 small pages


FRESH = """
import numpy as np
from pyinception import workspace
take = lambda elements: workspace.empty((elements,), np.empty(0, np.float32))
place = lambda array: array.__array_interface__["data"][0]
parts = [take(1 << 20) for _ in range(8)]
places = sorted(map(place, parts))
assert places == [places[0] + i * (1 << 22) for i in range(8)], places
last = take(1 << 20)
for i in (3, 5, 4, 0, 7, 1, 2, 6):  # joined with the one below, the one above, both, neither
    parts[i] = None
assert place(take(8 << 20)) == places[0]
assert place(take(1 << 20)) == places[0]  # the smallest that fits, not what lies behind `last`
"""


def test_free_neighbours_join_and_the_smallest_that_fits_is_taken():
    subprocess.run([sys.executable, "-c", FRESH], check=True, timeout=60)


def test_release_gives_pages_back_and_they_can_be_taken_again():
    array = workspace.empty((64 << 20,), LIKE)
    array.fill(1)
    kept = workspace.empty((1 << 20,), LIKE)
    kept.fill(7)
    before = resident()
    del array
    assert resident() > before - (32 << 20)  # kept for the next one
    assert workspace.release() >= 254 << 20
    assert resident() < before - (200 << 20)
    assert (kept == 7).all()
    again = workspace.empty((64 << 20,), LIKE)
    again.fill(2)
    assert (again[::4096] == 2).all()
