"""Time on a simulated box: steps end, boots finish, faults strike, and weather comes. Pure: the same box and clock give the same world."""

from __future__ import annotations

import hashlib
from typing import Final

from simulator.box import BARE_SYSCTLS, Box, Json, bare, pick
from simulator.steps import Failure, Wait, finish, interrupt

HOUR: Final = 3600.0
# Weather: what may befall a box by itself, and how often in a hundred mishaps.
WEATHER: Final[tuple[tuple[str, int], ...]] = (
    ("drift-file", 24),
    ("drift-unit", 26),
    ("drift-package", 8),
    ("drift-sysctl", 12),
    ("unreachable", 12),
    ("hang", 3),
    ("reboot", 4),
    ("unhealthy", 4),
    ("package-lock", 4),
    ("slow", 3),
)
LASTS: Final[dict[str, tuple[float, float]]] = {
    "unreachable": (30.0, 240.0),
    "hang": (20.0, 90.0),
    "unhealthy": (60.0, 300.0),
    "package-lock": (20.0, 120.0),
    "slow": (300.0, 1200.0),
}
ONE_SHOT: Final = frozenset(
    {"reboot", "crash", "drift-file", "drift-unit", "drift-package", "drift-sysctl", "drift-mask"}
)
REBOOT_DELAY_SECONDS: Final = 2.0  # so that the result of the step is on the disk before
_HOURS_LOOKED_BACK: Final = 72
_WIPES: Final = "wipes"
_OF_THE_DISK: Final = (
    "incarnation", "epoch", "marker", "forgotten", "kernel", "kernels", "cmdline", "next_cmdline", "packages", "files", "units",
    "sysctls", "boot_sysctls", "modules", "boot_modules", "staged", "ops",
)  # fmt: skip
_SETTLE_SECONDS: Final = 6 * HOUR


def settle(box: Box, now: float, rate: float = 0.0) -> bool:
    """Let everything happen that was due between `settled_at` and now, in order. True when the box is not as it was."""
    changed = False
    weather = sorted(_weather(box, now, rate))
    while (happening := _next(box, weather, now)) is not None:
        at, kind, folder = happening
        if kind == _WIPES:
            installation = box.installations[folder]
            installation["wiped"] = True
            wipe(box, at, float("inf") if installation.get("stuck") else installation["ends"])
        elif folder:
            _end(box, box.ops[folder])
        else:
            if weather[:1] == [(at, kind)]:
                del weather[0]
            else:
                del box.faults[kind]
            _strike(box, kind, at)
        changed = True
    expired = [name for name, fault in box.faults.items() if fault.get("until") is not None and fault["until"] <= now]
    for name in expired:
        del box.faults[name]
    stale = bool(box.settled_at) and rate > 0 and now - box.settled_at > _SETTLE_SECONDS  # bounds the hours looked back
    if changed or expired or stale:
        box.settled_at = now
    return changed or bool(expired) or stale


def boot(box: Box, at: float) -> None:
    """The box goes down at that time and comes back after a while with a new boot id and its newest kernel."""
    if not box.has("reboot-ignored", at):
        _go_down(box, at)


def _go_down(box: Box, at: float) -> None:
    for op in box.ops.values():
        if op["state"] == "Running":
            share = (at - op["at"]) / max(op["ends"] - op["at"], 0.001)
            interrupt(box, op.pop("order"), share)
            op.update(
                state="Interrupted", reason="Interrupted", message="The host went down in the middle of the step."
            )
    box.boots += 1
    seconds = 15.0 + 25.0 * pick(box.seed, f"boot {box.boots}")
    box.boot_until = float("inf") if box.has("never-returns", at) else at + seconds
    box.kernel = box.kernels[-1]
    box.cmdline = dict(box.next_cmdline)
    box.sysctls = {**BARE_SYSCTLS, **box.boot_sysctls}
    for unit in box.units.values():
        unit["active"] = "active" if unit["enabled"] in ("enabled", "static") else "inactive"


def wipe(box: Box, at: float, until: float) -> None:
    """The box goes down at that time and comes up from a new disk when the installation ends: nothing of before is there."""
    _go_down(box, at)
    new = bare(box.uid, box.seed)
    for name in _OF_THE_DISK:
        setattr(box, name, getattr(new, name))
    box.installs += 1
    for name in ("hang", "power-off"):  # whatever hung hangs no more, and the provisioner switches it on
        box.faults.pop(name, None)
    box.boot_until += until - at


def _next(box: Box, weather: list[tuple[float, str]], now: float) -> tuple[float, str, str] | None:
    """The earliest of what is due: (time, fault, ""), (time, "", folder of a step that ends) or (time, wipes, id of an installation)."""
    due = [(op["ends"], "", folder) for folder, op in box.ops.items() if op["state"] == "Running" and op["ends"] <= now]
    due += [
        (fault.get("at", now), name, "")
        for name, fault in box.faults.items()
        if name in ONE_SHOT and fault.get("at", 0.0) <= now
    ]
    due += [
        (known["begins"], _WIPES, id_)
        for id_, known in box.installations.items()
        if not known.get("failed") and not known.get("wiped") and known["begins"] <= now
    ]
    due += [(at, kind, "") for at, kind in weather[:1]]
    return min(due, default=None)


def _weather(box: Box, now: float, rate: float) -> list[tuple[float, str]]:
    """At most one mishap an hour, at a minute that the seed decides; rate = mishaps an hour. Longer than three days ago is forgotten."""
    if rate <= 0 or not box.settled_at:
        return []
    found = []
    last = int(now // HOUR)
    for hour in range(max(int(box.settled_at // HOUR), last - _HOURS_LOOKED_BACK), last + 1):
        if pick(box.seed, f"weather {hour}") >= rate:
            continue
        at = (hour + pick(box.seed, f"minute {hour}")) * HOUR
        if box.settled_at < at <= now:
            found.append((at, _kind_of(pick(box.seed, f"kind {hour}"))))
    return found


def _kind_of(chance: float) -> str:
    left = chance * sum(share for _, share in WEATHER)
    for kind, share in WEATHER:
        left -= share
        if left < 0:
            return kind
    return WEATHER[-1][0]


def _end(box: Box, op: Json) -> None:
    at, order = op["ends"], op["order"]
    limit = op["at"] + order["timeout"]
    try:
        if at >= limit:
            raise Failure("StepTimeout", f"The step did not end within {order['timeout']} s and was stopped.", 124)
        facts = finish(box, order, at)
    except Wait as wait:
        op["ends"] = min(at + wait.seconds, limit)
        op["output"] = f"waiting for the package lock, held by {wait.holder}"
        return
    except Failure as failure:
        if failure.reason == "StepTimeout" and op.get("output"):
            failure = Failure(
                "PackageLockHeld", f"The package lock was not free within {order['timeout']} s: {op['output']}."
            )
        op.update(
            state="Failed", reason=failure.reason, message=failure.message, exit=failure.code, output=failure.message
        )
    else:
        op.update(state="Succeeded", exit=0, facts=facts, output="")
        if order["verb"] == "reboot" and "unchanged" not in facts:
            box.faults["reboot"] = {"at": at + REBOOT_DELAY_SECONDS}
    del op["order"]


def _strike(box: Box, kind: str, at: float) -> None:
    if kind in ("reboot", "crash"):
        boot(box, at)
    elif kind in LASTS:
        low, high = LASTS[kind]
        box.faults[kind] = {"at": at, "until": at + low + (high - low) * pick(box.seed, f"{kind} {at}")}
    else:
        _drift(box, kind, at)


def _drift(box: Box, kind: str, at: float) -> None:
    """A hand that thinks it helps: only what Fleet put there is touched, so that there is something to repair."""
    chance = pick(box.seed, f"{kind} {at}")
    if kind == "drift-file":
        paths = sorted(path for path, file in box.files.items() if file.get("content") is not None)
        if paths:
            _edit(box, paths[int(chance * len(paths))], at)
    elif kind in ("drift-unit", "drift-mask"):
        names = sorted(
            {unit for package in box.packages.values() for unit in package.get("units", ()) if unit in box.units}
        )
        if names:
            unit = box.units[names[int(chance * len(names))]]
            unit["active"] = "inactive"
            if kind == "drift-mask":
                unit.update(load="masked", enabled="masked")
    elif kind == "drift-package":
        names = sorted(
            name for name, package in box.packages.items() if package.get("declared") and not package.get("kernel")
        )
        if names:
            for unit in box.packages.pop(names[int(chance * len(names))]).get("units", ()):
                box.units.pop(unit, None)
    elif kind == "drift-sysctl":
        keys = sorted(box.boot_sysctls)
        if keys:
            key = keys[int(chance * len(keys))]
            box.sysctls[key] = BARE_SYSCTLS.get(key, "0")


def _edit(box: Box, path: str, at: float) -> None:
    file = box.files[path]
    content = f"{file['content']}# edited by hand at {int(at)}: just for a test\n"
    box.files[path] = {**file, "content": content, "sha256": hashlib.sha256(content.encode()).hexdigest()}
