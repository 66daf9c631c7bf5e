"""A storm over the lifetimes of borrowed arrays: ``python tests/storm.py [ROUNDS] [SEED]``.

Every round exports arrays, uses some, and lets go of exports, views and results in any order, in
several threads, with the garbage collector between. In the end every export's deleter has been
called once. Exits with an error otherwise; `test_storm.py` runs it, `.ci/asan` under sanitizers.
"""

import gc
import random
import sys
import threading
from typing import Any

import numpy as np
import producer
from producer import Produced

import pyinception as pyi
from pyinception import border

draw = np.random.default_rng(0)
X = draw.integers(-4, 5, (1, 4, 5, 3)).astype(np.float32)
W = draw.integers(-4, 5, (2, 3, 3, 3)).astype(np.float32)
Y = pyi.conv2d(X, W, padding=1, backend="reference")


class Doubtful(Produced):
    """Its capsules go astray: never taken, taken twice, or of a kind that is refused."""

    kept: Any = None

    def __dlpack__(self, **options: Any) -> Any:
        if self.kept is None:
            self.kept = super().__dlpack__(**options)
        return self.kept


def export(dice: random.Random, array: np.ndarray, kind: type[Produced] = Produced) -> Produced:
    version = dice.choice([None, (1, 0), (1, 2)])
    return kind(array, version=version, offset=dice.choice([0, 4, 64]))


def used(dice: random.Random) -> tuple[list[Any], list[Produced]]:
    """A call on exports; what may be let go of, and the exports."""
    given = [export(dice, X), export(dice, W)]
    out = export(dice, np.full(Y.shape, np.nan, np.float32)) if dice.random() < 0.5 else None
    y = pyi.conv2d(*given, padding=1, layout="NHWC", out=out)
    assert np.array_equal(y.array, Y)
    exports = given + ([out] if out is not None else [])
    return [*given, out, y, y.array[:, 1:], np.from_dlpack(y.array)], exports


def viewed(dice: random.Random) -> tuple[list[Any], list[Produced]]:
    """Views of views that outlive what they came from."""
    given = export(dice, X)
    view = border.intake("storm", "x", given)
    assert np.array_equal(view, X)
    return [given, view, view[:, 1:], view.transpose(0, 3, 1, 2)[..., ::2]], [given]


def known(dice: random.Random) -> tuple[list[Any], list[Produced]]:
    """NumPy's arrays, whose calls are known by looks; results and views outlive each other."""
    x = X.copy() if dice.random() < 0.5 else X
    y = pyi.conv2d(x, W, padding=1)
    z = pyi.max_pool2d(y, 3, 1, 1, return_argmax=True)
    assert np.array_equal(y, Y) and z[1].max() < 9
    return [x, y, y[..., 1:], z, z[1].transpose(0, 3, 1, 2), np.from_dlpack(y)], []


def astray(dice: random.Random) -> tuple[list[Any], list[Produced]]:
    """A capsule that nobody takes, one that is taken twice, one that is refused when opened."""
    idle = export(dice, X)
    capsule = idle.__dlpack__() if idle.version is None else idle.__dlpack__(max_version=(1, 0))
    twice = export(dice, X, Doubtful)
    view = border.intake("storm", "x", twice)
    wrong = Produced(X, dtype=(4, 16, 1))
    for bad in (twice, wrong, Produced(X, version=(9, 0))):
        try:
            pyi.conv2d(bad, W, padding=1, layout="NHWC")
        except TypeError:
            continue
        raise AssertionError("a bad capsule was taken")
    return [capsule, view, twice, idle, wrong], [idle, twice, wrong]


def rounds(seed: int, count: int, exports: list[Produced]) -> None:
    dice = random.Random(seed)
    held: list[Any] = []
    for number in range(count):
        things, made = dice.choice([used, viewed, known, astray])(dice)
        exports += made
        held += things
        del things, made
        dice.shuffle(held)
        del held[dice.randrange(len(held) + 1) :]
        if number % 97 == 0:
            loop: list[Any] = [held[:3]]
            loop.append(loop)  # a cycle: only the collector ends these
            del loop
            gc.collect(dice.randrange(3))
        if len(held) > 200:
            held.clear()


def storm(count: int, seed: int = 0, threads: int = 4) -> int:
    """Run ``count`` rounds in ``threads`` threads; the number of exports, each deleted once."""
    before, exports = producer.alive(), [[] for _ in range(threads)]  # type: ignore[var-annotated]
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            rounds(seed + number, count // threads, exports[number])
        except BaseException as failure:
            failures.append(failure)

    team = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    if failures:
        raise failures[0]
    every = [export for part in exports for export in part]
    for export_ in every:
        if isinstance(export_, Doubtful):
            export_.kept = None
    gc.collect()
    calls = [number for export_ in every for number in export_.calls()]
    wrong = [number for number in calls if number != 1]
    assert not wrong, f"{len(wrong)} of {len(calls)} deleters were not called once: {wrong[:5]}"
    assert producer.deleted.get(0, 0) == 0, "a deleter was called for memory already let go of"
    assert producer.alive() == before
    return len(calls)


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]]
    total = storm(*(arguments or [10_000]))
    # Left behind for the end of the process: the interpreter must survive its own exit.
    sys.modules["__main__"].left = [
        used(random.Random(i)) + viewed(random.Random(i)) for i in range(9)
    ]
    sys.stdout.write(f"{total} exports, one deleter call each\n")
