"""The command line: verbs, exit codes, messages, JSON; training from it: test_cli_train.py."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="extra `train`")
pytest.importorskip("matplotlib", reason="extra `train`")

from built import needs_core
from command_line import run_command  # noqa: F401

from pyinception import reports
from pyinception.cli import demo, main, output
from pyinception.train import loop

# ---------------------------------------------------------------- reports


def test_doctor(run):
    code, text, _ = run("doctor")
    assert code == 0 and "backend reference  works" in text
    code, text, _ = run("doctor", "--json")
    assert code == 0 and json.loads(text)["numpy"] == np.__version__


def test_doctor_names_what_an_extra_lacks(monkeypatch):
    there = {name for names in reports.EXTRAS.values() for name in names} - {"onnxruntime"}
    monkeypatch.setattr(reports.importlib.util, "find_spec", lambda name: name in there or None)
    report = reports.doctor()
    wanted: dict[str, list[str]] = {extra: [] for extra in reports.EXTRAS}
    wanted |= {"rivals": ["onnxruntime"]}
    assert report["extras"] == wanted
    lines = [line.split() for line in str(report).splitlines()]
    assert ["extra", "rivals", "lacks", "onnxruntime"] in lines
    assert ["extra", "jit", "installed"] in lines


def test_version_and_help(run):
    assert run("--version")[1].startswith("pyinception 0.")
    code, text, _ = run("--help")
    assert code == 0
    verbs = "doctor demo bench train report compare look evaluate predict explain".split()
    assert all(f"  {verb} " in text for verb in verbs)
    lists = [run(*verb, "--help")[1].partition("Commands:")[2] for verb in ((), ("bench",))]
    assert all(lists) and not any("..." in text for text in lists)


@pytest.mark.parametrize("verb", [(), ("bench",)])
def test_no_verb_shows_the_help(capsys, verb):
    """Whole, on stderr, and the status of a wrong command line."""
    assert main.run([*verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert main.run(list(verb)) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", text) and "Commands:" in text


@pytest.mark.parametrize(
    "arguments, macs, op",
    [
        (["module", "3a"], 128_049_152, "inception"),
        (["reduce_conv", "3a/3x3"], 28 * 28 * (192 * 96 + 96 * 9 * 128), "reduce_conv"),
        (["reduce_conv", "2,5,6,4,3,8,3"], 2 * 30 * (4 * 3 + 3 * 9 * 8), "reduce_conv"),
        (["conv", "2,9,9,4,8,3", "--stride", 2, "--padding", 1], 2 * 25 * 36 * 8, "conv"),
        (["conv", "conv2", "--batch", 3], 3 * 56 * 56 * 64 * 9 * 192, "conv"),
        (["module", "1,6,6,4,1,2,3,4,5,6"], 36 * (4 * 13 + 2 * 27 + 4 * 125), "inception"),
    ],
)
def test_explain(run, arguments, macs, op):
    code, text, _ = run("explain", *arguments, "--json")
    value = json.loads(text)
    assert (code, value["macs"]) == (0, macs)
    assert {row["op"] for row in value["rows"]} == {op}
    assert value["rows"][-1]["row"] == "reference"
    code, text, _ = run("explain", *arguments)
    assert code == 0 and f"multiply-adds {macs:,}" in text


def test_explain_shows_why_a_row_declines(run):
    code, text, _ = run("explain", "conv", "1,4,4,2,2,3", "--dtype", "float64", "--json")
    reasons = [row["reason"] for row in json.loads(text)["rows"] if row["row"].startswith("cpu")]
    assert code == 0 and reasons and all(reasons)


# ---------------------------------------------------------------- exit codes and messages


@pytest.mark.parametrize(
    "line, code, message",
    [
        ("tran", 2, "No such command 'tran'"),
        ("train --epoch 3", 2, "No such option: --epoch"),
        ("train --epochs many", 2, "--epochs"),
        ("predict", 2, "Missing argument 'IMAGE...'"),
        ("train --data digitz", 1, "unknown data set 'digitz', expected one of digits"),
        ("train --model inception", 1, "unknown model 'inception'"),
        ("train --data image_folder --root .", 1, "is empty, expected one sub-folder per class"),
        ("train --epochs 0", 1, "epochs is 0, expected 1"),
        ("train --resume", 1, "there is no run folder runs/digits-small_inception-seed0"),
        ("train --config none.toml", 1, "--config: cannot read none.toml: No such file"),
        ("evaluate nothing", 1, "no run 'nothing' in runs"),
        ("evaluate", 1, "error: no run in runs (there are no runs)"),
        ("explain", 2, "'kind'. Choose from: conv, reduce_conv, module"),
        ("explain nonsense 3a", 2, "Invalid value for 'kind': 'nonsense' is not one of 'conv', "),
        ("evaluate --checkpoint lsat", 1, "no file 'lsat'; expected last, best or a path"),
        ("evaluate a --checkpoint b.safetensors", 2, "'b.safetensors' and the run 'a' exclude"),
        ("predict a.png --run a --checkpoint b", 2, "'b' and the run 'a' exclude"),
        ("predict a.png", 1, "there are no runs"),
        ("explain module 9z", 1, "expected a layer such as 3a"),
        ("explain conv 1,2,3", 1, "expected positive integers N,H,W,C,K,R"),
        ("explain conv 1,4,4,2,2,9", 1, "explain: "),
        ("explain tensor 3a", 2, "tensor"),
        ("bench compare a.json b.json", 1, "A.JSON: cannot read a.json: No such file"),
        ("bench --json conv 3a/1x1", 2, "--json: belongs to --quick, or behind a verb"),
        ("bench --save q.json conv", 2, "--save: belongs to --quick"),
        ("bench net --mode fast", 1, "bench: mode is 'fast', expected one of auto"),
        ("bench --backend cpu", 2, "--backend: belongs to --quick"),
        ("bench reduce_conv 3a/3x3 --backend cuda", 2, "--backend: is for a --kernel"),
        ("bench reduce_conv --kernel f.cu:f --threads 1", 2, "--threads: says nothing beside"),
        ("bench reduce_conv --kernel f.cu:f --no-rivals", 2, "--rivals: says nothing beside"),
        ("bench reduce_conv --kernel f.cu:f --rival torch", 2, "--rival: says nothing beside"),
        ("bench reduce_conv --kernel f.cu:f --algorithm auto", 2, "--algorithm: says nothing"),
        ("bench reduce_conv 9z", 1, "9z"),
    ],
)
def test_errors(run, tmp_path, line, code, message):
    found, text, error = run(*line.split())
    assert (found, text) == (code, "")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_long_messages_are_cut(run, tmp_path):
    for name in "ab":
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        for split in ("train", "test"):
            for i in range(3):
                (tmp_path / "data" / split / name / f"{i}.jpg").write_text("no picture")
    code, _, error = run("train", "--data", "image_folder", "--root", "data")
    lines = error.splitlines()
    assert code == 1 and len(lines) == 3
    assert "6 of 6 files in data" in lines[0] and "5 lines more (--debug)" in lines[2]
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.run(["train", "--data", "digitz", "--debug"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "error: load: unknown data set 'digitz'" in error


def test_a_defect_says_so(run, monkeypatch):
    def broken(*args, **how):
        raise KeyError("weights")

    monkeypatch.setattr(loop, "train", broken)
    code, _, error = run("train")
    assert code == 1 and "a defect of pyinception; --debug shows where" in error


def test_ctrl_c_outside_training(run, monkeypatch):
    def interrupted(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", interrupted)
    code, _, error = run("train")
    assert (code, error) == (130, "interrupted\n")


def test_a_closed_pipe_ends_quietly(tmp_path):
    script = "import sys; from pyinception.cli.main import run; sys.exit(run())"
    command = f"'{sys.executable}' -c '{script}' explain module 3a | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() in ("0", "1") and done.stderr == ""


# ---------------------------------------------------------------- bench and demo


@needs_core
def test_bench(run, tmp_path):
    quick = ["--rounds", 1, "--no-rivals"]
    code, text, error = run(
        "bench", "reduce_conv", "--shape", "1,8,8,8,8,16,3", *quick, "--json", "--save", "a.json"
    )
    report = json.loads(text)
    assert (code, error) == (0, "")
    assert [row["shape"] for row in report["rows"]] == [[1, 8, 8, 8]]
    assert {"fused", "unfused"} <= set(report["rows"][0]["columns"])
    assert json.loads((tmp_path / "a.json").read_text()) == report
    code, text, _ = run("bench", "module", "5a", *quick)
    assert code == 0 and "5a" in text and "GFLOP/s" in text
    (tmp_path / "b.json").write_bytes(b"\xff")
    code, text, error = run("bench", "compare", "a.json", "b.json")
    assert (code, text) == (1, "") and error.startswith("error: B.JSON: ")
    code, text, error = run("bench", "compare", "a.json", "a.json", "--json")
    assert (code, error) == (0, "")
    assert {row["verdict"] for row in json.loads(text)["rows"]} == {"same"}


@needs_core
def test_demo(run, tmp_path, monkeypatch):
    from pyinception import bench

    real = bench.run_module
    monkeypatch.setattr(bench, "run_module", lambda names, **how: real(["5a"], **how))
    quick = {"size": 8, "count": 72, "epochs": 1}
    monkeypatch.setattr(demo, "TINY", demo.TINY | quick)
    monkeypatch.setattr(demo, "SMALL", demo.SMALL | quick)
    code, text, error = run("demo", "--rounds", 1, "--no-rivals", "--out", "out")
    assert (code, error) == (0, "")
    assert "WRONG" not in text and text.count(" ok") >= 10
    made = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert sorted(made) == ["curve.png", "picture.png", "table.txt"]
    assert all(made[name].read_bytes()[:4] == b"\x89PNG" for name in ("curve.png", "picture.png"))
    assert "reduce_conv 5a/3x3" in made["table.txt"].read_text()
    assert not (tmp_path / "runs").exists()


@needs_core
def test_demo_finds_a_wrong_kernel(monkeypatch):
    import pyinception as pyi

    real = pyi.inception

    def wrong(*args, **how):
        result = real(*args, **how)
        y = result[0] if isinstance(result, tuple) else result
        y[0, 0, 0, 0] += 0.01
        return result

    monkeypatch.setattr(pyi, "inception", wrong)
    rows = demo.check_modules()
    verdicts = {(row["name"], row["direction"]): row["ok"] for row in rows}
    assert not verdicts["odd", "forward"] and not verdicts["4a", "forward"]
    assert "WRONG" in demo.checks_table(rows)


def test_table():
    assert output.table(["a", "bb"], [["long", "1"], ["x", "22"]]) == "a     bb\nlong   1\nx     22"
