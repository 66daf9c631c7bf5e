"""Training from the command line: train, evaluate, predict, report, look, signals."""

import json
import subprocess
import sys

import numpy as np
import pytest
from command_line import run_command  # noqa: F401
from training import QUICK, without_pictures

from pyinception.cli import train as cli_train
from pyinception.train.recipe import resolve
from pyinception.train.run_folder import RunFolder

OPTIONS = [
    word for name, value in QUICK.items() for word in (f"--{name.replace('_', '-')}", str(value))
]
ARGUMENTS = [*OPTIONS, "--epochs", "3", "--no-baselines"]


@pytest.fixture
def no_pictures(monkeypatch):
    without_pictures(monkeypatch)


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

    without_pictures(monkeypatch, report=True)
    short = [*OPTIONS, "--epochs", "1", "--no-baselines", "--watch", 2]
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
    code, text, _ = run("train", *OPTIONS, "--name", "a", "--find-lr", "--json")
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
