"""The fence of a simulated host: the same answers as the real script gives, from the same state. Pure."""

from __future__ import annotations

from typing import Final

from machines.hosts import StepOrder, StepResult
from simulator.box import Box, step_of
from simulator.steps import PACKAGE_VERBS, compact, seconds_of
from simulator.timeline import settle

AT_ONCE_SECONDS: Final = 2.0  # a step that ends within this time answers with its end
_KEPT_FOLDERS: Final = 40


def start(box: Box, order: StepOrder, now: float) -> StepResult:
    """Start the step unless the fence refuses it; a folder that exists answers with the state of its attempt."""
    refused = _refuse(box, order)
    if refused is not None:
        return refused
    box.marker = f"{order.installation} {order.target.uid}"
    box.serial = box.serial or order.target.serial_number
    box.incarnation, box.epoch = order.incarnation, order.epoch
    if order.ref.folder not in box.ops:
        _make_folder(box, order, now)
        settle(box, now)
    return step_of(box, order.ref)


def _refuse(box: Box, order: StepOrder) -> StepResult | None:
    wanted = f"{order.installation} {order.target.uid}"
    if box.marker and box.marker != wanted:
        return StepResult(
            order.ref, "Refused", "IdentityMismatch", f"The host belongs to {box.marker.replace(' ', ', machine ')}."
        )
    if (order.incarnation, order.epoch) < (box.incarnation, box.epoch):
        return StepResult(
            order.ref,
            "Refused",
            "StaleEpoch",
            f"The host has seen epoch {box.epoch} of incarnation {box.incarnation}; {order.epoch} of {order.incarnation} is older.",
        )
    return None


def _make_folder(box: Box, order: StepOrder, now: float) -> None:
    seconds = seconds_of(box, order.action.verb, order.ref.folder, now)
    begins = now
    if order.action.verb in PACKAGE_VERBS:  # one package step at a time: the next waits for the lock
        begins = max([now, *(op["ends"] for op in box.ops.values() if op["state"] == "Running" and op["locks"])])
    ends = now if begins == now and seconds <= AT_ONCE_SECONDS else begins + seconds
    ends = min(ends, now + order.action.timeout_seconds)
    box.ops[order.ref.folder] = {
        "state": "Running",
        "at": now,
        "ends": now + order.action.timeout_seconds if box.has("stuck", now) else ends,
        "epoch": order.epoch,
        "locks": order.action.verb in PACKAGE_VERBS,
        "order": compact(order),
    }
    while len(box.ops) > _KEPT_FOLDERS:
        del box.ops[next(iter(box.ops))]
