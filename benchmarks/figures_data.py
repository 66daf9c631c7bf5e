"""Figures of data and runs: what a kill loses, what worker processes give."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from figures_record import Figure, Unavailable

from pyinception import data, rng

KILLS = 200
FASTER = 1.6
PICTURES, BATCH, EDGE = 192, 32, 224


def survive(quick: bool = False) -> Figure:
    """kill -9 at random moments of a run with a checkpoint after every step."""
    for module in ("sklearn", "matplotlib", "tomli_w"):
        if find_spec(module) is None:
            raise Unavailable(f"{module} is not installed (extra 'train')")
    kills = 6 if quick else KILLS
    promise = f"{kills} kills at random moments: 0 unreadable states, {kills} resumes equal"
    figure = Figure("survive", f"{promise} the uninterrupted run to the bit")
    script = Path(__file__).with_name("kills.py")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), str(kills), "7" if quick else "0", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        figure.failures.append(f"kills.py: {done.stderr.strip().splitlines()[-1:]}")
        return figure
    whole, *lines = [json.loads(text) for text in done.stdout.splitlines()]
    states = Counter(line["state"] for line in lines)
    for name, count in states.most_common():
        same = [line for line in lines if line["state"] == name]
        unreadable = sum(not line["readable"] for line in same)
        equal = sum(line["equal"] for line in same)
        figure.add(killed=name, kills=count, unreadable=unreadable, equal=equal)
    figure.same("unreadable states", sum(not line["readable"] for line in lines))
    figure.same("resumes that differ", sum(not line["equal"] for line in lines))
    figure.same("temporary files left", sum(len(line["litter"]) for line in lines))
    if len(lines) != kills:
        figure.failures.append(f"{len(lines)} kills, expected {kills}")
    figure.notes.append(
        f"20 steps, {whole['seconds']:.2f} s uninterrupted from the folder on; threads 1 or 2"
    )
    return figure


def loader(quick: bool = False) -> Figure:
    """Decoding and cropping JPEGs, by this process alone and by workers ahead of it."""
    if find_spec("PIL") is None:
        raise Unavailable("Pillow is not installed (extra 'train')")
    promise = f"JPEGs of 500 x 375 to sampled crops of {EDGE} x {EDGE}: 2 workers at least"
    figure = Figure("loader", f"{promise} {FASTER} times the images a second of none")
    count, rounds = (2 * BATCH, 1) if quick else (PICTURES, 5)
    augment = data.Augment(mirror=True, standardise=True, area=0.08)
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder), count)
        dataset = data.load("image_folder", root=folder, size=EDGE, check=False)
        pools = {0: None, 1: data.Workers(1), 2: data.Workers(2)}
        rates: dict[int, list[float]] = {number: [] for number in pools}
        digests = dict.fromkeys(pools, 0)
        for turn in range(rounds + 1):  # the first one starts the processes
            for number, pool in pools.items():
                begun = time.perf_counter()
                for batch in data.batches(
                    dataset, BATCH, seed=0, epoch=turn, augment=augment, workers=pool
                ):
                    if turn == 0:
                        digests[number] = hash((digests[number], batch.images.tobytes()))
                if turn or quick:
                    rates[number].append(len(dataset) / (time.perf_counter() - begun))
        for pool in pools.values():
            if pool is not None:
                pool.close()
    alone = statistics.median(rates[0])
    for number, found in rates.items():
        rate = statistics.median(found)
        figure.add(workers=number, images_per_second=rate, times=rate / alone)
    figure.same("other bits", len(set(digests.values())) - 1)
    if not quick:
        figure.at_most("1.6 times none over 2 workers", FASTER * alone / rate, 1.0)
    return figure


def draw_pictures(root: Path, count: int) -> None:
    """JPEGs of 500 x 375 with the detail of a photograph: noise at every scale."""
    from PIL import Image

    for n in range(count):
        draw = rng.generator(0, 0, n, "figure pictures")
        picture = np.zeros((375, 500, 3))
        for cell in (4, 16, 64, 256):
            coarse = draw.integers(0, 256, (375 // cell + 2, 500 // cell + 2, 3), dtype=np.uint8)
            scaled = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
            picture += np.asarray(scaled) * (cell**0.5 / 30)
        for split in ("train", "test"):
            if split == "test" and n >= 2:
                continue
            path = root / split / "ab"[n % 2] / f"{n}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(picture, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, quality=90)
