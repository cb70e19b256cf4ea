"""Clusters and data centres."""

from __future__ import annotations

from fleet.control.models import KubeObject


class Cluster(KubeObject):
    """A group of machines with common defaults; with a provider also a Kubernetes control plane."""


class Idc(KubeObject):
    """A data centre: mirrors, host CAs, limits of connections and downloads. Optional: an idc is first of all a name."""
