"""Every program on every page of docs/ runs, and prints what the page says that it prints.

The ```python blocks of a page share one interpreter session and an empty folder. A ```text block
right after one is its output, compared word by word, where `...` stands for anything. A ```console
block is a screen of one machine and is not compared. A comment above a block marks it:

    <!-- skip: why -->           is not run here
"""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyinception import backend

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Their programs are run by tests of their own, which also look at what comes out.
ELSEWHERE = {"interop.md": "test_docs_interop.py"}
CUDA = {"emulator.md", "your_kernel.md", "path/06_cuda.md"}
PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if "_build" not in path.parts
}
FENCE = re.compile(
    r"^(?:<!-- skip: (?P<skip>.+?) -->\n)?^```(?P<kind>python|text)\n(?P<body>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Program:
    """One ```python block: its line on the page, the output shown below it, why it is skipped."""

    page: str
    line: int
    code: str
    output: str | None
    skip: str | None


def programs(page: str, text: str) -> list[Program]:
    found: list[Program] = []
    end = 0
    for block in FENCE.finditer(text):
        line = text[: block.start("body")].count("\n") + 1
        if block["kind"] == "python":
            found.append(Program(page, line, block["body"], None, block["skip"]))
        elif found and not text[end : block.start()].strip():
            last = found.pop()
            found.append(Program(page, last.line, last.code, block["body"], last.skip))
        end = block.end()
    return found


PROGRAMS = {page: programs(page, text) for page, text in PAGES.items()}


def missing(output: str, shown: str) -> str | None:
    """The first line of ``shown`` that ``output`` does not have in its place, or None."""
    printed = output.splitlines()
    for i, line in enumerate(shown.splitlines()):
        if line.strip() == "...":
            return None
        pattern = ".*".join(re.escape(part) for part in " ".join(line.split()).split("..."))
        have = " ".join(printed[i].split()) if i < len(printed) else ""
        if not re.fullmatch(pattern, have):
            return f"printed {have!r}, the page shows {line!r}"
    rest = printed[len(shown.splitlines()) :]
    return f"printed {rest[0]!r} too, which the page does not show" if rest else None


def run(program: Program, names: dict[str, Any]) -> None:
    """Execute a block in the page's session and compare its output."""
    where = f"{program.page}:{program.line}"
    # Blank lines, so that a traceback shows the line of the page.
    code = compile("\n" * (program.line - 1) + program.code, str(DOCS / program.page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    if program.output is not None:
        wrong = missing(printed.getvalue(), program.output)
        assert wrong is None, f"{where}: {wrong}\n{printed.getvalue()}"


def prepare(page: str) -> None:
    """What a page says that the reader has: files in the current folder."""
    if page == "data.md":
        from PIL import Image

        for n in range(10):
            path = Path("pictures") / ("train" if n < 8 else "test") / "ab"[n % 2] / f"{n}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 50, 3), 20 * n, np.uint8)).save(path)
    for source in ("my_reduce_conv.cu", "bank_conflicts.cu"):
        if source in PAGES[page] and (ROOT / "examples" / source).exists():
            name = "my.cu" if page == "your_kernel.md" else source
            Path(name).write_text((ROOT / "examples" / source).read_text("utf-8"), "utf-8")


def with_programs() -> Iterator[Any]:
    for page, found in PROGRAMS.items():
        if page not in ELSEWHERE and any(not program.skip for program in found):
            yield pytest.param(page, marks=[pytest.mark.cuda] if page in CUDA else [])


@pytest.mark.skipif(backend.why_not("cpu") is not None, reason="no compiled core")
@pytest.mark.parametrize("page", list(with_programs()))
def test_programs_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn", "matplotlib", "PIL", "numba"):
        pytest.importorskip(module, reason="extra `dev`")
    if page in CUDA and (reason := backend.why_not("emulated")):
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYINCEPTION_THREADS", "1")
    prepare(page)
    names: dict[str, Any] = {"__name__": page}
    for program in PROGRAMS[page]:
        if not program.skip:
            run(program, names)


SKIPPED = [program for found in PROGRAMS.values() for program in found if program.skip]


@pytest.mark.parametrize("program", SKIPPED, ids=lambda p: f"{p.page}:{p.line}")
def test_what_is_not_run(program: Program) -> None:
    compile(program.code, program.page, "exec")
    pytest.skip(f"{program.skip}")


def test_every_program_is_run_somewhere() -> None:
    for page, text in PAGES.items():
        fences = len(re.findall(r"^ *```python\s*$", text, flags=re.M))
        assert fences == len(PROGRAMS[page]), f"{page} has a program that no test reads"
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / "tests" / test).read_text(encoding="utf-8")


def test_the_comparison_can_fail() -> None:
    assert missing("a  1\nb\n", "a 1\nb\n") is None
    assert missing("a 17\n", "a ...\n") is None and missing("a\nb\nc\n", "a\n...\n") is None
    for shown in ("a 2\nb\n", "a 1\n", "a 1\nb\nc\n"):
        assert missing("a  1\nb\n", shown)
    wrong = Program("x.md", 1, "print(1 + 1)", "3\n", None)
    with pytest.raises(AssertionError, match=r"x.md:1: printed '2', the page shows '3'"):
        run(wrong, {})
