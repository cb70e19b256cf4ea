"""What a client accepts and sends: Accept and Content-Type, as kubectl and client-go write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fleet.api.errors import not_acceptable, unsupported_media_type

Form = Literal["json", "yaml", "table", "partial", "partial-list", "discovery-v2", "discovery-v2beta1"]

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
BODIES = (JSON, YAML)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The form to answer in and its Content-Type."""

    form: Form
    content_type: str = JSON

    @property
    def is_yaml(self) -> bool:
        return self.form == "yaml"


def parse(header: str) -> list[tuple[str, dict[str, str]]]:
    """Media ranges in the order of the client's wish (by q, stable)."""
    out: list[tuple[float, int, str, dict[str, str]]] = []
    for index, part in enumerate(header.split(",")[:50]):
        name, *rest = (p.strip() for p in part.split(";"))
        parameters = dict(p.split("=", 1) for p in rest if "=" in p)
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        if name and quality > 0:
            out.append((-quality, index, name.lower(), parameters))
    return [(name, parameters) for _, _, name, parameters in sorted(out, key=lambda x: x[:2])]


def accept(header: str, *, discovery: bool = False) -> Accepted:
    """The first form that we can give; 406 when there is none. Protobuf is never given: typed clients list JSON too."""
    for name, parameters in parse(header or "*/*"):
        if name in ("*/*", "application/*"):
            return Accepted("json")
        if name == JSON:
            form = _json_form(parameters, discovery)
            if form is not None:
                return form
        if name == YAML and not parameters:
            return Accepted("yaml", YAML)
    raise not_acceptable((JSON, YAML))


def _json_form(parameters: dict[str, str], discovery: bool) -> Accepted | None:
    wanted = parameters.get("as")
    if wanted is None:
        return Accepted("json")
    group, version = parameters.get("g"), parameters.get("v")
    if wanted == "APIGroupDiscoveryList" and discovery and group == "apidiscovery.k8s.io":
        if version in ("v2", "v2beta1"):
            content = f"{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            return Accepted("discovery-v2" if version == "v2" else "discovery-v2beta1", content)
        return None
    if group != "meta.k8s.io" or version not in ("v1", "v1beta1") or discovery:
        return None
    if wanted == "Table":
        return Accepted("table")
    if wanted == "PartialObjectMetadata":
        return Accepted("partial")
    return Accepted("partial-list") if wanted == "PartialObjectMetadataList" else None


def body_type(header: str, allowed: tuple[str, ...]) -> str:
    """Content-Type of a write; absent means JSON. 415 names what is accepted."""
    name = header.split(";")[0].strip().lower() or allowed[0]
    if not header.strip():
        name = JSON if JSON in allowed else allowed[0]
    if name not in allowed:
        raise unsupported_media_type(allowed)
    return name
