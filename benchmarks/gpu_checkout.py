"""Makes this checkout's package importable, whether or not it was ever installed.

The sources of ``pyinception.kernels`` lie beside the package, in ``kernels/``; an installation puts
them together, and so does importing this file.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(ROOT))
if "pyinception.kernels" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "pyinception.kernels", ROOT / "kernels" / "__init__.py"
    )
    assert spec is not None and spec.loader is not None
    kernels = sys.modules["pyinception.kernels"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
