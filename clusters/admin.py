"""Clusters and data centres, to look at."""

from __future__ import annotations

from django.contrib import admin

from clusters.models import Cluster, Idc
from fleet.control.admin import ReadOnlyObject

admin.site.register([Cluster, Idc], ReadOnlyObject)
