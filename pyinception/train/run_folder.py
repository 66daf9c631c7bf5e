"""The folder of one run: what was asked, where it ran, what came out.

    runs/NAME/config.toml        the resolved recipe
              env.json           one entry per start: versions, machine, threads, time
              metrics.jsonl      one line per step ("kind": "step") and per epoch ("epoch"),
                                 steps counted from 1, epochs from 0; "watch" looks into a step
              baselines.json     nearest neighbours and logistic regression on the same split
              judged.json          the newest test: who is taken for whom, the worst mistakes
              report.html          all of it on one page, written when the run ends or stops
              curves.png filters.png features.png
              events.out.*         for TensorBoard, where asked for
              checkpoints/last.safetensors, best.safetensors

Files are replaced whole (temporary name, then rename); metrics.jsonl is appended to, and cut back
to the checkpoint when a run is taken up again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pyinception.reports import doctor
from pyinception.train.recipe import ENDLESS, Recipe, read_toml


class RunError(RuntimeError):
    """A run folder cannot be used as asked; the message says what to do."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError inside into one that names ``path``, the cause and its errno."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        if name in str(error):  # said already
            raise
        text = f"cannot write {path}: {error.strerror or error} ({name})"
        raise OSError(error.errno, text) from error


def write_whole(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, or leave it as it was and raise OSError."""
    temporary = None
    with explained(path):
        try:
            handle, temporary = tempfile.mkstemp(
                prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
            )
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), 0o644)
            os.replace(temporary, path)
            temporary = None
        finally:
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)


class RunFolder:
    """The files of one run; `create` makes a new one, `reopen` takes one up again."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.safetensors"
        self.best = self.checkpoints / "best.safetensors"
        self.listeners: list[Callable[[dict[str, Any]], None]] = []  # told of every line
        self._metrics: TextIO | None = None

    def check_new(self) -> None:
        """Raise RunError if there is something at that path already."""
        if (self.path.exists() or self.path.is_symlink()) and not self._unfinished():
            kind = "exists" if self.config.exists() else "exists and is no run folder"
            remedy = "continue it with --resume, or choose another --name"
            remedy = remedy if self.config.exists() else "choose another --name"
            raise RunError(f"run folder {self.path} {kind}: {remedy}")

    def create(self, recipe: Recipe) -> None:
        """Make the folder and write config.toml.

        Raises
        ------
        RunError
            As `check_new`.
        OSError
            If the folder cannot be made; nothing half-made stays behind.
        """
        self.check_new()
        with explained(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        try:
            self.write_config(recipe)
        except OSError:
            with suppress(OSError):
                self.checkpoints.rmdir()
                self.path.rmdir()
            raise

    def _unfinished(self) -> bool:
        """Whether `create` was killed here: nothing but an empty folder and temporary files."""
        if not self.path.is_dir() or self.path.is_symlink():
            return False
        inside = {path.name for path in self.path.iterdir()} - {
            path.name for path in self._litter()
        }
        return inside == {self.checkpoints.name} and not any(self.checkpoints.iterdir())

    def _litter(self) -> list[Path]:
        """Temporary files that a killed process left."""
        return [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]

    def tidy(self) -> None:
        """Remove what a killed process left; to be called while `locked`."""
        for path in self._litter():
            with suppress(OSError):
                path.unlink()

    def reopen(self, given: dict[str, Any], resolve: Callable[[dict[str, Any]], Recipe]) -> Recipe:
        """The recipe of config.toml, after checking that nothing else is asked for.

        Parameters
        ----------
        given : entries asked for explicitly; each must be what the run has. ``epochs`` may be
            larger where the learning rate does not depend on it, ``root`` may be another place.
        resolve : checks entries and makes a recipe of them.

        Raises
        ------
        RunError
            If there is no such run, or it has another configuration (the entries are named).
        """
        if not self.config.is_file():
            raise RunError(f"run folder {self.path} holds no config.toml: nothing to resume")
        stored = resolve(read_toml(self.config)).located(self.path)
        entries = stored.as_dict()
        if given.get("data") not in (None, stored.data):
            del entries["root"]  # of another place, or of another data set
        asked = resolve({**entries, **given})
        other = stored.differences(asked)
        other.pop("root", None)
        longer = {"epochs"} if asked.epochs > stored.epochs and stored.schedule in ENDLESS else None
        if other and set(other) != longer:
            text = "; ".join(f"{name} is {a!r}, asked for {b!r}" for name, (a, b) in other.items())
            hint = ""
            if set(other) == {"epochs"} and asked.epochs > stored.epochs:
                hint = f" (the {stored.schedule} schedule depends on epochs)"
            raise RunError(f"--resume: {self.path} has another configuration: {text}{hint}")
        return asked

    def write_config(self, recipe: Recipe) -> None:
        """Replace config.toml by ``recipe``, its root relative to this folder."""
        write_whole(self.config, recipe.portable(self.path).to_toml().encode())

    @property
    def config(self) -> Path:
        """The resolved recipe."""
        return self.path / "config.toml"

    @property
    def metrics_path(self) -> Path:
        """One JSON object per line."""
        return self.path / "metrics.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against a second process that would train into it."""
        # The folder itself, not a file in it: files are replaced, and a lock with them.
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise RunError(f"run folder {self.path} is in use by another process") from None
        finally:
            os.close(handle)

    def write_json(self, name: str, value: Any) -> None:
        """Replace the file ``name`` by ``value``."""
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
        write_whole(self.path / name, text.encode())

    def read_json(self, name: str) -> Any:
        """The content of the file ``name``, or None where it is missing or damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def note_environment(self, more: dict[str, Any] | None = None) -> None:
        """Add one entry to env.json: what this start runs on, and what else is known of it."""
        entries = self.read_json("env.json")
        entries = entries if isinstance(entries, list) else []
        self.write_json("env.json", [*entries, environment() | (more or {})])

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, through a buffer."""
        with explained(self.metrics_path):
            if self._metrics is None:
                self._metrics = self.metrics_path.open("a", encoding="utf-8")
            self._metrics.write(json.dumps(line) + "\n")
        for tell in self.listeners:
            tell(line)

    def flush(self) -> None:
        """Hand buffered lines to the system."""
        if self._metrics is not None:
            with explained(self.metrics_path):
                self._metrics.flush()

    def sync_metrics(self) -> int:
        """Bring metrics.jsonl to the disk, before a checkpoint that counts on it; its length."""
        self.flush()
        if self._metrics is None:
            return self.metrics_path.stat().st_size if self.metrics_path.exists() else 0
        with explained(self.metrics_path):
            os.fsync(self._metrics.fileno())
            return os.fstat(self._metrics.fileno()).st_size

    def close(self) -> None:
        """Write out what is buffered and close metrics.jsonl."""
        if self._metrics is not None:
            file, self._metrics = self._metrics, None
            with explained(self.metrics_path):
                file.close()

    def metrics(self, kind: str = "epoch") -> list[dict[str, Any]]:
        """The lines of one kind, oldest first; a last line cut short by a crash is left out."""
        self.flush()
        return [line for line in self._lines() if line.get("kind") == kind]

    def _lines(self) -> list[dict[str, Any]]:
        if not self.metrics_path.exists():
            return []
        lines = []
        for text in self.metrics_path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                lines.append(json.loads(text))
        return [line for line in lines if isinstance(line, dict)]

    def cut_metrics(self, length: int) -> None:
        """Cut metrics.jsonl to the length that a checkpoint counts on."""
        if self._metrics is not None or not self.metrics_path.exists():
            return
        with explained(self.metrics_path):
            if self.metrics_path.stat().st_size < length:  # someone has edited it
                length = self.metrics_path.read_bytes().rfind(b"\n") + 1
            os.truncate(self.metrics_path, length)


def environment() -> dict[str, Any]:
    """What `doctor` says of versions, backends and switches, with time, CPU and commit."""
    about = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "commit": _commit(),
    }
    return about | dict(doctor())


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, None for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    return None


def find_run(name: str | None, runs: str | Path = "runs") -> RunFolder:
    """The run called ``name`` in the folder ``runs``, or at the path ``name``; None: the newest.

    Raises
    ------
    RunError
        If there is none; the runs that do exist are named.
    """
    known = sorted(Path(runs).glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
    if name is None and known:
        return RunFolder(known[-1].parent)
    for path in () if name is None else (Path(runs) / name, Path(name)):
        if (path / "config.toml").is_file():
            return RunFolder(path)
    names = ", ".join(path.parent.name for path in known[-8:])
    listed = f"runs there: {names}" if known else "there are no runs"
    called = "" if name is None else f" {name!r}"
    raise RunError(f"no run{called} in {runs} ({listed})")
