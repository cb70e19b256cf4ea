"""What a kind is: one schema drives OpenAPI, validation, pruning, server-side apply and Table for it.

Plain data, no Django. Each app declares its kinds in its `schema.py` and registers them in its `apps.py`; the API serves
whatever is registered. Schemas are structural OpenAPI 3.0 dictionaries with Kubernetes' `x-kubernetes-*` extensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

GROUP = "fleet.dev"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"

# Numbers of kinds in work_item, change, event and tombstone. Never reused.
MACHINE, CLUSTER, OPERATION, MACHINE_CLASS, PACKAGE_VERSION, CONFIG_VERSION = 1, 2, 3, 4, 5, 6
CREDENTIAL, HOLD, IDC, PERMIT, SAFETY_POLICY = 7, 8, 9, 10, 11
CLUSTER_PACKAGE_VERSION, READINESS_RULE = 12, 13
FAULT, FAULT_RULE, REMEDIATION, PLAYBOOK, SUBSCRIPTION = 14, 15, 16, 17, 18
OPERATION_BATCH = 19

Json = dict[str, Any]
Cell = str | int | None
Who = Literal["viewer", "operator", "approver", "admin"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; `value` gives the final text of the cell. Name and Age are added by the API."""

    name: str
    value: Callable[[Json, datetime], Cell]
    type: str = "string"
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why an object is refused; `reason` as in Status causes (FieldValueInvalid, FieldValueRequired, ...)."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


def no_problems(new: Json, old: Json | None) -> Sequence[Problem]:
    """The validation of a kind that has no rule beyond its schema."""
    return ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object. `writers` is the weakest role that may write it; `cluster_field` the spec field that scopes it."""

    kind: str
    plural: str
    singular: str
    spec: Json
    status: Json
    number: int = 0  # the `kind` column of work_item, change and event
    description: str = ""
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()  # field selectors beyond metadata.name: "spec.clusterName", "status.phase"
    cluster_field: str | None = None  # "spec.clusterName", "metadata.name"; None = fleet-wide kind
    writers: Who = "admin"
    read_only: bool = False  # served, never written by clients (Permit)
    immutable: bool = False  # spec cannot change after create
    write_only: tuple[str, ...] = ()  # "spec.data", "spec.secret": maps and texts whose values are never shown
    validate: Callable[[Json, Json | None], Sequence[Problem]] = no_problems
    warn: Callable[[Json], Sequence[str]] = lambda obj: ()  # sentences for Warning headers
    example: Json = field(default_factory=dict)  # a manifest for the OpenAPI page and docs/kinds

    def object_schema(self) -> Json:
        """The whole object's schema, with apiVersion, kind and metadata (metadata by reference to ObjectMeta)."""
        return {
            "type": "object",
            "description": self.description,
            "properties": {
                "apiVersion": {"type": "string", "description": "Always fleet.dev/v1."},
                "kind": {"type": "string", "description": f"Always {self.kind}."},
                "metadata": {
                    "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}],
                    "description": "Standard object metadata.",
                },
                "spec": self.spec,
                "status": self.status,
            },
            "x-kubernetes-group-version-kind": [{"group": GROUP, "kind": self.kind, "version": VERSION}],
        }


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known to the API; a second kind of the same plural is a bug."""
    known = _kinds.get(kind.plural)
    if known is not None and known is not kind:
        raise ValueError(f"two kinds want the plural {kind.plural!r}")
    _kinds[kind.plural] = kind
    return kind


def kinds() -> Mapping[str, Kind]:
    """All registered kinds by plural, in order of registration."""
    return dict(_kinds)


def by_kind(name: str) -> Kind | None:
    """The registered kind named `name` ("Machine"), or None."""
    return next((k for k in _kinds.values() if k.kind == name), None)
