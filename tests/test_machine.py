"""What `doctor` says of CUDA: driver, toolkit, architectures, libraries, CuPy twice, verdicts."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

import pyinception as pyi
from pyinception.cuda import machine


@pytest.mark.parametrize(
    ("architectures", "sm", "served"),
    [
        ("80-real", 80, True), ("80-real", 86, True), ("80-real", 90, False),
        ("86-real", 80, False), ("90a-real", 90, True), ("90a-real", 100, False),
        ("90-virtual", 90, True), ("90-virtual", 120, True), ("90-virtual", 89, False),
        ("80", 120, True), ("75-real,80-real,90a-real", 89, True), ("", 80, False),
    ],
)  # fmt: skip
def test_which_device_a_build_serves(architectures: str, sm: int, served: bool) -> None:
    assert machine.serves(architectures.split(",") if architectures else [], sm) == served


def device(sm: int) -> dict[str, Any]:
    return {"name": "GPU", "sm": sm, "multiprocessors": 132, "memory_mib": 81_559}


def found(**changes: Any) -> dict[str, Any]:
    driver = {"cuda": "13.0", "version": "580.95", "devices": [device(90)]}
    sound = {
        "driver": driver,
        "architectures": ["80-real", "90a-real"],
        "cupy": ["cupy-cuda13x 14"],
    }
    return sound | changes


def test_problems_name_cause_and_remedy() -> None:
    assert machine.problems(found()) == []
    twice = found(cupy=["cupy-cuda12x 13.6.0", "cupy-cuda13x 14.2.0"])
    (text,) = machine.problems(twice)
    assert "cupy-cuda12x 13.6.0, cupy-cuda13x 14.2.0 overwrite" in text and "uninstall all" in text
    for sm, words in ((70, "kernels need sm_75"), (120, "kernels are built for 80-real, 90a-real")):
        driver = found()["driver"] | {"devices": [device(sm)]}
        (text,) = machine.problems(found(driver=driver))
        assert f"device 0 is sm_{sm}" in text and words in text
    assert machine.problems(found(driver="no NVIDIA driver")) == []


def test_libraries_are_found_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "site" / "nvidia" / "cudnn" / "lib"
    wheel.mkdir(parents=True)
    (wheel / "libcudnn.so.9").touch()
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libcudnn.so").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    places = machine.where("cudnn")
    assert places[:2] == [str(wheel / "libcudnn.so.9"), str(folder / "libcudnn.so")]


def test_installs_of_cupy_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cupy": ["cupy-cuda12x", "cupy-cuda13x", "cupy-cuda13x"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: names)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "14.0")
    assert machine.cupy_installs() == ["cupy-cuda12x 14.0", "cupy-cuda13x 14.0"]


def test_the_report_can_be_read_and_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    report = pyi.doctor()
    assert set(report["cuda"]) == {
        "driver", "toolkit", "architectures", "libraries", "cupy", "problems",
    }  # fmt: skip
    assert json.loads(json.dumps(report))["cuda"] == report["cuda"]
    assert "CUDA driver: " in str(report) and "CuPy: " in str(report)
    driver = {"cuda": "13.0", "version": "580.95", "devices": [device(70)]}
    seen = report["cuda"] | {"driver": driver, "architectures": ["80-real"]}
    seen["toolkit"] = {"nvcc": "/opt/nvcc", "release": "13.0"}
    seen["problems"] = machine.problems(seen)
    monkeypatch.setattr(machine, "look", lambda: seen)
    lines = str(pyi.doctor()).splitlines()
    assert "  CUDA driver: up to CUDA 13.0, driver 580.95" in lines
    assert "    device 0: GPU, sm_70, 132 multiprocessors, 81559 MiB" in lines
    assert "  CUDA toolkit: 13.0 (/opt/nvcc)" in lines and "  CUDA kernels for: 80-real" in lines
    assert "  PROBLEM: device 0 is sm_70, kernels need sm_75" in "\n".join(lines)
