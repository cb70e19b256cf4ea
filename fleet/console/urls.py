"""Addresses of the console."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from fleet.console import cluster_forms, forms, gate_rule_forms, pages, safety_forms
from fleet.console.kit import kit
from fleet.console.matching import matching_view
from fleet.console.page import page_view

urlpatterns = [
    path(
        "login", LoginView.as_view(template_name="console/login.html", redirect_authenticated_user=True), name="login"
    ),
    path("logout", LogoutView.as_view(next_page="/login"), name="logout"),
    path("", page_view(pages.overview), name="overview"),
    path("clusters", page_view(pages.clusters), name="clusters"),
    path("clusters/<str:name>", page_view(pages.cluster), name="cluster"),
    path("clusters/<str:name>/nodes", page_view(pages.nodes), name="cluster-nodes"),
    path("clusters/<str:name>/do", cluster_forms.cluster_do, name="cluster-do"),
    path("clusters/<str:name>/foresee", cluster_forms.cluster_foresee, name="cluster-foresee"),
    path("do/clusters", cluster_forms.clusters_do, name="clusters-do"),
    path("do/clusters/foresee", cluster_forms.clusters_foresee, name="clusters-foresee"),
    path("gates", page_view(pages.gate_rules), name="gates"),
    path("do/gates", gate_rule_forms.gate_rule_do, name="gates-do"),
    path("do/gates/foresee", gate_rule_forms.gate_rule_foresee, name="gates-foresee"),
    path("gates/<str:name>", page_view(pages.gate_rule), name="gate"),
    path("gates/<str:name>/do", gate_rule_forms.gate_rule_do, name="gate-do"),
    path("gates/<str:name>/foresee", gate_rule_forms.gate_rule_foresee, name="gate-foresee"),
    path("machines", page_view(pages.machines), name="machines"),
    path("do/machines", forms.machines_do, name="machines-do"),
    path("do/matching", matching_view, name="machines-matching"),
    path("machines/<str:name>/do", forms.machine_do, name="machine-do"),
    path("machines/<str:name>/foresee", forms.machine_plan, name="machine-foresee"),
    path("machines/<str:name>", page_view(pages.machine), name="machine"),
    path("machines/<str:name>/<str:tab>", page_view(pages.machine), name="machine-tab"),
    path("packages", page_view(pages.packages), name="packages"),
    path("safety", page_view(pages.safety), name="safety"),
    path("safety/do", safety_forms.safety_do, name="safety-do"),
    path("safety/foresee", safety_forms.safety_foresee, name="safety-foresee"),
    path("safety/<str:tab>", page_view(pages.safety), name="safety-tab"),
    path("events", page_view(pages.events), name="events"),
    path("audit", page_view(pages.audit), name="audit"),
    path("kit", page_view(kit), name="kit"),
]

# What a live connection may follow: the same builders by the same addresses.
LIVE = {
    "": pages.overview,
    "clusters": pages.clusters,
    "machines": pages.machines,
    "gates": pages.gate_rules,
    "safety": pages.safety,
    "events": pages.events,
}
