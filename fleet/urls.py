"""All addresses of Fleet: the API first, then the console's pages."""

from __future__ import annotations

import importlib.util

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("", include("fleet.api.urls"))]
if importlib.util.find_spec("fleet.console.urls"):
    urlpatterns.append(path("", include("fleet.console.urls")))
handler400 = "fleet.api.answers.refused_early"
handler500 = "fleet.api.answers.failed_early"
