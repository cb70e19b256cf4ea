"""Reasons that the driver gives for a host that was not seen or a step that did not succeed, a sentence each.

Steps of `machines.scripts` and `fence.sh` write theirs as words of these; `tests/machines/test_scripts.py` keeps the list whole.
"""

from __future__ import annotations

from typing import Final

# Facts.reason, and StepResult.reason with state Unknown: the host was not reached or its answer is not worth anything.
CONNECTION: Final[dict[str, str]] = {
    "HostKeyNotEnrolled": "No host key is trusted for this address yet; nothing was sent.",
    "HostKeyMismatch": "The host shows another key than the enrolled one; nothing was sent.",
    "NoCredential": "No login is known for the host.",
    "CredentialInvalid": "The private key of the login cannot be read.",
    "AddressRefused": "Fleet may not connect to this address.",
    "AddressUnknown": "The name does not resolve.",
    "Timeout": "The host did not answer in time.",
    "ConnectionRefused": "Nothing listens at the port.",
    "NoRoute": "The network has no way to the address.",
    "AuthenticationFailed": "The host refuses the login.",
    "Disconnected": "The connection ended in the middle.",
    "ProtocolError": "What answers is not an SSH server that Fleet can talk to.",
    "SudoRefused": "The user may not run sudo without a password.",
    "Garbled": "The answer is cut short, too long or not an answer.",
    "InvalidTarget": "The target asks for a name that may not reach a shell; nothing was sent.",
    "Throttled": "All connections allowed for the idc were in use; the host was not looked at.",
}

# StepResult.reason with state Refused (nothing was done) or Unknown.
FENCE: Final[dict[str, str]] = {
    "StaleEpoch": "A newer owner of this machine has been on the host.",
    "IdentityMismatch": "The host belongs to another machine or installation.",
    "StepRunning": "Another step still runs on the host.",
    "FenceBusy": "The lock of the fence was not free.",
    "BadRequest": "The fence did not understand the request.",
    "Truncated": "The step did not arrive whole; nothing was done.",
    "InvalidAction": "The action has a value that may not reach a shell; nothing was sent.",
    "NoSuchStep": "No such attempt is known on the host.",
    "SystemdUnreachable": "systemd on the host does not answer.",
    "Interrupted": "The step ended without a result.",
    "CannotStart": "systemd could not start the step.",
    "StepTimeout": "The step took longer than allowed and was stopped.",
    "OutOfMemory": "The kernel killed the step for lack of memory.",
    "StepFailed": "The step ended with an error that has no reason of its own.",
}

# StepResult.reason with state Failed, from the step's own script.
STEP: Final[dict[str, str]] = {
    "DownloadFailed": "The artifact could not be fetched; the message has the HTTP code.",
    "DownloadTruncated": "The connection ended before the artifact was whole.",
    "DownloadTimeout": "The artifact did not arrive in time.",
    "NoDownloader": "The host has neither curl nor wget nor apt-helper.",
    "ChecksumMismatch": "The bytes are not the declared ones; the message has both sums.",
    "SignatureInvalid": "The artifact is not signed by the declared key.",
    "NoVerifier": "The host cannot verify signatures (gpgv, rpmkeys).",
    "DiskFull": "The disk has not enough room.",
    "NotStaged": "The artifact is not on the host; stage it first.",
    "ForeignFormat": "The host does not use packages of this format.",
    "ArtifactUnreadable": "The artifact is not a package of its format.",
    "ArtifactMismatch": "The artifact holds another package than expected.",
    "ArchitectureMismatch": "The artifact is for another architecture.",
    "PackageLockHeld": "Another program holds the package lock; the message names it.",
    "PackageDatabaseBroken": "The package database stays broken after dpkg --configure -a.",
    "PackageHeldOnHost": "A person holds this package on the host (apt-mark hold).",
    "DependenciesMissing": "The package needs others that are not installed.",
    "WouldChangeOthers": "The change would touch packages that were not declared; the message names them.",
    "InstallFailed": "The package manager failed; the message has its words.",
    "RemoveFailed": "The package manager could not remove the package.",
    "NotInstalledByFleet": "The package is there but Fleet did not install it.",
    "UnsafeArchive": "The tarball has names or links that lead outside.",
    "WouldOverwrite": "The tarball would overwrite a file that is not its own.",
    "UnsafePath": "A folder on the way to the file may be changed by others.",
    "OwnerUnknown": "The host has no such user or group.",
    "WriteFailed": "The file could not be written.",
    "ValidateFailed": "The validate command refused the new file; the old one stays.",
    "ReloadFailed": "A unit could not be reloaded or restarted after its file changed.",
    "UnitNotFound": "systemd knows no such unit.",
    "UnitFailed": "The unit did not reach the wanted state.",
    "SysctlRefused": "The kernel refuses the sysctl.",
    "ModuleMissing": "The kernel module cannot be loaded.",
    "NoBootLoader": "Neither grub, grubby nor extlinux was found.",
    "BootLoaderFailed": "The boot loader's configuration could not be made.",
    "RebootFailed": "The reboot could not be ordered.",
    "HealthCheckFailed": "The health check did not hold in time.",
}

ALL: Final[dict[str, str]] = {**CONNECTION, **FENCE, **STEP}
