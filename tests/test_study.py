"""Studies: networks cost what is said, sentences follow the figures, files, the verb, the page."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from training import one_thread  # noqa: F401

from pyinception import models, study
from pyinception.cli import main
from pyinception.models.rows import Mixed
from pyinception.study import cost, experiment, networks
from pyinception.study.tables import STUDIES, StudyError

ROOT = Path(__file__).resolve().parents[1]
TINY = {"count": 24, "test_count": 16, "epochs": 1, "batch_size": 8}
TRAINED = [name for name, found in STUDIES.items() if found.variants]


def counts(rows, head="", side=32, channels=3) -> tuple[int, int]:
    net = networks.network(rows, head, 8, channels, 0)
    return net.count_parameters(), cost.multiply_adds(net, (side, side, channels))


def test_costs_by_hand():
    """The reference network's multiply-adds, row by row."""
    expected = 32 * 32 * 27 * 32 + 8 * 140  # conv1, classifier
    for c, side, (n1, r3, n3, r5, n5, proj) in (
        (32, 16, networks.WIDTHS[0]),
        (76, 16, networks.WIDTHS[1]),
        (92, 8, networks.WIDTHS[2]),
    ):
        each = c * (n1 + r3 + r5 + proj) + 9 * r3 * n3 + 25 * r5 * n5
        expected += side * side * each
    assert counts(networks.modules(networks.REDUCED))[1] == expected == 9_514_080


def test_what_is_called_equal_is_equal():
    reference = counts(networks.modules(networks.REDUCED))
    assert counts(networks.modules(networks.PROJECTION_FIRST)) == reference
    equal = [
        variant
        for found in STUDIES.values()
        for variant in found.variants
        if "equal cost" in variant.name
    ]
    assert len(equal) == 2
    for variant in equal:
        for side, channels in ((32, 3), (28, 1)):
            macs = counts(variant.rows, side=side, channels=channels)[1]
            paper = counts(networks.modules(networks.REDUCED), side=side, channels=channels)[1]
            assert abs(macs / paper - 1) < 0.01, (variant.name, side, macs, paper)
    # The claims on cost: less work in this order, and naive modules much more.
    pairs, rows = (counts(networks.modules(p)) for p in (networks.PAIRS, networks.ASYMMETRIC))
    assert rows < pairs < reference
    assert counts(networks.modules(networks.NAIVE))[1] > 3 * reference[1]
    # Heads are of training alone: multiply-adds of inference stay, parameters do not.
    with_head = counts(networks.modules(networks.REDUCED), "batch norm")
    assert with_head[1] == reference[1] and with_head[0] > reference[0]


def test_variants_differ_in_what_their_study_is_about():
    for name in TRAINED:
        first, *others = STUDIES[name].variants
        assert first.rows == networks.modules(networks.REDUCED) and not first.head
        assert all((other.rows, other.head) != (first.rows, "") for other in others)
    widths = [n[0] + n[2] + n[4] + n[5] for n in networks.WIDTHS]
    for pattern in (networks.PAIRS, networks.ASYMMETRIC, networks.PROJECTION_FIRST):
        net = networks.network(networks.modules(pattern), "", 8, 3, 0)
        assert [m.out_channels for m in net.modules() if isinstance(m, Mixed)] == widths


def test_alexnet_and_googlenet_exactly():
    assert cost.alexnet() == (60_965_224, 724_406_816)
    table = {row["network"]: row for row in cost.rows()}
    assert set(table) == {"alexnet", *(name for name, _, _ in cost.NETWORKS)}
    google = table["googlenet"]
    assert (google["parameters"], google["multiply_adds"]) == (6_998_552, 1_582_671_872)
    assert table["inception_v3"]["multiply_adds"] == 5_713_216_096
    net = models.googlenet(aux=False)
    assert net.fc.weight.data.size + net.fc.bias.data.size == cost.CLASSIFIER
    told = cost.sentence(list(table.values()))
    assert "8.7 times fewer" in told and "10.2 without" in told and "not reached" in told


# ---------------------------------------------------------------- the sentence


def row(name: str, accuracies: list[float], macs: int) -> dict:
    mean = float(np.mean(accuracies))
    return {"network": name, "accuracies": accuracies, "multiply_adds": macs, "mean": mean}


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ([0.63, 0.64, 0.65], ("64.0%", "+3.0 points, higher from every seed")),
        ([0.55, 0.56, 0.57], ("56.0%", "-5.0 points, lower from every seed")),
        ([0.56, 0.57, 0.61], ("58.0%", "-3.0 points, within the spread")),
        ([0.62, 0.63, 0.64], ("63.0%", "+2.0 points, within the spread")),  # they touch
    ],
)
def test_the_sentence_follows_the_figures(accuracies, words):
    first = row("one", [0.60, 0.61, 0.62], 100)
    told = experiment.sentence([first, row("two", accuracies, 150)])
    share, rest = words
    assert told == f"One: 61.0%; two: {share} at 1.50 times the multiply-adds ({rest})."


def test_one_seed_says_so():
    told = experiment.sentence([row("one", [0.6], 100), row("two", [0.9], 100)])
    assert "one seed tells no spread" in told and "the same cost" in told


# ---------------------------------------------------------------- running


@pytest.mark.parametrize("name", TRAINED)
def test_every_study_trains(name):
    outcome = study.run(name, TINY | {"data": "shapes"}, seeds=1)
    assert [r["network"] for r in outcome.rows] == [v.name for v in STUDIES[name].variants]
    for found, variant in zip(outcome.rows, STUDIES[name].variants, strict=True):
        assert 0 <= found["mean"] <= 1 and found["spread"] is None
        assert found["table"] == [list(pair) for pair in variant.rows]
    assert outcome.recipe["count"] == 24 and "model" not in outcome.recipe
    assert str(outcome.rows[0]["multiply_adds"])[0] == "9"


def test_the_same_figures_again_and_learning():
    """Results are functions of rows, recipe and seed; enough steps beat guessing on digits."""
    given = {"data": "digits", "count": 320, "test_count": 200, "epochs": 4, "batch_size": 32}
    given |= {"lr": 0.1, "clip": 0.0}
    first = study.run("all3x3", given, seeds=2)
    experiment._trained.cache_clear()
    again = study.run("all3x3", given, seeds=2)
    accuracies = [r["accuracies"] for r in first.rows]
    assert accuracies == [r["accuracies"] for r in again.rows]
    assert min(map(min, accuracies)) > 0.5
    assert accuracies[0][0] != accuracies[0][1]
    mean, spread = first.rows[0]["mean"], first.rows[0]["spread"]
    assert mean == pytest.approx(sum(accuracies[0]) / 2)
    assert spread == pytest.approx(abs(accuracies[0][0] - accuracies[0][1]) / 2**0.5)


@pytest.mark.parametrize(
    ("name", "given", "seeds", "message"),
    [
        ("factorize", {}, None, "unknown study 'factorize'.*did you mean 'factorise'"),
        ("all3x3", {}, 0, "seeds is 0, expected at least 1"),
        ("all3x3", {"model": "googlenet"}, 1, "model is given, but the study decides it"),
        ("all3x3", {"seed": 3}, 1, "seed is given"),
        ("cost", {"epochs": 3}, None, "cost only counts"),
        ("cost", {}, 2, "cost only counts"),
    ],
)
def test_refused(name, given, seeds, message):
    with pytest.raises(StudyError, match=message):
        study.run(name, given, seeds=seeds)


# ---------------------------------------------------------------- files and the verb


def test_the_command(tmp_path, capsys):
    line = ["study", "pool_proj", "cost", "--quick", "--save", str(tmp_path), "--json"]
    assert main.run(line) == 0
    trained, counted = json.loads(capsys.readouterr().out)
    assert (trained["study"], trained["seeds"]) == ("pool_proj", 1)
    assert counted["rows"][0]["network"] == "alexnet"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"{stem}.{kind}"
        for stem in (
            "quick_study_pool_proj_shapes",
            "study_cost",
        )  # what counts only is never a trial
        for kind in ("json", "svg")
    }
    path = tmp_path / "quick_study_pool_proj_shapes.json"
    outcome = study.load(path)
    assert outcome.as_dict() == trained
    picture = path.with_suffix(".svg").read_bytes()
    assert ET.fromstring(picture).tag.endswith("svg") and len(picture) < 40_000
    study.draw(tmp_path / "again.svg", outcome)
    assert (tmp_path / "again.svg").read_bytes() == picture
    assert study.save(tmp_path, outcome) == tmp_path / "study_pool_proj_shapes.json"
    assert outcome.sentence in study.text(outcome) and outcome.sentence in study.markdown(outcome)
    (tmp_path / "a.json").write_text('{"figures": 3}')
    with pytest.raises(StudyError, match=r"a\.json was not written by a study"):
        study.load(tmp_path / "a.json")


def test_the_command_tells_and_refuses(capsys):
    assert main.run(["study", "list"]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in STUDIES)
    assert main.run(["study", "list", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(STUDIES)
    assert main.run(["study", "cost", "hats"]) == 1  # before the first one runs
    found = capsys.readouterr()
    assert "unknown study 'hats'" in found.err and found.out == ""


def test_a_folder_that_cannot_be_made_is_told_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "run", lambda *given, **how: pytest.fail("it has begun"))
    (tmp_path / "file").write_text("")
    assert main.run(["study", "pool_proj", "--save", str(tmp_path / "file/results")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_the_page_has_the_stored_figures():
    """docs/studies.md is what its script makes of benchmarks/results."""
    import sys

    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import make_studies
    finally:
        sys.path.pop(0)
    for path in make_studies.RESULTS.glob("study_*.json"):
        stored = study.load(path)
        made = experiment.sentence if stored.seeds else cost.sentence
        assert stored.sentence == made(stored.rows), path
    page = make_studies.PAGE.read_text(encoding="utf-8")
    assert make_studies.written(page) == page
    assert re.search(r"study_all3x3_shapes\.svg", page)


@pytest.mark.parametrize("entries", [{"average": "ema"}, {"bad_images": "skip"}])
def test_entries_that_a_study_does_not_follow_are_refused(entries):
    (name,) = entries
    with pytest.raises(study.StudyError, match=f"study: {name} is '.*', a study knows"):
        study.run("pool_proj", {"count": 32, "test_count": 16} | entries, seeds=1)
