"""``report.html``: everything that a run folder holds, on one self-contained page.

It is drawn from the files alone, so a run that was interrupted or killed has one too; what needs
the weights or the pictures is left out where they are missing, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from pyinception import checkpoint, data
from pyinception.train import chart, page, views
from pyinception.train.chart import Series, lines, number, smoothed
from pyinception.train.evaluation import Trained, load_trained
from pyinception.train.progress import clock
from pyinception.train.recipe import Recipe, read_toml, resolve
from pyinception.train.run_folder import RunError, RunFolder, write_whole
from pyinception.train.splits import example, load_split

NAME = "report.html"
FEW = 20  # classes that a confusion still names
Lines = Sequence[Mapping[str, Any]]


def write_report(
    run: RunFolder | str | Path,
    *,
    test: data.Dataset | None = None,
    path: str | Path | None = None,
    root: str | Path | None = None,
) -> Path:
    """Write a run's page; returns its path.

    Parameters
    ----------
    run : a run folder, of a run that ended, was interrupted or is under way.
    test : its test images, if they are at hand; else they are looked for where the run had them.
    path : where to write; report.html in the run folder if left out.
    root : where the data set's files are now, if they moved.

    Raises
    ------
    RunError
        If there is no such run, or it has done no step yet.
    OSError
        If the page cannot be written; an older one is whole.
    """
    run = run if isinstance(run, RunFolder) else RunFolder(run)
    if not run.config.is_file():
        raise RunError(f"report: {run.path} is no run folder (it has no config.toml)")
    steps, epochs, looks = (run.metrics(kind) for kind in ("step", "epoch", "watch"))
    if not steps:
        raise RunError(f"report: {run.path} has done no step yet")
    recipe = resolve(read_toml(run.config)).located(run.path)
    recipe = recipe if root is None else replace(recipe, root=str(root))
    missing: list[str] = []
    trained = _trained(run, missing)
    test = test if test is not None else _test_images(recipe, missing)
    judged = run.read_json("judged.json")
    parts = [
        _head(run, recipe, steps, epochs, trained),
        page.section("Training", _TRAINING, _training(run, recipe, steps, epochs)),
        page.section("Time", _TIME, step_time(looks)),
        page.section("Layers", _LAYERS, layer_table(looks)),
        page.section("Branches", _BRANCHES, branch_charts(looks)),
        page.section("First layer", "What the network looks for in the pixels.", _filters(trained)),
        page.section("Feature maps", _MAPS, _maps(trained, test, missing)),
    ]
    if judged:
        parts.append(page.section("Confusion", _told(judged), views.confusion(judged, FEW)))
        parts.append(page.section("Worst mistakes", _MISTAKES, _mistakes(judged, test)))
    parts.append(page.section("Configuration", _CONFIG, _configuration(run, recipe)))
    if missing:
        parts.append(page.section("Left out", "; ".join(missing), " "))
    target = Path(path) if path is not None else run.path / NAME
    write_whole(target, page.page(f"{run.path.absolute().name}: training report", "".join(parts)))
    return target


_TRAINING = "By step, smoothed; thin lines are the steps themselves, dots the epochs' tests."
_TIME = (
    "One step by kernel, and where its time goes in all; rest is what no kernel does: Python, "
    "concatenation, bookkeeping."
)
_LAYERS = (
    "Along each strip time runs from left to right. Gradient / weight is the ratio of the two "
    "norms, from dark (small) to bright (large); a layer far darker than its neighbours learns "
    "little. Dead is the share of the channels behind a ReLU that are off "
    "for the whole batch."
)
_BRANCHES = (
    "Root mean square of each branch's output. A branch that sinks to nothing is not used by the "
    "layers above."
)
_MAPS = "The strongest channels of each branch for one test image."
_MISTAKES = "The test images whose true class got the least probability."
_CONFIG = "Everything that decides the bits of this run; entries unlike the defaults are marked."


def _trained(run: RunFolder, missing: list[str]) -> Trained | None:
    try:
        return load_trained(run.last)
    except FileNotFoundError:
        missing.append("filters and feature maps: there is no checkpoint yet")
    except checkpoint.CheckpointError as error:
        missing.append(f"filters and feature maps: {error}")
    return None


def _test_images(recipe: Recipe, missing: list[str]) -> data.Dataset | None:
    try:
        return load_split(recipe, "test")
    except (data.DatasetError, ImportError, OSError, ValueError) as error:
        missing.append(f"pictures of the data set: {error}")
        return None


def _filters(trained: Trained | None) -> str:
    return page.grid(views.filters(trained.net), kind="wide") if trained is not None else ""


def _maps(trained: Trained | None, test: data.Dataset | None, missing: list[str]) -> str:
    if trained is None or test is None:
        return ""
    try:
        image = example(test, trained.recipe)
    except (data.DatasetError, OSError, StopIteration) as error:
        missing.append(f"feature maps: {error}")
        return ""
    return views.feature_maps(trained.net, image, only_first=True)


def _head(
    run: RunFolder, recipe: Recipe, steps: Lines, epochs: Lines, trained: Trained | None
) -> str:
    last = epochs[-1] if epochs else {}
    done = len(epochs)
    shares = [line["roofline"] for line in steps if line.get("roofline") is not None]
    rates = [line["images_per_second"] for line in steps]
    seconds = sum(1 / rate for rate in rates if rate)  # of one image of each batch
    values = [("test accuracy", f"{last['test_accuracy']:.1%}")] if last else []
    if done > 1:
        best = max(epochs, key=lambda line: line["test_accuracy"])
        values.append((f"best, epoch {best['epoch'] + 1}", f"{best['test_accuracy']:.1%}"))
    values += [
        ("epochs done", f"{done} of {recipe.epochs}"),
        ("steps", f"{steps[-1]['step']:,}"),
        ("images a second", number(len(rates) / seconds) if seconds else "-"),
    ]
    if shares:
        values.append(("of the roofline", f"{sum(shares) / len(shares):.0%}"))
    if done:
        values.append(("trained for", clock(sum(line["seconds"] for line in epochs))))
    if trained is not None:
        values.append(("parameters", number(trained.net.count_parameters())))
    about = f"{recipe.model} on {recipe.data}, seed {recipe.seed}"
    unfinished = "" if done >= recipe.epochs else f"; stopped or under way in epoch {done + 1}"
    title = run.path.absolute().name
    return f"<h1>{escape(title)}</h1><p>{escape(about + unfinished)}</p>{page.tiles(values)}"


def _training(run: RunFolder, recipe: Recipe, steps: Lines, epochs: Lines) -> str:
    x = [float(line["step"]) for line in steps]
    over = max(1, len(steps) // 40)
    tests = [float(line["step"]) for line in epochs]

    def of(key: str, scale: float = 1) -> list[float | None]:
        return [scale * v if (v := line.get(key)) is not None else None for line in steps]

    def both(key: str, name: str, scale: float = 1) -> list[Series]:
        y = of(key, scale)
        test = [scale * line[f"test_{key}"] for line in epochs]
        return [
            Series(name, x, y, "thin"),
            Series(name, x, smoothed(y, over)),
            Series("test", tests, test, colour=1),
            Series("test", tests, test, "dots", 1),
        ]

    two = [(0, "training batches"), (1, "test images")]
    cards = [page.card("Loss", lines(both("loss", "training"), name="loss"), two, "nats")]
    heads = [line.get("heads", ()) for line in steps]
    if any(heads):
        series, legend = [], []
        for k in range(max(map(len, heads))):
            y = [row[k] if k < len(row) else None for row in heads]
            label = "main classifier" if k == 0 else f"auxiliary {k}"
            series.append(Series(label, x, smoothed(y, over), colour=k))
            legend.append((k, label))
        cards.append(page.card("Loss of each head", lines(series, name="heads"), legend, "nats"))
    marks = [
        (f"{score['name']} ({score['how']})", 100 * score["accuracy"])
        for score in run.read_json("baselines.json") or []
    ]
    marks = sorted(marks, key=lambda mark: -mark[1])[:1]
    note = f"dashed: {marks[0][0]}, {marks[0][1]:.1f} %" if marks else ""
    accuracy = lines(both("accuracy", "training", 100), name="accuracy", marks=marks, top=100)
    cards.append(page.card("Accuracy, %", accuracy, two, note))
    rate = [Series("lr", x, of("lr"), colour=2)]
    cards.append(page.card("Learning rate", lines(rate, name="learning rate", zero=True)))
    speed = of("images_per_second")
    both_speeds = [Series("", x, speed, "thin", 3), Series("", x, smoothed(speed, over), colour=3)]
    cards.append(
        page.card("Images a second", lines(both_speeds, name="images a second", zero=True))
    )
    shares = [
        (4, "of the roofline", of("roofline", 100)),
        (1, "waiting for data", of("data_share", 100)),
    ]
    drawn = [Series(label, x, smoothed(y, over), colour=k) for k, label, y in shares]
    found = [(k, label) for k, label, y in shares if any(v is not None for v in y)]
    cards.append(
        page.card(
            "Shares, %",
            lines(drawn, name="shares of the roofline and of the time", zero=True),
            found,
            "roofline: nominal FLOPs over the measured FMA peak of all threads",
        )
    )
    return page.grid(*cards)


def step_time(looks: Lines) -> str:
    """Milliseconds of a step by kernel, over time and on average."""
    clocks = [(line["step"], line["clock"]) for line in looks]
    if not clocks:
        return ""
    total: dict[str, float] = {}
    for _, each in clocks:
        for name, seconds in _parts(each).items():
            total[name] = total.get(name, 0.0) + (seconds or 0.0)
    order = sorted(total, key=lambda name: -total[name])
    shown, small = order[: chart.COLOURS - 1], order[chart.COLOURS - 1 :]
    columns = []
    for step, each in clocks:
        parts = _parts(each)
        values = [1e3 * (parts.get(name) or 0.0) for name in shown]
        values += [1e3 * sum(parts.get(name) or 0.0 for name in small)] if small else []
        columns.append((float(step), values))
    legend = list(enumerate(shown + (["all others"] if small else [])))
    whole = sum(total.values()) or 1.0
    rows = [
        [escape(name), f"{1e3 * total[name] / len(clocks):.3g}", f"{total[name] / whole:.1%}"]
        for name in order[:16]
    ]
    drawn = chart.bars(columns, name="milliseconds of a step by kernel")
    return page.grid(
        page.card("Milliseconds of a step", drawn, legend),
        page.card("On average", page.table(["part", "ms", "share"], rows, right=(1, 2))),
    )


def _parts(clock: Mapping[str, Any]) -> dict[str, float | None]:
    more = {"update": clock["update"], "data": clock["data"], "rest": clock["rest"]}
    return {**clock["kernels"], **more}


def layer_table(looks: Lines) -> str:
    """Gradient / weight and dead ReLUs of every layer over time."""
    names = list(dict.fromkeys(name for line in looks for name in line["layers"]))
    looks = looks[::-1][:: -(-len(looks) // 80)][::-1] if looks else looks  # with the newest
    ratios = {name: [_ratio(line["layers"].get(name, {})) for line in looks] for name in names}
    known = [v for row in ratios.values() for v in row if v]
    if not known:
        return ""
    low, high = math.log10(min(known)), math.log10(max(known))
    rows = []
    for name in names:
        ratio = ratios[name]
        deaths = [line["layers"].get(name, {}).get("dead") for line in looks]
        logs = [math.log10(v) if v else None for v in ratio]
        last, dead = ratio[-1], deaths[-1]
        strips = [
            page.picture(views.shades(logs, low, high), f"{name}: gradient / weight", "strip"),
            number(last) if last is not None else "-",
            page.picture(views.shades(deaths, 0, 1), f"{name}: dead share", "strip"),
            f"{dead:.0%}" if dead is not None else "-",
        ]
        if all(each is None for each in deaths):  # no ReLU follows
            strips[2] = ""
        rows.append([escape(name), *strips])
    heads = ["layer", "gradient / weight", "last", "dead", "last"]
    drawn = page.table(heads, rows, right=(2, 4))
    note = f"gradient / weight: {number(10**low)} is darkest, {number(10**high)} brightest"
    half = -(-len(rows) // 2)
    if len(rows) > 16:  # two columns where there is room
        parts = [page.table(heads, part, right=(2, 4)) for part in (rows[:half], rows[half:])]
        return page.grid(page.card("Layers", parts[0], note=note), page.card("and on", parts[1]))
    return page.card("Layers", drawn, note=note)


def _ratio(layer: Mapping[str, Any]) -> float | None:
    gradient, weight = layer.get("gradient"), layer.get("weight")
    return gradient / weight if gradient is not None and weight else None


def branch_charts(looks: Lines) -> str:
    """One small chart a module: the root mean square of each branch over time."""
    found: dict[str, dict[str, list[tuple[float, float | None]]]] = {}
    for line in looks:
        for module, branches in line["branches"].items():
            for label, value in branches.items():
                points = found.setdefault(module, {}).setdefault(label, [])
                points.append((float(line["step"]), value))
    cards = []
    for module, branches in found.items():
        series = [
            Series(label, [x for x, _ in points], [y for _, y in points], colour=k)
            for k, (label, points) in enumerate(branches.items())
        ]
        drawn = lines(series, name=f"branches of {module}", zero=True, size=(300, 180))
        cards.append(page.card(module, drawn, list(enumerate(branches))))
    return page.grid(*cards, kind="medium")


def _told(judged: Mapping[str, Any]) -> str:
    return (
        f"The test after epoch {judged['epoch'] + 1}: {judged['accuracy']:.1%} of "
        f"{judged['images']:,} images right."
    )


def _mistakes(judged: Mapping[str, Any], test: data.Dataset | None) -> str:
    if test is None or test.classes != judged["classes"] or len(test) != judged["images"]:
        return ""
    images, captions = [], []
    for mistake in judged["mistakes"]:
        try:
            images.append(test.images([mistake["index"]])[0])
        except (OSError, ValueError):
            continue
        label, taken = (judged["classes"][mistake[key]] for key in ("label", "prediction"))
        captions.append(f"{label}, taken for {taken} ({mistake['probability']:.0%})")
    return views.pictures(images, captions)


def _configuration(run: RunFolder, recipe: Recipe) -> str:
    usual = resolve({"data": recipe.data, "model": recipe.model, "root": recipe.root})
    entries = recipe.portable(run.path).as_dict()
    rows = [
        [escape(name), f'<span class="mark">{escape(_shown(value))}</span>'
         if getattr(recipe, name) != getattr(usual, name) else escape(_shown(value))]
        for name, value in entries.items()
    ]  # fmt: skip
    half = -(-len(rows) // 2)
    cards = [
        page.card(f"config.toml, {k} of 2", page.table(["entry", "value"], part))
        for k, part in ((1, rows[:half]), (2, rows[half:]))
    ]
    starts = run.read_json("env.json")
    if isinstance(starts, list) and starts:
        plain = {name: v for name, v in starts[-1].items() if not isinstance(v, Mapping)}
        rest = {name: v for name, v in starts[-1].items() if name not in plain}
        tables = [
            page.table(["what", "value"], [[escape(n), escape(v)] for n, v in flat(part)])
            for part in (plain, rest)
        ]
        html = tables[0] + page.folded("backends, switches and extras", tables[1])
        cards.append(page.card(f"Environment of the last of {len(starts)} starts", html))
    return page.grid(*cards)


def flat(value: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """(dotted name, text) of everything inside."""
    for name, part in value.items():
        dotted = f"{above}.{name}" if above else str(name)
        if isinstance(part, Mapping):
            yield from flat(part, dotted)
        else:
            yield dotted, _shown(part)


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in ("", None) else str(value)
