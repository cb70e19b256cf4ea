"""The form of a SafetyPolicy, read: what it says of a spec, and which of its fields a problem belongs to.

A field that is not sent, because the scope has no use for it or the page is an older one, leaves the policy as it is; so does every key that no field asks for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final
from zoneinfo import available_timezones

from django.http import QueryDict

from fleet.api.errors import ApiError
from fleet.api.patches import merge_patch
from fleet.console import windows
from fleet.console.policies import DIMS
from fleet.control.kinds import Json
from fleet.safety.schema_policy import DAYS

PODS: Final = "podSuccess"
_NUMBERS: Final = {
    "maxUnavailable": ("percent", "count"),
    "breaker": ("percent", "count", "windowSeconds"),
    f"breaker.{PODS}": ("percent", "atLeast", "windowSeconds"),
}
SCOPES: Final = tuple(key for key in DIMS if key != "matchAll")
_FIELDS: Final = (
    "metadata.name", *(f"spec.scope.{key}" for key in SCOPES), *(f"spec.{of}.{key}" for of, keys in _NUMBERS.items() for key in keys),
    "spec.minSchedulable", "spec.rates", "spec.domain", "spec.windows",
)  # fmt: skip
_OF_WINDOW: Final = ("start", "end", "timeZone", "jitterMinutes")
_ALIASES: Final = {
    "spec.maxUnavailable": "spec.maxUnavailable.percent",
    "spec.breaker": "spec.breaker.percent",
    f"spec.breaker.{PODS}": f"spec.breaker.{PODS}.percent",
    "spec.scope": "spec.scope.cluster",
}
_ROW: Final = re.compile(r"spec\.windows\[(\d{1,6})\]\.start", re.ASCII)
_OF_ROW: Final = re.compile(r"spec\.windows\[(\d+)\](?:\.(\w+))?.*", re.ASCII)
_TIME: Final = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)


def fields_of(form: QueryDict) -> set[str]:
    """Fields that have a place for their problem."""
    return {*_FIELDS, *(f"spec.windows[{row}].{key}" for row in _rows(form) for key in _OF_WINDOW)}


def field_of(form: QueryDict, path: str) -> str:
    """The field of the form that a problem belongs to. Rows keep their number when one before them is taken out; windows have none."""
    found = _OF_ROW.fullmatch(path)
    rows = _rows(form)
    if found and int(found[1]) < len(rows):
        key = {"durationMinutes": "end", None: "start"}.get(found[2], found[2])
        return f"spec.windows[{rows[int(found[1])]}].{key}"
    return "spec.rates" if path.startswith("spec.rates") else _ALIASES.get(path, path)


def spec_of(form: QueryDict, old: Json) -> Json:
    """What of a policy the form says, as a merge patch: None = it says nothing of that."""
    spec: Json = {}
    for of in ("maxUnavailable", "breaker"):
        part = _part(form, of, old.get(of, {}))
        if part:
            spec[of] = part if without_none(merge_patch(old.get(of, {}), part)) else None
    if "spec.minSchedulable" in form:
        spec["minSchedulable"] = _number(form, "spec.minSchedulable")
    if "spec.domain" in form:
        spec["domain"] = form.get("spec.domain") or None
    if "spec.rates" in form:
        spec["rates"] = _rates(form.get("spec.rates", ""))
    if "spec.windows" in form:
        spec["windows"] = _windows(form, old.get("windows", [])) or None
    return spec


def without_none(value: Json) -> Json:
    """An object as a patch of it leaves it: without what is null."""
    return {k: without_none(v) if isinstance(v, dict) else v for k, v in value.items() if v is not None}


def wrong(*problems: tuple[str, str]) -> ApiError:
    """What cannot be read, each told at its field."""
    said = "; ".join(text for _, text in problems)
    return ApiError(422, "Invalid", said, {"causes": [{"field": field, "message": text} for field, text in problems]})


def _part(form: QueryDict, of: str, old: Json) -> Json:
    """The numbers of a part, its switch and what lies in it."""
    path = f"spec.{of}"
    part: Json = {key: _number(form, f"{path}.{key}") for key in _NUMBERS[of] if f"{path}.{key}" in form}
    if f"{path}.disabled" in form:
        part["disabled"] = True if form.get(f"{path}.disabled") else False if old.get("disabled") is False else None
    if of == "breaker":
        pods = _part(form, f"{of}.{PODS}", old.get(PODS, {}))
        if pods:
            part[PODS] = pods if without_none(merge_patch(old.get(PODS, {}), pods)) else None
    return part


def _number(form: QueryDict, field: str, told_at: str = "") -> int | float | None:
    """None = the field is empty. Whether a number is whole, and how much it may be, is the schema's to say."""
    text = form.get(field, "").strip().replace(",", "")
    if not text:
        return None
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        raise wrong((told_at or field, "It must be a number"))
    return float(text) if "." in text else int(text)


def _rates(text: str) -> list[Json] | None:
    out: list[Json] = []
    for line in filter(None, (part.strip() for part in text.splitlines())):
        match = re.fullmatch(r"(\S{1,63})\s*=\s*(\d{1,9})\s+in\s+(\d{1,9})\s*s?", line, re.ASCII)
        if match is None:
            raise wrong(("spec.rates", f"“{line[:60]}” is no line of the form Reboot = 20 in 600"))
        out.append({"verb": match[1], "count": int(match[2]), "windowSeconds": int(match[3])})
    return out or None


def _rows(form: QueryDict) -> list[int]:
    """Numbers of the rows that are there, in the order of the page."""
    return sorted(int(found[1]) for key in form if (found := _ROW.fullmatch(key)))


def _windows(form: QueryDict, old: Sequence[Json]) -> list[Json]:
    """The windows; what cannot be read of any of them is told at once."""
    out: list[Json] = []
    problems: list[tuple[str, str]] = []
    for index, row in enumerate(_rows(form)):
        try:
            out.append(_window(form, f"spec.windows[{row}]", f"spec.windows[{index}]", old))
        except ApiError as error:
            problems += [(cause["field"], cause["message"]) for cause in (error.details or {})["causes"]]
    if problems:
        raise wrong(*problems)
    return out


def _window(form: QueryDict, row: str, path: str, old: Sequence[Json]) -> Json:
    """One window. `row`: where it stands in the form, `path`: in the policy."""
    was = form.get(f"{row}.was", "")
    before = old[int(was)] if re.fullmatch(r"\d{1,4}", was, re.ASCII) and int(was) < len(old) else {}
    times = {key: _time(form.get(f"{row}.{key}", "")) for key in ("start", "end")}
    zone = form.get(f"{row}.timeZone", "").strip()
    problems = [(f"{path}.{key}", time[1]) for key, time in times.items() if time[1]] + [(f"{path}.timeZone", text) for text in _no_zone(zone)]  # fmt: skip
    try:
        jitter = _number(form, f"{row}.jitterMinutes", f"{path}.jitterMinutes")
    except ApiError:
        problems.append((f"{path}.jitterMinutes", "It must be a number"))
    if problems:
        raise wrong(*problems)
    start, end = times["start"][0], times["end"][0]
    said = {"start": start, "durationMinutes": windows.minutes_between(start, "00:00" if end == "24:00" else end), "timeZone": zone or None, "jitterMinutes": jitter}  # fmt: skip
    return without_none({**before, **said, "days": _days(form.getlist(f"{row}.days"), before.get("days"))})


def _days(chosen: Sequence[str], before: Any) -> list[str] | None:
    """In the order in which they were written, where they are the same."""
    if before is not None and set(before) == set(chosen):
        return list(before)
    return [day for day in DAYS if day in chosen] or None


def _time(text: str) -> tuple[str, str]:
    """(HH:MM, what is wrong with it)."""
    found = _TIME.fullmatch(text.strip())
    if not text.strip():
        return "", "It is needed, such as 22:30"
    if found is None or int(found[2]) > 59 or int(found[1]) * 60 + int(found[2]) > 1440:
        return "", "It must be a time of day such as 22:30"
    return f"{int(found[1]):02}:{found[2]}", ""


def _no_zone(zone: str) -> list[str]:
    """What is wrong with a time zone; nothing of one that there is."""
    if not zone or zone in available_timezones():
        return []
    near = get_close_matches(zone.replace(" ", "_").lower(), [z.lower() for z in windows.zones()], 1, 0.75)
    meant = next((z for z in windows.zones() if near and z.lower() == near[0]), "Europe/Berlin")
    return [f"“{zone[:64]}” is no time zone; {f'did you mean {meant}?' if near else f'write one such as {meant}'}"]
