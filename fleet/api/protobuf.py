"""Reads the protobuf bodies that kubectl insists on for `auth can-i` and `auth whoami`; answers are JSON.

Wire format: `k8s\\0`, then runtime.Unknown {1: TypeMeta {1: apiVersion, 2: kind}, 2: raw}.
"""

from __future__ import annotations

from fleet.api.errors import bad_request
from fleet.control.kinds import Json

MAGIC = b"k8s\x00"
_ATTRIBUTES = {1: "namespace", 2: "verb", 3: "group", 4: "version", 5: "resource", 6: "subresource", 7: "name"}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise bad_request("the protobuf body is truncated")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> dict[int, bytes]:
    """Length-delimited fields by number (the last wins); other wire types are skipped."""
    out: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise bad_request("the protobuf body is truncated")
            out[number] = data[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise bad_request(f"the protobuf body holds wire type {wire}, which nothing here has")
    return out


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise bad_request("the protobuf body holds text that is not UTF-8") from None


def decode_review(data: bytes) -> Json:
    """A SelfSubjectReview, SelfSubjectAccessReview or SelfSubjectRulesReview as the JSON it would have been."""
    if not data.startswith(MAGIC):
        raise bad_request("the body is no Kubernetes protobuf message")
    unknown = _fields(data[len(MAGIC) :])
    meta = {number: _text(value) for number, value in _fields(unknown.get(1, b"")).items()}
    out: Json = {"apiVersion": meta.get(1, ""), "kind": meta.get(2, "")}
    spec = _fields(_fields(unknown.get(2, b"")).get(2, b""))
    if out["kind"] == "SelfSubjectRulesReview":
        out["spec"] = {"namespace": _text(spec.get(1, b""))}
    elif out["kind"] == "SelfSubjectAccessReview":
        out["spec"] = {}
        if 1 in spec:
            out["spec"]["resourceAttributes"] = {
                _ATTRIBUTES[n]: _text(v) for n, v in _fields(spec[1]).items() if n in _ATTRIBUTES
            }
        if 2 in spec:
            names = {1: "path", 2: "verb"}
            out["spec"]["nonResourceAttributes"] = {
                names[n]: _text(v) for n, v in _fields(spec[2]).items() if n in names
            }
    return out
