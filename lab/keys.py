"""SSH keys of hosts and of the lab's user, and throw-away signing keys for packages."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.command import run


@dataclass(frozen=True, slots=True)
class SshKey:
    """A key pair in files: `private` (OpenSSH PEM) and `private` + '.pub'."""

    private: Path

    @property
    def public_line(self) -> str:
        """'ssh-ed25519 AAAA...' without the comment."""
        kind, key, *_ = self.private.with_name(self.private.name + ".pub").read_text().split()
        return f"{kind} {key}"


def make_ssh_key(path: Path) -> SshKey:
    """A new ed25519 pair at `path`; one that is there is replaced."""
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path])
    return SshKey(path)


class SigningKey:
    """A GnuPG key without a passphrase in a home of its own; use as a context manager, nothing of it stays behind."""

    def __init__(self, name: str = "Lab Packages <packages@lab.invalid>") -> None:
        self.name = name
        # gpg-agent's socket path must stay below 108 bytes: a short folder, not one below the checkout.
        self.home = Path(tempfile.mkdtemp(prefix="flab-gpg-"))
        self._gpg("--quick-generate-key", name, "rsa2048", "sign", "never")
        listing = self._gpg("--list-keys", "--with-colons")
        self.fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))

    def __enter__(self) -> SigningKey:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def public_key(self) -> str:
        """The ASCII-armoured public key."""
        return self._gpg("--armor", "--export", self.fingerprint)

    def sign_detached(self, path: Path) -> Path:
        """Write `path` + '.asc', a detached ASCII-armoured signature."""
        signature = path.with_name(path.name + ".asc")
        signature.unlink(missing_ok=True)
        self._gpg("--armor", "--local-user", self.fingerprint, "--output", str(signature), "--detach-sign", str(path))
        return signature

    def close(self) -> None:
        """End this home's agent and remove the key."""
        run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=False)
        shutil.rmtree(self.home, ignore_errors=True)

    def _gpg(self, *arguments: str) -> str:
        argv = [
            "gpg",
            "--homedir",
            str(self.home),
            "--batch",
            "--yes",
            "--quiet",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
        ]
        return run([*argv, "--passphrase", "", *arguments]).stdout
