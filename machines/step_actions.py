"""What a step sends to the host: from the names in an Operation's status and the values of the set. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fleet.control.kinds import Json
from machines.desired import by_name, file_of, package_of
from machines.hosts import Action, Facts, WantedUnit, pick_artifact

SECONDS: Final[Mapping[str, int]] = {
    "stage-package": 900,
    "install-package": 900,
    "remove-package": 600,
    "health-check": 60,
    "collect-evidence": 60,
    "clean-disk": 600,
    "reboot": 60,
}


def action_of(
    step: Json, body: Json, facts: Facts, uid: str, mirrors: tuple[tuple[str, str], ...]
) -> Action | tuple[str, str]:
    """The action of a step, or (reason, sentence) why there is none."""
    verb, subject, items = step["verb"], step.get("subject", ""), tuple(step.get("items", ()))
    seconds = SECONDS.get(verb, 300)
    entry = by_name(body).get(subject)
    package = package_of(entry, mirrors) if entry is not None else None
    if verb in ("stage-package", "install-package"):
        if package is None:
            return "InvalidAction", f"{subject} is no longer in the accepted set."
        artifact = pick_artifact(package, facts)
        if artifact is None:
            return (
                "NoArtifact",
                f"{subject} {package.version} has no artifact for {facts.os_family or 'this'} {facts.architecture}.",
            )
        if not artifact.sha256 and not artifact.gpg_key:
            return "NotVerifiable", f"{artifact.url} has neither checksum nor key: it is never installed."
        there = facts.packages.get(subject)
        again = there is not None and there.declared == package.version  # broken at the wanted version
        values = {"reinstall": "true"} if again and verb == "install-package" else {}
        return Action(verb, package=package, artifact=artifact, values=values, timeout_seconds=seconds)
    if verb == "health-check":
        wait = package.health_timeout_seconds if package is not None else 30
        return Action(verb, package=package, timeout_seconds=wait + 30)
    if verb == "write-files":
        files = tuple(file_of(f) for f in body["files"] if f["path"] in items)
        return Action(verb, package=package, files=files, timeout_seconds=seconds)
    if verb == "set-units":
        units = tuple(u for u in package.units if u.name in items) if package else tuple(WantedUnit(i) for i in items)
        return Action(verb, package=package, units=units, timeout_seconds=seconds)
    if verb == "set-sysctls":
        return Action(
            verb, values={k: body["sysctls"][k] for k in items if k in body["sysctls"]}, timeout_seconds=seconds
        )
    if verb == "set-boot-parameters":
        return Action(verb, values=boot_values(items), timeout_seconds=seconds)
    if verb == "reboot":
        return Action(verb, values={"bootId": facts.boot_id}, timeout_seconds=seconds)
    if verb == "forget-host":
        return Action(verb, names=(uid,), timeout_seconds=seconds)
    if verb == "remove-package":
        return Action(verb, names=(subject,), timeout_seconds=seconds)
    return Action(verb, names=items, timeout_seconds=seconds)


def boot_values(parameters: Sequence[str]) -> dict[str, str]:
    """`a=b` as key and value; a bare word has the value ""."""
    return {p.partition("=")[0]: p.partition("=")[2] for p in parameters}
