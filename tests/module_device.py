"""The emulator for whole modules: checked in a greedy order, or plain, fair on two host threads or
greedy on one."""

from functools import cache
from pathlib import Path

import cuda_run
import numpy as np
from cuda_run import Launch


class Device(cuda_run.Emulated):
    """As `cuda_run.Emulated`; ``substitutes``: the source of an entry that is not the launch's."""

    def __init__(self, *, checked: bool = True, greedy: bool = False, seed: int = 1,
                 substitutes: dict[str, Path] | None = None) -> None:  # fmt: skip
        from pyinception import emulator
        from pyinception.emulator import compile, device  # noqa: F401

        super().__init__(emulator, seed)
        if not checked and not greedy:
            self.device = emulator.device.Device(workers=2)
        self.checked, self.substitutes = checked, substitutes or {}
        self.entries: list[str] = []  # launched, in order

    def launch(self, launch: Launch) -> None:
        source = self.substitutes.get(launch.entry, launch.source)
        kernel = _kernel(self.emulator, source, launch.entry, self.checked)
        params = np.frombuffer(launch.params, np.uint8)
        self.entries.append(launch.entry)
        self.device.launch(kernel, launch.grid, (launch.block,), params, launch.shared_bytes)


@cache
def _kernel(emulator, source: Path, entry: str, checked: bool):
    module = cuda_run._module(emulator, source)
    translation, library = emulator.compile.build(module, entry, checked=checked)
    return emulator.device.Kernel.load(library, entry, translation.sites)
