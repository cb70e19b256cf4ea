"""Where the commands find Fleet: DATABASE_URL, else what `make up` keeps in `.fleet/`; and how their errors are said."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Final

from rich.console import Console

CHECKOUT: Final = Path(__file__).resolve().parent.parent.parent
out = Console(highlight=False, soft_wrap=True)


class CliError(Exception):
    """A sentence for the person at the terminal."""


def who() -> str:
    """Name that is written down for what is done here: FLEET_USER, else the login name."""
    return os.environ.get("FLEET_USER") or f"{getpass.getuser()} (fleetctl)"


def database_url() -> str:
    """The database of the environment, else that of `make up` in this checkout."""
    _adopt_state()
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        raise CliError("DATABASE_URL is not set, and this checkout has no Fleet of its own (make up makes one).")
    return url


def start_django() -> None:
    """For commands that need more than SQL."""
    database_url()
    if not os.environ.get("FLEET_SECRET_KEY"):
        raise CliError("FLEET_SECRET_KEY is not set: this command needs the settings that Fleet's processes have.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
    import django

    django.setup()


def _adopt_state() -> None:
    """The secrets and the database of `make up`, where the environment names none."""
    secrets = CHECKOUT / ".fleet" / "secrets.json"
    if os.environ.get("DATABASE_URL") or not secrets.exists():
        return
    try:
        kept = json.loads(secrets.read_text())
    except (OSError, ValueError) as error:
        raise CliError(f"{secrets} cannot be read: {error}") from None
    for name, value in kept.items():
        os.environ.setdefault(name, value)
    os.environ["DATABASE_URL"] = f"postgresql://fleet@/fleet?host={_sockets()}"


def _sockets() -> Path:
    """Folder of PostgreSQL's socket."""
    from fleet.dev.services import short_socket_folder

    return short_socket_folder(str(CHECKOUT / ".fleet"))
