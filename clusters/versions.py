"""Versions of Kubernetes and etcd as numbers. Pure."""

from __future__ import annotations

import re


def minor_of(version: str) -> tuple[int, int]:
    """(1, 37) of "1.37.2" or "v1.37.2"; (0, 0) of what is no version."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def version_key(version: str) -> tuple[int, ...]:
    """Of "1.37.2" or "v1.37.2": numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def minor_text(version: str) -> str:
    """ "1.37" of "1.37.2"."""
    return ".".join(map(str, minor_of(version)))
