"""From differences to steps, in their order, with the disruption class known before anything happens. Pure.

Order: stage → permit → pre-check → drain → act (database, removals, modules, sysctls, packages with files and units, boot) →
reboot → health checks → post-check.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.control.kinds import Json
from machines.analyze import RANK, Diff, strongest
from machines.desired import by_name
from machines.fence import EVIDENCE
from machines.hosts import Disruption

POWER_CYCLE: Final = "power-cycle"
REINSTALL: Final = "reinstall"  # the operating system; see `machines.reinstall_steps`
PROVISION: Final = "provision"  # becomes the steps that fill an empty host
DELETE_NODE: Final = "delete-node"
WAIT_FOR_NODE: Final = "wait-for-node"
POST_CHECK: Final = "post-check"
# Steps that Fleet itself takes; nothing reaches the host.
PSEUDO: Final = frozenset(
    {"permit", "pre-check", "isolate", "drain", POWER_CYCLE, REINSTALL, PROVISION, WAIT_FOR_NODE, DELETE_NODE, POST_CHECK}
)  # fmt: skip
# Actions of a rung that are done without the host's word, and the steps of their Operations that go on while it does not answer.
BLIND_ACTIONS: Final = frozenset({"PowerCycle", "Reinstall"})
UNSEEN: Final = frozenset({"permit", "isolate", "drain", EVIDENCE, POWER_CYCLE, REINSTALL, DELETE_NODE})
OWN_BRAKES: Final = frozenset({"permit", "pre-check", "drain", POST_CHECK})  # of a converge; a repair has its own
RECOVER: Final = "recover"  # why there is an Operation: a fault is repaired
FREE: Final = frozenset({"stage-package"})  # effects that need no permit


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `subject` names what of the set it handles: a package, or "" for all of a sort; `items` files, units, keys; `seconds`
    that a boot may take, 0 = as ever."""

    verb: str
    subject: str = ""
    items: tuple[str, ...] = ()
    seconds: int = 0

    def json(self, number: int) -> Json:
        """As it stands in the Operation's status."""
        word = re.sub(r"[^a-z0-9.]+", "-", self.subject.lower()).strip("-")[:60]
        name = f"{number:02d}-{self.verb}" + (f"-{word}" if word else "")
        out: Json = {
            "name": name,
            "verb": self.verb,
            "status": "Unknown",
            "reason": "Waiting",
            "message": "",
            "attempt": 1,
        }
        return (
            out
            | ({"subject": self.subject} if self.subject else {})
            | ({"items": list(self.items)} if self.items else {})
            | ({"timeoutSeconds": self.seconds} if self.seconds else {})
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What an Operation will do. `targets`: what it is to put right, as "kind name"."""

    steps: tuple[Step, ...]
    disruption: Disruption
    targets: tuple[str, ...]

    @property
    def verb(self) -> str:
        """What the permit is asked for: removals are destructive, whatever else there is."""
        if any(s.verb == "remove-package" for s in self.steps):
            return "Remove"
        if any(s.verb == REINSTALL for s in self.steps):
            return "Reinstall"
        if any(s.verb == POWER_CYCLE for s in self.steps):
            return "PowerCycle"
        return self.disruption

    def status(self, want: int, why: str) -> Json:
        """The status of a new Operation."""
        return {
            "want": str(want),
            "why": why,
            "disruption": self.disruption,
            "verb": self.verb,
            "targets": list(self.targets),
            "steps": [s.json(i) for i, s in enumerate(self.steps, 1)],
            "message": "Waits for its first step.",
        }


def converge(diffs: Sequence[Diff], body: Json) -> Plan:
    """Steps that put all differences right."""
    packages = {d.name: d for d in diffs if d.kind == "package"}
    stage = [Step("stage-package", p["name"]) for p in body["packages"] if p["name"] in packages and p["artifacts"]]
    act: list[Step] = []
    if any(d.kind == "database" for d in diffs):
        act.append(Step("configure-pending"))
    act += [Step("remove-package", d.name) for d in diffs if d.kind == "removal"]
    if stale := tuple(d.name for d in diffs if d.kind == "stale-file"):
        act.append(Step("remove-files", items=stale))
    # Modules, sysctls and boot parameters: the host keeps our whole list, so the step carries all of them.
    if any(d.kind in ("module", "stale-module") for d in diffs):
        act.append(Step("load-modules", items=tuple(body["modules"])))
    if any(d.kind in ("sysctl", "stale-sysctl") for d in diffs):
        act.append(Step("set-sysctls", items=tuple(sorted(body["sysctls"]))))
    joins = any(d.kind == "node" for d in diffs)
    if joins:  # before the kubelet starts, so that it finds what it joins with
        act.append(Step("join-node"))
    for entry in body["packages"]:
        act += _package_steps(entry, diffs, body)
    if any(d.kind in ("boot", "stale-boot") for d in diffs):
        act.append(
            Step("set-boot-parameters", items=tuple(body["bootParameters"]))
        )  # all of ours: the host keeps our list
    disruption = strongest([d.disruption for d in diffs])
    if disruption == "Reboot":
        act.append(Step("reboot"))
    touched = [p for p in body["packages"] if p["healthCheck"] and any(d.package == p["name"] for d in diffs)]
    act += [Step("health-check", p["name"]) for p in touched]
    if joins:
        act.append(Step(WAIT_FOR_NODE))
    targets = tuple(f"{d.kind} {d.name}" for d in diffs)
    return Plan((*stage, *_brakes(disruption), *act, Step(POST_CHECK)), disruption, targets)


def _brakes(disruption: Disruption) -> tuple[Step, ...]:
    drain = (Step("drain"),) if RANK[disruption] >= RANK["Drain"] else ()
    return (Step("permit"), Step("pre-check"), *drain)


def _package_steps(entry: Json, diffs: Sequence[Diff], body: Json) -> list[Step]:
    name = entry["name"]
    mine = [d for d in diffs if d.package == name]
    change = next((d for d in mine if d.kind == "package"), None)
    units = tuple(u["name"] for u in entry["units"])
    steps: list[Step] = []
    if change is not None and entry["artifacts"]:
        steps.append(Step("install-package", name))
    files = tuple(f["path"] for f in body["files"] if f["package"] == name)
    differing = tuple(d.name for d in mine if d.kind == "file")
    if change is not None and files:
        steps.append(Step("write-files", name, files))
    elif differing:
        steps.append(Step("write-files", name, differing))
    if units and (change is not None or any(d.kind == "unit" for d in mine)):
        steps.append(Step("set-units", name, units))
    started = tuple(u["name"] for u in entry["units"] if u["started"] and not u["masked"])
    upgraded = change is not None and change.seen
    if started and (upgraded or any(d.kind == "health" for d in mine)) and entry["kind"] != "KernelPatch":
        steps.append(Step("restart-units", name, started))
    return steps


def restart(units: Sequence[str]) -> Plan:
    """A person's restart of units."""
    return Plan((*_brakes("Restart"), Step("restart-units", "", tuple(units))), "Restart", ())


def reboot() -> Plan:
    """A person's reboot."""
    return Plan((*_brakes("Reboot"), Step("reboot")), "Reboot", ())


def repair(wanted: Sequence[Json], diffs: Sequence[Diff], body: Json, *, joined: bool = False) -> Plan:
    """A rung of a playbook. Evidence is collected after the node was closed and before anything on the host is changed.

    `joined`: the machine is a node by a kubelet that Fleet put there, so that its node goes with the host's system.
    """
    before: list[Step] = []
    act: list[Step] = []
    hardest: list[Disruption] = ["None"]
    for step in wanted:
        action = step["action"]
        if action == "Isolate":
            before.append(Step("isolate"))
        elif action == "Drain":
            before.append(Step("drain"))
            hardest.append("Drain")
        elif action == "CleanDisk":
            act.append(Step("clean-disk", items=tuple(step.get("clean", ()))))
        elif action == "Reboot":
            act.append(Step("reboot", seconds=step.get("timeoutSeconds", 0)))
            hardest.append("Reboot")
        elif action == "PowerCycle":
            act.append(Step(POWER_CYCLE, seconds=step.get("timeoutSeconds", 0)))
            hardest.append("Reboot")
        elif action == "Reinstall":
            act += [Step(REINSTALL), *((Step(DELETE_NODE),) if joined else ()), Step(PROVISION)]
            hardest.append("Reboot")
        else:
            act += _repairs(action, step, diffs, body)
            hardest.append("Restart")
    units = tuple(dict.fromkeys(i for s in act if s.verb in ("restart-units", "set-units") for i in s.items))
    act = list(dict.fromkeys(act))
    whole = (Step("pre-check"),) if any(s.verb == "install-package" for s in act) else ()
    # A host that is switched off and on answers on no way as a rule: its controller's word is kept by the step itself.
    evidence = () if any(s.verb == POWER_CYCLE for s in act) else (Step(EVIDENCE, items=units),)
    return Plan((Step("permit"), *before, *evidence, *whole, *act, Step(POST_CHECK)), strongest(hardest), ())


def _repairs(action: str, step: Json, diffs: Sequence[Diff], body: Json) -> list[Step]:
    """Steps of one action that works on what the set says. What names nothing means what differs."""
    sick = {d.package for d in diffs if d.kind in ("unit", "health")} | {d.name for d in diffs if d.kind == "package"}
    entries = [p for p in body["packages"] if p["name"] in sick]
    if action == "ReinstallPackage":
        named = [p for p in body["packages"] if p["name"] == step["package"]] if step.get("package") else entries
        return [s for p in named for s in _reinstall(p, body)]
    units = [str(u) for u in step.get("units", ())]
    out: list[Step] = []
    if any(d.kind == "database" for d in diffs):
        out.append(Step("configure-pending"))
    if action == "RewriteConfiguration":
        for entry in body["packages"]:
            differing = tuple(d.name for d in diffs if d.kind == "file" and d.package == entry["name"])
            out += [Step("write-files", entry["name"], differing)] if differing else []
            units += [u["name"] for u in entry["units"] if differing and u["started"] and not u["masked"]]
    for entry in entries:
        off = tuple(u["name"] for u in entry["units"] if any(d.kind == "unit" and d.name == u["name"] for d in diffs))
        out += [Step("set-units", entry["name"], off)] if off else []
        units += [u["name"] for u in entry["units"] if u["started"] and not u["masked"] and u["name"] not in off]
    restarted = tuple(dict.fromkeys(u for u in units if not any(s.verb == "set-units" and u in s.items for s in out)))
    return [*out, Step("restart-units", "", restarted)] if restarted else out


def _reinstall(entry: Json, body: Json) -> list[Step]:
    name = entry["name"]
    files = tuple(f["path"] for f in body["files"] if f["package"] == name)
    units = tuple(u["name"] for u in entry["units"])
    started = tuple(u["name"] for u in entry["units"] if u["started"] and not u["masked"])
    steps = [Step("stage-package", name), Step("install-package", name)] if entry["artifacts"] else []
    steps += [Step("write-files", name, files)] if files else []
    steps += [Step("set-units", name, units)] if units else []
    return steps + ([Step("restart-units", name, started)] if started else [])


def drain() -> Plan:
    """Drain of a machine that is no node: nothing runs there that could be moved."""
    return Plan((Step("drain"),), "None", ())


def decommission(packages: Sequence[str], files: Sequence[str], body: Json, *, is_node: bool = False) -> Plan:
    """Out of service: drain, leave the cluster, uninstall what Fleet installed, take Fleet's marker away last. DELETE itself is the confirmation."""
    leave = (Step("leave-node"), Step(DELETE_NODE)) if is_node else ()  # the kubelet stops before its node goes
    steps = [*_brakes("Drain"), *leave, *(Step("remove-package", p) for p in packages)]
    if files:
        steps.append(Step("remove-files", items=tuple(files)))
    kept = (("sysctls", "set-sysctls"), ("modules", "load-modules"), ("bootParameters", "set-boot-parameters"))
    steps += [Step(verb) for part, verb in kept if body.get(part)]  # an empty list takes ours away
    return Plan((*steps, Step("forget-host")), "Drain", ())


def rollback(entry: Json, body: Json) -> tuple[Step, ...]:
    """Steps that put one package back to the version of `body`."""
    name = entry["name"]
    files = tuple(f["path"] for f in body["files"] if f["package"] == name)
    units = tuple(u["name"] for u in entry["units"])
    started = tuple(u["name"] for u in entry["units"] if u["started"] and not u["masked"])
    steps = [Step("stage-package", name), Step("install-package", name)]
    steps += [Step("write-files", name, files)] if files else []
    steps += [Step("set-units", name, units)] if units else []
    steps += [Step("restart-units", name, started)] if started else []
    steps += [Step("health-check", name)] if entry["healthCheck"] else []
    return tuple(steps)


def entry_of(body: Json, name: str) -> Json | None:
    """A package of a set by name."""
    return by_name(body).get(name)
