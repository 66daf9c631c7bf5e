"""Every program on every page of docs/ runs, and prints what the page says that it prints.

The ```python blocks of a page share one interpreter session and an empty folder. A ```text block
right after one is its output, compared word by word, where `...` stands for anything; a ```sh block
with such an output is run too (`test_readme.py` checks that the commands of all others exist). A
```console block is a screen of one machine and is not compared. A comment above a block marks it:

    <!-- skip: why -->           is not run here
"""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
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
    r"^(?:<!-- skip: (?P<skip>.+?) -->\n)?^```(?P<kind>python|sh|text)\n(?P<body>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Program:
    """One block to run: its line on the page, the output shown below it, why it is skipped."""

    kind: str
    page: str
    line: int
    code: str
    output: str | None
    skip: str | None


def programs(page: str, text: str) -> list[Program]:
    blocks = list(FENCE.finditer(text))
    found: list[Program] = []
    for block, after in zip_longest(blocks, blocks[1:]):
        follows = after is not None and not text[block.end() : after.start()].strip()
        output = after["body"] if follows and after["kind"] == "text" else None
        if block["kind"] == "python" or (block["kind"] == "sh" and output is not None):
            line = text[: block.start("body")].count("\n") + 1
            found.append(Program(block["kind"], page, line, block["body"], output, block["skip"]))
    return found


PROGRAMS = {page: programs(page, text) for page, text in PAGES.items()}


def missing(output: str, shown: str) -> str | None:
    """Where ``output`` first differs from ``shown``, in words, or None."""
    printed = [" ".join(line.split()) for line in output.splitlines()]
    wanted = [" ".join(line.split()) for line in shown.splitlines()]
    patterns = [".*".join(map(re.escape, line.split("..."))) for line in wanted]
    i = 0
    for line, pattern, following in zip_longest(wanted, patterns, patterns[1:]):
        if line == "...":  # any number of lines, up to the next one that is shown
            while i < len(printed) and not (following and re.fullmatch(following, printed[i])):
                i += 1
            continue
        if i == len(printed) or not re.fullmatch(pattern, printed[i]):
            have = printed[i] if i < len(printed) else "nothing more"
            return f"printed {have!r}, the page shows {line!r}"
        i += 1
    return f"printed {printed[i]!r} too, which the page does not show" if i < len(printed) else None


def run(program: Program, names: dict[str, Any]) -> None:
    """Execute a block in the page's session, or in a shell, and compare its output."""
    if program.kind == "sh":
        output = "".join(map(shell, program.code.splitlines()))
    else:
        # Blank lines, so that a traceback shows the line of the page.
        text = "\n" * (program.line - 1) + program.code
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, str(DOCS / program.page), "exec"), names)
        output = printed.getvalue()
    if program.output is not None:
        wrong = missing(output, program.output)
        assert wrong is None, f"{program.page}:{program.line}: {wrong}\n{output}"


def shell(line: str) -> str:
    """What a command prints; python and pyinception are those of this interpreter."""
    words = shlex.split(line, comments=True)
    if not words:
        return ""
    own = {
        "python": [sys.executable],
        "pyinception": [sys.executable, "-m", "pyinception.cli.main"],
    }
    done = subprocess.run([*own[words[0]], *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def prepare(page: str) -> None:
    """What a page says that the reader has: files in the current folder."""
    if page == "data.md":
        from PIL import Image

        for n in range(10):
            path = Path("pictures") / ("train" if n < 8 else "test") / "ab"[n % 2] / f"{n}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((40, 50, 3), 20 * n, np.uint8)).save(path)
    Path("examples").symlink_to(ROOT / "examples")
    if page == "your_kernel.md":
        shutil.copy("examples/my_reduce_conv.cu", "my.cu")


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
        read = sum(program.kind == "python" for program in PROGRAMS[page])
        assert fences == read, f"{page} has a program that no test reads"
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / "tests" / test).read_text(encoding="utf-8")


def test_the_comparison_can_fail() -> None:
    assert missing("a  1\nb\n", "a 1\nb\n") is None
    assert missing("a 17\n", "a ...\n") is None and missing("a\nb\nc\n", "a\n...\n") is None
    assert missing("a\nb\nc\nd\n", "a\n...\nd\n") is None and missing("a\nb\n", "a\n...\nc\n")
    for shown in ("a 2\nb\n", "a 1\n", "a 1\nb\nc\n"):
        assert missing("a  1\nb\n", shown)
    wrong = Program("python", "x.md", 1, "print(1 + 1)", "3\n", None)
    with pytest.raises(AssertionError, match=r"x.md:1: printed '2', the page shows '3'"):
        run(wrong, {})
