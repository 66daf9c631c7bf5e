"""Pages of runs: drawn from the files alone, self-contained, escaped, seen in a real browser.

Screenshots go to the folder that PYINCEPTION_SCREENSHOTS names, else to the test's own.
"""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import browser
import numpy as np
import pytest

pytest.importorskip("PIL", reason="extra `train`")

from PIL import Image
from training import at_step, fail, metrics, one_thread, train, without_pictures  # noqa: F401

from pyinception.train import chart, page, views
from pyinception.train.compare import compare_runs, write_comparison
from pyinception.train.evaluation import load_trained
from pyinception.train.inspection import look, write_look
from pyinception.train.report import write_report
from pyinception.train.run_folder import RunError, RunFolder

CHROMIUM = browser.find()
IN_BROWSER = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no browser on PATH ({', '.join(browser.NAMES)})"
)
EVIL = "<script>alert(1)</script> & \"two\" 'quotes'"
MOST_BYTES = 3_000_000
# Four branches a module, colour, three steps an epoch.
RECIPE = {
    "data": "image_folder",
    "size": 12,
    "model": "tiny_inception",
    "batch_size": 8,
    "epochs": 2,
    "lr": 0.01,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on pictures of three classes, one of which has a name that means harm."""
    root = tmp_path_factory.mktemp("report")
    draw = np.random.default_rng(0)
    names = [EVIL.replace("/", "\N{DIVISION SLASH}"), "a class of an unusually long name", "c"]
    for n in range(36):
        split = "train" if n < 24 else "test"
        path = root / "data" / split / names[n % 3] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    given = RECIPE | {"root": str(root / "data")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYINCEPTION_THREADS", "1")
        without_pictures(patch, report=True)
        train(root / "runs" / "first", given, watch=1)
        train(root / "runs" / "second", given | {"lr": 0.02}, watch=2)
    return root


class Reader(HTMLParser):
    """What a page holds: tags, addresses, text; and whether every tag is closed."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action", "data")]
        assert not any(key.startswith("on") for key, _ in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


def read(path):
    """A page's parts, after the checks that hold for every page."""
    content = path.read_bytes()
    assert len(content) < MOST_BYTES
    text = content.decode()
    found = Reader(text)
    assert "script" not in found.tags and "iframe" not in found.tags and "link" not in found.tags
    assert all(address.startswith("data:image/png;base64,") for address in found.addresses)
    rest = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//|@import|url\(", rest, re.I)
    assert f'content="{page.POLICY}"'.replace("'", "&#x27;") in text
    return found


def titles(path):
    return re.findall(r"<h2>([^<]*)</h2>", path.read_text())


ALL = (
    "Training Time Layers Branches First_layer Feature_maps Confusion Worst_mistakes Configuration"
)


def test_a_run_leaves_a_report(runs):
    path = runs / "runs" / "first" / "report.html"
    found = read(path)
    assert titles(path) == [title.replace("_", " ") for title in ALL.split()]
    text = " ".join(found.text)
    run = RunFolder(path.parent)
    last = run.metrics()[-1]
    for part in (
        f"{last['test_accuracy']:.1%}",
        "2 of 2",
        "image_folder",
        "6 x 6 x 80",
    ):
        assert part in text
    for name in ("conv1", "inception_a.reduce3x3", "conv wgrad", "inception backward"):
        assert name in text
    assert "auxiliary 1" not in text
    judged = run.read_json("judged.json")
    assert judged["epoch"] == 1 and judged["accuracy"] == last["test_accuracy"]
    assert sum(count for _, _, count in judged["confusion"]) == 12
    wrong = round(12 * (1 - judged["accuracy"]))
    assert len(judged["mistakes"]) == wrong > 0  # noise cannot be learnt
    chances = [mistake["of_label"] for mistake in judged["mistakes"]]
    assert chances == sorted(chances)
    for mistake in judged["mistakes"]:
        assert mistake["label"] != mistake["prediction"]
        assert mistake["probability"] >= mistake["of_label"]


def test_every_head_has_its_curve(tmp_path, runs):
    copy = tmp_path / "run"
    shutil.copytree(runs / "runs" / "first", copy)
    lines = metrics(copy)
    for line in lines:
        if line["kind"] == "step":
            line["heads"] = [line["loss"], 1.5, 2.5]
    kept = [line for line in lines if line["kind"] != "watch"]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    path = write_report(copy, root=runs / "data")
    text = " ".join(read(path).text)
    assert not {"Time", "Layers", "Branches"} & set(titles(path))  # it was never looked into
    assert all(part in text for part in ("Loss of each head", "main classifier", "auxiliary 2"))


def test_what_a_run_says_is_text(runs):
    """A class may be called like a tag: it is shown, and does nothing."""
    harm = EVIL.replace("/", "\N{DIVISION SLASH}")
    for path in (runs / "runs" / "first" / "report.html",):
        assert harm not in path.read_text() and "<script" not in path.read_text()
        assert any(harm in text for text in read(path).text)


def test_an_interrupted_run_has_a_report(tmp_path, runs, monkeypatch):
    """Before the first epoch's end, without a checkpoint, without its data."""
    without_pictures(monkeypatch, report=True)
    given = RECIPE | {"root": str(runs / "data")}
    at_step(monkeypatch, 2, fail)
    with pytest.raises(MemoryError):
        train(tmp_path / "run", given)
    assert not (tmp_path / "run" / "report.html").exists()
    path = write_report(tmp_path / "run")
    assert titles(path) == "Training Time Layers Branches Configuration".split() + ["Left out"]
    text = " ".join(read(path).text)
    assert "0 of 2" in text and "there is no checkpoint yet" in text
    at_step(monkeypatch, 2, fail)
    with pytest.raises(MemoryError):
        train(tmp_path / "run", {}, resume=True, checkpoint_steps=1)
    (tmp_path / "empty").mkdir()
    path = write_report(tmp_path / "run", path=tmp_path / "other.html", root=tmp_path / "empty")
    assert "First layer" in titles(path) and "Feature maps" not in titles(path)
    assert "pictures of the data set" in " ".join(read(path).text)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RunError, match="nothing is no run folder"):
        write_report(tmp_path / "nothing")
    with (tmp_path / "run" / "metrics.jsonl").open("w"):
        pass
    with pytest.raises(RunError, match="has done no step yet"):
        write_report(tmp_path / "run")


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, runs, monkeypatch):
    path = write_report(runs / "runs" / "first", path=tmp_path / "page.html")
    before = path.read_bytes()

    def full(*args, **how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyinception.train.run_folder.os.replace", full)
    with pytest.raises(OSError, match=r"cannot write .*page\.html"):
        write_report(runs / "runs" / "first", path=path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- compare and look


def test_compare(tmp_path, runs):
    folders = [runs / "runs" / name for name in ("first", "second")]
    found = compare_runs(folders)
    assert found.names == ["first", "second"]
    assert found.entries == {"lr": [0.01, 0.02]}
    last = [RunFolder(folder).metrics()[-1] for folder in folders]
    assert found.figures["test loss"] == [line["test_loss"] for line in last]
    assert found.figures["steps"] == [6, 6]
    text = " ".join(read(write_comparison(found, tmp_path / "page.html")).text)
    assert "0.02" in text and "Test accuracy, %" in text
    with pytest.raises(ValueError, match="1 run is given"):
        compare_runs(folders[:1])
    with pytest.raises(RunError, match="no run folder"):
        compare_runs([folders[0], tmp_path])


def test_look(tmp_path, runs):
    trained = load_trained(runs / "runs" / "first" / "checkpoints" / "last.safetensors")
    images = sorted((runs / "data" / "test").rglob("*.png"))[:2]
    found = look(trained, images)
    value = json.loads(json.dumps([each.as_dict() for each in found]))
    assert [Path(row["image"]) for row in value] == images
    assert sum(row["probability"] for row in value[0]["classes"]) == pytest.approx(1)
    modules = {branch["module"] for branch in value[0]["branches"]}
    assert len(modules) >= 2
    for branch in value[0]["branches"]:
        assert branch["rms"] >= 0 and 0 <= branch["dead"] <= 1
    path = write_look(trained, found, tmp_path / "look.html")
    read(path)
    assert titles(path) == ["First layer", *(image.name for image in images)]


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def tab():
    with browser.Browser(CHROMIUM) as found:
        yield found


@IN_BROWSER
@pytest.mark.parametrize("what", ["report", "compare", "look"])
def test_a_page_in_a_browser(tab, runs, tmp_path, what):
    """Nothing requested, nothing overlapping, nothing cut off, at a phone's width and a desk's."""
    folder = Path(os.environ.get("PYINCEPTION_SCREENSHOTS", tmp_path))
    path = tmp_path / f"{what}.html"
    if what == "report":
        write_report(runs / "runs" / "first", path=path)
    elif what == "compare":
        write_comparison(compare_runs([runs / "runs" / n for n in ("first", "second")]), path)
    else:
        trained = load_trained(runs / "runs" / "first" / "checkpoints" / "last.safetensors")
        write_look(trained, look(trained, [next((runs / "data" / "test").rglob("*.png"))]), path)
    tab.requests.clear()
    for width, dark in ((390, False), (1280, True), (1280, False)):
        found = tab.open(path, width, dark)
        assert found["overlaps"] == [] and found["outside"] == [] and found["small"] == []
        assert found["scroll"] <= found["width"] == width
        assert found["broken"] == 0 and found["drawings"] >= 5 and found["texts"] > 25
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(18, 22, 26)") == dark
        name = folder / f"{what}-{width}{'-dark' * dark}.png"
        tab.screenshot(name)
        with Image.open(name) as picture:
            assert picture.width == width and picture.height > 800
            assert len(np.unique(np.asarray(picture.convert("L")))) > 40
    asked = [url for url in tab.requests if not url.startswith("data:")]
    assert asked == [path.as_uri()] * 3


@IN_BROWSER
@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<p>one</p><p style="margin-top:-30px">two</p>', "overlaps"),
        ('<svg viewBox="0 0 420 90"><text x="9" y="50">a</text><text x="11" y="52">b</text></svg>',
         "overlaps"),
        ('<p style="white-space:nowrap">' + "wide " * 200 + "</p>", "outside"),
        ('<p style="font-size:7px">tiny</p>', "small"),
    ],
)  # fmt: skip
def test_the_browser_finds_faults(tab, tmp_path, html, fault):
    path = tmp_path / "page.html"
    path.write_bytes(page.page("faulty", html))
    assert tab.open(path, 390)[fault] != []


@IN_BROWSER
def test_the_policy_stops_what_should_not_be_there(tab, tmp_path):
    path = tmp_path / "page.html"
    html = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "ran"</script><p>x</p>'
    path.write_bytes(page.page("held", html))
    found = tab.open(path, 390)
    assert found["broken"] == 1
    assert tab.evaluate("document.title") == "held"


# ---------------------------------------------------------------- charts


def test_numbers_are_short():
    values = [0, 1, 0.5, 1234, 999_999, 1e6, 2.5e9, 0.00012, 1.26e-5, -1500, 99.95]
    texts = "0 1 0.5 1.23k 1M 1M 2.5G 1.2e-4 1.3e-5 -1.5k 100".split()
    assert [chart.number(value) for value in values] == texts


def test_ticks_are_few_and_inside():
    for low, high in ((0, 1), (0.0021, 0.0034), (-3, 950), (1, 63), (7, 7.0001), (0, 1e-9)):
        found = chart.ticks(low, high, 5)
        assert 1 <= len(found) <= 5
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert chart.ticks(0, 4, 5, whole=True) == [0, 1, 2, 3, 4]
    assert chart.ticks(1, 2.2, 5, whole=True) == [1, 2]


def test_lines_are_thinned_to_means():
    x = [float(i) for i in range(1000)]
    xs, ys = chart.thinned(x, [None if i % 2 else i for i in x], 100)
    assert len(xs) == 100 and xs[0] == 4.5 and ys[0] == 4
    assert chart.smoothed([1.0, None, 3.0, float("nan"), 5.0], 2) == [1, 1, 2, 2, 4]
    assert chart.lines([chart.Series("a", [1.0], [None])], name="a") == ""
    drawn = chart.lines([chart.Series("a", x, x)], name="<b>")
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn and len(drawn) < 6000
    path = re.search(r'd="M([^"]*)"', drawn).group(1)
    points = np.array([[float(v) for v in point.split()] for point in path.split("L")])
    assert (np.diff(points[:, 0]) > 0).all() and (np.diff(points[:, 1]) < 0).all()


def test_bars_stack():
    drawn = chart.bars([(1.0, [1.0, 3.0]), (2.0, [2.0, 2.0])], name="time")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"/>', drawn)]
    assert heights[1] == pytest.approx(3 * heights[0], rel=1e-2) and heights[2] == heights[3]
    assert chart.bars([], name="time") == ""


def test_large_pictures_are_scaled_down():
    """24 mistakes of noise, which no PNG can make smaller, leave room for the rest of a page."""
    noise = np.random.default_rng(0).random((400, 300, 3), np.float32)
    small = views.shrunk(noise)
    assert small.shape == (128, 96, 3) and small.mean() == pytest.approx(0.5, abs=0.02)
    assert views.shrunk(noise[:28, :28]).shape == (28, 28, 3)
    assert views.shrunk(noise[:, :, :1]).shape == (128, 96, 1)
    assert len(views.pictures([noise] * 24, ["noise"] * 24)) < MOST_BYTES / 2
    broken = np.full((4, 4, 1), np.nan, np.float32)
    assert "base64" in page.picture(broken, "broken")


def test_shades_are_dark_to_bright():
    pixels = views.shades([0, 0.5, 1, None, 7], 0, 1)
    assert pixels.shape == (1, 5, 3)
    light = pixels[0] @ [0.2126, 0.7152, 0.0722]
    assert light[0] < light[1] < light[2] == light[4]
    assert (pixels[0, 3] == 0.5).all()
