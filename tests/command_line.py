"""One command line inside a test: its exit code and what it wrote."""

from collections.abc import Callable

import pytest

from pyinception.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="run")
def run_command(tmp_path, monkeypatch, capsys) -> Run:
    """Run one command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYINCEPTION_THREADS", "1")  # maps of 8 x 8 are too small for a team

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert len(captured.err.splitlines()) <= 3
        return code, captured.out, captured.err

    return call
