"""The fence of a simulated host: the same answers as the real script gives, from the same state. Pure."""

from __future__ import annotations

from typing import Final

from machines.hosts import StepOrder, StepResult
from simulator.box import Box, step_of
from simulator.steps import Invalid, check, compact, seconds_of
from simulator.timeline import settle

AT_ONCE_SECONDS: Final = 2.0  # a step that ends within this time answers with its end
_KEPT_FOLDERS: Final = 24


def start(box: Box, order: StepOrder, now: float) -> StepResult:
    """Start the step unless the fence refuses it; a folder that exists answers with the state of its attempt."""
    try:
        check(order.action)
    except Invalid as invalid:
        return StepResult(order.ref, "Refused", "InvalidAction", str(invalid))
    refused = _refuse(box, order)
    if refused is not None:
        return refused
    box.marker = _owner(order)
    box.serial = box.serial or order.target.serial_number
    box.incarnation, box.epoch = order.incarnation, order.epoch
    if order.ref.folder not in box.ops:
        if any(op["state"] == "Running" for op in box.ops.values()):
            return StepResult(order.ref, "Refused", "StepRunning", "Another step still runs on this host.")
        _make_folder(box, order, now)
        settle(box, now)
    return step_of(box, order.ref)


def _owner(order: StepOrder) -> str:
    return f"{order.installation} {order.target.uid}"


def _refuse(box: Box, order: StepOrder) -> StepResult | None:
    asked = (order.incarnation, order.epoch)
    if box.marker and box.marker != _owner(order):
        installation, _, uid = box.marker.partition(" ")
        if uid != order.take_over:
            message = f"This host belongs to machine {uid} of installation {installation}."
            return StepResult(order.ref, "Refused", "IdentityMismatch", message)
        return None  # taken over: the old owner's fence goes with its marker
    if not box.marker and box.forgotten and asked <= tuple(box.forgotten):
        message = "The machine was decommissioned after this order was given."
        return StepResult(order.ref, "Refused", "StaleEpoch", message)
    if asked < (box.incarnation, box.epoch):
        newest = f"{box.incarnation}/{box.epoch}"
        message = f"Epoch {asked[0]}/{asked[1]} is older than {newest}, the newest seen here."
        return StepResult(order.ref, "Refused", "StaleEpoch", message)
    return None


def _make_folder(box: Box, order: StepOrder, now: float) -> None:
    seconds = seconds_of(box, order.action.verb, order.ref.folder, now)
    limit = order.action.timeout_seconds
    ends = now + limit if box.has("stuck", now) else now + min(seconds, limit) * (seconds > AT_ONCE_SECONDS)
    box.ops[order.ref.folder] = {
        "state": "Running",
        "at": now,
        "ends": ends,
        "epoch": order.epoch,
        "order": compact(order),
    }
    while len(box.ops) > _KEPT_FOLDERS:
        del box.ops[next(iter(box.ops))]
