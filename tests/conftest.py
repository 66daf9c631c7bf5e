"""Make ``from pyinception.kernels import reference`` work from a bare checkout.

``kernels/`` installs as ``pyinception.kernels``. The finder below stands last, so it is asked only
where no installation answers: an installed package, editable or not, is what the tests then test.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]

# Before NumPy is imported: a reference conv of a few thousand products took 10 to 60 times longer
# with a team of OpenBLAS threads on two busy cores. Only a default; the environment wins.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell's switches are not the tests': each sets those that it asks about.
for _switch in ("BACKEND", "THREADS", "ALGORITHM", "CPU_LEVEL", "JIT", "LOG"):
    os.environ.pop(f"PYINCEPTION_{_switch}", None)


class CheckoutFinder(MetaPathFinder):
    """Finds ``pyinception.kernels`` in ``kernels/``, and a ``pyinception`` where there is none."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pyinception.kernels":
            folder = ROOT / "kernels"
            return spec_from_file_location(
                fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
        if fullname == "pyinception":
            package = ModuleSpec(fullname, loader=None, is_package=True)
            package.submodule_search_locations = [str(ROOT / "pyinception")]
            return package
        return None


sys.path.append(str(ROOT))
sys.meta_path.append(CheckoutFinder())


def pytest_collection_modifyitems(items: list) -> None:
    """The CUDA kernels' tests, compiled and emulated, have a target of their own."""
    for item in items:
        if item.path.name.startswith(("test_cuda_", "test_emulator_")):
            item.add_marker("cuda")
