"""``pyinception evaluate [RUN]...``: trained networks on one split of their data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate")(evaluate)


def evaluate(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Names of runs in --runs, or their folders [the newest]; files of convert too.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    checkpoint: output.Checkpoint = "last",
    crops: Annotated[
        int | None, typer.Option(help="1, 10 or 144 crops of each picture as it is stored.")
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average what several networks say.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Data set, where no run tells: NAME, KIND:PATH or a folder.")
    ] = None,
    confusion: Annotated[
        str | None, typer.Option(help="Draw who is taken for whom to this PNG.")
    ] = None,
    runs: output.Runs = "runs",
    root: Annotated[str | None, typer.Option(help="Folder of the data, if they moved.")] = None,
    threads: output.Threads = 0,
    json: AsJson = False,
) -> None:
    """Report loss, accuracy (top 1 and 5, by class, by object size), the confusion of classes.

    Without --crops a run's images are prepared as in training, less all chance. With --crops they
    are cut from the stored pictures: evaluate --crops 144 --ensemble RUN RUN. --data and --ensemble
    mean --crops 1 where none is given.
    """
    import pyinception as pyi
    from pyinception.train import multicrop
    from pyinception.train.evaluation import evaluate as judge
    from pyinception.train.figures import draw_confusion
    from pyinception.train.recipe import resolve
    from pyinception.train.splits import load_split

    names: list[str | None] = [*run] if run else [None]
    paths = [_file(name, runs, checkpoint) for name in names]
    if len(paths) > 1 and not ensemble:
        raise ValueError(f"evaluate: {len(paths)} runs are given, add --ensemble to average them")
    report = output.reporter(json)
    members = [multicrop.read_member(path) for path in paths]
    recipe = next((member.recipe for member in members if member.recipe), None)
    as_trained = crops is None and data is None and not ensemble
    if data is not None:
        recipe = resolve({"data": data, "root": root or ""})
    elif recipe is None:
        raise ValueError(f"evaluate: {paths[0]} names no data set, give --data")
    elif root is not None:
        recipe = replace(recipe, root=root)
    dataset = load_split(recipe, split, report)
    if as_trained and dataset.classes != members[0].classes:
        raise ValueError(f"evaluate: {dataset.name} now has other classes than {paths[0]} knows")
    cutting: dict[str, int] = {}
    with pyi.using(threads=threads or None):
        bad = recipe.bad_images
        if as_trained:
            result = judge(members[0].net, dataset, recipe.augment(), bad=bad, report=report)
        else:
            cutting = {"crops": 1 if crops is None else crops, "networks": len(members)}
            result = multicrop.evaluate_crops(
                members, dataset, cutting["crops"], bad=bad, report=report
            )
    value = {"checkpoint": ", ".join(paths), **cutting, **result.as_dict()}
    if confusion is not None:
        draw_confusion(Path(confusion), result.confusion(), dataset.classes)
    emit(_text(value, dataset.classes), value, json)


def _file(run: str | None, runs: str, checkpoint: str) -> str:
    """The checkpoint of a run, or ``run`` itself where it is a file."""
    if run is not None and Path(run).is_file():
        if checkpoint != "last":
            text = f"{checkpoint!r} is of a run, and {run!r} a file"
            raise typer.BadParameter(text, param_hint="--checkpoint")
        return run
    return output.checkpoint_path(run, runs, checkpoint)


def _how(value: dict[str, Any]) -> str:
    """Crops and networks in words, "" where images were prepared as in training."""
    if "crops" not in value:
        return ""
    counts = [(value["crops"], "crop"), (value["networks"], "network")]
    return ", " + ", ".join(f"{count} {word}{'s' * (count > 1)}" for count, word in counts)


def _text(value: dict[str, Any], classes: list[str]) -> str:
    parts = [
        f"{value['data']}/{value['split']}, {value['images']} images: "
        f"accuracy {value['accuracy']:.2%}, top 5 {value['top5']:.2%}, loss {value['loss']:.4f}"
        f"{_how(value)}  ({value['checkpoint']})"
    ]
    rows = []
    for k, name in enumerate(classes):
        counts = value["confusion"][k]
        others = [(n, classes[j]) for j, n in enumerate(counts) if j != k and n]
        worst = max(others, default=None)
        share = value["accuracy_by_class"][name]
        shown = "-" if share is None else f"{share:.1%}"
        taken = f"{worst[1]} ({worst[0]})" if worst else "-"
        rows.append([name, str(sum(counts)), shown, taken])
    parts.append(output.table(["class", "images", "right", "most often taken for"], rows))
    if value["accuracy_by_size"]:
        sizes = [
            [row["size"], str(row["images"]), f"{row['accuracy']:.1%}"]
            for row in value["accuracy_by_size"]
        ]
        parts.append(output.table(["object", "images", "right"], sizes))
    return "\n\n".join(parts)
