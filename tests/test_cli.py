"""The command line: verbs, exit codes, messages, JSON, Ctrl-C in a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="extra `train`")
pytest.importorskip("matplotlib", reason="extra `train`")

from training import without_pictures

from pyinception import backend
from pyinception.cli import demo, main, output
from pyinception.cli import train as cli_train
from pyinception.train import loop
from pyinception.train.recipe import resolve
from pyinception.train.run_folder import RunFolder

# 5 steps an epoch of a network with batch norms and dropout.
QUICK = "--data digits --model tiny_inception --size 8 --count 72 --test-count 24 --batch-size 16"
ARGUMENTS = [*QUICK.split(), "--epochs", "3", "--no-baselines"]
CORE = pytest.mark.skipif(backend.why_not("cpu") is not None, reason="needs the compiled core")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run one command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYINCEPTION_THREADS", "1")  # maps of 8 x 8 are too small for a team

    def call(*arguments):
        code = main.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert len(captured.err.splitlines()) <= 3
        return code, captured.out, captured.err

    return call


@pytest.fixture
def no_pictures(monkeypatch):
    without_pictures(monkeypatch)


# ---------------------------------------------------------------- reports


def test_doctor(run):
    code, text, _ = run("doctor")
    assert code == 0 and "backend reference  works" in text
    code, text, _ = run("doctor", "--json")
    assert code == 0 and json.loads(text)["numpy"] == np.__version__


def test_version_and_help(run):
    assert run("--version")[1].startswith("pyinception 0.")
    code, text, _ = run("--help")
    assert code == 0
    verbs = "doctor demo bench train report compare look evaluate predict explain".split()
    assert all(f"  {verb} " in text for verb in verbs)


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


# ---------------------------------------------------------------- train, evaluate, predict


def test_train_evaluate_predict(run, tmp_path, no_pictures):
    image = pytest.importorskip("PIL.Image", reason="extra `train`")
    code, text, error = run("train", *ARGUMENTS, "--name", "a")
    assert (code, error) == (0, "")
    assert "\x1b" not in text and "\r" not in text
    epochs = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert [line[:9] for line in epochs] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("img/s" in line and "test accuracy" in line for line in epochs)

    code, text, _ = run("evaluate", "a", "--json")
    value = json.loads(text)
    assert (code, value["images"], np.sum(value["confusion"])) == (0, 24, 24)
    assert f"test accuracy {value['accuracy']:.1%}" in epochs[-1]
    code, text, _ = run("evaluate", "--checkpoint", "best")  # the newest run
    assert code == 0 and "digits/test, 24 images" in text and "most often taken for" in text

    pixels = np.zeros((8, 8), np.uint8)
    pixels[1:7, 3:5] = 255
    image.fromarray(pixels).save(tmp_path / "one.png")
    code, text, _ = run("predict", "one.png", "one.png", "--run", "a", "--top", 2, "--json")
    value = json.loads(text)
    assert code == 0 and [entry["image"] for entry in value] == ["one.png"] * 2
    assert [len(entry["classes"]) for entry in value] == [2, 2] and value[0] == value[1] | {}
    code, text, _ = run("predict", "one.png")
    assert code == 0 and text.startswith("one.png: ") and "%" in text

    (tmp_path / "fake.png").write_text("this is text")
    code, text, error = run("predict", "one.png", "fake.png")
    assert (code, text) == (1, "") and "fake.png: not an image" in error

    last = tmp_path / "runs/a/checkpoints/last.safetensors"
    code, text, error = run("evaluate", last, "--checkpoint", "best")
    assert (code, text) == (2, "") and "'best' is of a run" in error
    assert run("evaluate", "--checkpoint", last)[0] == 0
    last.write_bytes(last.read_bytes()[:1000])
    code, text, error = run("evaluate", "a")
    assert (code, text) == (1, "") and "last.safetensors is truncated" in error


def test_train_json_config_and_resume(run, tmp_path, no_pictures):
    code, text, error = run("train", *ARGUMENTS, "--name", "whole", "--json")
    whole = json.loads(text)
    assert (code, error, whole["steps"]) == (0, "", 15)
    (tmp_path / "my.toml").write_text(
        'data = "digits"\nmodel = "tiny_inception"\nsize = 8\ncount = 72\ntest_count = 24\n'
        "batch_size = 16\nepochs = 99\n"
    )
    arguments = ["train", "--config", "my.toml", "--name", "part", "--no-baselines", "--json"]
    code, text, _ = run(*arguments, "--epochs", 3, "--stop-after", 1)
    assert code == 0 and json.loads(text)["steps"] == 5
    code, text, error = run("train", "--name", "part")
    assert code == 1 and "continue it with --resume" in error
    code, text, error = run("train", "--name", "part", "--resume", "--lr", 0.5)
    assert code == 1 and "lr is 0.05, asked for 0.5" in error
    code, text, _ = run("train", "--name", "part", "--resume", "--json", "--threads", 1)
    assert json.loads(text)["weights_sha256"] == whole["weights_sha256"]


def test_report_compare_and_look(run, tmp_path, monkeypatch):
    from PIL import Image

    for name in ("draw_curves", "draw_filters", "draw_features"):
        monkeypatch.setattr(loop, name, lambda *args, **how: None)
    short = [*QUICK.split(), "--epochs", "1", "--no-baselines", "--watch", 2]
    assert run("train", *short, "--name", "a", "--no-report")[0] == 0
    assert not (tmp_path / "runs/a/report.html").exists()
    code, text, _ = run("train", *short, "--name", "b", "--lr", 0.02, "--tensorboard")
    assert code == 0 and "report.html" in text and list((tmp_path / "runs/b").glob("events*"))
    code, text, _ = run("report", "a", "--json")
    value = json.loads(text)
    assert code == 0 and value == {
        "report": "runs/a/report.html",
        "bytes": (tmp_path / "runs/a/report.html").stat().st_size,
    }
    code, _, error = run("report", "c")
    assert code == 1 and "no run 'c' in runs (runs there: a, b)" in error
    code, text, _ = run("compare", "a", "runs/b", "--json")
    value = json.loads(text)
    assert (code, value["entries"], value["page"]) == (0, {"lr": [0.05, 0.02]}, "compare.html")
    code, text, _ = run("compare", "a", "b", "--out", "")
    assert code == 0 and "test accuracy" in text and "0.02" in text and "page" not in text
    assert run("compare", "a")[0] == 1
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(tmp_path / "x.png")
    code, text, _ = run("look", "a", "x.png", "--json")
    value = json.loads(text)
    assert code == 0 and len(value["images"][0]["classes"]) == 5
    assert (tmp_path / "look.html").exists()
    code, text, _ = run("look", value["checkpoint"], "x.png", "--out", "")
    assert code == 0 and "inception_a 1x1 - 3x3" in text and "strongest channels" in text
    code, _, error = run("look", "a", "none.png")
    assert code == 1 and "none.png" in error


def test_find_lr(run, tmp_path):
    code, text, _ = run("train", *QUICK.split(), "--name", "a", "--find-lr", "--json")
    value = json.loads(text)
    assert code == 0 and value["suggested"] == pytest.approx(value["lowest"] / 10)
    assert (tmp_path / "a-lr.png").read_bytes()[:4] == b"\x89PNG"


def test_find_lr_heeds_the_run_or_refuses(run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cli_train, "_find_lr", lambda recipe, *more: seen.append(recipe) or 0)
    RunFolder(tmp_path / "there/a").create(resolve({"data": "digits", "batch_size": 7}))
    line = ["train", "--find-lr", "--name", "a"]
    assert run(*line, "--runs", "there", "--resume")[0] == 0
    assert seen.pop().batch_size == 7
    code, _, error = run(*line, "--runs", "there", "--resume", "--batch-size", 8)
    assert code == 1 and "batch_size is 7, asked for 8" in error
    code, _, error = run(*line, "--runs", "there")
    assert code == 1 and "there/a exists" in error
    code, _, error = run(*line, "--resume")
    assert code == 1 and "nothing to resume" in error
    given = (("--workers", 2), ("--stop-after", 1), ("--checkpoint-steps", 3), ("--no-report",))
    for option in (*given, ("--watch", 3), ("--tensorboard",), ("--no-baselines",)):
        code, _, error = run(*line, *option)
        name = str(option[0]).replace("--no-", "--")
        assert code == 2 and f"{name}: says nothing beside --find-lr" in error
    assert run("train", "--find-lr", "--runs", "there")[0] == 2
    assert run("train", "--find-lr", "--threads", 1)[0] == 0 and len(seen) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_saves_and_resume_equals_the_whole_run(run, tmp_path, no_pictures, name, code):
    """A real process gets a real signal in its eighth step, in the middle of an epoch."""
    text = run("train", *ARGUMENTS, "--name", "whole", "--json")[1]
    whole = json.loads(text)
    script = f"""
import os, signal, sys
from pyinception.cli.main import run
from pyinception.train import loop

real = loop.step

def step(net, optimizer, batch, recipe):
    if optimizer.iteration == 7:
        os.kill(os.getpid(), signal.{name})
    return real(net, optimizer, batch, recipe)

loop.step = step
loop.draw_curves = loop.draw_filters = loop.draw_features = lambda *args: None
loop.write_report = lambda *args, **how: None
sys.exit(run())
"""
    command = [sys.executable, "-c", script, "train", *ARGUMENTS, "--name", "part"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert f"{name}: saved runs/part/checkpoints/last.safetensors after step 8" in done.stdout
    assert "--name part --resume" in done.stdout and done.stderr == ""
    text = run("train", "--name", "part", "--resume", "--json")[1]
    assert json.loads(text)["weights_sha256"] == whole["weights_sha256"]


def test_a_closed_pipe_ends_quietly(tmp_path):
    script = "import sys; from pyinception.cli.main import run; sys.exit(run())"
    command = f"'{sys.executable}' -c '{script}' explain module 3a | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() in ("0", "1") and done.stderr == ""


# ---------------------------------------------------------------- bench and demo


@CORE
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


@CORE
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


@CORE
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
