"""What the build compiles for whom: each rung for the architectures that have its instructions.

Configures only; what is compiled and whether it spills is the other tests' matter.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_run import NVCC, ROOT

CMAKE = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
NINJA = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
pytestmark = pytest.mark.skipif(
    None in (NVCC, CMAKE, NINJA), reason="needs nvcc, cmake and ninja to configure a build"
)
GATES = "--warn-on-spills,--warn-on-local-memory-usage,-Werror"


def configured(folder: Path, *options: str) -> tuple[str, dict[str, str]]:
    """(what CMake said, the compiler's flags of each CUDA source)."""
    command = [str(CMAKE), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options]
    command += [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_MAKE_PROGRAM={NINJA}"]
    command += [f"-DCMAKE_CUDA_COMPILER={NVCC}", "-DPYINCEPTION_CUDA=ON"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    flags = {}
    for rule in (folder / "build.ninja").read_text().split("\nbuild ")[1:]:
        source = re.match(r"\S+\.o: \S+ \S*/kernels/cuda/(\w+)\.cu ", rule)
        if source:
            flags[source[1]] = " ".join(re.findall(r"^ +(?:FLAGS|DEFINES) = (.*)$", rule, re.M))
    return done.stdout, flags


def codes(flags: str) -> set[str]:
    """ "sm_75", "compute_90": what the flags ask nvcc to make."""
    return set(re.findall(r"(?:code=\[?|,)((?:sm|compute)_\d+a?)(?=[\],\" ]|$)", flags))


def test_the_default_is_every_rung_gated(tmp_path: Path) -> None:
    for _ in range(2):  # configuring again changes nothing
        said, flags = configured(tmp_path)
        assert {"conv", "reduce_conv", "launcher", "mma_sm75", "inception_mma"} <= flags.keys()
        for source, text in flags.items():
            assert GATES in text and "-lineinfo" in text and "compress" in text, source
        later = {"sm_80", "sm_86", "sm_89", "sm_90a", "compute_90"}
        assert later | {"sm_75"} <= codes(flags["conv"])
        assert codes(flags["mma_sm75"]) == {"sm_75"}
        assert later <= codes(flags["conv_mma"]) and "sm_75" not in codes(flags["conv_mma"])
        assert codes(flags["conv"]) == codes(flags["conv_mma"]) | {"sm_75"}
        assert {"-DPYI_CUDA_MMA", "-DPYI_CUDA_SM75"} <= set(flags["launcher"].split())
        assert "CUDA kernels, sm75: 75-real" in said


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("75", {"conv": {"sm_75", "compute_75"}, "mma_sm75": {"sm_75", "compute_75"}}),
        ("89-real", {"conv": {"sm_89"}, "conv_mma": {"sm_89"}}),
    ],
)
def test_the_users_list_is_law(asked: str, expected, tmp_path: Path) -> None:
    said, flags = configured(tmp_path, f"-DCMAKE_CUDA_ARCHITECTURES={asked}")
    for source, wanted in expected.items():
        assert codes(flags[source]) == wanted
    assert ("conv_mma" in flags) == ("conv_mma" in expected)
    assert ("mma_sm75" in flags) == ("mma_sm75" in expected)
    has = {name for name in ("MMA", "SM75") if f"-DPYI_CUDA_{name}" in flags["launcher"].split()}
    assert has == {"MMA" if "conv_mma" in expected else "SM75"}
    assert not any(GATES in text for text in flags.values())  # not what we have gated
    assert f"CUDA kernels, simt: {asked}" in said
