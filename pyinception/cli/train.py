"""``pyinception train``: train a network into a run folder, or take a run up again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyinception.cli import output
from pyinception.cli.output import AsJson, Explained, Threads, emit, reporter

if TYPE_CHECKING:
    from pyinception.train.recipe import Recipe

Option = typer.Option


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("train")(train)


def train(
    context: typer.Context,
    data: Annotated[str | None, Option(help="Data set: a NAME, KIND:PATH, or a folder.")] = None,
    root: Annotated[str | None, Option(help="Folder of a data set on disk.")] = None,
    model: Annotated[
        str | None, Option(help="One of pyinception.models, tiny_inception, or a table of rows.")
    ] = None,
    name: Annotated[str | None, Option(help="Name of the run [DATA-MODEL-seedSEED].")] = None,
    runs: Annotated[str, Option(help="Folder that holds the run folders.")] = "runs",
    recipe: Annotated[
        str | None, Option(help="A paper's recipe by name; list tells of them.")
    ] = None,
    config: Annotated[str | None, Option(help="TOML file of entries; options win.")] = None,
    help_config: Annotated[
        bool, Option("--help-config", help="Tell of every entry of such a file, and leave.")
    ] = False,
    resume: Annotated[bool, Option("--resume", help="Take the run up where it stopped.")] = False,
    epochs: Annotated[int | None, Option(help="Passes over the training images.")] = None,
    stop_after: Annotated[
        int, Option(help="Leave after this many epochs of the run; --resume goes on.", min=0)
    ] = 0,
    checkpoint_steps: Annotated[
        int, Option(help="Save every so many steps too; 0: every five minutes.", min=0)
    ] = 0,
    workers: Annotated[
        int, Option(help="Processes that decode pictures ahead.", min=0, max=100)
    ] = 0,
    watch: Annotated[
        int, Option(help="Look into the first of every so many steps; 0: into none.", min=0)
    ] = 20,
    find_lr: Annotated[
        bool,
        Option(
            "--find-lr",
            help="Suggest a learning rate (with --resume a run's), and leave.",
        ),
    ] = False,
    tensorboard: Annotated[
        bool, Option("--tensorboard", help="Also write TensorBoard events.")
    ] = False,
    batch_size: Annotated[int | None, Option(help="Images a step.")] = None,
    lr: Annotated[float | None, Option(help="Learning rate of the first step.")] = None,
    schedule: Annotated[
        str | None, Option(help="decay, exponential, cosine, poly or constant.")
    ] = None,
    gamma: Annotated[float | None, Option(help="decay, exponential: factor on lr.")] = None,
    every: Annotated[float | None, Option(help="Epochs from one such factor to the next.")] = None,
    power: Annotated[float | None, Option(help="poly: the exponent.")] = None,
    optimizer: Annotated[
        str | None, Option(help="sgd, nesterov, rmsprop or rmsprop_torch.")
    ] = None,
    momentum: Annotated[float | None, Option(help="Of the optimizer.")] = None,
    rmsprop_decay: Annotated[float | None, Option(help="Share of the old squares.")] = None,
    rmsprop_eps: Annotated[float | None, Option(help="Added to the squares.")] = None,
    weight_decay: Annotated[float | None, Option(help="On weights only.")] = None,
    clip: Annotated[float | None, Option(help="Largest norm of all gradients; 0: any.")] = None,
    label_smoothing: Annotated[float | None, Option(help="Share of all classes alike.")] = None,
    aux: Annotated[bool | None, Option(help="Build auxiliary classifiers.")] = None,
    aux_weight: Annotated[float | None, Option(help="Weight of auxiliary classifiers.")] = None,
    average: Annotated[str | None, Option(help="Weights to judge: none, ema or tail.")] = None,
    average_decay: Annotated[float | None, Option(help="ema: share of the old average.")] = None,
    average_from: Annotated[int | None, Option(help="tail: epochs before it begins.")] = None,
    size: Annotated[int | None, Option(help="Rows and columns of an image.")] = None,
    crop: Annotated[int | None, Option(help="Rows and columns cut from it; 0: all.")] = None,
    count: Annotated[int | None, Option(help="Training images to use; 0 is all.")] = None,
    test_count: Annotated[int | None, Option(help="Test images to use; 0 is all.")] = None,
    crop_area: Annotated[
        float | None, Option(help="Smallest share of a picture in a sampled crop; 1: none.")
    ] = None,
    interpolation: Annotated[
        str | None, Option(help="Of sampled crops: bilinear, area, nearest, cubic or random.")
    ] = None,
    padding: Annotated[int | None, Option(help="Random shift, up to this many pixels.")] = None,
    mirror: Annotated[bool | None, Option(help="Mirror images at random.")] = None,
    photometric: Annotated[
        float | None, Option(help="Strength of changes of colour; 1: as published.")
    ] = None,
    mean: Annotated[
        str | None, Option(help="Subtract from the channels, such as 0.48,0.46,0.41.")
    ] = None,
    scale: Annotated[float | None, Option(help="Factor on the pixels after that.")] = None,
    standardise: Annotated[bool | None, Option(help="Normalise each image.")] = None,
    bad_images: Annotated[
        str | None, Option(help="Pictures that cannot be read: stop, or skip.")
    ] = None,
    precision: Annotated[
        str | None, Option(help="fp32, bf16 or fp16; 16 bits on backend cuda or emulated.")
    ] = None,
    device: Annotated[
        int | None, Option(help="CUDA device to train on; implies backend cuda.", min=0)
    ] = None,
    seed: Annotated[int | None, Option(help="Decides everything random.")] = None,
    baselines: Annotated[bool, Option(help="Also score nearest neighbours and so on.")] = True,
    page: Annotated[bool, Option("--report/--no-report", help="Write report.html.")] = True,
    threads: Threads = 0,
    json: AsJson = False,
) -> int:
    """Train a small Inception (or GoogLeNet) from scratch; Ctrl-C saves, --resume goes on.

    The run folder gets report.html, config.toml, env.json, metrics.jsonl, curves.png,
    filters.png, features.png, baselines.json, judged.json and checkpoints/. Which epoch is "best"
    is judged on the test images; the accuracy reported is that of the last.
    """
    given_here = {**locals(), "mean": None if mean is None else _numbers(mean)}
    from pyinception.train import networks, papers
    from pyinception.train.loop import train as fit
    from pyinception.train.recipe import Recipe, describe, read_toml, resolve
    from pyinception.train.run_folder import RunFolder

    entries = {entry: given_here[entry] for entry in Recipe.__dataclass_fields__}
    if help_config:
        about = describe()
        heads = ["entry", "type", "default", "meaning"]
        rows = [
            [line["name"], line["type"], toml(line["default"]), line["about"]] for line in about
        ]
        emit(columns(heads, rows), about, json)
        return 0
    if recipe == "list":
        found = {each: papers.about(each) for each in papers.names()}
        emit(columns(["recipe", "about"], [list(pair) for pair in found.items()]), found, json)
        return 0
    given: dict[str, Any] = papers.read(recipe) if recipe is not None else {}
    if config is not None:
        with output.reading("--config"):
            given |= read_toml(config)
    given |= {key: value for key, value in entries.items() if value is not None}
    if find_lr:
        _check_find_lr(context, None if name is None else Path(runs) / name, resume)
    if name is None:
        resolved = resolve(given)
        model_name = "rows" if networks.is_table(resolved.model) else resolved.model
        name = f"{recipe or f'{resolved.data}-{model_name}'}-seed{resolved.seed}"
    if find_lr:
        with _place(threads, device):
            if resume:
                searched = RunFolder(Path(runs) / name).reopen(given, resolve)
            else:
                searched = resolve(given)
            return _find_lr(searched, Path(f"{Path(name).name}-lr.png"), json)
    with _place(threads, device):
        outcome = fit(
            given,
            Path(runs) / name,
            resume=resume,
            stop_after=stop_after,
            checkpoint_steps=checkpoint_steps,
            workers=workers,
            watch=watch,
            with_baselines=baselines,
            with_report=page,
            tensorboard=tensorboard,
            report=reporter(json),
        )
    text = f"weights {outcome.weights_sha256} after {outcome.steps} steps, {outcome.seconds:.0f} s"
    if outcome.test_accuracy is not None:
        text = f"test accuracy {outcome.test_accuracy:.2%}; {text}"
    text += f"\n{outcome.folder}: {'report.html, ' * page}curves.png, filters.png, checkpoints/"
    if outcome.signal:
        text = f"continue with: pyinception train --runs {runs} --name {name} --resume"
    emit(text, outcome.as_dict(), json)
    return Explained(128 + outcome.signal if outcome.signal else 0)


def _check_find_lr(context: typer.Context, run: Path | None, resume: bool) -> None:
    """Refuse what a search would not heed: options of a run, a run that it does not read."""
    from pyinception.train.run_folder import RunFolder

    of_a_run = ["stop_after", "checkpoint_steps", "workers", "watch", "tensorboard", "baselines"]
    of_a_run += ["page"] if run is not None or resume else ["page", "runs"]
    if option := output.given(context, *of_a_run):
        raise typer.BadParameter("says nothing beside --find-lr", param_hint=option)
    if run is not None and not resume:
        RunFolder(run).check_new()


@contextmanager
def _place(threads: int, device: int | None) -> Iterator[None]:
    """Where the run computes."""
    import pyinception as pyi
    from pyinception.backend import cuda_device

    with ExitStack() as stack:
        stack.enter_context(pyi.using(threads=threads or None))
        if device is not None:
            stack.enter_context(cuda_device("train", f"cuda:{device}"))
            stack.enter_context(pyi.using(backend="cuda"))
        yield


def _find_lr(recipe: Recipe, picture: Path, as_json: bool) -> int:
    """Search on the recipe's own network and images; the picture lies in the current folder."""
    from pyinception.train import networks
    from pyinception.train import rate_search as search
    from pyinception.train.splits import load_split

    report = reporter(as_json)
    images = load_split(recipe, "train", report)
    shape = recipe.augment().shape(images.shape)
    net = networks.build(recipe.model, len(images.classes), shape, recipe.seed, aux=recipe.aux)
    networks.store(net, recipe.precision)
    found = search.find_lr(net, recipe, images, report=report)
    search.draw_find_lr(picture, found)
    if found.suggested is None:
        text = "the loss never fell: no learning rate to suggest"
    else:
        text = f"suggested: --lr {found.suggested:.2g} (lowest loss at {found.lowest:.2g})"
    emit(f"{text}\n{picture}", found.as_dict() | {"picture": str(picture)}, as_json)
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers", param_hint="--mean") from None


def toml(value: Any) -> str:
    """A default as it would stand in a TOML file."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if value != [] else "[]"


def columns(heads: list[str], rows: list[list[str]]) -> str:
    """Columns aligned to the left."""
    widths = [max(len(line[i]) for line in (heads, *rows)) for i in range(len(heads))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths)) for line in (heads, *rows))
    return "\n".join(line.rstrip() for line in lines)
