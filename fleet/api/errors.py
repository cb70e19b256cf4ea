"""Errors of the API as Kubernetes' `Status` objects. kubectl prints them by reason; for Invalid it prints the causes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleet.control.kinds import GROUP, VERSION, Json, Kind, Problem


class ApiError(Exception):
    """A refusal with an HTTP code; `status()` is the body."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = dict(headers or {})

    def status(self) -> Json:
        """The `Status` object."""
        body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        body["code"] = self.code
        return body


def _plural(kind: Kind, name: str | None) -> Json:
    out: Json = {"group": GROUP, "kind": kind.plural}
    if name:
        out["name"] = name
    return out


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.plural}.{GROUP} "{name}" not found', _plural(kind, name))


def already_exists(kind: Kind, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{kind.plural}.{GROUP} "{name}" already exists', _plural(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> ApiError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {kind.plural}.{GROUP} "{name}": {why}'
    return ApiError(409, "Conflict", message, _plural(kind, name))


def apply_conflict(conflicts: Sequence[tuple[str, str]]) -> ApiError:
    """`conflicts`: (who, dotted path), who as in `"kubectl-patch" using fleet.dev/v1`, in order."""
    by_manager: dict[str, list[str]] = {}
    for who, path in conflicts:
        by_manager.setdefault(who, []).append(path)
    total = len(conflicts)
    if total == 1:
        text = f"Apply failed with 1 conflict: conflict with {conflicts[0][0]}: {conflicts[0][1]}"
    else:
        parts = [
            f"conflicts with {who}:\n" + "\n".join(f"- {p}" for p in paths)
            if len(paths) > 1 or len(by_manager) > 1
            else ""
            for who, paths in by_manager.items()
        ]
        text = f"Apply failed with {total} conflicts: " + "\n".join(p for p in parts if p)
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {w}", "field": p} for w, p in conflicts]
    return ApiError(409, "Conflict", text, {"causes": causes})


def invalid(kind: Kind, name: str, problems: Sequence[Problem]) -> ApiError:
    # kubectl prints the causes, so each says by itself what kind of mistake it is.
    causes = [{"reason": p.reason, "message": _sentence(p), "field": p.field} for p in problems]
    texts = [f"{c['field']}: {c['message']}" for c in causes]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details: Json = ({"name": name} if name else {}) | {"group": GROUP, "kind": kind.kind, "causes": causes}
    return ApiError(422, "Invalid", f'{kind.kind}.{GROUP} "{name}" is invalid: {text}', details)


_PREFIXES = {
    "FieldValueInvalid": "Invalid value: ",
    "FieldValueRequired": "Required value: ",
    "FieldValueNotSupported": "Unsupported value: ",
    "FieldValueTypeInvalid": "Invalid value: ",
    "FieldValueDuplicate": "Duplicate value: ",
    "FieldValueForbidden": "Forbidden: ",
    "FieldValueTooLong": "Too long: ",
    "FieldValueTooMany": "Too many: ",
}


def _sentence(problem: Problem) -> str:
    prefix = _PREFIXES.get(problem.reason, "")
    return prefix + problem.message if problem.message else prefix.rstrip(": ")


def options_invalid(options: str, field: str, message: str, reason: str = "FieldValueInvalid") -> ApiError:
    """A bad query parameter of a write: kind PatchOptions, CreateOptions, ..."""
    message = _PREFIXES.get(reason, "") + message
    details: Json = {"group": "meta.k8s.io", "kind": options}
    details["causes"] = [{"reason": reason, "message": message, "field": field}]
    text = f'{options}.meta.k8s.io "" is invalid: {field}: {message}'
    return ApiError(422, "Invalid", text, details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def strict(kind: Kind, unknown: Iterable[str], duplicates: Iterable[str]) -> ApiError:
    found = [f'unknown field "{p}"' for p in sorted(unknown)] + [f'duplicate field "{p}"' for p in duplicates]
    what = f'{kind.kind} in version "{VERSION}" cannot be handled as a {kind.kind}'
    return bad_request(f"{what}: strict decoding error: {', '.join(found)}")


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized", headers={"WWW-Authenticate": 'Bearer realm="fleet"'})


def forbidden(user: str, verb: str, kind: Kind, name: str | None = None, why: str = "") -> ApiError:
    target = f'{kind.plural}.{GROUP} "{name}"' if name else f"{kind.plural}.{GROUP}"
    text = f'{target} is forbidden: User "{user}" cannot {verb} resource "{kind.plural}" in API group "{GROUP}" at the cluster scope'
    return ApiError(403, "Forbidden", text + (f": {why}" if why else ""), _plural(kind, name))


def method_not_allowed(method: str) -> ApiError:
    return ApiError(405, "MethodNotAllowed", f"the server does not allow {method} on this address")


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    text = f"only the following media types are accepted: {', '.join(accepted)}"
    return ApiError(406, "NotAcceptable", text)


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return ApiError(415, "UnsupportedMediaType", text)


def too_many_requests(message: str, retry_after: int) -> ApiError:
    details: dict[str, Any] = {"retryAfterSeconds": retry_after}
    return ApiError(429, "TooManyRequests", message, details, {"Retry-After": str(retry_after)})


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def unavailable(message: str, retry_after: int = 2) -> ApiError:
    details: dict[str, Any] = {"retryAfterSeconds": retry_after}
    return ApiError(503, "ServiceUnavailable", message, details, {"Retry-After": str(retry_after)})


def internal() -> ApiError:
    text = "an error on the server has prevented the request from succeeding; its log says more"
    return ApiError(500, "InternalError", text)
