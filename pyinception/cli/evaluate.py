"""``pyinception evaluate [RUN]``: a trained network on one split of its data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate")(evaluate)


def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="Name of a run in --runs, or its folder [the newest].")
    ] = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    checkpoint: output.Checkpoint = "last",
    runs: output.Runs = "runs",
    root: Annotated[str | None, typer.Option(help="Folder of the data, if they moved.")] = None,
    threads: output.Threads = 0,
    json: AsJson = False,
) -> None:
    """Report loss, accuracy by class and by object size, and the confusion of classes."""
    import pyinception as pyi
    from pyinception.train.evaluation import evaluate as judge
    from pyinception.train.evaluation import load_trained
    from pyinception.train.splits import load_split

    path = output.checkpoint_path(run, runs, checkpoint)
    trained = load_trained(path)
    report = output.reporter(json)
    recipe = trained.recipe if root is None else replace(trained.recipe, root=root)
    dataset = load_split(recipe, split, report)
    if dataset.classes != trained.classes:
        raise ValueError(f"evaluate: {dataset.name} now has other classes than {path} knows")
    with pyi.using(threads=threads or None):
        result = judge(trained.net, dataset, recipe.augment(), bad=recipe.bad_images, report=report)
    value = {"checkpoint": path, **result.as_dict()}
    emit(_text(value, trained.classes), value, json)


def _text(value: dict[str, Any], classes: list[str]) -> str:
    parts = [
        f"{value['data']}/{value['split']}, {value['images']} images: "
        f"accuracy {value['accuracy']:.2%}, loss {value['loss']:.4f}  ({value['checkpoint']})"
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
