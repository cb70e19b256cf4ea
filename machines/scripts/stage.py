"""stage-package: bring an artifact to the host and verify it, before anything is isolated or installed. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib

from machines.hosts import Action, Artifact
from machines.scripts.shell import assign, checked, embed, resource, script


def stage_package(action: Action) -> str:
    """Fetch, check size, sum and signature; a local path or file:// URL is read on the host itself."""
    artifact, name = artifact_of(action), package_name(action)
    parts = [
        assign(
            package=name,
            url=checked(artifact.url, "url", "artifact.url"),
            sha256=artifact.sha256,
            format=artifact.format,
            # Room for the verification inside the step's own limit.
            seconds=str(max(5, action.timeout_seconds - 10)),
            key="1" if artifact.gpg_key else "0",
        )
    ]
    if artifact.gpg_key:
        parts.append(
            "write_key() {\n"
            f"cat >\"$scratch/key.asc\" <<'END_OF_KEY'\n{_armour(artifact.gpg_key)}\nEND_OF_KEY\n"
            f'>"$scratch/key.gpg" {embed(_dearmour(artifact.gpg_key))}}}'
        )
    return script(*parts, resource("stage.sh"))


def artifact_of(action: Action) -> Artifact:
    """The action's artifact, with its form checked; without sha256 and key it is refused."""
    artifact = action.artifact
    if artifact is None:
        raise ValueError("artifact: missing")
    if artifact.format not in ("deb", "rpm", "tarball"):
        raise ValueError(f"artifact.format: unknown: {str(artifact.format)[:60]!r}")
    if artifact.sha256:
        checked(artifact.sha256, "sha256", "artifact.sha256")
    elif not artifact.gpg_key:
        raise ValueError("artifact.sha256: without a sum and without a signature nothing is installed")
    return artifact


def package_name(action: Action) -> str:
    """packageName of the action's package."""
    if action.package is None:
        raise ValueError("package: missing")
    return checked(action.package.name, "package", "package.name")


def stage_folder(artifact: Artifact) -> str:
    """Name of the artifact's folder under /var/lib/fleet/stage."""
    return artifact.sha256 or "url-" + hashlib.sha256(artifact.url.encode()).hexdigest()


def _armour(text: str) -> str:
    """The key's own lines only: what is not ASCII armour does not reach the host."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines or lines[0] != "-----BEGIN PGP PUBLIC KEY BLOCK-----" or not lines[-1].startswith("-----END PGP"):
        raise ValueError("artifact.gpg_key: not an ASCII-armoured public key")
    if not all(line.isascii() and line.isprintable() and line != "END_OF_KEY" for line in lines):
        raise ValueError("artifact.gpg_key: not an ASCII-armoured public key")
    return "\n".join(lines)


def _dearmour(text: str) -> bytes:
    """The binary key, for hosts with gpgv but without gpg (RFC 9580, section 6.2)."""
    lines = _armour(text).split("\n")[1:-1]
    body = lines[lines.index("") + 1 :] if "" in lines else lines
    try:
        return base64.b64decode("".join(line for line in body if not line.startswith("=")), validate=True)
    except binascii.Error as error:
        raise ValueError("artifact.gpg_key: its base64 is broken") from error
