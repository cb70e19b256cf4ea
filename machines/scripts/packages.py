"""install-package, remove-package, configure-pending: dpkg, rpm and tarballs as they are. Pure."""

from __future__ import annotations

from machines.hosts import Action
from machines.scripts.shell import assign, checked, resource, script
from machines.scripts.stage import artifact_of, package_name, stage_folder

LOCK_SECONDS = 120  # how long a foreign holder of the package lock is waited for, within the step's own limit


def install_package(action: Action) -> str:
    """Install, upgrade or downgrade to the staged artifact. `values["reinstall"]="true"` installs the same version again."""
    artifact, name = artifact_of(action), package_name(action)
    assert action.package is not None  # package_name has looked
    destination = artifact.destination.rstrip("/")
    variables = assign(
        package=name,
        declared=checked(action.package.version, "version", "package.version"),
        folder=stage_folder(artifact),
        kernel="1" if action.package.kind == "KernelPatch" else "0",
        again="1" if action.values.get("reinstall") == "true" else "0",
        lock_seconds=str(_lock_seconds(action)),
        destination=checked(destination, "path", "artifact.destination") if destination else "",
    )
    return script(variables, resource("packages.sh"), resource(f"{artifact.format}.sh"), f"install_{artifact.format}")


def remove_package(action: Action) -> str:
    """Remove `names[0]` as Fleet's ledger on the host knows it; what Fleet did not install is refused."""
    if not action.names:
        raise ValueError("names: the package to remove is missing")
    variables = assign(
        package=checked(action.names[0], "package", "names[0]"), lock_seconds=str(_lock_seconds(action)), kernel="0"
    )
    parts = [resource(name) for name in ("packages.sh", "deb.sh", "rpm.sh", "tarball.sh", "remove.sh")]
    return script(variables, *parts)


def configure_pending(action: Action) -> str:
    """`dpkg --configure -a` when the audit is not empty; nothing to do on other hosts."""
    variables = assign(package="none", lock_seconds=str(_lock_seconds(action)))
    body = """
command -v dpkg >/dev/null && [ -d /var/lib/dpkg/info ] || done_with 'this host has no dpkg database'
scratch
wait_for_lock
deny_services
configure_pending
done_with 'the package database is sound'
"""
    return script(variables, resource("packages.sh"), body)


def _lock_seconds(action: Action) -> int:
    text = action.values.get("lockWaitSeconds", "")
    wanted = int(text) if text.isascii() and text.isdigit() else LOCK_SECONDS
    return max(1, min(wanted, action.timeout_seconds // 2))
