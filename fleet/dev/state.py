"""What `make up` keeps between starts: secrets, certificates, where the database lies. All under `.fleet/`, readable by its owner only."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from fleet.dev.services import short_socket_folder


@dataclass(frozen=True, slots=True)
class State:
    """The folders and secrets of one checkout."""

    home: Path

    @classmethod
    def of(cls, checkout: Path) -> State:
        """The state of this checkout; its folder is made when missing."""
        home = checkout / ".fleet"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / "logs").mkdir(exist_ok=True)
        return cls(home)

    @property
    def key(self) -> str:
        """Tells this checkout from others on the machine."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:12]

    @property
    def sockets(self) -> Path:
        """Folder of unix sockets, short enough whatever the checkout is called."""
        return short_socket_folder(str(self.home))

    @property
    def database(self) -> Path:
        """Data folder of PostgreSQL. As root it must lie where the user `nobody` may enter; `.fleet/location` names it."""
        if os.getuid() != 0:
            return self.home / "postgres"
        path = Path("/var/lib/fleet-dev") / self.key / "postgres"
        (self.home / "location").write_text(f"{path}\n")
        return path

    @property
    def orphan(self) -> Path | None:
        """The folder of a database whose secrets are gone: nobody can log in to it, and its credentials cannot be opened."""
        lost = not (self.home / "secrets.json").exists() and self.database.exists()
        return self.database.parent if lost else None

    @property
    def is_bereft(self) -> bool:
        """Whether its database is gone, though it was filled once: a new one would know nothing of what runs."""
        return (self.home / "kubeconfig").exists() and not self.database.exists()

    def environment(self) -> dict[str, str]:
        """Secrets as environment variables, made at random on the first start."""
        path = self.home / "secrets.json"
        if path.exists():
            loaded: dict[str, str] = json.loads(path.read_text())
            return loaded
        from nacl.public import PrivateKey

        key = PrivateKey.generate()
        made = {
            "FLEET_SECRET_KEY": secrets.token_urlsafe(48),
            "FLEET_HMAC_KEY": secrets.token_urlsafe(48),
            "FLEET_PRIVATE_KEY": base64.b64encode(bytes(key)).decode(),
            "FLEET_PUBLIC_KEY": base64.b64encode(bytes(key.public_key)).decode(),
            "FLEET_ADMIN_PASSWORD": "-".join(secrets.token_hex(3) for _ in range(3)),
        }
        write_private(path, json.dumps(made, indent=1))
        return made


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
