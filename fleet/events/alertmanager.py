"""Prometheus Alertmanager's webhook (version 4): each alert of a notification becomes one event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fleet.control.kinds import CLUSTER, MACHINE, Json, Problem
from fleet.control.times import NEEDS_ZONE, parse_time
from fleet.events.incoming import Incoming, Unreadable, check, check_count

FIRING, RESOLVED = "io.prometheus.alert.firing", "io.prometheus.alert.resolved"
# Labels that name what an alert is about, the first that is there counts.
_LABELS: Final = (("machine", MACHINE), ("node", MACHINE), ("nodename", MACHINE), ("cluster", CLUSTER))
_SEVERITIES: Final[Mapping[str, int]] = {"critical": 2, "page": 2, "error": 2, "warning": 1}
_LONGEST: Final = 4_096
_NEVER: Final = "0001-01-01"  # how Go writes a time that is not set


def alerts(found: Any) -> list[Incoming]:
    """The alerts of one notification. The same alert told again is the same event; its end is another one."""
    if not isinstance(found, dict) or not isinstance(found.get("alerts"), list):
        raise Unreadable([Problem("alerts", "must be the list of alerts of an Alertmanager webhook", "FieldValueRequired")])  # fmt: skip
    if found.get("version") not in (None, "4"):
        raise Unreadable([Problem("version", 'only version "4" is known', "FieldValueNotSupported")])
    check_count(len(found["alerts"]))
    source = found.get("externalURL") if isinstance(found.get("externalURL"), str) else ""
    problems: list[Problem] = []
    events = [_event(each, f"alerts[{i}]", str(source or ""), problems) for i, each in enumerate(found["alerts"])]
    if problems:
        raise Unreadable(problems[:50])
    return [event for event in events if event is not None]


def _texts(alert: Json, name: str, path: str, problems: list[Problem]) -> dict[str, str]:
    found = alert.get(name) or {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        problems.append(Problem(f"{path}.{name}", "must be an object of texts", "FieldValueTypeInvalid"))
        return {}
    return found


def _event(alert: Any, path: str, source: str, problems: list[Problem]) -> Incoming | None:
    if not isinstance(alert, dict):
        problems.append(Problem(path, "must be an object", "FieldValueTypeInvalid"))
        return None
    before = len(problems)
    labels, annotations = _texts(alert, "labels", path, problems), _texts(alert, "annotations", path, problems)
    status, print_, begun = alert.get("status"), alert.get("fingerprint"), alert.get("startsAt")
    if status not in ("firing", "resolved"):
        problems.append(Problem(f"{path}.status", "supported values: firing, resolved", "FieldValueNotSupported"))
    if not isinstance(print_, str) or not print_ or len(print_) > 64 or not print_.isalnum():
        problems.append(Problem(f"{path}.fingerprint", "", "FieldValueRequired"))
    if parse_time(begun) is None:
        problems.append(Problem(f"{path}.startsAt", NEEDS_ZONE))
    if len(problems) > before:
        return None
    kind, name = next(((k, labels[n]) for n, k in _LABELS if labels.get(n)), (0, ""))
    over = status == "resolved"
    ended = alert.get("endsAt")
    moment = parse_time(ended if over and isinstance(ended, str) and not ended.startswith(_NEVER) else begun)
    severity = 0 if over else _SEVERITIES.get(labels.get("severity", ""), 1 if "severity" not in labels else 0)
    data: Json = {"labels": labels, "annotations": annotations, "startsAt": begun, "status": status}
    data["reason"] = labels.get("alertname", "Alert")[:128]
    data["message"] = (annotations.get("description") or annotations.get("summary") or data["reason"])[:_LONGEST]
    type_ = RESOLVED if over else FIRING
    made = Incoming(
        f"{print_}/{begun}/{status}", source[:512] or "/alertmanager", type_, data, kind, name[:253], severity, moment
    )
    problems += check(made, path)
    return made
