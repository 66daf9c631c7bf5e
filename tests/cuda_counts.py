"""What the emulator counted of a kernel: sites, wavefronts, sectors, beside modelled bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cuda_run
import numpy as np

SECTOR = 32


# ---- what was counted ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Site:
    """One statement, or one line of a source file: accesses of one kind and width.

    units: wavefronts of shared memory or sectors of global memory. distinct: what the distinct
    bytes of each warp instruction need. least: the same, and of a read of 8 or 16 bytes a lane at
    least the wavefronts in which its registers return, two at a time.
    """

    where: str
    kind: str
    width: int
    instructions: int
    units: int
    distinct: int

    @property
    def is_shared(self) -> bool:
        return self.kind.startswith("shared")

    @property
    def least(self) -> int:
        returns = self.kind == "shared read" and self.width > 4  # not of ldmatrix
        return max(self.distinct, self.instructions * self.width // 8 if returns else 0)

    @property
    def ratio(self) -> float:
        return self.units / self.least


@dataclass(frozen=True)
class Counted:
    """A kernel's launches of one call together: sites and predicted bytes."""

    layer: str
    kernel: str
    sites: tuple[Site, ...]
    modelled: float

    def total(self, shared: bool) -> int:
        return sum(site.units for site in self.sites if site.is_shared is shared)

    @property
    def counted(self) -> int:
        """Bytes of global memory, whole sectors."""
        return SECTOR * self.total(shared=False)

    @property
    def deviation(self) -> float:
        """Of the counted bytes from the model, as a share of the model."""
        return self.counted / self.modelled - 1

    def sites_above(self, share: float, shared: bool) -> list[Site]:
        """Sites with more than ``share`` of the kernel's wavefronts (sectors)."""
        least = share * self.total(shared)
        return [s for s in self.sites if s.is_shared is shared and s.units > least]

    def ratio(self, shared: bool) -> float:
        """Of all sites together."""
        least = sum(s.least for s in self.sites if s.is_shared is shared)
        return self.total(shared) / least if least else 1.0


def sites_of(rows: Iterable[Any]) -> tuple[Site, ...]:
    """Sums over the statements of one kind and width inlined along one chain, costliest first."""
    sums: dict[tuple[str, str, int], list[int]] = {}
    for row in rows:
        if row.kind != "executed":
            sum_ = sums.setdefault((chain(row.where), row.kind, row.width), [0, 0, 0])
            for i, value in enumerate((row.instructions, row.units, row.ideal)):
                sum_[i] += value
    sites = [Site(*key, *sum_) for key, sum_ in sums.items()]
    return tuple(sorted(sites, key=lambda site: -site.units))


def chain(where: str) -> str:
    """The lines a statement was inlined along, innermost first, without folders and toolkit."""
    places = where.split(", inlined at ")
    ours = [Path(place).name for place in places if "/include/" not in place]
    return " < ".join(ours[:3])


# ---- a device that counts -----------------------------------------------------------------------
class Device:
    """Buffers and launches of the emulator, counters by kernel."""

    def __init__(self) -> None:
        from pyinception.emulator.device import Device as Emulated

        self.device = Emulated(count=True)
        self.arrays: list[np.ndarray] = []
        self.rows: dict[str, list[Any]] = {}
        self.modelled: dict[str, float] = {}

    def buffer(self, name: str, array: np.ndarray) -> int:
        self.arrays.append(self.device.buffer(name, array))
        return int(self.arrays[-1].ctypes.data)

    def launch(self, launch: cuda_run.Launch) -> None:
        from pyinception import emulator
        from pyinception.emulator import compile  # noqa: F401

        kernel = cuda_run._kernel(emulator, launch.source, launch.entry)
        params = np.frombuffer(launch.params, np.uint8)
        self.device.launch(kernel, launch.grid, (launch.block,), params, launch.shared_bytes)
        self.rows.setdefault(launch.entry, []).extend(self.device.counters(kernel))
        self.device.clear_counters()

    def model(self, entry: str, bytes_: float) -> None:
        self.modelled[entry] = self.modelled.get(entry, 0.0) + bytes_

    def results(self, layer: str) -> Iterator[Counted]:
        for entry, rows in self.rows.items():
            yield Counted(layer, entry, sites_of(rows), self.modelled[entry])
