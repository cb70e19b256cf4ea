"""What people see of a look at a machine: facts, plan, versions. Pure."""

from __future__ import annotations

from fleet.control.kinds import Json
from machines.analyze import diff_hash, removal_hash
from machines.hosts import Facts
from machines.judge import Judgement, Memory


def facts_json(facts: Facts, memory: Memory) -> Json:
    """What people see of the last look, without what changes from second to second; and what Fleet remembers."""
    return {
        "os": f"{facts.os_id} {facts.os_version}".strip(), "osFamily": facts.os_family, "architecture": facts.architecture,
        "kernel": facts.kernel, "bootId": facts.boot_id, "serialNumber": facts.serial_number, "memoryBytes": facts.memory_bytes,
        "diskTotalBytes": facts.disk_total_bytes, "diskFreeGiB": facts.disk_free_bytes >> 30, "clockOffsetSeconds": round(facts.clock_offset_seconds),
        "unattendedUpgrades": facts.unattended_upgrades, "packageLockHolder": facts.package_lock_holder, "systemState": facts.system_state,
        "memory": memory.json(),
    }  # fmt: skip


def plan_json(judged: Judgement) -> Json:
    """The plan as people see it before anything happens."""
    plan = judged.plan
    out: Json = {"diffs": [d.json() for d in judged.diffs]}
    if judged.diffs:
        out |= {"diffHash": diff_hash(judged.diffs), "why": judged.why}
    if plan is not None:
        out |= {
            "disruption": plan.disruption,
            "verb": plan.verb,
            "steps": [s.json(i)["name"] for i, s in enumerate(plan.steps, 1)],
        }
    if judged.blocked[0]:
        out["blocked"] = {"reason": judged.blocked[0], "message": judged.blocked[1]}
    if judged.held_removals:
        out["removalHash"] = removal_hash(judged.held_removals)
    return out


def seen_json(judged: Judgement) -> Json:
    """Versions and package states as thousands of machines share them."""
    body = judged.chosen.body or {"packages": []}
    diffs = {d.name: d for d in judged.diffs if d.kind in ("package", "kernel", "health")}
    versions, packages = {}, []
    for entry in body["packages"]:
        name, fact = entry["name"], judged.facts.packages.get(entry["name"])
        if fact is not None and fact.state == "installed":
            versions[name] = fact.declared or fact.version
        diff = diffs.get(name)
        packages.append(
            {
                "name": name,
                "wanted": entry["version"],
                "seen": versions.get(name, ""),
                "state": "Differs" if diff else "UpToDate",
            }
        )
    return {"versions": versions, "packages": packages}
