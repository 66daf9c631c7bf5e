"""What this build has: backends for arrays of NumPy, and the mark of tests that need the core."""

import pytest

from pyinception import backend

BACKENDS = [name for name in ("cpu", "reference") if backend.why_not(name) is None]
REASON = backend.why_not("cpu")  # None, or why there is no compiled core
needs_core = pytest.mark.skipif(REASON is not None, reason=str(REASON))
