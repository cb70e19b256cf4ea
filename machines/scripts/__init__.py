"""The POSIX sh script of each verb of `hosts.Action`. Pure: `render` reads plain values and returns text.

A script runs as root in the transient unit of its step (`fence.sh`); docs of each verb are its function's.
Every value is quoted in `shell.quote`; names are matched in full first and refused with a ValueError that names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from machines.hosts import Action
from machines.scripts import files, nodes, packages, recovery, stage, system

VERBS: Final[Mapping[str, Callable[[Action], str]]] = {
    "stage-package": stage.stage_package,
    "install-package": packages.install_package,
    "remove-package": packages.remove_package,
    "configure-pending": packages.configure_pending,
    "write-files": files.write_files,
    "remove-files": files.remove_files,
    "set-units": system.set_units,
    "restart-units": system.restart_units,
    "set-sysctls": system.set_sysctls,
    "load-modules": system.load_modules,
    "set-boot-parameters": system.set_boot_parameters,
    "reboot": system.reboot,
    "health-check": system.health_check,
    "forget-host": system.forget_host,
    "join-node": nodes.join_node,
    "leave-node": nodes.leave_node,
    "collect-evidence": recovery.collect_evidence,
    "clean-disk": recovery.clean_disk,
}


def render(action: Action) -> str:
    """The step script of an action; ValueError names the field that may not reach a shell."""
    verb = VERBS.get(action.verb)
    if verb is None:
        raise ValueError(f"verb: unknown: {str(action.verb)[:60]!r}")
    text = verb(action)
    if "\x00" in text:
        raise ValueError("a value holds NUL")
    return text
