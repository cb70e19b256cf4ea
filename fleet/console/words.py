"""The words of the console: one table for states and phases, what to do next about a reason, what frees a refused change."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# state of a machine: (word, status colour and icon, swatch of bars)
STATES: Final[dict[str, tuple[str, str, str]]] = {
    "ok": ("Running", "ok", "s-open"),
    "busy": ("In work", "busy", "s-busy"),
    "warn": ("Drifted or in repair", "warn", "s-repair"),
    "gate": ("Closed by a gate", "warn", "s-closed"),
    "held": ("Held", "held", "s-held"),
    "bad": ("Needs a person", "bad", "s-failed"),
    "unknown": ("No news", "unknown", "s-unknown"),
    "off": ("Off", "off", "s-off"),
}
# phase of an Operation, Cluster or Permit: its tone
PHASES: Final[dict[str, str]] = {
    "Succeeded": "ok",
    "Running": "busy",
    "Pending": "held",
    "Failed": "bad",
    "Cancelled": "off",
    "Degraded": "warn",
    "Provisioning": "busy",
    "Updating": "busy",
    "Upgrading": "busy",
    "Deleting": "off",
    "Repairing": "warn",
    "Probation": "warn",
    "Granted": "busy",
    "Expired": "warn",
    "Released": "off",
    "Effective": "held",
    "Overdue": "warn",
    "NoMatch": "off",
    "Canary": "busy",
    "Rolling": "busy",
    "Done": "ok",
    "Waiting": "held",
    "Stopped": "bad",
}
ANSWERS: Final[dict[str, tuple[str, str]]] = {
    "holds": ("ok", "holds"),
    "no": ("bad", "stops here"),
    "unknown": ("unknown", "unknown"),
    "notAsked": ("later", "not asked"),
}
# conditions whose True is not the good news: their tone when True
NEGATIVE: Final[dict[str, str]] = {
    "Stalled": "bad",
    "Drifted": "warn",
    "Held": "held",
    "Reconciling": "busy",
    "RemovalHeld": "held",
    "UpdateAvailable": "busy",
    "Pinned": "held",
}
# phase of machines: (swatch, word of the legend), in the order of the bar
LEGEND: Final[tuple[tuple[str, str, str], ...]] = (
    ("Running", "s-open", "Running"),
    ("Provisioning", "s-busy", "Provisioning"),
    ("Updating", "s-busy", "Updating"),
    ("Repairing", "s-repair", "Under repair"),
    ("Probation", "s-repair", "On probation"),
    ("Failed", "s-failed", "Need a person"),
    ("Pending", "s-unknown", "Never seen"),
    ("Decommissioning", "s-off", "Leaving"),
    ("Retired", "s-off", "Retired"),
)
# reason of Stalled or of a failed step: what a person does next
_NEXT: Final[dict[str, str]] = {
    "IdentityMismatch": "look which box stands at that address, then correct spec.serialNumber or spec.ip",
    "HostKeyNotEnrolled": "put the host's key into spec.driver.hostKeys",
    "HostKeyMismatch": "find out why the host shows another key before you trust it",
    "NoCredential": "name a Credential that this cluster may use",
    "AuthenticationFailed": "renew the login on the host or the Credential",
    "SudoRefused": "allow the user of the Credential sudo without a password",
    "AddressRefused": "correct spec.ip, or allow its network in FLEET_ALLOWED_NETWORKS",
    "DiskFull": "free space on the host; Fleet tries again by itself",
    "ChecksumMismatch": "compare the artifact with the declared sha256, then publish a new version",
    "SignatureInvalid": "check who signed the artifact, then publish a new version",
    "DownloadFailed": "check the address of the artifact",
    "PackageLockHeld": "end the program that holds the package lock",
    "PackageHeldOnHost": "take the package's hold off on the host (apt-mark unhold)",
    "Adopted": "read the difference, then accept it or change the versions",
    "InstallFailed": "read what the package manager said, repair it, then run it again",
    "RolledBack": "publish a version that passes its health check",
    "HealthCheckFailed": "read the health check's words on the host",
    "VersionsUnresolved": "correct the version that nobody has declared",
    "OutOfServiceStands": "take the taint node.kubernetes.io/out-of-service off the node, then switch the power on",
    "NoProvisioner": "install the system by hand, then run the repair again",
    "NotReinstalled": "find out why the provisioner's new system was not started",
    "InstallTimedOut": "look at the provisioner: the installation does not end",
    "CannotRejoin": "install the system by hand and let the machine join its cluster again",
    "HostKeyRefused": "put the host's new key into spec.driver.hostKeys",
}
# reason of Stalled of a cluster: what a person does next
_CLUSTER_NEXT: Final[dict[str, str]] = {
    "PreflightFailed": "put right what it names, or point at a version that may be reached",
    "ComponentNotReady": "point it back, or at a corrected version",
    "NothingToRestore": "delete it, and make a new one without restoreFrom",
    "NoPackageVersion": "declare the version again",
}
_FREES: Final[dict[str, str]] = {
    "Stopped": "somebody allows changes again",
    "Held": "the hold ends or is released",
    "Paused": "the pause is taken back",
    "OperationInProgress": "the work under way ends",
    "FleetBudget": "a machine of the fleet is back",
    "ClusterBudget": "a machine of the cluster is back",
    "IdcBudget": "a machine of the idc is back",
    "RackBudget": "a machine of the rack is back",
    "ModelBudget": "a machine of that model is back",
    "FleetBreaker": "a person resets the breaker of the fleet",
    "ClusterBreaker": "the breaker of the cluster cools down, or is reset",
    "IdcBreaker": "the breaker of the idc cools down, or is reset",
    "RackBreaker": "the breaker of the rack cools down, or is reset",
    "HalfOpen": "those that were let through end well",
    "OutsideWindow": "the next maintenance window opens",
    "DomainBusy": "the rack or idc that changes now is done",
    "Rate": "fewer of that verb began lately",
    "Reserve": "enough machines stay available",
    "Quorum": "a machine of that control plane is back",
    "SafetyUnavailable": "the safety ledger answers",
    "MachineUnknown": "the machine is declared again",
}
REFUSED: Final[dict[str, str]] = {
    "Stopped": "Kill switch",
    "Held": "Hold",
    "Paused": "Paused",
    "OperationInProgress": "Other work under way",
    "FleetBudget": "Budget of the fleet",
    "ClusterBudget": "Budget of the cluster",
    "IdcBudget": "Budget of the idc",
    "RackBudget": "Budget of the rack",
    "ModelBudget": "Budget of the hardware model",
    "FleetBreaker": "Breaker of the fleet",
    "ClusterBreaker": "Breaker of the cluster",
    "IdcBreaker": "Breaker of the idc",
    "RackBreaker": "Breaker of the rack",
    "HalfOpen": "Half-open breaker",
    "OutsideWindow": "Outside of its window",
    "DomainBusy": "One rack at a time",
    "Rate": "Rate of the verb",
    "Reserve": "Reserve",
    "Quorum": "Quorum of a control plane",
    "SafetyUnavailable": "No answer from safety",
    "MachineUnknown": "Unknown to safety",
}


def next_step(reason: str) -> str:
    """What a person does about it."""
    return _NEXT.get(reason, "open the machine: its first no says what stops it")


def cluster_step(reason: str) -> str:
    """What a person does about a cluster that is stalled."""
    return _CLUSTER_NEXT.get(reason, "open the cluster: its conditions say what stops it")


def frees(reason: str) -> str:
    """When a refused change goes on by itself."""
    return _FREES.get(reason, "the reason is gone")


def count(n: int, one: str, many: str = "") -> str:
    """ "1 machine", "2,001 machines"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """Rounded as people say it."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    if seconds < 129_600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86_400)} d"


_NAME_LIKE = re.compile(r"[^\s]*[\d._/]\S")


def closed(text: str) -> str:
    """As a sentence: begun with a capital, unless it begins with a name (`kubelet.service`, `a1-7`); ended with a full stop; nothing stays nothing."""
    text = text if _NAME_LIKE.match(text) else text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


@dataclass(frozen=True, slots=True)
class Word:
    """A part of a sentence; with an address it is a link, with a tone it is coloured."""

    text: str
    href: str = ""
    tone: str = ""


BATCHES: Final[dict[str, tuple[str, str]]] = {
    "AwaitingApproval": ("person", "Waits for approval"), "Running": ("busy", "Runs"), "Paused": ("held", "Paused"), "Stalled": ("bad", "Stopped"),
    "Succeeded": ("ok", "Done"), "Failed": ("bad", "Failed"), "Cancelled": ("off", "Cancelled"), "Expired": ("off", "Lapsed"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One phase in a bar and its legend; `q` filters the machine list to it."""

    swatch: str
    word: str
    n: int
    q: str


def legend(phases: Counter[str]) -> list[Part]:
    """Bar and legend of machines by phase; phases that nobody is in are left out."""
    return [Part(swatch, word, phases[phase], f"phase:{phase}") for phase, swatch, word in LEGEND if phases[phase]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps that people see as one: `state` as of `step_state`."""

    name: str
    state: str
    note: str
    steps: int


_STAGES: Final[dict[str, str]] = {
    "stage-package": "Fetch",
    "permit": "Permit",
    "pre-check": "Pre-check",
    "post-check": "Verify",
    "health-check": "Health",
    "set-sysctls": "Kernel settings",
    "load-modules": "Kernel settings",
    "set-boot-parameters": "Boot entry",
    "configure-pending": "Package database",
    "reboot": "Reboot",
    "reinstall": "Install system",
    "provision": "Plan the set",
    "drain": "Drain",
    "remove-files": "Remove files",
    "forget-host": "Forget host",
}


def _stage_of(step: dict[str, str]) -> str:
    verb = step.get("verb", "")
    if verb in _STAGES:
        return _STAGES[verb]
    return step.get("subject") or verb.replace("-", " ").capitalize() or step.get("name", "")


def stages(steps: Iterable[dict[str, str]]) -> list[Stage]:
    """Neighbouring steps of one subject as one stage, so that a long Operation is read at a glance."""
    groups: list[tuple[str, list[dict[str, str]]]] = []
    for step in steps:
        name = _stage_of(step)
        if groups and groups[-1][0] == name:
            groups[-1][1].append(step)
        else:
            groups.append((name, [step]))
    return [_stage(name, each) for name, each in groups]


def step_state(step: dict[str, str]) -> str:
    """done, failed, wait (for a permit), now or later."""
    if step.get("status") == "True":
        return "done"
    if step.get("status") == "False":
        return "wait" if step.get("verb") == "permit" else "failed"
    return "now" if step.get("startTime") else "later"


def _stage(name: str, steps: list[dict[str, str]]) -> Stage:
    states = [step_state(s) for s in steps]
    done = states.count("done")
    rest = "done" if done == len(states) else "now" if done else "later"
    state = next((known for known in ("failed", "wait", "now") if known in states), rest)
    many = f"{done} of {len(steps)}" if len(steps) > 1 else ""
    told = next((s for s in steps if step_state(s) in ("failed", "wait", "now")), steps[-1])
    reason = "" if told.get("reason") in ("Done", "Waiting", "Begun", None) else str(told.get("reason"))
    return Stage(name, state, many if state in ("now", "later") or not reason else reason, len(steps))


_STEP_WORDS: Final[dict[str, str]] = {
    "stage-package": "Fetch",
    "install-package": "Install",
    "remove-package": "Remove",
    "write-files": "Write files of",
    "set-units": "Set units of",
    "restart-units": "Restart units of",
    "health-check": "Health check of",
    "load-modules": "Load kernel modules",
    "set-sysctls": "Set sysctls",
    "set-boot-parameters": "Set boot parameters",
    "configure-pending": "Repair the package database",
    "remove-files": "Remove files",
    "forget-host": "Forget the host",
    "post-check": "Look at the result",
    "pre-check": "Pre-check",
    "permit": "Permit",
    "reboot": "Reboot",
    "power-cycle": "Power-cycle",
    "reinstall": "Install the operating system anew",
    "provision": "Plan what the empty host gets",
    "isolate": "Close for pods",
    "collect-evidence": "Collect evidence",
    "delete-node": "Delete the node",
    "wait-for-node": "Wait for the node",
    "drain": "Drain",
}
_VERBS = "|".join(_STEP_WORDS)
_RUNS = re.compile(rf"(?:\S+-\d+: )?(?:step )?\d\d-({_VERBS})(?:-(\S+?))? runs\.")
_SAYS = re.compile(rf"(?:\S+-\d+: )?\b\d\d-({_VERBS})(?:-([^\s:]+))?: (?:\2: )?")


def verb_words(verb: str) -> str:
    """What an Operation does, in words: one that takes nothing away asks for no permit, and its verb is None."""
    return "Work without a permit" if verb == "None" else verb


def plainly(text: str) -> str:
    """A sentence about a step (`x-12: 06-install-package-kubelet: kubelet: it failed`) as people say it: Install kubelet: it failed."""
    runs = _RUNS.fullmatch(text.strip())
    return f"{_step_words(runs)} is under way." if runs else _SAYS.sub(lambda m: f"{_step_words(m)}: ", text)


def _step_words(match: re.Match[str]) -> str:
    verb, subject = match.groups()
    return " ".join(filter(None, (_STEP_WORDS[verb], subject)))
