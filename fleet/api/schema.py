"""One schema, two readings: prune (what the kind does not know) and validate (what it does not allow)."""

from __future__ import annotations

import re
from typing import Any

import orjson

from fleet.api.errors import bad_request
from fleet.control.kinds import VERSION, Json, Kind, Problem
from fleet.control.times import parse_time

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_META_FIELDS = frozenset(
    [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "managedFields",
        "selfLink",
    ]
)
_META_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str, "generateName": str, "namespace": str, "uid": str, "resourceVersion": str, "generation": int,
    "creationTimestamp": str, "deletionTimestamp": str, "labels": dict, "annotations": dict, "finalizers": list,
    "ownerReferences": list, "managedFields": list, "selfLink": str, "deletionGracePeriodSeconds": int,
}  # fmt: skip
_NAMES = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def prune(kind: Kind, obj: Json) -> tuple[Json, list[str]]:
    """The object without fields that the schema does not know, and their paths. Known fields that are null are dropped."""
    unknown: list[str] = []
    out: Json = {}
    for key, value in obj.items():
        if key in ("spec", "status"):
            if value is not None:
                out[key] = _prune(kind.spec if key == "spec" else kind.status, value, key, unknown)
        elif key == "metadata" and value is not None:
            out[key] = _prune_metadata(kind, value, unknown)
        elif key == "metadata":
            continue
        elif key in ("apiVersion", "kind"):
            out[key] = value
        else:
            unknown.append(key)
    return out, unknown


def _prune_metadata(kind: Kind, value: Any, unknown: list[str]) -> Json:
    """Metadata of the right types; anything else cannot be read at all, so it is a 400 and not a 422."""

    def refuse(path: str, expected: str, found: Any) -> None:
        what = _NAMES.get(type(found), "null")
        why = f"{path} must be of type {expected}, not {what}"
        raise bad_request(f'{kind.kind} in version "{VERSION}" cannot be handled as a {kind.kind}: {why}')

    if not isinstance(value, dict):
        refuse("metadata", "object", value)
    out = {k: v for k, v in value.items() if k in _META_FIELDS and v is not None}
    unknown += [f"metadata.{k}" for k in value if k not in _META_FIELDS]
    for key, expected in _META_TYPES.items():
        if key in out and (not isinstance(out[key], expected) or isinstance(out[key], bool)):
            refuse(f"metadata.{key}", _type_name(expected), out[key])
    for key in ("labels", "annotations"):
        for name, text in out.get(key, {}).items():
            if text is not None and not isinstance(text, str):
                refuse(f"metadata.{key}[{name}]", "string", text)
        if key in out:  # null is the empty text here, as Kubernetes reads it
            out[key] = {name: text or "" for name, text in out[key].items()}
    return out


def _prune(schema: Json, value: Any, path: str, unknown: list[str]) -> Any:
    if isinstance(value, dict):
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return value
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties")
        out: Json = {}
        for key, child in value.items():
            inner = properties.get(key, extra if isinstance(extra, dict) else None)
            if inner is not None:
                if child is not None or inner.get("nullable"):
                    out[key] = _prune(inner, child, f"{path}.{key}", unknown)
            elif properties or extra is not None or schema.get("type") == "object":
                unknown.append(f"{path}.{key}")
            else:
                out[key] = child
        return out
    if isinstance(value, list) and "items" in schema:
        return [_prune(schema["items"], child, f"{path}[{i}]", unknown) for i, child in enumerate(value)]
    return value


def validate(kind: Kind, obj: Json, old: Json | None = None) -> list[Problem]:
    """Everything that is wrong with the object, by field. `old` is the object before an update."""
    problems = _metadata(obj.get("metadata", {}))
    if "spec" not in obj and kind.spec.get("required"):
        problems += [Problem(f"spec.{f}", "", "FieldValueRequired") for f in kind.spec["required"]]
    for part, schema in (("spec", kind.spec), ("status", kind.status)):
        if part in obj:
            _check(schema, obj[part], part, problems)
    if problems:
        return problems
    if old is not None and kind.immutable and obj.get("spec") != old.get("spec"):
        problems.append(
            Problem("spec", f"a {kind.kind} never changes; make a new one under another name", "FieldValueForbidden")
        )
    problems += kind.validate(obj, old)
    return problems


def shape_problems(kind: Kind, config: Json) -> list[Problem]:
    """What keeps an applied configuration from being merged: wrong types and items that stand twice. It may be partial."""
    problems: list[Problem] = []
    for part, schema in (("spec", kind.spec), ("status", kind.status)):
        if part in config:
            _check(schema, config[part], part, problems)
    return [p for p in problems if p.reason in ("FieldValueTypeInvalid", "FieldValueDuplicate")]


def _show(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= 200 else text[:200] + "…"


def _metadata(meta: Any) -> list[Problem]:
    if not isinstance(meta, dict):
        return [Problem("metadata", "must be an object", "FieldValueTypeInvalid")]
    problems: list[Problem] = []
    for key, expected in _META_TYPES.items():
        if key in meta and (not isinstance(meta[key], expected) or isinstance(meta[key], bool)):
            problems.append(
                Problem(f"metadata.{key}", f"must be of type {_type_name(expected)}", "FieldValueTypeInvalid")
            )
    if problems:
        return problems
    name = meta.get("name", "")
    if not name and not meta.get("generateName"):
        problems.append(Problem("metadata.name", "name or generateName is required", "FieldValueRequired"))
    if name and (len(name) > 253 or not NAME.fullmatch(name)):
        problems.append(Problem("metadata.name", f"{_show(name)}: {_NAME_RULE}"))
    prefix = meta.get("generateName", "")
    if not name and prefix and (len(prefix) > 247 or not NAME.fullmatch(prefix.rstrip("-.") or "-")):
        problems.append(Problem("metadata.generateName", f"{_show(prefix)}: {_NAME_RULE}"))
    problems += _labels(meta.get("labels", {})) + _annotations(meta.get("annotations", {}))
    for finalizer in meta.get("finalizers", []):
        if not isinstance(finalizer, str) or not is_qualified_name(finalizer):
            problems.append(Problem("metadata.finalizers", f"{_show(finalizer)}: {_key_rule(str(finalizer))}"))
    return problems


_SUBDOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def _key_rule(key: str) -> str:
    """What is wrong with a key that is no qualified name."""
    prefix, slash, _ = key.rpartition("/")
    return f"prefix part {_NAME_RULE}" if slash and not NAME.fullmatch(prefix) else _KEY_RULE


def _value_rule(value: str) -> str:
    return "must be no more than 63 bytes" if len(value) > 63 else _VALUE_RULE


def _type_name(expected: type | tuple[type, ...]) -> str:
    return _NAMES[expected] if isinstance(expected, type) else "/".join(_NAMES[t] for t in expected)


def is_label_value(value: str) -> bool:
    """At most 63 characters, alphanumeric at both ends, or empty."""
    return bool(_LABEL_VALUE.fullmatch(value))


def is_qualified_name(key: str) -> bool:
    """`name` or `prefix/name`, as keys of labels and annotations and finalizers are."""
    prefix, slash, name = key.rpartition("/")
    return bool(_LABEL_NAME.fullmatch(name)) and (not slash or (len(prefix) <= 253 and bool(NAME.fullmatch(prefix))))


def _labels(labels: dict[str, Any]) -> list[Problem]:
    problems = []
    for key, value in labels.items():
        if not is_qualified_name(key):
            problems.append(Problem("metadata.labels", f"{_show(key)}: {_key_rule(key)}"))
        elif not isinstance(value, str) or not is_label_value(value):
            problems.append(Problem("metadata.labels", f"{_show(value)}: {_value_rule(str(value))}"))
    return problems


def _annotations(annotations: dict[str, Any]) -> list[Problem]:
    problems = []
    size = 0
    for key, value in annotations.items():
        if not is_qualified_name(key.lower()):
            problems.append(Problem("metadata.annotations", f"{_show(key)}: {_key_rule(key.lower())}"))
        elif not isinstance(value, str):
            problems.append(Problem(f"metadata.annotations[{key}]", "must be a string", "FieldValueTypeInvalid"))
        else:
            size += len(key.encode()) + len(value.encode())
    if size > 256 * 1024:
        problems.append(Problem("metadata.annotations", "may not be more than 262144 bytes", "FieldValueTooLong"))
    return problems


def _check(schema: Json, value: Any, path: str, problems: list[Problem]) -> None:
    options = schema.get("anyOf")
    if options:
        if not any(_type_fits(o.get("type", ""), value) for o in options):
            names = " or ".join(o.get("type", "") for o in options)
            problems.append(Problem(path, f"{_show(value)}: must be of type {names}", "FieldValueTypeInvalid"))
            return
        schema = next(o for o in options if _type_fits(o.get("type", ""), value)) | {
            k: v for k, v in schema.items() if k != "anyOf"
        }
    expected = schema.get("type")
    if expected and not options and not _type_fits(expected, value):
        what = _show(_NAMES.get(type(value), "null"))
        problems.append(
            Problem(path, f"{what}: {path} in body must be of type {expected}: {what}", "FieldValueTypeInvalid")
        )
        return
    if isinstance(value, dict):
        _check_object(schema, value, path, problems)
    elif isinstance(value, list):
        _check_list(schema, value, path, problems)
    elif isinstance(value, str):
        _check_string(schema, value, path, problems)
    elif not isinstance(value, bool) and isinstance(value, int | float):
        _check_number(schema, value, path, problems)
    if "enum" in schema and value not in schema["enum"]:
        names = ", ".join(f'"{e}"' for e in schema["enum"])
        problems.append(Problem(path, f"{_show(value)}: supported values: {names}", "FieldValueNotSupported"))


def _type_fits(expected: str, value: Any) -> bool:
    if expected == "object":
        return isinstance(value, dict)
    if expected == "array":
        return isinstance(value, list)
    if expected == "string":
        return isinstance(value, str)
    if expected == "boolean":
        return isinstance(value, bool)
    if expected == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if expected == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return True


def _check_object(schema: Json, value: Json, path: str, problems: list[Problem]) -> None:
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if value.get(key) is None:
            problems.append(Problem(f"{path}.{key}", "", "FieldValueRequired"))
    if len(value) > schema.get("maxProperties", 10_000):
        problems.append(
            Problem(
                path,
                f"{len(value)}: must have at most {schema.get('maxProperties', 10_000)} items",
                "FieldValueTooMany",
            )
        )
    keys = schema.get("x-fleet-keys")
    extra = schema.get("additionalProperties")
    for key, child in value.items():
        inner = properties.get(key)
        if inner is None and isinstance(extra, dict):
            inner = extra
            if keys and not re.fullmatch(keys, key):
                problems.append(Problem(f"{path}[{key}]"[:300], f"{_show(key)}: the key must match {keys}"))
                continue
        if inner is not None and child is not None:
            _check(inner, child, f"{path}.{key}" if key in properties else f"{path}[{key}]", problems)


def _check_list(schema: Json, value: list[Any], path: str, problems: list[Problem]) -> None:
    if len(value) > schema.get("maxItems", 10_000):
        problems.append(
            Problem(
                path, f"{len(value)}: must have at most {schema.get('maxItems', 10_000)} items", "FieldValueTooMany"
            )
        )
        return
    if len(value) < schema.get("minItems", 0):
        problems.append(Problem(path, f"must have at least {schema['minItems']} items"))
    before = len(problems)
    for index, child in enumerate(value):
        _check(schema.get("items", {}), child, f"{path}[{index}]", problems)
    if len(problems) > before:
        return
    kind = schema.get("x-kubernetes-list-type")
    seen: set[str] = set()
    for index, child in enumerate(value):
        if kind == "map":
            key = repr({k: child.get(k) for k in schema["x-kubernetes-list-map-keys"]})
        elif kind == "set":
            key = repr(child)
        else:
            return
        if key in seen:
            shown = {k: child.get(k) for k in schema["x-kubernetes-list-map-keys"]} if kind == "map" else child
            problems.append(Problem(f"{path}[{index}]", _show(shown), "FieldValueDuplicate"))
        seen.add(key)


def _check_string(schema: Json, value: str, path: str, problems: list[Problem]) -> None:
    limit = schema.get("maxLength", 65_536)
    if len(value) > limit:
        problems.append(Problem(path, f"may not be more than {limit} bytes", "FieldValueTooLong"))
    elif len(value) < schema.get("minLength", 0):
        problems.append(
            Problem(path, f"{_show(value)}: {path} in body should be at least {schema['minLength']} chars long")
        )
    elif schema.get("format") == "date-time" and "pattern" not in schema and not parse_time(value):
        # A kind that brings a pattern has a rule of its own for the time, in words of its own.
        text = f"{_show(value)}: {path} in body must be of type date-time: {_show(value)}"
        problems.append(Problem(path, text, "FieldValueTypeInvalid"))
    elif "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        why = schema.get("x-fleet-pattern-means", f"{path} in body should match '{schema['pattern']}'")
        problems.append(Problem(path, f"{_show(value)}: {why}"))


def _check_number(schema: Json, value: float, path: str, problems: list[Problem]) -> None:
    if "minimum" in schema and value < schema["minimum"]:
        problems.append(
            Problem(path, f"{value}: {path} in body should be greater than or equal to {schema['minimum']}")
        )
    if "maximum" in schema and value > schema["maximum"]:
        problems.append(Problem(path, f"{value}: {path} in body should be less than or equal to {schema['maximum']}"))
