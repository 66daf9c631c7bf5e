"""The benchmarks: shapes, bounds, timing in turns, reports; and that a wrong result has no time."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from built import REASON, needs_core
from pyinception.kernels import reference

from pyinception import models, tracing
from pyinception.spec import BranchSpec, ConvSpec, InceptionSpec

if REASON is None:
    from pyinception import bench
    from pyinception.bench import ours, problems, report, rivals, runs, shapes, timing

pytestmark = needs_core
OWN = "2,6,5,16,8,20,3"


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# ------------------------------------------------------------------------------------------ shapes


def test_shapes_are_those_of_the_model():
    called = [spec for _, _, spec in tracing.specs(models.googlenet(aux=False), (1, 224, 224, 3))]
    convs = [spec for spec in called if isinstance(spec, ConvSpec)]
    assert convs == [shapes.conv(name) for name in shapes.STEM]
    modules = [spec for spec in called if isinstance(spec, InceptionSpec)]
    assert modules == [shapes.module(name) for name in shapes.MODULES]
    assert [shapes.branch(n) for n in ("3a/3x3", "3a/5x5")] == list(modules[0].branches[1:3])
    assert shapes.conv("3a/pool_proj").w_shape == (32, 1, 1, 192)
    assert shapes.conv("5b/5x5", 4).x_shape == (4, 7, 7, 48)
    assert (len(shapes.BRANCHES), len(shapes.CONVS)) == (18, 3 + 9 * 6)


def test_the_listing_is_of_these_shapes():
    """57 convolutions with the stem's; each of a line's layers has the line's geometry."""
    stored = (Path(__file__).parents[1] / "benchmarks" / "shapes" / "googlenet.txt").read_text()
    assert stored == shapes.listing()
    seen = 0
    for line in stored.splitlines()[1:]:
        words = line.split()
        for name in words[9:]:
            spec = shapes.conv(name)
            wanted = [spec.H, spec.W, spec.C, spec.K, spec.R, spec.S]
            assert [int(word) for word in words[:6]] == wanted
        assert int(words[8]) == len(words[9:])
        seen += len(words[9:])
    assert seen == 57


def test_own_shape():
    name, spec = shapes.own_shape("1,28,28,192,96,128,3")
    assert name == "1x28x28x192-96-128-3x3"
    assert spec == shapes.branch("3a/3x3")
    for wrong in ("1,2,3", "1,8,8,4,4,4,x", "1,8,8,0,4,4,3"):
        with pytest.raises(ValueError, match="seven positive integers"):
            shapes.own_shape(wrong)
    with pytest.raises(ValueError, match="R is 4, expected an odd number"):
        shapes.own_shape("1,8,8,4,4,4,4")


def test_select():
    assert shapes.select("3a", shapes.BRANCHES, "f") == ["3a/3x3", "3a/5x5"]
    assert shapes.select(["3a/5x5", "3a"], shapes.BRANCHES, "f") == ["3a/5x5", "3a/3x3"]
    assert len(shapes.select("all", shapes.BRANCHES, "f")) == 18
    with pytest.raises(ValueError, match=r"f: names has '3c', expected all or some of 3a/3x3"):
        shapes.select("3c", shapes.BRANCHES, "f")


def test_macs_inside_leave_out_rows_outside():
    spec = ConvSpec(2, 3, 5, 4, 6, 3, 3, (1, 1), (1, 1))
    assert problems.macs_inside(spec) == spec.macs * 7 // 9  # 2 + 3 + 2 rows of 9
    assert problems.macs_inside(shapes.conv("conv2_reduce")) == shapes.conv("conv2_reduce").macs


# ---------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize("spec", ["branch", "module", "conv"])
def test_bound_admits_plain_float32_and_nothing_coarser(spec):
    made = {
        "branch": shapes.own_shape("2,7,6,24,16,20,5")[1],
        "module": InceptionSpec.of_widths((2, 6, 5, 12), (8, 6, 10, 4, 5, 7)),
        "conv": ConvSpec(2, 9, 9, 3, 8, 7, 7, (2, 2), (3, 3), True),
    }[spec]
    problem = problems.make(spec, made)
    weights = problem.weights
    if isinstance(made, BranchSpec):
        y, _ = reference.reduce_conv_fprop(problem.x, *weights, padding=(2, 2))
    elif isinstance(made, InceptionSpec):
        y, _ = reference.inception_fprop(problem.x, weights)
    else:
        window = {"stride": made.stride, "padding": made.padding}
        y = reference.conv2d_fprop(problem.x, *weights, relu=True, **window)
    relative, of_bound = problem.error(y)
    assert relative < 2e-6
    assert of_bound < 1
    halved = (y.view(np.uint32) & 0xFFFF0000).view(np.float32)  # as if computed in bfloat16
    assert problem.error(halved)[1] > 1


def test_a_wrong_halo_is_outside_the_bound():
    problem = problems.make("halo", shapes.own_shape(OWN)[1])
    x, (wr, br, w, b) = problem.x, problem.weights
    framed = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # its 1x1 has relu(br) all around
    y, _ = reference.reduce_conv_fprop(framed, wr, br, w, b)
    assert y.shape == problem.expected.shape
    inner = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(y[inner], problem.expected[inner], rtol=1e-3, atol=1e-5)
    assert problem.error(y)[1] > 100


def test_a_nan_is_an_error():
    problem = problems.make("nan", shapes.own_shape(OWN)[1])
    y = problem.expected.astype(np.float32)
    assert problem.error(y)[1] < 1
    y[1, 2, 3, 4] = np.nan
    assert "failed" in runs._Run._judge(problem.error(y))


def test_a_large_batch_is_checked_at_both_ends():
    problem = problems.make("batch", shapes.own_shape("5,4,4,8,4,8,3")[1])
    assert problem.checked == [0, 4]
    assert problem.expected.shape[0] == 2


# -------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def small():
    return bench.run_reduce_conv(shapes=[OWN], rivals=False, rounds=3)


def test_a_row_says_what_was_measured(small):
    (row,) = small.rows
    _, spec = shapes.own_shape(OWN)
    assert row["shape"] == [2, 6, 5, 16]
    assert (row["macs"], row["checked"]) == (spec.macs, 2)
    assert row["macs_inside"] == spec.stages[0].macs + spec.stages[1].macs * 16 // 18
    assert row["same_bits"] is True
    assert row["kernel"].startswith("reduce_conv/")
    assert list(row["columns"]) == ["fused", "unfused", "call"]
    for cell in row["columns"].values():
        assert cell["gflops"] == pytest.approx(2e-3 * spec.macs / cell["median_us"])
        assert cell["share"] == pytest.approx(cell["gflops"] / small.settings["peak_gflops"])
        assert cell["p20_us"] <= cell["median_us"] <= cell["p80_us"]
        assert 0 < cell["error"] < 2e-6 and cell["error_of_bound"] < 1
        assert cell["samples"] == 3
    assert row["columns"]["fused"]["bytes"] == spec.bytes
    assert row["columns"]["unfused"]["bytes"] == spec.bytes_unfused
    assert row["columns"]["fused"]["ratio"] == 1


def test_environment_is_in_the_json(small):
    data = json.loads(small.to_json())
    about = data["environment"]
    for key in ("cpu", "cores", "threads", "level", "platform", "commit", "dirty", "command"):
        assert key in about
    assert about["threads"] == 1
    assert about["versions"]["numpy"] == np.__version__
    assert "register-only FMA loop" in data["settings"]["peak_method"]
    again = bench.Report.from_json(small.to_json())
    assert again.rows == small.rows
    assert again.table() == small.table()
    for text in ("[]", "{}", "no json", '{"kind": 1, "else": 2}'):
        with pytest.raises(ValueError, match="not a report"):
            bench.Report.from_json(text)


def test_module_and_conv_runs():
    module = bench.run_module("5a", rivals=False, rounds=1)
    assert module.rows[0]["same_bits"] is True
    assert module.rows[0]["columns"]["unfused"]["bytes"] == shapes.module("5a").bytes_unfused
    conv = bench.run_conv("5a/5x5", rivals=False, rounds=1, threads=2)
    assert list(conv.rows[0]["columns"]) == ["fused", "call"]
    assert conv.environment["threads"] == 2
    assert not module.failed and not conv.failed


def test_plain_algorithm_runs_too():
    found = bench.run_reduce_conv(shapes=[OWN], rivals=False, rounds=1, algorithm="plain")
    assert not found.failed
    assert found.rows[0]["kernel"].startswith("reduce_conv/plain")


def test_names_are_told_before_they_run():
    told: list[str] = []
    how = {"rivals": False, "rounds": 1, "progress": told.append}
    found = bench.run_reduce_conv("5a/5x5", shapes=[OWN], **how)
    assert told == ["5a/5x5", "2x6x5x16-8-20-3x3"] == [row["name"] for row in found.rows]


def test_wrong_results_show_no_time(monkeypatch):
    prepare = ours.prepare

    def spoiled(*arguments):
        mine = prepare(*arguments)
        fused, unfused = mine.variants["fused"], mine.variants["unfused"]
        inner, kept = fused.call, unfused.call
        runs_so_far = []

        def off_by_one() -> None:
            inner()
            fused.output[0, 0, 0, 0] += 1

        def changes_later() -> None:
            kept()
            runs_so_far.append(1)
            if len(runs_so_far) > 1:
                unfused.output[-1, -1, -1, -1] += 1

        fused.call, unfused.call = off_by_one, changes_later
        return mine

    monkeypatch.setattr(ours, "prepare", spoiled)
    found = bench.run_reduce_conv(shapes=[OWN], rivals=False, rounds=1)
    columns = found.rows[0]["columns"]
    assert "times its bound" in columns["fused"]["failed"]
    assert "changed while it was timed" in columns["unfused"]["failed"]
    for name in ("fused", "unfused"):
        assert not {"median_us", "gflops", "share", "ratio"} & set(columns[name])
    assert "median_us" in columns["call"]
    assert len(found.failed) == 2
    assert found.table().count("WRONG") == 2
    assert "2x6x5x16-8-20-3x3: fused gave a wrong result" in found.table()


def test_output_that_is_not_written_fails(monkeypatch):
    prepare = ours.prepare

    def idle(*arguments):
        mine = prepare(*arguments)
        mine.variants["fused"].call = lambda: None
        return mine

    monkeypatch.setattr(ours, "prepare", idle)
    found = bench.run_reduce_conv(shapes=[OWN], rivals=False, rounds=1)
    assert found.rows[0]["columns"]["fused"] == {
        "bytes": shapes.own_shape(OWN)[1].bytes,
        "failed": "the result is not finite everywhere",
    }


def test_a_disturbed_machine_is_named(monkeypatch):
    monkeypatch.setattr(timing, "CALM", 1e9)  # nothing is calm enough
    found = bench.run_reduce_conv(shapes=[OWN], rivals=False, rounds=1)
    assert any(note.startswith("DISTURBED") for note in found.notes)


@pytest.mark.parametrize("name", ["batch", "threads", "rounds"])
def test_settings_are_checked(name):
    with pytest.raises(ValueError, match=f"bench: {name} is 0, expected an integer"):
        bench.run_module("3a", **{name: 0})


# ------------------------------------------------------------------------------------------ rivals


def test_missing_rivals_are_named_as_left_out(monkeypatch):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    found = bench.run_reduce_conv(shapes=[OWN], rounds=1)
    assert set(found.left_out) == {"torch", "openvino"}
    assert "openvino left out: not installed" in found.table()
    with pytest.raises(ValueError, match="rivals has 'cudnn', expected some of torch"):
        bench.run_reduce_conv(shapes=[OWN], rivals=("cudnn",))


@pytest.mark.oracles
@pytest.mark.parametrize("name", ["torch", "openvino", "openvino.throughput", "onnxruntime"])
def test_rivals_compute_the_same(name):
    if not installed(name.partition(".")[0]):
        pytest.skip(f"{name} is not installed")
    for found in (
        bench.run_reduce_conv(shapes=[OWN], rivals=(name,), rounds=1),
        bench.run_module("5a", rivals=(name,), rounds=1),
        bench.run_conv("conv1", rivals=(name,), rounds=1),
    ):
        cell = found.rows[0]["columns"][name]
        assert "failed" not in cell, cell
        assert cell["median_us"] > 0 and cell["first_us"] > 0 and cell["convert_us"] > 0
        assert cell["error_of_bound"] < 1
        assert name.partition(".")[0] in found.environment["versions"]


@pytest.mark.oracles
def test_torch_keeps_its_threads():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = torch.get_num_threads()
    with rivals.opened(before + 1, ("torch",)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.oracles
def test_net_against_torch():
    pytest.importorskip("torch", reason="torch is not installed")
    found = bench.run_net(rivals=("torch", "torch.nchw"), rounds=1, threads=1)
    (row,) = found.rows
    assert not found.failed, row["columns"]
    assert row["macs"] == 1_582_671_872
    for name in ("torch", "torch.nchw"):
        assert row["columns"][name]["error"] < 2e-6  # the graph is the paper's, to rounding


@pytest.mark.oracles
def test_rows_networks_are_the_same_graph():
    """BN-Inception: chains, forks' stride and average pools, read off the layers."""
    pytest.importorskip("torch", reason="torch is not installed")
    found = bench.run_net(model="bn_inception", rivals=("torch",), rounds=1, threads=1)
    assert not found.failed, found.rows[0]["columns"]
    assert found.rows[0]["columns"]["torch"]["error"] < 2e-6
    with pytest.raises(ValueError, match="model is 'vgg', expected one of googlenet"):
        bench.run_net(model="vgg")


# --------------------------------------------------------------------------------------- comparing


def made(times: dict[str, tuple[float, float, float]], **environment: object) -> "report.Report":
    about = {"cpu": "c", "cores": 2, "threads": 1, "level": "v", "platform": "p"} | environment
    rows = [
        {"name": name, "columns": {"fused": {"p20_us": p20, "median_us": m, "p80_us": p80}}}
        for name, (p20, m, p80) in times.items()
    ]
    return report.Report("reduce_conv", rows, about | {"versions": {}, "date": ""})


def test_compare_gives_a_verdict_per_row(tmp_path):
    a = made(
        {"f": (9, 10, 11), "s": (9, 10, 11), "n": (9, 10, 11), "t": (10, 10, 10), "a": (1,) * 3}
    )
    b = made(
        {"f": (7, 8, 8.9), "s": (12, 13, 14), "n": (10, 12, 13), "t": (9.9,) * 3, "b": (1,) * 3}
    )
    a.rows.append({"name": "w", "columns": {"fused": {"failed": "error"}}})
    b.rows.append({"name": "w", "columns": {"fused": {"failed": "error"}}})
    path = tmp_path / "a.json"
    path.write_text(a.to_json())
    found = bench.compare(path, b)
    verdicts = {row["name"]: row["verdict"] for row in found.rows}
    expected = {"f": "faster", "s": "slower", "n": "same", "t": "same", "w": "wrong"}
    assert verdicts == expected | {"a": "only in a", "b": "only in b"}
    assert found.rows[0]["ratio"] == pytest.approx(0.8)
    assert "1 faster" in found.table() and "1 slower" in found.table()
    json.loads(found.to_json())


def test_compare_warns_of_another_machine():
    a, b = made({"f": (9, 10, 11)}), made({"f": (9, 10, 11)}, cpu="d", threads=2)
    with pytest.warns(UserWarning, match="cpu differs: 'c' in a, 'd' in b; threads differs"):
        found = bench.compare(a, b)
    assert "threads differs: 1 in a, 2 in b" in found.table()


# ----------------------------------------------------------------------------------------- suites


def test_suites_run_under_pytest_benchmark(tmp_path):
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "pytest", str(folder), "-q", "-p", "no:cacheprovider"]
    command += ["--benchmark-only", f"--benchmark-json={out}", "-k", "fused and 5a and 5x5"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    environment["PYINCEPTION_THREADS"] = "1"  # pytest-benchmark measures nothing beside xdist
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    saved = json.loads(out.read_text())
    found = {entry["name"]: entry["extra_info"] for entry in saved["benchmarks"]}
    assert set(found) == {"test_reduce_conv[fused-5a/5x5]", "test_reduce_conv[unfused-5a/5x5]"}
    for info in found.values():
        assert info["gflops"] > 0 and 0 < info["error"] < 1.5e-5 and info["bytes"] > 0
    assert saved["machine_info"]["pyinception"]["threads"] == 1
