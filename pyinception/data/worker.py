"""A worker process of `workers.Workers`: batches of pictures on request, until its input ends.

    stdin   one line per batch: the number of a slot, a blank, a `decode.Request` in JSON
    stdout  one byte s per batch, when slot s is filled

It runs nothing but this file and keeps nothing between batches. When its parent is gone, however
it went, its input ends and so does it.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
from numpy.typing import NDArray

from pyinception.data.decode import Request, prepare
from pyinception.data.slots import Slots


def main(given: str) -> None:
    """Serve until stdin ends; `given` is JSON: the arguments of `Slots`."""
    slots = Slots(**{**(about := json.loads(given)), "shape": tuple(about["shape"])})
    reply = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    for line in sys.stdin.buffer:
        number, _, rest = line.partition(b" ")
        slot = int(number)
        state = slots.state(slot)

        def tell(n: int, state: NDArray[np.int64] = state) -> None:
            state[0] = n

        slots.finish(slot, prepare(Request.from_json(rest), slots.images(slot), tell))
        try:
            os.write(reply, bytes([slot]))
        except BrokenPipeError:
            return
