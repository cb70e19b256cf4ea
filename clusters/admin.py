"""Clusters and data centres, to look at."""

from __future__ import annotations

from django.contrib import admin

from clusters.models import Cluster, ClusterPackageVersion, Idc
from fleet.control.admin import ReadOnlyObject

admin.site.register([Cluster, ClusterPackageVersion, Idc], ReadOnlyObject)
