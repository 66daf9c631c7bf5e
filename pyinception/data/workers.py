"""Processes that decode and augment ahead of training.

    batch b  ->  slot b mod S  ->  process (b mod S) mod W,     S = depth W batches at most ahead

A worker is a fresh interpreter running `worker.main`: no fork of this process, no copy of its
threads, no import of the caller's main module. Requests are JSON lines through a pipe, images
come back in shared memory (`slots`), and nothing is pickled. A worker owns no data set and no
random state, so the bits of a batch do not depend on how many there are.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pyinception.data.decode import Request
from pyinception.data.slots import IDLE, Slots
from pyinception.extents import integer

MAX_WORKERS = 100
DEPTH = 2  # batches in flight per worker: one being filled, one waiting
CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pyinception.data.worker import main; main(sys.argv[2])"
)

# glibc would return the memory of each picture to the system and fault it in again for the next:
# a 500 x 375 JPEG to 224 x 224 took 3.7 ms instead of 2.6 (2 shared AMD EPYC cores).
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}


class WorkerError(RuntimeError):
    """A worker process ended; the message names it and what it was reading."""


class Workers:
    """``with Workers(2) as workers:`` processes for `batches`; started when first used.

    Parameters
    ----------
    count : int
        Processes, 1 to 100.

    Raises
    ------
    ValueError
        If `count` is out of range.
    """

    def __init__(self, count: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._slots: Slots | None = None
        self._walk = 0
        self._asked: deque[tuple[int, Request]] = deque()  # slot and request, oldest first
        if not 1 <= integer("Workers", "count", count, 0) <= MAX_WORKERS:
            raise ValueError(f"Workers: count is {count}, expected 1 ... {MAX_WORKERS}")
        self.count = count

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process numbers of the running workers."""
        return [process.pid for process in self._processes]

    def run(
        self,
        requests: Iterator[Request],
        capacity: int,
        shape: tuple[int, int, int],
        name: Callable[[int], str] = str,
    ) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
        """Yield (images, reasons) of each request, in order; see `decode.prepare`.

        Parameters
        ----------
        capacity, shape : the largest batch and (H, W, C) of its images.
        name : what the picture with this index is called, for errors.

        Raises
        ------
        WorkerError
            If a process ended. The others are ended too.
        RuntimeError
            If another walk began before this one ended.
        """
        slots = self._ready(capacity, shape)
        self._walk += 1
        walk = self._walk

        def take() -> tuple[NDArray[np.float32], list[str]]:
            if self._walk != walk or self._slots is not slots:
                raise RuntimeError("Workers: another walk began, or they closed, before this ended")
            return self._take(slots, name)

        for turn, request in enumerate(requests):
            if len(self._asked) == slots.count:
                yield take()
            self._ask(turn % slots.count, request, slots, name)
        while self._asked:
            yield take()

    def close(self) -> None:
        """End the processes; they hold nothing that could be lost."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()
        if self._slots is not None:
            self._slots.close()
            self._slots = None
        self._asked.clear()

    def _ready(self, capacity: int, shape: tuple[int, int, int]) -> Slots:
        """Slots that are free and large enough, and processes that know them."""
        slots = self._slots
        if slots is not None and slots.shape == shape and slots.capacity >= capacity:
            while self._asked:  # of a walk that was left before its end
                self._take(slots, str)
            return slots
        self.close()
        slots = self._slots = Slots(DEPTH * self.count, capacity, shape)
        about = {
            "count": slots.count,
            "capacity": capacity,
            "shape": shape,
            "descriptor": slots.descriptor,
        }
        # -P and our own sys.path: nothing is imported from the folder one happens to be in.
        command = [sys.executable, "-P", "-c", CODE, json.dumps(sys.path), json.dumps(about)]
        for _ in range(self.count):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[slots.descriptor],
                process_group=0,  # Ctrl-C at the terminal is for the parent alone
                env={**os.environ, **ENVIRONMENT},
            )
            self._processes.append(process)
        return slots

    def _ask(self, slot: int, request: Request, slots: Slots, name: Callable[[int], str]) -> None:
        slots.state(slot)[:] = IDLE, 0
        self._asked.append((slot, request))
        pipe = self._processes[slot % self.count].stdin
        assert pipe is not None
        # A reply is one byte, so a worker never waits for us and this write always ends.
        line = memoryview(b"%d " % slot + request.to_json())
        try:
            while line:
                line = line[pipe.write(line) :]
        except BrokenPipeError:
            raise self._ended(slot, slots, name) from None

    def _take(
        self, slots: Slots, name: Callable[[int], str]
    ) -> tuple[NDArray[np.float32], list[str]]:
        slot, request = self._asked[0]
        pipe = self._processes[slot % self.count].stdout
        assert pipe is not None
        if pipe.read(1) != bytes([slot]):
            raise self._ended(slot, slots, name)
        self._asked.popleft()
        return slots.take(slot, len(request.indices))

    def _ended(self, slot: int, slots: Slots, name: Callable[[int], str]) -> WorkerError:
        """What to say of the process that serves `slot`; ends the others."""
        worker = slot % self.count
        process = self._processes[worker]
        try:
            code = process.wait(timeout=10)  # its pipe is closed: it has ended or is about to
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name} (exit code {code})"
            if code == -signal.SIGKILL:
                how += ", perhaps for want of memory,"
        doing = "before it read a picture"
        for other, request in self._asked:
            n = int(slots.state(other)[0])
            if other % self.count == worker and n != IDLE:
                index = request.indices[n]
                doing = f"while reading {name(index)} (image {index})"
        self.close()
        return WorkerError(f"workers: process {process.pid} {how} {doing}")
