"""``pyinception study NAME...``: the papers' claims as networks to train and compare."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("study")(study)


def study(
    name: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Studies to run; list tells of them.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Data set: a NAME, KIND:PATH, or a folder [shapes].")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Folder of a data set on disk.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each network [3].")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    count: Annotated[int | None, typer.Option(help="Training images to use; 0 is all.")] = None,
    test_count: Annotated[int | None, typer.Option(help="Test images to use; 0 is all.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the first step.")] = None,
    save: Annotated[
        str | None,
        typer.Option(help="Folder for [quick_]study_NAME_DATA.json and its picture."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, one epoch of few images: does it run?")
    ] = False,
    threads: output.Threads = 0,
    json: AsJson = False,
) -> None:
    """Compare networks that differ in one thing: accuracy over seeds, parameters, multiply-adds.

    reduction, pool_proj, factorise, heads and all3x3 train; cost only counts, so that no option on
    data and training concerns it.
    """
    import pyinception as pyi
    from pyinception import study as studies

    if name == ["list"]:
        claims = {each.name: each.claim for each in studies.STUDIES.values()}
        emit("\n".join(f"{key}: {claim}" for key, claim in claims.items()), claims, json)
        return
    given: dict[str, Any] = {"count": 64, "test_count": 32, "epochs": 1} if quick else {}
    entries = {"data": data, "root": root, "epochs": epochs, "lr": lr}
    entries |= {"count": count, "test_count": test_count}
    given |= {key: value for key, value in entries.items() if value is not None}
    report = output.reporter(json)
    for each in name:  # before the first one takes its minutes
        studies.find(each)
    if save is not None:
        studies.prepare(save)
    outcomes = []
    with pyi.using(threads=threads or None):
        for each in name:
            trains = studies.find(each).variants
            number = 1 if quick and seeds is None else seeds
            outcome = studies.run(
                each, given if trains else {}, seeds=number if trains else None, report=report
            )
            outcomes.append(outcome)
            if save is not None:
                report.line(f"written to {studies.save(save, outcome, quick=quick)}")
    shown = "\n\n".join(map(studies.text, outcomes))
    emit(shown, [outcome.as_dict() for outcome in outcomes], json)
