"""``pyinception doctor``: what works here, and why not."""

from __future__ import annotations

import typer

from pyinception.cli.output import AsJson, emit


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(doctor)


def doctor(json: AsJson = False) -> None:
    """Show versions, backends, CPU levels, switches and extras; what is missing has a remedy."""
    from pyinception.reports import doctor as examine

    report = examine()
    emit(str(report), dict(report), json)
