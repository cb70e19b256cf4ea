"""Addresses of the console."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from fleet.console import (
    batch_forms,
    cluster_forms,
    fault_forms,
    forms,
    gate_rule_forms,
    letter_pages,
    pages,
    policy_forms,
    rule_modes,
    safety_forms,
)
from fleet.console.kit import kit
from fleet.console.matching import matching_view
from fleet.console.page import Builder, page_view
from fleet.console.remediation_pages import evidence_view

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
    path("machines/<str:name>/report", fault_forms.report_do, name="machine-report"),
    path("machines/<str:name>/foresee", forms.machine_plan, name="machine-foresee"),
    path("machines/<str:name>", page_view(pages.machine), name="machine"),
    path("machines/<str:name>/<str:tab>", page_view(pages.machine), name="machine-tab"),
    path("batches", page_view(pages.batches), name="batches"),
    path("do/batches", batch_forms.batches_do, name="batches-do"),
    path("do/batches/foresee", batch_forms.batches_foresee, name="batches-foresee"),
    path("batches/<str:name>", page_view(pages.batch), name="batch"),
    path("batches/<str:name>/do", batch_forms.batch_do, name="batch-do"),
    path("packages", page_view(pages.packages), name="packages"),
    path("faults", page_view(pages.faults), name="faults"),
    path("do/faults", fault_forms.faults_do, name="faults-do"),
    path("faults/<str:name>", page_view(pages.fault), name="fault"),
    path("faults/<str:name>/do", fault_forms.fault_do, name="fault-do"),
    path("rules", page_view(pages.rules), name="rules"),
    path("rules/<str:name>", page_view(pages.rule), name="rule"),
    path("rules/<str:name>/foresee", rule_modes.rule_foresee, name="rule-foresee"),
    path("rules/<str:name>/do", fault_forms.rule_do, name="rule-do"),
    path("remediations", page_view(pages.remediations), name="remediations"),
    path("remediations/<str:name>", page_view(pages.remediation), name="remediation"),
    path("remediations/<str:name>/do", fault_forms.remediation_do, name="remediation-do"),
    path("remediations/<str:name>/evidence/<str:uid>/<str:step>", evidence_view, name="remediation-evidence"),
    path("playbooks", page_view(pages.playbooks), name="playbooks"),
    path("playbooks/<str:name>", page_view(pages.playbook), name="playbook"),
    path("safety", page_view(pages.safety), name="safety"),
    path("safety/do", safety_forms.safety_do, name="safety-do"),
    path("safety/foresee", safety_forms.safety_foresee, name="safety-foresee"),
    path("do/policies", policy_forms.policy_do, name="policies-do"),
    path("do/policies/foresee", policy_forms.policy_foresee, name="policies-foresee"),
    path("safety/policies/<str:name>", page_view(pages.policy), name="policy"),
    path("safety/policies/<str:name>/do", policy_forms.policy_do, name="policy-do"),
    path("safety/policies/<str:name>/foresee", policy_forms.policy_foresee, name="policy-foresee"),
    path("safety/<str:tab>", page_view(pages.safety), name="safety-tab"),
    path("events", page_view(pages.events), name="events"),
    path("events/dead-letters", page_view(pages.dead_letters), name="dead-letters"),
    path("do/letters", letter_pages.letters_do, name="letters-do"),
    path("events/readers", page_view(pages.readers), name="readers"),
    path("audit", page_view(pages.audit), name="audit"),
    path("kit", page_view(kit), name="kit"),
]

# What a live connection may follow: the same builders by the same addresses.
LIVE = {
    "": pages.overview,
    "clusters": pages.clusters,
    "machines": pages.machines,
    "batches": pages.batches,
    "gates": pages.gate_rules,
    "faults": pages.faults,
    "rules": pages.rules,
    "remediations": pages.remediations,
    "playbooks": pages.playbooks,
    "safety": pages.safety,
    "events": pages.events,
}
# The same of one object: by the first part of its address.
LIVE_ONE: dict[str, Builder] = {
    "clusters": pages.cluster,
    "batches": pages.batch,
    "gates": pages.gate_rule,
    "faults": pages.fault,
    "rules": pages.rule,
    "remediations": pages.remediation,
    "playbooks": pages.playbook,
    "safety": pages.safety,
}
