"""`python -m fleet.cli`: parse, run, and say what went wrong in one sentence."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import psycopg
import typer
from typer.exceptions import TyperException

from fleet.cli import events, look, people, restored, safety, simulated, stopping
from fleet.cli.environment import CliError

app = typer.Typer(
    name="fleetctl",
    help="What kubectl cannot say: stop everything, ask why, events, people and tokens, audit, restored databases.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (stopping, look, events, safety, people, restored, simulated):
    module.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 = done, 1 = refused or failed, 2 = not understood."""
    try:
        given = list(arguments) if arguments is not None else None
        done = app(args=given, prog_name="fleetctl", standalone_mode=False)
        return done if isinstance(done, int) else 0
    except TyperException as error:  # not understood
        context = getattr(error, "ctx", None)
        print(f"fleetctl: {error.format_message()}", file=sys.stderr)
        if context is not None:
            print(f"Try: {context.command_path} --help", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:  # whatever it is, a person at a terminal gets a sentence
        print(f"fleetctl: {sentence(error)}", file=sys.stderr)
        if os.environ.get("FLEETCTL_TRACE"):
            traceback.print_exception(error)
        return 1


def sentence(error: Exception) -> str:
    """What went wrong, for people."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, CliError):
        return str(error)
    if isinstance(error, psycopg.OperationalError) or type(error).__name__ == "OperationalError":
        return f"the database does not answer: {first}"
    if isinstance(error, psycopg.errors.UndefinedTable) or "does not exist" in first:
        return f"the database is not one that Fleet's migrations prepared: {first}"
    expected = ("SwitchError", "FaultError", "ApiError")
    if type(error).__name__ in expected:
        return first
    return f"unexpected {type(error).__name__}: {first} (FLEETCTL_TRACE=1 shows where)"


if __name__ == "__main__":
    sys.exit(main())
