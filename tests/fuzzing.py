"""A fuzzer in a process of its own: mutants of small files, one documented error, bounded memory.

    python fuzzing.py TARGET SECONDS SEED FOLDER

A mutant is made from a file of the corpus: of its structure (a tree of fields, a list of members,
tensors of a header) or of its bytes. One that leads somewhere new, by the line that refused it or
by what was read, joins the corpus. The address space is limited to what the process has after a
first read, plus 1.1 times the largest file, plus 64 MiB. The first mutant that ends in anything but
a result or the documented error is kept as FOLDER/failed and told with its traceback; exit code 1.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPARE = 64 << 20  # bytes over 1.1 times the file
LARGEST = 1 << 20  # bytes of a mutant
CORPUS = 400  # files kept

Draw = np.random.Generator
BYTES = np.frombuffer(b"\0\1\x07\x7f\x80\xff 0179Lxg25S/=\n", np.uint8)
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 1023, 1024, 2**16, 10**5, 10**6, 2**31 - 1, 2**31, 2**32,
           2**40, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip


@dataclass
class Target:
    """What to fuzz.

    Attributes
    ----------
    seeds : files to begin with, in the reader's own form (trees, lists) or bytes.
    mutate : (form, draw) -> another form; encode : form -> bytes.
    read : path of a written mutant -> what was found, hashable; raises what is documented.
    errors : the documented errors.
    name : of the file that is written.
    """

    seeds: list[Any]
    mutate: Callable[[Any, Draw], Any]
    encode: Callable[[Any], bytes]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    name: str


def scramble(content: bytes, draw: Draw) -> bytes:
    """A few bytes changed, deleted, inserted or repeated, or the end cut off."""
    data = bytearray(content)
    for _ in range(int(draw.integers(1, 5))):
        if not data:
            break
        at = int(draw.integers(len(data)))
        kind = int(draw.integers(7))
        if kind == 0:
            data[at] = int(draw.integers(256))
        elif kind == 1:
            data[at] ^= 1 << int(draw.integers(8))
        elif kind == 2:
            data[at] = int(draw.choice(BYTES))
        elif kind == 3:
            del data[at : at + int(draw.integers(1, 9))]
        elif kind == 4:
            data[at:at] = draw.bytes(int(draw.integers(1, 11)))
        elif kind == 5:
            start = int(draw.integers(len(data)))
            data[at:at] = data[start : start + int(draw.integers(1, 600))]
        else:
            del data[at:]
    return bytes(data[:LARGEST])


def address_space() -> int:
    """Bytes this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def peak() -> int:
    """KiB this process has held at most; ru_maxrss would begin with what its parent had held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def attempt(target: Target, path: Path) -> tuple[str, Any]:
    """("read", what) or ("refused", the line of the package that refused)."""
    try:
        return "read", target.read(path)
    except target.errors as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if "pyinception" in f.filename), frames[-1])
        return "refused", (place.filename, place.lineno)


def fuzz(target: Target, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """Read mutants; what came of them. Whatever else is raised goes through.

    Seconds are of the processor: a busy machine does not lessen what is tried.
    """
    draw = np.random.default_rng(seed)
    path = folder / target.name
    path.parent.mkdir(parents=True, exist_ok=True)
    forms: list[Any] = list(target.seeds)
    for form in forms:
        path.write_bytes(target.encode(form))
        attempt(target, path)
    largest = max(len(target.encode(form)) for form in forms)
    limit = address_space() + int(1.1 * max(largest, LARGEST)) + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    before = peak()
    outcomes: Counter[str] = Counter()
    seen: set[Any] = set()
    end = time.process_time() + seconds
    try:
        while time.process_time() < end:
            form = forms[int(draw.integers(len(forms)))]
            mutant: Any = None
            if isinstance(form, bytes):
                content = scramble(form, draw)
            elif draw.random() < 0.3:
                content = scramble(target.encode(form), draw)
            else:
                mutant = target.mutate(form, draw)
                content = target.encode(mutant)
            if len(content) > LARGEST:
                continue
            path.write_bytes(content)
            outcome = attempt(target, path)
            outcomes[outcome[0]] += 1
            if outcome not in seen:
                seen.add(outcome)
                kept = content if mutant is None else mutant
                if len(forms) < CORPUS:
                    forms.append(kept)
    except BaseException:
        (folder / "failed").write_bytes(path.read_bytes())
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return {"seed": seed, **outcomes, "kinds": len(seen), "grown_kib": peak() - before}


def run(name: str, seconds: float, folder: Path, seed: int | None = None) -> dict[str, Any]:
    """Fuzz a target of `fuzz_targets` in a fresh process; AssertionError with seed and traceback.

    Parameters
    ----------
    seed : None takes one from the system; FUZZ_SEED in the environment names one, to do it again.
    seconds : FUZZ_SECONDS in the environment replaces it.
    """
    given = os.environ.get("FUZZ_SEED")
    seed = seed if seed is not None else int(given or int.from_bytes(os.urandom(4), "big"))
    seconds = float(os.environ.get("FUZZ_SECONDS", seconds))
    command = [sys.executable, __file__, name, str(seconds), str(seed), str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=160 + 5 * seconds, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYINCEPTION_THREADS": "1"},
    )  # fmt: skip
    sys.stdout.write(f"fuzz {name}: FUZZ_SEED={seed}: {done.stdout.strip()}\n")
    text = f"FUZZ_SEED={seed} FUZZ_SECONDS={seconds:g}: {folder / 'failed'}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, text
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    import conftest  # noqa: F401  (finds the package in a bare checkout)
    import fuzz_targets

    result = fuzz(
        fuzz_targets.TARGETS[sys.argv[1]](), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    )
    sys.stdout.write(json.dumps(result))
