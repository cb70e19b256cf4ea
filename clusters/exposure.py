"""How API servers of Fleet's making are reached: ports, and names in a meta cluster. Pure."""

from __future__ import annotations

from typing import Final

from fleet.control.kinds import Json, Problem

HOST_PORT: Final = "HostPort"
PORTS: Final = 6  # that the pods of a Hosted control plane take on their nodes, in a row
_OWN: Final = (20_000, 10_000)  # API servers without a port of their own: the first, and how many


def exposure_of(spec: Json) -> str:
    """How the API server is reached."""
    return str(spec.get("controlPlane", {}).get("exposure", {}).get("type") or HOST_PORT)


def namespace_of(name: str, spec: Json) -> str:
    """Hosted: the namespace in the meta cluster."""
    return str(spec.get("controlPlane", {}).get("namespace") or f"fleet-{name}"[:63].rstrip("-."))


def stable_port(spec: Json, uid: str) -> int:
    """The API server's port: as written, else the same for the same control plane for ever."""
    written = spec.get("controlPlane", {}).get("exposure", {}).get("port")
    return int(written) if written else _hashed_port(uid)


def base_port(spec: Json, uid: str) -> int:
    """Hosted: the first port that the pods take on their nodes; a Service in front may have another."""
    return stable_port(spec, uid) if exposure_of(spec) == HOST_PORT else _hashed_port(uid)


def _hashed_port(uid: str) -> int:
    return _OWN[0] + int(uid[:8], 16) % _OWN[1]


def problems(plane: Json) -> list[Problem]:
    """What a control plane of pods must say of its address."""
    exposure, at = plane.get("exposure", {}), "spec.controlPlane.exposure"
    out = []
    if not exposure.get("host"):
        out.append(
            Problem(f"{at}.host", "a Hosted cluster needs the name or address of its API server", "FieldValueRequired")
        )
    elif exposure["host"] == "localhost" or exposure["host"].startswith("127."):
        out.append(
            Problem(f"{at}.host", "loopback is another machine for each node; name an address that machines reach")
        )
    port, type_ = exposure.get("port"), exposure.get("type", HOST_PORT)
    if type_ == "NodePort" and (port is None or not 30_000 <= port <= 32_767):
        out.append(Problem(f"{at}.port", "a NodePort is one of 30000 to 32767"))
    if type_ == HOST_PORT and port is not None and port > 65_535 - PORTS + 1:
        out.append(Problem(f"{at}.port", "the five ports after it are taken as well"))
    return out
