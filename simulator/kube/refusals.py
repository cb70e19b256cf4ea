"""Refusals as kube-apiserver words them: code, reason, message and details. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.api.errors import ApiError
from simulator.kube.resources import Json, Resource

MODIFIED: Final = "the object has been modified; please apply your changes to the latest version and try again"
RETRY: Final = "Retry-After"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with an object. `message` comes after what the reason begins with: `Invalid value: ...`."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class Refusal(ApiError):
    """An answer that is no success. `metadata` is that of its Status (a continue token)."""

    metadata: Json | None = None

    def status(self) -> Json:
        """The Status; details are there even when empty, where kube-apiserver writes them so."""
        body = super().status()
        body["metadata"] = self.metadata or {}
        if not self.reason:
            del body["reason"]
        if self.details is not None and "details" not in body:
            body["details"] = {}
        return body


def _of(resource: Resource, name: str, kind: str) -> Json:
    group: Json = {"group": resource.group} if resource.group else {}
    return ({"name": name} if name else {}) | group | {"kind": kind}


def not_found(resource: Resource, name: str) -> Refusal:
    return Refusal(404, "NotFound", f'{resource.qualified} "{name}" not found', _of(resource, name, resource.plural))


def no_such_path() -> Refusal:
    return Refusal(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> Refusal:
    details = _of(resource, name, resource.plural)
    return Refusal(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', details)


def conflict(resource: Resource, name: str, why: str = MODIFIED) -> Refusal:
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return Refusal(409, "Conflict", message, _of(resource, name, resource.plural))


def precondition(resource: Resource, name: str, what: str, asked: str, there: str, then: str) -> Refusal:
    """A precondition of a DELETE does not hold; its details name the kind, not the resource."""
    why = f"the {what} in the precondition ({asked}) does not match the {what} in record ({there}). {then}"
    message = f'Operation cannot be fulfilled on {resource.qualified_kind} "{name}": {why}'
    return Refusal(409, "Conflict", message, _of(resource, name, resource.kind))


def apply_conflict(conflicts: Sequence[tuple[str, str]]) -> Refusal:
    """`conflicts`: (who, field) in order."""
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {w}", "field": f} for w, f in conflicts]
    if len(conflicts) == 1:
        text = f"Apply failed with 1 conflict: conflict with {conflicts[0][0]}: {conflicts[0][1]}"
    else:
        by_who: dict[str, list[str]] = {}
        for who, path in conflicts:
            by_who.setdefault(who, []).append(path)
        parts = [f"conflicts with {who}:\n" + "\n".join(f"- {p}" for p in paths) for who, paths in by_who.items()]
        text = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(parts)
    return Refusal(409, "Conflict", text, {"causes": causes})


_BEGIN: Final = {
    "FieldValueInvalid": "Invalid value",
    "FieldValueRequired": "Required value",
    "FieldValueNotSupported": "Unsupported value",
    "FieldValueForbidden": "Forbidden",
    "FieldValueDuplicate": "Duplicate value",
}


def invalid(resource: Resource, name: str, mistakes: Sequence[Mistake]) -> Refusal:
    text, causes = _causes(mistakes)
    details = _of(resource, name, resource.kind) | {"causes": causes}
    return Refusal(422, "Invalid", f'{resource.qualified_kind} "{name}" is invalid: {text}', details)


def must_name_version(resource: Resource, name: str) -> Refusal:
    """A PUT without resourceVersion where one is needed; told of the resource, not of the kind."""
    text, causes = _causes([Mistake("metadata.resourceVersion", "0: must be specified for an update")])
    details = _of(resource, name, resource.plural) | {"causes": causes}
    return Refusal(422, "Invalid", f'{resource.qualified} "{name}" is invalid: {text}', details)


def options_invalid(options: str, mistake: Mistake) -> Refusal:
    """A query parameter that is wrong: of `ListOptions`, `PatchOptions`."""
    text, causes = _causes([mistake])
    details: Json = {"group": "meta.k8s.io", "kind": options, "causes": causes}
    return Refusal(422, "Invalid", f'{options}.meta.k8s.io "" is invalid: {text}', details)


def _causes(mistakes: Sequence[Mistake]) -> tuple[str, list[Json]]:
    causes: list[Json] = []
    for each in mistakes:
        message = _BEGIN[each.reason] + (f": {each.message}" if each.message else "")
        causes.append({"reason": each.reason, "message": message, "field": each.field})
    texts = [f"{c['field']}: {c['message']}" for c in causes]
    return texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]", causes


def bad_request(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)


def rejected() -> Refusal:
    """A JSON patch that does not apply."""
    return Refusal(422, "Invalid", "the server rejected our request due to an error in our request", {})


def method_not_allowed() -> Refusal:
    text = "the server does not allow this method on the requested resource"
    return Refusal(405, "MethodNotAllowed", text, {})


def unsupported_media_type() -> Refusal:
    return Refusal(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})


def expired_page(go_on: str) -> Refusal:
    """410 of a continue token; the one in it goes on in the present."""
    text = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue "
        "parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided "
        "token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was "
        "returned and now may show up in the list."
    )
    out = Refusal(410, "Expired", text)
    out.metadata = {"continue": go_on}
    return out


def expired(what: str) -> Refusal:
    return Refusal(410, "Expired", f"The resourceVersion for the provided {what} is too old.")


def too_large(asked: int, current: int) -> Refusal:
    """A version that is not there yet."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return Refusal(504, "Timeout", text, {"causes": causes, "retryAfterSeconds": 1}, {RETRY: "1"})


def too_many(message: str, retry_seconds: int = 0, causes: Sequence[Json] = ()) -> Refusal:
    details: Json = ({"causes": list(causes)} if causes else {}) | (
        {"retryAfterSeconds": retry_seconds} if retry_seconds else {}
    )
    headers = {RETRY: str(retry_seconds)} if retry_seconds else {}
    return Refusal(429, "TooManyRequests", message, details, headers)


def terminating(namespace: str, resource: Resource, name: str) -> Refusal:
    """Nothing new goes into a namespace that is going."""
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    details = _of(resource, name, resource.plural) | {"causes": [cause]}
    return Refusal(403, "Forbidden", f'{resource.qualified} "{name}" is forbidden: {why}', details)


def ordered(code: int, retry_seconds: int) -> Refusal:
    """What a fault answers."""
    reasons = {
        429: "TooManyRequests",
        500: "InternalError",
        503: "ServiceUnavailable",
        401: "Unauthorized",
        403: "Forbidden",
        504: "Timeout",
    }
    details: Json = {"retryAfterSeconds": retry_seconds} if retry_seconds else {}
    headers = {RETRY: str(retry_seconds)} if retry_seconds else {}
    return Refusal(code, reasons.get(code, "Unknown"), f"{code} on order of the simulator", details, headers)
