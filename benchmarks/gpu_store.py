"""The session's JSON file: environments and rows, replaced whole after every row.

A row is finished when its key was measured on the same machine, which means the same fingerprint of
device, driver and libraries. Rehearsals (host clock, no device figure) live in files of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FORMAT = 1
FINISHED = ("ok", "wrong", "rehearsed")
MOST_ATTEMPTS = 2  # a row that kills the process must not kill it at every start


class StoreError(RuntimeError):
    """The file is not a session of ours, or not of this kind."""


class Store:
    """Rows of one file. `StoreError` says what is wrong with a file and leaves it untouched."""

    def __init__(self, path: Path, *, rehearsal: bool):
        self.path = path
        self.document: dict[str, Any] = {
            "format": FORMAT,
            "rehearsal": rehearsal,
            "environments": {},
            "rows": [],
        }
        self.environment_id = ""
        if path.exists():
            self.document = self._read(rehearsal)

    def _read(self, rehearsal: bool) -> dict[str, Any]:
        remedy = "move the file away or give another --out"
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.path}: not valid JSON ({error}); {remedy}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StoreError(f"{self.path}: not a GPU session of format {FORMAT}; {remedy}")
        rows = document.get("rows")
        sound = isinstance(rows, list) and all(
            isinstance(row, dict) and {"key", "status", "environment"} <= row.keys() for row in rows
        )
        if not sound or not isinstance(document.get("environments"), dict):
            raise StoreError(f"{self.path}: rows or environments are damaged; {remedy}")
        if document.get("rehearsal") is not rehearsal:
            kind = "a rehearsal" if document.get("rehearsal") else "measurements on a GPU"
            raise StoreError(f"{self.path}: holds {kind}, which never share a file; {remedy}")
        return document

    def use(self, environment: dict[str, Any]) -> str:
        """Register the machine of this run; rows count as finished against its fingerprint."""
        text = json.dumps(environment["fingerprint"], sort_keys=True)
        self.environment_id = hashlib.sha256(text.encode()).hexdigest()[:12]
        runs = self.document["environments"].setdefault(self.environment_id, {"runs": []})
        runs["fingerprint"] = environment["fingerprint"]
        record = {name: value for name, value in environment.items() if name != "fingerprint"}
        runs["runs"].append(record)
        self.commit: str | None = environment.get("commit")
        return self.environment_id

    def find(self, key: str) -> dict[str, Any] | None:
        for row in self.document["rows"]:
            if row["key"] == key and row["environment"] == self.environment_id:
                return dict(row)
        return None

    def finished(self, key: str, *, of_this_commit: bool = False) -> bool:
        """Whether nothing is left to do; ``of_this_commit``: by what the checkout holds now."""
        row = self.find(key)
        if row is None or row.get("reopened"):
            return False
        if of_this_commit and row["commit"] != self.commit:
            return False
        if row["status"] == "failed":
            return int(row.get("attempts", 1)) >= MOST_ATTEMPTS
        return row["status"] in FINISHED

    def slowest(self, stage: str) -> float:
        """Seconds of the slowest row of a stage so far on this machine, 0 when there is none."""
        seconds = [
            float(row.get("seconds") or 0)
            for row in self.document["rows"]
            if row["environment"] == self.environment_id and row.get("stage") == stage
        ]
        return max(seconds, default=0.0)

    def put(self, row: dict[str, Any]) -> dict[str, Any]:
        """Replace the row of this key and machine, then the file."""
        self.begin(row)
        return self.finish(row)

    def begin(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Count an attempt at a row, so that one that ends the process is known; the row before."""
        before = self.find(row["key"])
        again = before and not before.get("reopened") and before["commit"] == self.commit
        attempts = int(before.get("attempts", 0)) if before and again else 0
        reason = "began, and the process ended before it did"
        self._replace(row["key"], {"status": "failed", "reason": reason, **row}, attempts + 1)
        return before

    def finish(self, row: dict[str, Any]) -> dict[str, Any]:
        """Put the row in the place of the one that was begun."""
        begun = self.find(row["key"])
        return self._replace(row["key"], row, int(begun["attempts"]) if begun else 1)

    def reopen(self, keys: Iterable[str]) -> None:
        """Rows that are to be measured again count as unfinished until they have been."""
        wanted = set(keys)
        for row in self.document["rows"]:
            if row["environment"] == self.environment_id and row["key"] in wanted:
                row["reopened"] = True
        self.save()

    def take_back(self, key: str, before: dict[str, Any] | None) -> None:
        """A row that was begun is as it was before that."""
        if before is None:
            self.document["rows"] = self._others(key)
            self.save()
        else:
            self._replace(key, before, before["attempts"])

    def _others(self, key: str) -> list[dict[str, Any]]:
        here = (key, self.environment_id)
        return [old for old in self.document["rows"] if (old["key"], old["environment"]) != here]

    def _replace(self, key: str, row: dict[str, Any], attempts: int) -> dict[str, Any]:
        row = _plain({"environment": self.environment_id, "commit": self.commit, **row})
        row["attempts"] = attempts
        self.document["rows"] = [*self._others(key), row]
        self.save()
        return row

    def save(self) -> None:
        """Write to a temporary name in the same folder, fsync, rename, fsync the folder."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=folder, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(self.document, file, indent=1, allow_nan=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _plain(value: Any) -> Any:
    """JSON has no NaN: a non-finite number becomes its name, so that it stays visible."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
