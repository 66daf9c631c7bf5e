"""Progress for whoever watches: a bar with ETA and rate on a terminal, plain lines elsewhere.

    rate = items done since this start / seconds

A bar appears for anything that lasts longer than a second. Without a terminal there are whole
lines only, one every ten seconds at most, so that a log file stays readable.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol, TextIO

LINE_SECONDS = 10.0


class Reporter(Protocol):
    """Where a loop tells how far it is."""

    def line(self, text: str) -> None:
        """One finished statement."""

    def start(self, what: str, total: int, unit: str = "img", done: int = 0) -> None:
        """A count towards ``total`` begins."""

    def advance(self, count: int, note: str = "") -> None:
        """``count`` more are done."""

    def stop(self) -> None:
        """The count has ended."""


class Silent:
    """Says nothing."""

    def line(self, text: str) -> None: ...

    def start(self, what: str, total: int, unit: str = "img", done: int = 0) -> None: ...

    def advance(self, count: int, note: str = "") -> None: ...

    def stop(self) -> None: ...


class Plain:
    """Whole lines on a stream that is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self._total = 0

    def line(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def start(self, what: str, total: int, unit: str = "img", done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._first, self._done = done, done
        self._begun = self._said = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS and self._done < self._total:
            self._said = now
            rate = (self._done - self._first) / (now - self._begun)
            left = (self._total - self._done) / rate if rate else 0.0
            text = f"{self._what} {self._done}/{self._total} {self._unit}"
            self.line(f"{text}, {rate:.0f} {self._unit}/s, {clock(left)} left  {note}".rstrip())

    def stop(self) -> None:
        self._total = 0


class Bar:
    """A rich progress bar, drawn once a second has passed; lines scroll above it."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress: type[Progress] = Progress
        self._console = console
        self._live: Progress | None = None

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, what: str, total: int, unit: str = "img", done: int = 0) -> None:
        self.stop()
        self._what, self._unit, self._total = what, unit, total
        self._first, self._done, self._begun = done, done, time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        self._done += count
        passed = time.monotonic() - self._begun
        if self._live is None:
            if passed < 1:
                return
            self._live = self._progress(*self._columns, console=self._console, transient=True)
            self._task = self._live.add_task(self._what, total=self._total, rate="", note="")
            self._live.start()
        rate = f"{(self._done - self._first) / passed:.0f} {self._unit}/s"
        self._live.update(self._task, completed=self._done, rate=rate, note=note)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def reporter(stream: TextIO | None = None) -> Reporter:
    """A `Bar` if ``stream`` (stdout) is a terminal, else `Plain`."""
    target = stream or sys.stdout
    if not target.isatty():
        return Plain(target)
    from rich.console import Console

    return Bar(Console(file=target))


class Counting:
    """``with Counting(reporter, "checking files", "file") as tell``: tell(done, total)."""

    def __init__(self, to: Reporter, what: str, unit: str) -> None:
        self._to, self._what, self._unit, self._done = to, what, unit, 0

    def __enter__(self) -> Counting:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._done == 0 or done < self._done:
            self._to.start(self._what, total, self._unit)
            self._done = 0
        self._to.advance(done - self._done)
        self._done = done

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._to.stop()


def clock(seconds: float) -> str:
    """75 -> "1:15", 4000 -> "1:06:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
