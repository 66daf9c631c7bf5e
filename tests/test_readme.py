"""The papers hold: snippets run, commands exist, links lead somewhere, tables are the script's."""

import importlib.util
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from built import REASON, needs_core

import pyinception as pyi
from pyinception import backend
from pyinception.reports import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts]
PAPERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
README = PAPERS[0].read_text(encoding="utf-8")


def fenced(text: str, language: str) -> list[str]:
    """The blocks of one language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


# ---------------------------------------------------------------------------------------- snippets

SNIPPETS = fenced(README, "python")
NEEDS = {"import torch": "torch", '"digits"': "sklearn"}  # where a block shows this, it needs that


def run(code: str) -> dict[str, Any]:
    for sign, module in NEEDS.items():
        if sign in code:
            pytest.importorskip(module)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace


def test_first_screen_has_three_short_snippets() -> None:
    first = README[: README.index("\n## ")]
    assert first.count("```python") == 3 and "docs/module_bytes.svg" in first
    for code in SNIPPETS[:3]:
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 6 and max(map(len, lines)) <= 100, code


@needs_core
def test_benchmark_snippet(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(SNIPPETS[0])["report"]
    assert report.failed == [] and [row["name"] for row in report.rows] == ["3a"]
    columns = report.rows[0]["columns"]
    assert columns["fused"]["bytes"] < columns["unfused"]["bytes"]
    assert "3a" in capsys.readouterr().out


@needs_core
@pytest.mark.oracles
def test_call_snippet() -> None:
    found = run(SNIPPETS[1])
    torch, x = found["torch"], found["x"]
    for tensor in (x, *found["weights"]):
        assert tensor.grad.shape == tensor.shape and tensor.grad.abs().max() > 0
    again = [t.detach().double().requires_grad_() for t in (x, *found["weights"])]
    r = torch.relu(torch.nn.functional.conv2d(again[0], *again[1:3]))
    torch.relu(torch.nn.functional.conv2d(r, *again[3:], padding=1)).sum().backward()
    # A sum within rounding of zero may pass the ReLU in one precision and not in the other, more
    # so as "auto" takes Winograd here: a few elements of 100,000 differ, and the norms with them.
    for mine, exact in zip((x, *found["weights"]), again, strict=True):
        difference = (mine.grad - exact.grad).norm() / exact.grad.norm()
        assert difference < 1e-2, difference


@needs_core
def test_study_snippet() -> None:
    found = run(SNIPPETS[2])
    net, batch = found["net"], found["batch"]
    assert found["optimizer"].iteration == -(-1297 // 64)
    loss = pyi.losses.cross_entropy(net(batch.images), batch.labels)
    assert float(loss.data) < np.log(10)  # of guessing


@needs_core
@pytest.mark.parametrize("code", SNIPPETS[3:], ids=lambda code: code.split("\n")[-2][:40])
def test_other_snippets(code: str) -> None:
    run(code)


# ---------------------------------------------------------------------------------------- commands


def commands() -> list[tuple[str, str]]:
    """(paper, command line) of every line of every shell block, comments taken off."""
    found = []
    for paper in PAPERS:
        for block in fenced(paper.read_text(encoding="utf-8"), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    found.append((paper.name, shlex.join(words)))
    return found


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {
        name for line in re.findall(r"^([\w .-]+):(?!=)", text, flags=re.M) for name in line.split()
    }


def check_make(words: list[str]) -> None:
    assert set(words) <= make_targets(), f"the Makefile has no target {words}"


def check_pyinception(words: list[str]) -> None:
    """Parse the line as the CLI does, run nothing: unknown verbs, options and values raise."""
    typer = pytest.importorskip("typer")
    from pyinception.cli.main import app

    command, name = typer.main.get_command(app), "pyinception"
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"{name} has no verb {words[0]}"
        name, command, words = words[0], command.commands[words[0]], words[1:]
    command.make_context(name, list(words))


def check_file(words: list[str]) -> None:
    """``python FILE --option ...``: the file is there and knows the options."""
    path = ROOT / words[0]
    assert path.is_file(), f"{words[0]} is not a file"
    text = path.read_text(encoding="utf-8")
    for option in (word for word in words[1:] if word.startswith("--")):
        assert f'"{option}"' in text, f"{words[0]} has no option {option}"


def check_pytest(words: list[str]) -> None:
    for word in words:
        if "/" in word or word.endswith(".py"):
            assert (ROOT / word.partition("::")[0]).exists(), f"{word} is not there"


def extras_of_project() -> dict[str, list[str]]:
    """Extra -> names of the distributions that it installs."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)["project"]["optional-dependencies"]
    return {extra: [re.split(r"[<>=\[]", line)[0] for line in found[extra]] for extra in found}


def check_pip(words: list[str]) -> None:
    """``pip install``: extras must be those of pyproject.toml."""
    extras = {extra for word in words for names in re.findall(r"^\.\[(.+)\]$", word)
              for extra in names.split(",")}  # fmt: skip
    assert words[0] == "install" and extras <= set(extras_of_project())


def test_doctor_looks_for_all_that_an_extra_installs() -> None:
    imported = {"pillow": "PIL", "scikit-learn": "sklearn"}
    extras = extras_of_project()
    left = {"cuda12 or cuda13"} ^ set(EXTRAS) ^ set(extras)
    assert left == {"cuda12", "cuda13", "emulator", "oracles", "docs", "dev"}
    for extra in set(EXTRAS) & set(extras):
        wanted = {imported.get(name, name.replace("-", "_")) for name in extras[extra]}
        assert set(EXTRAS[extra]) == wanted, extra


def check_module(words: list[str]) -> None:
    """``python -m MODULE``: ours must be there; tools are the extra dev's."""
    if words[0] == "pytest":
        return check_pytest(words[1:])
    own = ROOT / Path(*words[0].split(".")).with_suffix(".py")
    assert own.is_file() or words[0] in ("venv", "build", "pip"), f"no module {words[0]}"
    return None


def check(line: str) -> None:
    words = shlex.split(line)
    while re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    head, *rest = words
    if head == "python":
        return check_module(rest[1:]) if rest[0] == "-m" else check_file(rest)
    known = {"make": check_make, "pyinception": check_pyinception, "pytest": check_pytest}
    tools = ("ruff", "mypy", "pre-commit", "clang-format", "source", "git", "cd", "cp", "sed")
    assert head in (*known, "pip", *tools), f"{head} is a command that this test cannot check"
    if head == "pip":
        check_pip(rest)
    elif head in known:
        known[head](rest)
    return None


@pytest.mark.parametrize("paper, line", commands(), ids=lambda text: text)
def test_documented_command_exists(paper: str, line: str) -> None:
    check(line)


WRONG = (
    "make nonsense",
    "pyinception nonsense",
    "pyinception bench net --nonsense 2",
    "pyinception bench module --batch x",
    "python docs/nonsense.py",
    "python docs/make_readme.py --nonsense",
    "python -m kernels.nonsense",
    "pytest tests/nonsense.py",
    "pip install '.[nonsense]'",
    "nonsense",
)


@pytest.mark.parametrize("line", WRONG)
def test_the_check_of_commands_can_fail(line: str) -> None:
    with pytest.raises(BaseException) as caught:
        check(line)
    assert not isinstance(caught.value, pytest.skip.Exception)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_links_lead_somewhere(paper: Path) -> None:
    text = re.sub(r"```.*?```", "", paper.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not re.match(r"https?://", target):
            assert (paper.parent / target).exists(), f"{paper.name} links to {target}"
    for named in re.findall(
        r"`((?:kernels|csrc|pyinception|benchmarks|tests|docs)/[\w/.-]+)`", text
    ):
        made = named.startswith("benchmarks/results")  # the folder comes with the first result
        assert made or (ROOT / named).exists(), f"{paper.name} names {named}"


# ---------------------------------------------------------------------------------- picture, tables


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if REASON is not None:
        pytest.skip(REASON)
    spec = importlib.util.spec_from_file_location("make_readme", ROOT / "docs" / "make_readme.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()
            if line.startswith("|")]  # fmt: skip


def test_picture_is_that_of_the_script_and_to_scale(script: ModuleType) -> None:
    spec = script.shapes.module(script.MODULE)
    drawn = script.PICTURE.read_text(encoding="utf-8")
    assert drawn == script.picture(spec), "run docs/make_readme.py"
    bars = [float(w) for w in re.findall(rf'width="([\d.]+)" height="{script.BAR}"', drawn)]
    rows = [parts for _, parts in script.kernels(spec)] + [script.fused(spec)]
    sizes = [size for parts in rows for size in parts if size]
    np.testing.assert_allclose(np.array(bars) / sum(bars), np.array(sizes) / sum(sizes), atol=1e-5)
    assert sum(script.fused(spec)) == spec.bytes and len(rows) == 9


def test_status_table_has_the_form_of_the_script(script: ModuleType) -> None:
    """Features and columns; cells of a backend that does not run here are the other machine's."""
    shown, now = (
        cells(script.between(README, "status")),
        cells(script.status_table(script.load_results())),
    )
    assert shown[0] == now[0] and [row[0] for row in shown] == [row[0] for row in now]
    words = {"works", "compiled only", "source only", "-", "unmeasured", "cpu, forward"}
    assert {cell for row in shown[2:] for cell in row[1:]} <= words
    for name in script.BACKENDS:
        if backend.why_not(name) is None:  # runs here, as where the table was made
            column = shown[0].index(f"`{name}`")
            assert [row[column] for row in shown] == [row[column] for row in now], name
    assert [row[-1] for row in shown] == [row[-1] for row in now]


def test_status_follows_the_dispatch_table(script: ModuleType, monkeypatch: Any) -> None:
    specs = script.features()["`lrn`"]

    def only_forward(op: str, direction: str, *arguments: Any, **how: Any) -> None:
        if direction != "fprop":
            raise backend.BackendError("not here")

    monkeypatch.setattr(script.dispatch, "choose", only_forward)
    assert script.state(specs, "cpu") == "fprop works"
    monkeypatch.setattr(script.dispatch, "choose", lambda *_, **__: None)
    assert script.state(specs, "cpu") == "works"
    assert script.compiled_only(specs) in ("compiled only", "source only")
    assert script.compiled_only([replace(specs[0], beta=0.5)]) == "-"  # its plan declines


def test_measured_table_holds_the_result_files_and_nothing_else(script: ModuleType) -> None:
    shown = script.between(README, "measured")
    assert shown == script.measured_table(script.load_results()), "run docs/make_readme.py"


def test_newest_report_of_each_precision_is_shown(script: ModuleType, tmp_path: Path) -> None:
    about = {"cpu": "Some CPU", "cores": 2, "level": "x86-64-v3", "threads": 1}
    for name, dtype, day in (("a", "float32", 1), ("b", "float32", 2), ("c", "bfloat16", 3)):
        settings = {"batch": 1, "algorithm": "auto", "dtype": dtype}
        told = about | {"date": f"2026-01-0{day}", "versions": {}, "command": name}
        report = script.Report("net", [], told, settings, {}, [])
        (tmp_path / f"{name}.json").write_text(report.to_json())
    found = script.load_results(tmp_path)
    assert [report.environment["command"] for report in found] == ["b", "c"]
    assert "algorithm auto, bfloat16;" in script.measured_table(found)
    assert "algorithm auto; " in script.measured_table(found)


def test_other_networks_stand_under_their_own_names(script: ModuleType, tmp_path: Path) -> None:
    """Newer than GoogLeNet's, they neither take its title nor its place."""
    (mine,) = (r for r in script.load_results() if r.kind == "net" and r.settings["batch"] == 1)
    (tmp_path / "net.json").write_text(mine.to_json())
    rows = [mine.rows[0] | {"name": "inception_v3", "shape": [1, 299, 299, 3]}]
    other = replace(mine, rows=rows, environment=mine.environment | {"date": "2999"})
    (tmp_path / "other.json").write_text(other.to_json())
    table = script.measured_table(script.load_results(tmp_path))
    titles = re.findall(r"^\*\*(.*)\*\*$", table, flags=re.M)
    assert sorted(titles) == ["GoogLeNet, 224x224, forward", "inception_v3, 299x299, forward"]
    assert script.speed("GoogLeNet, 224x224", [other]) == "unmeasured"
    assert script.speed("GoogLeNet, 224x224", [mine]) == "cpu, forward"


def test_slower_and_wrong_rows_stay(script: ModuleType) -> None:
    def cell(us: float, ratio: float) -> dict[str, Any]:
        spread = {"p20_us": us - 1, "p80_us": us + 1}
        return {
            "median_us": us,
            "ratio": ratio,
            "share": 0.5,
            "bytes": 2e6,
            "error": 1e-7,
            **spread,
        }

    fine = {"fused": cell(20, 1), "unfused": cell(30, 1.5), "torch": cell(10, 0.5)}
    wrong = {"fused": {"failed": "too far off", "bytes": 2e6}, "unfused": cell(30, 1.5)}
    rows = [{"name": "3a", "columns": fine}, {"name": "3b", "columns": wrong}]
    about = {"cpu": "Some CPU", "cores": 2, "level": "x86-64-v3", "threads": 1, "command": "x y"}
    about |= {"versions": {"numpy": "2.0"}, "commit": "0123456789abcdef", "date": "2026-01-02"}
    report = script.Report("module", rows, about, {"batch": 1}, {"openvino": "not installed"}, [])
    table = script.measured_table([report])
    head, _, first, second = cells(table)
    assert first == [
        "3a",
        "20",
        "19 - 21",
        "50 %",
        "2.00",
        "30",
        "2.00",
        "1.50",
        "10",
        "0.50",
        "1e-07",
    ]
    assert second[1] == "wrong" and len(second) == len(head)
    for words in (
        "Some CPU",
        "threads 1",
        "numpy 2.0",
        "0123456789",
        "2026-01-02",
        "openvino left out",
    ):
        assert words in table
    with pytest.raises(ValueError, match="0 pairs of markers 'nothing'"):
        script.replaced(README, "nothing", table)
